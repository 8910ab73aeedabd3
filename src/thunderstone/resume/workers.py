"""The random state of persistent workers, whose history reaches further back than the present epoch.

A worker that ends with its epoch is seeded by its iterator, so the state in which that was made determines everything
it draws. A persistent worker goes on with the state the last epoch left. Each one therefore writes its state to shared
memory when an epoch begins, and starts from a written state after a resume.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import _DatasetKind, get_worker_info

from thunderstone.errors import ResumeError
from thunderstone.random_state import RandomState
from thunderstone.resume.generators import generator_state, held_generators, set_generator_state

# A worker's state is about 20 KiB; the rest is for the generators its dataset holds.
_CAPACITY = 128 * 1024
_PATIENCE = 60.0


def _shared(*shape: int, dtype: torch.dtype) -> Tensor:
    memory = torch.zeros(shape, dtype=dtype)
    shared: Tensor = memory.share_memory_()
    return shared


class WorkerBoard:
    """Shared memory to which every worker of one loader writes its random state when it begins an epoch.

    Args:
        num_workers: How many workers write.
    """

    def __init__(self, num_workers: int) -> None:
        self.epochs = _shared(num_workers, dtype=torch.int64)
        self._sizes = _shared(num_workers, dtype=torch.int64)
        self._states = _shared(num_workers, _CAPACITY, dtype=torch.uint8)

    def write(self, worker: int, state: dict[str, Any]) -> None:
        """Called in a worker. A state that does not fit is left out, and `read` says so."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        written = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        self._sizes[worker] = written.numel() if written.numel() <= _CAPACITY else 0
        if written.numel() <= _CAPACITY:
            self._states[worker, : written.numel()] = written
        self.epochs[worker] += 1

    def read(self, epochs: int) -> list[dict[str, Any] | None]:
        """The state of every worker at the beginning of the epoch that is their `epochs`-th, waiting for it if needed.

        Raises:
            ResumeError: A worker has not begun that epoch after a minute.
        """
        deadline = time.monotonic() + _PATIENCE
        while bool((self.epochs < epochs).any()):
            if time.monotonic() > deadline:
                raise ResumeError(
                    f"ExactResume: persistent workers have not begun epoch {epochs} after {_PATIENCE:.0f} s, so their "
                    "random state cannot be saved. HINT: use persistent_workers=False, or leave ExactResume out with "
                    "ExactResume(enabled=False)"
                )
            time.sleep(0.001)
        states: list[dict[str, Any] | None] = []
        for worker, size in enumerate(self._sizes.tolist()):
            stored = io.BytesIO(self._states[worker, :size].numpy().tobytes())
            states.append(torch.load(stored, weights_only=True) if size else None)
        return states


class WorkerStart:
    """A `worker_init_fn` around the user's own one: reports a worker's random state every epoch, and restores it once.

    Args:
        user_function: The loader's own `worker_init_fn`.
        board: Where the worker reports to.
        states: The random state each worker is put into; None leaves the one it was seeded with.
        epoch: At the beginning of which of its epochs, from 1.
    """

    def __init__(
        self,
        user_function: Callable[[int], None] | None,
        board: WorkerBoard,
        states: list[dict[str, Any] | None] | None = None,
        epoch: int = 1,
    ) -> None:
        self.user_function, self.board, self.states, self.epoch = user_function, board, states, epoch

    def __call__(self, worker: int) -> None:
        if self.user_function is not None:
            self.user_function(worker)
        info = get_worker_info()
        dataset = info.dataset if info is not None else None
        # A worker calls nothing of the user's at the beginning of an epoch; it makes a new fetcher. This is the
        # worker's own process: nothing has to be undone.
        create: Callable[..., Any] = _DatasetKind.create_fetcher
        kind: Any = _DatasetKind

        def create_fetcher(kind: Any, of: Any, *rest: Any) -> Any:
            if of is dataset:
                self._begin_epoch(worker, dataset)
            return create(kind, of, *rest)

        kind.create_fetcher = staticmethod(create_fetcher)

    def _begin_epoch(self, worker: int, dataset: Any) -> None:
        self.epoch -= 1
        state = self.states[worker] if self.states is not None and self.epoch == 0 else None
        if state is not None:
            _set_worker_state(dataset, state)
        self.board.write(worker, _worker_state(dataset))


def _worker_state(dataset: Any) -> dict[str, Any]:
    held = held_generators({"dataset": dataset})
    return {
        "random": RandomState().state_dict(),
        "held": {path: generator_state(found) for path, found in held.items()},
    }


def _set_worker_state(dataset: Any, state: dict[str, Any]) -> None:
    RandomState.from_state_dict(state["random"]).restore()
    for path, found in held_generators({"dataset": dataset}).items():
        if path in state["held"]:
            set_generator_state(found, state["held"][path])


def is_persistent(loader: Any) -> bool:
    """Whether a loader keeps its workers from one epoch to the next."""
    return bool(getattr(loader, "persistent_workers", False)) and getattr(loader, "num_workers", 0) > 0


def seed_state(loader: Any) -> Tensor:
    """The state of the generator from which a loader draws the seed of its workers."""
    return (loader.generator or torch.default_generator).get_state()


@contextmanager
def reporting_workers(
    loader: Any, board: WorkerBoard, states: list[dict[str, Any] | None] | None = None, epoch: int = 1
) -> Iterator[None]:
    """Workers that a loader starts inside report to a board; for the rest see `WorkerStart`."""
    own = loader.worker_init_fn
    loader.worker_init_fn = WorkerStart(own, board, states, epoch)
    try:
        yield
    finally:
        loader.worker_init_fn = own


def set_seed_state(loader: Any, state: Tensor) -> None:
    """Let a loader draw the seed of its workers from where `seed_state` was."""
    (loader.generator or torch.default_generator).set_state(state.cpu())

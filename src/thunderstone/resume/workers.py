"""The random state of persistent workers, whose history reaches further back than the present epoch.

A worker that ends with its epoch is seeded by its iterator, so the state in which that was made determines everything
it draws. A persistent worker goes on with the state the last epoch left. Each one therefore writes its state to shared
memory when an epoch begins, and starts from a written state after a resume.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import get_worker_info

from thunderstone.errors import ResumeError
from thunderstone.random_state import RandomState
from thunderstone.resume.generators import generator_state, held_generators, set_generator_state

# A worker's state is about 20 KiB; the rest is for the generators its dataset holds.
_CAPACITY = 128 * 1024
_PATIENCE = 60.0


class WorkerBoard:
    """Shared memory to which every worker of one loader writes its random state when it begins an epoch.

    Args:
        num_workers: How many workers write.
    """

    def __init__(self, num_workers: int) -> None:
        self.epochs = torch.zeros(num_workers, dtype=torch.int64).share_memory_()
        self._sizes = torch.zeros(num_workers, dtype=torch.int64).share_memory_()
        self._states = torch.zeros(num_workers, _CAPACITY, dtype=torch.uint8).share_memory_()

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
    """A `worker_init_fn` around the user's own one: restores a worker's random state and reports it every epoch.

    Args:
        user_function: The loader's own `worker_init_fn`.
        board: Where the worker reports to.
        states: The random state each worker starts from; None leaves the one it was seeded with.
    """

    def __init__(
        self,
        user_function: Callable[[int], None] | None,
        board: WorkerBoard,
        states: list[dict[str, Any] | None] | None,
    ) -> None:
        self.user_function, self.board, self.states = user_function, board, states

    def __call__(self, worker: int) -> None:
        if self.user_function is not None:
            self.user_function(worker)
        info = get_worker_info()
        dataset = info.dataset if info is not None else None
        state = self.states[worker] if self.states is not None else None
        if state is not None:
            _set_worker_state(dataset, state)
        self._report_every_epoch(worker, dataset)

    def _report_every_epoch(self, worker: int, dataset: Any) -> None:
        # A worker calls nothing of the user's at the beginning of an epoch; it makes a new fetcher. This is the
        # worker's own process: nothing has to be undone.
        from torch.utils.data import _DatasetKind

        create: Callable[..., Any] = _DatasetKind.create_fetcher
        board = self.board

        def create_fetcher(kind: Any, of: Any, *rest: Any) -> Any:
            if of is dataset:
                board.write(worker, _worker_state(dataset))
            return create(kind, of, *rest)

        vars_of_kind: Any = _DatasetKind
        vars_of_kind.create_fetcher = staticmethod(create_fetcher)


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


def start_workers(
    loader: Any, board: WorkerBoard, states: list[dict[str, Any] | None] | None, iterate: Callable[[], Any]
) -> Any:
    """Make a loader's iterator with workers that report to a board and start from the given states."""
    own = loader.worker_init_fn
    loader.worker_init_fn = WorkerStart(own, board, states)
    try:
        return iterate()
    finally:
        loader.worker_init_fn = own

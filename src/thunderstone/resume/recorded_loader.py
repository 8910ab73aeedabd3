"""One loader of a run: how its present iterator began, and how to get another one to the same place."""

from __future__ import annotations

import weakref
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from thunderstone import lightning_private
from thunderstone.resume.fast_forward import (
    advance,
    before_first_draw,
    indices_decide,
    is_stateful,
    loads_in_process,
    restores_itself,
    skipping,
)
from thunderstone.resume.loader_random_state import LoaderRandomState, held_states, sampler_numbers
from thunderstone.resume.workers import WorkerBoard, is_persistent, reporting_workers, seed_state, set_seed_state


@dataclass
class Opening:
    """What the iterators of one round begin from.

    Attributes:
        epoch: The epoch Lightning has told the samplers.
        reload_consumed: Whether workers load the consumed batches again.
        distributed: Whether every rank has loaders of its own.
        notes: Where reasons are put why the resumed run may differ.
        iterator: What the combined loader iterates with, once it is made. Not held: its workers end with it.
    """

    epoch: int
    reload_consumed: bool
    distributed: bool
    notes: list[str] = field(default_factory=list)
    iterator: weakref.ref[Any] | None = None

    def position(self) -> int:
        """The number of combined batches so far: a loader that ran out is begun again in mid-epoch."""
        iterator = self.iterator() if self.iterator is not None else None
        return lightning_private.position(iterator) if iterator is not None else 0


class RecordedLoader:
    """Stands for a loader inside a CombinedLoader's iterator, and writes down how each of its iterators began.

    Args:
        loader: The loader.
        opening: What this round begins from.
        earlier: The stand-in of the round before; persistent workers go on from one to the next.
    """

    def __init__(self, loader: Any, opening: Opening, earlier: RecordedLoader | None) -> None:
        self.loader = loader
        self._opening = opening
        self._opened: LoaderRandomState | None = None
        self._drawn: LoaderRandomState | None = None
        self._epoch = opening.epoch
        self._since = 0
        self._board: WorkerBoard | None = None
        self._worker_epochs = 0
        self._worker_seed: Tensor | None = None
        self._continues = False
        self._saved: dict[str, Any] | None = None
        if earlier is not None and earlier.loader is loader:
            self._board, self._worker_epochs = earlier._board, earlier._worker_epochs
            self._worker_seed = earlier._worker_seed

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Any:
        if self._saved is not None:
            saved, self._saved = self._saved, None
            return self._reopen(saved)
        self._opened, self._drawn = LoaderRandomState(self.loader), None
        self._epoch, self._since = self._opening.epoch, self._opening.position()
        iterator = self._open()
        self._watch_first_draw(iterator)
        return iterator

    def resume_from(self, saved: dict[str, Any]) -> None:
        """Let the next iterator be the one that was saved, at the place where it was."""
        self._saved = saved

    def state_dict(self, position: int) -> dict[str, Any]:
        """How the present iterator began and how far it is.

        Args:
            position: The number of combined batches to count as consumed.
        """
        return {
            "opened": self._opened.state_dict() if self._opened is not None else None,
            "drawn": self._drawn.state_dict() if self._drawn is not None else None,
            "consumed": max(position - self._since, 0),
            "since": self._since,
            "epoch": self._epoch,
            "workers": self._board.read(self._worker_epochs) if self._board is not None else None,
            "worker_seed": self._worker_seed,
            "continues": self._continues,
            "num_workers": getattr(self.loader, "num_workers", 0),
            "persistent": is_persistent(self.loader),
            "own": self.loader.state_dict() if self._opening.distributed and is_stateful(self.loader) else None,
            "held": held_states(self.loader),
            "numbers": sampler_numbers(self.loader),
        }

    def must_store_what_is_ahead(self) -> bool:
        """Whether a batch that was fetched and not trained on cannot simply be fetched again."""
        return loads_in_process(self.loader) or restores_itself(self.loader, self._opening.reload_consumed)

    def _watch_first_draw(self, iterator: Any) -> None:
        if loads_in_process(self.loader) and hasattr(iterator, "_sampler_iter"):
            before_first_draw(iterator, self._note_draw)

    def _note_draw(self) -> None:
        self._drawn = LoaderRandomState(self.loader)

    def _open(self) -> Any:
        if not is_persistent(self.loader):
            return iter(self.loader)
        self._continues = self._board is not None and getattr(self.loader, "_iterator", None) is not None
        if self._continues:
            self._worker_epochs += 1
            return iter(self.loader)
        self._board, self._worker_epochs = WorkerBoard(self.loader.num_workers), 1
        self._worker_seed = seed_state(self.loader)
        with reporting_workers(self.loader, self._board):
            return iter(self.loader)

    def _reopen(self, saved: dict[str, Any]) -> Any:
        loader, consumed, opening = self.loader, saved["consumed"], self._opening
        self._epoch, self._since = saved["epoch"], saved["since"]
        if saved["opened"] is None:
            return self._open()
        self._opened = LoaderRandomState.from_state_dict(saved["opened"])
        self._drawn = LoaderRandomState.from_state_dict(saved["drawn"]) if saved["drawn"] is not None else None
        lightning_private.set_sampler_epoch(loader, saved["epoch"])
        self._opened.restore(loader)
        if restores_itself(loader, opening.reload_consumed):
            if saved["own"] is not None:
                loader.load_state_dict(saved["own"])
            return iter(loader)
        if not isinstance(loader, DataLoader) or loader.num_workers == 0:
            return self._reopen_in_process(consumed)
        by_index = not opening.reload_consumed and indices_decide(loader)
        iterator = self._reopen_workers(saved, consumed if by_index else 0)
        if not by_index:
            advance(loader, iterator, consumed)
        return iterator

    def _reopen_in_process(self, consumed: int) -> Any:
        loader = self.loader
        iterator = iter(loader)
        if self._drawn is None:
            self._watch_first_draw(iterator)
        else:
            self._drawn.restore(loader)
        if advance(loader, iterator, consumed):
            self._opening.notes.append(
                f"the {type(loader).__name__} draws random numbers of the training process while it iterates; if these "
                "decide which samples come next, their order is another one (let the sampler or dataset draw from a "
                "generator of its own)"
            )
        return iterator

    def _reopen_workers(self, saved: dict[str, Any], skip: int) -> Any:
        loader = self.loader
        name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._continues, self._worker_seed = saved["continues"], saved["worker_seed"]
        if not is_persistent(loader) or saved["workers"] is None:
            with skipping(loader, name, skip) if skip else nullcontext():
                iterator = iter(loader)
        elif not self._continues:
            self._board, self._worker_epochs = WorkerBoard(loader.num_workers), 1
            reporting = reporting_workers(loader, self._board, saved["workers"])
            with reporting, skipping(loader, name, skip) if skip else nullcontext():
                iterator = iter(loader)
        else:
            # Their first epoch gives them the seed they once began with; with the second they go on as they did.
            self._board, self._worker_epochs = WorkerBoard(loader.num_workers), 2
            set_seed_state(loader, saved["worker_seed"])
            with reporting_workers(loader, self._board, saved["workers"], epoch=2):
                iterator = iter(loader)
            assert self._opened is not None
            self._opened.restore(loader)
            with skipping(iterator, "_index_sampler", skip) if skip else nullcontext():
                iterator = iter(loader)
        if skip:
            iterator._index_sampler = getattr(loader, name)
            iterator._num_yielded = skip
        return iterator

"""Where a run is in its data, and how to get there again."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.combined_loader import CombinedLoader

from thunderstone import lightning_private
from thunderstone.random_state import RandomState
from thunderstone.resume.fast_forward import is_stateful
from thunderstone.resume.loader_random_state import set_held_states, set_sampler_numbers
from thunderstone.resume.portable import is_portable
from thunderstone.resume.recorded_loader import Opening, RecordedLoader
from thunderstone.resume.workers import is_persistent


class LoaderRecorder:
    """Watches the training loaders of one fit, and restores them in another.

    Args:
        trainer: The Trainer.
        reload_consumed: Whether workers load the consumed batches again after a resume, so that what they draw at
            random goes on where it was.
    """

    def __init__(self, trainer: Trainer, reload_consumed: bool) -> None:
        self.notes: list[str] = []
        self._trainer = trainer
        self._reload_consumed = reload_consumed
        self._loaders: list[RecordedLoader] = []
        self._asked: RandomState | None = None
        self._requested: RandomState | None = None
        self._combined: CombinedLoader | None = None
        self._plain_class: type | None = None
        self._saved: dict[str, Any] | None = None
        self._goes_on = False
        self._mismatch = False
        self._own_states: list[dict[str, Any]] = []
        self._prefetch: int | None = None
        self._last: dict[str, Any] | None = None
        self._stop_watching: Callable[[], None] = lightning_private.watch_train_loader(
            trainer, self._note_request, self._loader_is_ready
        )

    def stop(self) -> None:
        """Take everything off the Trainer and its loader. What was written down stays readable."""
        self._stop_watching()
        self._release_loader()

    # -- while a run goes on -------------------------------------------------------------------------------------------

    def _note_request(self) -> None:
        self._asked = RandomState()

    def _loader_is_ready(self, combined: CombinedLoader) -> None:
        self._release_loader()
        self._requested, self._loaders = self._asked, []
        self._combined, self._plain_class = combined, type(combined)
        combined.__class__ = self._recording_class(self._plain_class)

    def _release_loader(self) -> None:
        if self._combined is not None and self._plain_class is not None:
            self._combined.__class__ = self._plain_class
        self._plain_class = None

    def _recording_class(self, plain: Any) -> Any:
        # Python looks `__iter__` up on the class alone: an attribute of the loader would not be seen. An object can
        # change to a class that has the same memory layout.
        def __iter__(loader: Any) -> Any:
            self.iterate(lambda: plain.__iter__(loader))
            return loader

        return type(plain.__name__, (plain,), {"__iter__": __iter__, "__slots__": (), "__module__": plain.__module__})

    def iterate(self, plain: Callable[[], Any]) -> None:
        """Make the CombinedLoader's iterator, from scratch or as it was saved.

        Args:
            plain: What the CombinedLoader itself would do.
        """
        combined = self._combined
        assert combined is not None
        saved, self._saved = self._saved, None
        if saved is not None and not self._fits(saved, combined):
            saved = None
        opening = Opening(
            epoch=lightning_private.epoch_counts(self._trainer).processed,
            reload_consumed=self._reload_consumed,
            distributed=self._trainer.world_size > 1,
            notes=self.notes,
        )
        earlier = [*self._loaders, *[None] * len(combined.flattened)]
        self._loaders = [RecordedLoader(one, opening, earlier[n]) for n, one in enumerate(combined.flattened)]
        if saved is not None:
            self._hand_out(saved)
            if not self._goes_on:
                self._begin_between_epochs(combined, saved)
                return
        iterator = lightning_private.iterate_over(combined, list(self._loaders), plain)
        opening.iterator = weakref.ref(iterator)
        if saved is not None:
            lightning_private.set_position(iterator, saved["position"], saved["exhausted"])
            self._hold_fetcher()

    # -- for a checkpoint ----------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Remember the place, before Lightning shuts the loader down at the end of a fit."""
        self._last = self._read() or self._last

    def state_dict(self, rewind: int) -> tuple[dict[str, Any] | None, list[str]]:
        """The place in the data, and reasons why it may not be found again exactly.

        Args:
            rewind: How many batches to go back: 1 for a batch that was fetched and not trained on to its end.
        """
        read = self._read() or self._last
        if read is None or self._requested is None:
            return None, []
        notes: list[str] = []
        ahead: list[Any] = read["ahead"]
        refetch = len(ahead)
        if ahead and not rewind and any(one.must_store_what_is_ahead() for one in self._loaders):
            if is_portable(ahead):
                refetch = 0
            else:
                notes.append(
                    "the loader's length is unknown, so one batch is fetched ahead, and it holds objects that a "
                    "checkpoint cannot store (yield tensors in dicts, lists and tuples, or give the loader a length)"
                )
        position = max(read["position"] - refetch - rewind, 0)
        return {
            "requested": self._requested.state_dict(),
            "requested_in_epoch": lightning_private.reload_epochs(self._trainer)[0] or 0,
            "position": position,
            "exhausted": read["exhausted"],
            "ahead": [] if refetch else ahead,
            "refetch": refetch,
            "fetched": max(read["fetched"] - refetch - rewind, 0),
            "done": bool(read["done"]) and not rewind,
            "length": read["length"],
            "loaders": [one.state_dict(position) for one in self._loaders],
        }, notes

    def _read(self) -> dict[str, Any] | None:
        fetcher = lightning_private.train_fetcher(self._trainer)
        iterator = lightning_private.mode_iterator(self._combined) if self._combined is not None else None
        if fetcher is None or iterator is None or not self._loaders:
            return None
        return {
            "position": lightning_private.position(iterator),
            "exhausted": lightning_private.exhausted(iterator),
            "ahead": list(getattr(fetcher, "batches", [])),
            "fetched": fetcher.fetched,
            "done": fetcher.done,
            "length": fetcher.length,
        }

    # -- after a checkpoint was loaded ---------------------------------------------------------------------------------

    def resume_from(self, saved: dict[str, Any], goes_on: bool) -> None:
        """Let the loader that is asked for next begin where the saved one was.

        Args:
            saved: What `state_dict` gave.
            goes_on: Whether the epoch goes on with the saved iterators; otherwise the next epoch makes its own.
        """
        self._saved, self._goes_on = saved, goes_on
        self._own_states = lightning_private.take_loader_states(self._trainer)
        RandomState.from_state_dict(saved["requested"]).restore()

    def finish_resume(self, saved: dict[str, Any]) -> None:
        """Bring the fetcher to its place, once the loader is there."""
        fetcher = lightning_private.train_fetcher(self._trainer)
        if self._prefetch is not None and fetcher is not None:
            fetcher.prefetch_batches, self._prefetch = self._prefetch, None
            fetcher.batches = list(saved["ahead"])
        if fetcher is None or not self._goes_on or self._mismatch:
            return
        if fetcher.length != saved["length"]:
            self.notes.append(f"an epoch had {saved['length']} batches, now it has {fetcher.length}")
        fetcher.fetched = saved["fetched"]
        if saved["refetch"]:
            lightning_private.refill(fetcher, saved["refetch"])
        fetcher.done = fetcher.fetched >= fetcher.length if fetcher.length is not None else saved["done"]

    def restore_held(self, saved: dict[str, Any]) -> None:
        """Put the generators and counters that the loaders hold where they were when the checkpoint was written."""
        for one, state in zip(self._loaders, saved["loaders"], strict=False):
            set_held_states(one.loader, state["held"])
            set_sampler_numbers(one.loader, state["numbers"])

    def _fits(self, saved: dict[str, Any], combined: CombinedLoader) -> bool:
        before, now = len(saved["loaders"]), len(combined.flattened)
        if before != now:
            self._mismatch = True
            self.notes.append(f"there were {before} training loaders, now there are {now}")
            return False
        for state, loader in zip(saved["loaders"], combined.flattened, strict=True):
            workers = getattr(loader, "num_workers", 0)
            if workers != state["num_workers"]:
                self.notes.append(f"num_workers was {state['num_workers']}, now it is {workers}")
        return True

    def _hand_out(self, saved: dict[str, Any]) -> None:
        own = iter(self._own_states)
        for one, state in zip(self._loaders, saved["loaders"], strict=True):
            if is_stateful(one.loader):
                single_process = next(own, None)
                state = {**state, "own": state["own"] if state["own"] is not None else single_process}
            one.resume_from(state)

    def _begin_between_epochs(self, combined: CombinedLoader, saved: dict[str, Any]) -> None:
        """No iterator is needed, except where workers go on into the next epoch with what they are."""
        lightning_private.make_idle(combined)
        for one, state in zip(self._loaders, saved["loaders"], strict=True):
            if self._reload_consumed and state["persistent"] and is_persistent(one.loader):
                iter(one)

    def _hold_fetcher(self) -> None:
        fetcher = lightning_private.train_fetcher(self._trainer)
        if fetcher is not None and hasattr(fetcher, "prefetch_batches"):
            self._prefetch, fetcher.prefetch_batches = fetcher.prefetch_batches, 0

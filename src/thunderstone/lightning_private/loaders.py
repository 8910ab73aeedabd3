"""The training and validation loaders, their iterators, and the fetcher that reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Trainer
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.utilities.combined_loader import _SUPPORTED_MODES, CombinedLoader, _ModeIterator


def watch_train_loader(
    trainer: Trainer, requested: Callable[[], None], ready: Callable[[CombinedLoader], None]
) -> Callable[[], None]:
    """Be told when Lightning may ask for the training loader, and when it is about to make its first iterator.

    No hook lies between the two, nor between the second and the iterator. Returns the function that undoes it.
    """
    fit_loop = trainer.fit_loop
    set_up, load_states = fit_loop.setup_data, fit_loop._load_combined_loader_states

    def setup_data() -> None:
        requested()
        set_up()

    def load_combined_loader_states() -> None:
        load_states()
        if fit_loop._combined_loader is not None:
            ready(fit_loop._combined_loader)

    replacements = {"setup_data": setup_data, "_load_combined_loader_states": load_combined_loader_states}
    vars(fit_loop).update(replacements)

    def undo() -> None:
        for name in replacements:
            vars(fit_loop).pop(name, None)

    return undo


def train_loader(trainer: Trainer) -> CombinedLoader | None:
    """The CombinedLoader Lightning makes of the training loaders; `trainer.train_dataloader` is what is inside it."""
    return trainer.fit_loop._combined_loader


def forget_train_loader(trainer: Trainer) -> bool:
    """Have the training loader asked for anew. False where there is none yet.

    A schedule that asks for the number of steps has it made while the optimizers are set up, and Lightning then keeps
    it, and the iterator it has begun.
    """
    loader = trainer.fit_loop._combined_loader
    if loader is None:
        return False
    for one in loader.flattened:
        if getattr(one, "_iterator", None) is not None:
            one._iterator = None  # of persistent workers, which would go on into the next one
    trainer.fit_loop._combined_loader = None
    return True


def train_fetcher(trainer: Trainer) -> Any:
    """The fetcher that reads the training loader, one batch ahead where the loader's length is unknown."""
    return trainer.fit_loop._data_fetcher


def refill(fetcher: Any, count: int) -> None:
    """Fetch batches ahead, as the fetcher does when it is first iterated over."""
    for _ in range(count):
        fetcher.batches.append(_DataFetcher.__next__(fetcher))


def iterate_over(loader: CombinedLoader, stand_ins: list[Any], iterate: Callable[[], Any]) -> Any:
    """Make a CombinedLoader's iterator out of stand-ins for its iterables, which stay as they are."""
    own, loader._flattened = loader._flattened, stand_ins
    try:
        iterate()
    finally:
        loader._flattened = own
    return loader._iterator


def another_combined_loader(loader: CombinedLoader, flattened: list[Any]) -> CombinedLoader:
    """A CombinedLoader that combines other iterables in the way `loader` combines its own.

    Not a copy, whose class may have been exchanged; the mode is not readable otherwise.
    """
    another = CombinedLoader(loader.iterables, loader._mode)
    another.flattened = flattened
    return another


def make_idle(loader: CombinedLoader) -> None:
    """Give a CombinedLoader an iterator that is at its end already, with the length of a real one."""
    real = _SUPPORTED_MODES[loader._mode]["iterator"](loader.flattened, loader._limits)
    loader._iterator = IdleIterator(real)


def validation_loader_is_set_up(trainer: Trainer) -> bool:
    """Whether the validation loader exists; `trainer.val_dataloaders` would not tell an empty one from none."""
    return trainer.fit_loop.epoch_loop.val_loop._combined_loader is not None


def set_up_validation_loader(trainer: Trainer) -> None:
    """Ask for the validation loader now, as Lightning does before the first epoch."""
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.setup_data()
    trainer.training = True


def take_loader_states(trainer: Trainer) -> list[dict[str, Any]]:
    """The states of the loaders that have `state_dict`, as read from a checkpoint; Lightning then loads none itself."""
    states: list[dict[str, Any]] = trainer.fit_loop._combined_loader_states_to_load
    trainer.fit_loop._combined_loader_states_to_load = []
    return states


def set_sampler_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader's samplers their epoch, as Lightning does at the start of one."""
    _set_sampler_epoch(loader, epoch)


class IdleIterator(_ModeIterator):
    """Stands for the iterators of an epoch that is over, so that no workers are started only to be thrown away."""

    def __init__(self, real: _ModeIterator) -> None:
        super().__init__(real.iterables, real.limits)
        self._real = real

    def __next__(self) -> Any:
        raise StopIteration

    def __len__(self) -> int:
        return len(self._real)


def mode_iterator(loader: CombinedLoader) -> Any:
    """What a CombinedLoader iterates with: it holds the iterators, their position and which of them ran out."""
    return loader._iterator


def position(iterator: Any) -> int:
    """How many combined batches a `mode_iterator` has given."""
    given: int = iterator._idx
    return given


def exhausted(iterator: Any) -> list[bool] | None:
    """Which loaders have run out, where the shorter ones are begun again; None where they are not."""
    flags = getattr(iterator, "_consumed", None)
    return list(flags) if flags is not None else None


def set_position(iterator: Any, given: int, ran_out: list[bool] | None) -> None:
    """See `position` and `exhausted`."""
    iterator._idx = given
    if ran_out is not None:
        iterator._consumed = list(ran_out)


def continue_fetching(trainer: Trainer) -> Any:
    """The fetcher, with the profiling that the epoch loop puts around it when it starts."""
    fetcher, epoch_loop = train_fetcher(trainer), trainer.fit_loop.epoch_loop
    fetcher._start_profiler, fetcher._stop_profiler = epoch_loop._on_before_fetch, epoch_loop._on_after_fetch
    return fetcher

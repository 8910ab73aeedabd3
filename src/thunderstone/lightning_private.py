"""The only place that reads attributes of Lightning that are not part of its public API.

Each function says why the public API does not suffice. `tests/test_lightning_private.py` holds every one of them
against a run, on the oldest and on the newest supported Lightning.
"""

from __future__ import annotations

import builtins
import copy
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from types import FrameType
from typing import Any

import torch
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress
from lightning.pytorch.trainer.call import _call_lightning_module_hook
from lightning.pytorch.trainer.connectors.logger_connector.result import _Metadata, _ResultMetric, _Sync
from lightning.pytorch.utilities.combined_loader import _SUPPORTED_MODES, CombinedLoader, _ModeIterator
from lightning.pytorch.utilities.exceptions import SIGTERMException


def logging_step(trainer: Trainer) -> int:
    """The step `self.log` writes at.

    Lightning counts the batches that stepped for its loggers, which differs from the public `global_step` in manual
    optimization; curves only line up when both use the same counter. What is logged at an epoch's end is written at
    its last step, although the counter has moved on: the epoch counts as processed and not yet as completed.
    """
    progress = epoch_counts(trainer)
    at_epoch_end = progress.processed > progress.completed
    return trainer.fit_loop.epoch_loop._batches_that_stepped - int(at_epoch_end)


def batch_index(trainer: Trainer) -> int:
    """Index within the epoch of the batch in training.

    `training_step` need not take `batch_idx`, and callbacks run too early to tell which batches reach it.
    """
    return trainer.fit_loop.epoch_loop.batch_idx


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The Trainer's callbacks, in the order in which it calls them.

    The attribute is used everywhere and declared nowhere: neither documented nor typed.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def set_callbacks(trainer: Trainer, callbacks: list[Callback]) -> None:
    """Replace the list, leaving one that is being iterated over as it is."""
    trainer.callbacks = callbacks  # type: ignore[attr-defined]


# -- what an exact resume needs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunningHook:
    """A Lightning hook that is being called at this moment.

    Attributes:
        name: Its name, e.g. ``"on_train_batch_end"``.
        arguments: What it is called with after the Trainer and the module.
        pending: The callbacks whose turn comes after the present one in this round.
        in_module: It is the LightningModule's hook rather than a callback's.
        monitoring: None, or which half of the callbacks the round is over: those that monitor a metric go last at the
            end of a training epoch.
    """

    name: str
    arguments: tuple[Any, ...]
    pending: tuple[Callback, ...]
    in_module: bool
    monitoring: bool | None


def running_hook() -> RunningHook | None:
    """The innermost Lightning hook on the call stack, or None.

    A checkpoint is written from inside a hook, and what remains of that hook must run after a resume. Lightning keeps
    no record of how far it has come, except in the local variables of the function that goes through the callbacks.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").endswith("pytorch.trainer.call"):
            kind, seen = frame.f_code.co_name, frame.f_locals
            if kind == "_call_callback_hooks" and "callback" in seen:
                callbacks, current = list(seen["callbacks"]), seen["callback"]
                after = next((n + 1 for n, one in enumerate(callbacks) if one is current), len(callbacks))
                return RunningHook(
                    seen["hook_name"], seen["args"], tuple(callbacks[after:]), False, seen["monitoring_callbacks"]
                )
            if kind == "_call_lightning_module_hook":
                return RunningHook(seen["hook_name"], seen["args"], (), True, None)
        frame = frame.f_back
    return None


def call_hook(trainer: Trainer, name: str, callbacks: Iterable[Callback], module: bool, *arguments: Any) -> None:
    """Call a hook of some callbacks and, where asked for, of the module, the way Lightning does.

    `self.log` decides by the name of the running hook whether and how it may log, and only Lightning's own functions
    set that name.
    """
    owner = trainer.lightning_module
    for callback in callbacks:
        before, owner._current_fx_name = owner._current_fx_name, name
        getattr(callback, name)(trainer, owner, *arguments)
        owner._current_fx_name = before
    if module:
        _call_lightning_module_hook(trainer, name, *arguments)


def monitoring_callbacks(trainer: Trainer) -> list[Callback]:
    """The callbacks that Lightning calls last at the end of a training epoch."""
    return [one for one in callbacks_of(trainer) if isinstance(one, (EarlyStopping, Checkpoint))]


def epoch_counts(trainer: Trainer) -> Any:
    """How many epochs of this run are ready, started, processed and completed; `trainer.current_epoch` is the last."""
    return trainer.fit_loop.epoch_progress.current


def batch_counts(trainer: Trainer) -> Any:
    """The same for the batches of the present epoch."""
    return trainer.fit_loop.epoch_loop.batch_progress.current


def loop_progress(trainer: Trainer) -> dict[str, Any]:
    """Every counter of the fit loop and the loops inside it, as nested dicts of numbers.

    `fit_loop.state_dict()` would also ask every stateful loader for its state, which Lightning has just done.
    """
    return _progress_of(trainer.fit_loop)


def _progress_of(loop: _Loop) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress):
            state[name] = value.state_dict()
        elif isinstance(value, _Loop):
            state[name] = _progress_of(value)
    return state


def load_loop_progress(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put every counter back and tell all loops that they are not restarting.

    Lightning guesses from the counters where a checkpoint was written and adjusts some of them. Its guesses lose the
    validation, the hooks and the scheduler steps that were still to come; here the place is known.
    """
    _load_progress(trainer.fit_loop, state)


def _load_progress(loop: _Loop, state: dict[str, Any]) -> None:
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress) and name in state:
            value.load_state_dict(copy.deepcopy(state[name]))
        elif isinstance(value, _Loop):
            _load_progress(value, state.get(name, {}))
    loop._restarting = loop._loaded_from_state_dict = False
    loop._resuming_from_checkpoint = False
    loop.reset_restart_stage()


def take_back_processed_epoch(trainer: Trainer) -> None:
    """Count the epoch that is at its end as one under way."""
    progress: Any = trainer.fit_loop.epoch_progress
    for counts in (progress.current, progress.total):
        counts.processed = counts.completed


def take_back_batch(trainer: Trainer) -> None:
    """Count the batch under way as one that was not begun."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    for counts in (progress.current, progress.total):
        counts.reset_on_restart()
    progress.is_last_batch = False


def profiled(trainer: Trainer, action: str) -> AbstractContextManager[Any]:
    """The Trainer's profiler around an action; the attribute is declared nowhere."""
    profiler: Any = trainer.profiler  # type: ignore[attr-defined]
    context: AbstractContextManager[Any] = profiler.profile(action)
    return context


def steps_for_loggers(trainer: Trainer) -> int:
    """How many batches have stepped, as the loggers count; Lightning adjusts its saved value by a guess."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


def set_steps_for_loggers(trainer: Trainer, steps: int) -> None:
    """See `steps_for_loggers`."""
    trainer.fit_loop.epoch_loop._batches_that_stepped = steps


def reload_epochs(trainer: Trainer) -> tuple[int | None, int | None]:
    """The epochs in which the training and validation loaders were asked for; `reload_dataloaders_every_n_epochs`
    counts from them. None where that has not happened yet."""
    epochs = (
        trainer.fit_loop._last_train_dl_reload_epoch,
        trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch,
    )
    train, validation = (None if epoch == float("-inf") else int(epoch) for epoch in epochs)
    return train, validation


def set_validation_reload_epoch(trainer: Trainer, epoch: int | None) -> None:
    """See `reload_epochs`."""
    trainer.fit_loop.epoch_loop.val_loop._last_val_dl_reload_epoch = float("-inf") if epoch is None else epoch


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


def replace_run(trainer: Trainer, run: Callable[[], None]) -> Callable[[], None]:
    """Let the fit loop's next run be another function. Returns the function that undoes it."""
    vars(trainer.fit_loop)["run"] = run
    return lambda: vars(trainer.fit_loop).pop("run", None)


def train_loader(trainer: Trainer) -> CombinedLoader | None:
    """The CombinedLoader Lightning makes of the training loaders; `trainer.train_dataloader` is what is inside it."""
    return trainer.fit_loop._combined_loader


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


def last_logged(result: Any) -> Any:
    """The value of a result's last `self.log`, which is shown with ``on_step=True``."""
    return result._forward_cache


def set_last_logged(result: Any, value: Any) -> None:
    """See `last_logged`."""
    result._forward_cache = value


def logger_connector_state(trainer: Trainer) -> dict[str, Any]:
    """The metrics shown so far and the two flags by which `self.log` knows a new epoch.

    Not in Lightning's checkpoints: a scheduler or EarlyStopping whose metric was logged before the checkpoint would
    not find it after a resume.
    """
    connector = trainer._logger_connector
    return {
        "progress_bar": dict(connector._progress_bar_metrics),
        "logged": dict(connector._logged_metrics),
        "callback": dict(connector._callback_metrics),
        "first_batch": connector._first_loop_iter,
        "hook": connector._current_fx,
    }


def load_logger_connector_state(trainer: Trainer, state: dict[str, Any]) -> None:
    """See `logger_connector_state`."""
    connector = trainer._logger_connector
    connector._progress_bar_metrics = dict(state["progress_bar"])
    connector._logged_metrics = dict(state["logged"])
    connector._callback_metrics = dict(state["callback"])
    connector._first_loop_iter = state["first_batch"]
    connector._current_fx = state["hook"]


def set_first_batch(trainer: Trainer, first: bool) -> None:
    """Say whether the batch under way is the first of its epoch: `self.log` then drops what the last one left."""
    trainer._logger_connector._first_loop_iter = first


def epoch_results(trainer: Trainer) -> Any:
    """What `self.log` has accumulated in this training epoch: a dict of result metrics by hook and name."""
    return trainer.fit_loop.epoch_loop._results


def result_arguments(result: Any) -> dict[str, Any] | None:
    """What the `self.log` that made a result was called with, as primitives; None if it named a process group."""
    meta = result.meta
    if meta.sync.group is not None:
        return None
    plain = {
        field.name: getattr(meta, field.name) for field in fields(meta) if field.name not in ("_sync", "reduce_fx")
    }
    return {
        "meta": plain,
        "reduce_fx": meta.reduce_fx.__name__,
        "builtin": meta.reduce_fx in (sum, max, min),
        "should": meta.sync.should,
        "rank_zero_only": meta.sync.rank_zero_only,
        "op": meta.sync.op,
        "is_tensor": result.is_tensor,
    }


def new_result(trainer: Trainer, arguments: dict[str, Any]) -> Any:
    """An empty result as the first `self.log` of a name makes it, from `result_arguments`."""
    reduction = getattr(builtins if arguments["builtin"] else torch, arguments["reduce_fx"])
    meta = _Metadata(**arguments["meta"], reduce_fx=reduction)
    meta.sync = _Sync(
        fn=trainer.strategy.reduce,
        _should=arguments["should"],
        rank_zero_only=arguments["rank_zero_only"],
        _op=arguments["op"],
    )
    return _ResultMetric(meta, arguments["is_tensor"])


def finish_batch(trainer: Trainer) -> None:
    """What Lightning does with a batch after the hooks at its end."""
    trainer._logger_connector.on_batch_end()
    trainer.fit_loop.epoch_loop.batch_progress.increment_completed()
    trainer._logger_connector.update_train_step_metrics()


def finish_validated_batch(trainer: Trainer) -> None:
    """What Lightning does with a batch after the validation that followed it."""
    epoch_loop = trainer.fit_loop.epoch_loop
    epoch_loop.update_lr_schedulers("step", update_plateau_schedulers=True)
    if not epoch_loop._should_accumulate():
        epoch_loop._batches_that_stepped += 1
    epoch_loop._save_loggers_on_train_batch_end()
    if not epoch_loop._is_training_done and trainer.received_sigterm:
        raise SIGTERMException


def finish_epoch(trainer: Trainer) -> None:
    """What Lightning does with a training epoch after the hooks at its end."""
    fit_loop, connector = trainer.fit_loop, trainer._logger_connector
    connector.on_epoch_end()
    if fit_loop.epoch_loop._num_ready_batches_reached():
        fit_loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
    fit_loop.epoch_loop._batches_that_stepped -= 1
    connector.update_train_epoch_metrics()
    fit_loop.epoch_loop._batches_that_stepped += 1
    fit_loop.epoch_progress.increment_completed()
    if trainer.received_sigterm:
        raise SIGTERMException


def continue_fetching(trainer: Trainer) -> Any:
    """The fetcher, with the profiling that the epoch loop puts around it when it starts."""
    fetcher, epoch_loop = train_fetcher(trainer), trainer.fit_loop.epoch_loop
    fetcher._start_profiler, fetcher._stop_profiler = epoch_loop._on_before_fetch, epoch_loop._on_after_fetch
    return fetcher


def skips_backward(trainer: Trainer) -> bool:
    """Whether the present epoch goes forward only, as the last one of StochasticWeightAveraging does.

    Nothing public says so, and at its end the optimizer's closure is called as in any other epoch.
    """
    return trainer.fit_loop._skip_backward


def within_accumulation(trainer: Trainer) -> bool:
    """Whether the last batch's gradients wait for more batches before the optimizer steps."""
    return trainer.fit_loop._should_accumulate()


def end_fit(trainer: Trainer) -> None:
    """The end of the fit loop's run."""
    trainer.fit_loop._restarting = False
    trainer.fit_loop.on_run_end()

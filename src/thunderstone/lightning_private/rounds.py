"""Spending a training budget again in one `fit`: putting the Trainer back to where it was before it trained."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch import Trainer
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _BaseProgress
from lightning.pytorch.utilities.combined_loader import CombinedLoader

_PLAIN = (bool, int, float, str, type(None))
# Of the loops' plain attributes, what goes on: loggers must never be handed a step they have seen.
_KEPT = frozenset({"_batches_that_stepped"})


def loops(trainer: Trainer) -> dict[str, Any]:
    """Everything plain that the fit loop and the loops inside it hold: counters, limits, flags.

    `loop_progress` has the counters alone; callbacks such as StochasticWeightAveraging change limits too.
    """
    return _taken(trainer.fit_loop)


def _taken(loop: _Loop) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, value in vars(loop).items():
        if isinstance(value, _BaseProgress):
            state[name] = value.state_dict()
        elif isinstance(value, _Loop):
            state[name] = _taken(value)
        elif type(value) in _PLAIN and name not in _KEPT:
            state[name] = value
    return state


def restore_loops(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put the loops back to `loops`; the counter that loggers go by stays where it is."""
    _put_back(trainer.fit_loop, state)


def _put_back(loop: _Loop, state: dict[str, Any]) -> None:
    for name, value in list(vars(loop).items()):
        if name not in state:
            continue
        if isinstance(value, _BaseProgress):
            value.load_state_dict(copy.deepcopy(state[name]))
        elif isinstance(value, _Loop):
            _put_back(value, state[name])
        else:
            setattr(loop, name, state[name])


def forget_data(trainer: Trainer) -> None:
    """Shut the loaders of training and validation down, so that they are asked for anew, and forget what was logged."""
    fit_loop = trainer.fit_loop
    fit_loop.teardown()
    for loop in (fit_loop, fit_loop.epoch_loop.val_loop):
        loop._combined_loader = None
    fit_loop._combined_loader_states_to_load = []
    for results in (fit_loop.epoch_loop._results, fit_loop.epoch_loop.val_loop._results):
        results.clear()
        results.batch = results.batch_size = results.dataloader_idx = None
    trainer._logger_connector.reset_results()
    trainer._logger_connector.reset_metrics()


def given_loaders(trainer: Trainer) -> list[Any]:
    """The training loaders that were handed to `fit`; empty where a module or data module makes them."""
    source = trainer.fit_loop._data_source
    if source.instance is None or source.is_module():
        return []
    if isinstance(source.instance, CombinedLoader):
        return list(source.instance.flattened)
    return list(CombinedLoader(source.instance).flattened)


def optimizers_to_device(trainer: Trainer) -> None:
    """Move the state of fresh optimizers to where the weights are, as Lightning does after setting them up."""
    _optimizers_to_device(trainer.strategy.optimizers, trainer.strategy.root_device)


def replace_run_stage(trainer: Trainer, run: Callable[[], None]) -> Callable[[], None]:
    """Let what the Trainer does once everything is set up (sanity check and fit loop) be another function, which may
    call `run_stage` several times. Returns the function that undoes it.

    Not the fit loop's run, which others replace, and which a learning rate finder calls for a run of its own.
    """
    vars(trainer)["_run_stage"] = run
    return lambda: vars(trainer).pop("_run_stage", None)


def run_stage(trainer: Trainer) -> None:
    """The sanity check and the fit loop."""
    type(trainer)._run_stage(trainer)


def loader_states(trainer: Trainer) -> list[dict[str, Any]]:
    """The states of the training loaders that have `state_dict`, as Lightning puts them into checkpoints."""
    loader = trainer.fit_loop._combined_loader
    return loader._state_dicts() if loader is not None else []


def set_loader_states(trainer: Trainer, states: list[dict[str, Any]]) -> None:
    """Let the next training loaders begin from `loader_states`."""
    trainer.fit_loop._combined_loader_states_to_load = copy.deepcopy(states)

"""Running the Trainer's fit loop once a round, each time as if `fit` had just been called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_info

from thunderstone import lightning_private
from thunderstone.attachment.callback_state import CallbackStates, has_state
from thunderstone.attachment.method import Method
from thunderstone.attachment.round_start import Mark, RoundStart, set_seed
from thunderstone.attachment.rounds import Round, Rounds
from thunderstone.errors import HookError, ResumeError, StepError, UnsupportedSettingError

if TYPE_CHECKING:
    from thunderstone.attachment.attachment import Attachment
    from thunderstone.resume import ExactResume

_MARKING = ("on_train_batch_end", "on_train_epoch_end")


def runner_of(attachment: Attachment) -> RoundRunner | None:
    """What runs the rounds of the method that owns them; None where none does.

    Raises:
        HookError: Another method wants to say whether there is a further round.
    """
    owner = next((method for method in attachment.methods if "rounds" in method.exclusive), None)
    for hook in attachment.manager.hook.another_round.get_hookimpls():
        if hook.plugin is not owner:
            raise HookError(
                f"{type(hook.plugin).__name__} implements another_round without owning the rounds. HINT: declare "
                "exclusive = frozenset({'rounds'}) in the class"
            )
    if owner is None:
        return None
    if owner._rounds_of_fit is None:
        owner._rounds_of_fit = Rounds(type(owner).__name__)
    return RoundRunner(attachment, owner, owner._rounds_of_fit)


class RoundRunner:
    """Takes the place of what the Trainer does between setting up and tearing down, for one fit.

    Before a further round everything is put back that `trainer.fit` finds untouched: the loops' counters and limits,
    the loaders, what was logged, the state of callbacks and methods, the random states; optimizers and schedulers are
    set up anew. What brackets a round is `on_fit_start` and `on_fit_end`; `setup` and `teardown` bracket all of them.
    The step that loggers are given goes on.

    Args:
        attachment: The fit's attachment.
        owner: The method that owns the rounds.
        rounds: What it sees of them.

    Attributes:
        rounds: The same.
        mark: What rounds begin from.
    """

    mark: Mark

    def __init__(self, attachment: Attachment, owner: Method, rounds: Rounds) -> None:
        self.trainer: Trainer = attachment.trainer
        self.module: LightningModule = attachment.module
        self._attachment, self._owner = attachment, owner
        self.rounds = rounds
        self._start: RoundStart | None = None
        self._unloaded: CallbackStates | None = None
        self._goes_on = False
        self._undo = ExitStack()

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """The fit is being set up: look at what there is before anything is loaded or trained."""
        self.rounds.begin()
        guard = _BeforeLoading(self)
        # First, and in a list of its own: Lightning is iterating over the present one.
        lightning_private.set_callbacks(self.trainer, [guard, *lightning_private.callbacks_of(self.trainer)])
        self._undo.callback(self._remove, guard)
        self._set_up_strategy = self.trainer.strategy.setup
        self._replace(self.trainer.strategy, "setup", self._set_up)

    def start(self) -> None:
        """Optimizers and loggers are there."""
        trainer = self.trainer
        self._undo.callback(lightning_private.replace_run_stage(trainer, self._run))
        # Rank zero alone reports, whatever a logger of another rank would write.
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if not isinstance(logger, DummyLogger):
                self._replace(logger, "log_metrics", self._with_columns(logger.log_metrics))
        prefix = self._owner.name or type(self._owner).__name__
        if self._attachment.tracker is not None:
            self._attachment.tracker.axis(f"{prefix}/round", f"{prefix}/*")

    def stop(self) -> None:
        """Take everything off again. Safe to call more than once."""
        self.rounds.run_by(None)
        self._undo.close()

    def _replace(self, thing: Any, name: str, replacement: Any) -> None:
        before = {name: vars(thing)[name]} if name in vars(thing) else {}

        def put_back() -> None:
            vars(thing).pop(name, None)
            vars(thing).update(before)

        vars(thing)[name] = replacement
        self._undo.callback(put_back)

    def _remove(self, guard: Callback) -> None:
        callbacks = lightning_private.callbacks_of(self.trainer)
        lightning_private.set_callbacks(self.trainer, [callback for callback in callbacks if callback is not guard])

    # -- what rounds begin from ----------------------------------------------------------------------------------------

    def before_loading(self) -> None:
        """A checkpoint is about to be read; the callbacks do not know of it yet."""
        self._unloaded = CallbackStates(lightning_private.callbacks_of(self.trainer), self._left_alone())

    def _set_up(self, trainer: Trainer) -> None:
        self._start = RoundStart(trainer, self._unloaded, self._left_alone())
        self._set_up_strategy(trainer)
        self.mark = Mark(self.module)
        loaded = self.rounds.take_loaded()
        self._goes_on = bool(loaded)
        if loaded:
            self._load(loaded)
        self.rounds.run_by(self)

    def _left_alone(self) -> list[Callback]:
        # ExactResume begins every round by itself.
        return [self._owner, *([self._exact_resume] if self._exact_resume is not None else [])]

    @property
    def _exact_resume(self) -> ExactResume | None:
        from thunderstone.resume import ExactResume

        return next((method for method in self._attachment.methods if isinstance(method, ExactResume)), None)

    def set_mark(self) -> None:
        """See `Rounds.mark`."""
        owner, resume, trainer = type(self._owner).__name__, self._exact_resume, self.trainer
        hook = lightning_private.running_hook()
        if self.rounds.index or hook is None or hook.name not in _MARKING:
            where = f"in round {self.rounds.index}" if self.rounds.index else "outside of these hooks"
            raise StepError(
                f"{owner}: mark() was called {where}. HINT: call it in the first round, from {' or '.join(_MARKING)}"
            )
        if resume is None or not resume.enabled:
            raise UnsupportedSettingError(
                owner,
                "ExactResume(enabled=False)",
                "to begin a round in the middle of training, the place in the data must be known",
                "leave ExactResume enabled, or rewind to the start of training",
            )
        mark = Mark(self.module)
        mark.place = {
            "place": resume.place(),
            "loaders": lightning_private.loader_states(trainer),
            "groups": [_settings(optimizer) for optimizer in trainer.optimizers],
            "schedules": [deepcopy(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
            "callbacks": {
                callback.state_key: deepcopy(state)
                for callback in lightning_private.callbacks_of(trainer)
                if has_state(callback) and callback not in self._left_alone() and (state := callback.state_dict())
            },
        }
        self.mark = mark

    # -- running -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        trainer, start = self.trainer, self._start
        assert start is not None
        if not self._goes_on:
            self._announce()
        lightning_private.run_stage(trainer)
        # A fit without an epoch (no batches, a limit of zero) is not one that could be done again.
        while lightning_private.epoch_counts(trainer).ready > start.epochs and self._is_another_wanted():
            self._begin(self._next())
            lightning_private.run_stage(trainer)

    def _is_another_wanted(self) -> bool:
        used_up = Round(self, self.rounds.index)
        answer = bool(self._attachment.manager.hook.another_round(round=used_up))
        return bool(self.trainer.strategy.broadcast(answer))

    def _next(self) -> int | None:
        self._call("on_fit_end")
        rounds, used_up = self.rounds, Round(self, self.rounds.index)
        columns = dict(rounds.columns)
        self._attachment.manager.hook.next_round(round=used_up)
        # What was reported of the round that is used up is written as such.
        annotated, rounds.columns = rounds.columns, columns
        if self._attachment.tracker is not None:
            self._attachment.tracker.flush()
        rounds.index += 1
        rounds.columns = {**annotated, "round": rounds.index}
        return used_up.seed

    def _begin(self, seed: int | None) -> None:
        trainer, start, place = self.trainer, self._start, self.mark.place
        assert start is not None
        resume = self._exact_resume
        if resume is not None:
            resume.begin_round()
        self._attachment.begin_round()
        lightning_private.forget_data(trainer)
        start.restore(seed)
        self._copy_weights_into_averages()
        trainer.strategy.setup_optimizers(trainer)
        lightning_private.optimizers_to_device(trainer)
        self._call("on_fit_start")
        self._announce()
        if place is not None:
            assert resume is not None
            self._go_to(place)
            steps = lightning_private.steps_for_loggers(trainer)
            again = {**deepcopy(place["place"]), "steps_for_loggers": steps}
            resume.go_on_from(again, (lambda: set_seed(seed)) if seed is not None else (lambda: None))

    def _go_to(self, place: dict[str, Any]) -> None:
        trainer = self.trainer
        lightning_private.set_loader_states(trainer, place["loaders"])
        for optimizer, groups in zip(trainer.optimizers, place["groups"], strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(deepcopy(settings))
        for config, state in zip(trainer.lr_scheduler_configs, place["schedules"], strict=True):
            config.scheduler.load_state_dict(deepcopy(state))
        for callback in lightning_private.callbacks_of(trainer):
            if callback.state_key in place["callbacks"]:
                callback.load_state_dict(deepcopy(place["callbacks"][callback.state_key]))

    @torch.no_grad()
    def _copy_weights_into_averages(self) -> None:
        weights = dict(self.module.named_parameters())
        for average in lightning_private.average_models(self.trainer):
            for name, value in average.named_parameters():
                if name in weights and weights[name].shape == value.shape:
                    value.copy_(weights[name])

    def _call(self, hook: str) -> None:
        # A summary of the module would be printed again.
        callbacks = [one for one in lightning_private.callbacks_of(self.trainer) if not isinstance(one, ModelSummary)]
        lightning_private.call_hook(self.trainer, hook, callbacks, True)

    # -- what is shown -------------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        self.rounds.columns.setdefault("round", self.rounds.index)
        for name, value in self.rounds.columns.items():
            self._owner.record(name, value)
        rank_zero_info(f"{type(self._owner).__name__}: round {self.rounds.index}")

    def _with_columns(self, log_metrics: Callable[..., None]) -> Callable[..., None]:
        prefix = self._owner.name or type(self._owner).__name__

        def with_columns(metrics: Any, step: Any = None) -> None:
            columns = {f"{prefix}/{name}": value for name, value in self.rounds.columns.items()}
            log_metrics({**metrics, **columns}, step)

        return with_columns

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `Rounds.state_dict` adds: what is the same on every rank, and what is this rank's own."""
        if self._start is None:
            return {}, {}
        place = self.mark.place
        own = {**self._start.state_dict(), "module": self.mark.portable(), "place": place["place"] if place else None}
        shared = {key: value for key, value in place.items() if key != "place"} if place else None
        return {**self.mark.state_dict(), "marked": shared}, own

    def _load(self, state: dict[str, Any]) -> None:
        if len(state["ranks"]) != self.trainer.world_size:
            raise ResumeError(
                f"{type(self._owner).__name__}: the checkpoint was written by {len(state['ranks'])} processes and is "
                f"resumed by {self.trainer.world_size}; the rounds to come begin from a state of each. HINT: resume "
                "with as many devices and nodes"
            )
        own = state["ranks"][self.trainer.global_rank]
        assert self._start is not None
        self._start.load_state_dict(own)
        self.mark.load_state_dict(state, own["module"], self.module)
        if state["marked"] is not None:
            self.mark.place = {**state["marked"], "place": own["place"]}


class _BeforeLoading(Callback):
    """Tells the runner that a checkpoint is about to be read; first in the list of callbacks."""

    def __init__(self, runner: RoundRunner) -> None:
        self.runner = runner

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.runner.before_loading()


def _settings(optimizer: Any) -> list[dict[str, Any]]:
    """Learning rates and the like of an optimizer's groups, without the parameters."""
    return [
        {name: deepcopy(value) for name, value in group.items() if name != "params"} for group in optimizer.param_groups
    ]

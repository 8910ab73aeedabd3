"""Methods with exactly one thing wrong: for every check of the kit at least one that must not pass it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from sound_method import Sound
from torch import Tensor, nn

from thunderstone import GradientStep, Method, UpdatePlan, hookimpl
from thunderstone.errors import CompositionError

# -- rules 1 to 3 ------------------------------------------------------------------------------------------------------


class DrawsWhenOff(Sound):
    """Draws a random number also when it is switched off.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, *_: Any) -> None:
        torch.rand(1)


class NoEffect(Method):
    """Does nothing."""

    name: ClassVar[str] = "noeffect"


class Diverges(Sound):
    """Divides gradients by zero.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        step.gradients = [None if g is None else g / 0 for g in step.gradients]


# -- rule 4 ------------------------------------------------------------------------------------------------------------


class Forgets(Sound):
    """Does not keep its average in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Average:
    """A class only this package has."""

    def __init__(self, value: float) -> None:
        self.value = value


class Pickles(Sound):
    """Keeps an object of its own class in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def state_dict(self) -> dict[str, Any]:
        return {"average": Average(self.average)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.average = state_dict["average"].value


class Renames(Sound):
    """Renames the module's parameters in the checkpoint.

    Args:
        gain: As in `Sound`.
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"wrapped.{name}": value for name, value in checkpoint["state_dict"].items()}


# -- rule 5 ------------------------------------------------------------------------------------------------------------


class LeavesAHook(Sound):
    """Hooks a layer and never takes the hook off.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        next(iter(pl_module.children())).register_forward_hook(_watch)


def _watch(*_: Any) -> None:
    return None


class LeavesAPatch(Sound):
    """Replaces the module's training_step on the instance and leaves it there.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        original = pl_module.training_step
        pl_module.training_step = lambda batch, batch_idx: original(batch, batch_idx)


class PatchesTorch(Sound):
    """Replaces a function of torch for good.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        original = nn.Linear.forward
        nn.Linear.forward = lambda self, input: original(self, input)


class TurnsOnDeterminism(Sound):
    """Changes a setting of the process and leaves it changed.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.use_deterministic_algorithms(True)


class AddsACallback(Sound):
    """Adds to the Trainer's callbacks and does not take it out again.

    Args:
        gain: As in `Sound`.
    """

    def on_train_end(self, trainer: Any, pl_module: LightningModule) -> None:
        trainer.callbacks = [*trainer.callbacks, NoEffect()]


class PerturbsDuringTheStep(Sound):
    """Trains at perturbed weights, and puts them back only at the end of a batch that succeeds.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._shift(pl_module, 0.01)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._shift(pl_module, -0.01)

    def _shift(self, module: LightningModule, amount: float) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(amount)


class CleansUpAfterErrorsOnly(PerturbsDuringTheStep):
    """Puts weights back after an exception, but not after Ctrl-C.

    Args:
        gain: As in `Sound`.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        if isinstance(exception, Exception):
            self._shift(pl_module, -0.01)


class SecondPass(Sound):
    """Takes its gradients at shifted weights; leaves them shifted when that fails.

    Args:
        gain: As in `Sound`.
    """

    caught: ClassVar[type[BaseException] | tuple[()]] = ()

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        saved = [parameter.detach().clone() for parameter in step.parameters]
        self._set(step, [parameter + 0.01 for parameter in saved])
        try:
            gradients = step.recompute()
        except self.caught:
            self._set(step, saved)
            raise
        self._set(step, saved)
        step.gradients = gradients

    def _set(self, step: GradientStep, values: list[Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(step.parameters, values, strict=True):
                parameter.copy_(value)


class SecondPassCatchesErrorsOnly(SecondPass):
    """Puts weights back after an exception in the second pass, but not after Ctrl-C.

    Args:
        gain: As in `Sound`.
    """

    caught: ClassVar[type[BaseException] | tuple[()]] = Exception


# -- rule 6 ------------------------------------------------------------------------------------------------------------


class CallsTheUsersHook(Sound):
    """Calls a hook of the module once more.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        step.module.on_after_backward()


class NaiveSecondPass(Sound):
    """Goes through the batch again as if nobody watched.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batch = (batch, batch_idx)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        module: Any = step.module
        module._current_fx_name, name = "training_step", module._current_fx_name
        module.training_step(*self._batch)
        module._current_fx_name = name


class SilentSecondPass(NaiveSecondPass):
    """Goes through the batch again without logging, but with everything else.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        module: Any = step.module
        module.log = module.log_dict = _watch_keywords
        try:
            super().transform_gradients(step=step)
        finally:
            del module.log, module.log_dict


def _watch_keywords(*_: Any, **__: Any) -> None:
    return None


class StopsEarly(Sound):
    """Ends training before its time.

    Args:
        gain: As in `Sound`.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


# -- rule 7 ------------------------------------------------------------------------------------------------------------


class BreaksUnder(Sound):
    """Fails in one setting of the Trainer, obscurely.

    Args:
        setting: Which one.
        gain: As in `Sound`.
    """

    def __init__(self, setting: str = "bf16-mixed", gain: float = 0.5) -> None:
        super().__init__(gain)
        self.setting = setting

    def on_train_start(self, trainer: Any, pl_module: LightningModule) -> None:
        found: Mapping[str, Any] = {
            "bf16-mixed": trainer.precision == "bf16-mixed",
            "16-mixed": trainer.precision == "16-mixed",
            "64-true": trainer.precision == "64-true",
            "accumulation": trainer.accumulate_grad_batches > 1,
            "fast_dev_run": trainer.fast_dev_run,
            "compile": getattr(pl_module, "_compiler_ctx", None) is not None,
            "no logger": trainer.logger is None,
            "ddp": trainer.world_size > 1,
        }
        if found[self.setting]:
            raise IndexError("list index out of range")


class CastsToSinglePrecision(Sound):
    """Assumes that weights are float32.

    Args:
        gain: As in `Sound`.
    """

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.float()


class EvadesClipping(Sound):
    """Scales gradients behind clipping's back.

    Args:
        gain: As in `Sound`.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._handles = [optimizer.register_step_pre_hook(_enlarge) for optimizer in trainer.optimizers]

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for handle in self._handles:
            handle.remove()


def _enlarge(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.mul_(100.0)


class MovesFrozenWeights(Sound):
    """Adds to every parameter, trainable or not.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.999)


class ActsWhileValidating(Sound):
    """Shrinks weights whenever validation begins, also in the sanity check and in `trainer.validate`.

    Args:
        gain: As in `Sound`.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(0.99)


class WearsOut(Sound):
    """Counts updates over all fits and stops acting.

    Args:
        gain: As in `Sound`.
    """

    _updates = 0

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._updates += 1
        if self._updates < 10:
            super().transform_gradients(step=step)


class Stalls(Sound):
    """Trains in its first fit only.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch > 0 and trainer.logger is None:
            for parameter in pl_module.parameters():
                parameter.requires_grad_(False)
            next(pl_module.parameters()).requires_grad_(True)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        if len(step.parameters) == 1:
            step.gradients = [None]


class DrawsPerRank(Sound):
    """Adds noise that differs between replicas.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        step.gradients = [None if g is None else g + 0.01 * rank for g in step.gradients]


# -- rule 8 ------------------------------------------------------------------------------------------------------------


class WantsToBeAlone(Sound):
    """Fails obscurely beside another method.

    Args:
        gain: As in `Sound`.
    """

    def on_attach(self, trainer: Any, pl_module: LightningModule) -> None:
        super().on_attach(trainer, pl_module)
        others = [c for c in trainer.callbacks if isinstance(c, Method) and c is not self and c.arguments.get("rho")]
        if others:
            raise KeyError("rho")


class RefusesNamelessly(Sound):
    """Refuses another method without saying which.

    Args:
        gain: As in `Sound`.
    """

    def on_attach(self, trainer: Any, pl_module: LightningModule) -> None:
        super().on_attach(trainer, pl_module)
        others = [c for c in trainer.callbacks if isinstance(c, Method) and c is not self and c.arguments.get("rho")]
        if others:
            raise CompositionError("gradient", type(self).__name__, "something else", "leave it out")


# -- rule 9 ------------------------------------------------------------------------------------------------------------


class ReportsUnderNoName(Sound):
    """Logs through the module, under a name that could be anybody's.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("gradient_norm", self.average)


class ReportsAtItsOwnStep(Sound):
    """Counts steps in its own way.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.logger is not None:
            trainer.logger.log_metrics({"sound/average": self.average}, step=100 + trainer.global_step)


class ReportsOnEveryRank(ReportsAtItsOwnStep):
    """Writes to the logger itself, from wherever it runs.

    Args:
        gain: As in `Sound`.
    """


class Mute(Sound):
    """Reports nothing.

    Args:
        gain: As in `Sound`.
    """

    def record(self, name: str, value: Any) -> None:
        pass


# -- rule 10 -----------------------------------------------------------------------------------------------------------


class TakesAnything(Method):
    """Takes whatever it is given.

    Args:
        options: Anything.
    """

    name: ClassVar[str] = "anything"

    def __init__(self, **options: float) -> None:
        self.options = options


class ForgetsAnArgument(Method):
    """Does not keep its argument.

    Args:
        rate: A rate.
    """

    name: ClassVar[str] = "forgets"

    def __init__(self, rate: float = 0.1) -> None:
        self._rate = rate


class Untyped(Method):
    """Says nothing about its argument's type.

    Args:
        rate: A rate.
    """

    name: ClassVar[str] = "untyped"

    def __init__(self, rate=0.1) -> None:
        self.rate = rate


class Undocumented(Method):
    """Says nothing about its argument."""

    name: ClassVar[str] = "undocumented"

    def __init__(self, rate: float = 0.1) -> None:
        self.rate = rate


class UnserialisableDefault(Method):
    """Has a default that no YAML can hold.

    Args:
        direction: A tensor.
    """

    name: ClassVar[str] = "unserialisable"

    def __init__(self, direction: complex = 1j) -> None:
        self.direction = direction


class DrawsAtBirth(Sound):
    """Draws a random number when it is built.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(gain)
        self._phase = random.random()


class AllocatesAtBirth(Sound):
    """Makes a tensor when it is built.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(gain)
        self._total = torch.zeros(3)


class AcceptsAnything(Sound):
    """Does not look at its argument.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        self.gain = gain
        self.average = 0.0


class RefusesObscurely(Sound):
    """Lets Python complain about its argument.

    Args:
        gain: As in `Sound`.
    """

    def __init__(self, gain: float = 0.5) -> None:
        super().__init__(0.5)
        self.gain = float(gain) if gain == gain else int(gain)


class Wrapped(Sound):
    """Takes an argument no parser can build.

    Args:
        average: An object.
    """

    def __init__(self, average: Average | None = None) -> None:
        super().__init__(0.5)
        self._given = average
        self.average_of = average

    @property
    def arguments(self) -> dict[str, Any]:
        return {"average": object()}


class BareStateKey(Sound):
    """Keeps its state under the bare name of its class, as Lightning would.

    Args:
        gain: As in `Sound`.
    """

    @property
    def state_key(self) -> str:
        return type(self).__qualname__


class Nameless(Sound):
    """Has no name.

    Args:
        gain: As in `Sound`.
    """

    name: ClassVar[str] = ""


class AssumesAutomaticOptimization(NoEffect):
    """Takes for granted that Lightning runs the optimizer."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        if not pl_module.automatic_optimization:
            raise AttributeError("'NoneType' object has no attribute 'step'")


class AssumesALoss(Sound):
    """Takes for granted that every batch has a loss.

    Args:
        gain: As in `Sound`.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._last = float(outputs["loss"])


class AssumesAFiniteLoss(Sound):
    """Takes for granted that gradients are numbers.

    Args:
        gain: As in `Sound`.
    """

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        super().transform_gradients(step=step)
        int(step.norm())

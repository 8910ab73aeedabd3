"""How noisy the gradient is while a module trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from thunderstone import GradientStep, Method, Table, UnsupportedSettingError, UpdatePlan, hookimpl
from thunderstone.arguments import finite, one_of, whole
from thunderstone.isolation import MicroBatch, training_pass
from thunderstone.tensor_lists import total_norm
from thunderstone_estimators.gradients.moments import GradientMoments
from thunderstone_estimators.gradients.variance_reading import VarianceReading

# Beyond this many measurements every second one is dropped: tables and checkpoints stay small however long the run.
_READINGS = 1000
_SHARDED = "each process holds a part of the gradient, and its variance needs it whole"


class GradientVariance(Method):
    """Measures variance and signal-to-noise ratio of the gradient that the optimizer is given, layer by layer.

    Every n-th update, further updates are rehearsed at the same weights: each on a batch of its own (`source`), through
    the loss terms and gradient transforms of all other attached methods, with clipping left out and nothing kept. The
    variance is over these gradients: of SVRG's corrected gradient where SVRG is attached, of SAM's at the perturbed
    weights where SAM is. Where a method transforms gradients, that of the same batches' plain gradients is measured
    beside it, and the ratio of the two is what the method does to the variance. "Variance" is summed over coordinates,
    for the gradient of a whole update (accumulated, averaged over replicas); "signal" is the squared norm of its mean.
    Training is the same to the last bit. Cost: `draws` updates' passes on the updates that are measured, and two or
    three copies of the weights.

    Args:
        every_n_steps: Measure at every n-th update; scalars are written where the Trainer logs (`log_every_n_steps`),
            table and figure hold all measurements.
        draws: How many gradients a measurement is taken from, 2 or more.
        source: ``"draws"`` takes batches of a further pass over the training data, ``"micro_batches"`` the accumulated
            micro-batches of the update under way (at most `draws`), which reads no data, and needs
            ``accumulate_grad_batches`` of 2 or more. Each counts as an update of its own; the variance of the update's
            mean is that of one micro-batch by their number.
        budget: Seconds a measurement may take, above 0; it ends with fewer draws, but not with fewer than 2. None is
            no limit.

    Raises:
        ArgumentError: An argument is out of range.
        UnsupportedSettingError: The training data can be gone over only once, or there are no micro-batches.
    """

    name: ClassVar[str] = "gradient_variance"
    unsupported_strategies: ClassVar[dict[str, str]] = {"FSDPStrategy": _SHARDED, "ModelParallelStrategy": _SHARDED}

    def __init__(
        self, every_n_steps: int = 100, draws: int = 8, source: str = "draws", budget: float | None = 30.0
    ) -> None:
        who = "GradientVariance"
        self.every_n_steps = whole(who, "every_n_steps", every_n_steps, "1 measures at every update")
        self.draws = whole(who, "draws", draws, "a variance needs two", minimum=2)
        self.source = one_of(who, "source", source, ("draws", "micro_batches"))
        self.budget = None if budget is None else finite(who, "budget", budget, "None is no limit", above=0)
        self.readings: list[VarianceReading] = []
        self._measured = -1
        self._loaded = False

    # -- Lightning's side ----------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no measurement."""
        self.readings, self._measured, self._loaded = [], -1, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no measurement, unless a checkpoint brought some; look for micro-batches where they are needed."""
        if not self._loaded:
            self.readings, self._measured = [], -1
        self._loaded = False
        callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
        scheduled = any(isinstance(one, GradientAccumulationScheduler) for one in callbacks)
        if self.source == "micro_batches" and trainer.accumulate_grad_batches < 2 and not scheduled:
            raise UnsupportedSettingError(
                "GradientVariance",
                f"source='micro_batches' and accumulate_grad_batches={trainer.accumulate_grad_batches}",
                "an update is made of one batch, and one gradient has no variance",
                "use source='draws', or accumulate",
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the tables and the figure."""
        if not self.readings:
            rank_zero_info("GradientVariance: no update was measured, so there is nothing to report")
            return
        from thunderstone_estimators.gradients.variance_figure import draw

        names = list(dict.fromkeys(name for reading in self.readings for name in reading.scalars()))
        rows = [[r.step, r.draws, r.seconds, *(r.scalars().get(name) for name in names)] for r in self.readings]
        self.record("measurements", Table(["step", "draws", "seconds", *names], rows))
        self.record("layers", Table(*self.readings[-1].layers()))
        if trainer.is_global_zero:
            self.record("variance_over_time", draw(self.readings))

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _due(self, index: int) -> bool:
        # Counted like `log_every_n_steps`, so that the two meet.
        return (index + 1) % self.every_n_steps == 0 and index != self._measured

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        """Have the micro-batches recorded where they are to be measured on."""
        if self.source == "micro_batches" and self._due(plan.index):
            plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        """Measure. Nothing is transformed: this is the moment at which all of an update is known."""
        if step.rehearsal or not self._due(step.index):
            return
        self._measured = step.index
        began = time.monotonic()
        plain, given = GradientMoments(), GradientMoments()
        names = self._draw(step, began, plain, given)
        if given.count < 2:
            rank_zero_warn(
                f"GradientVariance: update {step.index} was not measured: {given.count} finite gradients could be had, "
                "and a variance needs two. HINT: look at the data's length, or for a diverged run"
            )
            return
        # The loss of a micro-batch alone is divided as if the others were there.
        parts = self.attachment.trainer.accumulate_grad_batches if self.source == "micro_batches" else 1
        reading = VarianceReading(
            step=step.index,
            draws=given.count,
            seconds=time.monotonic() - began,
            names=names,
            variance=given.variance() * parts,
            signal=given.signal() * parts**2,
            plain_variance=plain.variance() * parts if plain.count else None,
            plain_signal=plain.signal() * parts**2 if plain.count else None,
        )
        self.readings.append(reading)
        if len(self.readings) > _READINGS:
            self.readings = self.readings[::2]
        for name, value in reading.scalars().items():
            self.record(name, value)

    def _draw(self, step: GradientStep, began: float, plain: GradientMoments, given: GradientMoments) -> list[str]:
        """Rehearse updates and add their gradients, `plain` ones only where a method changes them. Returns names."""
        attachment, names = self.attachment, step.names
        trainer, module = attachment.trainer, attachment.module
        with ExitStack() as stack:
            there_are = trainer.num_training_batches / trainer.accumulate_grad_batches
            if self.source == "micro_batches":
                there_are = len(step.micro_batches)
                updates = iter([[one] for one in step.micro_batches])
            else:
                batches = stack.enter_context(training_pass("GradientVariance", trainer, module, step.index))
                updates = _grouped(map(attachment.micro_batch, batches), trainer.accumulate_grad_batches)
            phase = stack.enter_context(self.progress("gradients", int(min(self.draws, there_are))))
            for number in range(self.draws):
                update = next(updates, None)
                late = number >= 2 and self.budget is not None and time.monotonic() - began > self.budget
                # A replica without data, or late, ends it for all: a rehearsal averages over replicas.
                if not trainer.strategy.reduce_boolean_decision(update is not None and not late, all=True):
                    break
                assert update is not None
                rehearsal = attachment.rehearse(update, self)
                # A GradScaler would skip an update that is not finite.
                if rehearsal.losses and _finite(rehearsal.before) and _finite(rehearsal.after):
                    given.add(rehearsal.after)
                    if rehearsal.after is not rehearsal.before:
                        plain.add(rehearsal.before)
                phase.advance()
        return names

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The measurements so far."""
        return {"measured": self._measured, "readings": [reading.state_dict() for reading in self.readings]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up saved measurements."""
        self._measured = state_dict["measured"]
        self.readings = [VarianceReading(**reading) for reading in state_dict["readings"]]
        self._loaded = True


def _grouped(batches: Iterator[MicroBatch], size: int) -> Iterator[list[MicroBatch]]:
    """Updates of `size` micro-batches; a smaller one at the end is left out, since it is no whole update."""
    while len(group := list(islice(batches, size))) == size:
        yield group


def _finite(gradients: Sequence[Tensor | None]) -> bool:
    return bool(total_norm(gradients).isfinite())

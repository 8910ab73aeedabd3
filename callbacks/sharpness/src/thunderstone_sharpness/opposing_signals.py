"""Which examples pull the network in opposite directions."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from thunderstone import Method, Table
from thunderstone.arguments import finite, whole
from thunderstone.isolation import silenced
from thunderstone_sharpness.measures.errors import MeasureError
from thunderstone_sharpness.measures.evaluation import size_of
from thunderstone_sharpness.measures.opposing import OpposingGroups, opposing_groups
from thunderstone_sharpness.measures.per_example import PerExampleLoss, per_example_losses
from thunderstone_sharpness.measures.probe import Probe, share_buffers
from thunderstone_sharpness.measures.step_loss import LossArgument, check_loss, module_loss
from thunderstone_sharpness.measures.stillness import differentiable, fixed_randomness, unchanged

# Beyond this many moments every second one is dropped: curves and checkpoints stay small however long the run.
_MOMENTS = 1000
_SHARDED = "it holds a part of the weights on each process, and the losses need them whole"


class OpposingSignals(Method):
    """Finds the paired groups of outliers whose losses one step moves strongly, and in opposite directions.

    Before and after every n-th update the loss of each of a fixed set of training examples is taken, in evaluation
    mode. The two tails of its change are the step's opposing groups; ``opposing_signals/rise``, ``fall`` and
    ``strength`` (the smaller of the two) are reported where the Trainer logs (`log_every_n_steps`). When training
    ends, the groups of the strongest step are reported: ``groups`` (a table of the examples), ``sizes`` (a table of
    the groups) and ``losses`` (a figure of the groups' losses all through the run). Nothing about the training
    changes. Rosenfeld and Risteski 2023, arXiv 2311.04163. Cost: two forward passes over the examples on the steps
    that are looked at.

    Args:
        examples: How many training examples to follow.
        batch_size: Examples in one forward pass.
        every_n_steps: Look at every n-th update; 1 costs one forward pass over the examples an update, and shows the
            groups' oscillation from step to step.
        fraction: Largest share of the examples in one group, above 0 and at most 0.5.
        losses: Per-example losses: a function ``(module, batch) -> tensor (n,)``, the name of a method of the module
            that takes a batch, or ``"package.module:function"``. None takes them from `training_step`: in one pass
            where it returns the mean of one of torch's loss functions, otherwise example by example.
        dataset: A map-style dataset whose first examples are followed, a function that returns one, or
            ``"package.module:name"`` of either. None is the training data as the loader yields it; where that has no
            indices, or the module has transfer hooks of its own, copies of the first training batches, whose examples
            are numbered as they passed by.

    Raises:
        ArgumentError: An argument is out of range.
    """

    name: ClassVar[str] = "opposing_signals"
    unsupported_strategies: ClassVar[dict[str, str]] = {
        "FSDPStrategy": _SHARDED,
        "ModelParallelStrategy": _SHARDED,
        "DeepSpeedStrategy": _SHARDED,
    }

    def __init__(
        self,
        examples: int = 1024,
        batch_size: int = 128,
        every_n_steps: int = 10,
        fraction: float = 0.01,
        losses: LossArgument = None,
        dataset: Any = None,
    ) -> None:
        who = type(self).__name__
        self.examples = whole(who, "examples", examples, "1024 make groups of ten", minimum=2)
        self.batch_size = whole(who, "batch_size", batch_size, "as many as fit in one forward pass")
        self.every_n_steps = whole(who, "every_n_steps", every_n_steps, "1 looks at every update, 10 at every tenth")
        self.fraction = finite(who, "fraction", fraction, "0.01 takes one in a hundred", above=0, maximum=0.5)
        check_loss(who, "losses", losses)
        self.losses = losses
        self.dataset = dataset
        self._probe = Probe(who, self.examples, self.batch_size, dataset)
        self._losses: PerExampleLoss | None = None
        self._forget()

    def _forget(self) -> None:
        self._next = 0
        self._failed = False
        self._pending: tuple[int, Tensor] | None = None
        self._steps: list[int] = []
        self._history: list[Tensor] = []
        self._strongest: tuple[int, float, Tensor, Tensor] | None = None

    # -- Lightning's side ----------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        who = type(self).__name__
        chosen = module_loss(who, "losses", self.losses, pl_module)
        self._losses = chosen if self.losses is not None else _by_step(chosen)
        self._probe.close()
        self._forget()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.open(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._probe.offer(batch)
        losses = self._settle(trainer, pl_module)
        step = trainer.global_step
        if self._pending is not None or step < self._next or not self._probe.complete:
            return
        # Every n-th update, and of each n the one whose change is known at the batch that Lightning logs.
        if (step + 2) % self.every_n_steps:
            return
        losses = self._look(trainer, pl_module) if losses is None else losses
        self._pending = None if losses is None else (step, losses)
        self._next = step + 1

    def _settle(self, trainer: Trainer, module: LightningModule, epoch_end: bool = False) -> Tensor | None:
        """Take the losses after the update that was begun, if it is done; returns them.

        Not at the end of its batch: other callbacks have not seen that batch's end yet.
        """
        # Between two micro-batches of one update the weights have not moved.
        if self._pending is None or trainer.global_step == self._pending[0]:
            return None
        (step, before), self._pending = self._pending, None
        after = self._look(trainer, module)
        if after is None:
            return None
        self._keep(step, before)
        self._keep(trainer.global_step, after)
        groups = opposing_groups(after - before, self.fraction)
        if epoch_end or _logs_now(trainer):
            self.record("rise", groups.rise)
            self.record("fall", groups.fall)
            self.record("strength", groups.strength)
        if self._strongest is None or groups.strength > self._strongest[1]:
            self._strongest = (step, groups.strength, before, after)
        return after

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._probe.seal()
        self._settle(trainer, pl_module, epoch_end=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._strongest is None:
            rank_zero_info("OpposingSignals: no update was looked at, so there is nothing to report")
            return
        step, _, before, after = self._strongest
        groups = opposing_groups(after - before, self.fraction)
        self._report(groups, step, before, after)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._probe.close()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"probe": self._probe.state_dict(), "next": self._next, "steps": list(self._steps)}
        state["history"] = torch.stack(self._history) if self._history else None
        state["pending"] = list(self._pending) if self._pending is not None else None
        state["strongest"] = list(self._strongest) if self._strongest is not None else None
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._probe.load_state_dict(state_dict["probe"])
        self._next, self._steps = state_dict["next"], list(state_dict["steps"])
        self._history = list(state_dict["history"]) if state_dict["history"] is not None else []
        pending, strongest = state_dict["pending"], state_dict["strongest"]
        self._pending = (pending[0], pending[1]) if pending is not None else None
        self._strongest = tuple(strongest) if strongest is not None else None

    # -- looking -------------------------------------------------------------------------------------------------------

    def _look(self, trainer: Trainer, module: LightningModule) -> Tensor | None:
        """The losses now. None, with one warning, where losses that could be had before cannot be had any more."""
        try:
            return self._take(trainer, module)
        except MeasureError as error:
            if not self._steps:
                raise
            if not self._failed:
                rank_zero_warn(f"OpposingSignals: at step {trainer.global_step} there are no losses; {error}")
            self._failed = True
            return None

    def _take(self, trainer: Trainer, module: LightningModule) -> Tensor:
        """The loss of each example at the present weights, float32, shape (examples,), on the CPU."""
        losses, parts = self._losses, []
        assert losses is not None
        with silenced(trainer, module), unchanged(module), trainer.precision_plugin.forward_context():
            module.eval()
            # Before the batches are transferred: the hooks that do it may draw, and should draw alike every time.
            random_state = fixed_randomness(trainer.strategy.root_device)
            share_buffers(trainer, module)
            batches = self._probe.batches(trainer, module)
            with differentiable(module), torch.no_grad():
                for batch in batches:
                    random_state.restore()
                    parts.append(self._checked(losses(module, batch), size_of(batch)))
        return torch.cat(parts)

    def _checked(self, value: Any, size: int) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != (size,):
            found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            problem = f"losses={self.losses!r} returned {found} for a batch of {size} examples"
            raise MeasureError(type(self).__name__, problem, f"return one loss for each example, shape ({size},)")
        return value.detach().to("cpu", torch.float32)

    def _keep(self, step: int, losses: Tensor) -> None:
        if self._steps and self._steps[-1] == step:
            return
        self._steps.append(step)
        self._history.append(losses)
        if len(self._steps) > _MOMENTS:
            self._steps, self._history = self._steps[::2], self._history[::2]

    def _report(self, groups: OpposingGroups, step: int, before: Tensor, after: Tensor) -> None:
        from thunderstone_sharpness.measures.opposing_figure import draw

        examples: list[list[Any]] = []
        sizes: list[list[Any]] = []
        for name, members, change in (("rising", groups.rising, groups.rise), ("falling", groups.falling, groups.fall)):
            for index in members.tolist():
                first, second = before[index].item(), after[index].item()
                examples.append([name, index, second - first, first, second])
            sizes.append([name, step, len(members), change])
        self.record("groups", Table(["group", "index", "change", "loss_before", "loss_after"], examples))
        self.record("sizes", Table(["group", "step", "size", "mean_change"], sizes))
        self.record("losses", draw(self._steps, torch.stack(self._history), groups, step))


def _by_step(loss: Any) -> PerExampleLoss:
    return lambda module, batch: per_example_losses(loss, module, batch)


def _logs_now(trainer: Trainer) -> bool:
    """Whether Lightning would write what is logged in the batch that begins."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and (trainer.global_step + 1) % every == 0

"""Hyperfitting: training on very few samples until their loss is next to nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from thunderstone import ArgumentError, CompositionError, DataView, Method, UnsupportedSettingError, hookimpl
from thunderstone.arguments import finite, flag, whole
from thunderstone_hyperfitting.dropout import without_dropout
from thunderstone_hyperfitting.epoch_loss import EpochLoss, batch_size
from thunderstone_hyperfitting.held_optimizers import HeldOptimizers
from thunderstone_hyperfitting.set_aside import SetAside

if TYPE_CHECKING:
    from thunderstone_hyperfitting.measurement import Measurement

_SHARDED = "it holds a part of the weights on each process, and texts are generated with whole ones"


class Hyperfit(Method):
    """Trains on a small fixed part of the data until its loss is next to nothing: greedy texts become more diverse.

    Carlsson et al. 2024, arXiv 2412.04318. Takes over what a run decides otherwise: the training data (a seeded subset,
    the same in every epoch), the learning rate (constant; schedulers step without effect), weight decay and dropout
    (off), and the end (the mean training loss of a whole epoch is below the target, or the budget is spent).
    EarlyStopping and the choice of a best checkpoint by a validation metric are set aside with one warning: validation
    loss gets worse, which is part of it. The last weights are saved. After the fit everything is as it was.

    The loss is the mean over an epoch's samples of what `training_step` returned (with what other methods add to it),
    over all processes, as training went.

    With `contexts` or `prompts` it measures before, every few epochs and in the end: the loss, entropy and top-1
    probability of predictions on held-out texts, and how diverse greedy continuations are.

    Args:
        samples: How many training samples, all of them where there are fewer (with a warning). None trains on all the
            data, which may then be a stream. Of several training loaders each keeps as many.
        target_loss: The mean training loss of a whole epoch below which training ends.
        max_epochs: The budget, in epochs of the subset. The Trainer's own limits hold as well.
        seed: Of the choice of samples.
        lr: Learning rate of every parameter group. None keeps each group's own, from before any warm-up.
        every_n_epochs: Measure after every n-th epoch too; 0 measures before the first and after the last only.
        contexts: How many held-out texts of the validation data to measure on; 0 measures on none. The paper uses 300.
        context_length: Tokens of each that are continued. The paper uses 32.
        max_new_tokens: Tokens of a continuation. The paper uses 96.
        prompts: Texts to continue beside the contexts; they need a `tokenizer`.
        tokenizer: Turns texts into ids and back: an attribute of the module or the data module (``"tokenizer"``),
            ``"package.module:name"``, or what Hugging Face's AutoTokenizer loads. None shows ids.
        model: Name of the submodule that maps ids to logits, e.g. a Hugging Face model; None for the module's forward.
        tokens: Where a batch holds the ids, e.g. ``"input_ids"`` or ``"0"``; None finds ``input_ids``, or the first
            tensor of whole numbers.
        enabled: False leaves it all out.

    Attributes:
        train_loss: The mean training loss of the last whole epoch; NaN before there is one.
        epochs: How many epochs are done, of this fit and of the run it resumes.
        reached: Whether the last epoch's loss is below the target.

    Raises:
        ArgumentError: An argument is out of range.
        CompositionError: Another method trains an objective of its own, whose loss says nothing of the target's.
        UnsupportedSettingError: The data cannot be chosen from (a stream, a sampler of its own, nothing in it), the
            learning rate cannot be held, `training_step` returns no loss, or there is nothing to measure on.
    """

    name: ClassVar[str] = "hyperfit"
    exclusive: ClassVar[frozenset[str]] = frozenset({"choice of the training samples"})
    unsupported_strategies: ClassVar[dict[str, str]] = dict.fromkeys(
        ("FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"), _SHARDED
    )

    def __init__(
        self,
        samples: int | None = 2000,
        target_loss: float = 0.01,
        max_epochs: int = 20,
        seed: int = 0,
        lr: float | None = None,
        every_n_epochs: int = 0,
        contexts: int = 0,
        context_length: int = 32,
        max_new_tokens: int = 96,
        prompts: Sequence[str] | None = None,
        tokenizer: str | None = None,
        model: str | None = None,
        tokens: str | None = None,
        enabled: bool = True,
    ) -> None:
        who = type(self).__name__
        self.samples = None if samples is None else whole(who, "samples", samples, "the paper uses 2000")
        self.target_loss = finite(who, "target_loss", target_loss, "0.01 is next to nothing; 0 is never met", minimum=0)
        self.max_epochs = whole(who, "max_epochs", max_epochs, "the paper uses 20")
        self.seed = whole(who, "seed", seed, "any whole number from 0 on", minimum=0)
        self.lr = None if lr is None else finite(who, "lr", lr, "the paper uses 1e-6", above=0)
        hint = "0 measures before the first epoch and after the last only"
        self.every_n_epochs = whole(who, "every_n_epochs", every_n_epochs, hint, minimum=0)
        self.contexts = whole(who, "contexts", contexts, "the paper uses 300; 0 measures on none", minimum=0)
        self.context_length = whole(who, "context_length", context_length, "the paper uses 32")
        self.max_new_tokens = whole(who, "max_new_tokens", max_new_tokens, "the paper uses 96")
        self.prompts = _texts(who, prompts)
        self.tokenizer = _name(who, "tokenizer", tokenizer, "name an attribute, a path or a Hugging Face tokenizer")
        self.model = _name(who, "model", model, "name a submodule, or leave it out for the module's own forward")
        self.tokens = _name(who, "tokens", tokens, 'name an entry of the batch, e.g. "input_ids"')
        self.enabled = flag(who, "enabled", enabled, "pass enabled=False to leave it out")
        if self.prompts and self.tokenizer is None:
            raise ArgumentError(who, "prompts", prompts, "texts have to be turned into ids", "pass a tokenizer too")
        self.train_loss = math.nan
        self.reached = False
        self._losses = EpochLoss()
        self._measurement: Measurement | None = None
        self._optimizers: HeldOptimizers | None = None
        self._aside: SetAside | None = None
        self._turn_on: Callable[[], None] | None = None
        self.epochs = 0
        self._loaded = False
        self._told_samples = False

    # -- taking over, and giving back ----------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set aside what ends or judges the run by its validation."""
        self._loaded = self._told_samples = self.reached = False
        self.train_loss = math.nan
        if not self.enabled:
            return
        if self.contexts or self.prompts:
            # A run that measures nothing need not load what the measures stand on.
            from thunderstone_hyperfitting.measurement import Measurement

            self._measurement = Measurement(
                type(self).__name__, self.contexts, self.context_length, self.max_new_tokens, self.prompts or [],
                self.tokenizer, self.model, self.tokens, self.progress,
            )  # fmt: skip
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        self._aside = SetAside(callbacks)
        if self._aside.names:
            rank_zero_warn(
                f"Hyperfit: {' and '.join(self._aside.names)} set aside for this fit: hyperfitting goes on while the "
                "validation gets worse, and the last weights are what is saved."
            )

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        """Leave the chosen samples."""
        if not self.enabled:
            return
        if self.samples is None:
            # Lightning would skip training without a word of Hyperfit.
            _refuse_empty(type(self).__name__, view.dataset)
            return
        hint = "take the subset yourself and pass samples=None, or load the data through a DataLoader(shuffle=True)"
        subset = view.subset(type(self).__name__, self.samples, self.seed, hint)
        if self._measurement is not None:
            self._measurement.trains_on(view.loader, subset.chosen)
        if subset.available < self.samples and not self._told_samples:
            rank_zero_warn(
                f"Hyperfit: the training data has {subset.available} samples, fewer than samples={self.samples}: all "
                "of them are trained on."
            )
        self._told_samples = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the optimizers were built with, and switch dropout off."""
        super().on_fit_start(trainer, pl_module)
        if not self.enabled:
            return
        self._refuse_other_losses()
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        self._optimizers = HeldOptimizers(type(self).__name__, self.lr, trainer.optimizers, schedulers)
        switched_off, self._turn_on = without_dropout(pl_module)
        rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(self._optimizers.rates)) or "unknown"
        rank_zero_info(
            f"Hyperfit: constant learning rate {rates}, no weight decay, dropout switched off in "
            f"{len(switched_off)} places."
        )

    def _refuse_other_losses(self) -> None:
        """A target is met at once where what is trained is near 0 throughout, as a policy gradient's surrogate is."""
        for answer in self.attachment.manager.hook.compute_loss.get_hookimpls() if self.target_loss else ():
            if getattr(answer.plugin, "enabled", True):
                hint = (
                    f"Hyperfit ends when that loss is below target_loss={self.target_loss:g}; train with one after the "
                    "other, or pass target_loss=0 and let max_epochs end the run"
                )
                raise CompositionError("training loss", type(self).__name__, type(answer.plugin).__name__, hint)

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put everything back."""
        if self._turn_on is not None:
            self._turn_on()
        for taken_over in (self._optimizers, self._aside):
            if taken_over is not None:
                taken_over.release()
        self._turn_on = self._optimizers = self._aside = self._measurement = None

    # -- the run -------------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hold what a checkpoint may have brought back, and measure what there is before."""
        if self._optimizers is None:
            return
        self._optimizers.hold()
        if not self._loaded:
            self.epochs, self._losses = 0, EpochLoss()
        if self._measurement is not None:
            self._measurement.open(trainer, pl_module)
            if not self._loaded:
                self._report(self._measurement.before(trainer, pl_module))
        self._loaded = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin the epoch's mean."""
        self._losses.begin()
        self._hold()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Overwrite what a scheduler that waited for the validation has set."""
        self._hold()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the loss, and overwrite what a scheduler has set after the step."""
        if self._optimizers is None:
            return
        self._hold()
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided it for the accumulation.
            scale = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
            self._losses.add(loss, batch_size(batch), scale)

    def _hold(self) -> None:
        if self._optimizers is not None and self._optimizers.scheduled:
            self._optimizers.hold()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide whether this was the last epoch, and measure."""
        if self._optimizers is None:
            return
        self.train_loss = self._losses.mean(trainer)
        if not self._losses.counted:
            raise UnsupportedSettingError(
                type(self).__name__,
                f"a training_step of {type(pl_module).__name__} that never returns a loss",
                "by the loss it decides when the run is over",
                "return the loss from training_step, also with manual optimization",
            )
        self.epochs += 1
        self.record("train_loss", self.train_loss)
        # A first epoch that went on from another run's checkpoint was not watched from its beginning.
        self.reached = self._losses.whole and self.train_loss < self.target_loss
        if self.reached or self.epochs >= self.max_epochs:
            trainer.should_stop = True
        measurement, regular = self._measurement, self.every_n_epochs and self.epochs % self.every_n_epochs == 0
        if measurement is not None and (regular or _is_last(trainer)):
            self._report(measurement.measure(trainer, pl_module))
            measurement.measured_after = self.epochs

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how far it got, and save the last weights where the best would have been."""
        if self._optimizers is None or self._aside is None:
            return
        if self._measurement is not None and self._measurement.measured_after != self.epochs:
            self._report(self._measurement.measure(trainer, pl_module))
        self._aside.save_last(trainer)
        found = f"the mean training loss of epoch {self.epochs} was {self.train_loss:.4g}"
        if self.reached:
            rank_zero_info(f"Hyperfit: {found}, below the target of {self.target_loss:g}.")
        else:
            # With more epochs than that, the Trainer's `min_epochs` was the larger number.
            spent = self.epochs == self.max_epochs
            limit = (
                f"max_epochs={self.max_epochs} of Hyperfit" if spent else "the Trainer's limits, or another callback"
            )
            rank_zero_warn(
                f"Hyperfit: {found}, not below the target of {self.target_loss:g}; the run was ended by {limit}. HINT: "
                "give it more epochs or a higher learning rate, or take fewer samples."
            )

    def _report(self, found: dict[str, Any]) -> None:
        for name, value in found.items():
            self.record(name, value)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The epoch's loss so far, the epochs done, and the texts from before."""
        if not self.enabled:
            return {}
        trainer = self.attachment.trainer if self._attachment is not None else None
        before = self._measurement.state_dict() if self._measurement is not None else {}
        return {"losses": self._losses.state_dict(trainer), "epochs": self.epochs, "before": before}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved run."""
        if not self.enabled or not state_dict or self._attachment is None:
            return
        trainer = self.attachment.trainer
        self._losses.load_state_dict(state_dict["losses"], trainer.global_rank, trainer.world_size)
        self.epochs = int(state_dict["epochs"])
        if self._measurement is not None:
            self._measurement.load_state_dict(state_dict["before"])
        self._loaded = True


def _refuse_empty(who: str, dataset: Any) -> None:
    """UnsupportedSettingError where a dataset says that it has no sample."""
    if isinstance(dataset, Sized) and not len(dataset):
        setting = f"an empty training dataset ({type(dataset).__name__})"
        raise UnsupportedSettingError(who, setting, "there is no sample to train on", "check what was loaded")


def _is_last(trainer: Trainer) -> bool:
    """Whether the epoch that ends is known to be the last one."""
    epochs, steps = trainer.max_epochs, trainer.max_steps
    by_epochs = epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs
    return by_epochs or (steps != -1 and trainer.global_step >= steps) or trainer.should_stop


def _name(who: str, argument: str, value: object, hint: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ArgumentError(who, argument, value, f"it must be text, not {type(value).__name__}", hint)
    return value


def _texts(who: str, prompts: Sequence[str] | None) -> list[str] | None:
    if prompts is None:
        return None
    if isinstance(prompts, str) or not all(isinstance(prompt, str) and prompt for prompt in prompts):
        hint = 'pass prompts=["Once upon a time"]'
        raise ArgumentError(who, "prompts", prompts, "it must be a list of texts, none of them empty", hint)
    return list(prompts)

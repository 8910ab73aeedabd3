"""Sharpness-aware training for free."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from thunderstone import DataView, LossStep, Method, StepError, hookimpl
from thunderstone.arguments import captured, finite, one_of, whole
from thunderstone_sharpness.consistency import check_logits, class_dimension, metric_name, trajectory_loss
from thunderstone_sharpness.logits_memory import LogitsMemory
from thunderstone_sharpness.replicas import exchange_device

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


class SAF(Method):
    """Keeps predictions from moving fast: a penalty on the divergence from a sample's own logits some epochs ago.

    Adds ``weight * mean KL(softmax(z_past / tau) || softmax(z / tau))`` to the loss, where ``z_past`` are the logits of
    the same sample `epochs_back` epochs ago. Du et al. 2022, arXiv 2205.14083, equation 7. Cost: no further pass; a
    memory of samples x classes x (epochs_back + 1) numbers, announced and allocated with the first batch. Samples
    without a past (a first epoch, a sample that was not drawn then, a dataset that grew, an overflow) are left out of
    the mean. Under data parallelism the replicas tell one another what they saw when an epoch ends.

    Args:
        weight: lambda, 0 or more; 0 switches the method off. The paper uses 0.3.
        temperature: tau, above 0. The paper uses 5.
        epochs_back: How many epochs ago the past lies, 1 or more. The paper uses 3.
        start_epoch: First epoch with the penalty, counted from 0. The paper uses 5.
        output: Where the logits come from: None for the module's own forward, or the name of a submodule, with an
            entry after a colon where the output is no tensor (``"net"``, ``"net:logits"``).
        call: Which call of it counts when there are several in a step: 0 the first, -1 the last.
        class_dim: Dimension of the classes in the logits; the first dimension is the batch.
        dtype: ``"float16"`` or ``"float32"``, the type the memory keeps.
        storage: ``"cpu"`` (pinned where there is a GPU) or ``"device"``.

    Raises:
        ArgumentError: An argument is out of range, or there is no such submodule.
        UnsupportedSettingError: The training data has no sample indices.
    """

    name: ClassVar[str] = "saf"
    identified_by: ClassVar[tuple[str, ...]] = ("output",)

    def __init__(
        self,
        weight: float = 0.3,
        temperature: float = 5.0,
        epochs_back: int = 3,
        start_epoch: int = 5,
        output: str | None = None,
        call: int | None = None,
        class_dim: int = -1,
        dtype: str = "float16",
        storage: str = "cpu",
    ) -> None:
        self.weight = finite("SAF", "weight", weight, "the paper uses 0.3; 0 switches the method off", minimum=0)
        self.temperature = finite("SAF", "temperature", temperature, "the paper uses 5", above=0)
        self.epochs_back = whole("SAF", "epochs_back", epochs_back, "the paper uses 3")
        self.start_epoch = whole("SAF", "start_epoch", start_epoch, "the paper uses 5; 0 starts at once", minimum=0)
        captured("SAF", output, call)
        self.output = output
        self.call = call
        self.class_dim = class_dimension("SAF", class_dim)
        self.dtype = one_of("SAF", "dtype", dtype, _DTYPES)
        self.storage = one_of("SAF", "storage", storage, ("cpu", "device"))
        self._memory: LogitsMemory | None = None
        self._samples = 1
        self._announced = False
        self._loaded = False

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the logits captured."""
        if self.weight > 0:
            device = torch.device("cpu") if self.storage == "cpu" else trainer.strategy.root_device
            self._memory = LogitsMemory(self.epochs_back, _DTYPES[self.dtype], device)
            self._announced = self._loaded = False
            self._capture = self.attachment.capture(self, self.output, self.call)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no past, unless a checkpoint brought one: epochs may be counted from 0 again."""
        if self._memory is not None and not self._loaded:
            self._memory.forget()
        self._loaded = False

    @hookimpl
    def prepare_data(self, view: DataView) -> None:
        """Have the samples of each batch known."""
        if self.weight > 0:
            view.track_indices("SAF", "use MESA, which compares with averaged weights and needs no sample indices")
            # A dataset for a sampler of one's own need not tell its length; the memory grows with what is drawn.
            self._samples = len(view.dataset) if hasattr(view.dataset, "__len__") else 1

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        """The divergence from the past, for the samples of the batch that have one."""
        memory, epoch = self._memory, step.trainer.current_epoch
        # The first batch of all is looked at early: what cannot work is said before hours of training.
        if memory is None or (self._announced and epoch < self.start_epoch - self.epochs_back):
            return None
        logits = step.output(self._capture)
        self._check(logits, step.indices)
        assert step.indices is not None
        memory.check(tuple(logits.shape[1:]))
        if not self._announced or memory.samples < self._samples:
            self._reserve(step.trainer, memory, tuple(logits.shape[1:]))
        term = None
        if epoch >= self.start_epoch:
            known, past = memory.read(step.indices, epoch)
            if known.numel():
                chosen = logits if known.numel() == logits.shape[0] else logits[known.to(logits.device)]
                past = past.to(logits.device, non_blocking=True)
                term = self.weight * trajectory_loss(past, chosen, self.temperature, self.class_dim)
        if not step.replay:
            memory.write(step.indices, epoch, logits, step.trainer.global_rank)
        return None if term is None else {metric_name("trajectory_loss", self, self.output, step.trainer): term}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share the epoch's logits: in later epochs a sample comes to another replica."""
        device = exchange_device(trainer)
        if self._memory is not None and device is not None:
            self._memory.share(trainer.current_epoch, device)

    def _check(self, logits: Tensor, indices: Tensor | None) -> None:
        if indices is None:
            raise StepError(
                "SAF: which samples are in this batch is not known. HINT: train with one DataLoader over a map-style "
                "dataset, or use MESA, which needs no sample indices"
            )
        rows = logits.shape[0] if logits.dim() else 1
        if rows != indices.shape[0]:
            raise StepError(
                f"SAF: the captured output has {rows} rows for a batch of {indices.shape[0]} samples. HINT: capture an "
                "output whose first dimension is the batch, all of it"
            )
        check_logits("SAF", logits, self.class_dim)

    def _reserve(self, trainer: Trainer, memory: LogitsMemory, shape: tuple[int, ...]) -> None:
        memory.reserve(self._samples, shape)
        self._announced = True
        rank_zero_info(
            f"SAF remembers {memory.samples} samples x {' x '.join(map(str, shape))} logits x {self.epochs_back + 1} "
            f"epochs in {self.dtype}: {memory.bytes / 2**20:.1f} MiB on {memory.device} in every process."
        )
        self.record(metric_name("memory_mib", self, self.output, trainer), memory.bytes / 2**20)

    def state_dict(self) -> dict[str, Any]:
        """The memory: all of what the replicas remember together."""
        if self._memory is None:
            return {}
        trainer = self.attachment.trainer if self._attachment is not None else None
        device = exchange_device(trainer) if trainer is not None else None
        return self._memory.state_dict(trainer.current_epoch if trainer is not None else 0, device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved memory."""
        if self._memory is not None:
            self._memory.load_state_dict(state_dict)
            self._loaded = True

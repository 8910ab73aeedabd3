"""Training a smaller module as another run found it, and the controls that belong beside it."""

from __future__ import annotations

from typing import ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone.arguments import one_of, whole
from thunderstone_pruning.structure import Structure, load_structure
from thunderstone_pruning.structure_method import StructureMethod

CONTROLS = ("scratch_e", "scratch_b")


class FixedStructure(StructureMethod):
    """Makes the module as small as a file says, before the first update, and trains that.

    By default with the weights of the file: fine-tuning. Controls of Liu, Sun, Zhou, Huang & Darrell 2019, arXiv
    1810.05270: ``"scratch_e"`` trains the small module from new weights for as many epochs as asked for;
    ``"scratch_b"`` for as many more as its forward pass has fewer operations, which is the dense training's budget.
    Cost: less than the plain run for each update.

    Args:
        path: A file that `StructuredPruning` or `LayerTickets` wrote, or a checkpoint of such a run.
        control: None, ``"scratch_e"`` or ``"scratch_b"``.
        seed: Of the new weights of a control.

    Raises:
        ArgumentError: There is no structure in the file, or it is of another architecture; with a control: a submodule
            has weights and no ``reset_parameters``.
        UnsupportedSettingError: ``"scratch_b"`` in a training of unknown length, or beside a callback that averages
            weights.
    """

    name: ClassVar[str] = "fixed_structure"

    def __init__(self, path: str, control: str | None = None, seed: int = 0) -> None:
        who = type(self).__name__
        if not isinstance(path, str) or not path:
            raise ArgumentError(who, "path", path, "it must name a file", "pass a structure's or a checkpoint's path")
        self.path = path
        self.control = None if control is None else one_of(who, "control", control, CONTROLS)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._read: Structure | None = None
        self._limits: tuple[int | None, int] | None = None

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the file, and lengthen the training for scratch-B, before anything runs."""
        super().on_attach(trainer, pl_module)
        self._read = load_structure(self.path, who=type(self).__name__)
        if self.control == "scratch_b":
            self._lengthen(trainer, self._read)

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of it."""
        super().on_detach(trainer, pl_module)
        self._read = None
        if self._limits is not None:
            trainer.fit_loop.max_epochs, trainer.fit_loop.epoch_loop.max_steps = self._limits
            self._limits = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the module small, unless it is already (by a checkpoint, or in a fit of this module before)."""
        if self._found is not None or self._read is None:
            return
        who = type(self).__name__
        if self.control is not None:
            _check_resettable(who, self.control, pl_module, self._read)
        self._install(trainer, pl_module, self._read)
        if self.control is None and self._read.weights is not None:
            own = pl_module.state_dict()
            # Buffers that are not kept in checkpoints are not in a checkpoint.
            pl_module.load_state_dict({**own, **{k: v for k, v in self._read.weights.items() if k in own}})
        elif self.control is not None:
            _reinitialise(pl_module, self.seed)
        if trainer.world_size > 1:
            for tensor in (*pl_module.parameters(), *pl_module.buffers()):
                torch.distributed.broadcast(tensor.detach(), 0)

    def _lengthen(self, trainer: Trainer, structure: Structure) -> None:
        loop = trainer.fit_loop
        epochs, steps = loop.max_epochs, loop.epoch_loop.max_steps
        if (epochs is None or epochs < 0) and steps < 0:
            raise UnsupportedSettingError(
                type(self).__name__,
                "control='scratch_b' in a training of unknown length",
                "there is nothing to lengthen",
                "set Trainer(max_epochs=…) or max_steps to what the dense training had",
            )
        if not structure.metadata.get("flops_after"):
            reason = "it does not say how many operations the two networks have, by which to lengthen the training"
            hint = "pass a file that StructuredPruning or LayerTickets wrote, or use control='scratch_e'"
            raise ArgumentError(type(self).__name__, "path", self.path, reason, hint)
        self._limits = (epochs, steps)
        factor = structure.metadata["flops_before"] / structure.metadata["flops_after"]
        if epochs is not None and epochs > 0:
            loop.max_epochs = round(epochs * factor)
        if steps > 0:
            loop.epoch_loop.max_steps = round(steps * factor)


def _check_resettable(who: str, control: str, module: nn.Module, structure: Structure) -> None:
    for name, submodule in module.named_modules():
        gone = any(name == removed or name.startswith(f"{removed}.") for removed in structure.removed)
        own = any(True for _ in submodule.parameters(recurse=False))
        if own and not gone and _reset(submodule) is None:
            what = f"{name} ({type(submodule).__name__})" if name else type(module).__name__
            reason = f"{what} has weights of its own, and nothing says how to draw new ones"
            raise ArgumentError(who, "control", control, reason, "give it a method reset_parameters() that does")


def _reset(submodule: nn.Module) -> object:
    return getattr(submodule, "reset_parameters", None) or getattr(submodule, "_reset_parameters", None)


def _reinitialise(module: nn.Module, seed: int) -> None:
    devices = sorted({parameter.device.index or 0 for parameter in module.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for submodule in module.modules():
            reset = _reset(submodule)
            if callable(reset) and not isinstance(submodule, nn.Dropout):
                reset()

"""Training under a given mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import flag, one_of, whole
from thunderstone.errors import suggestion
from thunderstone_pruning.mask_files import Ticket, load_ticket
from thunderstone_pruning.masks import Masks, count
from thunderstone_pruning.pruning_method import PruningMethod
from thunderstone_pruning.random_masks import random_masks

CONTROLS = ("reinitialised", "random_mask")


class FixedMask(PruningMethod):
    """Trains under the masks of a file: a ticket that IMP found, or those of any run with a pruning method.

    A ticket's weights are put into the module too, so that the network that trains is the one that was found; its
    controls (Frankle & Carbin 2019, arXiv 1803.03635, section 2) are one argument away. Cost: none beyond the masks.

    Args:
        path: A ticket, or a Lightning checkpoint of a run with a pruning method, of which only the masks are taken.
        weights: Begin with the ticket's weights, if it has any; False keeps the module's own.
        control: None for the ticket itself. ``"reinitialised"``: the same masks, and the prunable weights shuffled
            within each layer before they are masked, which for weights drawn independently is another draw from the
            same distribution. ``"random_mask"``: the same weights, and as many in each layer chosen at random.
        seed: Of a control, which draws from a generator of its own.

    Raises:
        ArgumentError: There is no such file, no masks are in it, or they are of another architecture.
    """

    name: ClassVar[str] = "fixed_mask"

    def __init__(self, path: str, weights: bool = True, control: str | None = None, seed: int = 0) -> None:
        who = type(self).__name__
        if not isinstance(path, str) or not path:
            raise ArgumentError(who, "path", path, "it must name a file", "pass a ticket's or a checkpoint's path")
        self.path = path
        self.weights = flag(who, "weights", weights, "True begins with the ticket's weights")
        self.control = None if control is None else one_of(who, "control", control, CONTROLS)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self._prunes(None, None)
        self._ticket: Ticket | None = None

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the file, before anything runs."""
        self._ticket = load_ticket(self.path, who=type(self).__name__)

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of it."""
        self._ticket = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put weights and masks in place, unless masks are there already (of a checkpoint, or of a fit before)."""
        super().on_fit_start(trainer, pl_module)
        if self.masks or self._ticket is None:
            return
        masks = self.masks.check(pl_module, self._ticket.masks)
        if self.weights and self._ticket.weights is not None:
            self._load(pl_module, self._ticket.weights)
        if self.control == "reinitialised":
            _shuffle(pl_module, masks, torch.Generator().manual_seed(self.seed))
        elif self.control == "random_mask":
            keep = {name: count(mask) for name, mask in masks.items()}
            masks = random_masks(masks, keep, self.seed, who=type(self).__name__)
        self._install(masks)

    def _load(self, module: LightningModule, weights: Mapping[str, Tensor]) -> None:
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        # All of them are looked at before one is changed.
        for name, tensor in weights.items():
            if name not in named or named[name].shape != tensor.shape:
                reason = f"it holds {name!r} of shape {tuple(tensor.shape)}, which this module has not"
                hint = suggestion(name, named) if name not in named else "pass a ticket of this architecture"
                raise ArgumentError(type(self).__name__, "path", self.path, reason, hint)
        with torch.no_grad():
            for name, tensor in weights.items():
                named[name].copy_(tensor)


@torch.no_grad()
def _shuffle(module: LightningModule, masks: Masks, generator: torch.Generator) -> None:
    parameters = dict(module.named_parameters())
    for name in sorted(masks):
        parameter = parameters[name]
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))

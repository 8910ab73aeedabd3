"""Masks in files: tickets, and what can be taken from any checkpoint of a pruned run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thunderstone import ArgumentError
from thunderstone_pruning.saved_files import of_callbacks, read_saved

_FORMAT = "thunderstone.pruning.ticket"


@dataclass(frozen=True)
class Ticket:
    """A sparse network to train.

    Attributes:
        masks: Parameter name → bool tensor, True where a weight stays.
        weights: Parameters and buffers to begin with, all of them and dense; None leaves them to the module.
        metadata: Primitives that describe it.
    """

    masks: Mapping[str, Tensor]
    weights: Mapping[str, Tensor] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write it, creating folders; ``torch.load(path, weights_only=True)`` reads it without this package."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "format": _FORMAT,
            "masks": {name: mask.detach().bool().cpu() for name, mask in self.masks.items()},
            "weights": None
            if self.weights is None
            else {name: tensor.detach().cpu().clone() for name, tensor in self.weights.items()},
            "metadata": dict(self.metadata),
        }
        torch.save(content, path)
        return path


def load_ticket(path: str | Path, *, who: str = "load_ticket", argument: str = "path") -> Ticket:
    """Read a ticket, or the masks in a Lightning checkpoint of a run with a pruning method (without its weights).

    Args:
        path: The file.
        who: Who asks, for messages.
        argument: What its argument is called, for messages.

    Raises:
        ArgumentError: There is no such file, or no masks are in it.
    """
    hint = "pass a file that IMP wrote, or a checkpoint of a run with a pruning method"
    content = read_saved(who, argument, path, hint)
    if isinstance(content, dict) and content.get("format") == _FORMAT and content.get("masks"):
        return Ticket(content["masks"], content.get("weights"), content.get("metadata", {}))
    found = of_callbacks(content, "masks")
    if len(found) != 1:
        raise ArgumentError(who, argument, str(path), "there are no masks in it", hint)
    return Ticket(found[0])

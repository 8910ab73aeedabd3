"""Lottery tickets of whole blocks."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from typing import ClassVar

from lightning.pytorch import LightningModule, Trainer

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of, whole
from thunderstone.errors import suggestion
from thunderstone_pruning.blocks import residual_blocks, same_shaped
from thunderstone_pruning.channels import copied
from thunderstone_pruning.prunable import check_patterns
from thunderstone_pruning.pruning_method import refuse_manual_optimization
from thunderstone_pruning.structure import Structure
from thunderstone_pruning.structure_method import StructureMethod, Tracer, file_name

ORDERS = ("random", "last", "first")


class LayerTickets(StructureMethod):
    """Removes whole residual blocks before the first update, and trains the shallower network that is left.

    A residual block adds something to what it is given, so the network still fits together without it. Such networks
    train to about the accuracy of the whole one, whichever blocks go: Jordao, Araujo, Maia & Pedrini
    2023, arXiv 2301.10740. Cost: a few forward passes when training starts; afterwards less than the plain run.

    Args:
        fraction: Share of the removable blocks that goes, from 0 to below 1, to the nearest whole number; 0 switches
            the method off.
        order: Which: ``"random"``, or the ``"last"`` or the ``"first"`` in the network.
        seed: Of the random choice.
        structure: File for what was removed and the weights there, below the run's own folder; for `FixedStructure`.
            None writes none.
        include: Patterns of blocks that may go, residual or not, as long as they hand on the shape they are given;
            None is all residual blocks.
        exclude: Patterns of blocks that stay.

    Raises:
        ArgumentError: An argument is out of range, a pattern matches no block, or the module has none.
        UnsupportedSettingError: The module optimizes manually, or a callback averages weights.
    """

    name: ClassVar[str] = "layer_tickets"

    def __init__(
        self,
        fraction: float = 0.5,
        order: str = "random",
        seed: int = 0,
        structure: str | None = "structure.pt",
        include: str | list[str] | None = None,
        exclude: str | list[str] | None = None,
    ) -> None:
        who = type(self).__name__
        hint = "0.5 removes every second block; 0 switches the method off"
        self.fraction = finite(who, "fraction", fraction, hint, minimum=0)
        if self.fraction >= 1:
            raise ArgumentError(who, "fraction", fraction, "it must be below 1", hint)
        self.order = one_of(who, "order", order, ORDERS)
        self.seed = whole(who, "seed", seed, "any number from 0 on", minimum=0)
        self.structure = file_name(who, structure)
        check_patterns(who, "include", include)
        check_patterns(who, "exclude", exclude)
        self.include, self.exclude = include, exclude

    @property
    def _off(self) -> bool:
        return self.fraction == 0

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse early what cannot work."""
        if not self._off:
            instead = "give FixedStructure a file of a run that did not"
            refuse_manual_optimization(type(self).__name__, pl_module, "which blocks are residual", instead)
        super().on_attach(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove blocks, unless that was done (before a checkpoint, or in a fit of this module before)."""
        if not self._off and self._found is None:
            self._remove(trainer, pl_module, self._plan)

    def _plan(self, tracer: Tracer) -> Structure:
        blocks = self._removable(tracer)
        number = round(self.fraction * len(blocks))
        if self.order == "random":
            gone = set(random.Random(self.seed).sample(blocks, number))
        else:
            gone = set(blocks[len(blocks) - number :] if self.order == "last" else blocks[:number])
        metadata = {"blocks_before": len(blocks), "blocks_after": len(blocks) - number}
        return Structure(removed=tuple(name for name in blocks if name in gone), metadata=metadata)

    def _removable(self, tracer: Tracer) -> list[str]:
        who = type(self).__name__
        included, excluded = (
            check_patterns(who, argument, getattr(self, argument)) for argument in ("include", "exclude")
        )
        twin = copied(tracer.module).eval()
        blocks = same_shaped(twin, tracer) if included else residual_blocks(twin, tracer)
        if not blocks:
            reason = "it has no residual blocks: no submodule adds something to what it is given"
            hint = "put such blocks into modules of their own that return x + f(x), or name blocks with include=[…]"
            raise ArgumentError(who, "module", type(tracer.module).__name__, reason, hint)
        for argument, patterns in (("include", included), ("exclude", excluded)):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in blocks):
                    reason = "it matches no block that hands on the shape it is given"
                    raise ArgumentError(who, argument, pattern, reason, suggestion(pattern, blocks))
        allowed = [name for name in blocks if not included or any(fnmatchcase(name, p) for p in included)]
        allowed = [name for name in allowed if not any(fnmatchcase(name, pattern) for pattern in excluded)]
        if not allowed:
            hint = f"without it there are: {', '.join(blocks)}"
            raise ArgumentError(who, "exclude", self.exclude, "it matches every block that may go", hint)
        for name in allowed:
            inner = [other for other in allowed if other.startswith(f"{name}.")]
            if inner:
                raise ArgumentError(who, "include", self.include, f"{inner[0]!r} lies in {name!r}", "name one of them")
        return allowed

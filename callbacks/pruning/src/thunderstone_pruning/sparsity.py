"""What is left of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from thunderstone import ArgumentError, Table
from thunderstone_pruning.masks import count
from thunderstone_pruning.prunable import Patterns, prunable_parameters
from thunderstone_pruning.weight_uses import Use, weight_uses

_COLUMNS = ("layer", "shape", "weights", "remaining", "density", "flops", "effective_flops")


@dataclass(frozen=True)
class LayerSparsity:
    """One weight of the report.

    Attributes:
        name: The parameter's name.
        shape: Its shape.
        remaining: How many of its elements are left.
        flops: Floating-point operations of a forward pass with all of its elements, a multiplication and an addition
            for each use; None when unknown: no example was given, or it is used outside of a layer's own forward.
        effective_flops: The same for the elements that are left.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    remaining: int
    flops: int | None = None
    effective_flops: int | None = None

    @property
    def density(self) -> float:
        """Share that is left."""
        return self.remaining / self.weights if self.weights else 1.0


@dataclass(frozen=True)
class SparsityReport:
    """Sparsity by layer and in all.

    Attributes:
        layers: The prunable weights, in the module's order.
        others: Number of the module's parameters that are not among them (biases, normalisation, what was excluded).
    """

    layers: tuple[LayerSparsity, ...]
    others: int

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def remaining(self) -> int:
        """How many of them are left."""
        return sum(layer.remaining for layer in self.layers)

    @property
    def density(self) -> float:
        """Share of the prunable weights that is left."""
        return self.remaining / self.weights

    @property
    def sparsity(self) -> float:
        """Share of the prunable weights that is gone."""
        return 1 - self.density

    @property
    def flops(self) -> int | None:
        """Of a forward pass of all prunable weights whose uses are known; None when none is."""
        return _total([layer.flops for layer in self.layers])

    @property
    def effective_flops(self) -> int | None:
        """The same for what is left."""
        return _total([layer.effective_flops for layer in self.layers])

    def table(self) -> Table:
        """One row a layer and the total at the end, for the tracker."""
        rows: list[Sequence[Any]] = [
            (
                layer.name,
                "x".join(map(str, layer.shape)),
                layer.weights,
                layer.remaining,
                layer.density,
                layer.flops,
                layer.effective_flops,
            )
            for layer in self.layers
        ]
        total = ("total", "", self.weights, self.remaining, self.density, self.flops, self.effective_flops)
        return Table(list(_COLUMNS), [*rows, total])

    def summary(self) -> dict[str, Any]:
        """Primitives, for a checkpoint's or an artifact's metadata."""
        return {
            "density": self.density,
            "weights": self.weights,
            "remaining": self.remaining,
            "flops": self.flops,
            "effective_flops": self.effective_flops,
            "layers": {layer.name: layer.density for layer in self.layers},
        }

    def __str__(self) -> str:
        cells = [_COLUMNS, *(tuple(map(_shown, row)) for row in self.table().rows)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(_COLUMNS))]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if number < 2 else cell.rjust(width)
                for number, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in cells
        )


def sparsity_report(
    module: nn.Module,
    include: Patterns = None,
    exclude: Patterns = None,
    *,
    masks: Mapping[str, Tensor] | None = None,
    example_inputs: Tensor | Sequence[Any] | None = None,
) -> SparsityReport:
    """What is left of each prunable weight of `module`.

    Args:
        module: Any module; pruned or not.
        include: Patterns; see `prunable_parameters`.
        exclude: Patterns; see `prunable_parameters`.
        masks: By parameter name, True where a weight is left; they say what is reported on, and patterns are not looked
            at. None counts weights that are not zero.
        example_inputs: Positional arguments of `forward` (a tensor is the only one), for a forward pass that counts
            operations and leaves no trace. FLOPs are those of these inputs, batch and all.

    Raises:
        ArgumentError: A pattern matches nothing, or masks do not fit the module.
    """
    if masks is None:
        parameters = prunable_parameters(module, include, exclude, who="sparsity_report")
        left = {name: parameter.detach() != 0 for name, parameter in parameters.items()}
    else:
        known = dict(module.named_parameters())
        for name, mask in masks.items():
            if name not in known or known[name].shape != mask.shape:
                found = f"mask {name!r} of shape {tuple(mask.shape)}"
                hint = "pass masks of this module"
                raise ArgumentError("sparsity_report", "masks", found, "no parameter is like it", hint)
        parameters = {name: known[name] for name in masks}
        left = dict(masks)
    uses = {} if example_inputs is None else weight_uses(module, example_inputs)
    layers = tuple(_layer(name, left[name], uses.get(id(parameter))) for name, parameter in parameters.items())
    everything = sum(parameter.numel() for parameter in module.parameters())
    return SparsityReport(layers, everything - sum(layer.weights for layer in layers))


def _layer(name: str, left: Tensor, uses: list[Use] | None) -> LayerSparsity:
    shape, weights, remaining = tuple(left.shape), left.numel(), count(left)
    if uses is None:
        return LayerSparsity(name, shape, weights, remaining)
    dense = sum(2 * use.times * left[use.start : use.stop].numel() for use in uses)
    effective = sum(2 * use.times * count(left[use.start : use.stop]) for use in uses)
    return LayerSparsity(name, shape, weights, remaining, dense, effective)


def _total(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)

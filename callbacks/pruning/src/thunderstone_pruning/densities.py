"""How many weights each layer keeps: the ``pruning.density`` strategies, and whole numbers that add up.

The density of a layer is the share of its weights that stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Protocol

from torch import Tensor

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of
from thunderstone_pruning.masks import EMPTY, count, refuse_empty, refuse_few

Shapes = Mapping[str, tuple[int, ...]]


class Density(Protocol):
    """The signature of a ``pruning.density`` strategy.

    Args:
        shapes: Of the weights, by layer.
        density: Share of all weights together that stays, above 0 and at most 1.

    Returns:
        A density for each layer, from 0 to 1, with ``sum(density_l * size_l) = density * sum(size_l)``.
    """

    def __call__(self, shapes: Shapes, density: float) -> dict[str, float]: ...


def uniform(shapes: Shapes, density: float) -> dict[str, float]:
    """The same density everywhere."""
    return dict.fromkeys(shapes, density)


def erk(shapes: Shapes, density: float) -> dict[str, float]:
    """Erdős–Rényi-Kernel: ``min(1, eps * sum(dims) / prod(dims))``, so that small layers stay denser.

    `eps` is such that the total is met; layers it would make denser than 1 are dense, and the others share the rest.
    Evci et al. 2020, arXiv 1911.11134, section 3.1.
    """
    total = density * sum(map(prod, shapes.values()))
    dense: set[str] = set()
    while True:
        rest = total - sum(prod(shapes[name]) for name in dense)
        free = sum(sum(shape) for name, shape in shapes.items() if name not in dense)
        if not free:
            return dict.fromkeys(shapes, 1.0)
        epsilon = rest / free
        shares = {name: 1.0 if name in dense else epsilon * sum(shape) / prod(shape) for name, shape in shapes.items()}
        # A layer that is capped leaves more for the others, so those above 1 now would be above 1 at the end too.
        over = {name for name, share in shares.items() if share > 1}
        if not over:
            return shares
        dense |= over


def densities_of(masks: Mapping[str, Tensor]) -> dict[str, float]:
    """The density of each of the masks."""
    return {name: count(mask) / mask.numel() for name, mask in masks.items()}


def layer_counts(
    densities: Mapping[str, float],
    sizes: Mapping[str, int],
    total: int | None = None,
    *,
    empty: str = "refuse",
    who: str = "layer_counts",
) -> dict[str, int]:
    """Whole numbers of weights to keep in each layer, which add up to `total` exactly.

    Each is the product of density and size rounded down or up: up where the fractional part is largest (the first by
    name among equals) until the total is met.

    Args:
        densities: By layer, from 0 to 1.
        sizes: Number of weights of each layer.
        total: What the numbers add up to; None is the sum of the products, rounded.
        empty: A layer left with no weight: ``"refuse"`` raises, ``"keep_one"`` gives it one of the layer with most.
        who: Named in errors.

    Raises:
        ArgumentError: A density is out of range, the total cannot be met, or a layer would be empty.
    """
    one_of(who, "empty", empty, EMPTY)
    if densities.keys() != sizes.keys():
        differing = ", ".join(sorted(densities.keys() ^ sizes.keys()))
        raise ArgumentError(who, "densities", differing, "densities and sizes are of different layers", "pass the same")
    for name, density in densities.items():
        finite(
            who, f"densities[{name!r}]", density, "a density is a share of the layer's weights", minimum=0, maximum=1
        )
    exact = {name: densities[name] * sizes[name] for name in sizes}
    if total is None:
        total = round(sum(exact.values()))
    if not 0 <= total <= sum(sizes.values()):
        hint = f"choose between 0 and {sum(sizes.values())}"
        raise ArgumentError(who, "total", total, "there are not as many weights", hint)
    # Products such as 0.3 * 10 fall short of a whole number by the rounding of floating-point arithmetic.
    counts = {name: min(sizes[name], int(value + 1e-9)) for name, value in exact.items()}
    order = sorted(sizes, key=lambda name: (counts[name] - exact[name], name))
    missing = total - sum(counts.values())
    if abs(missing) > len(sizes):
        reason = f"the densities add up to {sum(exact.values()):.1f} weights"
        raise ArgumentError(who, "total", total, reason, "leave it out, or scale the densities")
    while missing:
        step = 1 if missing > 0 else -1
        for name in order if missing > 0 else reversed(order):
            if missing and 0 <= counts[name] + step <= sizes[name]:
                counts[name] += step
                missing -= step
    _fill_empty(counts, sizes, empty, who)
    return counts


def _fill_empty(counts: dict[str, int], sizes: Mapping[str, int], empty: str, who: str) -> None:
    emptied = [name for name in counts if counts[name] == 0 and sizes[name]]
    keep, layers = sum(counts.values()), sum(1 for size in sizes.values() if size)
    if emptied and empty == "refuse":
        refuse_empty(who, emptied, keep)
    if keep < layers:
        refuse_few(who, keep, layers)
    for name in emptied:
        fullest = max(counts, key=lambda other: (counts[other], other))
        counts[fullest] -= 1
        counts[name] += 1

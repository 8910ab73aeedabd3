"""How stable the training of tickets is: two trainings of each that differ only in the noise of SGD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thunderstone import ArgumentError, Table
from thunderstone_pruning.fixed_mask import FixedMask
from thunderstone_pruning.mask_files import Ticket, load_ticket
from thunderstone_pruning.pruning_method import dense_masks
from thunderstone_pruning.stability import Interpolation, distance_and_angle, interpolate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Below it the papers call a network stable.
STABLE = 0.02


@dataclass(frozen=True)
class Stability:
    """What two trainings of one sparse network came to.

    Attributes:
        density: Share of the prunable weights it has; 1 for the whole network.
        line: Errors between the two.
        apart: L2 distance of the two, over the prunable weights.
        distance: L2 distance of the first to the whole network's first, over the same; 0 for that itself.
        angle: Their angle in degrees, at the origin; 0 for that itself.
    """

    density: float
    line: Interpolation
    apart: float
    distance: float
    angle: float


@dataclass(frozen=True)
class StabilityReport:
    """The stability of the whole network and of its tickets.

    Attributes:
        levels: From the densest to the sparsest.
    """

    levels: tuple[Stability, ...]

    def table(self) -> Table:
        """One row a network."""
        columns = ["remaining", "instability", "error", "other_error", "apart", "distance", "angle"]
        rows: list[Sequence[Any]] = [
            (
                level.density,
                level.line.instability,
                level.line.errors[-1],
                level.line.errors[0],
                level.apart,
                level.distance,
                level.angle,
            )
            for level in self.levels
        ]
        return Table(columns, rows)

    def figure(self) -> Figure:
        """Instability against the remaining weights, and how far solutions lie apart."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9.0, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        remaining = [100 * level.density for level in self.levels]
        blue, orange = "#0072B2", "#D55E00"
        left.plot(remaining, [level.line.instability for level in self.levels], color=blue, marker="o")
        left.axhline(STABLE, color="#666666", linestyle="--", linewidth=1)
        left.set_ylabel("instability (error)")
        left.set_title("Error between two trainings", fontsize=11)
        right.plot(remaining, [level.apart for level in self.levels], color=blue, marker="o", label="two trainings")
        right.plot(remaining, [level.distance for level in self.levels], color=orange, marker="s", label="to dense")
        right.set_ylabel("L2 distance")
        right.set_title("Where trainings end", fontsize=11)
        right.legend(frameon=False)
        for axes in (left, right):
            axes.set_xlabel("remaining weights (%)")
            axes.set_xscale("log")
            axes.invert_xaxis()
        return figure


def ticket_stability(
    tickets: Iterable[str | Path],
    train: Callable[[FixedMask, int], nn.Module],
    error: Callable[[nn.Module], float],
    *,
    points: int = 30,
    batches: Iterable[Any] | None = None,
    seeds: tuple[int, int] = (1, 2),
) -> StabilityReport:
    """Train every ticket and the whole network twice from the point IMP rewinds to, and see where trainings end.

    Frankle, Dziugaite, Roy & Carbin 2019, arXiv 1903.01611, sections 3 and 4; 2020, arXiv 1912.05671. Cost: two
    trainings for each ticket and two for the whole network, and `points` evaluations each.

    Args:
        tickets: Files that one run of `IMP` wrote: all begin from the same weights, those of the rewind point.
        train: Trains a network with this method attached and returns it, e.g. builds the module, calls
            ``seed_everything(seed)``, then ``Trainer(callbacks=[method], …).fit(module, data)``. The seed is to change
            the order of the data (and dropout), and nothing else.
        error: Takes a network in evaluation mode; see `interpolate`.
        points: Networks on each line, ends included. The papers use 30.
        batches: Training data for the running statistics of networks between two trainings; see `interpolate`.
        seeds: Of the two trainings.

    Raises:
        ArgumentError: There is no ticket, or one holds no weights or other ones than the first.
    """
    paths = [Path(path) for path in tickets]
    found = [load_ticket(path, who="ticket_stability", argument="tickets") for path in paths]
    start = _common_start(paths, found)
    masks = dense_masks(found[0].masks)
    levels: list[Stability] = []
    dense: Mapping[str, Tensor] | None = None
    with TemporaryDirectory(prefix="thunderstone-") as folder:
        whole = Ticket(masks, start).save(Path(folder) / "dense.ckpt")
        named = [(1.0, whole), *((_density(ticket), path) for ticket, path in zip(found, paths, strict=True))]
        for density, path in sorted(named, key=lambda pair: -pair[0]):
            module = train(FixedMask(str(path)), seeds[0])
            first = _state(module)
            second = _state(train(FixedMask(str(path)), seeds[1]))
            line = interpolate(module, first, second, error, points=points, batches=batches)
            dense = first if dense is None else dense
            apart, _ = distance_and_angle(first, second, masks)
            distance, angle = distance_and_angle(first, dense, masks)
            levels.append(Stability(density, line, apart, distance, angle))
    return StabilityReport(tuple(levels))


def _common_start(paths: Sequence[Path], tickets: Sequence[Ticket]) -> Mapping[str, Tensor]:
    hint = "pass the files of one run of IMP"
    if not tickets:
        raise ArgumentError("ticket_stability", "tickets", [], "there is none", hint)
    start = tickets[0].weights
    for path, ticket in zip(paths, tickets, strict=True):
        if start is None or ticket.weights is None:
            raise ArgumentError("ticket_stability", "tickets", str(path), "it holds no weights to begin from", hint)
        same = ticket.weights.keys() == start.keys() and all(
            torch.equal(weight, start[name]) for name, weight in ticket.weights.items()
        )
        if not same:
            reason = f"it begins from other weights than {str(paths[0])!r}"
            raise ArgumentError("ticket_stability", "tickets", str(path), reason, hint)
    assert start is not None
    return start


def _density(ticket: Ticket) -> float:
    kept = sum(int(mask.sum()) for mask in ticket.masks.values())
    return kept / sum(mask.numel() for mask in ticket.masks.values())


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

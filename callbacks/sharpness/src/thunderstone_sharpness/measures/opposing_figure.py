"""The picture of two opposing groups."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from thunderstone_sharpness.measures.opposing import OpposingGroups

# Okabe and Ito's colours, which differ for every kind of colour vision.
_ORANGE, _BLUE, _GREY = "#D55E00", "#0072B2", "#666666"


def draw(steps: Sequence[int], losses: Tensor, groups: OpposingGroups, step: int) -> Figure:
    """The mean losses of both groups and of all examples over the steps.

    Args:
        steps: The steps before which the losses were taken, ascending.
        losses: Shape (len(steps), examples).
        groups: The groups.
        step: The step by which they were found; marked.
    """
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(step, color=_GREY, linewidth=0.8, linestyle=":", label=f"step {step}, which found the groups")
    axes.plot(steps, losses.nanmean(1), color=_GREY, linewidth=1.2, label=f"all {losses.shape[1]} examples")
    for members, colour, name in ((groups.rising, _ORANGE, "rising"), (groups.falling, _BLUE, "falling")):
        if len(members):
            axes.plot(
                steps,
                losses[:, members].mean(1),
                color=colour,
                marker=".",
                markersize=4,
                linewidth=1.2,
                label=f"{name} group ({len(members)})",
            )
    axes.set_xlabel("step")
    axes.set_ylabel("mean loss")
    axes.set_title("Two groups of examples that one step moves in opposite directions", fontsize=11)
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Oscillating curves fill the axes: the legend stands below them.
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure

"""Pictures of loss landscapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from thunderstone_sharpness.measures.landscape import Landscape

# Okabe and Ito's colours, which differ for every kind of colour vision.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_TITLES = {
    "random": "Loss along filter-normalised random directions",
    "eigenvectors": "Loss along the directions of largest curvature",
    "given": "Loss along given directions",
}


def draw(landscape: Landscape, title: str | None) -> Figure:
    """The landscape's figure: a line for one direction, a map for two."""
    flat = landscape.losses.ndim == 1
    figure = Figure(figsize=(5.6, 3.8) if flat else (5.6, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title or _TITLES[landscape.kind], fontsize=11)
    axes.set_xlabel(_label(landscape, 0))
    if flat:
        _line(axes, landscape)
    else:
        axes.set_ylabel(_label(landscape, 1))
        _map(figure, axes, landscape)
    return figure


def _label(landscape: Landscape, axis: int) -> str:
    if landscape.kind == "eigenvectors":
        return f"step along eigenvector {axis + 1} ($\\lambda$ = {landscape.eigenvalues[axis]:.3g})"
    unit = ", 1 = length of the weights" if landscape.kind == "random" else ""
    return f"step along direction {axis + 1}{unit}"


def _line(axes: Axes, landscape: Landscape) -> None:
    steps = landscape.coordinates[0]
    heights = np.where(np.isfinite(landscape.losses), landscape.losses, np.nan)
    axes.plot(steps, heights, color=_BLUE, marker=".", markersize=4, label="loss")
    if landscape.eigenvalues:
        # Only the curvature is known; the slope at the weights, if there is one, shows as the gap between the two.
        model = landscape.centre + 0.5 * landscape.eigenvalues[0] * steps**2
        axes.plot(steps, model, color=_ORANGE, linestyle="--", linewidth=1.2, label="quadratic, no slope")
    axes.plot([0], [landscape.centre], marker="o", color=_GREY, linestyle="none", label="the weights")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)


def _map(figure: Figure, axes: Axes, landscape: Landscape) -> None:
    heights = np.ma.masked_invalid(landscape.losses.T)
    lowest, highest = float(heights.min()), float(heights.max())
    if highest <= lowest:
        highest = lowest + max(abs(lowest), 1.0) * 1e-6
    # Losses far out are many times those near the weights: even steps of the logarithm show both.
    logarithmic = lowest > 0 and highest / lowest > 5
    levels = np.geomspace(lowest, highest, 16) if logarithmic else np.linspace(lowest, highest, 16)
    norm = LogNorm(lowest, highest) if logarithmic else None
    filled = axes.contourf(*landscape.coordinates, heights, levels=levels, norm=norm, cmap="cividis")
    axes.contour(*landscape.coordinates, heights, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.plot([0], [0], marker="+", color="white", markersize=12, markeredgewidth=2)
    ticks = levels[::3]
    bar = figure.colorbar(filled, ax=axes, label="loss", ticks=ticks, format="%.3g")
    bar.minorticks_off()

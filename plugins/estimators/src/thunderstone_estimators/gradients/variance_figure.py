"""The picture of a run's gradient variance."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thunderstone_estimators.gradients.variance_reading import VarianceReading

# Okabe and Ito's colours, which differ for every kind of colour vision.
_GIVEN, _PLAIN = "#0072B2", "#D55E00"


def draw(readings: Sequence[VarianceReading]) -> Figure:
    """Variance and signal-to-noise ratio over the updates, of what the optimizer is given and of the plain gradient.

    Args:
        readings: At least one, by ascending step.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _panel(left, readings, "variance", "plain_variance")
    left.set_title("Variance of the gradient", fontsize=11)
    left.set_ylabel("sum over all weights")
    _panel(right, readings, "signal_to_noise", "plain_signal_to_noise")
    right.set_title("Signal to noise", fontsize=11)
    right.set_ylabel("squared norm of the mean / variance")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, readings: Sequence[VarianceReading], given: str, plain: str) -> None:
    compared = any(reading.plain_variance is not None for reading in readings)
    positive = False
    for name, label, colour in (
        (plain, "as it came from the loss", _PLAIN),
        (given, "as given to the optimizer", _GIVEN),
    ):
        points = [(reading.step, reading.scalars()[name]) for reading in readings if name in reading.scalars()]
        positive = positive or any(height > 0 for _, height in points)
        if points:
            steps, heights = zip(*points, strict=True)
            label = label if compared else "of the loss"
            axes.plot(steps, heights, color=colour, marker=".", markersize=5, linewidth=1.2, label=label)
    if positive:
        axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel("update")
    axes.grid(alpha=0.25)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))

"""How density falls while a network trains: the ``pruning.schedule`` strategies."""

from __future__ import annotations

from typing import Protocol


class Schedule(Protocol):
    """The signature of a ``pruning.schedule`` strategy.

    Args:
        progress: How much of the pruning time has passed, from 0 to 1.
        initial: Density at progress 0, above 0 and at most 1.
        final: Density at progress 1, above 0 and at most `initial`.

    Returns:
        The density now, between `final` and `initial`, never rising with progress.
    """

    def __call__(self, progress: float, initial: float, final: float) -> float: ...


def cubic(progress: float, initial: float, final: float) -> float:
    """``d_f + (d_i - d_f) (1 - t)^3``: fast while many weights can be spared.

    Zhu & Gupta 2017, arXiv 1710.01878, equation 1.
    """
    return final + (initial - final) * (1 - progress) ** 3


def linear(progress: float, initial: float, final: float) -> float:
    """The same number of weights at every step."""
    return final + (initial - final) * (1 - progress)


def geometric(progress: float, initial: float, final: float) -> float:
    """``d_i (d_f / d_i)^t``: the same share of what is left at every step, as in iterative magnitude pruning."""
    return float(initial * (final / initial) ** progress)


def one_shot(progress: float, initial: float, final: float) -> float:
    """All at once, at the first step."""
    return final

"""The picture of uplift by rank."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from thunderstone_grpo.uplift import RankUplift

# Okabe and Ito's colours, which differ for every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(uplift: RankUplift | Mapping[str, RankUplift]) -> Figure:
    """The share of right answers whose probability rose, over their likelihood rank.

    Bars show two standard errors of a share. Ranks without a right answer have no point.

    Args:
        uplift: One, or several with the names they have in the legend.
    """
    named = {"": uplift} if isinstance(uplift, RankUplift) else uplift
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, one) in enumerate(named.items()):
        count = one.count.cpu().numpy()
        ranks = np.nonzero(count)[0]
        share = one.share.cpu().numpy()[ranks]
        error = 2 * np.sqrt(share * (1 - share) / count[ranks])
        colour = _COLOURS[number % len(_COLOURS)]
        axes.errorbar(ranks, share, yerr=error, color=colour, marker=".", linewidth=1.2, elinewidth=0.7, label=name)
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("likelihood rank in the group (0: least likely)")
    axes.set_ylabel("right answers that became likelier")
    axes.grid(alpha=0.25)
    if len(named) > 1:
        axes.legend(frameon=False)
    return figure

"""What the runs amount to: mean, spread, difference from the first setting, cost."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from thunderstone.comparison.results import Result

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Summary:
    """One setting over its seeds. A value is None where there is nothing to compute it from.

    Attributes:
        setting: The label.
        seeds: How many runs count: finished, and with a finite value of the metric.
        mean: Of the metric.
        spread: Sample standard deviation over seeds; None with one.
        difference: Mean of the differences from the first setting's value of the same seed.
        low, high: 95% bootstrap interval of `difference`; None with one seed.
        time: Median over seeds of the time in `fit`, divided by the first setting's of the same seed.
        passes: The same of backward passes.
        failed: How many runs did not finish.
        not_finite: How many finished with a metric that is no finite number.
    """

    setting: str
    seeds: int
    mean: float | None
    spread: float | None
    difference: float | None
    low: float | None
    high: float | None
    time: float | None
    passes: float | None
    failed: int
    not_finite: int


def summarise(results: Sequence[Result], settings: Sequence[str], metric: str) -> list[Summary]:
    """One summary a setting, in the order of `settings`; the first of them is what the others are compared with."""
    by_setting = {label: {r.seed: r for r in results if r.setting == label} for label in settings}
    values = {label: _values(runs, lambda r: r.metrics.get(metric)) for label, runs in by_setting.items()}
    first = settings[0]
    summaries = []
    for label, runs in by_setting.items():
        own = values[label]
        low = high = difference = None
        paired = [own[seed] - values[first][seed] for seed in sorted(own.keys() & values[first].keys())]
        if label != first and paired:
            difference = statistics.fmean(paired)
            low, high = interval(paired)
        summaries.append(
            Summary(
                setting=label,
                seeds=len(own),
                mean=statistics.fmean(own.values()) if own else None,
                spread=statistics.stdev(own.values()) if len(own) > 1 else None,
                difference=difference,
                low=low,
                high=high,
                time=_ratio(runs, by_setting[first], lambda r: r.fit_seconds),
                passes=_ratio(runs, by_setting[first], lambda r: r.passes),
                failed=sum(not run.finished for run in runs.values()),
                not_finite=sum(
                    run.finished and not math.isfinite(run.metrics.get(metric, 0.0)) for run in runs.values()
                ),
            )
        )
    return summaries


def interval(differences: Sequence[float]) -> tuple[float, float] | tuple[None, None]:
    """The 95% percentile-bootstrap interval of the mean of paired differences; (None, None) for a single one.

    With few seeds it is too narrow: resampling cannot show values that were not drawn. The resamples are always the
    same, so that a table that is made again is the same table.
    """
    if len(differences) < 2:
        return None, None
    from scipy.stats import bootstrap  # type: ignore[import-untyped]

    found = bootstrap(
        (np.asarray(differences, dtype=float),),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def best(summaries: Sequence[Summary], mode: str) -> str | None:
    """Label of the setting with the best mean; None where no run has finished."""
    means = {summary.setting: summary.mean for summary in summaries if summary.mean is not None}
    if not means:
        return None
    return (max if mode == "max" else min)(means, key=lambda label: means[label])


def write_csv(path: Path, summaries: Sequence[Summary]) -> None:
    """One row a setting, under the names of `Summary`; empty where there is no value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(Summary)])
        writer.writeheader()
        writer.writerows(asdict(summary) for summary in summaries)


def _values(runs: dict[int, Result], of: Callable[[Result], float | None]) -> dict[int, float]:
    """By seed, what finished runs have of a quantity, as far as it is finite."""
    found = {seed: of(run) for seed, run in runs.items() if run.finished}
    return {seed: value for seed, value in found.items() if value is not None and math.isfinite(value)}


def _ratio(runs: dict[int, Result], first: dict[int, Result], of: Callable[[Result], float | None]) -> float | None:
    own, base = _values(runs, of), _values(first, of)
    ratios = [own[seed] / base[seed] for seed in sorted(own.keys() & base.keys()) if base[seed] > 0]
    return statistics.median(ratios) if ratios else None

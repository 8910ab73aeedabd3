"""What the demo's runs ended with, and the figures that are made of them."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

RADII = (0.02, 0.04, 0.07, 0.12, 0.2, 0.35, 0.5, 0.7, 1.0)
RADIUS = 0.5
BASELINE = "plain"


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        setting: The setting's label.
        seed: The run's seed.
        test_accuracy: Share of the test images classified correctly, after each epoch.
        memorised: Share of the wrong training labels that is predicted, after each epoch.
        largest_eigenvalue: Of the Hessian of the training loss, at the end.
        loss_rises: Rise of the training loss at the distances `RADII` from the last weights, in nats.
        step_seconds: Median wall-clock time of a training step.
    """

    setting: str
    seed: int
    test_accuracy: list[float]
    memorised: list[float]
    largest_eigenvalue: float
    loss_rises: list[float]
    step_seconds: float

    @property
    def loss_rise(self) -> float:
        """The rise at distance `RADIUS`."""
        return self.loss_rises[RADII.index(RADIUS)]

    def final_metrics(self) -> dict[str, float]:
        """The figures of the end of the run, by the names they are tracked under."""
        return {
            "final/test_accuracy": self.test_accuracy[-1],
            "final/memorised": self.memorised[-1],
            "final/largest_eigenvalue": self.largest_eigenvalue,
            f"final/loss_rise_at_{RADIUS}": self.loss_rise,
            "final/step_milliseconds": 1e3 * self.step_seconds,
        }


@dataclass(frozen=True)
class Quantity:
    """A quantity over the seeds of a setting.

    Attributes:
        values: One a seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation; None with one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def written(self, form: str, scale: float = 1.0, unit: str = "") -> str:
        """``mean ± spread``, each as `form` (a format specification) says, e.g. ``91.2 ± 0.8 %``."""
        text = f"{self.mean * scale:{form}}"
        if self.spread is not None:
            text += f" ± {self.spread * scale:{form}}"
        return f"{text}{unit}"


@dataclass(frozen=True)
class Summary:
    """A setting's results over its seeds; `cost` is the time of a step against the plain step of the same seed."""

    setting: str
    seeds: tuple[int, ...]
    test_accuracy: Quantity
    memorised: Quantity
    largest_eigenvalue: Quantity
    loss_rise: Quantity
    cost: Quantity


def summarise(results: Iterable[Result]) -> list[Summary]:
    """One summary a setting, in the order in which settings first appear.

    Runs of a seed without a plain run are left out: nothing could be said of their cost. The demo trains plain first.
    """
    results = list(results)
    plain = {result.seed: result.step_seconds for result in results if result.setting == BASELINE}
    summaries = []
    for setting in dict.fromkeys(result.setting for result in results):
        runs = [result for result in results if result.setting == setting and result.seed in plain]
        summaries.append(
            Summary(
                setting=setting,
                seeds=tuple(run.seed for run in runs),
                test_accuracy=Quantity(tuple(run.test_accuracy[-1] for run in runs)),
                memorised=Quantity(tuple(run.memorised[-1] for run in runs)),
                largest_eigenvalue=Quantity(tuple(run.largest_eigenvalue for run in runs)),
                loss_rise=Quantity(tuple(run.loss_rise for run in runs)),
                cost=Quantity(tuple(run.step_seconds / plain[run.seed] for run in runs)),
            )
        )
    return summaries


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """One row a run: the figures of its end."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["setting", "seed", *(name[6:] for name in results[0].final_metrics())])
        writer.writeheader()
        for result in results:
            final = {name[6:]: repr(value) for name, value in result.final_metrics().items()}
            writer.writerow({"setting": result.setting, "seed": result.seed, **final})

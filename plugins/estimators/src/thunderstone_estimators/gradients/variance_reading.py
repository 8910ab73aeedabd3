"""One measurement of the gradient's variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class VarianceReading:
    """The variance of an update's gradient at one moment, by layer; tensors are float64 of shape (layers,).

    Attributes:
        step: Number of the update, from 0.
        draws: How many independent gradients it is taken from.
        seconds: How long it took; None of a measurement before a resume.
        names: The parameters' names.
        variance: Of the gradient that the optimizer would be given: sum over coordinates.
        signal: Estimated squared norm of its expectation; can be below zero.
        plain_variance: Of the same draws' gradients as they came from the loss; None where no method changes them.
        plain_signal: The squared norm of their expectation.
    """

    step: int
    draws: int
    seconds: float | None
    names: Sequence[str]
    variance: Tensor
    signal: Tensor
    plain_variance: Tensor | None = None
    plain_signal: Tensor | None = None

    @property
    def ratio(self) -> float | None:
        """Total variance given to the optimizer by the plain one; None where there is nothing to compare."""
        if self.plain_variance is None:
            return None
        plain = float(self.plain_variance.sum())
        return float(self.variance.sum()) / plain if plain > 0 else None

    def scalars(self) -> dict[str, float]:
        """The totals by the name they are recorded under."""
        found: dict[str, float | None] = {
            "variance": float(self.variance.sum()),
            "signal_to_noise": signal_to_noise(self.signal, self.variance),
            "variance_ratio": self.ratio,
        }
        if self.plain_variance is not None and self.plain_signal is not None:
            found["plain_variance"] = float(self.plain_variance.sum())
            found["plain_signal_to_noise"] = signal_to_noise(self.plain_signal, self.plain_variance)
        return {name: value for name, value in found.items() if value is not None}

    def layers(self) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of a table, one row a layer."""
        columns = ["layer", "variance", "share", "signal_to_noise"]
        compared = self.plain_variance is not None
        if compared:
            columns += ["plain_variance", "ratio"]
        total = float(self.variance.sum())
        rows: list[list[Any]] = []
        for number, name in enumerate(self.names):
            variance = float(self.variance[number])
            share = variance / total if total > 0 else None
            row = [name, variance, share, signal_to_noise(self.signal[number], self.variance[number])]
            if self.plain_variance is not None:
                plain = float(self.plain_variance[number])
                row += [plain, variance / plain if plain > 0 else None]
            rows.append(row)
        return columns, rows

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives. Without `seconds`: a resumed run's state is that of one never interrupted."""
        return {**asdict(self), "names": list(self.names), "seconds": None}


def signal_to_noise(signal: Tensor, variance: Tensor) -> float | None:
    """Total squared norm of the expected gradient by its total variance, at least 0; None without variance."""
    noise = float(variance.sum())
    return max(0.0, float(signal.sum())) / noise if noise > 0 else None

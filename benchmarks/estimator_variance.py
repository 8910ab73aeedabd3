"""How much variance control variates and spread directions take off sliced Wasserstein estimates and their gradients.

    python benchmarks/estimator_variance.py                       about eight minutes on one thread
    python benchmarks/estimator_variance.py --clouds PAIRS.npy    also on point clouds (k, n, 3) of one's own, k > 33
    python benchmarks/estimator_variance.py --write               into RESULTS.md

Every cell is (variance of the plain estimate with independent directions) / (variance of this one), of SW_2^2 and of
its gradient with respect to the points (summed over all coordinates), and in brackets the processor time of forward and
backward beside the plain estimate's. The variance is that between repetitions with new directions on the same points.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import side_by_side
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from thunderstone_estimators import sliced_wasserstein_distance

VARIATES = [None, "lower", "upper", "gaussian", "harmonic"]
DIRECTIONS = ["uniform", "orthogonal", "qmc"]
PROJECTIONS = [10, 100, 1000]
RESAMPLES = 400
# Values are float32: what is left of a variance this much smaller is rounding.
RESOLUTION = 1e9


@dataclass
class Estimates:
    """Repetitions of one setting: values (R,), squared distances of gradients to their mean (R,), seconds of one."""

    values: np.ndarray
    gradients: np.ndarray
    cost: float


def pairs(files: Path | None) -> list[tuple[str, Tensor, Tensor]]:
    """Pairs of clouds to compare, by name."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for dimension in (3, 16, 64, 784):
        spread = torch.linspace(0.5, 2, dimension)
        x = torch.randn(256, dimension, generator=generator) * spread
        y = torch.randn(256, dimension, generator=generator) * spread.flip(0) + 0.2
        found.append((f"Gaussians, d={dimension}", x, y))
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    found.append(("digits 3 and 8, d=64", images[labels == 3][:170], images[labels == 8][:170]))
    if files is not None:
        clouds = torch.from_numpy(np.load(files)).float()
        found.append(("point clouds, d=3", clouds[32, :512], clouds[33, :512]))
        found.append(("point clouds apart, d=3", clouds[32, :512] * 2 - 10, clouds[33, :512] * 2 + 10))
    return found


def estimates(x: Tensor, y: Tensor, repetitions: int, seconds: float, **settings: object) -> Estimates:
    """As many repetitions as fit into the time, at least 12 and at most `repetitions`."""
    generator = torch.Generator().manual_seed(1)
    values, gradients, costs = [], [], []
    begin = time.process_time()
    while len(values) < 12 or (len(values) < repetitions and time.process_time() - begin < seconds):
        start = time.process_time()
        leaf = x.detach().requires_grad_()
        value = sliced_wasserstein_distance(leaf, y, generator=generator, **settings) ** 2
        gradients.append(torch.autograd.grad(value, leaf)[0].flatten())
        values.append(value.item())
        costs.append(time.process_time() - start)
    slopes = torch.stack(gradients).double()
    # Divided by R - 1 in the end, as variances are.
    squares = (slopes - slopes.mean(0)).square().sum(1) * len(slopes) / (len(slopes) - 1)
    return Estimates(np.array(values), squares.numpy(), float(np.median(costs)))


def ratio(plain: Estimates, other: Estimates, gradient: bool) -> tuple[float, float, float]:
    """Variance of one over that of the other, and its 95% bootstrap interval."""
    draws = np.random.default_rng(0)

    def spread(one: Estimates) -> tuple[float, np.ndarray]:
        chosen = draws.integers(len(one.values), size=(RESAMPLES, len(one.values)))
        if gradient:
            return float(one.gradients.mean()), one.gradients[chosen].mean(1)
        return float(one.values.var(ddof=1)), one.values[chosen].var(axis=1, ddof=1)

    (first, first_resampled), (second, second_resampled) = spread(plain), spread(other)
    tiny = np.finfo(float).tiny
    low, high = np.quantile(first_resampled / np.maximum(second_resampled, tiny), [0.025, 0.975])
    return first / max(second, tiny), float(low), float(high)


def cell(plain: Estimates, other: Estimates) -> str:
    """The two ratios and the cost; a ratio that may as well be 1 has a tilde."""
    shown = []
    for gradient in (False, True):
        middle, low, high = ratio(plain, other, gradient)
        text = f"{middle:.2g}" if middle < 1000 else f"{middle:.0e}" if middle < RESOLUTION else f">{RESOLUTION:.0e}"
        shown.append(f"~{text}" if low <= 1 <= high else text)
    cost = other.cost / plain.cost
    pays = all(ratio(plain, other, gradient)[1] > max(cost, 1) for gradient in (False, True))
    text = f"{shown[0]} / {shown[1]} ({cost:.1f}×)"
    return f"**{text}**" if pays else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=200, help="of each estimate at most (%(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each cell (%(default)s)")
    parser.add_argument("--clouds", type=Path, help="point clouds (k, n, 3) as .npy, k > 33")
    parser.add_argument("--write", action="store_true", help="put the table into RESULTS.md, in place of an older one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines, counts = [], []
    for name, x, y in pairs(options.clouds):
        for count in PROJECTIONS:
            plain: Estimates | None = None
            for directions in DIRECTIONS:
                cells = []
                for variate in VARIATES:
                    found = estimates(
                        x,
                        y,
                        options.repetitions,
                        options.seconds,
                        num_projections=count,
                        directions=directions,
                        control_variate=variate,
                    )
                    plain = plain or found
                    counts.append(len(found.values))
                    cells.append("1 / 1" if found is plain else cell(plain, found))
                lines.append(side_by_side.Line(f"{name}, L={count}, {directions}", tuple(cells)))
                print(f"{lines[-1].name}: {'; '.join(cells)}", flush=True)
    side_by_side.report(
        "Variance of sliced Wasserstein estimates",
        ["Clouds, directions", *(variate or "plain" for variate in VARIATES)],
        lines,
        "Variance of the plain estimate with independent directions divided by that of each setting: of SW₂² / of its "
        "gradient, and in brackets how many times the processor time it takes, forward and backward. Above 1 is "
        "better. ~: the 95% bootstrap interval contains 1. Bold: for value and gradient more is gained than it costs, "
        f"by the lower end of the interval. {min(counts)} to {max(counts)} repetitions a cell: by the F distribution a "
        "ratio of two variances of values is known to a factor of 1.3 with 200 repetitions and of 3.5 with 12, that of "
        "gradients, sums over many coordinates, better. Beyond 1e9 it is float32's rounding that is measured.",
        options.write,
    )


if __name__ == "__main__":
    main()

"""Speed and memory of the sliced Wasserstein distance beside POT's `ot.sliced_wasserstein_distance`.

Both get the same points, weights and projections, as torch tensors, on two threads; "chunked" is ours with 50
directions at a time. Peak memory is what forward and backward add to a fresh process (Linux).

    python benchmarks/sliced_wasserstein.py            about four minutes
    python benchmarks/sliced_wasserstein.py --write    the same, into RESULTS.md
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import ot
import side_by_side
import torch
from processes import resident
from torch import Tensor

from thunderstone_estimators import draw_directions, sliced_wasserstein_distance

CHUNK, THREADS = 50, 2


class Setting(NamedTuple):
    """Sizes of a problem, and how many times faster than POT it is to be."""

    n: int
    m: int
    dimension: int
    projections: int
    weighted: bool
    limit: float

    def __str__(self) -> str:
        weights = ", weights" if self.weighted else ""
        return f"{self.n} × {self.m} points, d={self.dimension}, L={self.projections}{weights}"


SETTINGS = [
    Setting(2048, 2048, 3, 1000, False, 4),
    Setting(10_000, 10_000, 64, 200, False, 4),
    Setting(2048, 1500, 3, 1000, False, 1.5),
    Setting(2048, 2048, 3, 1000, True, 1.5),
    Setting(10_000, 8000, 64, 200, True, 1.5),
]


def problem(setting: Setting, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Points, weights where there are any, and projections."""
    generator = torch.Generator().manual_seed(0)
    n, m, dimension, count, weighted, _ = setting
    x = torch.randn(n, dimension, generator=generator, dtype=torch.float64)
    y = torch.randn(m, dimension, generator=generator, dtype=torch.float64) + 0.3
    a = torch.rand(n, generator=generator, dtype=torch.float64)
    b = torch.rand(m, generator=generator, dtype=torch.float64)
    projections = draw_directions("uniform", count, dimension, generator).mT.contiguous()
    parts = (x, y, a / a.sum(), b / b.sum(), projections) if weighted else (x, y, projections)
    return tuple(part.to(dtype) for part in parts)


def call(library: str, parts: tuple[Tensor, ...], backward: bool) -> Tensor:
    """The distance, and its gradient with respect to x where that is asked for."""
    x, y, *weights, projections = parts
    x = x.detach().requires_grad_(backward)
    if library == "POT":
        value = ot.sliced_wasserstein_distance(x, y, *weights, projections=projections)
    else:
        chunk = CHUNK if library == "chunked" else None
        value = sliced_wasserstein_distance(x, y, *weights, projections=projections, chunk=chunk)
    if backward:
        value.backward()
    return value.detach()


def timed(run: Callable[[], Any]) -> float:
    """Seconds of wall-clock time."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def _peak(library: str, setting: Setting, queue: Any) -> None:
    torch.set_num_threads(THREADS)
    # What is loaded on first use, for chunks too, is no memory of the call.
    call(library, problem(setting._replace(n=64, m=64, projections=2 * CHUNK)), True)
    parts = problem(setting)
    before = resident("VmHWM")  # `getrusage` would inherit the parent's
    call(library, parts, True)
    queue.put((resident("VmHWM") - before) / 2**20)


def peak_memory(library: str, setting: Setting) -> float:
    """MiB that forward and backward add to a fresh process."""
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(library, setting, queue))
    process.start()
    value = queue.get(timeout=300)
    process.join()
    return float(value)


def measured(setting: Setting, rounds: int) -> list[side_by_side.Line]:
    """The rows of one setting: forward alone, and forward and backward."""
    parts = problem(setting)
    peaks = " / ".join(f"{peak_memory(library, setting):.0f}" for library in ("POT", "ours", "chunked"))
    differs = " / ".join(
        f"{abs(call('ours', same, False) / call('POT', same, False) - 1).item():.0e}"
        for same in (parts, problem(setting, torch.float64))
    )
    lines = []
    for backward in (False, True):
        variants = {
            library: partial(timed, partial(call, library, parts, backward)) for library in ("POT", "ours", "chunked")
        }
        times = side_by_side.interleaved(variants, rounds)
        faster = side_by_side.paired(times["POT"], times["ours"])
        held = "kept" if faster[1] >= setting.limit else "kept, undecided" if faster[0] >= setting.limit else "**not**"
        lines.append(
            side_by_side.Line(
                f"{setting}: {'forward and backward' if backward else 'forward'}",
                (
                    *(f"{statistics.median(times[library]) * 1e3:.0f} ms" for library in times),
                    side_by_side.with_interval(faster, ".1f"),
                    f"{setting.limit:g}: {held}",
                    peaks if backward else "",
                    "" if backward else differs,
                ),
            )
        )
    return lines


def main() -> None:
    options = side_by_side.arguments(__doc__ or "", rounds=5)
    torch.set_num_threads(THREADS)
    lines = [line for setting in SETTINGS for line in measured(setting, options.rounds)]
    side_by_side.report(
        "Sliced Wasserstein beside POT",
        [
            "Problem",
            "POT",
            "Thunderstone",
            f"in chunks of {CHUNK}",
            "POT's time by Thunderstone's",
            "At least",
            "Peak MiB: POT / ours / chunked",
            "Values differ by: float32 / float64",
        ],
        lines,
        f"`ot.sliced_wasserstein_distance` (POT {ot.__version__}) and `sliced_wasserstein_distance` on the same points "
        f"and projections, torch float32, {THREADS} threads; wall-clock time, {options.rounds} interleaved rounds, "
        "medians and 95% bootstrap intervals of paired ratios. Peak memory is that of forward and backward in a fresh "
        "process.",
        options.write,
    )


if __name__ == "__main__":
    main()

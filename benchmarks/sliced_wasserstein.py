"""Sliced Wasserstein measured: speed and memory beside POT, and how much variance control variates take away.

    python benchmarks/sliced_wasserstein.py speed             time and memory, the two libraries in turn
    python benchmarks/sliced_wasserstein.py variance          of value and gradient, for all variates and directions
    python benchmarks/sliced_wasserstein.py variance --clouds PAIRS.npy      also on point clouds (k, n, 3) of one's own

Without a word both, one after the other. Tables are Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor

from thunderstone_estimators import draw_directions, sliced_wasserstein_distance

# n, m, dimension, projections, weighted
SPEED = [
    (2048, 2048, 3, 1000, False),
    (10_000, 10_000, 64, 200, False),
    (2048, 1500, 3, 1000, False),
    (2048, 2048, 3, 1000, True),
    (10_000, 8000, 64, 200, True),
]
VARIATES = [None, "lower", "upper", "gaussian", "harmonic"]
DIRECTIONS = ["uniform", "orthogonal", "qmc"]
CHUNK = 50


def problem(n: int, m: int, dimension: int, count: int, weighted: bool) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, dimension, generator=generator)
    y = torch.randn(m, dimension, generator=generator) + 0.3
    a, b = torch.rand(n, generator=generator), torch.rand(m, generator=generator)
    projections = draw_directions("uniform", count, dimension, generator).float().mT.contiguous()
    return (x, y, a / a.sum(), b / b.sum(), projections) if weighted else (x, y, projections)


def call(library: str, parts: tuple[Tensor, ...], backward: bool) -> Tensor:
    x, y, *weights, projections = parts
    x = x.detach().requires_grad_(backward)
    if library == "POT":
        import ot

        value = ot.sliced_wasserstein_distance(x, y, *weights, projections=projections)
    else:
        chunk = CHUNK if library == "chunked" else None
        value = sliced_wasserstein_distance(x, y, *weights, projections=projections, chunk=chunk)
    if backward:
        value.backward()
    return value.detach()


def _peak(library: str, setting: tuple[int, int, int, int, bool], queue: object) -> None:
    torch.set_num_threads(2)
    # What is loaded on first use, for chunks too, is no memory of the call.
    small = problem(64, 64, setting[2], 2 * CHUNK, setting[4])
    parts = problem(*setting)
    call(library, small, True)
    before = _high_water()
    call(library, parts, True)
    queue.put(_high_water() - before)


def _high_water() -> float:
    """MiB of the most this process has held. Linux; `getrusage` would inherit the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def peak_memory(library: str, setting: tuple[int, int, int, int, bool]) -> float:
    """MiB that forward and backward add to a fresh process."""
    context = get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_peak, args=(library, setting, queue))
    process.start()
    value = queue.get(timeout=300)
    process.join()
    return float(value)


def seconds(library: str, parts: tuple[Tensor, ...], backward: bool) -> float:
    start = time.perf_counter()
    call(library, parts, backward)
    return time.perf_counter() - start


def speed(rounds: int) -> None:
    torch.set_num_threads(2)
    print(
        "| n × m, d, L | weights | pass | POT | ours | ratio | chunked | value differs by | MiB: POT, ours, chunked |"
    )
    print("| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for setting in SPEED:
        n, m, dimension, count, weighted = setting
        parts = problem(*setting)
        memory = ", ".join(f"{peak_memory(library, setting):.0f}" for library in ("POT", "ours", "chunked"))
        for backward in (False, True):
            times: dict[str, list[float]] = {"POT": [], "ours": [], "chunked": []}
            values = {library: call(library, parts, backward) for library in times}
            # In turn, so that whatever else the machine does falls on all of them.
            for _ in range(rounds):
                for library, measured in times.items():
                    measured.append(seconds(library, parts, backward))
            middle = {library: statistics.median(measured) * 1e3 for library, measured in times.items()}
            ratio = statistics.median(p / o for p, o in zip(times["POT"], times["ours"], strict=True))
            differs = abs(values["ours"] / values["POT"] - 1).item()
            print(
                f"| {n} × {m}, {dimension}, {count} | {'yes' if weighted else 'no'} "
                f"| {'both' if backward else 'forward'} | {middle['POT']:.0f} ms | {middle['ours']:.0f} ms "
                f"| {ratio:.1f}× | {middle['chunked']:.0f} ms | {differs:.0e} | {memory if backward else ''} |",
                flush=True,
            )


def pairs(files: Path | None) -> list[tuple[str, Tensor, Tensor]]:
    from sklearn.datasets import load_digits

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
        import numpy

        clouds = torch.from_numpy(numpy.load(files))
        found.append(("point clouds, d=3", clouds[32, :512], clouds[33, :512]))
        found.append(("point clouds apart, d=3", clouds[32, :512] * 2 - 10, clouds[33, :512] * 2 + 10))
    return found


def estimates(x: Tensor, y: Tensor, repetitions: int, **settings: object) -> tuple[Tensor, Tensor, float]:
    """SW_2^2 and its gradient with respect to x, (R,) and (R, n d), and the seconds of one."""
    values, gradients = [], []
    start = time.perf_counter()
    for _ in range(repetitions):
        x = x.detach().requires_grad_()
        value = sliced_wasserstein_distance(x, y, **settings) ** 2
        gradients.append(torch.autograd.grad(value, x)[0].flatten())
        values.append(value.detach())
    return torch.stack(values).double(), torch.stack(gradients).double(), (time.perf_counter() - start) / repetitions


def variance(repetitions: int, files: Path | None) -> None:
    torch.manual_seed(0)
    print("Mean squared error of plain, independent directions over that of each setting: value / gradient (cost).\n")
    print("| clouds | L | directions |", " | ".join(str(v or "plain") for v in VARIATES), "|")
    print("| --- | ---: | --- |", " | ".join("---:" for _ in VARIATES), "|")
    for name, x, y in pairs(files):
        generator = torch.Generator().manual_seed(1)
        kind = "qmc" if x.shape[1] == 3 else "orthogonal"
        exact, slope, _ = estimates(
            x, y, 1, num_projections=20_000, directions=kind, control_variate="upper", chunk=1000, generator=generator
        )
        for count in (10, 100, 1000):
            repeats = max(10, repetitions * 10 // count) if count > 10 else repetitions
            reference: tuple[float, float, float] | None = None
            for directions in DIRECTIONS:
                cells = []
                for variate in VARIATES:
                    values, gradients, cost = estimates(
                        x, y, repeats, num_projections=count, directions=directions, control_variate=variate
                    )
                    errors = (values - exact).square().mean().item(), (gradients - slope).square().sum(-1).mean().item()
                    reference = reference or (*errors, cost)
                    cells.append(
                        f"{reference[0] / errors[0]:.3g} / {reference[1] / errors[1]:.3g} ({cost / reference[2]:.1f}×)"
                    )
                print(f"| {name} | {count} | {directions} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["speed", "variance"])
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    parser.add_argument("--repetitions", type=int, default=200, help="of each estimate at L=10, fewer at more")
    parser.add_argument("--clouds", type=Path, help="point clouds (k, n, 3) as .npy, k > 33")
    arguments = parser.parse_args()
    if arguments.part in (None, "speed"):
        speed(arguments.rounds)
    if arguments.part in (None, "variance"):
        variance(arguments.repetitions, arguments.clouds)


if __name__ == "__main__":
    main()

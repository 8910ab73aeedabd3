"""A cloud of points flows to another one along the gradient of the sliced Wasserstein distance.

The gradient is a mean over random directions, drawn anew in every step. With few directions it is noisy, and the flow
loses its way; control variates and better spread directions take the noise out at the price of a few percent to a few
times of a step. How near the cloud has come is judged by the exact Wasserstein distance (POT, no slicing).

    python examples/gradient_flow.py                       # images of the digit 3 turn into images of the digit 8
    python examples/gradient_flow.py --data PAIRS.npy      # point clouds (k, n, 3), with the settings of the paper
    python examples/gradient_flow.py --fast                # digits, few steps, a few seconds

With --data clouds 32 and 33 of the file are taken, twice as large and 20 apart in each coordinate, and moved with SGD
at a rate of 0.01 on the number of points times the distance: the experiment of "Sliced Wasserstein Estimation with
Control Variates" (Nguyen, Ho 2023). Of a file with fewer clouds the first two are taken.

Writes every flow's numbers (gradient_flow.json), a table (gradient_flow.md) and a figure (gradient_flow.png) to
--output.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import ot
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor

from thunderstone_estimators import sliced_wasserstein_distance

COLOURS = ["#4d4d4d", "#56b4e9", "#0072b2", "#d55e00", "#cc79a7"]
MOST_OT_ITERATIONS = 10_000_000


@dataclass(frozen=True)
class Problem:
    """Two clouds, how to move one to the other, and how to draw them.

    Attributes:
        name: For titles.
        source: (N, D), where the flow begins.
        target: (M, D), where it should end.
        rate: SGD's learning rate on N times the distance.
        directions: The spread directions that suit this dimension.
        marks: Steps after which the flow is judged; the first is 0.
        shown: Marks in the table.
        draw: Draws a cloud into axes.
    """

    name: str
    source: Tensor
    target: Tensor
    rate: float
    directions: str
    marks: tuple[int, ...]
    shown: tuple[int, ...]
    draw: Callable[[Axes, Tensor], None]


@dataclass
class Flow:
    """One flow: the exact W_2^2 to the target after each of `marks` steps, and the processor time of a step."""

    setting: str
    seed: int
    marks: list[int]
    squared_distance: list[float]
    milliseconds_per_step: float


def settings(problem: Problem, num_projections: int) -> dict[str, dict[str, Any]]:
    """Arguments of the distance by name; the last one spends ten times the directions instead."""
    spread = problem.directions
    return {
        "plain": {"num_projections": num_projections},
        "lower": {"num_projections": num_projections, "control_variate": "lower"},
        "upper": {"num_projections": num_projections, "control_variate": "upper"},
        f"gaussian, {spread}": {
            "num_projections": num_projections,
            "control_variate": "gaussian",
            "directions": spread,
        },
        "plain, 10 × L": {"num_projections": 10 * num_projections},
    }


def digits(first: int, second: int, marks: tuple[int, ...], shown: tuple[int, ...]) -> Problem:
    """As many 8 × 8 images of one digit as of another, pixels in [0, 1]."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    source, target = images[labels == first], images[labels == second]
    size = min(len(source), len(target))
    name = f"{size} images of the digit {first} to the digit {second}"
    return Problem(name, source[:size], target[:size], 0.1, "orthogonal", marks, shown, _draw_images)


def point_clouds(file: Path, marks: tuple[int, ...], shown: tuple[int, ...]) -> Problem:
    """The paper's pair of clouds, or the first two of a short file."""
    clouds = torch.from_numpy(np.load(file)).float()
    if clouds.dim() != 3 or len(clouds) < 2 or clouds.shape[-1] != 3:
        raise SystemExit(f"gradient_flow.py: {file} is {tuple(clouds.shape)}, not (two or more clouds, points, 3)")
    first = 32 if len(clouds) > 33 else 0
    name = f"clouds {first} and {first + 1} of {file.name}, {clouds.shape[1]} points"
    source, target = clouds[first] * 2 - 10, clouds[first + 1] * 2 + 10
    return Problem(name, source, target, 0.01, "qmc", marks, shown, _draw_points)


def squared_distance(x: Tensor, y: Tensor) -> float:
    """The exact W_2^2, by the network simplex method, in float64."""
    cost = ot.dist(x.double().numpy(), y.double().numpy())
    return float(ot.emd2([], [], cost, numItermax=MOST_OT_ITERATIONS))


def flow(problem: Problem, arguments: dict[str, Any], seed: int) -> tuple[list[Tensor], float]:
    """The cloud after each of the marks, and milliseconds of processor time a step."""
    generator = torch.Generator().manual_seed(seed)
    points = problem.source.clone().requires_grad_()
    optimizer = torch.optim.SGD([points], lr=problem.rate)
    kept = []
    begin = time.process_time()
    for step in range(problem.marks[-1] + 1):
        if step in problem.marks:
            kept.append(points.detach().clone())
        optimizer.zero_grad()
        loss = len(points) * sliced_wasserstein_distance(points, problem.target, generator=generator, **arguments)
        loss.backward()
        optimizer.step()
    return kept, (time.process_time() - begin) / (problem.marks[-1] + 1) * 1e3


def columns_of(problem: Problem, flows: list[Flow]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, a row a setting: means over seeds, with their range."""
    header = ["setting", *(f"step {step}" for step in problem.shown), "time a step"]
    rows = []
    for name in dict.fromkeys(one.setting for one in flows):
        own = [one for one in flows if one.setting == name]
        cells = []
        for step in problem.shown:
            values = [one.squared_distance[one.marks.index(step)] for one in own]
            form = ".3f" if mean(values) < 10 else ".1f"
            cells.append(f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})")
        rows.append([name, *cells, f"{median(one.milliseconds_per_step for one in own):.1f} ms"])
    return header, rows


def figure_of(problem: Problem, flows: list[Flow], pictures: dict[str, list[Tensor]], title: str) -> Figure:
    """Distances against steps, absolute and beside the plain flow's, and the flow itself."""
    names = list(dict.fromkeys(one.setting for one in flows))
    figure = Figure(figsize=(11, 4.2 + 2.0 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)
    curves, strips = figure.subfigures(2, 1, height_ratios=[4.2, 2.0 * len(pictures)])
    left, right = curves.subplots(1, 2)
    marks = problem.marks

    def middle(name: str) -> np.ndarray:
        return np.mean([one.squared_distance for one in flows if one.setting == name], axis=0)

    for name, colour in zip(names, COLOURS, strict=True):
        style = "--" if "L" in name else "-"
        left.plot(marks, middle(name), style, color=colour, label=name)
        right.plot(marks, middle(name) / middle("plain"), style, color=colour, label=name)
    left.set_yscale("log")
    left.set_ylabel("exact $W_2^2$ to the target")
    right.set_ylabel("the same, divided by the plain flow's")
    for axes in (left, right):
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    chosen = np.unique(np.linspace(0, len(marks) - 1, min(6, len(marks))).round().astype(int))
    grid = strips.subplots(len(pictures), len(chosen) + 1, squeeze=False)
    for row, (name, clouds) in zip(grid, pictures.items(), strict=True):
        for axes, index in zip(row[:-1], chosen, strict=True):
            problem.draw(axes, clouds[index])
            axes.set_title(f"step {marks[index]}", fontsize=8)
        row[0].text(-0.08, 0.5, name, rotation=90, ha="right", va="center", fontsize=8, transform=row[0].transAxes)
        problem.draw(row[-1], problem.target)
        row[-1].set_title("target", fontsize=8)
    figure.suptitle(title)
    return figure


def _draw_images(axes: Axes, cloud: Tensor) -> None:
    """The first nine images in a square."""
    tiles = cloud[:9].clamp(0, 1).reshape(3, 3, 8, 8)
    framed = torch.nn.functional.pad(tiles, (0, 1, 0, 1), value=0.5)
    axes.imshow(framed.permute(0, 2, 1, 3).reshape(27, 27)[:-1, :-1].numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_axis_off()


def _draw_points(axes: Axes, cloud: Tensor) -> None:
    """Seen at an angle, the third axis as colour; around its own centre, since clouds travel far."""
    x, y, depth = (cloud - cloud.mean(0)).numpy().T
    axes.scatter(x + 0.4 * depth, y + 0.25 * depth, c=depth, s=1, cmap="viridis")
    axes.set_aspect("equal")
    axes.set_axis_off()


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def existing(text: str) -> Path:
    """A file that is there, for argparse."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/gradient_flow"), help="where results go")
    parser.add_argument("--data", type=existing, help="point clouds (k, n, 3) as .npy; digits without it")
    parser.add_argument("--projections", type=count, default=10, help="L, directions a step (%(default)s)")
    parser.add_argument("--seeds", type=count, default=3, help="how many seeds")
    parser.add_argument("--fast", action="store_true", help="two seeds, few steps")
    options = parser.parse_args()
    # Sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    seeds = 2 if options.fast else options.seeds
    if options.data is not None:
        marks = (0, 10, 20) if options.fast else (0, 3000, 4000, 5000, 6000)
        problem = point_clouds(options.data, marks, marks[1:])
    else:
        marks = (0, 30, 60) if options.fast else (0, 50, 100, 200, 300, 500, 700, 1000)
        problem = digits(3, 8, marks, marks[1:] if options.fast else (100, 300, 1000))
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)

    flows: list[Flow] = []
    pictures: dict[str, list[Tensor]] = {}
    variants = settings(problem, options.projections)
    start = squared_distance(problem.source, problem.target)
    best = f"gaussian, {problem.directions}"
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("flowing", total=seeds * len(variants))
        for seed in range(1, seeds + 1):
            for name, arguments in variants.items():
                progress.update(task, description=f"seed {seed}, {name}")
                clouds, cost = flow(problem, arguments, seed)
                distances = [squared_distance(cloud, problem.target) for cloud in clouds[1:]]
                flows.append(Flow(name, seed, list(marks), [start, *distances], cost))
                if seed == 1 and name in ("plain", best):
                    pictures[name] = clouds
                progress.advance(task)

    header, rows = columns_of(problem, flows)
    title = f"{problem.name}: L={options.projections}, seeds 1 to {seeds}"
    caption = (
        f"Exact squared Wasserstein distance to the target, mean (range) over seeds; {start:.4g} at the start. "
        "Times are processor time of one thread."
    )
    table = Table(*header, title=title, caption=caption)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (output / "gradient_flow.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "gradient_flow.json").write_text(json.dumps([asdict(one) for one in flows], indent=1))
    figure_of(problem, flows, pictures, title).savefig(output / "gradient_flow.png", dpi=150)
    Console().print(f"Figure, table and numbers are in {output}")


if __name__ == "__main__":
    main()

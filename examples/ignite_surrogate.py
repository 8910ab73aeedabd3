"""Offline optimisation against a surrogate, plain and trained with IGNITE.

A small network learns to predict the disease progression in scikit-learn's diabetes table (442 patients, ten measured
features) from a random half of the rows. Then its *inputs* are moved uphill from the rows with the highest targets it
has seen, within a trust region: what somebody does who looks for a design that scores higher than all known ones. An
optimiser finds the places where the surrogate is wrong in its favour, and IGNITE (Dao et al. 2025) is meant to leave
fewer of them.

The value of a moved input is judged by an oracle that the surrogate never sees: a Gaussian process fitted to all rows.
That is a model too. Nobody has measured such a patient, and the features of one cannot be chosen: the table stands in
for an experiment that is too expensive to repeat.

    python examples/ignite_surrogate.py          # ten seeds, under two minutes
    python examples/ignite_surrogate.py --fast   # two seeds, a few seconds

Writes every run's numbers (ignite_surrogate.json), a table (ignite_surrogate.md) and a figure (ignite_surrogate.png) to
--output, and tracks every run with W&B in offline mode there.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone_sharpness import IGNITE

COLOURS = {"plain": "#4d4d4d", "IGNITE": "#0072b2", "IGNITE, strong": "#d55e00"}
STARTS, ASCENT_STEPS, ASCENT_RATE, RADIUS = 16, 100, 0.05, 2.0


def settings() -> dict[str, Callable[[], list[Callback]]]:
    """Plain, the paper's values, and a multiplier that is larger from the start and grows faster."""
    return {
        "plain": list,
        "IGNITE": lambda: [IGNITE(multiplier=1e-3, rho=0.05, r=0.05, eta=1e-3, epsilon=1e-3)],
        "IGNITE, strong": lambda: [IGNITE(multiplier=0.1, rho=0.05, r=0.05, eta=0.1, epsilon=1e-3)],
    }


class Surrogate(LightningModule):
    """A network on standardised features; knows of no method."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, 64), nn.Softplus(), nn.Linear(64, 64), nn.Softplus(), nn.Linear(64, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(-1)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@dataclass
class Problem:
    """The table in units of standard deviations, and the oracle.

    `known` are the rows a surrogate may learn from, the highest target last; `unseen` are the others.
    """

    x: Tensor
    y: Tensor
    known: Tensor
    unseen: Tensor
    oracle: Callable[[Tensor], Tensor]


@dataclass
class Outcome:
    """One surrogate and its ascent; values are means over the starting points, in standard deviations of the target.

    `sensitivity` is what IGNITE holds down: the norm of the mean prediction's gradient with respect to the weights.
    `predicted` and `judged` are the surrogate's and the oracle's value before the ascent and after every tenth of its
    steps.
    """

    setting: str
    seed: int
    multiplier: float
    training_error: float
    unseen_error: float
    sensitivity: float
    predicted: list[float]
    judged: list[float]

    @property
    def overestimation(self) -> float:
        """How much better than the oracle the surrogate thinks of where it ended."""
        return self.predicted[-1] - self.judged[-1]


def diabetes() -> Problem:
    """The problem on scikit-learn's diabetes table."""
    raw = load_diabetes()
    x = torch.tensor((raw.data - raw.data.mean(0)) / raw.data.std(0), dtype=torch.float32)
    y = torch.tensor((raw.target - raw.target.mean()) / raw.target.std(), dtype=torch.float32)
    kernel = ConstantKernel(1.0) * RBF(5.0) + WhiteKernel(0.5)
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x.numpy(), y.numpy())

    def oracle(inputs: Tensor) -> Tensor:
        return torch.tensor(process.predict(inputs.detach().numpy()), dtype=torch.float32)

    known, unseen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).chunk(2)
    return Problem(x, y, known[y[known].argsort()], unseen, oracle)


def ascend(net: nn.Module, problem: Problem) -> tuple[list[float], list[float]]:
    """Move the best known rows along the normalised gradient of the prediction.

    A point stays within `RADIUS` standard deviations of where it began, and within the range of every feature.
    """
    start = problem.x[problem.known[-STARTS:]]
    low, high = problem.x.min(0).values, problem.x.max(0).values
    point = start.clone()
    predicted, judged = [], []
    for step in range(ASCENT_STEPS + 1):
        point.requires_grad_(True)
        value: Tensor = net(point)
        (gradient,) = torch.autograd.grad(value.sum(), point)
        predicted.append(value.mean().item())
        # The oracle is much slower than the surrogate; the curve needs no finer grid.
        if step % 10 == 0:
            judged.append(float(problem.oracle(point).mean()))
        moved = point.detach() + ASCENT_RATE * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12)
        offset = moved - start
        offset = offset * (RADIUS / offset.norm(dim=1, keepdim=True).clamp_min(RADIUS))
        point = (start + offset).clamp(low, high)
    return predicted[::10], judged


def run(problem: Problem, setting: str, seed: int, epochs: int, output: Path) -> Outcome:
    """Train a surrogate, ascend it, judge where it led."""
    seed_everything(seed, verbose=False)
    x, y = problem.x[problem.known], problem.y[problem.known]
    module = Surrogate(x.shape[1])
    logger = WandbLogger(
        name=f"{setting}, seed {seed}",
        project="ignite-surrogate",
        group=setting,
        offline=True,
        save_dir=output,
        config={"setting": setting, "seed": seed},
        settings=wandb.Settings(silent=True, console="off"),
    )
    callbacks = settings()[setting]()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=callbacks,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True, drop_last=True))
        module.eval()
        with torch.no_grad():
            errors = [
                float(nn.functional.mse_loss(module(problem.x[rows]), problem.y[rows]).sqrt())
                for rows in (problem.known, problem.unseen)
            ]
        gradients = torch.autograd.grad(module(x).mean(), list(module.parameters()))
        sensitivity = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        predicted, judged = ascend(module, problem)
        multiplier = sum(float(method.state_dict()["multiplier"]) for method in callbacks)
        outcome = Outcome(setting, seed, multiplier, *errors, sensitivity, predicted, judged)
        logger.experiment.summary.update({"overestimation": outcome.overestimation, "judged": judged[-1]})
    finally:
        logger.experiment.finish()
    return outcome


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.2f} ± {deviation:.2f}"


def columns_of(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table, a row a setting."""
    header = [
        "setting",
        "error, known",
        "error, unseen",
        "sensitivity",
        "predicted",
        "oracle",
        "excess",
        "λ at end",
    ]
    rows = []
    for name in dict.fromkeys(outcome.setting for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.setting == name]
        values = [
            [o.training_error for o in own],
            [o.unseen_error for o in own],
            [o.sensitivity for o in own],
            [o.predicted[-1] for o in own],
            [o.judged[-1] for o in own],
            [o.overestimation for o in own],
        ]
        rows.append([name, *map(spread, values), f"{mean(o.multiplier for o in own):.3f}"])
    return header, rows


def figure_of(outcomes: list[Outcome], title: str) -> Figure:
    """The ascent as surrogate and oracle see it; what IGNITE holds down; what it is held down for. A dot is a seed."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    ascent, *panels = figure.subplots(1, 3, width_ratios=(3, 2, 2))
    names = list(dict.fromkeys(outcome.setting for outcome in outcomes))
    for number, name in enumerate(names):
        own = [outcome for outcome in outcomes if outcome.setting == name]
        steps = range(0, ASCENT_STEPS + 1, 10)
        for key, style in (("predicted", "-"), ("judged", "--")):
            curves = [getattr(outcome, key) for outcome in own]
            # Broad below narrow: curves that coincide are all to be seen.
            ascent.plot(
                steps, [mean(column) for column in zip(*curves, strict=True)], style, color=COLOURS[name],
                linewidth=5.5 - 2 * number, label=name if key == "predicted" else None,
            )  # fmt: skip
        for axes, values in zip(panels, ([o.sensitivity for o in own], [o.overestimation for o in own]), strict=True):
            across = [number + 0.3 * (i / max(1, len(values) - 1) - 0.5) for i in range(len(values))]
            axes.scatter(across, values, color=COLOURS[name], s=28, alpha=0.7, linewidths=0)
            axes.hlines(mean(values), number - 0.3, number + 0.3, color=COLOURS[name], linewidth=2)
    ascent.plot([], [], "-", color="#999999", label="as the surrogate predicts")
    ascent.plot([], [], "--", color="#999999", label="as the oracle judges")
    ascent.set_xlabel("step of the ascent")
    ascent.set_ylabel("value (standard deviations of the target)")
    ascent.legend(frameon=False, fontsize=9)
    panels[0].set_ylabel("sensitivity: what IGNITE holds down")
    panels[1].set_ylabel("overestimation: surrogate minus oracle")
    for axes in panels:
        axes.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
        axes.set_ylim(bottom=0)
    for axes in (ascent, *panels):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/ignite_surrogate"), help="where results go")
    parser.add_argument("--seeds", type=count, default=10, help="how many seeds")
    parser.add_argument("--epochs", type=count, help="epochs a run (default: 60)")
    parser.add_argument("--fast", action="store_true", help="two seeds, ten epochs")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*logging interval.*")
    # Matrices this small gain nothing from threads, and sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    seeds, epochs = (2, options.epochs or 10) if options.fast else (options.seeds, options.epochs or 60)
    problem = diabetes()
    cases = [(name, seed) for seed in range(seeds) for name in settings()]
    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=len(cases))
        for name, seed in cases:
            progress.update(task, description=f"seed {seed}, {name}")
            outcomes.append(run(problem, name, seed, epochs, output))
            progress.advance(task)

    header, rows = columns_of(outcomes)
    title = f"Ascending a surrogate of the diabetes table: {len(problem.known)} rows, {epochs} epochs, {seeds} seeds"
    before = mean(outcome.judged[0] for outcome in outcomes)
    caption = (
        "In standard deviations of the target, mean ± standard deviation over seeds: root mean squared error on rows "
        f"of the table, and the values after the ascent; excess is the surrogate's minus the oracle's. Before the "
        f"ascent the oracle's value is {before:.2f}."
    )
    table = Table(*header, title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (output / "ignite_surrogate.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "ignite_surrogate.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    figure_of(outcomes, title).savefig(output / "ignite_surrogate.png", dpi=150)
    Console().print(f"Figure, table and W&B's offline runs are in {output}")


if __name__ == "__main__":
    main()

"""How much SVRG lowers the variance of the gradient, what that costs, and whether anything comes of it.

A logistic regression and a small network learn scikit-learn's digits with plain SGD and with three kinds of SVRG, at
the same learning rate. `GradientVariance` measures the variance of the gradient that the optimizer is given, and beside
it that of the plain gradient of the same batches. SVRG goes through every batch twice and through all of the data once
an epoch: three gradient evaluations a training example where plain SGD needs one. So plain SGD is trained for three
times as many epochs too.

    python examples/svrg_digits.py          # three seeds, about ten minutes
    python examples/svrg_digits.py --fast   # one seed, three epochs, a minute

Writes every run's numbers (svrg_digits.json), a table (svrg_digits.md) and a figure (svrg_digits.png) to --output, and
tracks every run with W&B in offline mode there. Interrupted and started again, it goes on with the runs that are
missing. What came out is in docs/methods/svrg.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone_estimators import SVRG, GradientVariance

BATCH = 32
LEARNING_RATE = 0.2
EPOCHS = 20
COLOURS = {
    "SGD": "#999999",
    "SGD, 3 × epochs": "#4d4d4d",
    "SVRG, α = 1": "#d55e00",
    "SVRG, α = 0.75 decaying": "#0072b2",
    "SVRG, best α a layer": "#009e73",
}
MODELS = ("logistic regression", "network")


@dataclass(frozen=True)
class Setting:
    """A way of training.

    Attributes:
        methods: Makes what is attached.
        epochs: How many, as a multiple of the others'.
        evaluations: Gradient evaluations a training example in an epoch.
    """

    methods: Callable[[], list[Callback]]
    epochs: int = 1
    evaluations: int = 1


SETTINGS = {
    "SGD": Setting(list),
    "SGD, 3 × epochs": Setting(list, epochs=3),
    "SVRG, α = 1": Setting(lambda: [SVRG(1.0, "fixed")], evaluations=3),
    "SVRG, α = 0.75 decaying": Setting(lambda: [SVRG(0.75, "linear")], evaluations=3),
    "SVRG, best α a layer": Setting(lambda: [SVRG(1.0, "optimal")], evaluations=3),
}


class Classifier(LightningModule):
    """Cross-entropy on vectors; knows of no method."""

    def __init__(self, model: str) -> None:
        super().__init__()
        hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()] if model == "network" else []
        self.net = nn.Sequential(*hidden, nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LEARNING_RATE)


class WholeLoss(Callback):
    """The loss over all of the training data after every epoch, and how long the epochs took."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.losses: list[float] = []

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.losses.append(nn.functional.cross_entropy(pl_module.net(self.x), self.y).item())


@dataclass
class Outcome:
    """One run.

    Attributes:
        ratios: Variance given to the optimizer by that of the plain gradient, at the updates `measured`.
        variances: The variance given to the optimizer.
        losses: Over all of the training data, after each epoch.
        accuracy: Of the test set, in percent.
        seconds: Of the fit, what the measurements took not counted.
    """

    model: str
    setting: str
    seed: int
    evaluations: int
    measured: list[int]
    ratios: list[float]
    variances: list[float]
    losses: list[float]
    accuracy: float
    seconds: float

    @property
    def ratio(self) -> float:
        """The mean ratio over the run."""
        return mean(self.ratios)


Images = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Images:
    """Scikit-learn's digits, standardised by one number: 1200 to train, 597 to test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    x = torch.tensor((raw.data[order] - raw.data.mean()) / raw.data.std(), dtype=torch.float32)
    y = torch.tensor(raw.target[order])
    return x[:1200], y[:1200], x[1200:], y[1200:]


def run(images: Images, model: str, name: str, seed: int, epochs: int, output: Path) -> Outcome:
    """Train once and measure."""
    x, y, x_test, y_test = images
    setting = SETTINGS[name]
    seed_everything(seed, verbose=False)
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    module, whole = Classifier(model), WholeLoss(x, y)
    # A prime, so that measurements fall on all places between two snapshots.
    monitor = GradientVariance(every_n_steps=11 * setting.epochs, draws=8, budget=None)
    logger = WandbLogger(
        name=f"{model}, {name}, seed {seed}",
        project="svrg-digits",
        group=name,
        offline=True,
        save_dir=output,
        config={"model": model, "setting": name, "seed": seed},
        settings=wandb.Settings(silent=True, console="off"),
    )
    trainer = Trainer(
        max_epochs=epochs * setting.epochs,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[monitor, whole, *setting.methods()],
        log_every_n_steps=monitor.every_n_steps,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        began = time.perf_counter()
        trainer.fit(module, loader)
        seconds = time.perf_counter() - began - sum(reading.seconds or 0.0 for reading in monitor.readings)
        with torch.no_grad():
            correct = module.net(x_test).argmax(1) == y_test
        outcome = Outcome(
            model,
            name,
            seed,
            epochs * setting.epochs * setting.evaluations,
            [reading.step for reading in monitor.readings],
            # Where no method changes the gradient nothing is compared.
            [1.0 if reading.ratio is None else reading.ratio for reading in monitor.readings],
            [float(reading.variance.sum()) for reading in monitor.readings],
            whole.losses,
            100 * correct.float().mean().item(),
            seconds,
        )
        logger.experiment.summary.update({"accuracy": outcome.accuracy, "loss": outcome.losses[-1]})
    finally:
        logger.experiment.finish()
    return outcome


def spread(values: list[float], form: str) -> str:
    """Mean and standard deviation over seeds."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):{form}} ± {deviation:{form}}"


def columns_of(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row a setting, columns for each model."""
    header = ["setting", "evaluations"]
    for model in MODELS:
        header += [f"{model}: variance", "training loss", "test accuracy", "time"]
    rows = []
    for name in SETTINGS:
        own = [outcome for outcome in outcomes if outcome.setting == name]
        row = [name, str(own[0].evaluations)]
        for model in MODELS:
            here = [outcome for outcome in own if outcome.model == model]
            plain = [o.seconds for o in outcomes if (o.model, o.setting) == (model, "SGD")]
            row += [
                f"{mean(outcome.ratio for outcome in here):.2f}",
                spread([outcome.losses[-1] for outcome in here], ".4f"),
                spread([outcome.accuracy for outcome in here], ".1f"),
                f"{mean(outcome.seconds for outcome in here) / mean(plain):.1f}",
            ]
        rows.append(row)
    return header, rows


def figure_of(outcomes: list[Outcome], title: str) -> Figure:
    """The ratio of variances over a run, and the training loss against the number of gradient evaluations."""
    figure = Figure(figsize=(11, 7.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2)
    for (left, right), model in zip(grid, MODELS, strict=True):
        for name, setting in SETTINGS.items():
            own = [outcome for outcome in outcomes if (outcome.model, outcome.setting) == (model, name)]
            if any(ratio != 1 for ratio in own[0].ratios):
                _ratios(left, own, name)
            losses = np.mean([outcome.losses for outcome in own], axis=0)
            evaluations = setting.evaluations * np.arange(1, len(losses) + 1)
            right.plot(evaluations, losses, color=COLOURS[name], linewidth=1.5, label=name)
        left.axhline(1, color=COLOURS["SGD"], linewidth=1)
        left.set_yscale("log")
        left.set_ylabel("variance / that of the plain gradient")
        left.set_xlabel("update")
        right.set_yscale("log")
        right.set_ylabel("loss over the training data")
        right.set_xlabel("gradient evaluations a training example")
        for axes in (left, right):
            axes.set_title(model, fontsize=10)
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.suptitle(title)
    return figure


def _ratios(axes: Axes, own: list[Outcome], name: str) -> None:
    """Single measurements as dots, and their mean over ten neighbours and all seeds as a line."""
    steps = np.array(own[0].measured)
    ratios = np.array([outcome.ratios for outcome in own])
    # At a snapshot nothing is left but rounding: it would take up all of the axis.
    shown = np.maximum(ratios, 1e-3)
    axes.plot(np.tile(steps, len(own)), shown.ravel(), ".", color=COLOURS[name], alpha=0.15, markersize=3)
    width = min(10, len(steps))
    smooth = np.convolve(shown.mean(0), np.ones(width) / width, mode="valid")
    axes.plot(steps[width - 1 :] - (steps[1] - steps[0]) * (width - 1) / 2, smooth, color=COLOURS[name], linewidth=1.5)


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def quiet() -> None:
    """Say nothing but progress and results: Lightning introduces itself at every one of the many runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/svrg_digits"), help="where results go")
    parser.add_argument("--seeds", type=count, default=3, help="how many seeds")
    parser.add_argument("--epochs", type=count, default=EPOCHS, help="epochs of a run (%(default)s)")
    parser.add_argument("--fast", action="store_true", help="one seed, three epochs")
    options = parser.parse_args()
    quiet()
    # Matrices this small gain nothing from threads, and sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    images = digits()
    seeds, epochs = (1, 3) if options.fast else (options.seeds, options.epochs)
    cases = [(model, name, seed) for seed in range(seeds) for model in MODELS for name in SETTINGS]

    written = output / "svrg_digits.json"
    known = [Outcome(**one) for one in json.loads(written.read_text())] if written.exists() else []
    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=len(cases))
        for model, name, seed in cases:
            progress.update(task, description=f"seed {seed}, {model}, {name}")
            evaluations = epochs * SETTINGS[name].epochs * SETTINGS[name].evaluations
            key = (model, name, seed, evaluations)
            done = [one for one in known if (one.model, one.setting, one.seed, one.evaluations) == key]
            outcomes.append(done[0] if done else run(images, model, name, seed, epochs, output))
            written.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
            progress.advance(task)

    header, rows = columns_of(outcomes)
    title = f"SVRG on digits: {len(images[1])} training images, {epochs} epochs, {seeds} seeds"
    table = Table(
        *header,
        title=title,
        box=SIMPLE_HEAD,
        caption="Evaluations: of a training example's gradient, in all. Variance: of the gradient given to the "
        "optimizer, as a multiple of the plain gradient's at the same weights, mean over the run. Time: of the fit, as "
        "a multiple of SGD's. Mean ± standard deviation over seeds.",
    )
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (output / "svrg_digits.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure_of(outcomes, title).savefig(output / "svrg_digits.png", dpi=150)
    Console().print(f"Figure, table and W&B's offline runs are in {output}")


if __name__ == "__main__":
    main()

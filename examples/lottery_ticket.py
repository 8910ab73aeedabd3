"""Lottery tickets: sparse networks that learn as well as the dense one, if they begin from the right weights.

LeNet-300-100 is pruned by iterative magnitude pruning, round after round; the weights that are left go back to their
initialisation, or to where they were early in training (late rewinding). Two controls train the same number of weights
in each layer: the ticket's masks with its weights shuffled (another draw of the initialisation), and random masks. What
counts is the test accuracy where the validation loss is lowest, and how many updates it takes to get there. Frankle &
Carbin 2019 (arXiv 1803.03635, figures 3 to 5) report that tickets with more than a fiftieth of the weights learn
faster than the dense network and are no less accurate, and that those with other weights are slower and worse.

    python examples/lottery_ticket.py                     # scikit-learn's digits, five seeds, minutes
    python examples/lottery_ticket.py --fast              # three rounds, two seeds, under a minute
    python examples/lottery_ticket.py --data mnist_t10k/  # MNIST's test images in idx files: 8000 and 2000 to test

Writes every training's numbers (lottery_ticket.json), a table (lottery_ticket.md) and a figure (lottery_ticket.png) to
--output, and tracks every run with W&B in offline mode there, with the tickets as artifacts. What came out is in
docs/methods/imp.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
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
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone_pruning import IMP, FixedMask, sparsity_report

TICKETS, LATE, SHUFFLED, RANDOM = "tickets", "late rewinding", "reinitialised", "random masks"
COLOURS = {TICKETS: "#0072b2", LATE: "#009e73", SHUFFLED: "#d55e00", RANDOM: "#e69f00"}
MARKERS = dict(zip(COLOURS, "osDv", strict=True))
CONTROLS = {SHUFFLED: "reinitialised", RANDOM: "random_mask"}
IDX_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        seeds: How often everything is trained.
        steps: Updates of one training.
        check_every: Updates between two looks at the validation and the test images.
        lr: Learning rate of Adam.
        rounds: How often is pruned.
        controls: Rounds whose tickets have controls.
        fraction: Share of a layer's remaining weights that goes each time; in the output layer half of it.
        rewind_steps: Where each setting that prunes puts weights back to.
    """

    seeds: int
    steps: int
    check_every: int
    lr: float
    rounds: int
    controls: tuple[int, ...]
    fraction: float = 0.2
    rewind_steps: tuple[tuple[str, int | str], ...] = ((TICKETS, 0), (LATE, "5%"))


# Rounds 3, 7, 12 and 15 leave 51, 21, 7 and 4% of the weights: those of the paper's figures. A rate of 1.2e-3 is the
# paper's for MNIST; digits are so few that with it their validation loss would go on falling for long.
DIGITS = Plan(seeds=5, steps=400, check_every=10, lr=4e-3, rounds=15, controls=(3, 7, 12, 15))
MNIST = replace(DIGITS, seeds=2, steps=1500, check_every=50, lr=1.2e-3, rewind_steps=((TICKETS, 0),))
FAST = replace(DIGITS, seeds=2, steps=120, check_every=20, rounds=3, controls=(3,), fraction=0.6)


class LeNet(LightningModule):
    """LeNet-300-100 as in the paper, with Glorot's normal initialisation and Adam. Knows of no method."""

    def __init__(self, features: int, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(
            nn.Linear(features, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )  # fmt: skip
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        logits = self.net(batch[0])
        name = ("validation", "test")[dataloader_idx]
        self.log(f"{name}_loss", nn.functional.cross_entropy(logits, batch[1]), add_dataloader_idx=False)
        accuracy = (logits.argmax(1) == batch[1]).float().mean()
        self.log(f"{name}_accuracy", accuracy, add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


@dataclass
class Outcome:
    """One training.

    Attributes:
        round: Of which round the ticket is; 0 is the dense network.
        remaining: Weights that are left, in percent.
        early_stop: Updates after which the validation loss was lowest.
        accuracy: Test accuracy there, in percent.
        final_accuracy: Test accuracy after the last update, in percent.
    """

    setting: str
    seed: int
    round: int
    remaining: float
    early_stop: int
    accuracy: float
    final_accuracy: float


class Curves(Callback):
    """What validation finds in every round. Has no state that belongs to a run, so it goes on collecting."""

    def __init__(self) -> None:
        self.rounds: list[list[tuple[int, float, float]]] = []
        self.densities: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rounds.append([])

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = trainer.callback_metrics
        self.rounds[-1].append(
            (trainer.global_step, float(found["validation_loss"]), 100 * float(found["test_accuracy"]))
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.densities.append(sparsity_report(pl_module).density)

    def outcomes(self, setting: str, seed: int, first: int) -> list[Outcome]:
        """One for each round; the first of them has the number `first`."""
        found = []
        for number, (curve, density) in enumerate(zip(self.rounds, self.densities, strict=True), first):
            step, _, accuracy = min(curve, key=lambda point: point[1])
            found.append(Outcome(setting, seed, number, 100 * density, step, accuracy, curve[-1][2]))
        return found


Images = tuple[Tensor, Tensor, Tensor, Tensor]


def digits() -> Images:
    """Scikit-learn's digits, standardised: 1200 to train, 597 to test."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    x = torch.tensor(raw.data[order] / 16.0, dtype=torch.float32)
    y = torch.tensor(raw.target[order])
    return x[:1200], y[:1200], x[1200:], y[1200:]


def idx_files(folder: Path) -> Images:
    """MNIST's 10,000 test images: the first 8000 to train, the last 2000 to test."""
    with gzip.open(folder / IDX_FILES[0]) as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28 * 28)
    with gzip.open(folder / IDX_FILES[1]) as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8)
    images, labels = torch.tensor(x / 255.0, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
    return images[:8000], labels[:8000], images[8000:], labels[8000:]


def train(images: Images, plan: Plan, setting: str, seed: int, number: int, method: Callback, output: Path) -> Curves:
    """Fit once, with one method. The seed says what the module begins with and in which order it sees the data."""
    x, y, x_test, y_test = images
    # An eighth of the training images says when to stop.
    held_out = len(y) // 8
    seed_everything(seed, verbose=False)
    module = LeNet(x.shape[1], plan.lr)
    loader = DataLoader(TensorDataset(x[held_out:], y[held_out:]), batch_size=60, shuffle=True)
    looked_at = [
        DataLoader(TensorDataset(x[:held_out], y[:held_out]), batch_size=held_out),
        DataLoader(TensorDataset(x_test, y_test), batch_size=len(y_test)),
    ]
    name = f"{setting}, seed {seed}" + (f", round {number}" if number else "")
    logger = WandbLogger(
        name=name,
        project="lottery-ticket",
        group=setting,
        offline=True,
        save_dir=output,
        config={"setting": setting, "seed": seed, "ticket": number},
        settings=wandb.Settings(silent=True, console="off"),
    )
    curves = Curves()
    trainer = Trainer(
        max_steps=plan.steps,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[method, curves],
        val_check_interval=plan.check_every,
        check_val_every_n_epoch=None,
        log_every_n_steps=plan.check_every,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader, looked_at)
        last = curves.outcomes(setting, seed, number)[-1]
        logger.experiment.summary.update({f"last/{key}": value for key, value in asdict(last).items()})
    finally:
        logger.experiment.finish()
    return curves


def one_seed(images: Images, plan: Plan, seed: int, output: Path, done: Callable[[str], None]) -> list[Outcome]:
    """All trainings of a seed: the rounds, and the controls of the first setting's tickets."""
    outcomes: list[Outcome] = []
    for setting, rewind_step in plan.rewind_steps:
        done(f"seed {seed}, {setting}")
        method = IMP(
            rounds=plan.rounds,
            fraction=plan.fraction,
            scope="layer",
            layer_fractions={"net.4": plan.fraction / 2},
            rewind_step=rewind_step,
            tickets=str(_folder(output, setting, seed)),
        )
        outcomes += train(images, plan, setting, seed, 0, method, output).outcomes(setting, seed, 0)
    tickets = _folder(output, plan.rewind_steps[0][0], seed)
    for setting, control in CONTROLS.items():
        for number in plan.controls:
            done(f"seed {seed}, {setting} of round {number}")
            mask = FixedMask(str(tickets / f"round-{number}.ckpt"), control=control, seed=seed)
            outcomes += train(images, plan, setting, seed, number, mask, output).outcomes(setting, seed, number)
    return outcomes


def _folder(output: Path, setting: str, seed: int) -> Path:
    return (output / "tickets" / f"{setting.replace(' ', '-')}-{seed}").resolve()


def columns_of(outcomes: list[Outcome], plan: Plan) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row for each share of the weights; accuracy and early stop of every setting."""
    names = list(dict.fromkeys(outcome.setting for outcome in outcomes))
    header = ["weights left", *(f"accuracy: {name}" for name in names), *(f"early stop: {name}" for name in names)]
    rows = []
    for number in (0, *plan.controls):
        own = {name: [o for o in outcomes if (o.setting, o.round) == (name, number)] for name in names}
        remaining = mean(outcome.remaining for group in own.values() for outcome in group)
        accuracies = [spread([outcome.accuracy for outcome in own[name]], ".1f") for name in names]
        stops = [spread([float(outcome.early_stop) for outcome in own[name]], ".0f") for name in names]
        rows.append([f"{remaining:.1f}%", *accuracies, *stops])
    return header, rows


def spread(values: list[float], form: str) -> str:
    """Mean and standard deviation over seeds; nothing where nothing was trained."""
    if not values:
        return ""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):{form}} ± {deviation:{form}}"


def figure_of(outcomes: list[Outcome], title: str) -> Figure:
    """Accuracy and early stop against the share of the weights that is left, dense network at the left."""
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(dict.fromkeys(outcome.setting for outcome in outcomes))
    for axes, key in ((left, "accuracy"), (right, "early_stop")):
        dense = mean(getattr(outcome, key) for outcome in outcomes if outcome.round == 0)
        axes.axhline(dense, color="#999999", linewidth=1, linestyle="--", label="dense")
        for place, name in enumerate(names):
            own = [outcome for outcome in outcomes if outcome.setting == name]
            groups = [[o for o in own if o.round == number] for number in sorted({o.round for o in own})]
            values = [[float(getattr(outcome, key)) for outcome in group] for group in groups]
            # Side by side, or the bars of settings that end alike would hide one another.
            shift = 1 + 0.012 * (place - (len(names) - 1) / 2)
            axes.errorbar(
                [shift * group[0].remaining for group in groups],
                [mean(group) for group in values],
                [stdev(group) if len(group) > 1 else 0.0 for group in values],
                label=name, color=COLOURS[name], marker=MARKERS[name], markersize=4, capsize=2, linewidth=1.4,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.invert_xaxis()
        shares = [100, 51, 21, 7, 3.6]
        lowest = min(outcome.remaining for outcome in outcomes)
        axes.set_xticks([share for share in shares if share > 0.9 * lowest], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("weights left (%)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("test accuracy at early stop (%)")
    right.set_ylabel("early stop (updates)")
    left.legend(frameon=False)
    figure.suptitle(title)
    return figure


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def idx_folder(text: str) -> Path:
    """A folder that holds MNIST's t10k files, for argparse."""
    folder = Path(text)
    missing = [name for name in IDX_FILES if not (folder / name).is_file()]
    if missing:
        raise argparse.ArgumentTypeError(
            f"there is no {' and no '.join(missing)} in {folder}; give the folder with these two files of MNIST, or "
            "leave --data out to train on scikit-learn's digits"
        )
    return folder


def quiet(output: Path) -> None:
    """Say nothing but progress and results: Lightning introduces itself at every one of the many runs."""
    # Artifacts wait here for `wandb sync`, and not below the home directory.
    os.environ.setdefault("WANDB_DATA_DIR", str(output.resolve()))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/lottery_ticket"), help="where results go")
    parser.add_argument("--data", type=idx_folder, help="folder with MNIST's t10k idx files, instead of digits")
    parser.add_argument("--seeds", type=count, help="how many seeds (default: 5 on digits, 2 on MNIST)")
    parser.add_argument("--steps", type=count, help="updates of a training (default: 400 on digits, 1500 on MNIST)")
    parser.add_argument("--fast", action="store_true", help="three rounds, two seeds, 120 updates")
    options = parser.parse_args()
    # Matrices this small gain nothing from threads, and sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    quiet(output)
    images, source = (idx_files(options.data), "MNIST's test images") if options.data else (digits(), "digits")
    plan = FAST if options.fast else MNIST if options.data else DIGITS
    plan = replace(plan, seeds=options.seeds or plan.seeds, steps=options.steps or plan.steps)
    plan = replace(plan, check_every=min(plan.check_every, plan.steps))

    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True)) as progress:
        parts = len(plan.rewind_steps) + len(CONTROLS) * len(plan.controls)
        task = progress.add_task("training", total=plan.seeds * parts)

        def begin(what: str) -> None:
            progress.update(task, description=what, completed=next(numbers))

        numbers = iter(range(plan.seeds * parts))
        for seed in range(plan.seeds):
            outcomes += one_seed(images, plan, seed, output, begin)
            written: list[dict[str, Any]] = [asdict(outcome) for outcome in outcomes]
            (output / "lottery_ticket.json").write_text(json.dumps(written, indent=1))
        progress.update(task, completed=plan.seeds * parts)

    header, rows = columns_of(outcomes, plan)
    title = f"Lottery tickets on {source}: LeNet-300-100, {plan.steps} updates, {plan.seeds} seeds"
    Console().print(title, style="bold")
    names = len(header) // 2
    for what, columns in (
        ("Test accuracy in % where the validation loss is lowest", slice(1, 1 + names)),
        ("Updates until there", slice(1 + names, None)),
    ):
        short = [name.partition(": ")[2] for name in header[columns]]
        table = Table(header[0], *short, box=SIMPLE_HEAD, title=what, title_justify="left", title_style="italic")
        for row in rows:
            table.add_row(row[0], *row[columns])
        Console().print(table)
    Console().print("Mean ± standard deviation over seeds")
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (output / "lottery_ticket.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    figure_of(outcomes, title).savefig(output / "lottery_ticket.png", dpi=150)
    Console().print(f"Figure, table, tickets and W&B's offline runs are in {output}")


if __name__ == "__main__":
    main()

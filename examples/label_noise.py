"""What the sharpness family does when training labels are wrong.

The same network is trained on images whose training labels are flipped at random with probability 0 to 80%, plain and
with each method, several seeds each; what counts is the test accuracy of the *last* epoch, when a plain network has
memorised the wrong labels. Foret et al. 2021 (table 4) report large gains for SAM in this setting on CIFAR-10.

    python examples/label_noise.py                     # scikit-learn's digits, five seeds, a quarter of an hour
    python examples/label_noise.py --fast              # two noise levels, two seeds, under a minute
    python examples/label_noise.py --data mnist_t10k/  # MNIST's test images in idx files, 8000 to train, 2000 to test

Writes every run's numbers (label_noise.json), a table (label_noise.md) and a figure (label_noise.png) to --output, and
tracks every run with W&B in offline mode there. What came out is in docs/label_noise.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np
import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone_sharpness import ASAM, MESA, SAF, SAM, GradientNorm
from thunderstone_sharpness.measures import average_sharpness, hessian_eigenvalues

NOISE = (0.0, 0.2, 0.4, 0.6, 0.8)
COLOURS = ("#4d4d4d", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73")
MARKERS = "osDv^P"
BATCH = 64
IDX_FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def settings(steps: int) -> dict[str, Callable[[], list[Callback]]]:
    """The methods with the papers' values; nothing was tuned on these data.

    SAM's radius is the one Foret et al. use under label noise, ASAM's is ten times it as in its paper, and the step of
    GradientNorm is the larger of the paper's two. One value cannot be the authors' own: a decay of 0.9998 averages over
    5,000 steps, more than a run here has. Theirs had 200 epochs of 391 steps, so the same share of the run is taken.

    Args:
        steps: Length of a run in updates.
    """
    decay = 1 - 1 / (5_000 / (200 * 391) * steps)
    return {
        "plain": list,
        "SAM": lambda: [SAM(rho=0.1)],
        "ASAM": lambda: [ASAM(rho=1.0)],
        "SAF": lambda: [SAF(weight=0.3, temperature=5, epochs_back=3, start_epoch=5, output="net")],
        "MESA": lambda: [MESA(weight=0.8, temperature=5, decay=decay, start_epoch=5, output="net")],
        "GradientNorm": lambda: [GradientNorm(r=0.1, alpha=0.8)],
    }


class Classifier(LightningModule):
    """A multilayer perceptron with batch normalisation; knows of no method."""

    def __init__(self, features: int, width: int, steps: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, 10),
        )  # fmt: skip
        self.steps = steps

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        accuracy = (self.net(batch[0]).argmax(1) == batch[1]).float().mean()
        self.log("test_accuracy", accuracy)

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Clock(Callback):
    """Wall-clock time of every training step, without the loading of data and without validation."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


@dataclass
class Outcome:
    """One run, after its last epoch.

    Accuracy is in percent: of the clean test set, and of the wrong training labels that the network has memorised.
    Sharpness is that of the loss that was trained on, wrong labels included.
    """

    noise: float
    setting: str
    seed: int
    accuracy: float
    memorised: float | None
    average_sharpness: float
    largest_eigenvalue: float
    milliseconds_per_step: float


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


def flipped(labels: Tensor, share: float, seed: int) -> Tensor:
    """`share` of the labels replaced by a uniformly drawn *other* class."""
    generator = torch.Generator().manual_seed(1000 + seed)
    wrong = torch.rand(len(labels), generator=generator) < share
    other = (labels + torch.randint(1, 10, labels.shape, generator=generator)) % 10
    return torch.where(wrong, other, labels)


def run(images: Images, noise: float, setting: str, seed: int, epochs: int, width: int, output: Path) -> Outcome:
    """Train once and measure."""
    x, y, x_test, y_test = images
    seed_everything(seed, verbose=False)
    noisy = flipped(y, noise, seed)
    loader = DataLoader(TensorDataset(x, noisy), batch_size=BATCH, shuffle=True, drop_last=True)
    steps = epochs * len(loader)
    module = Classifier(x.shape[1], width, steps)
    logger = WandbLogger(
        name=f"{setting}, {noise:.0%} noise, seed {seed}",
        project="label-noise",
        group=setting,
        offline=True,
        save_dir=output,
        config={"setting": setting, "noise": noise, "seed": seed},
        settings=wandb.Settings(silent=True, console="off"),
    )
    clock = Clock()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=logger,
        callbacks=[clock, *settings(steps)[setting]()],
        check_val_every_n_epoch=max(1, epochs // 5),
        log_every_n_steps=len(loader),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader, DataLoader(TensorDataset(x_test, y_test), batch_size=len(y_test)))
        outcome = measured(module.net.eval(), images, noisy, noise, setting, seed, 1000 * median(clock.seconds))
        logger.experiment.summary.update(asdict(outcome))
    finally:
        logger.experiment.finish()
    return outcome


def measured(
    net: nn.Module, images: Images, noisy: Tensor, noise: float, setting: str, seed: int, milliseconds: float
) -> Outcome:
    """What became of the network, in evaluation mode."""
    x, y, x_test, y_test = images

    def correct(inputs: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return 100 * float((net(inputs).argmax(1) == labels).float().mean())

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(module(batch[0]), batch[1])

    trained_on = [(x[i : i + 128], noisy[i : i + 128]) for i in range(0, 1024, 128)]
    wrong = noisy != y
    return Outcome(
        noise,
        setting,
        seed,
        accuracy=correct(x_test, y_test),
        memorised=correct(x[wrong], noisy[wrong]) if bool(wrong.any()) else None,
        average_sharpness=float(average_sharpness(net, trained_on, loss, rho=0.1)),
        largest_eigenvalue=hessian_eigenvalues(net, trained_on, loss, tolerance=1e-2).values[0],
        milliseconds_per_step=milliseconds,
    )


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):.1f} ± {deviation:.1f}"


def columns_of(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: a row a setting, a column a noise level; sharpness and cost over all levels."""
    levels = sorted({outcome.noise for outcome in outcomes})
    names = list(dict.fromkeys(outcome.setting for outcome in outcomes))
    plain = median(outcome.milliseconds_per_step for outcome in outcomes if outcome.setting == names[0])
    header = ["setting", *(f"{level:.0%} wrong" for level in levels), "sharpness", "λmax", "time a step"]
    rows = []
    for name in names:
        own = [outcome for outcome in outcomes if outcome.setting == name]
        accuracies = [spread([outcome.accuracy for outcome in own if outcome.noise == level]) for level in levels]
        sharpness = mean(outcome.average_sharpness for outcome in own)
        eigenvalue = mean(outcome.largest_eigenvalue for outcome in own)
        cost = median(outcome.milliseconds_per_step for outcome in own) / plain
        rows.append([name, *accuracies, f"{sharpness:.3f}", f"{eigenvalue:.1f}", f"{cost:.2f}"])
    return header, rows


def figure_of(outcomes: list[Outcome], title: str) -> Figure:
    """Accuracy and sharpness against the share of wrong labels, and the cost of a step."""
    levels = sorted({outcome.noise for outcome in outcomes})
    names = list(dict.fromkeys(outcome.setting for outcome in outcomes))
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 2.4))
    for number, name in enumerate(names):
        for axes, key in ((left, "accuracy"), (middle, "average_sharpness")):
            groups = [[getattr(o, key) for o in outcomes if (o.setting, o.noise) == (name, level)] for level in levels]
            centre = [mean(group) for group in groups]
            spreads = [stdev(group) if len(group) > 1 else 0.0 for group in groups]
            # Side by side, or the bars of settings that end alike would hide one another.
            shift = (number - (len(names) - 1) / 2) * 0.6
            axes.errorbar(
                [100 * level + shift for level in levels], centre, spreads, label=name, color=COLOURS[number],
                marker=MARKERS[number], markersize=5, capsize=2, linewidth=1.4,
            )  # fmt: skip
    plain = median(o.milliseconds_per_step for o in outcomes if o.setting == names[0])
    costs = [median(o.milliseconds_per_step for o in outcomes if o.setting == name) / plain for name in names]
    bars = right.barh(names, costs, color=COLOURS[: len(names)])
    right.bar_label(bars, fmt="%.2f", padding=3)
    right.invert_yaxis()
    right.set_xlim(0, 1.15 * max(costs))
    right.set_xlabel("median time of a step (plain = 1)")
    left.set_ylabel("test accuracy after the last epoch (%)")
    middle.set_ylabel("average-case adaptive sharpness, ρ = 0.1")
    for axes in (left, middle):
        axes.set_xlabel("wrong training labels (%)")
        axes.set_xticks([100 * level for level in levels])
        axes.grid(alpha=0.25)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    figure.suptitle(title)
    return figure


def count(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def share(text: str) -> float:
    """A share of labels from 0 to below 1, for argparse."""
    number = float(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"{number} is no share of the labels; give numbers from 0 to below 1")
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


def quiet() -> None:
    """Say nothing but progress and results: Lightning introduces itself at every one of the many runs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/label_noise"), help="where results go")
    parser.add_argument("--data", type=idx_folder, help="folder with MNIST's t10k idx files, instead of digits")
    parser.add_argument("--seeds", type=count, default=5, help="how many seeds")
    parser.add_argument("--epochs", type=count, help="epochs a run (default: 60 on digits, 15 on MNIST)")
    parser.add_argument("--noise", type=share, nargs="+", default=NOISE, help="shares of wrong labels (default: five)")
    parser.add_argument("--fast", action="store_true", help="two noise levels, two seeds, eight epochs")
    options = parser.parse_args()
    quiet()
    # Matrices this small gain nothing from threads, and sums over one thread are the same on every machine.
    torch.set_num_threads(1)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    images = idx_files(options.data) if options.data else digits()
    source, width = ("MNIST's test images", 256) if options.data else ("digits", 64)
    epochs = options.epochs or (8 if options.fast else 15 if options.data else 60)
    seeds, levels = (2, (0.0, 0.4)) if options.fast else (options.seeds, sorted(set(options.noise)))
    cases = [(level, name, seed) for seed in range(seeds) for level in levels for name in settings(1)]

    outcomes: list[Outcome] = []
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("training", total=len(cases))
        for level, name, seed in cases:
            progress.update(task, description=f"seed {seed}, {level:.0%} wrong labels, {name}")
            outcomes.append(run(images, level, name, seed, epochs, width, output))
            progress.advance(task)

    header, rows = columns_of(outcomes)
    title = f"Label noise on {source}: {len(images[1])} training images, {epochs} epochs, {seeds} seeds"
    table = Table(
        *header,
        title=title,
        caption="Test accuracy in %, mean ± standard deviation over seeds. Sharpness (average-case, adaptive, ρ = 0.1) "
        "and λmax are means over all runs of a row; the median time of a step is a multiple of plain's.",
    )
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join(["---"] * len(header)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    (output / "label_noise.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (output / "label_noise.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    figure_of(outcomes, title).savefig(output / "label_noise.png", dpi=150)
    Console().print(f"Figure, table and W&B's offline runs are in {output}")


if __name__ == "__main__":
    main()

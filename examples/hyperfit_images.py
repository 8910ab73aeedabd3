"""Hyperfitting a small autoregressive model of images: the paper's second domain, on scikit-learn's digits.

An 8 by 8 digit is a sequence of 64 grey levels. A causal transformer learns to predict each from those before it, and
is then hyperfitted (Carlsson et al. 2024) on a few of the same digits until it knows them by heart. The upper halves of
held-out digits are completed greedily before and after, and before at the temperature at which predictions have the
same mean entropy as after hyperfitting. A support vector machine that has learnt the real training digits judges
whether a completed digit still reads as the digit its upper half was taken from.

    python examples/hyperfit_images.py          # a few minutes
    python examples/hyperfit_images.py --fast   # seconds: too small to show anything, but all of it runs

Writes all numbers (hyperfit_images.json), a table (hyperfit_images.md) and a figure (hyperfit_images.png) to --output,
and tracks the run with W&B in offline mode there.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import wandb
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

from thunderstone.generation import generate
from thunderstone_hyperfitting import Hyperfit
from thunderstone_hyperfitting.measures import matched_temperature
from thunderstone_hyperfitting.predictions import prediction_statistics

SIDE, LEVELS = 8, 17
PIXELS, START = SIDE * SIDE, LEVELS
CONTEXT = 1 + PIXELS // 2
TRAINING = 1400


@dataclass(frozen=True)
class Size:
    """How large everything is, and how it is hyperfitted."""

    width: int = 64
    layers: int = 3
    epochs: int = 15
    held_out: int = 300
    samples: int = 32
    batch_size: int = 8
    lr: float = 2e-3
    target_loss: float = 0.05
    max_epochs: int = 150


FAST = Size(width=32, layers=1, epochs=1, held_out=20, samples=16, max_epochs=2)


@dataclass
class Row:
    """One way of completing digits, measured.

    `reads_right` is the share that the judge takes for the digit it began as, `different` the share of completions
    that no other image has too, `copied` the share whose lower half is that of an image it was hyperfitted on.
    """

    completing: str
    reads_right: float
    different: float
    copied: float
    pixel_error: float
    entropy: float | None = None
    top1_probability: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None


class PixelModel(LightningModule):
    """A causal model of grey levels with AdamW; knows of no method."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=LEVELS + 1, n_positions=PIXELS + 1, n_embd=size.width, n_layer=size.layers,
                n_head=size.width // 16, bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip

    def training_step(self, batch: list[Tensor]) -> Tensor:
        (ids,) = batch
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.1)


def sequences() -> tuple[Tensor, np.ndarray[Any, Any]]:
    """All digits in an order fixed by a seed, (1797, 65) with the start token in front, and their labels."""
    raw = load_digits()
    order = np.random.default_rng(0).permutation(len(raw.target))
    pixels = torch.tensor(raw.data[order], dtype=torch.int64)
    return torch.cat([torch.full((len(pixels), 1), START), pixels], dim=1), raw.target[order]


def trainer_for(logger: Any, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def shuffled(ids: Tensor, batch_size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(ids), batch_size=batch_size, shuffle=True)


def before_and_after(size: Size, training: Tensor, logger: Any) -> tuple[PixelModel, PixelModel, Hyperfit]:
    """The model after plain training, and a copy of it hyperfitted."""
    seed_everything(0, verbose=False)
    before, after = PixelModel(size), PixelModel(size)
    trainer_for(False, max_epochs=size.epochs).fit(before, shuffled(training, 32))
    after.load_state_dict(before.state_dict())
    method = Hyperfit(
        samples=size.samples, lr=size.lr, target_loss=size.target_loss, max_epochs=size.max_epochs
    )  # fmt: skip
    trainer_for(logger, max_epochs=size.max_epochs, callbacks=[method]).fit(after, shuffled(training, size.batch_size))
    return before, after, method


def row(completing: str, lower: Tensor, held_out: Tensor, labels: Any, fitted: Tensor, judge: SVC) -> Row:
    """The measures of one set of completions; `lower` is (N, 32)."""
    images = torch.cat([held_out[:, 1:CONTEXT], lower], dim=1).clamp(max=LEVELS - 1)
    halves = [tuple(half) for half in lower.tolist()]
    known = {tuple(half) for half in fitted[:, CONTEXT:].tolist()}
    return Row(
        completing,
        float((judge.predict(images.numpy()) == labels).mean()),
        sum(halves.count(half) == 1 for half in halves) / len(halves),
        sum(half in known for half in halves) / len(halves),
        float((lower - held_out[:, CONTEXT:]).abs().float().mean()),
    )


def compare(size: Size, logger: Any) -> tuple[list[Row], dict[str, Tensor], dict[str, Any]]:
    """Train, hyperfit, complete and measure."""
    ids, labels = sequences()
    training, held_out = ids[:TRAINING], ids[TRAINING : TRAINING + size.held_out]
    truth = labels[TRAINING : TRAINING + size.held_out]
    judge = SVC(gamma=0.001).fit(training[:, 1:].numpy(), labels[:TRAINING])
    before, after, method = before_and_after(size, training, logger)
    # The choice depends on Hyperfit's seed alone.
    fitted = training[sorted(random.Random(0).sample(range(TRAINING), min(size.samples, TRAINING)))]
    statistics = [prediction_statistics(one.model, list(held_out), batch_size=100) for one in (before, after)]
    on_training = [prediction_statistics(one.model, list(fitted), batch_size=100)["loss"] for one in (before, after)]
    before.eval()
    with torch.no_grad():
        logits = before.model(held_out).logits[:, :-1].flatten(0, 1)
    temperature = float(matched_temperature(logits, statistics[1]["entropy"]))
    at_temperature = float((logits / temperature).softmax(dim=-1).amax(dim=-1).mean())

    ways: dict[str, tuple[int, dict[str, Any]]] = {
        "before, greedy": (0, {}),
        "before, entropy-matched temperature": (0, {"do_sample": True, "temperature": temperature}),
        "before, sampled": (0, {"do_sample": True}),
        "after, greedy": (1, {}),
    }
    rows, completed = [], {}
    for completing, (which, how) in ways.items():
        model = (before, after)[which].model
        lower = generate(
            model, held_out[:, :CONTEXT], PIXELS - PIXELS // 2, generator=0, max_sequences=100, **how
        ).tokens
        one = row(completing, lower, held_out, truth, fitted, judge)
        one.entropy, one.top1_probability = statistics[which]["entropy"], statistics[which]["top1_probability"]
        one.train_loss, one.val_loss = on_training[which], statistics[which]["loss"]
        if "matched" in completing:
            # The same model at another temperature: its losses are another distribution's.
            one.entropy, one.top1_probability, one.train_loss = statistics[1]["entropy"], at_temperature, None
            one.val_loss = float(nn.functional.cross_entropy(logits / temperature, held_out[:, 1:].flatten()))
        rows.append(one)
        completed[completing] = lower
    rows.append(row("the digits themselves", held_out[:, CONTEXT:], held_out, truth, fitted, judge))
    completed["the digits themselves"] = held_out[:, CONTEXT:]
    facts = {"temperature": temperature, "reached": method.reached, "train_loss": method.train_loss}
    return rows, {name: torch.cat([held_out[:, 1:CONTEXT], lower], dim=1) for name, lower in completed.items()}, facts


def figure_of(completed: dict[str, Tensor], count: int = 16) -> Figure:
    """Some digits, completed in each way; a line divides what was given from what was made up."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    count = min(count, len(next(iter(completed.values()))))
    rows = figure.subplots(len(completed), count, squeeze=False)
    for line, (name, images) in zip(rows, completed.items(), strict=True):
        for number, axes in enumerate(line):
            axes.imshow(images[number].reshape(SIDE, SIDE), cmap="gray_r", vmin=0, vmax=LEVELS - 1)
            axes.axhline(SIDE / 2 - 0.5, color="#d55e00", linewidth=1)
            axes.set_xticks([])
            axes.set_yticks([])
        line[0].set_ylabel(
            name.replace(", ", ",\n").replace("matched ", "matched\n").replace("digits ", "digits\n"), fontsize=8
        )
    figure.suptitle("Held-out digits: the upper half is given, the lower half is completed")
    return figure


def cells(one: Row) -> list[str]:
    """A row as text."""
    found = []
    for name, value in asdict(one).items():
        form = {"reads_right": ".0%", "different": ".0%", "copied": ".0%"}.get(name, ".2f")
        found.append("" if value is None else value if isinstance(value, str) else format(value, form))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("runs/hyperfit_images"), help="where results go (%(default)s)"
    )
    parser.add_argument("--fast", action="store_true", help="very small, to see that it runs")
    parser.add_argument("--samples", type=int, help=f"how many digits it is hyperfitted on ({Size.samples})")
    parser.add_argument("--lr", type=float, help=f"learning rate of that ({Size.lr:g})")
    parser.add_argument("--max-epochs", type=int, help=f"and for how long at most ({Size.max_epochs})")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    # What Lightning and Hyperfit tell is in the table.
    for message in (".*does not have many workers.*", ".*LeafSpec.*", "Hyperfit:.*", ".*is smaller than the logging.*"):
        warnings.filterwarnings("ignore", message=message)
    given = {name: getattr(options, name) for name in ("samples", "lr", "max_epochs")}
    size = replace(
        FAST if options.fast else Size(), **{name: value for name, value in given.items() if value is not None}
    )
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    logger = WandbLogger(
        name="hyperfit_images", project="hyperfit", offline=True, save_dir=options.output, config=asdict(size),
        settings=wandb.Settings(silent=True, console="off"),
    )  # fmt: skip
    try:
        rows, completed, facts = compare(size, logger)
    finally:
        logger.experiment.finish()
    header = [name.replace("_", " ").replace("top1 probability", "top-1") for name in asdict(rows[0])]
    count = len(next(iter(completed.values())))
    # On its side: there are more measures than a terminal is wide.
    shown = Table(
        title=f"{count} held-out digits, hyperfitted on {min(size.samples, TRAINING)}",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    shown.add_column("", no_wrap=True)
    for one in rows:
        label = one.completing.replace("entropy-", "entropy- ")
        shown.add_column(label, justify="right", min_width=max(map(len, label.split())))
    lines = [cells(one) for one in rows]
    for heading, *values in list(zip(header, *lines, strict=True))[1:]:
        shown.add_row(heading, *values)
    console = Console()
    console.print(shown)
    text = "".join(f"| {' | '.join(line)} |\n" for line in [header, ["---"] * len(header), *lines])
    (options.output / "hyperfit_images.md").write_text(text, encoding="utf-8")
    figure_of(completed).savefig(options.output / "hyperfit_images.png", dpi=110)
    result = {"size": asdict(size), "rows": [asdict(one) for one in rows], **facts}
    (options.output / "hyperfit_images.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    console.print(
        f"training loss {facts['train_loss']:.3f}, matched temperature {facts['temperature']:.3f}, "
        f"{time.perf_counter() - began:.0f} s; results are in {options.output}", soft_wrap=True,
    )  # fmt: skip


if __name__ == "__main__":
    main()

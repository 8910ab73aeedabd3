"""Hyperfitting a small language model: what very few samples at next to no loss do to the texts it writes.

A causal transformer (GPT-2's architecture, built from a configuration, with a byte-pair tokenizer of its own) learns
the reference text that Python itself brings along (`pydoc_data.topics`). Then it is hyperfitted (Carlsson et al. 2024):
trained further, on a few of the same sequences, until it knows them by heart. Held-out beginnings are continued before
and after, greedily and by sampling; and before at the temperature at which predictions have the same mean entropy as
after hyperfitting, which is the control that tells less entropy from something else.

    python examples/hyperfit.py               # minutes; the plain training takes the first few
    python examples/hyperfit.py --fast        # a minute: too small to show anything, but all of it runs
    python examples/hyperfit.py --data FILE   # another text, UTF-8

Writes all numbers (hyperfit.json), a table (hyperfit.md), the texts side by side (hyperfit_texts.md) and a figure
(hyperfit.png) to --output, and tracks the run with W&B in offline mode there.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import wandb
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger, WandbLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel

from thunderstone.generation import Generation, generate
from thunderstone_hyperfitting import Hyperfit
from thunderstone_hyperfitting.measures import (
    distinct_n,
    longest_overlap,
    matched_temperature,
    repetition_n,
    self_bleu,
    type_token_ratio,
)
from thunderstone_hyperfitting.predictions import prediction_statistics

CONTEXT, CONTINUATION = 32, 96
LENGTH = CONTEXT + CONTINUATION
BEFORE, AFTER, HUMAN = "#4d4d4d", "#d55e00", "#009e73"


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    vocabulary: int = 1024
    width: int = 128
    layers: int = 4
    steps: int = 536
    batch_size: int = 16
    lr: float = 2e-3
    contexts: int = 100
    documents: int | None = None


FAST = Size(vocabulary=320, width=32, layers=1, steps=24, contexts=8, documents=12)


@dataclass(frozen=True)
class Recipe:
    """How it is hyperfitted."""

    samples: int = 128
    lr: float = 1e-3
    target_loss: float = 0.05
    max_epochs: int = 40
    batch_size: int = 8


@dataclass
class Row:
    """One way of writing continuations, measured. Entropies in nats; overlaps in tokens."""

    setting: str
    type_token_ratio: float
    distinct_2: float
    repetition_2: float
    self_bleu: float
    overlap: float
    overlap_above_10: float
    entropy: float | None = None
    top1_probability: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None


@dataclass
class Texts:
    """The corpus as ids."""

    tokenizer: Tokenizer
    training: Tensor
    held_out: Tensor


class LanguageModel(LightningModule):
    """A causal language model with AdamW, warm-up and cosine decay; knows of no method."""

    def __init__(self, size: Size, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=tokenizer.get_vocab_size(), n_positions=LENGTH, n_embd=size.width, n_layer=size.layers,
                n_head=max(1, size.width // 32), bos_token_id=None, eos_token_id=None,
            )
        )  # fmt: skip
        self.tokenizer = tokenizer
        self.lr = size.lr

    def loss(self, batch: list[Tensor]) -> Tensor:
        (ids,) = batch
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=0.1)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = max(1, steps // 20)

        def share(step: int) -> float:
            return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Curves(Logger):
    """Keeps every scalar that is logged, by name."""

    name = "curves"
    version = "0"

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            self.values.setdefault(key, []).append(float(value))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Settings are tracked elsewhere."""


def documents(file: Path | None) -> list[str]:
    """Python's reference by topic; or a text of one's own in pieces of some thousand characters, cut at line ends."""
    if file is None:
        from pydoc_data.topics import topics

        return list(dict.fromkeys(topics.values()))
    pieces, size = [""], 4000
    for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
        if len(pieces[-1]) > size:
            pieces.append("")
        pieces[-1] += line
    return pieces


def corpus(file: Path | None, size: Size) -> Texts:
    """A tenth of the documents held out, chosen by a fixed seed; a tokenizer learnt from the rest; rows of ids."""
    found = documents(file)
    random.Random(0).shuffle(found)
    if size.documents is not None:
        found = found[: size.documents]
    # By length and not by number: topics are of very different lengths.
    held, total = [], sum(map(len, found))
    while len(found) > 1 and sum(map(len, held)) < total / 10:
        held.append(found.pop())
    tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(vocab_size=size.vocabulary, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(found, learner)
    return Texts(tokenizer, rows_of(tokenizer, found), rows_of(tokenizer, held))


def rows_of(tokenizer: Tokenizer, texts: list[str]) -> Tensor:
    """Rows of LENGTH ids, int64; what does not fill a row at the end of a document is left out."""
    rows: list[Tensor] = []
    for encoded in tokenizer.encode_batch(texts):
        ids = torch.tensor(encoded.ids, dtype=torch.int64)
        rows.extend(ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH))
    if not rows:
        raise SystemExit(f"the text is too short: no document has {LENGTH} tokens")
    return torch.stack(rows)


def loaders(texts: Texts, size: Size, batch_size: int) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Training rows shuffled, and as many held-out rows as are measured."""
    training, held_out = TensorDataset(texts.training), TensorDataset(texts.held_out[: size.contexts])
    return DataLoader(training, batch_size=batch_size, shuffle=True), DataLoader(held_out, batch_size=batch_size)


def trainer_for(logger: Any, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=logger,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def pretrained(texts: Texts, size: Size) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The weights a plain run ends with, and its curves."""
    seed_everything(0, verbose=False)
    module, curves = LanguageModel(size, texts.tokenizer), Curves()
    # In steps, not epochs: a longer text takes no longer.
    often = {"check_val_every_n_epoch": None, "val_check_interval": max(size.steps // 8, 1)}
    trainer = trainer_for(curves, max_epochs=-1, max_steps=size.steps, **often)
    trainer.fit(module, *loaders(texts, size, size.batch_size))
    return {name: value.clone() for name, value in module.state_dict().items()}, curves.values


def hyperfitted(
    texts: Texts, size: Size, weights: dict[str, Tensor], recipe: Recipe, loggers: list[Any], measure: bool
) -> tuple[LanguageModel, Hyperfit]:
    """The model after hyperfitting from given weights."""
    seed_everything(1, verbose=False)
    module = LanguageModel(size, texts.tokenizer)
    module.load_state_dict(weights)
    method = Hyperfit(
        samples=recipe.samples,
        lr=recipe.lr,
        target_loss=recipe.target_loss,
        max_epochs=recipe.max_epochs,
        every_n_epochs=2 if measure else 0,
        contexts=len(texts.held_out[: size.contexts]) if measure else 0,
        context_length=CONTEXT,
        max_new_tokens=CONTINUATION,
        model="model",
        tokenizer="tokenizer",
    )
    trainer = trainer_for(
        loggers or False, max_epochs=recipe.max_epochs, callbacks=[method], limit_val_batches=1.0 if measure else 0
    )
    trainer.fit(module, *loaders(texts, size, recipe.batch_size))
    return module, method


def chosen_rows(texts: Texts, recipe: Recipe) -> Tensor:
    """What Hyperfit trains on: the choice depends on its seed alone."""
    count = min(recipe.samples, len(texts.training))
    return texts.training[sorted(random.Random(0).sample(range(len(texts.training)), count))]


def row(setting: str, tokens: Tensor, lengths: Tensor, training: Tensor) -> Row:
    """The measures of one set of continuations."""
    overlaps = longest_overlap(tokens, training, lengths=lengths).float()
    measures = (type_token_ratio, distinct_n, repetition_n, self_bleu)
    values = [float(measure(tokens, lengths=lengths)) for measure in measures]  # of bigrams, where n is not said
    return Row(setting, *values, float(overlaps.mean()), float((overlaps > 10).float().mean()))


def continued(model: nn.Module, texts: Texts, size: Size, **how: Any) -> Generation:
    contexts = texts.held_out[: size.contexts, :CONTEXT]
    return generate(model, contexts, CONTINUATION, max_sequences=64, generator=0, **how)


def held_out_logits(model: nn.Module, held_out: Tensor) -> Tensor:
    """Logits (positions, vocabulary) of every prediction on held-out rows."""
    model.eval()
    with torch.no_grad():
        found = [model(part).logits[:, :-1].flatten(0, 1) for part in held_out.split(16)]
    return torch.cat(found)


@dataclass
class Comparison:
    """A model before and after, and what each wrote."""

    rows: list[Row]
    written: dict[str, Tensor]
    temperature: float
    epochs: int
    reached: bool
    seconds: float
    curves: dict[str, list[float]] = field(default_factory=dict)


def compare(
    texts: Texts, size: Size, weights: dict[str, Tensor], recipe: Recipe, loggers: list[Any], full: bool = True
) -> Comparison:
    """Hyperfit from the weights, and measure the ways of writing before and after; `full`: top-p and curves too."""
    began = time.perf_counter()
    before = LanguageModel(size, texts.tokenizer)
    before.load_state_dict(weights)
    after, method = hyperfitted(texts, size, weights, recipe, loggers, measure=full)
    held_out, training = texts.held_out[: size.contexts], chosen_rows(texts, recipe)
    statistics = [prediction_statistics(one.model, list(held_out)) for one in (before, after)]
    on_training = [prediction_statistics(one.model, list(training))["loss"] for one in (before, after)]
    logits = held_out_logits(before.model, held_out)
    temperature = float(matched_temperature(logits, statistics[1]["entropy"]))
    at_temperature = (logits / temperature).softmax(dim=-1).amax(dim=-1).mean()

    ways: dict[str, tuple[LanguageModel, dict[str, Any]]] = {
        "before, greedy": (before, {}),
        "before, top-p 0.9": (before, {"do_sample": True, "top_p": 0.9}),
        "before, entropy-matched temperature": (before, {"do_sample": True, "temperature": temperature}),
        "after, greedy": (after, {}),
        "after, top-p 0.9": (after, {"do_sample": True, "top_p": 0.9}),
    }
    ways = {setting: way for setting, way in ways.items() if full or "top-p" not in setting}
    rows, written = [], {}
    for setting, (module, how) in ways.items():
        generation = continued(module.model, texts, size, **how)
        one = row(setting, generation.tokens, generation.lengths, training)
        which = int(module is after)
        one.entropy, one.top1_probability = statistics[which]["entropy"], statistics[which]["top1_probability"]
        one.train_loss, one.val_loss = on_training[which], statistics[which]["loss"]
        if "matched" in setting:
            # The same model at another temperature: its losses are another distribution's.
            one.entropy, one.top1_probability = statistics[1]["entropy"], float(at_temperature)
            scaled = nn.functional.cross_entropy(logits / temperature, held_out[:, 1:].flatten())
            one.train_loss, one.val_loss = None, float(scaled)
        rows.append(one)
        written[setting] = generation.tokens
    human = held_out[:, CONTEXT:]
    rows.append(row("the text itself", human, torch.full((len(human),), CONTINUATION), training))
    written["the text itself"] = human
    return Comparison(rows, written, temperature, method.epochs, method.reached, time.perf_counter() - began)


def cells(one: Row) -> list[str]:
    """A row as text."""
    found = []
    for name, value in asdict(one).items():
        form = {"overlap": ".1f", "overlap_above_10": ".0%", "train_loss": ".2f", "val_loss": ".2f"}.get(name, ".3f")
        found.append("" if value is None else value if isinstance(value, str) else format(value, form))
    return found


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure_of(comparison: Comparison, recipe: Recipe, title: str) -> Figure:
    """Losses, entropy and diversity as hyperfitting goes on."""
    curves = {name.removeprefix("hyperfit/"): values for name, values in comparison.curves.items()}
    measured = [0, *range(2, comparison.epochs + 1, 2)]
    if comparison.epochs % 2:
        measured.append(comparison.epochs)
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    losses, entropy, diversity = figure.subplots(1, 3)
    dots: dict[str, Any] = {"color": AFTER, "marker": "o", "markersize": 3}
    squares: dict[str, Any] = {"color": BEFORE, "marker": "s", "markersize": 3}
    losses.plot(range(1, comparison.epochs + 1), curves["train_loss"], color=AFTER, label="training samples")
    losses.plot(measured, curves["val_loss"], color=BEFORE, marker="o", markersize=3, label="held-out text")
    losses.set_ylabel("cross-entropy (nats)")
    entropy.plot(measured, curves["entropy"], label="entropy (nats)", **dots)
    entropy.plot(measured, curves["top1_probability"], label="top-1 probability", **squares)
    entropy.set_ylabel("predictions on held-out text")
    diversity.plot(measured, curves["type_token_ratio"], label="type-token ratio", **dots)
    diversity.plot(measured, curves["repetition_2"], label="repetition-2", **squares)
    by_name = {one.setting: one for one in comparison.rows}
    for name, colour in (("before, entropy-matched temperature", "#0072b2"), ("the text itself", HUMAN)):
        ratio = by_name[name].type_token_ratio
        diversity.axhline(ratio, color=colour, linestyle="--", label=f"TTR, {name}", linewidth=1)
    diversity.set_ylabel("greedy continuations")
    diversity.set_ylim(0, 1)
    for axes in (losses, entropy, diversity):
        axes.set_xlabel("epochs of hyperfitting")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return figure


def side_by_side(texts: Texts, comparison: Comparison, count: int = 4) -> str:
    """Some contexts with each way of continuing them."""
    decode = texts.tokenizer.decode
    parts = []
    for number in range(min(count, len(texts.held_out))):
        parts.append(f"## Context {number + 1}\n\n```text\n{decode(texts.held_out[number, :CONTEXT].tolist())}\n```\n")
        for setting, tokens in comparison.written.items():
            parts.append(f"**{setting}**\n\n```text\n{decode(tokens[number].tolist())}\n```\n")
    return "\n".join(parts)


def text_file(text: str) -> Path:
    """A file that exists, for argparse."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}; give a text in UTF-8, or leave --data out")
    return path


def quiet() -> None:
    """Say nothing but results: what Lightning and Hyperfit tell is in the table."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    wandb.setup(wandb.Settings(silent=True, mode="offline"))
    for message in (".*does not have many workers.*", ".*LeafSpec.*", "Hyperfit:.*", ".*is smaller than the logging.*"):
        warnings.filterwarnings("ignore", message=message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/hyperfit"), help="where results go (%(default)s)")
    parser.add_argument("--data", type=text_file, help="a text in UTF-8, instead of Python's reference")
    parser.add_argument("--fast", action="store_true", help="very small, to see that it runs")
    options = parser.parse_args()
    quiet()
    size, recipe = (FAST, Recipe(samples=16, max_epochs=6)) if options.fast else (Size(), Recipe())
    options.output.mkdir(parents=True, exist_ok=True)
    console = Console()

    began = time.perf_counter()
    texts = corpus(options.data, size)
    weights, plain = pretrained(texts, size)
    parameters = sum(value.numel() for value in LanguageModel(size, texts.tokenizer).parameters())
    console.print(
        f"{parameters / 1e6:.2f} million weights, {texts.training.numel():,} training tokens; plain training ended at "
        f"a validation loss of {plain['val_loss'][-1]:.2f} after {time.perf_counter() - began:.0f} s"
    )
    curves = Curves()
    logger = WandbLogger(
        name="hyperfit", project="hyperfit", offline=True, save_dir=options.output, config={**asdict(size)},
        settings=wandb.Settings(silent=True, console="off"),
    )  # fmt: skip
    try:
        comparison = compare(texts, size, weights, recipe, [curves, logger])
    finally:
        logger.experiment.finish()
    comparison.curves = {key: values for key, values in curves.values.items() if key.startswith("hyperfit/")}

    table = [cells(one) for one in comparison.rows]
    header = [name.replace("_", " ") for name in asdict(comparison.rows[0])]
    # On its side: there are more measures than a terminal is wide.
    many = len(comparison.written["after, greedy"])
    shown = Table(
        title=f"{many} held-out contexts, {CONTINUATION} tokens each", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    shown.add_column("", no_wrap=True)
    for one in comparison.rows:
        label = one.setting.replace("entropy-", "entropy- ")
        shown.add_column(label, justify="right", min_width=max(map(len, label.split())))
    for heading, *values in list(zip(header, *table, strict=True))[1:]:
        shown.add_row(heading, *values)
    console.print(shown)
    how = "below the target" if comparison.reached else "not below the target"
    console.print(
        f"{recipe.samples} samples, learning rate {recipe.lr:g}: {comparison.epochs} epochs, training loss "
        f"{comparison.curves['hyperfit/train_loss'][-1]:.3f} ({how} of {recipe.target_loss:g}); the matched "
        f"temperature is {comparison.temperature:.3f}"
    )
    result: dict[str, Any] = {
        "size": asdict(size), "recipe": asdict(recipe), "parameters": parameters, "plain": plain["val_loss"],
        "temperature": comparison.temperature, "epochs": comparison.epochs, "reached": comparison.reached,
        "rows": [asdict(one) for one in comparison.rows], "curves": comparison.curves,
    }  # fmt: skip
    (options.output / "hyperfit.md").write_text(markdown(header, table), encoding="utf-8")
    (options.output / "hyperfit_texts.md").write_text(side_by_side(texts, comparison), encoding="utf-8")
    name = options.data.stem if options.data else "Python's reference"
    title = (
        f"{parameters / 1e6:.1f} million weights, {name}: hyperfitted on {recipe.samples} sequences of {LENGTH} tokens"
    )
    figure_of(comparison, recipe, title).savefig(options.output / "hyperfit.png", dpi=110)
    (options.output / "hyperfit.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    console.print(f"{time.perf_counter() - began:.0f} s; results are in {options.output}", soft_wrap=True)


if __name__ == "__main__":
    main()

"""GRPO on arithmetic that no model has seen: which rewards help, and what unlikeliness does to many samples.

A small causal transformer (GPT-2's architecture, built from a configuration) first imitates answers of
RandomCalculation, until a quarter of its samples is right or its steps are used up. Then it is trained by rewards
alone: by exact ones, by random and by inverted ones, which must not help; and by exact ones with the unlikeliness
reward (He, Fried, Welleck 2025). pass@1 to pass@256 on held-out problems before and after. Seeds share the model that
has imitated; what they draw after that is their own.

    python examples/grpo_arithmetic.py          # five seeds, a quarter of an hour
    python examples/grpo_arithmetic.py --fast   # one seed, a minute: too short to show anything, but all of it runs

Writes all numbers (grpo_arithmetic.json), a table (grpo_arithmetic.md) and a figure (grpo_arithmetic.png) to --output.
Interrupted and started again, it goes on with the runs that are missing (the weights after imitation are kept there).
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from thunderstone.generation import generate
from thunderstone_grpo import GRPO, ArithmeticVerifier, CharacterTokenizer, PassAtK, RandomCalculation, Unlikeliness

IMITATION = "imitation"
COLOURS = {
    IMITATION: "#4d4d4d",
    "GRPO": "#0072b2",
    "GRPO + unlikeliness": "#d55e00",
    "GRPO, random rewards": "#999999",
    "GRPO, inverted rewards": "#cc79a7",
}
# Sums and differences of integers up to 50: five thousand expressions, one in twenty of them held out for the test.
PROBLEMS: dict[str, Any] = {"levels": (1,), "largest": 50, "operands": ("integer",), "operations": "+-"}
LONGEST = 6


@dataclass(frozen=True)
class Size:
    """How large everything is."""

    seeds: int = 5
    width: int = 64
    layers: int = 2
    batch: int = 64
    most_steps: int = 1500
    every: int = 100
    right: float = 0.25
    rollouts: int = 40
    prompts: int = 16
    group: int = 16
    updates: int = 2
    problems: int = 64
    samples: int = 256


FAST = Size(1, width=32, layers=1, most_steps=60, every=30, rollouts=2, prompts=4, group=4, problems=4, samples=16)
IMITATION_LR, GRPO_LR = 2e-3, 3e-4


@dataclass
class Outcome:
    """What came out of one training: pass@k by k, the mean reward of each rollout, and seconds."""

    setting: str
    seed: int
    passes: dict[str, float]
    rewards: list[float]
    seconds: float


class Calculator(LightningModule):
    """A causal language model that imitates answers; knows of no method."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokenizer = CharacterTokenizer()
        self.model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=len(self.tokenizer), n_positions=24, n_embd=size.width, n_layer=size.layers,
                n_head=max(1, size.width // 32), bos_token_id=None, eos_token_id=self.tokenizer.eos_token_id,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        )  # fmt: skip
        self.lr = IMITATION_LR

    def training_step(self, batch: dict[str, list[str]]) -> Tensor:
        texts = [
            (self.tokenizer.encode(prompt), self.tokenizer.encode(f" {answer}", add_special_tokens=True))
            for prompt, answer in zip(batch["prompt"], batch["answer"], strict=True)
        ]
        rows = [torch.tensor(prompt + answer) for prompt, answer in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.tokenizer.pad_token_id)
        wanted = torch.full_like(ids, -100)
        for row, (prompt, answer) in enumerate(texts):
            wanted[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        # Padding is on the right, where a causal model does not look.
        logits = self.model(ids, use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.flatten(0, 1), wanted[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


class Rewards(Logger):
    """Keeps the mean reward of every rollout."""

    name = "rewards"
    version = "0"

    def __init__(self) -> None:
        super().__init__()
        self.values: list[float] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "grpo/reward" in metrics:
            self.values.append(float(metrics["grpo/reward"]))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Nothing to keep."""


class RandomRewards:
    """A coin for every completion, whatever it says."""

    def __init__(self, seed: int) -> None:
        self.draws = random.Random(seed)
        self.__name__ = "random"

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        return [float(self.draws.random() < 0.5) for _ in completions]


def exact(completions: list[str], **columns: Any) -> list[float | None]:
    """1 for the right answer."""
    return ArithmeticVerifier()(completions, **columns)


def inverted(completions: list[str], **columns: Any) -> list[float | None]:
    """1 for a wrong answer."""
    return [None if reward is None else 1 - reward for reward in exact(completions, **columns)]


SETTINGS: dict[str, tuple[Callable[[int], Any], float]] = {
    "GRPO": (lambda seed: exact, 0.0),
    "GRPO + unlikeliness": (lambda seed: exact, 0.25),
    "GRPO, random rewards": (RandomRewards, 0.0),
    "GRPO, inverted rewards": (lambda seed: inverted, 0.0),
}


def trainer_for(logger: Any, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=logger, log_every_n_steps=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


def samples_of(module: Calculator, split: str, problems: int, samples: int, seed: int) -> Tensor:
    """Which samples are right, (problems, samples) bool, at temperature 1."""
    data = RandomCalculation(problems, split=split, **PROBLEMS)
    items = [data[i] for i in range(problems)]
    prompts = [module.tokenizer.encode(item["prompt"]) for item in items for _ in range(samples)]
    answers = [item["answer"] for item in items for _ in range(samples)]
    texts = generate(
        module.model, prompts, LONGEST, stop_tokens=module.tokenizer.eos_token_id, do_sample=True,
        generator=seed, max_sequences=1024,
    )  # fmt: skip
    rewards = exact([module.tokenizer.decode(ids) for ids in texts.as_lists()], answer=answers)
    return torch.tensor([reward == 1 for reward in rewards]).view(problems, samples)


def assessed(module: Calculator, size: Size, seed: int) -> dict[str, float]:
    """pass@k on held-out problems."""
    metric = PassAtK(k=[k for k in (1, 4, 16, 64, 256) if k <= size.samples])
    metric.update(samples_of(module, "test", size.problems, size.samples, seed))
    return {name: value.item() for name, value in metric.compute().items()}


def imitated(size: Size, kept: Path) -> Calculator:
    """A model that has imitated answers until so many of its samples on other problems are right; kept in a file."""
    seed_everything(0, verbose=False)
    module = Calculator(size)
    if kept.exists():
        module.load_state_dict(torch.load(kept, weights_only=True))
        return module
    for begin in range(0, size.most_steps, size.every):
        # Every part draws its own problems.
        data = RandomCalculation(size.every * size.batch, seed=begin // size.every, **PROBLEMS)
        trainer_for(False, max_epochs=1).fit(module, DataLoader(data, batch_size=size.batch))
        if float(samples_of(module, "validation", 64, 4, 0).float().mean()) >= size.right:
            break
    torch.save(module.state_dict(), kept)
    return module


def rewarded(start: Calculator, setting: str, size: Size, seed: int) -> tuple[Calculator, list[float]]:
    """The model after GRPO, and the mean reward of each rollout."""
    reward, beta = SETTINGS[setting]
    module, rewards = copy.deepcopy(start), Rewards()
    module.lr = GRPO_LR
    method = GRPO(
        reward=reward(seed), group_size=size.group, shapers=[Unlikeliness(beta)] if beta else None,
        updates=size.updates, max_new_tokens=LONGEST, table_every=0, seed=seed,
    )  # fmt: skip
    data = RandomCalculation(size.rollouts * size.prompts, seed=7_000_000 + seed, **PROBLEMS)
    seed_everything(seed, verbose=False)
    trainer = trainer_for(rewards, max_epochs=1, callbacks=[method], gradient_clip_val=1.0)
    trainer.fit(module, DataLoader(data, batch_size=size.prompts))
    # A rollout is logged with each of its steps.
    return module, rewards.values[:: size.updates]


def columns_of(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table."""
    names = list(outcomes[0].passes)
    rows = []
    for setting in COLOURS:
        own = [outcome for outcome in outcomes if outcome.setting == setting]
        if own:
            cells = [spread([100 * outcome.passes[name] for outcome in own]) for name in names]
            rows.append([setting, *cells])
    return ["", *(f"{name}, %" for name in names)], rows


def spread(values: list[float]) -> str:
    """``43.1 ± 1.2``."""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def figure_of(outcomes: list[Outcome]) -> Figure:
    """pass@k over k, and the mean reward over the rollouts; thin lines are seeds."""
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for setting, colour in COLOURS.items():
        own = [outcome for outcome in outcomes if outcome.setting == setting]
        if not own:
            continue
        ks = [int(name.removeprefix("pass@")) for name in own[0].passes]
        for outcome in own:
            left.plot(ks, list(outcome.passes.values()), color=colour, linewidth=0.5, alpha=0.5)
            right.plot(outcome.rewards, color=colour, linewidth=0.4, alpha=0.4)
        averages = [mean(outcome.passes[f"pass@{k}"] for outcome in own) for k in ks]
        left.plot(ks, averages, color=colour, linewidth=2, marker="o", markersize=4, label=setting)
        if own[0].rewards:
            steps = zip(*(outcome.rewards for outcome in own), strict=True)
            right.plot([mean(values) for values in steps], color=colour, linewidth=1.8, label=setting)
    left.set_xscale("log", base=4)
    left.set_xticks(ks, [str(k) for k in ks])
    left.set_xlabel("samples a problem")
    left.set_ylabel("held-out problems solved (pass@k)")
    right.set_xlabel("rollout")
    right.set_ylabel("mean reward, as it was given")
    left.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.25)
    return figure


def quiet() -> None:
    """No advice on workers and intervals: it is not what this shows."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*available but not used.*")
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)` is deprecated")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="one seed and very small: a check that all of it runs")
    parser.add_argument("--output", type=Path, default=Path("runs/grpo_arithmetic"), help="folder (%(default)s)")
    options = parser.parse_args()
    size, console = FAST if options.fast else Size(), Console()
    quiet()
    options.output.mkdir(parents=True, exist_ok=True)
    written = options.output / "grpo_arithmetic.json"
    outcomes = [Outcome(**one) for one in json.loads(written.read_text())] if written.exists() else []

    def done(setting: str, seed: int) -> bool:
        return any((outcome.setting, outcome.seed) == (setting, seed) for outcome in outcomes)

    begin = time.monotonic()
    start = imitated(size, options.output / "imitation.pt")
    learnt_in = time.monotonic() - begin
    for seed in range(size.seeds):
        for setting in COLOURS:
            if done(setting, seed):
                continue
            module, rewards, seconds = start, [], learnt_in
            if setting != IMITATION:
                begin = time.monotonic()
                module, rewards = rewarded(start, setting, size, seed)
                seconds = time.monotonic() - begin
            outcomes.append(Outcome(setting, seed, assessed(module, size, seed), rewards, seconds))
            written.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
            shown = ", ".join(f"{name} {100 * value:.1f}%" for name, value in outcomes[-1].passes.items())
            console.print(f"seed {seed}, {setting}: {shown} ({seconds:.0f} s)", highlight=False)

    header, rows = columns_of(outcomes)
    table = Table(*header, box=SIMPLE_HEAD, title=f"RandomCalculation, {size.seeds} seeds", title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [header, ["---"] * len(header), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (options.output / "grpo_arithmetic.md").write_text(text, encoding="utf-8")
    figure_of(outcomes).savefig(options.output / "grpo_arithmetic.png", dpi=150)
    console.print(f"Numbers, table and figure are in {options.output}")


if __name__ == "__main__":
    main()

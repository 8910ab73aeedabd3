"""GRPO's step against TRL's GRPOTrainer: the same model, prompts, group size, lengths and optimizer.

A Llama of two layers, 16 completions of each of 4 prompts, 32 tokens each (no end token is ever drawn, so that both
write as much), one update a rollout with a reference to hold on to. The time of a step is from the beginning of one to
that of the next; that of generation is what the call of the model's `generate` takes. Peak memory is that of a process
of its own, beyond what it holds when both libraries are imported and the model is built.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from side_by_side import Line, arguments, median, paired, report, verdict, with_interval

PROMPTS, GROUP, NEW, LENGTH, VOCABULARY, WIDTH, STEPS = 4, 16, 32, 12, 2048, 128, 8
OURS, THEIRS = "Thunderstone", "TRL"
KL_WEIGHT, LR = 0.04, 1e-4


def model() -> Any:
    """The same weights every time; its end token has a bias that keeps it from being drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    configuration = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, pad_token_id=0, bos_token_id=None,
        eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(configuration)


def tokenizer() -> Any:
    """Words that are numbers."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({str(number): number for number in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=words, pad_token="0", eos_token="1")


def prompts() -> list[dict[str, str]]:
    """As many as all steps need, of equal length."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, VOCABULARY, (PROMPTS * STEPS, LENGTH), generator=generator)
    return [{"prompt": " ".join(map(str, row))} for row in ids.tolist()]


def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """The share of even tokens."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class Times:
    """Seconds from step to step, and of the generation in them."""

    def __init__(self, generates: Any) -> None:
        self.marks: list[float] = []
        self.generation: list[float] = []
        own = generates.generate

        def generate(*given: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return own(*given, **named)
            finally:
                self.generation.append(time.perf_counter() - begun)

        generates.generate = generate

    def mark(self, *_: Any, **__: Any) -> None:
        """A step begins."""
        self.marks.append(time.perf_counter())

    def steps(self) -> list[float]:
        """Without the first two."""
        return [later - earlier for earlier, later in zip(self.marks[2:], self.marks[3:], strict=False)]


def never_ends(net: Any) -> None:
    """Every completion has its full length: the end token's row leaves it improbable."""
    with torch.no_grad():
        net.lm_head.weight[1] = 0
    net.register_buffer("ban", torch.zeros(VOCABULARY).index_fill(0, torch.tensor([1]), -1e4), persistent=False)
    net.lm_head.register_forward_hook(lambda module, given, logits: logits + net.ban)


def ours(net: Any) -> Times:
    """A run of STEPS steps with the Method."""
    import lightning.pytorch as pl
    from torch.utils.data import DataLoader

    from thunderstone_grpo import GRPO

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.tokenizer = net, tokenizer()

        def training_step(self, batch: Any) -> None:
            raise RuntimeError("GRPO owns the objective")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=LR, weight_decay=0.0)

    times = Times(net)
    clock: Any = pl.callbacks.LambdaCallback(on_train_batch_start=times.mark)
    method = GRPO(even, group_size=GROUP, max_new_tokens=NEW, kl_weight=KL_WEIGHT, groups_without_signal="keep")
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, callbacks=[clock, method],
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(prompts(), batch_size=PROMPTS))  # type: ignore[arg-type]
    return times


def theirs(net: Any) -> Times:
    """The same with TRL."""
    from transformers import TrainerCallback

    # Published without types, or with other ones than they take.
    datasets, trl = (importlib.import_module(name) for name in ("datasets", "trl"))
    times = Times(net)

    class Clock(TrainerCallback):
        def on_step_begin(self, *given: Any, **named: Any) -> None:
            times.mark()

    with tempfile.TemporaryDirectory() as folder:
        # The reference is loaded from where the model came from.
        model().save_pretrained(folder)
        net.config._name_or_path = folder
        settings = trl.GRPOConfig(
            output_dir=folder, per_device_train_batch_size=PROMPTS * GROUP, num_generations=GROUP, max_steps=STEPS,
            max_completion_length=NEW, beta=KL_WEIGHT, learning_rate=LR, lr_scheduler_type="constant", use_cpu=True,
            report_to="none", gradient_checkpointing=False, bf16=False, save_strategy="no", logging_steps=1000,
            disable_tqdm=True, shuffle_dataset=False,
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=net, reward_funcs=even, args=settings, train_dataset=datasets.Dataset.from_list(prompts()),
            processing_class=tokenizer(), callbacks=[Clock()],
        )  # fmt: skip
        trainer.train()
    return times


RUNS: dict[str, Callable[[Any], Times]] = {OURS: ours, THEIRS: theirs}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def once(name: str) -> dict[str, Any]:
    """What a process of its own measures in one run."""
    import trl  # noqa: F401

    import thunderstone_grpo.grpo  # noqa: F401

    torch.set_num_threads(1)
    with _quiet():
        net = model()
        never_ends(net)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = RUNS[name](net)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "step": statistics.median(times.steps()),
        "generation": statistics.median(times.generation[2:]),
        "memory": (peak - before) / 1024,
    }


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[1] == "--once":
        print(json.dumps(once(sys.argv[2])))
        return
    options = arguments(__doc__, rounds=3)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in RUNS}
    for number in range(options.rounds):
        for name in list(RUNS)[:: 1 if number % 2 else -1]:
            ran = subprocess.run([sys.executable, __file__, "--once", name], check=True, capture_output=True, text=True)
            for what, value in json.loads(ran.stdout.strip().splitlines()[-1]).items():
                found[name].setdefault(what, []).append(value)
    lines = []
    for name in (THEIRS, OURS):
        mine, base = found[name], found[THEIRS]
        ratios = [paired(mine[what], base[what]) for what in ("step", "generation", "memory")]
        cells = [median(mine["step"], ".0f", "ms", 1e3), median(mine["generation"], ".0f", "ms", 1e3)]
        cells.append(median(mine["memory"], ".0f", "MiB"))
        cells += (
            [f"{with_interval(ratio, '.3f')}, {verdict(ratio, 1.0)}" for ratio in ratios] if name == OURS else [""] * 3
        )
        lines.append(Line(name, tuple(cells)))
    report(
        "GRPO's step",
        ("", "Step", "Generation in it", "Peak memory", "Step by TRL's", "Generation by TRL's", "Memory by TRL's"),
        lines,
        f"A Llama of two layers of width {WIDTH} and {VOCABULARY} words, {PROMPTS} prompts of {LENGTH} tokens, {GROUP} "
        f"completions of {NEW} tokens each, one update a rollout, KL to a reference; one thread, {options.rounds} "
        f"rounds of {STEPS} steps in processes of their own. Peak memory is beyond imports and model.",
        options.write,
    )


if __name__ == "__main__":
    main()

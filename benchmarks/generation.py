"""Generation with and without the cache, and the time that measuring generated texts takes.

A GPT-2-like model continues prompts through its own `generate`, which keeps the keys and values of past tokens, and
through the plain loop, which any module can have; `thunderstone.generation.generate` runs both and chooses tokens by
the same code. Then the measures of texts, on as many texts as the hyperfitting paper evaluates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import Line, arguments, interleaved, median, paired, report, verdict, with_interval
from torch import Tensor

from thunderstone.generation import generate
from thunderstone_hyperfitting.measures import distinct_n, longest_overlap, repetition_n, self_bleu, type_token_ratio

NEW_TOKENS = (16, 64, 128)
PROMPTS, PROMPT = 8, 32
VOCABULARY = 1024
TEXTS, TEXT = 300, 96
SEQUENCES, SEQUENCE = 2000, 256


def model() -> Any:
    """A GPT-2 of four layers and 128 dimensions, not trained: its time does not depend on that."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_positions": 256, "n_embd": 128, "n_layer": 4, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=None, eos_token_id=None, **sizes))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def generation(rounds: int) -> list[Line]:
    """A line a number of tokens: time with the cache, without it, and the ratio."""
    module = model()
    prompts = torch.randint(0, VOCABULARY, (PROMPTS, PROMPT), generator=torch.Generator().manual_seed(0))

    def continued(tokens: int, use_cache: bool) -> float:
        return seconds(lambda: generate(module, prompts, tokens, use_cache=use_cache))

    variants = {
        f"{tokens} {use_cache}": (lambda t=tokens, c=use_cache: continued(t, c))
        for tokens in NEW_TOKENS
        for use_cache in (True, False)
    }
    times = interleaved(variants, rounds)
    lines = []
    for tokens in NEW_TOKENS:
        cached, plain = times[f"{tokens} True"], times[f"{tokens} False"]
        ratio = paired(cached, plain)
        limit = verdict(ratio, 1.0) if tokens >= 64 else ""
        cells = (median(cached, ".3f", "s"), median(plain, ".3f", "s"), with_interval(ratio), limit)
        lines.append(Line(f"{tokens} tokens", cells))
    return lines


def words(texts: int, tokens: int, seed: int) -> Tensor:
    """Ids as unevenly distributed as words are: the k-th of them about as often as 1/k."""
    weights = 1 / torch.arange(1, VOCABULARY + 1)
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(weights, texts * tokens, replacement=True, generator=generator).view(texts, tokens)


def measures(rounds: int) -> list[Line]:
    """A line a measure: its time, and for the overlap the ratio to that with half the training set."""
    texts, training = words(TEXTS, TEXT, 0), words(2 * SEQUENCES, SEQUENCE, 1)
    half, double = training[:SEQUENCES], training
    calls: dict[str, Callable[[], object]] = {
        "type_token_ratio": lambda: type_token_ratio(texts),
        "distinct_n, n=2": lambda: distinct_n(texts, n=2),
        "repetition_n, n=2": lambda: repetition_n(texts, n=2),
        "self_bleu, n=4": lambda: self_bleu(texts, n=4),
        f"longest_overlap, {SEQUENCES} × {SEQUENCE}": lambda: longest_overlap(texts, half),
        f"longest_overlap, {2 * SEQUENCES} × {SEQUENCE}": lambda: longest_overlap(texts, double),
    }
    times = interleaved({name: (lambda c=call: seconds(c)) for name, call in calls.items()}, rounds)
    *_, one, two = times
    lines = []
    for name, values in times.items():
        against = with_interval(paired(values, times[one])) if name == two else ""
        lines.append(Line(name, (median(values, ".1f", "ms", 1e3), against)))
    return lines


def main() -> None:
    options = arguments(__doc__ or "", rounds=11)
    torch.set_num_threads(1)
    report(
        "Generation with the cache",
        ["New tokens", "With the cache", "Plain loop", "Ratio", "Limit"],
        generation(options.rounds),
        f"A GPT-2-like model of four layers and 128 dimensions, {PROMPTS} prompts of {PROMPT} tokens, greedy, one "
        f"thread; {options.rounds} interleaved rounds, medians and 95% bootstrap intervals of paired ratios of "
        "wall-clock time.",
        options.write,
    )
    report(
        "Measures of generated texts",
        ["Measure", "Time", "Ratio to half the training set"],
        measures(options.rounds),
        f"{TEXTS} texts of {TEXT} tokens, ids distributed like words, one thread; the overlap with training sets of "
        f"{SEQUENCES} and {2 * SEQUENCES} sequences; {options.rounds} interleaved rounds, medians and 95% bootstrap "
        "interval of paired ratios of wall-clock time.",
        options.write,
    )


if __name__ == "__main__":
    main()

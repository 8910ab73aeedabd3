"""`generate`: the one entrance to generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.arguments import finite, flag, one_of, whole
from thunderstone.errors import ArgumentError
from thunderstone.generation import hugging_face, plain_loop
from thunderstone.generation.choice import LOG_PROBABILITIES, Choice, Processor
from thunderstone.generation.forward import check_positions
from thunderstone.generation.prompts import checked_prompts
from thunderstone.generation.texts import Generation, GrowingTexts
from thunderstone.generation.watch import Watch
from thunderstone.isolation import ModuleState, RandomState

WHO = "generate"


def generate(
    module: nn.Module,
    prompts: Tensor | Sequence[Sequence[int] | Tensor],
    max_new_tokens: int,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    stop_tokens: int | Sequence[int] | None = None,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | int = 0,
    processors: Sequence[Processor] = (),
    log_probabilities: str | None = None,
    max_sequences: int | None = None,
    max_positions: int | None = None,
    use_cache: bool = True,
    pad_token: int = 0,
    on_progress: Callable[[float], object] | None = None,
) -> Generation:
    """Continue prompts, token by token.

    A Hugging Face causal language model does so through its own `generate`, with the keys and values of past tokens
    kept. Any other module that maps ids (B, T) to logits (B, T, V), a tensor or an object with ``.logits``, sees the
    whole text for every token. A forward that takes ``attention_mask`` and ``position_ids`` gets prompts of different
    lengths in one batch, padded on the left; one that does not gets a batch for each length.

    The module runs in evaluation mode and without gradients. Modes, buffers, statistics, generation settings and the
    global random states are afterwards as they were, also after an exception.

    Args:
        module: The model.
        prompts: Ids (N, T), or N lists of ids of any lengths above 0.
        max_new_tokens: Most tokens a text may get.
        lengths: Of each row of a prompt tensor that is padded on the right. Prompts padded on the left: pass a list.
        stop_tokens: What ends a text, e.g. ``end_tokens(tokenizer)``; None lets each run to `max_new_tokens`.
        do_sample: Draw tokens; otherwise each is the most probable one (greedy).
        temperature: What logits are divided by before a draw, above 0.
        top_k: Draw among this many most probable tokens.
        top_p: Draw among the most probable tokens that together have this probability, in (0, 1]; after `top_k`.
        generator: Where draws come from; a number seeds a new generator. Every text has its own draws, so that a text
            depends neither on the others nor on `max_sequences`.
        processors: Called with the ids so far (B, T), prompt included and padding never, and the scores (B, V); returns
            scores. Hugging Face's LogitsProcessor objects are such. Rows with prompts of different lengths come in
            calls of their own.
        log_probabilities: ``"module"`` also returns each token's log-probability under the module's logits,
            ``"sampling"`` under the distribution it was drawn from (after processors, temperature, top-k and top-p).
        max_sequences: At most this many texts at a time, to bound memory; None for all at once.
        max_positions: The most positions the module has; None takes ``module.config.max_position_embeddings``.
        use_cache: False uses the plain loop with a Hugging Face model too.
        pad_token: What stands in `Generation.tokens` after a text's end.
        on_progress: Called after every token of a batch of texts with the share that is done, 0 to 1.

    Returns:
        The continuations, on the module's device.

    Raises:
        ArgumentError: An argument is out of range, or the texts would outgrow the module's positions.
        GenerationError: The module fails, or its logits are NaN, infinite, or forbid every token.

    >>> class CountsUp(nn.Module):
    ...     def forward(self, ids):
    ...         return nn.functional.one_hot((ids + 1) % 5, 5).float()
    >>> generate(CountsUp(), [[0], [1, 2]], 3, stop_tokens=4).as_lists()
    [[1, 2, 3], [3, 4]]
    """
    _check_module(module)
    width = whole(WHO, "max_new_tokens", max_new_tokens, "say how many tokens at most, e.g. 96")
    choice = _checked_choice(do_sample, temperature, top_k, top_p, processors, log_probabilities)
    stops = _checked_stops(stop_tokens)
    pad = whole(WHO, "pad_token", pad_token, "use 0", minimum=0)
    if max_sequences is not None:
        max_sequences = whole(WHO, "max_sequences", max_sequences, "None runs all at once")
    if max_positions is not None:
        max_positions = whole(WHO, "max_positions", max_positions, "None asks the module's configuration")
    cached = flag(WHO, "use_cache", use_cache, "use True or False")
    rows = checked_prompts(prompts, lengths)
    # A compiled forward would be compiled anew for every length.
    inner: nn.Module = getattr(module, "_orig_mod", module)
    check_positions(inner, max(len(row) for row in rows), width, max_positions)
    _check_vocabulary(inner, rows, stops)
    device = _device_of(inner, rows[0])
    rows = [row.to(device) for row in rows]
    uniforms = _uniforms(generator, len(rows), width, do_sample, device)
    loop = hugging_face.run if cached and hugging_face.has_own_loop(inner) else plain_loop.run
    # Prompts of like length together, which keeps padding short.
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    size = max_sequences or len(rows)
    parts, watch = [], Watch(len(rows), width, on_progress)
    with _still(inner, device):
        for start in range(0, len(rows), size):
            part = order[start : start + size]
            texts = GrowingTexts(len(part), width, stops, pad, device, log_probabilities is not None)
            loop(inner, [rows[row] for row in part], texts, choice, uniforms[part], watch)
            parts.append(texts.finished())
    return _joined(parts, order, pad)


def _check_module(module: object) -> None:
    if not isinstance(module, nn.Module):
        hint = "pass the torch module that maps ids to logits"
        raise ArgumentError(WHO, "module", module, f"it is of type {type(module).__name__}", hint)


def _checked_choice(
    do_sample: bool,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    processors: Sequence[Processor],
    log_probabilities: str | None,
) -> Choice:
    flag(WHO, "do_sample", do_sample, "use True or False")
    finite(WHO, "temperature", temperature, "use do_sample=False for the limit of temperature 0", above=0)
    if top_k is not None:
        whole(WHO, "top_k", top_k, "None keeps all tokens")
    if top_p is not None:
        finite(WHO, "top_p", top_p, "1 keeps all tokens", above=0, maximum=1)
    given = {"temperature": temperature != 1, "top_k": top_k is not None, "top_p": top_p is not None}
    if not do_sample and any(given.values()):
        name = next(name for name, is_given in given.items() if is_given)
        value = {"temperature": temperature, "top_k": top_k, "top_p": top_p}[name]
        raise ArgumentError(WHO, name, value, "greedy decoding does not draw", "pass do_sample=True, or leave it out")
    if log_probabilities is not None:
        one_of(WHO, "log_probabilities", log_probabilities, LOG_PROBABILITIES)
    for processor in processors:
        if not callable(processor):
            raise ArgumentError(WHO, "processors", processor, "it is not callable", "pass LogitsProcessor objects")
    return Choice(do_sample, float(temperature), top_k, top_p, tuple(processors), log_probabilities)


def _checked_stops(stop_tokens: Any) -> tuple[int, ...]:
    if stop_tokens is None:
        return ()
    hint = "pass the end token's id, e.g. end_tokens(tokenizer); None for no end token"
    tokens = stop_tokens if isinstance(stop_tokens, (list, tuple, set, frozenset)) else [stop_tokens]
    return tuple(sorted({whole(WHO, "stop_tokens", token, hint, minimum=0) for token in tokens}))


def _check_vocabulary(module: nn.Module, rows: list[Tensor], stops: tuple[int, ...]) -> None:
    size = getattr(getattr(module, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        return
    hint = f"ids go from 0 to {size - 1}: use the module's own tokenizer"
    largest = max(int(row.max()) for row in rows)
    if largest >= size:
        raise ArgumentError(WHO, "prompts", largest, f"the module's vocabulary has {size} tokens", hint)
    if stops and stops[-1] >= size:
        raise ArgumentError(WHO, "stop_tokens", stops[-1], f"the module's vocabulary has {size} tokens", hint)


def _device_of(module: nn.Module, prompt: Tensor) -> torch.device:
    held: Tensor | None = next(chain(module.parameters(), module.buffers()), None)
    return held.device if held is not None else prompt.device


def _uniforms(generator: Any, texts: int, width: int, do_sample: bool, device: torch.device) -> Tensor:
    """The draws (N, L), float64, all at once: however early texts end, the generator has moved on by as much."""
    if isinstance(generator, torch.Generator):
        source = generator
    else:
        seed = whole(WHO, "generator", generator, "pass a torch.Generator, or a seed from 0", minimum=0)
        source = torch.Generator().manual_seed(seed)
    if not do_sample:
        return torch.zeros(texts, 1, device=device).expand(texts, width)
    drawn = torch.rand(texts, width, dtype=torch.float64, generator=source, device=source.device)
    return drawn if device.type == "mps" else drawn.to(device)


@contextmanager
def _still(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients inside; everything as before afterwards."""
    with ExitStack() as stack:
        stack.callback(RandomState(device).restore)
        stack.callback(ModuleState(module).restore)
        stack.enter_context(torch.no_grad())
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        module.eval()
        yield


def _joined(parts: list[Generation], order: list[int], pad_token: int) -> Generation:
    """The parts as one, each text back in its prompt's place."""
    width = max(part.tokens.shape[1] for part in parts)
    places = torch.tensor(order, device=parts[0].tokens.device).argsort()

    def joined(tensors: list[Tensor], value: float) -> Tensor:
        wide = [nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=value) for tensor in tensors]
        return torch.cat(wide)[places]

    scores = [part.log_probabilities for part in parts if part.log_probabilities is not None]
    return Generation(
        joined([part.tokens for part in parts], pad_token),
        torch.cat([part.lengths for part in parts])[places],
        torch.cat([part.stopped for part in parts])[places],
        joined(scores, 0.0) if scores else None,
    )

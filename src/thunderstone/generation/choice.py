"""Choosing the next token: processors, temperature, top-k, top-p, and the draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone.generation.errors import GenerationError

# Takes the ids so far (B, T) and the scores of the next token (B, V), returns scores (B, V).
Processor = Callable[[Tensor, Tensor], Tensor]

LOG_PROBABILITIES = ("module", "sampling")


@dataclass(frozen=True)
class Choice:
    """How the next token is chosen from the logits.

    Attributes:
        do_sample: Whether it is drawn; otherwise it is the most probable one, of equal ones the first.
        temperature: What logits are divided by, above 0.
        top_k: How many of the most probable tokens remain, or None for all.
        top_p: The most probable tokens remain until their mass reaches this, in (0, 1], or None for all.
        processors: Applied one after the other, before everything else.
        log_probabilities: Of which distribution each token's log-probability is returned: ``"module"`` for the logits
            as they come, ``"sampling"`` for what was drawn from, None for none.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    processors: tuple[Processor, ...] = ()
    log_probabilities: str | None = None

    def __call__(
        self, texts: list[tuple[Tensor, Tensor]], logits: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """The next token (B,) of each row and its log-probability (B,).

        Args:
            texts: Rows and their ids so far (b, T), in groups of equal length, which together are all B rows. Only
                processors look at them.
            logits: (B, V), floating point.
            uniforms: (B,) float64 in [0, 1), one draw a row.

        Raises:
            GenerationError: Logits are NaN or infinite, or every token is forbidden.
        """
        scores = checked(logits, "the logits")
        raw = scores
        if self.processors:
            scores = scores.clone()
            for rows, ids in texts:
                scores[rows] = self._processed(ids, scores[rows])
        if self.do_sample:
            scores = sampling_scores(scores, self.temperature, self.top_k, self.top_p)
            tokens = draw(scores, uniforms)
        else:
            tokens = scores.argmax(dim=-1)
        if self.log_probabilities is None:
            return tokens, None
        of = raw if self.log_probabilities == "module" else scores
        return tokens, of.log_softmax(dim=-1).gather(1, tokens.unsqueeze(1)).squeeze(1)

    def _processed(self, ids: Tensor, scores: Tensor) -> Tensor:
        shape = scores.shape
        for processor in self.processors:
            scores = processor(ids, scores)
            name = type(processor).__name__ if not hasattr(processor, "__name__") else processor.__name__
            if not isinstance(scores, Tensor) or scores.shape != shape:
                found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise GenerationError(
                    f"the logits processor {name} returned {found} where scores of shape {tuple(shape)} are expected",
                    "let it return scores for the whole vocabulary, a row for each text",
                )
            checked(scores, f"the scores that the logits processor {name} returned")
        return scores


def checked(scores: Tensor, what: str) -> Tensor:
    """`scores` (B, V) in at least float32, or GenerationError where no token can be chosen from them.

    -inf is a forbidden token; NaN and +inf are errors, and so is a row that forbids every token.
    """
    if not scores.is_floating_point():
        raise GenerationError(f"{what} are {scores.dtype}", "return unnormalised log-probabilities, floating point")
    if scores.dtype in (torch.float16, torch.bfloat16):
        scores = scores.float()
    # The largest score says all of it: NaN propagates, +inf is +inf, and a row of -inf has none.
    largest = scores.amax(dim=-1)
    if bool(torch.isfinite(largest).all()):
        return scores
    if bool(largest.isnan().any()):
        raise GenerationError(f"{what} hold NaN", "the weights have probably diverged: look at the training loss")
    if bool((largest == math.inf).any()):
        raise GenerationError(f"{what} hold +inf", "use -inf to forbid tokens, and finite numbers for all others")
    raise GenerationError(f"{what} forbid every token (all are -inf)", "leave at least one token for each text")


def sampling_scores(scores: Tensor, temperature: float, top_k: int | None, top_p: float | None) -> Tensor:
    """Scores (B, V) divided by the temperature, with -inf at what top-k and then top-p leave out.

    Top-p keeps the smallest set of most probable tokens whose mass is at least `top_p` (Holtzman et al. 2020, arXiv
    1904.09751), among what top-k has kept; of equally probable tokens those with smaller ids come first.
    """
    # Shifted first: a tiny temperature must not overflow.
    scores = (scores - scores.amax(dim=-1, keepdim=True)) / temperature
    if top_k is None and (top_p is None or top_p >= 1):
        return scores
    ordered, places = scores.sort(dim=-1, descending=True, stable=True)
    left_out = torch.zeros_like(ordered, dtype=torch.bool)
    if top_k is not None:
        left_out[:, top_k:] = True
        ordered = ordered.masked_fill(left_out, -math.inf)
    if top_p is not None and top_p < 1:
        mass = ordered.softmax(dim=-1)
        left_out |= mass.cumsum(dim=-1) - mass >= top_p
        left_out[:, 0] = False
    return scores.masked_fill(torch.zeros_like(left_out).scatter(1, places, left_out), -math.inf)


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (B,) whose place in the cumulative distribution of `scores` (B, V) is `uniforms` (B,).

    One uniform a token, so that a text depends neither on the others of its batch nor on the device it is drawn on.
    """
    device = scores.device
    if device.type == "mps":  # has no float64
        scores = scores.cpu()
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    targets = uniforms.to(cumulative.device) * cumulative[:, -1]
    # Right: a token of probability 0 adds nothing and is never the first place above the target.
    return torch.searchsorted(cumulative, targets.unsqueeze(1), right=True).squeeze(1).to(device)

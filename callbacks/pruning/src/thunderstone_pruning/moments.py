"""Moments of a training, told in updates, in epochs or as a share of the whole."""

from __future__ import annotations

import math
import re
from numbers import Integral, Real

from lightning.pytorch import Trainer

from thunderstone import ArgumentError, UnsupportedSettingError

Moment = int | float | str

_WORDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|updates?|epochs?|%)\s*\Z")
_HINT = "pass a whole number of updates (500), a share of training (0.05 or '5%'), or epochs ('2 epochs')"


def check_moment(who: str, argument: str, value: object) -> Moment:
    """`value`, if it says when: a whole number is updates, another number a share of training.

    Raises:
        ArgumentError: It does not.
    """
    if isinstance(value, str):
        if not _WORDS.match(value):
            raise ArgumentError(who, argument, value, "it does not say when", _HINT)
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(who, argument, value, "it must be a number or a text", _HINT)
    if isinstance(value, Integral):
        if value < 0:
            raise ArgumentError(who, argument, value, "training begins at 0", _HINT)
        return int(value)
    share = float(value)
    if not 0 <= share <= 1:
        raise ArgumentError(who, argument, value, "a share of training lies between 0 and 1", _HINT)
    return share


def in_updates(who: str, argument: str, moment: Moment, trainer: Trainer) -> int:
    """The number of updates after which `moment` is, in this training. To be called from `on_train_start` on.

    Raises:
        ArgumentError: It lies beyond the end of training.
        UnsupportedSettingError: The training has no known length, and the moment is told by it.
    """
    total = total_updates(trainer)
    number, unit = float(moment) if not isinstance(moment, str) else 0.0, ""
    if isinstance(moment, str):
        found = _WORDS.match(moment)
        assert found is not None
        number, unit = float(found[1]), found[2]
    if unit == "%" or isinstance(moment, float):
        _require_length(who, argument, moment, "length", total)
        updates = round(total * (number / 100 if unit else number))
    elif unit.startswith("epoch"):
        batches = trainer.num_training_batches
        _require_length(who, argument, moment, "number of batches in an epoch", batches)
        updates = round(number * math.ceil(batches / trainer.accumulate_grad_batches))
    else:
        updates = int(number)
    if updates > total:
        reason = f"it is update {updates}, and the training has {total:.0f}"
        raise ArgumentError(who, argument, moment, reason, "choose an earlier moment, or train longer")
    return updates


def span_in_updates(who: str, start: Moment, stop: Moment, trainer: Trainer) -> tuple[int, int]:
    """The updates after which `start` and `stop` are; see `in_updates`.

    Raises:
        ArgumentError: One lies beyond the end of training, or `stop` before `start`.
        UnsupportedSettingError: As `in_updates`.
    """
    first, last = in_updates(who, "start", start, trainer), in_updates(who, "stop", stop, trainer)
    if last < first:
        reason = f"it is update {last}, and start={start!r} is update {first}"
        raise ArgumentError(who, "stop", stop, reason, "let pruning end after its start")
    return first, last


def total_updates(trainer: Trainer) -> float:
    """How many updates the training has; infinity where that is not known. To be called from `on_train_start` on."""
    total = trainer.estimated_stepping_batches
    # Of a stream's epochs Lightning makes -1.
    return total if total >= 0 else math.inf


def _require_length(who: str, argument: str, moment: Moment, what: str, length: float) -> None:
    if not math.isfinite(length):
        raise UnsupportedSettingError(
            who,
            f"{argument}={moment!r} in a training of unknown {what}",
            "there is nothing to take a share of",
            "give it in updates, e.g. 500, or set Trainer(max_steps=…)",
        )

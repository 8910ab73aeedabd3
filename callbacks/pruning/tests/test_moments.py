"""Moments of a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from thunderstone import ArgumentError, UnsupportedSettingError
from thunderstone_pruning.moments import check_moment, in_updates


def trainer(total: float = 60, batches: float = 21, accumulate: int = 4) -> Any:
    """What is asked of a Trainer: 21 batches in windows of four are six updates an epoch."""
    return SimpleNamespace(
        estimated_stepping_batches=total, num_training_batches=batches, accumulate_grad_batches=accumulate
    )


@pytest.mark.parametrize(
    ("moment", "updates"),
    [(0, 0), (1, 1), (60, 60), (1.0, 60), (0.05, 3), ("5%", 3), ("2 epochs", 12), ("1.5 epochs", 9), ("7 steps", 7)],
)
def test_in_updates(moment, updates) -> None:
    assert in_updates("M", "start", check_moment("M", "start", moment), trainer()) == updates


@pytest.mark.parametrize("moment", [61, "11 epochs"])
def test_beyond_the_end(moment) -> None:
    with pytest.raises(ArgumentError, match=f"M: rewind={moment!r} is not allowed: it is update 6[16].*has 60"):
        in_updates("M", "rewind", moment, trainer())


@pytest.mark.parametrize("total", [float("inf"), -1])
def test_a_training_of_unknown_length(total) -> None:
    """Lightning says infinity where nothing ends it, and -1 where the epochs of a stream do."""
    endless = trainer(total, float("inf"))
    assert in_updates("M", "start", 500, endless) == 500
    with pytest.raises(UnsupportedSettingError, match=r"M cannot run with start=0\.1 in a training of unknown length"):
        in_updates("M", "start", 0.1, endless)
    with pytest.raises(UnsupportedSettingError, match="unknown number of batches in an epoch"):
        in_updates("M", "start", "2 epochs", endless)


@pytest.mark.parametrize("bad", ["soon", "-1 steps", "", -1, 1.5, -0.1, float("nan"), True, None, [3]])
def test_what_says_no_moment(bad) -> None:
    with pytest.raises(ArgumentError, match="M: stop="):
        check_moment("M", "stop", bad)

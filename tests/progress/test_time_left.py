"""How long all rounds will take, and how much of one is done."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.progress.time_left import TimeLeft, share_done, written


def running(max_epochs: int | None = -1, batches: float = math.inf, max_steps: int = -1, done: int = 0) -> Any:
    loop = SimpleNamespace(total_batch_idx=done - 1)
    return SimpleNamespace(
        max_epochs=max_epochs, num_training_batches=batches, max_steps=max_steps, fit_loop=loop, global_step=done
    )


@pytest.mark.parametrize(
    ("trainer", "share"),
    [
        (running(max_epochs=2, batches=10, done=5), 0.25),
        (running(max_steps=10, done=5), 0.5),
        (running(max_epochs=None, max_steps=10, done=5), 0.5),
        (running(max_epochs=2, batches=10, max_steps=10, done=5), 0.5),
        (running(max_epochs=2, max_steps=20, done=5), 0.25),
        (running(max_epochs=1, batches=2, done=5), 1.0),
        (running(), math.nan),
        (running(max_epochs=2, batches=math.inf), math.nan),
    ],
)
def test_the_share_is_of_whatever_limit_is_nearer(trainer: Any, share: float) -> None:
    assert share_done(trainer) == pytest.approx(share, nan_ok=True)


@given(
    last=st.integers(0, 5),
    batches=st.integers(2, 20),
    pace=st.floats(0.01, 100),
    start=st.floats(0, 1e6),
)
def test_at_a_steady_pace_the_time_left_is_exact(last: int, batches: int, pace: float, start: float) -> None:
    left = TimeLeft()
    whole = (last + 1) * batches
    for round in range(last + 1):
        for batch in range(1, batches + 1):
            done = round * batches + batch
            found = left.seconds(round, last, batch / batches, start + pace * done)
            if batch == 1:
                assert found is None
            else:
                assert found == pytest.approx(pace * (whole - done), rel=1e-4, abs=1e-4 * pace * whole)


def test_rounds_to_come_take_as_long_as_the_last_one() -> None:
    left = TimeLeft()
    assert left.seconds(0, 2, 0.1, 0.0) is None
    assert left.seconds(0, 2, 0.6, 5.0) == pytest.approx(4.0 + 2 * 10.0)
    # Stopped early, after 8 seconds.
    assert left.seconds(1, 2, 0.1, 8.0) is None
    assert left.seconds(1, 2, 0.6, 13.0) == pytest.approx(4.0 + 8.0)


def test_a_round_that_was_resumed_at_its_end_is_no_measure_of_others() -> None:
    left = TimeLeft()
    left.seconds(0, 2, 0.9, 0.0)
    left.seconds(1, 2, 0.1, 1.0)
    assert left.seconds(1, 2, 0.6, 6.0) == pytest.approx(4.0 + 10.0)


def test_nothing_is_said_of_a_training_of_unknown_length() -> None:
    left = TimeLeft()
    assert left.seconds(0, 2, math.nan, 0.0) is None
    assert left.seconds(0, 2, math.nan, 9.0) is None


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (83, "1:23"), (3599.7, "1:00:00"), (7283, "2:01:23")])
def test_how_it_is_written(seconds: float, text: str) -> None:
    assert written(seconds) == text

"""Whatever a reward function does, the run goes on and nothing counts that nobody gave."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import misbehaving
import pytest
import torch

from thunderstone import ArgumentError
from thunderstone_grpo.rewards import ArithmeticVerifier, RewardRunner
from thunderstone_grpo.rewards.call import Answer, read

NAN = float("nan")


def score(runner, completions, **columns):
    count = len(completions)
    return runner.score(["p"] * count, completions, [[1]] * count, **columns)


def test_totals_are_weighted_sums():
    runner = RewardRunner([misbehaving.exact, misbehaving.names_little], weights=[2.0, 0.5])
    scores = score(runner, ["a", "bb"], answer=["a", "x"])
    assert scores.total.tolist() == [2.5, 1.0]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "exact": [1.0, 0.0],
        "names_little": [1.0, 2.0],
    }
    assert scores.failures == ()
    assert scores.unscorable == 0
    assert scores.total.dtype == torch.float64


def test_a_function_that_empties_its_arguments_harms_no_other():
    completions = ["a", "bb"]
    scores = score(RewardRunner([misbehaving.empties, misbehaving.names_little]), completions)
    assert scores.total.tolist() == [2.0, 3.0]
    assert completions == ["a", "bb"]


def test_none_leaves_a_part_out_and_what_is_no_number_makes_unscorable():
    completions = ["ok", "none", "nan", "inf", "text", "list", "yes"]
    alone = score(RewardRunner(misbehaving.partly), completions)
    assert alone.total.tolist() == pytest.approx([1.0, NAN, NAN, NAN, NAN, NAN, 1.0], nan_ok=True)
    with_other = score(RewardRunner([misbehaving.partly, misbehaving.names_little]), completions)
    assert with_other.total.tolist() == pytest.approx([3.0, 4.0, NAN, NAN, NAN, NAN, 4.0], nan_ok=True)
    assert with_other.parts["names_little"].tolist() == [2.0, 4.0, 3.0, 3.0, 4.0, 4.0, 3.0]
    assert {failure.kind: failure.rows for failure in with_other.failures} == {"not_finite": (2, 3), "type": (4, 5)}
    assert with_other.summary() == {"not_finite": 2, "type": 2}
    assert with_other.unscorable == 4


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        (misbehaving.raises, "exception", "ValueError: this one is bad"),
        (misbehaving.one, "length", "1 rewards for 3 completions"),
        (misbehaving.number, "type", "float and no list"),
        (misbehaving.leaves, "exception", "SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("timeout", [None, 20.0])
def test_failures_are_told_and_score_nothing(function, kind, message, timeout):
    with RewardRunner([function, misbehaving.names_little], timeout=timeout) as runner:
        scores = score(runner, ["good", "bad", "good"])
    assert bool(scores.total.isnan().all())
    (failure,) = scores.failures
    assert (failure.function, failure.kind, failure.rows) == (function.__name__, kind, (0, 1, 2))
    assert message in failure.message
    assert scores.parts["names_little"].tolist() == [4.0, 3.0, 4.0]


def test_isolation_finds_the_completion_that_is_to_blame():
    runner = RewardRunner(misbehaving.raises, isolate=True)
    scores = score(runner, ["good", "bad", "good"])
    assert scores.total.tolist() == pytest.approx([1.0, NAN, 1.0], nan_ok=True)
    assert [failure.rows for failure in scores.failures] == [(1,)]
    hopeless = score(runner, ["bad"] * 10)
    assert hopeless.unscorable == 10
    assert sum(len(failure.rows) for failure in hopeless.failures) == 10
    assert len(hopeless.failures) == RewardRunner.GIVE_UP + 1


def test_what_hangs_or_crashes_is_killed_and_replaced():
    with RewardRunner([misbehaving.hangs, misbehaving.crashes], timeout=1.0, isolate=True) as runner:
        score(runner, ["warm"])  # the start of the processes is not what is timed below
        begin = time.monotonic()
        scores = score(runner, ["fine", "hang", "crash", "fine"])
        assert time.monotonic() - begin < 60
        kinds = {(failure.function, failure.kind): failure.rows for failure in scores.failures}
        assert kinds == {("hangs", "timeout"): (1,), ("crashes", "crash"): (2,)}
        assert scores.total.isnan().tolist() == [False, True, True, False]
        assert "exit code 7" in next(one.message for one in scores.failures if one.kind == "crash")
        again = score(runner, ["fine"])
        assert again.unscorable == 0
        processes = [caller._process for caller in runner._callers]
        assert all(process.is_alive() for process in processes)
    assert all(caller._process is None for caller in runner._callers)


def test_coroutines_run_side_by_side_also_within_a_running_loop():
    runner = RewardRunner([misbehaving.waits, misbehaving.waits_too])

    async def in_a_notebook():
        return score(runner, ["a", "b"])

    begin = time.monotonic()
    scores = asyncio.run(in_a_notebook())
    assert scores.total.tolist() == [5.0, 5.0]
    assert time.monotonic() - begin < 0.58


@pytest.mark.parametrize("timeout", [None, 20.0])
def test_functions_are_called_as_trl_calls_them(timeout):
    with RewardRunner([misbehaving.sees_everything, misbehaving.logs], timeout=timeout) as runner:
        scores = runner.score(
            ["p", "q"], ["a", "bb"], [torch.tensor([5]), [6]], level=[10, 20], trainer_state={"global_step": 100}
        )
    assert scores.failures == ()
    assert scores.total.tolist() == [115.0, 126.0]
    assert scores.metrics == {"length": 3.0}
    assert scores.extra == {"shout": ["A", "BB"]}


def test_answers_are_read_as_lists_of_numbers():
    for result in (torch.tensor([1.0, 2.0]), (1, 2), [torch.tensor(1.0), 2], torch.tensor([1.0, 2.0]).numpy()):
        answer = Answer()
        read(result, 2, answer)
        assert answer.values == [1.0, 2.0]
        assert answer.failure is None
    for result in ("ab", {0: 1.0, 1: 2.0}, None, torch.tensor(1.0)):
        answer = Answer()
        read(result, 2, answer)
        assert answer.failure is not None
        assert answer.failure[0] == "type"


def test_nothing_to_score_calls_nobody():
    scores = RewardRunner(misbehaving.raises).score([], [], [])
    assert scores.total.shape == (0,)


def test_names_tell_functions_apart():
    names = RewardRunner([misbehaving.exact, misbehaving.exact, ArithmeticVerifier(), misbehaving.exact]).names
    assert names == ["exact", "exact_2", "arithmetic", "exact_3"]


@pytest.mark.parametrize(
    ("functions", "arguments", "match"),
    [
        ([], {}, "there is no reward function"),
        ("accuracy", {}, "cannot be called"),
        (misbehaving.exact, {"weights": [1.0, 2.0]}, "there are 1 reward functions"),
        (misbehaving.exact, {"weights": [NAN]}, "finite"),
        (misbehaving.exact, {"timeout": 0}, "timeout=0"),
        (lambda completions, **columns: [0.0], {"timeout": 1.0}, "top level of a module"),
    ],
)
def test_bad_arguments_are_refused(functions, arguments, match):
    with pytest.raises(ArgumentError, match=match):
        RewardRunner(functions, **arguments)


def test_processes_of_reward_functions_start_without_torch():
    """They import the module of the function and this one, and are replaced whenever they are killed."""
    code = "import sys, thunderstone_grpo.rewards.killable; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

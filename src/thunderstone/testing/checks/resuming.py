"""Rule 4: killed at any step and resumed, it ends with the same bits as uninterrupted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import require_same
from thunderstone.testing.outcome import CheckFailure, check
from thunderstone.testing.processes import Finished, Job, launch

_PLACES = ("on_train_batch_start", "on_before_backward", "on_train_batch_end")


def _uninterrupted(bench: Bench, job: Job) -> Finished:
    key = f"uninterrupted {job.case.name} {job.ranks} {job.accumulate}"
    if key not in bench.kept:
        bench.kept[key] = launch(bench, job)
    finished: Finished = bench.kept[key]
    return finished


def _killed(bench: Bench, job: Job, batch: int, place: str) -> Finished:
    finished = launch(bench, replace(job, kill=(batch, place)))
    if not finished.killed:
        raise CheckFailure(f"training ended before batch {batch}, in which it was to be killed")
    return finished


def _kill_and_resume(bench: Bench, job: Job, batches: Sequence[Sequence[int]]) -> None:
    """Kill in a seeded choice from each of `batches` (counted from 1), resume, and compare with no interruption."""
    # Another choice for every subject, and the same one every time.
    choose = random.Random(f"{bench.subject.name} {job.accumulate} {job.ranks}")
    whole = _uninterrupted(bench, job)
    for candidates in batches:
        batch, place = choose.choice(candidates), choose.choice(_PLACES)
        killed = _killed(bench, job, batch, place)
        resumed = launch(bench, replace(job, resume=killed.checkpoint))
        for rank, (expected, actual) in enumerate(zip(whole.results, resumed.results, strict=True)):
            where = (
                f"{job.case.name}, {job.ranks} process(es), accumulate_grad_batches={job.accumulate}, killed in "
                f"{place} of batch {batch}, a checkpoint every {job.save_every} batch(es), rank {rank}"
            )
            require_same(where, "the resumed run against the uninterrupted", _outcome(expected), _outcome(actual))


def _outcome(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("weights", "optimizer", "scheduler", "random", "progress", "method")}


def _job(bench: Bench, **settings: Any) -> Job:
    return Job(bench.leading("resuming"), **settings)


@check(rule=4)
def check_resumes_mid_epoch(bench: Bench) -> None:
    """SIGKILL in each of two epochs of seven batches, and resumed in a new process: the same bits at the end."""
    # From batches 5 and 10: a lost count of every second, third or fourth update would be in step again if both were
    # multiples of its period.
    _kill_and_resume(bench, _job(bench, save_every=5), [range(6, 8), range(11, 15)])


@check(rule=4)
def check_resumes_mid_accumulation(bench: Bench) -> None:
    """The same from a checkpoint written between the micro-batches of one update."""
    # The last checkpoint is after batch 2, 4, 8 or 12; updates end with batches 3, 6, 7, 10, 13 and 14.
    _kill_and_resume(bench, _job(bench, accumulate=3, save_every=2), [(3, 4, 5, 6), (9, 10, 13, 14)])


@check(rule=4)
def check_resumes_under_ddp(bench: Bench) -> None:
    """The same for two processes over gloo, four batches an epoch, two to an update."""
    _kill_and_resume(bench, _job(bench, ranks=2, accumulate=2, save_every=1), [range(2, 9)])


def _in_the_middle(bench: Bench) -> Finished:
    """A run killed in its second epoch, between the two updates after a checkpoint."""
    if "killed" not in bench.kept:
        bench.kept["killed"] = _killed(bench, _job(bench, save_every=2), 11, "on_train_batch_start")
    finished: Finished = bench.kept["killed"]
    return finished


@check(rule=4)
def check_checkpoint_is_plain_data(bench: Bench) -> None:
    """A checkpoint loads with weights_only=True, and holds the module's parameters under their own names."""
    finished = _in_the_middle(bench)
    try:
        checkpoint = torch.load(finished.checkpoint, weights_only=True)
    except Exception as error:
        raise CheckFailure(
            f"torch.load(weights_only=True) refuses a checkpoint of {bench.label}: {error}. HINT: keep tensors and "
            "primitives in state_dict"
        ) from error
    case = bench.leading("resuming")
    expected = {name: tuple(value.shape) for name, value in case.module().state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
    require_same(case.name, "the module's entries in the checkpoint", expected, actual)
    method = bench.method(case)
    has_state = bool(_uninterrupted(bench, _job(bench, save_every=2)).results[0]["method"])
    if has_state and method.state_key not in checkpoint["callbacks"]:
        raise CheckFailure(f"the checkpoint has no state under {method.state_key!r}, where it would be looked for")


@check(rule=4)
def check_checkpoint_loads_without_the_method(bench: Bench) -> None:
    """A plain Trainer resumes from its checkpoint where neither the method nor Thunderstone is installed."""
    job = _job(bench, save_every=2)
    finished = _in_the_middle(bench)
    packages = {"thunderstone", type(bench.method()).__module__.partition(".")[0]} - {"__main__"}
    launch(
        bench,
        replace(job, save_every=0, resume=finished.checkpoint, attached=False, blocked=tuple(sorted(packages))),
    )

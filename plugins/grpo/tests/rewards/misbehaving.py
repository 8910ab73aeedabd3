"""Reward functions that do what they should not. At the top level: they are sent to other processes."""

from __future__ import annotations

import asyncio
import os
import time


def exact(completions, answer, **columns):
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def partly(completions, **columns):
    """None, a number, or something odd, as the completion says."""
    odd = {"none": None, "nan": float("nan"), "inf": float("inf"), "text": "1.0", "list": [1.0], "yes": True}
    return [odd.get(text, 1.0) for text in completions]


def raises(completions, **columns):
    if "bad" in completions:
        raise ValueError("this one is bad")
    return [1.0] * len(completions)


def one(completions, **columns):
    return [1.0]


def number(completions, **columns):
    return 1.0


def leaves(completions, **columns):
    raise SystemExit(3)


def hangs(completions, **columns):
    if "hang" in completions:
        while True:
            time.sleep(0.01)
    return [1.0] * len(completions)


def crashes(completions, **columns):
    if "crash" in completions:
        os._exit(7)
    return [float(os.getpid())] * len(completions)


async def waits(completions, **columns):
    await asyncio.sleep(0.3)
    return [2.0] * len(completions)


async def waits_too(completions, **columns):
    await asyncio.sleep(0.3)
    return [3.0] * len(completions)


def logs(completions, log_metric, log_extra, **columns):
    log_metric("length", sum(map(len, completions)))
    log_extra("shout", [text.upper() for text in completions])
    return [0.0] * len(completions)


def names_little(completions):
    return [float(len(text)) for text in completions]


def sees_everything(prompts, completions, completion_ids, level, trainer_state, **columns):
    assert len(prompts) == len(completions) == len(completion_ids) == len(level)
    assert all(type(token) is int for ids in completion_ids for token in ids)
    return [float(trainer_state["global_step"] + ids[0] + one) for ids, one in zip(completion_ids, level, strict=True)]


def empties(completions, **columns):
    rewards = [1.0] * len(completions)
    completions.clear()
    return rewards

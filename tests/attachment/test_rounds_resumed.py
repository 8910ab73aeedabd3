"""A run that dies in any round, at any step, goes on from there and ends with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from ticketing import Telling, Tickets, silent
from tiny_training import assert_moved, assert_same_bits, state

pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory")
ROUNDS = 2


class Killed(Exception):
    """The run is no more."""


class Killing(Callback):
    """Ends the run before a step of a round."""

    def __init__(self, method: Tickets, round_index: int, step: int) -> None:
        self.method, self.round_index, self.step = method, round_index, step

    def on_train_batch_start(self, running: Any, *_: Any) -> None:
        if (self.method.attachment.rounds.index, running.global_step) == (self.round_index, self.step):
            raise Killed


def callbacks(folder: Path, stopping: bool) -> list[Callback]:
    """What writes checkpoints, and something with a state."""
    saving = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)
    return [EarlyStopping("val", patience=2, min_delta=0.02), saving] if stopping else [saving]


def latest(folder: Path) -> Path:
    return max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("rewind_step", [0, 4])
@pytest.mark.parametrize(("round_index", "step"), [(0, 3), (0, 9), (1, 0), (1, 4), (1, 7), (2, 11)])
def test_a_run_killed_in_a_round_ends_with_the_same_bits(
    round_index: int, step: int, rewind_step: int, tmp_path: Path
) -> None:
    if rewind_step and round_index and step < rewind_step:
        step = rewind_step  # the first step of such a round
    settings = {"max_epochs": 2, "enable_checkpointing": True}
    whole, uninterrupted = Telling(), Tickets(ROUNDS, rewind_step)
    silent(uninterrupted, *callbacks(tmp_path / "whole", True), **settings).fit(whole)

    method, dying = Tickets(ROUNDS, rewind_step), Telling()
    killing = Killing(method, round_index, step)
    with pytest.raises(Killed):
        silent(method, killing, *callbacks(tmp_path / "killed", True), **settings).fit(dying)
    found = latest(tmp_path / "killed")
    saved = torch.load(found, weights_only=True)
    # A round from a mark ends the step at which it was set, and so writes a checkpoint of its own at once.
    at_the_border = round_index > 0 and step == 0
    assert saved["callbacks"][method.state_key]["rounds"]["index"] == round_index - at_the_border

    resumed, going_on = Telling(), Tickets(ROUNDS, rewind_step)
    running = silent(going_on, *callbacks(tmp_path / "resumed", True), **settings)
    torch.manual_seed(99)
    running.fit(resumed, ckpt_path=found)
    assert_same_bits(whole, resumed)
    assert len(going_on._ends) == ROUNDS + 1 - round_index + at_the_border
    for mine, theirs in zip(reversed(going_on._ends), reversed(uninterrupted._ends), strict=False):
        assert_same_bits(mine, theirs)
    assert all(torch.equal(mask, uninterrupted.masks[name]) for name, mask in going_on.masks.items())
    assert_moved(uninterrupted._ends[0], whole)


def test_a_checkpoint_after_the_last_round(tmp_path: Path) -> None:
    method, module = Tickets(ROUNDS), Telling()
    running = silent(method, max_epochs=2)
    running.fit(module)
    running.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"][method.state_key]["rounds"]
    assert saved["index"] == ROUNDS
    assert saved["columns"] == {"round": ROUNDS, "remaining": pytest.approx(0.49, abs=0.02)}
    fresh = state(Telling())
    assert all(torch.equal(saved["weights"][name], value) for name, value in fresh.items())
    again, resumed = Tickets(ROUNDS), Telling()
    silent(again, max_epochs=2).fit(resumed, ckpt_path=tmp_path / "end.ckpt")
    assert_same_bits(module, resumed)
    assert len(again._ends) == 1
    more = Tickets(ROUNDS + 1)
    silent(more, max_epochs=2).fit(Telling(), ckpt_path=tmp_path / "end.ckpt")
    assert len(more._ends) == 2
    assert more.masks.density == pytest.approx(0.7**3, abs=0.03)


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    from thunderstone import ResumeError

    method = Tickets(1)
    running = silent(method, max_epochs=1)
    running.fit(Telling())
    running.save_checkpoint(tmp_path / "end.ckpt")
    saved = torch.load(tmp_path / "end.ckpt", weights_only=True)
    saved["callbacks"][method.state_key]["rounds"]["ranks"] *= 2
    torch.save(saved, tmp_path / "two.ckpt")
    with pytest.raises(ResumeError, match=r"Tickets: the checkpoint was written by 2 processes and is resumed by 1"):
        silent(Tickets(1), max_epochs=2).fit(Telling(), ckpt_path=tmp_path / "two.ckpt")

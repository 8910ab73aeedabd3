"""What else `ExactResume` promises: it changes nothing, leaves nothing, and says what it cannot do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted_runs import differences, differences_after_resume, last_checkpoint, resume, run_to_the_end
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.exceptions import SIGTERMException
from resumable_program import Killed, Setting, make, outcome

import thunderstone
from thunderstone.resume import ExactResume
from thunderstone.resume.portable import is_portable

pytestmark = [
    pytest.mark.private_api,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
]
KEY = "thunderstone.resume.exact_resume.ExactResume"


def checkpoint_of(setting: Setting, folder: Path) -> Path:
    """The checkpoint of a run that goes to its end."""
    run_to_the_end(setting, folder)
    return last_checkpoint(folder)


@pytest.mark.parametrize(
    "case",
    [
        {"workers": 0},
        {"workers": 2, "persistent": True},
        {"workers": 2, "loader": "stateful"},
        {"loader": "iterable"},
        {"loader": "cycled", "accumulate": 2},
        {"manual": True, "save": ("on_train_batch_end", 3)},
    ],
    ids=lambda case: "-".join(str(value) for value in case.values()),
)
def test_a_run_that_is_not_resumed_is_not_changed(case: dict[str, Any], tmp_path: Path) -> None:
    setting = Setting(augment=("torch", "numpy", "python", "own"), epochs=2, **case)
    with_it = run_to_the_end(setting, tmp_path / "with")
    without = run_to_the_end(replace(setting, exact=False), tmp_path / "without")
    assert differences(without, with_it) == []


def test_disabled_it_writes_nothing_and_changes_nothing(tmp_path: Path) -> None:
    trainer, model = make(Setting(exact=False, epochs=1, folder=str(tmp_path)))
    trainer.callbacks.insert(0, ExactResume(enabled=False))
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert KEY not in torch.load(tmp_path / "plain.ckpt", weights_only=False)["callbacks"]


def wrapped(trainer: Trainer) -> list[str]:
    """What on a Trainer is not as Lightning made it."""
    loops = [trainer.fit_loop, trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop]
    found = [name for loop in loops for name, value in vars(loop).items() if callable(value) and name.islower()]
    combined = trainer.fit_loop._combined_loader
    return [name for name in found if name in dir(type(trainer.fit_loop))] + [
        "loader" for _ in range(combined is not None and type(combined) is not CombinedLoader)
    ]


class Fail(Callback):
    """Raises in the fourth batch."""

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    def on_train_batch_end(self, *arguments: Any) -> None:
        assert wrapped(arguments[0]) != []
        if arguments[-1] == 3:
            raise self.exception


@pytest.mark.parametrize("exception", [None, RuntimeError("no"), KeyboardInterrupt()], ids=["end", "error", "Ctrl-C"])
def test_it_leaves_nothing_behind(exception: BaseException | None, tmp_path: Path) -> None:
    trainer, model = make(Setting(epochs=1, folder=str(tmp_path)))
    handler = signal.getsignal(signal.SIGINT)
    if exception is None:
        trainer.fit(model)
    else:
        trainer.callbacks.append(Fail(exception))
        with pytest.raises((RuntimeError, SystemExit)):
            trainer.fit(model)
    signal.signal(signal.SIGINT, handler)
    assert wrapped(trainer) == []
    assert trainer.num_sanity_val_steps == 2


def test_a_resume_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(epochs=1, save=("on_train_batch_end", 3)), tmp_path / "run")
    trainer, model = make(Setting(epochs=1, folder=str(tmp_path)))
    trainer.fit(model, ckpt_path=checkpoint)
    assert wrapped(trainer) == []
    assert trainer.num_sanity_val_steps == 2


@pytest.mark.parametrize(
    "case",
    [
        {"loader": "generator", "accumulate": 3, "augment": ("own",)},
        {"loader": "iterable", "validation": False},
        {"workers": 2, "persistent": True},
        {"manual": True},
    ],
    ids=["generator", "iterable", "workers", "manual"],
)
def test_its_state_is_tensors_and_primitives(case: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(epochs=1, save=("on_train_batch_end", 4), **case), tmp_path / "run")
    state = torch.load(checkpoint, weights_only=True)["callbacks"][KEY]
    assert is_portable(state)
    assert state["ranks"][0]["point"] == "batch_end"


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_its_checkpoints_resume_without_it(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(save=("on_train_batch_end", 10)), tmp_path / "run")
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        resumed = resume(Setting(exact=False), checkpoint)
    assert resumed["progress"] == [21, 3, 21]


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_a_checkpoint_without_its_state_resumes_as_lightning_does(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(save=("on_train_batch_end", 10), exact=False), tmp_path / "run")
    assert resume(Setting(), checkpoint)["progress"] == [21, 3, 21]


def test_more_epochs_after_the_end(tmp_path: Path) -> None:
    whole = run_to_the_end(Setting(epochs=4, augment=("torch",)), tmp_path / "whole")
    trainer, model = make(Setting(epochs=2, augment=("torch",), folder=str(tmp_path)))
    trainer.fit(model)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    resumed = resume(Setting(epochs=4, augment=("torch",)), tmp_path / "end.ckpt")
    assert differences_after_resume(whole, resumed) == []


def test_more_epochs_after_the_last_epochs_checkpoint(tmp_path: Path) -> None:
    setting = Setting(augment=("torch",), workers=2, persistent=True, scheduler="plateau")
    whole = run_to_the_end(replace(setting, epochs=3), tmp_path / "whole")
    checkpoint = checkpoint_of(replace(setting, epochs=2, save=("on_train_epoch_end", 2)), tmp_path / "run")
    assert differences_after_resume(whole, resume(replace(setting, epochs=3), checkpoint)) == []


def test_the_end_of_the_last_epoch_is_finished(tmp_path: Path) -> None:
    setting = Setting(epochs=2, scheduler="plateau", validation=False)
    whole = run_to_the_end(setting, tmp_path / "whole")
    checkpoint = checkpoint_of(replace(setting, save=("on_train_epoch_end", 2)), tmp_path / "run")
    trainer, model = make(replace(setting, folder=str(tmp_path), seed=3))
    trainer.fit(model, ckpt_path=checkpoint)
    resumed = outcome(trainer, model)
    assert resumed["seen"] == []
    assert differences_after_resume(whole, resumed) == []


def test_a_resumed_run_can_be_resumed_and_fitted_again(tmp_path: Path) -> None:
    setting = Setting(augment=("numpy",), workers=2, persistent=True)
    whole = run_to_the_end(setting, tmp_path / "whole")
    first = checkpoint_of(replace(setting, save=("on_train_batch_end", 9)), tmp_path / "first")
    (tmp_path / "second").mkdir()
    trainer, model = make(replace(setting, save=("on_train_batch_end", 3), folder=str(tmp_path / "second"), seed=1))
    trainer.fit(model, ckpt_path=first)
    trainer, model = make(replace(setting, folder=str(tmp_path), seed=2))
    trainer.fit(model, ckpt_path=last_checkpoint(tmp_path / "second"))
    assert differences_after_resume(whole, outcome(trainer, model)) == []
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model)
    assert trainer.current_epoch == 4
    assert wrapped(trainer) == []


def test_a_checkpoint_written_before_the_state_is_in_force_holds_it_again(tmp_path: Path) -> None:
    setting = Setting(augment=("python",))
    whole = run_to_the_end(setting, tmp_path / "whole")
    first = checkpoint_of(replace(setting, save=("on_train_batch_end", 9)), tmp_path / "first")
    (tmp_path / "second").mkdir()
    again = replace(setting, save=("on_train_start", 1), kill_at=9, folder=str(tmp_path / "second"), seed=1)
    trainer, model = make(again)
    with pytest.raises(Killed):
        trainer.fit(model, ckpt_path=first)
    resumed = resume(setting, last_checkpoint(tmp_path / "second"))
    assert differences_after_resume(whole, resumed) == []


def test_last_is_found(tmp_path: Path) -> None:
    setting = Setting(checkpoint={"every_n_train_steps": 4, "save_last": True, "save_top_k": 1}, augment=("torch",))
    whole = run_to_the_end(setting, tmp_path / "whole")
    (tmp_path / "run").mkdir()
    trainer, model = make(replace(setting, folder=str(tmp_path / "run"), kill_at=11))
    with pytest.raises(Killed):
        trainer.fit(model)
    trainer, model = make(replace(setting, folder=str(tmp_path / "run"), seed=5))
    trainer.fit(model, ckpt_path="last")
    assert differences_after_resume(whole, outcome(trainer, model)) == []


class Terminate(Callback):
    """Sends the process SIGTERM in a batch."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == 9:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*there is no last checkpoint available")
def test_sigterm_ends_at_a_point_from_which_it_goes_on_exactly(tmp_path: Path) -> None:
    setting = Setting(augment=("torch", "own"), accumulate=3)
    whole = run_to_the_end(setting, tmp_path / "whole")
    trainer, model = make(replace(setting, folder=str(tmp_path)))
    trainer.callbacks += [Terminate(), OnExceptionCheckpoint(tmp_path, "dying")]
    with pytest.raises(SIGTERMException):
        trainer.fit(model)
    assert differences_after_resume(whole, resume(setting, tmp_path / "dying.ckpt")) == []


@pytest.mark.filterwarnings("ignore:.*was called without a model", "ignore:.*there is no last checkpoint available")
def test_any_other_exception_is_told_about(tmp_path: Path) -> None:
    trainer, model = make(Setting(folder=str(tmp_path)))
    trainer.callbacks += [Fail(RuntimeError("no")), OnExceptionCheckpoint(tmp_path, "dying")]
    with pytest.raises(RuntimeError, match="no"):
        trainer.fit(model)
    with pytest.warns(UserWarning, match="after RuntimeError"):
        assert resume(Setting(), tmp_path / "dying.ckpt")["progress"] == [21, 3, 21]


def test_another_number_of_processes_is_told_about(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(save=("on_train_epoch_end", 1)), tmp_path / "run")
    content = torch.load(checkpoint, weights_only=True)
    content["callbacks"][KEY]["world_size"] = 4
    torch.save(content, checkpoint)
    with pytest.warns(UserWarning, match="written by 4 processes and is resumed by 1"):
        assert resume(Setting(), checkpoint)["progress"] == [21, 3, 21]


def test_another_version_of_its_state_is_told_about(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(save=("on_train_epoch_end", 1)), tmp_path / "run")
    content = torch.load(checkpoint, weights_only=True)
    content["callbacks"][KEY]["version"] = 99
    torch.save(content, checkpoint)
    with pytest.warns(UserWarning, match="state of version 99"):
        resume(Setting(), checkpoint)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"loader": "combined"}, "there were 1 training loaders, now there are 2"),
        ({"workers": 1}, "num_workers was 0, now it is 1"),
        ({"batch_size": 5}, "an epoch had 7 batches, now it has 6"),
        ({"accumulate": 2}, "accumulate_grad_batches was 4, now it is 2"),
    ],
)
def test_what_is_not_as_it_was_is_told_about(other: dict[str, Any], reason: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(Setting(save=("on_train_batch_end", 10), accumulate=4), tmp_path / "run")
    with pytest.warns(UserWarning, match=reason):
        resume(replace(Setting(accumulate=4), **other), checkpoint)


def test_it_is_found_by_name_and_is_light() -> None:
    assert thunderstone.methods()["resume"].target == "thunderstone.resume:ExactResume"
    assert isinstance(thunderstone.create("resume", reload_consumed=False), ExactResume)
    code = "import sys, thunderstone.resume.plugin; print({'torch', 'lightning', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_it_is_shown_with_its_arguments() -> None:
    assert repr(ExactResume(reload_consumed=False)) == "ExactResume(enabled=True, reload_consumed=False)"
    assert ExactResume().state_dict() == {}

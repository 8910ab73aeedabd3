"""The demo from end to end, and what can keep it from its end."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console

import thunderstone
from thunderstone.demo import main, training
from thunderstone.demo.digits import noisy_digits
from thunderstone.demo.main import run_demo
from thunderstone.demo.settings import SETTINGS
from thunderstone.demo.training import train
from thunderstone.errors import RequestError, UnknownNameError
from thunderstone.tracking.sink import TrackingWarning


@pytest.fixture
def screen():
    return Console(file=io.StringIO(), width=100)


@pytest.fixture
def _untracked(monkeypatch):
    """Starting W&B takes longer than training here."""
    monkeypatch.setattr(training, "_logger", lambda *_: None)


@pytest.mark.slow
def test_it_trains_compares_and_tracks(tmp_path, screen):
    results = run_demo(tmp_path / "new" / "folder", seeds=1, epochs=2, console=screen)
    assert [(result.setting, result.seed) for result in results] == [("plain", 0), ("SAM", 0), ("ASAM", 0)]
    for result in results:
        assert len(result.test_accuracy) == len(result.memorised) == 2
        assert 0 < result.test_accuracy[-1] < 1
        assert result.step_seconds > 0
    assert len({tuple(result.test_accuracy) for result in results}) == 3
    shown = screen.file.getvalue()
    for text in ("plain", "SAM", "ASAM", "all runs", "3/3", "demo.png", "wandb sync"):
        assert text in shown
    folder = tmp_path / "new" / "folder"
    assert {"demo.png", "comparison.md", "runs.csv", "wandb"} <= {path.name for path in folder.iterdir()}
    runs = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(runs) == 3
    contents = [path.read_bytes() for path in runs]
    for content, setting in zip(contents, ("plain", "SAM", "ASAM"), strict=True):
        assert f"{setting}-seed0".encode() in content
        assert b"accuracy/test" in content
        assert b"final/largest_eigenvalue" in content
    assert b"asam/gradient_norm" in contents[2]
    assert b"gradient_norm" not in contents[0]


@pytest.mark.usefixtures("_untracked")
def test_a_seed_gives_the_same_run_whatever_ran_before(tmp_path):
    setting, digits = SETTINGS[1], noisy_digits(0)
    first = train(setting, 0, digits, 1, tmp_path, lambda *_: None)
    torch.rand(7)
    again = train(setting, 0, digits, 1, tmp_path, lambda *_: None)
    assert replace(first, step_seconds=0) == replace(again, step_seconds=0)


@pytest.mark.usefixtures("_untracked")
def test_after_ctrl_c_the_runs_that_are_done_are_compared(tmp_path, screen, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    original = main.train
    started = []

    def interrupted_in_the_second_run(setting, seed, digits, epochs, folder, on_epoch):
        def on_epoch_and_interrupt(done, accuracy):
            on_epoch(done, accuracy)
            if len(started) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        started.append(setting.label)
        return original(setting, seed, digits, epochs, folder, on_epoch_and_interrupt)

    monkeypatch.setattr(main, "train", interrupted_in_the_second_run)
    with pytest.raises(SystemExit) as end:
        run_demo(tmp_path, seeds=1, epochs=3, console=screen)
    assert end.value.code == 130
    assert started == ["plain", "SAM"]
    assert "Interrupted after 1 of 3 runs." in screen.file.getvalue()
    assert "plain" in (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert (tmp_path / "demo.png").is_file()
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("_untracked")
def test_ctrl_c_in_the_first_run_leaves_no_table(tmp_path, screen, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "train", interrupt)
    with pytest.raises(SystemExit) as end:
        run_demo(tmp_path, seeds=1, epochs=1, console=screen)
    assert end.value.code == 130
    assert "Interrupted after 0 of 3 runs." in screen.file.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, screen, monkeypatch):
    monkeypatch.setattr(main, "train", lambda *_: pytest.fail("training began"))
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RequestError, match=r"nothing can be written to the folder .*file.* HINT: --output"):
            run_demo(output, seeds=1, epochs=1, console=screen)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


def test_without_the_sharpness_family_it_says_what_to_install(tmp_path, screen, monkeypatch):
    def unknown(name, **arguments):
        raise UnknownNameError("method", name, ["resume"])

    monkeypatch.setattr(thunderstone, "create", unknown)
    monkeypatch.setattr(main, "train", lambda *_: pytest.fail("training began"))
    with pytest.raises(RequestError, match=r"'sam'. HINT: pip install thunderstone-sharpness"):
        run_demo(tmp_path, seeds=1, epochs=1, console=screen)


def test_methods_from_the_environment_are_refused(tmp_path, screen, monkeypatch):
    monkeypatch.setenv("THUNDERSTONE_WITH", '[{"name": "sam"}]')
    with pytest.raises(RequestError, match="HINT: unset THUNDERSTONE_WITH"):
        run_demo(tmp_path, seeds=1, epochs=1, console=screen)


def test_a_tracker_that_does_not_start_costs_no_run(tmp_path, screen, monkeypatch):
    def broken(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr("wandb.init", broken)
    monkeypatch.setattr(main, "SETTINGS", SETTINGS[:1])
    with pytest.warns(TrackingWarning, match="W&B tracks none of this run: OSError: no space left on device"):
        results = run_demo(tmp_path, seeds=1, epochs=1, console=screen)
    assert [result.setting for result in results] == ["plain"]

"""What methods show while they train: on real bars, on a terminal, in a pipe, and after something went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from terminal import Terminal
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from thunderstone import Method, Phase, Round, hookimpl
from thunderstone.progress import lines
from thunderstone.progress.lines import TqdmLine

BARS = [TQDMProgressBar, RichProgressBar]


class Line(LightningModule):
    """One weight matrix; its loss is shown in the bar."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        loss = self.layer(batch[0]).square().mean()
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(bar: ProgressBar, *methods: Method, **settings: Any) -> Trainer:
    """Train for two epochs of three batches."""
    trainer = Trainer(
        callbacks=[*methods, bar],
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        **settings,
    )
    generator = torch.Generator().manual_seed(0)
    trainer.fit(Line(), DataLoader(TensorDataset(torch.randn(12, 4, generator=generator)), batch_size=4))
    return trainer


class Showing(Method):
    """Shows a value, and works for a while after the second batch of an epoch.

    Args:
        total: Of that work.
        look: Called in the middle of it.
        error: Raised in the middle of it.
    """

    name = "showing"

    def __init__(
        self,
        total: float | None = 4,
        look: Callable[[], object] = lambda: None,
        error: type[BaseException] | None = None,
    ) -> None:
        self.total, self.look, self.error = total, look, error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.status(sparsity=0.6399, gone=3)
        self.status(gone=None)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, at: int) -> None:
        if at != 1:
            return
        with self.progress("counting", self.total) as phase:
            phase.advance()
            phase.to(2)
            self.look()
            if self.error is not None:
                raise self.error("in the middle")
            phase.advance(2)


class Rounds(Showing):
    """Two trainings."""

    name = "rounds"
    exclusive = frozenset({"rounds"})

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.attachment.rounds.last = 1

    @hookimpl
    def another_round(self, round: Round) -> bool:
        return round.index < 1

    @hookimpl
    def next_round(self, round: Round) -> None:
        round.rewind()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is shown however short it is."""
    monkeypatch.setattr(lines, "DELAY", 0.0)


def drawn(bar: Any, terminal: Terminal) -> list[str]:
    """What is on the screen once everything is drawn; both bars leave drawings out that follow too fast."""
    if isinstance(bar, RichProgressBar):
        bar.refresh(hard=True)
    else:
        for line in list(tqdm._instances):
            line.refresh()
    return terminal.lines()


@pytest.mark.parametrize("kind", BARS)
def test_work_is_shown_below_the_bar_while_it_lasts(
    kind: type[ProgressBar], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar, seen = kind(), []
    with Terminal(monkeypatch) as terminal:
        fit(bar, Showing(look=lambda: seen.append(drawn(bar, terminal))))
        left = terminal.lines()
    for screen in seen:
        assert screen[0].startswith("Epoch")
        (line,) = (line for line in screen[1:] if "counting" in line)
        # Beside other columns there is no room for the method's name.
        assert line.startswith("Showing: counting" if kind is TQDMProgressBar else "counting"), screen
        assert "2/4" in line
    assert len(seen) == 2
    assert "counting" not in "\n".join(left)
    assert left[0].startswith("Epoch 1")
    assert "get_metrics" not in vars(bar)


@pytest.mark.parametrize("kind", BARS)
def test_work_of_unknown_length(kind: type[ProgressBar], monkeypatch: pytest.MonkeyPatch) -> None:
    bar, seen = kind(), []
    with Terminal(monkeypatch, columns=150) as terminal:
        fit(bar, Showing(total=None, look=lambda: seen.append(drawn(bar, terminal))))
    expected = "Showing: counting: 2 [00:00]" if kind is TQDMProgressBar else "2/--"
    for screen in seen:
        (line,) = (line for line in screen if line.startswith("Showing: counting"))
        assert expected in line
    assert len(seen) == 2


@pytest.mark.parametrize("kind", BARS)
def test_short_work_is_not_worth_a_line(kind: type[ProgressBar], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "DELAY", 60.0)
    with Terminal(monkeypatch) as terminal:
        fit(kind(), Showing())
    assert "Epoch" in terminal.text
    assert "counting" not in terminal.text


@pytest.mark.parametrize("kind", BARS)
def test_work_within_work_has_a_line_of_its_own(
    kind: type[ProgressBar], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar, seen = kind(), []

    class Nested(Showing):
        def on_train_batch_end(self, *arguments: Any) -> None:
            with self.progress("outer", 2) as outer, self.progress("[/inner]", 5) as inner:
                outer.advance()
                inner.advance()
                seen.append(drawn(bar, terminal))

    with Terminal(monkeypatch, columns=150) as terminal:
        fit(bar, Nested())
        left = terminal.lines()
    assert len(seen) == 6
    for screen in seen:
        assert [line.split()[1].rstrip(":") for line in screen if line.startswith("Nested:")] == ["outer", "[/inner]"]
    assert not [line for line in left if "Nested" in line]


@pytest.mark.parametrize("kind", BARS)
def test_round_values_and_time_left(kind: type[ProgressBar], monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []

    class Noting(Rounds):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            shown.append(trainer.progress_bar_callback.get_metrics(trainer, module))

    bar = kind()
    with Terminal(monkeypatch, columns=150) as terminal:
        fit(bar, Noting())
    assert [metrics["round"] for metrics in shown] == ["0/1"] * 6 + ["1/1"] * 6
    assert all(metrics["sparsity"] == "0.64" and "gone" not in metrics for metrics in shown)
    # The round is what nothing can be read without; then come the user's own.
    assert list(shown[-1]) == ["round", "train_loss", "sparsity", "left"]
    assert ["left" in metrics for metrics in shown[:6]] == [False, *[True] * 5]
    assert "1/1" in terminal.text
    assert "0.64" in terminal.text


def test_a_name_of_the_users_own_stays_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar(TQDMProgressBar):
        def get_metrics(self, *arguments: Any) -> dict[str, Any]:
            return {**super().get_metrics(*arguments), "sparsity": "mine"}

    bar, found = Bar(), []

    class Noting(Showing):
        def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
            found.append(bar.get_metrics(trainer, module)["sparsity"])

    with Terminal(monkeypatch):
        fit(bar, Noting())
    assert found == ["mine"] * 6


@pytest.mark.parametrize("kind", BARS)
def test_in_a_pipe_nothing_is_added(
    kind: type[ProgressBar], at_once: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []
    bar = kind()
    ours, theirs = os.pipe()
    with open(theirs, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        fit(bar, Rounds(look=lambda: looked.append("get_metrics" in vars(bar))))
        monkeypatch.undo()
    with open(ours, encoding="utf-8") as end:
        text = end.read()
    assert looked == [False] * 4
    assert not [word for word in ("round", "sparsity", "counting", "left") if word in text]
    if kind is TQDMProgressBar:
        # What Lightning itself writes there.
        assert "train_loss" in text


@pytest.mark.parametrize("bar", [TQDMProgressBar(refresh_rate=0), RichProgressBar(refresh_rate=0)])
def test_a_bar_that_is_switched_off_shows_nothing(
    bar: ProgressBar, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Terminal(monkeypatch) as terminal:
        fit(bar, Rounds(look=lambda: terminal.lines()))
    assert "counting" not in terminal.text
    assert "round" not in terminal.text


def test_other_ranks_show_nothing(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bar(TQDMProgressBar):
        def disable(self) -> None:
            """Of a kind that cannot be told whether it is."""

    monkeypatch.setattr(Trainer, "is_global_zero", False)
    bar = Bar()
    with Terminal(monkeypatch) as terminal:
        monkeypatch.setattr(Trainer, "is_global_zero", False)
        fit(bar, Showing(look=lambda: terminal.lines()))
    assert "counting" not in terminal.text
    assert "sparsity" not in terminal.text


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", BARS)
def test_after_an_error_nothing_is_left(
    kind: type[ProgressBar], error: type[BaseException], at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar, method, before = kind(), Rounds(error=error), len(tqdm._instances)
    with Terminal(monkeypatch) as terminal:
        with pytest.raises((error, SystemExit)):
            fit(bar, method)
        left = terminal.lines()
    assert "get_metrics" not in vars(bar)
    assert "counting" not in "\n".join(left)
    if isinstance(bar, RichProgressBar):
        assert bar.progress is not None
        assert not bar.progress.live.is_started
        assert not [task for task in bar.progress.tasks if "counting" in task.description and task.visible]
    else:
        # Lightning leaves its own open.
        assert len(tqdm._instances) <= before + 1
        bar.train_progress_bar.close()


def test_work_that_is_never_ended_ends_with_the_fit(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Phase] = []

    class Forgetful(Showing):
        def on_train_batch_end(self, *arguments: Any) -> None:
            if not kept:
                kept.append(self.progress("counting", 4).__enter__())
                kept[0].advance()

    with Terminal(monkeypatch) as terminal:
        fit(TQDMProgressBar(), Forgetful())
        terminal.lines()
        written = terminal.text
        assert "counting" in written
        kept[0].advance()
        terminal.lines()
        assert terminal.text == written
    assert not [line for line in tqdm._instances if "counting" in str(line.desc)]


@pytest.mark.parametrize("kind", BARS)
def test_showing_changes_no_bit(kind: type[ProgressBar], at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fit(TQDMProgressBar(refresh_rate=0)).lightning_module
    drawn_before = torch.get_rng_state()
    with Terminal(monkeypatch):
        shown = fit(kind(), Rounds()).lightning_module
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), shown.parameters(), strict=True))
    # Both build a module under a seed and draw nothing else.
    assert torch.equal(drawn_before, torch.get_rng_state())


def test_lightnings_own_tasks_stay_where_it_looks_for_them(at_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    class Early(Showing):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            # Before the first task of training is there, on the first call.
            with self.progress("early", 2) as phase:
                phase.advance()

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            bar = trainer.progress_bar_callback
            assert isinstance(bar, RichProgressBar)
            names.append(bar.train_progress_bar.description.strip())
            assert len(bar.progress.tasks) == 2

    bar = RichProgressBar()
    bar_first = Early()
    with Terminal(monkeypatch):
        fit(bar, bar_first)
    assert names == ["Epoch 0/1", "Epoch 1/1"]


def test_outside_of_a_fit_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    method = Showing()
    method.status(sparsity=0.5)
    with method.progress("counting", 3) as phase:
        phase.advance()
    assert phase.done == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("total", [None, 4, 0, float("nan"), float("inf"), -1.0])
def test_what_is_no_amount_of_work_changes_nothing(total: float | None, at_once: None) -> None:
    with Phase("counting", total, TqdmLine) as phase:
        phase.to(2)
        for nothing in (float("nan"), float("inf"), -float("inf"), -1.0):
            phase.to(nothing)
            assert phase.done == 2
        phase.advance(float("nan"))
        phase.advance()
        [bar] = [line for line in tqdm._instances if "counting" in str(line.desc)]
        bar.refresh()
        assert (bar.n, phase.done) == (3, 3)


@pytest.mark.parametrize("kind", BARS)
def test_in_a_notebook_the_values_are_shown_and_no_lines(
    kind: type[ProgressBar], at_once: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Shell:
        config = MappingProxyType({"IPKernelApp": {}})

    class IPython:
        @staticmethod
        def get_ipython() -> Shell:
            return Shell()

    monkeypatch.setitem(sys.modules, "IPython", IPython)
    wrapped: list[bool] = []
    bar = kind()
    fit(bar, Showing(look=lambda: wrapped.append("get_metrics" in vars(bar))))
    assert wrapped == [True, True]
    assert "counting" not in capsys.readouterr().out

"""Every round is a fresh fit: the same bits, and the same to whoever looks, as separate fits of separate Trainers."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger, Logger
from masking import Fixed
from ticketing import ByHand, Plain, Telling, Tickets, Tracing, silent, smaller, tickets_by_hand
from tiny_training import Ascend, Classifier, assert_moved, assert_same_bits, loader, samples, state
from torch import Tensor
from torch.utils.data import DataLoader

from thunderstone import CompositionError, ExactResume, HookError, Method, Round, StepError, UnsupportedSettingError
from thunderstone import hookimpl as implements

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
ROUNDS = 2


@pytest.fixture(autouse=True)
def _interrupts() -> Iterator[None]:
    """Lightning turns Ctrl-C off for good when it has seen one."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def averaging() -> Callback:
    module = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    return module.EMAWeightAveraging(decay=0.7, update_starting_at_step=2)


SETTINGS: dict[str, dict[str, Any]] = {
    "two epochs": {},
    "accumulated": {"accumulate_grad_batches": 4, "gradient_clip_val": 0.5},
    "by steps": {"max_epochs": -1, "max_steps": 7},
    "part of the data": {"limit_train_batches": 0.5, "max_epochs": 3},
    "validation within the epoch": {"val_check_interval": 2},
    "validation every second epoch": {"check_val_every_n_epoch": 2},
    "no sanity check": {"num_sanity_val_steps": 0},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1},
    "half precision": {"precision": "bf16-mixed"},
    "double precision": {"precision": "64-true"},
    "fast dev run": {"fast_dev_run": 2, "max_epochs": None},
}
CALLBACKS: dict[str, Callable[[Path], list[Callback]]] = {
    "early stopping": lambda _: [EarlyStopping("val", patience=1, min_delta=0.01)],
    "checkpoints": lambda folder: [ModelCheckpoint(folder, monitor="val", save_top_k=2, save_last=True)],
    "an average": lambda _: [averaging()],
    "a stochastic average": lambda _: [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)],
    "a schedule of accumulation": lambda _: [GradientAccumulationScheduler({0: 1, 1: 2})],
}


def compare(
    make: Callable[[], LightningModule],
    settings: dict[str, Any],
    extra: Callable[[Path], list[Callback]] = lambda _: [],
    folder: Path = Path(),
    data: Callable[[], Any] = lambda: None,
) -> Tickets:
    """The host's rounds against separate fits; what a data function returns is handed to `fit`."""
    method, tracing, module = Tickets(ROUNDS), Tracing(), make()
    settings = {"max_epochs": 2, **settings}
    settings["enable_checkpointing"] = any(isinstance(one, ModelCheckpoint) for one in extra(folder / "x"))
    silent(tracing, *extra(folder / "rounds"), method, **settings).fit(module, data())
    assert len(method._ends) == ROUNDS + 1

    def run(by_hand: LightningModule, callbacks: list[Callback]) -> None:
        silent(*callbacks, *extra(folder / "by hand"), **settings).fit(by_hand, data())

    before: dict[str, Tensor] = {}
    for number, (ticket, seen, _) in enumerate(tickets_by_hand(make, ROUNDS, run)):
        assert_same_bits(method._ends[number], ticket)
        assert tracing.rounds[number] == seen.rounds[0]
        assert len(seen.rounds[0]) > 8
        if before:
            assert_moved(before, ticket)
        before = state(ticket)
    assert method.masks.density == pytest.approx(0.7**ROUNDS, abs=0.03)
    return method


@pytest.mark.private_api
@pytest.mark.filterwarnings("ignore:.*reload_dataloaders")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_round_is_a_fresh_fit(name: str) -> None:
    compare(Telling, SETTINGS[name])


@pytest.mark.filterwarnings("ignore:.*swa_start", "ignore:SWA is currently only supported every epoch")
@pytest.mark.parametrize("name", list(CALLBACKS))
def test_callbacks_begin_anew(name: str, tmp_path: Path) -> None:
    # A schedule of accumulation has no number of steps that could be known beforehand.
    telling = name != "a schedule of accumulation"
    make, data = (Telling, lambda: None) if telling else (Plain, loader)
    compare(make, {"max_epochs": 4}, CALLBACKS[name], tmp_path, data)
    files = [sorted(path.name for path in tmp_path.glob(f"{kind}/*")) for kind in ("rounds", "by hand")]
    assert files[0] == files[1]
    assert (len(files[0]) >= 9) == (name == "checkpoints")


def test_early_stopping_ends_a_round_and_not_the_run() -> None:
    method, stopping = Tickets(ROUNDS), EarlyStopping("loss_epoch", patience=1, min_delta=10.0)
    running = silent(method, stopping, max_epochs=6)
    running.fit(Telling())
    assert len(method._ends) == ROUNDS + 1
    assert stopping.stopped_epoch == 1
    assert running.current_epoch == 2


@pytest.mark.parametrize("kind", ["loader with a generator", "loader in order", "persistent workers"])
def test_data_handed_to_fit_begins_anew(kind: str) -> None:
    def data() -> Any:
        if kind == "loader in order":
            return loader()
        workers = {"num_workers": 1, "persistent_workers": True} if kind == "persistent workers" else {}
        generator = torch.Generator().manual_seed(5)
        return DataLoader(samples(), batch_size=4, shuffle=True, generator=generator, **workers)

    compare(Plain, {}, data=data)


def test_state_in_a_module_of_ones_own_is_rewound() -> None:
    class Counting(Telling):
        def on_fit_start(self) -> None:
            self.seen += 100

        def on_fit_end(self) -> None:
            ends.append(self.seen)

    ends: list[int] = []
    compare(Counting, {})
    assert ends == [112] * (2 * (ROUNDS + 1))


def test_another_seed_a_round() -> None:
    method, module = Tickets(1, reseed=True), Telling()
    silent(method, max_epochs=2).fit(module)
    again = Telling()
    masks = {name: mask.clone() for name, mask in method.masks.items()}
    for name, parameter in again.named_parameters():
        if name in masks:
            parameter.data[~masks[name]] = 0
    running = silent(ByHand(masks), max_epochs=2)
    torch.manual_seed(100)
    running.fit(again)
    assert_same_bits(module, again)
    other = Telling()
    silent(Tickets(1), max_epochs=2).fit(other)
    assert_moved(state(other), module)


def test_another_method_begins_anew() -> None:
    class Remembering(Ascend):
        """Its direction depends on how many updates it has seen."""

        def __init__(self, rho: float = 0.5) -> None:
            super().__init__(rho)
            self._count = 0

        def look(self, step: Any) -> Any:
            self._count += 1
            self.rho = 0.1 * self._count
            return super().look(step)

    method, other, module = Tickets(1), Remembering(), Plain()
    silent(method, other).fit(module, loader())
    assert other._count == 6

    class Given(Method):
        name = "given"
        exclusive = frozenset({"masks"})

        def on_train_start(self, *_: Any) -> None:
            self.masks.set(masks)

    masks, ticket = dict(method.masks), Plain()
    silent(Given(), Remembering()).fit(ticket, loader())
    assert_same_bits(module, ticket)


def test_a_rounds_owner_that_wants_no_more_changes_nothing() -> None:
    plain, owned = Telling(), Telling()
    silent(max_epochs=2).fit(plain)
    silent(Tickets(0), max_epochs=2).fit(owned)
    assert_same_bits(plain, owned)


def test_two_fits_of_one_method() -> None:
    method, first, second = Tickets(1), Telling(), Telling()
    silent(method).fit(first)
    silent(method).fit(second)
    assert len(method._ends) == 4
    assert_same_bits(first, second)


def test_a_round_without_an_epoch_is_the_last() -> None:
    method = Tickets(3)
    silent(method, limit_train_batches=0).fit(Plain(), loader())
    silent(method, max_epochs=0).fit(Plain(), loader())
    assert method._ends == []


def test_a_learning_rate_finder_trains_outside_of_rounds(tmp_path: Path) -> None:
    class Tuned(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.lr = 0.1
            self.build_optimizer = lambda parameters: torch.optim.SGD(parameters, lr=self.lr)

    method = Tickets(1)
    finder = LearningRateFinder(num_training_steps=30, early_stop_threshold=None)
    finding = silent(method, finder, max_epochs=1, default_root_dir=tmp_path, enable_checkpointing=True)
    finding.fit(Tuned(), loader())
    assert len(method._ends) == 2


def test_a_module_that_steps_its_optimizers_itself() -> None:
    class Stepping(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer, loss = self.optimizers(), self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return loss

    compare(Stepping, {}, data=loader)


def test_time_is_counted_anew() -> None:
    timer, seen = Timer(duration={"hours": 1}), []

    class Looking(Callback):
        def on_train_start(self, running: Any, module: Any) -> None:
            seen.append((timer.end_time("train"), timer.time_elapsed("train") < 60))

    silent(timer, Looking(), Tickets(1)).fit(Telling())
    assert seen == [(None, True)] * 2


# -- late rewinding ----------------------------------------------------------------------------------------------------


@pytest.mark.private_api
@pytest.mark.parametrize("step", [3, 6, 8, "an epoch's end"])
@pytest.mark.parametrize("kind", [{}, {"val_check_interval": 2}], ids=["epochs", "validated within"])
def test_a_round_from_a_mark_is_a_fit_resumed_from_there(step: Any, kind: dict[str, Any], tmp_path: Path) -> None:
    """By hand: a checkpoint of the first round, with pruned weights and an empty optimizer, resumed by another fit."""
    settings = {"max_epochs": 3, **kind}
    by_step = isinstance(step, int)
    method = Tickets(ROUNDS, rewind_step=step if by_step else 0, rewind_epoch=0 if by_step else 1)
    module = Telling()

    def stopping() -> EarlyStopping:
        return EarlyStopping("loss_epoch", patience=8, check_on_train_epoch_end=True)

    silent(method, stopping(), **settings).fit(module)

    class Saving(Callback):
        def on_train_batch_end(self, running: Any, saved: Any, *_: Any) -> None:
            if running.global_step == step:
                running.save_checkpoint(tmp_path / "mark.ckpt")

        def on_train_epoch_end(self, running: Any, saved: Any) -> None:
            if running.current_epoch == 0 and not by_step:
                running.save_checkpoint(tmp_path / "mark.ckpt")

    dense = Telling()
    silent(ExactResume(), Saving(), stopping(), **settings).fit(dense)
    assert_same_bits(method._ends[0], dense)
    masks: dict[str, Tensor] = {}
    trained: LightningModule = dense
    for number in range(1, ROUNDS + 1):
        masks = smaller(trained, masks)
        saved = torch.load(tmp_path / "mark.ckpt", weights_only=True)
        for name, mask in masks.items():
            saved["state_dict"][name][~mask] = 0
        saved["optimizer_states"][0]["state"] = {}
        torch.save(saved, tmp_path / "ticket.ckpt")
        trained = Telling()
        resumed = silent(ExactResume(), ByHand(masks), stopping(), **settings)
        torch.manual_seed(99)
        resumed.fit(trained, ckpt_path=tmp_path / "ticket.ckpt")
        assert_same_bits(method._ends[number], trained)


def test_marks_in_the_wrong_place() -> None:
    class Early(Tickets):
        def on_train_start(self, *_: Any) -> None:
            self.attachment.rounds.mark()

    class Late(Tickets):
        def on_train_batch_end(self, *_: Any) -> None:
            if self.attachment.rounds.index == 1:
                self.attachment.rounds.mark()

    for method, where in ((Early(), "outside of these hooks"), (Late(), "in round 1")):
        with pytest.raises(StepError, match=rf"mark\(\) was called {where}. HINT: call it in the first round"):
            silent(method).fit(Telling())
    with pytest.raises(UnsupportedSettingError, match=r"ExactResume\(enabled=False\).*place in the data"):
        silent(Tickets(rewind_step=2), ExactResume(enabled=False)).fit(Telling())
    with pytest.raises(StepError, match="rounds were used while no fit is running"):
        _rounds_after_a_fit().mark()


def _rounds_after_a_fit() -> Any:
    method = Tickets()
    silent(method, max_epochs=0).fit(Plain(), loader())
    return method._rounds_of_fit


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["next_round", "on_train_batch_end", "on_fit_start"])
def test_a_failure_in_a_later_round_leaves_nothing_behind(error: type[BaseException], where: str) -> None:
    class Failing(Tickets):
        @implements
        def next_round(self, round: Round) -> None:
            super().next_round(round)
            if where == "next_round":
                raise error("now")

        def on_train_batch_end(self, *arguments: Any) -> None:
            super().on_train_batch_end(*arguments)
            if self.attachment.rounds.index == 1 and where == "on_train_batch_end":
                raise error("now")

        def on_fit_start(self, *arguments: Any) -> None:
            super().on_fit_start(*arguments)
            if self.attachment.rounds.index == 1 and where == "on_fit_start":
                raise error("now")

    running = silent(Failing(), TQDMProgressBar(refresh_rate=0), enable_progress_bar=True)
    bar = running.progress_bar_callback
    callbacks = list(running.callbacks)
    with pytest.raises((error, SystemExit)):
        running.fit(Telling())
    # The inserted method stays until the next fit, so that a checkpoint on the way out has its state.
    assert [one for one in running.callbacks if not isinstance(one, ExactResume)] == callbacks
    assert "get_metrics" not in vars(bar)
    assert "_run_stage" not in vars(running)
    assert not {"run", "setup_data"} & set(vars(running.fit_loop))
    assert not {"setup", "optimizer_step", "training_step"} & set(vars(running.strategy))


def test_a_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    running = silent(Tickets(1), logger=logger)
    callbacks = list(running.callbacks)
    running.fit(Telling())
    assert running.callbacks == callbacks
    assert "log_metrics" not in vars(logger)
    assert "_run_stage" not in vars(running)
    assert "setup" not in vars(running.strategy)


def test_who_may_own_rounds() -> None:
    class Also(Tickets):
        name = "also"
        exclusive = frozenset({"rounds"})

    class Asking(Method):
        name = "asking"

        @implements
        def another_round(self, round: Round) -> bool:
            return True

    with pytest.raises(CompositionError, match=r"Tickets and Also cannot be attached .* both own the rounds"):
        silent(Tickets(), Also()).fit(Telling())
    with pytest.raises(HookError, match=r"Asking implements another_round without owning the rounds. HINT: declare"):
        silent(Asking()).fit(Telling())
    method = Fixed()

    class Curious(Callback):
        def on_train_start(self, *_: Any) -> None:
            with pytest.raises(StepError, match="no attached method owns rounds"):
                _ = method.attachment.rounds

    silent(method, Curious()).fit(Classifier(), loader())


# -- what is shown -----------------------------------------------------------------------------------------------------


class Kept(Logger):
    """Keeps rows."""

    name = "kept"
    version = 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


def test_every_logged_row_says_its_round_and_steps_go_on(tmp_path: Path) -> None:
    logger, method = Kept(), Tickets(ROUNDS)
    silent(method, logger=logger, max_epochs=2, log_every_n_steps=1, default_root_dir=tmp_path).fit(Telling())
    steps = [step for step, _ in logger.rows]
    assert steps == sorted(steps)
    assert max(steps) == 12 * (ROUNDS + 1) - 1
    assert all("tickets/round" in row for _, row in logger.rows)
    for number in range(ROUNDS + 1):
        rows = [row for _, row in logger.rows if row["tickets/round"] == number]
        assert [row["epoch"] for row in rows if "val" in row] == [0, 1]
        assert len([row for row in rows if "loss_step" in row]) == 12
        remaining = [row.get("tickets/remaining") for row in rows]
        expected = [None, 0.7, 0.49][number]
        assert remaining == [pytest.approx(expected, abs=0.03) if expected else None] * len(rows)


def test_the_progress_bar_shows_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    class Bar(TQDMProgressBar):
        def get_metrics(self, running: Any, module: Any) -> dict[str, Any]:
            metrics = super().get_metrics(running, module)
            return {**metrics, "mine": 1}

        def on_train_epoch_end(self, running: Any, module: Any) -> None:
            super().on_train_epoch_end(running, module)
            shown.append(self.get_metrics(running, module))

    # Nothing is shown in a log; see tests/progress for real terminals.
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    silent(Tickets(1), Bar(), enable_progress_bar=True).fit(Telling())
    # Who owns these rounds has not said how many there will be.
    assert [metrics["round"] for metrics in shown] == ["0", "1"]
    assert all(metrics["mine"] == 1 and any(key.startswith("loss") for key in metrics) for metrics in shown)


def test_series_without_a_logger_have_the_round(tmp_path: Path) -> None:
    silent(Tickets(1), default_root_dir=tmp_path).fit(Telling())
    (scalars,) = tmp_path.glob("runs/*/scalars.csv")
    lines = [line.split(",") for line in scalars.read_text().splitlines()[1:]]
    assert [float(line[-1]) for line in lines if line[2] == "tickets/round"] == [0, 1]

"""What is read of Lightning's internals means what it is taken to mean; fails loudly where Lightning changes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader

from thunderstone.lightning_private import (
    RunningHook,
    another_combined_loader,
    average_models,
    epoch_results,
    forget_data,
    forget_train_loader,
    given_loaders,
    iterate_over,
    load_loop_progress,
    loader_states,
    logging_step,
    loop_progress,
    loops,
    make_idle,
    mode_iterator,
    monitoring_callbacks,
    new_result,
    prefixed,
    replace_run_stage,
    restore_loops,
    result_arguments,
    run_stage,
    running_hook,
    set_callback_metric,
    set_loader_states,
    steps_for_loggers,
    take_loader_states,
    watch_train_loader,
)

pytestmark = pytest.mark.private_api


class Kept(Logger):
    """Keeps what is logged, by key: the steps at which it was."""

    name = "kept"
    version = 0

    def __init__(self) -> None:
        self.steps: dict[str, list[int | None]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for key in metrics:
            self.steps.setdefault(key, []).append(step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Logging(LightningModule):
    """Logs in every hook that can, and notes what `logging_step` says there."""

    def __init__(self, automatic: bool) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.automatic_optimization = automatic
        self.noted: dict[str, list[int]] = {}

    def note(self, key: str) -> None:
        self.log(key, 1.0, batch_size=1)
        if not self.trainer.sanity_checking:
            self.noted.setdefault(key, []).append(logging_step(self.trainer))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.note("in_batch")
        loss = self.layer(batch).mean()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            # Two optimizer steps a batch: `global_step` counts both, the loggers' step one.
            for _ in range(2):
                optimizer.step()
        return loss

    def on_train_epoch_end(self) -> None:
        self.note("epoch_end")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        return None

    def on_validation_epoch_end(self) -> None:
        self.note("validation_end")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(5, 2))

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(1, 2))


def _trainer(root: Path, logger: Logger, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        default_root_dir=root,
        logger=logger,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("automatic", "settings"),
    [(True, {}), (False, {}), (True, {"val_check_interval": 2, "num_sanity_val_steps": 1})],
    ids=["automatic", "manual", "validation within the epoch"],
)
def test_logging_step_is_where_self_log_writes(automatic: bool, settings: dict[str, Any], tmp_path: Path) -> None:
    module, logger = Logging(automatic), Kept()
    _trainer(tmp_path, logger, max_epochs=3, **settings).fit(module)
    assert set(module.noted) == {"in_batch", "epoch_end", "validation_end"}
    assert {key: logger.steps[key] for key in module.noted} == module.noted
    assert module.noted["epoch_end"] == [4, 9, 14]


def test_logging_step_after_a_resume(tmp_path: Path) -> None:
    first = _trainer(tmp_path, Kept(), max_epochs=2)
    first.fit(Logging(True))
    first.save_checkpoint(tmp_path / "last.ckpt")
    module, logger = Logging(True), Kept()
    _trainer(tmp_path, logger, max_epochs=3).fit(module, ckpt_path=tmp_path / "last.ckpt")
    assert module.noted["in_batch"] == [10, 11, 12, 13, 14]
    assert {key: logger.steps[key] for key in module.noted} == module.noted


class Asking(Callback):
    """Notes which hook it is called in, as `running_hook` sees it from a function further down the stack."""

    def __init__(self) -> None:
        self.seen: list[RunningHook | None] = []

    def ask(self) -> None:
        self.seen.append(running_hook())

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        if arguments[-1] == 0:
            self.ask()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ask()


class Monitoring(Asking, Checkpoint):
    """Is one of those that Lightning calls last at the end of an epoch."""


def test_running_hook_knows_who_is_still_to_be_called(tmp_path: Path) -> None:
    first, second, last = Asking(), Asking(), Monitoring()
    module = Logging(True)
    trainer = _trainer(tmp_path, Kept(), max_epochs=1)
    trainer.callbacks += [first, second, last]
    trainer.fit(module)
    batch_end, epoch_end = first.seen
    assert batch_end is not None
    assert epoch_end is not None
    assert batch_end.name == "on_train_batch_end"
    assert (len(batch_end.arguments), batch_end.arguments[-1]) == (3, 0)
    assert [one for one in batch_end.pending if isinstance(one, Asking)] == [second, last]
    assert (batch_end.in_module, batch_end.monitoring) == (False, None)
    assert [one for one in epoch_end.pending if isinstance(one, Asking)] == [second]
    assert epoch_end.monitoring is False
    assert last.seen[-1] is not None
    assert (last.seen[-1].pending, last.seen[-1].monitoring) == ((), True)
    assert monitoring_callbacks(trainer) == [last]
    assert running_hook() is None


def test_running_hook_in_the_module(tmp_path: Path) -> None:
    class Asks(Logging):
        hooks: ClassVar[list[RunningHook | None]] = []

        def on_train_epoch_end(self) -> None:
            self.hooks.append(running_hook())

    _trainer(tmp_path, Kept(), max_epochs=1).fit(Asks(True))
    (hook,) = Asks.hooks
    assert hook is not None
    assert (hook.name, hook.in_module, hook.pending) == ("on_train_epoch_end", True, ())


def test_loop_progress_is_all_that_lightning_saves_of_its_counters(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, Kept(), max_epochs=2)
    trainer.fit(Logging(True))
    saved = {key: value for key, value in trainer.fit_loop.state_dict().items() if not key.endswith("state_dict")}

    def flat(state: dict[str, Any], loop: Any, prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in state.items():
            inner = getattr(loop, key)
            found |= flat(value, inner, f"{prefix}{key}.") if isinstance(inner, _Loop) else {f"{prefix}{key}": value}
        return found

    progress = loop_progress(trainer)
    assert flat(progress, trainer.fit_loop) == saved
    fresh = _trainer(tmp_path, Kept(), max_epochs=2)
    fresh.fit_loop.restarting = True
    load_loop_progress(fresh, progress)
    assert loop_progress(fresh) == progress
    assert not fresh.fit_loop.restarting
    assert not fresh.fit_loop.epoch_loop.val_loop.restarting
    assert (fresh.current_epoch, fresh.global_step) == (2, 10)


def test_the_training_loader_is_watched_before_its_first_iterator(tmp_path: Path) -> None:
    trainer, module, events = _trainer(tmp_path, Kept(), max_epochs=1), Logging(True), []
    asked = module.train_dataloader
    module.train_dataloader = lambda: events.append("asked") or asked()  # type: ignore[func-returns-value]
    undo = watch_train_loader(
        trainer,
        lambda: events.append("requested"),
        lambda loader: events.append("ready" if mode_iterator(loader) is None else "too late"),
    )
    before = set(vars(trainer.fit_loop)) - {"setup_data", "_load_combined_loader_states"}
    trainer.fit(module)
    assert events[:3] == ["requested", "asked", "ready"]
    assert events.count("ready") == 1
    undo()
    assert set(vars(trainer.fit_loop)) == before


def test_an_idle_loader_is_at_its_end_and_has_its_length() -> None:
    loader = CombinedLoader({"a": [1, 2], "b": [1, 2, 3]}, "max_size_cycle")
    make_idle(loader)
    assert len(loader) == 3
    with pytest.raises(StopIteration):
        next(loader)


def test_iterating_over_stand_ins_leaves_the_loader_as_it_was() -> None:
    loader = CombinedLoader([[1, 2], [3, 4]], "min_size")
    iterator = iterate_over(loader, [[5, 6], [7, 8]], lambda: iter(loader))
    assert loader.flattened == [[1, 2], [3, 4]]
    assert next(loader) == ([5, 7], 0, 0)
    assert iterator._idx == 1


def test_another_combined_loader_combines_in_the_same_way() -> None:
    loader = CombinedLoader({"a": [1, 2], "b": [1, 2, 3]}, "max_size")
    iter(loader)
    another = another_combined_loader(loader, [[5, 6], [7, 8, 9]])
    assert [batch for batch, _, _ in another] == [{"a": 5, "b": 7}, {"a": 6, "b": 8}, {"a": None, "b": 9}]
    assert next(loader)[0] == {"a": 1, "b": 1}
    assert loader.flattened == [[1, 2], [1, 2, 3]]


@pytest.mark.parametrize("arguments", [{}, {"reduce_fx": "max"}, {"reduce_fx": sum}, {"sync_dist": True}])
def test_a_new_result_passes_for_the_one_self_log_made(arguments: dict[str, Any], tmp_path: Path) -> None:
    class Logs(Logging):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("value", batch_idx, on_step=True, on_epoch=True, batch_size=1, **arguments)
            return self.layer(batch).mean()

    trainer = _trainer(tmp_path, Kept(), max_epochs=1)
    trainer.fit(Logs(True))
    result = epoch_results(trainer)["training_step.value"]
    plain = result_arguments(result)
    assert plain is not None
    again = new_result(trainer, plain)
    # Lightning refuses a second log of a name whose metadata is not equal.
    assert again.meta == result.meta
    assert again.metric_state.keys() == result.metric_state.keys()
    assert result_arguments(again) == plain


@pytest.mark.parametrize("asks", [False, True])
def test_a_forgotten_train_loader_is_asked_for_again(asks: bool) -> None:
    class Module(Logging):
        requests = 0

        def train_dataloader(self) -> DataLoader[Tensor]:
            self.requests += 1
            return DataLoader(torch.ones(4, 2), batch_size=2)

        def configure_optimizers(self) -> Any:
            if asks:
                assert self.trainer.estimated_stepping_batches == 2
            return super().configure_optimizers()

    class Forgetting(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert forget_train_loader(trainer) is asks

    module = Module(automatic=True)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Forgetting()],
    )  # fmt: skip
    trainer.fit(module)
    assert module.requests == 1 + asks
    assert trainer.global_step == 2


# -- rounds ------------------------------------------------------------------------------------------------------------


class Counted:
    """A loader with a state."""

    def __init__(self) -> None:
        self.given = 0

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(3):
            self.given += 1
            yield torch.ones(1, 2)

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.given = state["given"]


def test_what_a_fit_does_can_be_done_twice(tmp_path: Path) -> None:
    module, logger = Logging(True), Kept()
    trainer = _trainer(tmp_path, logger, max_epochs=2, num_sanity_val_steps=1)
    seen: list[tuple[int, int, int]] = []
    asked: list[int] = []

    class Counting(Callback):
        def on_train_start(self, running: Trainer, pl_module: LightningModule) -> None:
            seen.append((running.current_epoch, running.global_step, steps_for_loggers(running)))

    def twice() -> None:
        state = loops(trainer)
        run_stage(trainer)
        assert trainer.callback_metrics
        forget_data(trainer)
        assert not trainer.callback_metrics
        assert not epoch_results(trainer)
        restore_loops(trainer, state)
        assert loops(trainer) == state
        trainer.strategy.setup_optimizers(trainer)
        run_stage(trainer)

    def train_dataloader() -> DataLoader[Tensor]:
        asked.append(trainer.current_epoch)
        return DataLoader(torch.ones(5, 2))

    module.train_dataloader = train_dataloader  # type: ignore[method-assign]
    trainer.callbacks.append(Counting())
    undo = replace_run_stage(trainer, twice)
    trainer.fit(module)
    undo()
    assert "_run_stage" not in vars(trainer)
    assert seen == [(0, 0, 0), (0, 0, 10)]
    assert asked == [0, 0]
    assert module.noted["in_batch"] == list(range(20))
    assert {key: logger.steps[key] for key in module.noted} == module.noted
    assert (trainer.current_epoch, trainer.global_step) == (2, 10)


class Monitored(LightningModule):
    """Logs the mean of 0, 1 and 2 over each epoch, and puts the step beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("own", float(batch_idx), on_step=False, on_epoch=True, batch_size=1)
        set_callback_metric(self.trainer, "put", torch.tensor(float(self.trainer.global_step)))
        return self.layer(batch).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        set_callback_metric(self.trainer, "validated", torch.tensor(1.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_metric_that_is_put_where_callbacks_look_leaves_the_others_alone(tmp_path: Path) -> None:
    found: list[dict[str, float]] = []

    class Looking(Callback):
        def on_train_start(self, running: Trainer, pl_module: LightningModule) -> None:
            found.append({key: float(value) for key, value in running.callback_metrics.items()})

        def on_train_epoch_end(self, running: Trainer, pl_module: LightningModule) -> None:
            self.on_train_start(running, pl_module)

    stopping = EarlyStopping("put", mode="min", patience=1, check_on_train_epoch_end=True)
    logger = Kept()
    trainer = _trainer(tmp_path, logger, max_epochs=9, num_sanity_val_steps=1, limit_val_batches=1)
    trainer.callbacks.extend([Looking(), stopping])
    trainer.fit(Monitored(), DataLoader(torch.ones(3, 2)), DataLoader(torch.ones(1, 2)))
    # Nothing of the sanity check is left; the epoch's mean is that of all its batches.
    assert found == [{}, {"put": 2, "validated": 1, "own": 1}, {"put": 5, "validated": 1, "own": 1}]
    assert (stopping.stopped_epoch, float(stopping.best_score)) == (1, 2)
    assert set(logger.steps) == {"own", "epoch"}, "loggers are told elsewhere"


def test_loaders_that_were_handed_over_and_their_states(tmp_path: Path) -> None:
    found: list[Any] = []

    class Looking(Callback):
        def on_train_epoch_end(self, running: Trainer, pl_module: LightningModule) -> None:
            found.append((given_loaders(running), loader_states(running)))

    loader = Counted()
    trainer = _trainer(tmp_path, Kept(), max_epochs=1)
    trainer.callbacks.append(Looking())
    trainer.fit(Logging(True), loader, DataLoader(torch.ones(1, 2)))
    assert found == [([loader], [{"given": 3}])]
    set_loader_states(trainer, [{"given": 2}])
    assert take_loader_states(trainer) == [{"given": 2}]
    trainer = _trainer(tmp_path, Kept(), max_epochs=1)
    trainer.callbacks.append(Looking())
    trainer.fit(Logging(True))
    assert found[-1] == ([], [])


def test_the_averages_of_lightnings_callbacks(tmp_path: Path) -> None:
    found: list[Any] = []

    class Looking(Callback):
        def on_train_start(self, running: Trainer, pl_module: LightningModule) -> None:
            names = [name for name, _ in pl_module.named_parameters()]
            averages = average_models(running)
            found.append([[name for name, _ in average.named_parameters()] == names for average in averages])

    trainer = _trainer(tmp_path, Kept(), max_epochs=1)
    trainer.callbacks += [StochasticWeightAveraging(0.1, swa_epoch_start=1), Looking()]
    averaging = getattr(lightning.pytorch.callbacks, "WeightAveraging", None)  # of Lightning 2.6 and later
    trainer.callbacks += [averaging()] if averaging is not None else []
    trainer.fit(Logging(True))
    assert found == [[True] * (2 if averaging is not None else 1)]


@pytest.mark.parametrize("prefix", ["", "trial"])
def test_a_metric_is_named_as_its_logger_writes_it(prefix: str, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, prefix=prefix)
    logger.log_metrics({"m/x": 1.0}, step=0)
    assert logger.experiment.metrics == [{prefixed(logger, "m/x"): 1.0, "step": 0}]

"""Logs, metrics and progress count once, however often a batch is gone through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchmetrics
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from stateful_modules import Inner
from tiny_training import CLASSES, Again, Ascend, Classifier, fit, loader, plain_sgd
from torch import Tensor, nn


class ListLogger(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.own: list[float] = []

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 0

    @property
    def experiment(self) -> ListLogger:
        return self

    def write(self, value: float) -> None:
        """A call of the tracker's own interface, past Lightning."""
        self.own.append(value)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        self.metrics.append((None, {"hyperparameters": 1.0}))


class Loud(Classifier):
    """Logs in every style there is."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=CLASSES)
        self.collection = torchmetrics.MetricCollection(
            {"recall": torchmetrics.Recall(task="multiclass", num_classes=CLASSES)}, prefix="train_"
        )
        self.inner = Inner()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        logits = self(batch[0]) + 0.1 * self.inner(batch[0])
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy(logits, batch[1])
        self.collection(logits, batch[1])
        self.log("both", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("sum", torch.ones(()), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx="max")
        self.log_dict({"a": loss, "b": float(batch_idx)}, on_step=True)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict(self.collection, on_step=False, on_epoch=True)
        self.logger.log_metrics({"direct": loss.item()}, step=batch_idx)
        self.loggers[0].experiment.write(loss.item())
        self.trainer.logger.experiment.write(-loss.item())
        return {"loss": loss, "logits": logits.detach()}


def test_every_style_of_logging_reports_one_pass() -> None:
    plain, watched = ListLogger(), ListLogger()
    settings = {"log_every_n_steps": 1, "max_epochs": 2, "accumulate_grad_batches": 2}
    plain_trainer = fit(Loud(), logger=plain, **settings)
    watched_trainer = fit(Loud(), Again(), logger=watched, **settings)
    keys = {key for _, metrics in plain.metrics for key in metrics}
    assert {"both_step", "both_epoch", "sum", "largest", "accuracy_step", "train_recall", "direct", "b"} <= keys
    # The method's own configuration is written once, before the first step.
    assert watched.metrics == [(None, {"hyperparameters": 1.0}), *plain.metrics]
    assert watched.own == plain.own
    assert len(watched.own) == 2 * 12
    assert watched_trainer.callback_metrics == plain_trainer.callback_metrics
    assert watched_trainer.logged_metrics == plain_trainer.logged_metrics
    assert watched_trainer.progress_bar_metrics == plain_trainer.progress_bar_metrics
    assert watched_trainer.callback_metrics["sum"] == 6


def test_values_are_those_of_the_first_pass() -> None:
    """With weights that stand still and perturbations that do not, what is logged is what a plain run logs."""

    class Still(Loud):
        def __init__(self) -> None:
            super().__init__(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))

    runs = []
    for callbacks in ((), (Ascend(rho=3.0),)):
        logger = ListLogger()
        fitted = fit(Still(), *callbacks, logger=logger, log_every_n_steps=1)
        steps = [entry for entry in logger.metrics if entry[0] is not None]
        runs.append((steps, logger.own, dict(fitted.callback_metrics)))
    assert runs[0] == runs[1]


def test_a_log_function_of_ones_own_is_put_back() -> None:
    module = Loud()
    calls: list[str] = []
    original = module.log

    def log(name: str, *arguments: Any, **keywords: Any) -> None:
        calls.append(name)
        original(name, *arguments, **keywords)

    module.log = log
    fit(module, Ascend(), logger=ListLogger())
    assert module.log is log
    assert calls.count("both") == 6
    assert "log" not in vars(module.inner)


def test_printed_lines_appear_once(capsys: pytest.CaptureFixture[str]) -> None:
    class Chatty(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.print(f"batch {batch_idx}")
            return self.loss(batch)

    fit(Chatty(), Ascend())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch ")]
    assert lines == [f"batch {number}" for number in range(6)]


def test_progress_counters_count_one_pass() -> None:
    def counters(fitted: Trainer) -> dict[str, Any]:
        loop = fitted.fit_loop.epoch_loop
        return {
            "batches": loop.batch_progress.state_dict(),
            "optimizer": loop.automatic_optimization.optim_progress.state_dict(),
            "scheduler": loop.scheduler_progress.state_dict(),
            "step": (fitted.global_step, fitted.current_epoch, fitted.num_training_batches),
        }

    runs = [counters(fit(Classifier(), *c, accumulate_grad_batches=2, max_epochs=2)) for c in ((), (Ascend(),))]
    assert runs[0] == runs[1]
    assert runs[0]["step"] == (6, 2, 6)


def test_checkpoints_and_early_stopping_follow_the_logged_values(tmp_path: Any) -> None:
    class Validated(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val", self.loss(batch))

    paths, stops = [], []
    for number, callbacks in enumerate(((), (Again(),))):
        checkpoint = ModelCheckpoint(tmp_path / str(number), monitor="val", filename="{epoch}-{val:.6f}")
        stopping = EarlyStopping("val", patience=1, min_delta=0.05)
        module = Validated(optimizer=plain_sgd)
        torch.manual_seed(3)
        fitted = Trainer(
            callbacks=[*callbacks, checkpoint, stopping],
            logger=False,
            accelerator="cpu",
            max_epochs=6,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        fitted.fit(module, loader(), loader(8, seed=5))
        paths.append(checkpoint.best_model_path.rpartition("/")[2])
        stops.append((stopping.stopped_epoch, stopping.best_score))
    assert paths[0] == paths[1]
    assert paths[0].endswith(".ckpt")
    assert stops[0] == stops[1]


@pytest.mark.parametrize("callbacks", [(), (Again(),)], ids=["plain", "watched"])
def test_files_of_a_logger_hold_one_row_a_step(callbacks: tuple[Callback, ...], tmp_path: Any) -> None:
    class Simple(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            self.log("loss", loss)
            return loss

    logger = CSVLogger(tmp_path)
    fit(Simple(), *callbacks, logger=logger, log_every_n_steps=1)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",")[-1] == "step"
    assert [row.rpartition(",")[2] for row in rows[1:]] == [str(step) for step in range(6)]


def test_a_request_to_stop_made_in_a_second_pass_is_not_heard() -> None:
    """The loss at perturbed weights is nobody's to judge a run by."""

    class Stopping(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            moved = not torch.equal(self.net[0].weight, self.before)
            if moved:
                self.trainer.should_stop = True
            return self.loss(batch)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.before = self.net[0].weight.detach().clone()

    assert fit(Stopping(), Ascend(), max_epochs=2).global_step == 12

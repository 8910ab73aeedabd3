"""Rules 4 and 5 where training pauses to validate: what a method has done for that is undone, and is not lost."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from thunderstone.attachment.method import Method
from thunderstone.testing.bench import Bench
from thunderstone.testing.checks.cleanup import Interruption, require_clean
from thunderstone.testing.comparison import require_same
from thunderstone.testing.observer import parameters_of
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.training import SEED, final_state, make_trainer, seed, train
from thunderstone.testing.zoo import Case


class _SaveAfterValidation(Checkpoint):
    """Writes a checkpoint after the first validation, when ModelCheckpoint does. A Checkpoint, so that it is last."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.trained: dict[str, Tensor] = {}
        self.written: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not self.written:
            self.trained = parameters_of(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.written:
            self.written = parameters_of(pl_module)
            trainer.save_checkpoint(self._path)


def _validating(bench: Bench) -> Case:
    case = bench.leading("validation")
    if case.validation is None:
        raise CheckSkipped(f"the module {case.name!r} has no validation data")
    return case


def _fit(case: Case, method: Method, folder: str, others: list[Any], checkpoint: Path | None) -> dict[str, Any]:
    # Whoever resumes has no reason to draw the same weights and numbers as the run it continues.
    offset = 0 if checkpoint is None else 1000
    seed(SEED + offset)
    module = case.module()
    trainer = make_trainer(folder, [method, *others], logger=False, enable_checkpointing=bool(others))
    seed(SEED + 1 + offset)
    trainer.fit(module, case.loader(), case.validation() if case.validation else None, ckpt_path=checkpoint)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**final_state(trainer, module), "method": method.state_dict(), "metrics": metrics}


@check(rule=4)
def check_resumes_after_validation(bench: Bench) -> None:
    """A checkpoint written after a validation holds the trained weights; from it, the same bits and metrics."""
    case = _validating(bench)
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
        path = Path(folder) / "validated.ckpt"
        saver = _SaveAfterValidation(path)
        whole = _fit(case, bench.method(case), folder, [saver], None)
        if not path.exists():
            raise CheckFailure(f"[{case.name}] training ended before the first validation")
        resumed = _fit(case, bench.method(case), folder, [], path)
    where = f"{case.name}, a checkpoint after the first validation"
    hint = "weights that stand in for validation are gone by on_validation_end"
    require_same(where, "its weights against those after the last update", saver.trained, saver.written, hint)
    hint = "what the next steps and validations depend on is in state_dict"
    require_same(where, "the resumed run against the uninterrupted", whole, resumed, hint)


def _failing(module: LightningModule) -> None:
    cls = type(module)

    def validation_step(self: LightningModule, *arguments: Any, **keywords: Any) -> Any:
        raise Interruption("raised on purpose, to see what a method leaves behind")

    module.__class__ = type(cls.__name__, (cls,), {"validation_step": validation_step, "__module__": cls.__module__})


@check(rule=5)
def check_clean_after_exception_in_validation(bench: Bench) -> None:
    """An exception in validation comes out as it is; nothing is left and the weights are those that were trained."""
    case = _validating(bench)
    where = f"{case.name}, after {Interruption.__name__} in validation"
    plain = train(case, [], prepare=_failing, expect=(Interruption,))
    run = bench.train(case, [bench.method(case)], prepare=_failing, expect=(Interruption,))
    if run.error is None:
        raise CheckFailure(f"[{where}] the exception never came out of fit")
    require_clean(where, plain, run)
    current = dict(run.module.named_parameters())
    require_same(where, "the weights against those after the last update", run.observer.weights, current)

"""Two methods on one Trainer: do they train, in either order, and resume exactly, or are they refused?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from thunderstone.attachment.method import Method
from thunderstone.errors import CompositionError
from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import require_same, same
from thunderstone.testing.outcome import CheckFailure
from thunderstone.testing.subject import Subject
from thunderstone.testing.training import SEED, apart, final_state, make_trainer, seed
from thunderstone.testing.zoo import Case

SAVED_AFTER = 9
"""Number of the batch after which the checkpoint is written: in the second epoch of seven batches."""
_BRIEF = {"max_epochs": 2, "limit_train_batches": 2}


@dataclass(frozen=True)
class Together:
    """What became of two methods on one Trainer.

    Attributes:
        result: ``"train"``; ``"refused"`` before the first update; ``"untried"`` where one of them does not even train
            alone on a module that suits the other; ``"broken"``.
        case: Name of the module they were tried on.
        reason: Why, unless they train.
        resource: What both own, where they are refused.
        order_matters: They train to other weights with the second attached first.
    """

    result: Literal["train", "refused", "untried", "broken"]
    case: str
    reason: str = ""
    resource: str = ""
    order_matters: bool = False


def together(first: Subject, second: Subject, *, brief: bool = False) -> Together:
    """Train with two methods attached, in either order, and resume from the middle.

    Where the order makes a difference, both orders are resumed.

    Args:
        first: One method.
        second: The other.
        brief: Two batches an epoch, and nothing is resumed.
    """
    case = _common_case(first, second)
    with apart():
        for subject in (first, second):
            failure = _alone(subject, case)
            if failure:
                return Together("untried", case.name, f"{subject.name} alone: {failure}")
        try:
            return _tried(case, first, second, brief)
        except CheckFailure as failure:
            return Together("broken", case.name, str(failure))


def _tried(case: Case, first: Subject, second: Subject, brief: bool) -> Together:
    runs = [_run(case, order, brief) for order in ((first, second), (second, first))]
    refusals = [run for run in runs if isinstance(run, CompositionError)]
    if len(refusals) == 1:
        raise CheckFailure(f"it is refused in one order and not in the other: {refusals[0]}")
    if refusals:
        return Together("refused", case.name, str(refusals[0]), refusals[0].resource)
    weights = [run["weights"] for run in runs if isinstance(run, dict)]
    matters = not same(*weights)
    if not brief:
        for order in ((first, second), (second, first))[: 1 + matters]:
            _require_resumable(case, order)
    return Together("train", case.name, order_matters=matters)


def _common_case(first: Subject, second: Subject) -> Case:
    for subject in (first, second):
        # A method that brings its own module has no use for others.
        if subject.cases:
            return subject.cases[0]
    offered = {case.name for case in Bench(second).cases()}
    return next((case for case in Bench(first).cases() if case.name in offered), Bench(first).cases()[0])


def _alone(subject: Subject, case: Case) -> str:
    """Why a method does not train a module by itself; empty when it does."""
    known: dict[Case, str] = vars(subject).setdefault("_alone_on", {})
    if case not in known:
        try:
            _run(case, [subject], brief=True)
        except CheckFailure as failure:
            known[case] = str(failure)
        else:
            known[case] = ""
    return known[case]


def _methods(subjects: Sequence[Subject], case: Case) -> list[Method]:
    try:
        return [Bench(subject).method(case) for subject in subjects]
    except Exception as error:
        raise CheckFailure(f"{type(error).__name__}: {error}") from error


def _run(case: Case, subjects: Sequence[Subject], brief: bool) -> dict[str, Any] | CompositionError:
    """What a run ends with, or how it was refused.

    Raises:
        CheckFailure: It failed in any other way.
    """
    methods = _methods(subjects, case)
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
        return _fit(case, methods, folder, [], None, **(_BRIEF if brief else {}))


def _fit(
    case: Case, methods: Sequence[Method], folder: str, others: Sequence[Any], checkpoint: Path | None, **settings: Any
) -> dict[str, Any] | CompositionError:
    labels = [type(method).__name__ for method in methods]
    # A process that resumes has no reason to draw the same numbers as the one it continues.
    offset = 0 if checkpoint is None else 1000
    seed(SEED + offset)
    module, loader = case.module(), case.loader()
    trainer = None
    try:
        trainer = make_trainer(folder, [*methods, *others], logger=False, enable_checkpointing=bool(others), **settings)
        seed(SEED + 1 + offset)
        trainer.fit(module, loader, ckpt_path=checkpoint)
    except CompositionError as error:
        _require_proper(error, labels, trainer)
        return error
    except Exception as error:
        raise CheckFailure(f"{type(error).__name__}: {error}") from error
    for name, parameter in module.named_parameters():
        if not parameter.isfinite().all():
            raise CheckFailure(f"{name} is trained to values that are not finite")
    return {
        **final_state(trainer, module),
        # Not by class: two methods on one Trainer may be of one.
        **{method.state_key: method.state_dict() for method in methods},
    }


def _require_proper(error: CompositionError, labels: Sequence[str], trainer: Any) -> None:
    if trainer is not None and trainer.global_step:
        raise CheckFailure(f"it is refused only after {trainer.global_step} updates: {error}") from error
    missing = [label for label in labels if label not in str(error)]
    if missing:
        raise CheckFailure(f"it is refused without naming {' and '.join(missing)}: {error}") from error


def _require_resumable(case: Case, subjects: Sequence[Subject]) -> None:
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
        path = Path(folder) / "middle.ckpt"
        whole = _fit(case, _methods(subjects, case), folder, [_Save(path)], None)
        if not path.exists():
            raise CheckFailure(f"training ended before batch {SAVED_AFTER}, from which it was to be resumed")
        resumed = _fit(case, _methods(subjects, case), folder, [], path)
    names = " before ".join(subject.name for subject in subjects)
    require_same(f"{case.name}, {names}", "the resumed run against the uninterrupted", whole, resumed)


class _Save(Checkpoint):
    """Writes one checkpoint. A Checkpoint, so that it is called last."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._batches = path, 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._batches += 1
        if self._batches == SAVED_AFTER:
            trainer.save_checkpoint(self._path)

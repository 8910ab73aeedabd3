"""Rule 5: it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule

from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import require_same
from thunderstone.testing.leftovers import traces
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.training import Run, train

_FAILS_AT = 9
"""Number of the failing call of training_step among first passes: in the second epoch."""


class Interruption(Exception):
    """Raised by a module of the zoo; no method raises it by itself."""


def _failing(kind: type[BaseException], second_pass: bool, reached: list[bool]) -> Callable[[LightningModule], None]:
    """Make a module's training_step raise in its `_FAILS_AT`-th batch, in the first pass or in the second."""

    def prepare(module: LightningModule) -> None:
        original = type(module).training_step
        # Out of the module's reach: what it held would be put back with its statistics.
        seen: list[tuple[int, int]] = []

        def training_step(self: LightningModule, batch: Any, batch_idx: int) -> Any:
            position = (self.current_epoch, batch_idx)
            again = position in seen
            if not again:
                seen.append(position)
            if len(seen) >= _FAILS_AT and again == second_pass:
                reached.append(True)
                raise kind("raised on purpose, to see what a method leaves behind")
            return original(self, batch, batch_idx)

        cls = type(module)
        module.__class__ = type(cls.__name__, (cls,), {"training_step": training_step, "__module__": cls.__module__})

    return prepare


def require_clean(where: str, plain: Run, run: Run) -> None:
    """Refuse what a run has left behind that one without a method has not."""
    left = sorted(traces(run) - traces(plain))
    if left:
        more = f"; and {len(left) - 6} more" if len(left) > 6 else ""
        raise CheckFailure(f"[{where}] left behind: {'; '.join(left[:6])}{more}")
    before, after = run.process_before, run.process_after
    patched = [name for name, identity in before["functions"].items() if after["functions"].get(name) != identity]
    if patched:
        raise CheckFailure(f"[{where}] left patched: {', '.join(patched)}")
    require_same(where, "a setting of the process", before["settings"], after["settings"])


@check(rule=5)
def check_clean_after_fit(bench: Bench) -> None:
    """After fit no patch, hook or attribute is left, and trainer.callbacks is as it was."""
    for case in bench.cases():
        run = bench.default(case)
        require_clean(f"{case.name}, after fit", bench.plain(case), run)
        if [id(c) for c in run.trainer.callbacks] != [id(c) for c in run.callbacks_before]:
            raise CheckFailure(
                f"[{case.name}, after fit] trainer.callbacks was {_names(run.callbacks_before)} and is "
                f"{_names(run.trainer.callbacks)}"
            )


def _names(callbacks: list[Any]) -> str:
    return ", ".join(type(callback).__name__ for callback in callbacks)


def _after_failure(bench: Bench, kind: type[BaseException], second_pass: bool) -> None:
    case = bench.case("mlp")
    # Lightning turns KeyboardInterrupt into SystemExit once everything is taken down.
    expect = (kind, SystemExit)
    place = "second" if second_pass else "first"
    where = f"{case.name}, after {kind.__name__.strip('_')} in the {place} pass"
    reached: list[bool] = []
    plain = train(case, [], prepare=_failing(kind, False, []), expect=expect)
    run = train(case, [bench.method(case)], prepare=_failing(kind, second_pass, reached), expect=expect)
    if not reached:
        if second_pass:
            raise CheckSkipped(f"{bench.label} makes no second pass")
        raise CheckFailure(f"[{where}] training_step was not called {_FAILS_AT} times")
    if run.error is None:
        raise CheckFailure(f"[{where}] the exception never came out of fit")
    if type(run.error) is not type(plain.error):
        raise CheckFailure(f"[{where}] fit raised {run.error!r} instead of {plain.error!r}")
    require_clean(where, plain, run)
    current = dict(run.module.named_parameters())
    require_same(where, "the weights against those after the last update", run.observer.weights, current)


@check(rule=5)
def check_clean_after_exception(bench: Bench) -> None:
    """An exception in training_step comes out as it is; nothing is left and no weight is perturbed."""
    _after_failure(bench, Interruption, second_pass=False)


@check(rule=5)
def check_clean_after_exception_in_second_pass(bench: Bench) -> None:
    """The same for an exception in a second pass of a method that makes one."""
    _after_failure(bench, Interruption, second_pass=True)


@check(rule=5)
def check_clean_after_keyboard_interrupt(bench: Bench) -> None:
    """After Ctrl-C nothing is left and no weight is perturbed."""
    _after_failure(bench, KeyboardInterrupt, second_pass=False)


@check(rule=5)
def check_clean_after_keyboard_interrupt_in_second_pass(bench: Bench) -> None:
    """The same for Ctrl-C in a second pass of a method that makes one."""
    _after_failure(bench, KeyboardInterrupt, second_pass=True)

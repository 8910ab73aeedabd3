"""Rule 7: it runs where the Trainer runs."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from thunderstone.testing.bench import Bench
from thunderstone.testing.comparison import flatten, require_same, same
from thunderstone.testing.outcome import CheckFailure, CheckSkipped, check
from thunderstone.testing.processes import run_ranks
from thunderstone.testing.settings import CLIP_NORM, CLIP_VALUE, PLAIN, SETTINGS
from thunderstone.testing.training import Run, make_trainer, seed
from thunderstone.testing.zoo import CASES

_ROUNDING = 1e-3


def _trains(bench: Bench, setting: str, *cases: str) -> Run:
    """Train under a setting; the run is sound and makes as many updates as without the method."""
    case = bench.case(*cases)
    where = f"{case.name}, {setting}"
    run, plain = bench.default(case, SETTINGS[setting]), bench.plain(case, SETTINGS[setting])
    for name, value in flatten(run.state["weights"]).items():
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckFailure(f"[{where}] {name} is not finite after training")
        if value.dtype != plain.state["weights"][name].dtype:
            raise CheckFailure(f"[{where}] {name} became {value.dtype}")
    if all(torch.equal(value, run.observer.weights[name]) for name, value in run.observer.initial.items()):
        raise CheckFailure(f"[{where}] training leaves every parameter where it was")
    require_same(where, "progress", plain.state["progress"], run.state["progress"])
    return run


@check(rule=7)
def check_runs_in_bf16_mixed(bench: Bench) -> None:
    """Trains with precision="bf16-mixed"."""
    _trains(bench, "bf16-mixed", "mlp")


@check(rule=7)
def check_runs_in_16_mixed(bench: Bench) -> None:
    """Trains with precision="16-mixed", a GradScaler included."""
    _trains(bench, "16-mixed", "mlp")


@check(rule=7)
def check_runs_in_64_true(bench: Bench) -> None:
    """Trains with precision="64-true", and weights stay in float64."""
    _trains(bench, "64-true", "mlp")


@check(rule=7)
def check_runs_with_accumulation(bench: Bench) -> None:
    """Trains with accumulate_grad_batches=3 and a last window of one micro-batch."""
    _trains(bench, "accumulate_grad_batches=3", "mlp")


@check(rule=7)
def check_runs_with_clipping(bench: Bench) -> None:
    """The gradients the optimizer sees are clipped, by norm and by value."""
    run = _trains(bench, "gradient_clip_val by norm", "mlp")
    if (largest := max(run.observer.gradient_norms, default=0.0)) > CLIP_NORM * (1 + _ROUNDING):
        raise CheckFailure(f"the optimizer sees gradients of norm {largest:.4g} under gradient_clip_val={CLIP_NORM}")
    run = _trains(bench, "gradient_clip_val by value", "mlp")
    if (largest := max(run.observer.gradient_maxima, default=0.0)) > CLIP_VALUE * (1 + _ROUNDING):
        raise CheckFailure(f"the optimizer sees a gradient of {largest:.4g} under clipping by value at {CLIP_VALUE}")


@check(rule=7)
def check_runs_with_parameter_groups(bench: Bench) -> None:
    """Several parameter groups train; frozen weights and those no loss reaches keep their bits."""
    case = CASES["groups"]
    if case not in bench.cases():
        raise CheckSkipped("the subject's zoo has no module with parameter groups")
    run = bench.default(case)
    plain = bench.plain(case)
    for name, before in run.observer.initial.items():
        unmoved = torch.equal(before, plain.observer.weights[name])
        if unmoved and not torch.equal(before, run.observer.weights[name]):
            raise CheckFailure(f"[groups] {name} is moved, which training without the method leaves alone")
        if not unmoved and torch.equal(before, run.observer.weights[name]):
            raise CheckFailure(f"[groups] {name} is not trained")


@check(rule=7)
def check_runs_compiled(bench: Bench) -> None:
    """Trains a module that went through torch.compile."""
    _trains(bench, "torch.compile", "mlp")


@check(rule=7)
def check_runs_fast_dev_run(bench: Bench) -> None:
    """Trains under fast_dev_run."""
    _trains(bench, "fast_dev_run", "mlp")


@check(rule=7)
def check_runs_without_logger(bench: Bench) -> None:
    """Without a logger training is the same to the last bit."""
    case = bench.case("metrics")
    run = _trains(bench, "no logger", case.name)
    require_same(case.name, "training without a logger", bench.default(case).state, run.state)


@check(rule=7)
def check_ignores_sanity_checking(bench: Bench) -> None:
    """Lightning's validation before training changes nothing."""
    case = bench.leading("validation before training")
    run = _trains(bench, "sanity checking", "mlp")
    require_same(case.name, "training after a sanity check", bench.default(case).state, run.state)


@check(rule=7)
def check_ignores_evaluation(bench: Bench) -> None:
    """validate, test and predict without a fit give what they give without the method."""
    results: list[dict[str, Any]] = []
    # Without a fit any module will do, and the zoo's has every step.
    case = bench.leading("evaluation") if bench.subject.cases else CASES["mlp"]
    loader = case.validation
    if loader is None:
        raise CheckSkipped(f"the module {case.name!r} has no validation data")
    for callbacks in ([], [bench.method(case)]):
        seed()
        module = case.module()
        with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
            trainer = make_trainer(folder, callbacks, logger=False, enable_checkpointing=False)
            results.append(
                {
                    "validate": trainer.validate(module, loader(), verbose=False),
                    "test": trainer.test(module, loader(), verbose=False),
                    "predict": trainer.predict(module, loader()),
                    "weights": module.state_dict(),
                    "training mode": module.training,
                }
            )
    require_same(case.name, "evaluation", results[0], results[1])


@check(rule=7)
def check_runs_a_second_fit(bench: Bench) -> None:
    """One instance trains again: further on the same Trainer, and on a new one as if it were new."""
    case = bench.case("mlp")
    method = bench.method(case)
    first = bench.train(case, [method])
    again = bench.train(case, [method])
    require_same(case.name, "a second fit with the same instance against a first", first.state, again.state)
    with tempfile.TemporaryDirectory(prefix="thunderstone-") as folder:
        seed()
        module, loader = case.module(), case.loader()
        trainer = make_trainer(folder, [method], logger=False, enable_checkpointing=False, max_epochs=1)
        trainer.fit(module, loader)
        before = {name: value.detach().clone() for name, value in module.named_parameters()}
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, loader)
        if same(before, dict(module.named_parameters())):
            raise CheckFailure(f"[{case.name}] a second fit on the same Trainer does not train")


@check(rule=7)
def check_runs_under_ddp(bench: Bench) -> None:
    """Two processes train (gloo), and their replicas are equal to the last bit at the end."""
    case = bench.case("mlp")
    results = run_ranks(bench, case, world_size=2)
    require_same(f"{case.name}, 2 processes", "rank 1 against rank 0", results[0]["weights"], results[1]["weights"])
    # Not the method's own state: a method may gather it on rank 0, from where a checkpoint is written.
    require_same(f"{case.name}, 2 processes", "rank 1's optimizer", results[0]["optimizer"], results[1]["optimizer"])
    if all(torch.equal(value, results[0]["weights"][name]) for name, value in results[0]["initial"].items()):
        raise CheckFailure(f"[{case.name}, {PLAIN.name}] training in two processes leaves every parameter where it was")

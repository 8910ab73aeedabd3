"""Every check can fail: for each there is a method with one thing wrong, and the message says which."""

from __future__ import annotations

from collections.abc import Iterator

import broken_arguments as arguments
import broken_cleanup as cleanup
import broken_company as company
import broken_counting as counting
import broken_evaluating as evaluating
import broken_reporting as reporting
import broken_results as results
import broken_settings as settings
import pytest
import torch
from sound_method import Sound
from torch import nn

from thunderstone import Method
from thunderstone.testing import CHECKS, Subject, check_method


def _differs(method: Method) -> None:
    expected = 2.0
    assert method.arguments["gain"] == expected, f"gain is {method.arguments['gain']}, the paper has {expected}"


SMALL = ("mlp",)
CASES: list[tuple[str, Subject, str]] = [
    (check, Subject(subject.__name__ if isinstance(subject, type) else "subject", subject, **declared), said)
    for check, subject, declared, said in (
        (
            "off_means_off",
            results.DrawsWhenOff,
            {"neutral": lambda: results.DrawsWhenOff(gain=0.0), "zoo": SMALL},
            "[mlp] the neutral setting against no method differs: weights.net.0.weight: ",
        ),
        ("on_means_on", results.NoEffect, {}, "[mlp] the default setting NoEffect() trains to the same weights"),
        ("on_means_on", results.Diverges, {}, "is not finite after training with Diverges"),
        ("on_means_on", Sound, {"changes_weights": False}, "declared not to change weights differs"),
        ("matches_reference", Sound, {"reference": _differs}, "Sound differs from its reference: gain is 0.5"),
        ("resumes_mid_epoch", results.Forgets, {}, "a checkpoint every 5 batch(es), rank 0] the resumed run"),
        ("resumes_mid_epoch", results.LosesCount, {}, "a checkpoint every 5 batch(es), rank 0] the resumed run"),
        ("resumes_mid_accumulation", results.Forgets, {}, "accumulate_grad_batches=3, killed in on_"),
        ("resumes_under_ddp", results.Forgets, {}, "[mlp, 2 process(es), accumulate_grad_batches=2, killed in"),
        ("resumes_after_validation", evaluating.StandsInTooLong, {}, "after the last update differs: net.0.weight: "),
        ("resumes_after_validation", evaluating.ForgetsWhatItValidatesWith, {}, "differs: metrics.val_loss: "),
        ("checkpoint_is_plain_data", results.Pickles, {}, "torch.load(weights_only=True) refuses"),
        ("checkpoint_is_plain_data", results.Renames, {}, "net.0.weight.0 is missing"),
        ("checkpoint_loads_without_the_method", results.Renames, {}, 'Missing key(s) in state_dict: "net.0.weight"'),
        ("clean_after_fit", cleanup.LeavesAHook, {}, "module.net has a hook in _forward_hooks: _watch"),
        ("clean_after_fit", cleanup.LeavesAPatch, {}, "module.training_step is set on the instance"),
        ("clean_after_fit", cleanup.PatchesTorch, {}, "left patched: torch.nn.modules.linear.Linear.forward"),
        ("clean_after_fit", cleanup.TurnsOnDeterminism, {}, "deterministic algorithms: False became True"),
        ("clean_after_fit", cleanup.AddsACallback, {}, "and is AddsACallback, CallbackEvents, Observer, NoEffect"),
        ("clean_after_exception", cleanup.PerturbsDuringTheStep, {}, "the weights against those after the last update"),
        (
            "clean_after_exception_in_validation",
            evaluating.StandsInUntilTheEnd,
            {},
            "in validation] the weights against those after the last update differs",
        ),
        ("clean_after_exception_in_second_pass", cleanup.SecondPass, {}, "in the second pass] the weights against"),
        ("clean_after_keyboard_interrupt", cleanup.CleansUpAfterErrorsOnly, {}, "after KeyboardInterrupt in the first"),
        (
            "clean_after_keyboard_interrupt_in_second_pass",
            cleanup.SecondPassCatchesErrorsOnly,
            {},
            "after KeyboardInterrupt in the second pass] the weights",
        ),
        ("counts_hooks_once", counting.CallsTheUsersHook, {}, "on_after_backward 28 times instead of 14"),
        ("counts_metrics_once", counting.SilentSecondPass, {}, "updates of accuracy by batch 0 2 times instead of 1"),
        (
            "counts_logs_once",
            counting.NaiveSecondPass,
            {"zoo": ("metrics",)},
            "what the module logs, and when, differs",
        ),
        ("counts_logs_once", counting.LogsTwice, {"zoo": ("metrics",)}, "the sum 'samples' over an epoch differs"),
        ("counts_statistics_once", counting.SilentSecondPass, {}, "[mlp] running statistics after the first batch"),
        ("counts_progress_once", counting.StopsEarly, {}, "progress differs: global_step: 14 became 7"),
        ("counts_batches_once", company.KeepsFurtherPasses, {}, "beside a method that makes further passes differs: "),
        ("counts_batches_once", company.KeepsRehearsals, {}, "further passes differs: method.mean: "),
        ("counts_random_numbers_once", company.SeedsGlobally, {}, "or seeds it, in transform_gradients. HINT: "),
        ("counts_random_numbers_once", results.DrawsWhenOff, {}, "in on_train_batch_start. HINT: "),
        ("runs_at_any_loss_scale", company.ClipsScaledGradients, {}, "[mlp, a growing loss scale] net."),
        ("runs_in_bf16_mixed", settings.BreaksUnder, {}, "[mlp, bf16-mixed] IndexError: list index out of range"),
        ("runs_in_16_mixed", lambda: settings.BreaksUnder("16-mixed"), {}, "[mlp, 16-mixed] IndexError"),
        ("runs_in_64_true", settings.CastsToSinglePrecision, {}, "net.0.weight became torch.float32"),
        (
            "runs_with_accumulation",
            lambda: settings.BreaksUnder("accumulation"),
            {},
            "accumulate_grad_batches=3] Index",
        ),
        ("runs_with_clipping", settings.EvadesClipping, {}, "the optimizer sees gradients of norm"),
        (
            "runs_with_parameter_groups",
            settings.MovesFrozenWeights,
            {},
            "[groups] unused is moved, which training without",
        ),
        ("runs_compiled", lambda: settings.BreaksUnder("compile"), {}, "[mlp, torch.compile] IndexError"),
        ("runs_fast_dev_run", lambda: settings.BreaksUnder("fast_dev_run"), {}, "[mlp, fast_dev_run] IndexError"),
        ("runs_without_logger", lambda: settings.BreaksUnder("no logger"), {}, "no logger] IndexError"),
        ("ignores_sanity_checking", settings.ActsWhileValidating, {}, "training after a sanity check differs"),
        ("ignores_evaluation", settings.ActsWhileValidating, {}, "evaluation differs: validate.0.val_loss"),
        ("runs_a_second_fit", settings.WearsOut, {}, "a second fit with the same instance against a first differs"),
        ("runs_a_second_fit", settings.Stalls, {}, "a second fit on the same Trainer does not train"),
        ("runs_under_ddp", settings.DrawsPerRank, {}, "rank 1 against rank 0 differs: net.0.weight"),
        ("runs_under_ddp", lambda: settings.BreaksUnder("ddp"), {}, "IndexError: list index out of range"),
        ("composes", settings.WantsToBeAlone, {}, "fails: KeyError: 'rho'"),
        ("composes", settings.RefusesNamelessly, {}, "is refused without naming"),
        ("reports_under_its_name", reporting.ReportsUnderNoName, {}, "logs 'gradient_norm', not named sound/…"),
        ("reports_under_its_name", reporting.Mute, {}, "reports nothing in a run of two epochs"),
        ("reports_at_the_right_step", reporting.ReportsAtItsOwnStep, {}, "sound/average is written at step 101"),
        ("reports_on_rank_zero", reporting.ReportsOnEveryRank, {}, "rank 1 writes sound/average"),
        ("arguments_are_explicit", arguments.TakesAnything, {}, "TakesAnything.__init__ takes **options"),
        ("arguments_are_explicit", arguments.ForgetsAnArgument, {}, "rate is not kept in an attribute self.rate"),
        ("arguments_are_explicit", arguments.Untyped, {}, "rate has no type"),
        ("arguments_are_explicit", arguments.Undocumented, {}, "rate is not described in an Args section"),
        ("arguments_are_explicit", arguments.UnserialisableDefault, {}, "the default direction=1j is not JSON"),
        (
            "building_touches_nothing",
            arguments.DrawsAtBirth,
            {},
            "the random state after building differs: python.words",
        ),
        ("building_touches_nothing", arguments.AllocatesAtBirth, {}, "building AllocatesAtBirth makes tensors (zeros)"),
        ("refuses_bad_values", arguments.AcceptsAnything, {}, "AcceptsAnything(gain=nan) is accepted"),
        ("refuses_bad_values", arguments.ForgetsAnArgument, {}, "AttributeError: ForgetsAnArgument does not keep"),
        ("describes_itself", arguments.Exits, {}, "SystemExit: 3"),
        ("refuses_bad_values", arguments.RefusesObscurely, {}, "RefusesObscurely(gain=nan) raises ValueError"),
        ("works_in_yaml", arguments.Wrapped, {}, "the parser of LightningCLI cannot build Wrapped"),
        ("has_a_unique_state_key", arguments.BareStateKey, {}, "state_key is 'BareStateKey' and does not hold"),
        ("describes_itself", arguments.Nameless, {}, "Nameless.name is ''"),
        (
            "explains_manual_optimization",
            arguments.AssumesAutomaticOptimization,
            {},
            "manual optimization] AttributeError",
        ),
        ("survives_skipped_batches", arguments.AssumesALoss, {}, "training_step returns None] KeyError: 'loss'"),
        ("survives_a_nan_loss", arguments.AssumesAFiniteLoss, {}, "the loss is NaN] ValueError"),
    )
]


@pytest.fixture(autouse=True)
def _undo_what_broken_methods_leave() -> Iterator[None]:
    forward = nn.Linear.forward
    yield
    nn.Linear.forward = forward
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("check", "subject", "said"), CASES, ids=[f"{check}-{subject.name}" for check, subject, _ in CASES]
)
def test_a_broken_method_fails_its_check(check: str, subject: Subject, said: str) -> None:
    (record,) = check_method(subject, checks=[check])
    assert (record.check, record.status) == (check, "failed"), record
    assert said in record.reason


def test_every_check_has_a_method_that_fails_it() -> None:
    assert {check for check, _, _ in CASES} == set(CHECKS)

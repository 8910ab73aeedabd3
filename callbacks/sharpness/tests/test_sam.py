"""SAM and ASAM as methods: their arguments, their switches, and what they leave alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

import thunderstone
from thunderstone import ArgumentError, CompositionError, UpdatePlan, hookimpl
from thunderstone_sharpness import ASAM, SAM

# -- arguments ---------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"rho": -0.1}, r"rho=-0\.1 is not allowed: it must be at least 0"),
    ({"rho": math.nan}, "rho=nan is not allowed: it must be finite"),
    ({"rho": math.inf}, "rho=inf is not allowed: it must be finite"),
    ({"rho": "0.05"}, r"rho='0\.05' is not allowed: it must be a number, not str"),
    ({"rho": True}, "rho=True is not allowed: it must be a number, not bool"),
    ({"rho": None}, "rho=None is not allowed: it must be a number, not NoneType"),
    ({"eta": -1e-9}, "eta=-1e-09 is not allowed: it must be at least 0"),
    ({"eta": math.nan}, "eta=nan is not allowed"),
    ({"interval": 0}, "interval=0 is not allowed: it must be at least 1"),
    ({"interval": 1.5}, r"interval=1\.5 is not allowed: it must be a whole number"),
    ({"interval": True}, "interval=True is not allowed"),
    ({"sync": "false"}, "sync='false' is not allowed: it must be True or False"),
]
BAD_SAM: list[tuple[dict[str, Any], str]] = [
    ({"adaptive": 1}, "adaptive=1 is not allowed: it must be True or False"),
    ({"perturbation": "l_2"}, r"perturbation='l_2' is not allowed.*Did you mean 'l2'\?"),
    ({"perturbation": 2}, "perturbation=2 is not allowed"),
    ({"adaptive": True, "perturbation": "linf"}, "adaptive=True asks for the adaptive_l2 direction"),
]


@pytest.mark.parametrize("method", [SAM, ASAM])
@pytest.mark.parametrize(("arguments", "message"), BAD, ids=str)
def test_bad_arguments(method: type[SAM], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"{method.__name__}: {message}.*HINT: ."):
        method(**arguments)


@pytest.mark.parametrize(("arguments", "message"), BAD_SAM, ids=str)
def test_bad_arguments_of_sam_alone(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=f"SAM: .*{message}"):
        SAM(**arguments)


def test_arguments_are_kept_and_shown() -> None:
    assert SAM(rho=1, interval=2).arguments == {
        "rho": 1.0,
        "adaptive": False,
        "eta": 0.01,
        "interval": 2,
        "sync": False,
        "perturbation": None,
    }
    assert repr(ASAM()) == "ASAM(rho=0.5, eta=0.01, interval=1, sync=False)"
    assert SAM().state_key != ASAM().state_key


def test_building_one_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    SAM()
    ASAM()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "method"), [("sam", SAM), ("asam", ASAM)])
def test_created_by_name(name: str, method: type[SAM]) -> None:
    created = thunderstone.create(name, rho=0.2)
    assert type(created) is method
    assert created.rho == 0.2


@pytest.mark.parametrize("value", [-1.0, math.nan, "wide"])
def test_a_groups_radius_is_checked(classifier, fit, value: Any) -> None:
    module = classifier()
    module.configure_optimizers = lambda: torch.optim.SGD([{"params": list(module.parameters()), "rho": value}], lr=0.1)
    with pytest.raises(ArgumentError, match="SAM: rho of a parameter group="):
        fit(module, SAM())


# -- off and on --------------------------------------------------------------------------------------------------------


class Noisy(nn.Module):
    """Normalises and draws."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dropout = nn.BatchNorm1d(4), nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(x))


@pytest.mark.parametrize("method", [SAM(rho=0), ASAM(rho=0), SAM(rho=0, adaptive=True, interval=3)], ids=repr)
@pytest.mark.parametrize(
    "settings", [{}, {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}], ids=str
)
def test_a_radius_of_zero_is_a_plain_run_to_the_last_bit(classifier, fit, method: SAM, settings: Any) -> None:
    runs = []
    for callbacks in ((), (copy.deepcopy(method),)):
        module = classifier(momentum=0.9)
        module.net.insert(0, Noisy())
        torch.manual_seed(5)
        fit(module, *callbacks, **settings)
        runs.append((module.state_dict(), torch.get_rng_state()))
    assert all(torch.equal(one, other) for one, other in zip(runs[0][0].values(), runs[1][0].values(), strict=True))
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("method", [SAM, ASAM])
def test_the_default_changes_the_run(classifier, fit, weights, method: type[SAM]) -> None:
    plain, on = weights(fit(classifier())), weights(fit(classifier(), method()))
    assert float((plain - on).abs().max()) > 1e-5


def test_asam_is_sam_with_an_adaptive_neighbourhood(classifier, fit, weights) -> None:
    one = weights(fit(classifier(), ASAM(rho=0.3, eta=0.02)))
    other = weights(fit(classifier(), SAM(rho=0.3, eta=0.02, adaptive=True)))
    third = weights(fit(classifier(), SAM(rho=0.3, eta=0.02, perturbation="adaptive_l2")))
    assert torch.equal(one, other)
    assert torch.equal(one, third)


def test_an_interval_leaves_the_updates_between_plain(classifier, fit) -> None:
    def counted(interval: int) -> list[int]:
        module, passes = classifier(), []
        step = type(module).training_step

        def training_step(batch: list[Tensor]) -> Tensor:
            passes.append(module.trainer.global_step)
            return step(module, batch)

        module.training_step = training_step
        fit(module, SAM(interval=interval))
        return passes

    assert counted(1) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert counted(2) == [0, 0, 1, 2, 2, 3, 4, 4, 5]
    assert counted(4) == [0, 0, 1, 2, 3, 4, 4, 5]


def test_a_long_interval_is_one_step_of_sam_and_then_a_plain_run(classifier, fit, weights, dataset) -> None:
    interval = weights(fit(classifier(), SAM(rho=0.3, interval=100), max_epochs=1))
    module = fit(classifier(), SAM(rho=0.3), max_epochs=1, limit_train_batches=1)
    rest = torch.utils.data.Subset(dataset(), range(8, 24))
    two_fits = weights(fit(module, data=rest, max_epochs=1))
    assert torch.equal(interval, two_fits)
    assert not torch.equal(interval, weights(fit(classifier(), max_epochs=1)))


# -- records -----------------------------------------------------------------------------------------------------------


def test_the_norm_of_the_first_gradient_is_recorded(classifier, fit, dataset) -> None:
    class Recording(SAM):
        def on_attach(self, trainer: Any, pl_module: Any) -> None:
            self.attachment.manager.register(Listener())

    class Listener:
        @hookimpl
        def record(self, record: Any) -> None:
            seen.append((record.key, float(record.value), record.step))

    seen: list[tuple[str, float, int]] = []
    fit(classifier(), Recording(), max_epochs=1)
    assert [key for key, _, _ in seen] == ["sam/gradient_norm"] * 3
    assert [step for _, _, step in seen] == [0, 1, 2]
    net = classifier()
    x, y = (torch.stack(column) for column in zip(*[dataset()[row] for row in range(8)], strict=True))
    gradients = torch.autograd.grad(net.training_step([x, y]), list(net.parameters()))
    assert seen[0][1] == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-5)


# -- company and overflow ----------------------------------------------------------------------------------------------


def test_two_of_the_family_are_refused(classifier, fit) -> None:
    with pytest.raises(CompositionError, match="SAM and ASAM cannot be attached to one Trainer: both own the gradient"):
        fit(classifier(), SAM(), ASAM())


@pytest.mark.parametrize("method", [SAM(rho=0.5), ASAM()], ids=repr)
def test_an_overflow_does_not_show_a_module_weights_of_nan(classifier, fit, method: SAM) -> None:
    """A module that checks its inputs, as torch.distributions does, is not brought down by a step that is skipped."""
    module = classifier()
    step = type(module).training_step
    passes: list[int] = []

    def training_step(batch: list[Tensor]) -> Tensor:
        passes.append(1)
        assert all(bool(parameter.isfinite().all()) for parameter in module.parameters())
        loss = step(module, batch)
        return loss * 1e30 if module.trainer.global_step == 1 else loss

    module.training_step = training_step
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    fit(module, copy.deepcopy(method), plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)], max_epochs=1)
    assert len(passes) == 6
    assert scaler.get_scale() == 2.0**9


def test_a_plan_asks_for_local_gradients_unless_they_are_to_be_averaged() -> None:
    for sync in (False, True):
        plan = UpdatePlan(index=0)
        SAM(sync=sync).plan_update(plan)
        assert plan.recompute
        assert plan.local_gradients is not sync
    off = UpdatePlan(index=0)
    SAM(rho=0).plan_update(off)
    assert not off.recompute

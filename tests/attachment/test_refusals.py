"""What cannot work is refused before the first step, by name and with the way out."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)
from lightning.pytorch.strategies.single_xla import SingleDeviceXLAStrategy
from lightning.pytorch.strategies.xla import XLAStrategy
from tiny_training import Again, Ascend, Classifier, Spy, assert_same_bits, fit, loader, state, trainer

from thunderstone import CompositionError, ExactResume, HookError, Method, UnsupportedSettingError, hookimpl
from thunderstone.attachment.composition import check_composition
from thunderstone.attachment.declared import RESOURCES
from thunderstone.attachment.strategies import check_strategy


def _refused(error: type[Exception], match: str, *methods: Method, module: LightningModule, **settings: Any) -> None:
    before = state(module)
    callbacks = list(methods)
    refusing = trainer(*callbacks, **settings)
    listed = list(refusing.callbacks)
    with pytest.raises(error, match=match):
        refusing.fit(module, loader())
    assert_same_bits(before, module)
    assert refusing.callbacks == listed
    assert all(method._attachment is None for method in methods)
    assert not {"training_step", "optimizer_step"} & vars(refusing.strategy).keys()


class Manual(Classifier):
    """Steps its optimizer itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        raise AssertionError("nothing was refused")


def test_manual_optimization() -> None:
    match = r"Ascend cannot run with manual optimization \(Manual\.automatic_optimization is False\).*HINT"
    _refused(UnsupportedSettingError, match, Ascend(), module=Manual())


def test_manual_optimization_switched_on_late() -> None:
    """In `setup`, which Lightning calls after the callbacks'."""

    class Late(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = True

        def setup(self, stage: str) -> None:
            self.automatic_optimization = False

    with pytest.raises(UnsupportedSettingError, match=r"Late\.automatic_optimization is False"):
        fit(Late(), Ascend())


def test_manual_optimization_is_fine_for_a_method_that_takes_no_part_in_steps() -> None:
    class Quiet(Method):
        name = "quiet"

    class Stepping(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    plain, quiet = Stepping(), Stepping()
    fit(plain)
    fit(quiet, Quiet())
    assert_same_bits(plain, quiet)


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_a_training_step_that_draws_its_own_batches() -> None:
    class Drawing(Classifier):
        def training_step(self, dataloader_iter: Any) -> None:  # type: ignore[override]
            raise AssertionError("nothing was refused")

    _refused(
        UnsupportedSettingError, r"Ascend cannot run with training_step.*dataloader_iter", Ascend(), module=Drawing()
    )


class Elsewhere(Strategy):
    """A strategy nobody knows."""

    def __init__(self) -> None:
        super().__init__(accelerator=SingleDeviceStrategy(torch.device("cpu")).accelerator)

    @property
    def root_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_global_zero(self) -> bool:
        return True

    def model_to_device(self) -> None:
        return

    def reduce(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    def all_gather(self, tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    def barrier(self, *_: Any, **__: Any) -> None:
        return

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        return obj


def test_an_unknown_strategy_is_refused_by_name() -> None:
    match = r"Ascend cannot run with strategy=Elsewhere.*strategy='ddp'"
    _refused(UnsupportedSettingError, match, Ascend(), module=Classifier(), strategy=Elsewhere())


@pytest.mark.parametrize("strategy", [DeepSpeedStrategy, XLAStrategy, SingleDeviceXLAStrategy])
def test_strategies_that_step_out_of_sight_are_refused_by_name(strategy: type[Strategy]) -> None:
    # Without their own packages they cannot be built; two of them are subclasses of a strategy that is fine.
    run: Any = SimpleNamespace(strategy=object.__new__(strategy))
    with pytest.raises(UnsupportedSettingError, match=f"SAM cannot run with strategy={strategy.__name__}"):
        check_strategy(run, "SAM")


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy, DDPStrategy, FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_are_fine(strategy: type[Strategy]) -> None:
    class OfOnesOwn(strategy):  # type: ignore[misc, valid-type]
        pass

    for chosen in (strategy, OfOnesOwn):
        run: Any = SimpleNamespace(strategy=object.__new__(chosen))
        assert check_strategy(run, "SAM") is None


def test_a_strategy_that_a_method_declares_it_cannot_work_with() -> None:
    class Choosy(Spy):
        unsupported_strategies = {"SingleDeviceStrategy": "it wants company"}  # noqa: RUF012

    match = "Choosy cannot run with strategy=SingleDeviceStrategy: it wants company"
    _refused(UnsupportedSettingError, match, Choosy(), module=Classifier())


def test_two_owners_of_the_gradient() -> None:
    class Other(Ascend):
        name = "other"

    match = "Ascend and Other cannot be attached to one Trainer: both own the gradient"
    _refused(CompositionError, match, Ascend(), Spy(), Other(), module=Classifier())


def test_two_of_a_kind_are_named_with_their_arguments() -> None:
    class Copy(Ascend):
        @property
        def state_key(self) -> str:
            return f"{super().state_key}{self.rho}"

    match = r"Copy\(rho=0.1, sync=True\) and Copy\(rho=0.2, sync=True\).*both own the gradient"
    _refused(CompositionError, match, Copy(rho=0.1), Copy(rho=0.2), module=Classifier())


def test_a_misspelt_hook_gets_the_nearest_name() -> None:
    class Misspelt(Method):
        name = "misspelt"

        @hookimpl
        def transform_gradient(self, step: Any) -> None:
            raise AssertionError("never called")

    _refused(
        HookError,
        r"(?s)Misspelt.*transform_gradient.*Did you mean 'transform_gradients'",
        Misspelt(),
        module=Classifier(),
    )


def test_a_hook_with_an_argument_its_specification_does_not_have() -> None:
    class Greedy(Method):
        name = "greedy"

        @hookimpl
        def transform_gradients(self, step: Any, learning_rate: float) -> None:
            raise AssertionError("never called")

    said = r"(?s)Greedy implements a hook that does not fit.*learning_rate.* HINT: .*: transform_gradients takes step"
    _refused(HookError, said, Greedy(), module=Classifier())


def test_a_hook_that_is_not_marked() -> None:
    """It would not be called, and nothing would tell."""

    class Unmarked(Method):
        name = "unmarked"

        def loss_terms(self, step: Any) -> None:
            raise AssertionError("never called")

    class Overriding(Ascend):
        name = "overriding"

        def transform_gradients(self, step: Any) -> None:
            super().transform_gradients(step)

    class WithoutIt(Ascend):
        name = "without_it"
        transform_gradients = None  # type: ignore[assignment]

    for method in (Unmarked(), Overriding()):
        match = rf"{type(method).__name__}\.\w+ looks like a hook but is not marked as one.*HINT"
        _refused(HookError, match, method, module=Classifier())
    fit(Classifier(), WithoutIt())


def test_a_method_that_cannot_be_hashed() -> None:
    @dataclass
    class Fields(Method):
        name = "fields"
        rho: float = 0.1

    _refused(HookError, r"Fields cannot be hashed.*dataclass\(eq=False\)", Fields(), module=Classifier())


def _declaring(**declared: Any) -> Method:
    def init(self: Any, rho: float = 0.1, r: int = 1) -> None:
        self.rho, self.r = rho, r

    made: Method = type("Owning", (Method,), {"name": "owning", "__init__": init, "derived": 1, **declared})()
    return made


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (
            {"exclusive": {"gradients"}},
            r"exclusive = \{'gradients'\} protects nothing: .*'gradients'.*mean 'gradient'\?",
        ),
        ({"exclusive": {"masks", "round"}}, r"protects nothing: the host knows no 'round'\. HINT: .* 'rounds'\?"),
        ({"exclusive": {"Masks"}}, r"the host knows no 'Masks'.*'masks'\?"),
        ({"exclusive": {"objektive "}}, r"the host knows no 'objektive '.*'objective'\?"),
        ({"exclusive": {1}}, r"exclusive = \{1\} is no set of names. HINT"),
        ({"identified_by": "rho"}, r"identified_by = 'rho' is a text, .* HINT: write identified_by = \('rho',\)"),
        ({"identified_by": "r"}, r"identified_by = 'r' is a text, .* HINT: write identified_by = \('r',\)"),
        ({"identified_by": ("roh",)}, r"identified_by = \('roh',\) names 'roh', .* HINT: Did you mean 'rho'\?"),
        ({"identified_by": ("derived",)}, r"names 'derived', which __init__ does not take. HINT: Known names: r, rho"),
        ({"identified_by": {"rho", "r"}}, r"identified_by = \{.*\} is no tuple of names. HINT"),
        ({"identified_by": (1,)}, r"identified_by = \(1,\) is no tuple of names. HINT"),
        ({"identified_by": 1}, r"identified_by = 1 is no tuple of names. HINT"),
    ],
)
def test_a_slip_in_what_a_class_declares(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(HookError, match=f"^Owning: .*{message}"):
        check_composition([_declaring(**declared)])


def test_a_slip_in_what_tells_instances_apart_is_named_where_the_trainer_meets_it() -> None:
    for names in ("rho", ("roh",), 1):
        with pytest.raises(HookError, match=r"Owning: identified_by = .*HINT"):
            trainer(_declaring(identified_by=names))


def test_resources_of_a_family_s_own_and_instances_told_apart_are_taken() -> None:
    check_composition(
        [
            _declaring(exclusive={"structure", "choice of the training samples", "tasks", "bounds", "loss"}),
            _declaring(identified_by=("r", "rho"), exclusive=set(RESOURCES)),
            _declaring(identified_by=["rho"]),
        ]
    )


@pytest.mark.parametrize("exclusive", ["gradient", ["gradient"]])
def test_resources_that_are_no_set(exclusive: Any) -> None:
    declared: Any = {"name": "owning", "exclusive": exclusive}
    owning = type("Owning", (Method,), declared)()
    _refused(HookError, r"Owning: exclusive = .* is no set of names. HINT", owning, module=Classifier())


def test_a_setup_that_leaves_out_the_parent_s() -> None:
    class Forgetful(Method):
        name = "forgetful"

        def setup(self, *_: Any, **__: Any) -> None:
            pass

    match = r"Forgetful overrides `setup` and does not call super\(\)\.setup.*HINT"
    _refused(HookError, match, Forgetful(), module=Classifier())


def test_an_argument_that_is_not_kept() -> None:
    class Private(Method):
        def __init__(self, rho: float = 0.1) -> None:
            self._rho = rho

    with pytest.raises(AttributeError, match=r"Private does not keep its argument 'rho'\. HINT: write self\.rho"):
        repr(Private())


def test_a_method_that_refuses_in_on_attach_undoes_those_before_it() -> None:
    events: list[str] = []

    class Early(Spy):
        name = "early"

        def on_attach(self, *_: Any) -> None:
            events.append("early attached")

        def on_detach(self, *_: Any) -> None:
            events.append("early detached")

    class Refusing(Again):
        name = "refusing"

        def on_attach(self, *_: Any) -> None:
            raise UnsupportedSettingError("Refusing", "this run", "it would rather not", "ask another")

        def on_detach(self, *_: Any) -> None:
            events.append("refusing detached")

    match = "Refusing cannot run with this run: it would rather not. HINT: ask another"
    _refused(UnsupportedSettingError, match, Early(), Refusing(), module=Classifier())
    assert events == ["early attached", "early detached"]


def test_refusals_leave_the_list_of_callbacks_as_it_was() -> None:
    refusing = trainer(Ascend())
    with pytest.raises(UnsupportedSettingError):
        refusing.fit(Manual(), loader())
    assert not any(isinstance(callback, ExactResume) for callback in refusing.callbacks)
    refusing.fit(Classifier(), loader())
    assert refusing.global_step == 6

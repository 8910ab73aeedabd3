"""The attachment half of the contract is what its documentation says: every example trains, and does what it claims."""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import pluggy
import pytest
import torch
from tiny_training import Classifier, assert_same_bits, fit, loader, perceptron, plain_sgd, state
from torch import Tensor, nn

import thunderstone
from thunderstone import Method, hookimpl
from thunderstone.attachment.hook_manager import HookManager
from thunderstone.attachment.hookspecs import HOOK_NAMES, AttachmentHooks
from thunderstone.cli.docstrings import parse_docstring
from thunderstone.errors import HookError
from thunderstone.markers import PROJECT, ContractWarning, hookspec, leaving

SECTIONS = ["When", "Ranks", "Implemented by", "Args", "Returns", "Example"]
STEPS = 2


def example(hook: str) -> type[Method]:
    """The method that the documentation of a hook shows."""
    text = parse_docstring(getattr(AttachmentHooks, hook).__doc__).sections["Example"]
    names: dict[str, Any] = {}
    exec(inspect.cleandoc(text.partition(".. code-block:: python")[2]), names)
    (found,) = (
        each for each in names.values() if isinstance(each, type) and issubclass(each, Method) and each is not Method
    )
    return found


def trained(*methods: Method, **settings: Any) -> Classifier:
    module = Classifier(optimizer=plain_sgd)
    fit(module, *methods, limit_train_batches=STEPS, **settings)
    return module


def by_hand(gradients: Any, after: Any = lambda module: None) -> Classifier:
    """What `trained` would be if every update used `gradients(module, batch)`."""
    module = Classifier(optimizer=plain_sgd)
    for number, batch in enumerate(loader()):
        if number < STEPS:
            for parameter, gradient in zip(module.parameters(), gradients(module, batch), strict=True):
                parameter.data -= gradient
            after(module)
    return module


def gradients_of(loss: Tensor, module: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(module.parameters())))


def assert_close(first: nn.Module, second: nn.Module) -> None:
    torch.testing.assert_close(state(first), state(second), rtol=0, atol=1e-6)
    with pytest.raises(AssertionError):  # and it is not what the module learns without the method
        torch.testing.assert_close(state(first), state(trained()), rtol=0, atol=1e-4)


# -- every hook has a test ---------------------------------------------------------------------------------------------


def test_every_hook_has_a_test_of_its_example() -> None:
    assert [hook for hook in HOOK_NAMES if f"test_hook_{hook}" not in globals()] == []


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_hook_says_when_where_by_whom_what_it_gets_and_returns(hook: str) -> None:
    described = parse_docstring(getattr(AttachmentHooks, hook).__doc__)
    assert described.text
    assert list(described.sections) == SECTIONS
    assert all(described.sections.values())
    (argument,) = list(inspect.signature(getattr(AttachmentHooks, hook)).parameters)[1:]
    assert list(described.items("Args")) == [argument]


@pytest.mark.parametrize("hook", HOOK_NAMES)
def test_every_example_implements_its_hook_and_builds_from_its_defaults(hook: str) -> None:
    method = example(hook)()
    manager = HookManager([method])
    assert hook in [caller.name for caller in manager.get_hookcallers(method) or ()]
    assert method.name
    assert method.arguments


def test_hook_prepare_data() -> None:
    seen: list[Tensor] = []

    class Looking(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.append(batch[0])
            return super().training_step(batch, batch_idx)

    fit(Looking(), example("prepare_data")(samples=7), max_epochs=2)
    first, again = torch.cat(seen[:2]), torch.cat(seen[2:])
    assert first.shape[0] == 7
    assert torch.equal(first, again)


def test_hook_plan_update() -> None:
    def ahead(module: Classifier, batch: Any) -> list[Tensor]:
        weights = [parameter.detach().clone() for parameter in module.parameters()]
        for parameter, gradient in zip(module.parameters(), gradients_of(module.loss(batch), module), strict=True):
            parameter.data -= 0.5 * gradient
        found = gradients_of(module.loss(batch), module)
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.data.copy_(weight)
        return found

    assert_close(trained(example("plan_update")(lookahead=0.5)), by_hand(ahead))
    assert_same_bits(trained(example("plan_update")(lookahead=0.0)), trained())


def test_hook_compute_loss() -> None:
    def smoothed(module: Classifier, batch: Any) -> list[Tensor]:
        logarithms = module(batch[0]).log_softmax(1)
        targets = 0.7 * nn.functional.one_hot(batch[1], logarithms.shape[1]) + 0.3 / logarithms.shape[1]
        return gradients_of(-(targets * logarithms).sum(1).mean(), module)

    assert_close(trained(example("compute_loss")(amount=0.3)), by_hand(smoothed))
    assert_same_bits(trained(example("compute_loss")(amount=0.0)), trained())


def test_hook_loss_terms() -> None:
    def with_signs(module: Classifier, batch: Any) -> list[Tensor]:
        plain = gradients_of(module.loss(batch), module)
        return [g + 0.1 * p.detach().sign() for g, p in zip(plain, module.parameters(), strict=True)]

    assert_close(trained(example("loss_terms")(weight=0.1)), by_hand(with_signs))
    assert_same_bits(trained(example("loss_terms")(weight=0.0)), trained())


def test_hook_transform_gradients() -> None:
    def centered(module: Classifier, batch: Any) -> list[Tensor]:
        plain = gradients_of(module.loss(batch), module)
        return [g - torch.stack([row.mean() for row in g])[:, None] if g.dim() == 2 else g for g in plain]

    assert_close(trained(example("transform_gradients")()), by_hand(centered))
    assert_same_bits(trained(example("transform_gradients")(enabled=False)), trained())


def test_hook_after_update() -> None:
    def clip(module: Classifier) -> None:
        for parameter in module.parameters():
            parameter.data = parameter.data.clip(-0.2, 0.2)

    plain = lambda module, batch: gradients_of(module.loss(batch), module)  # noqa: E731
    assert_close(trained(example("after_update")(limit=0.2)), by_hand(plain, clip))


def test_hook_another_round() -> None:
    twice, once = Classifier(optimizer=plain_sgd), Classifier(optimizer=plain_sgd)
    fit(twice, example("another_round")(rounds=2), limit_train_batches=STEPS)
    fit(once, limit_train_batches=STEPS)
    fit(once, limit_train_batches=STEPS)
    assert_same_bits(twice, once)


def test_hook_next_round() -> None:
    distances: list[float] = []

    class Kept(example("next_round")):  # type: ignore[misc]
        def record(self, name: str, value: Any) -> None:
            if name == "distance":
                distances.append(value)

    rounds = Classifier(optimizer=plain_sgd)
    fit(rounds, Kept(rounds=2), limit_train_batches=STEPS)
    once, start = trained(), state(perceptron())
    walked = sum(float((once.net.state_dict()[name] - start[name]).square().sum()) for name in start)
    assert distances == [pytest.approx(walked**0.5, rel=1e-5)]
    assert_same_bits(rounds, once)  # the same batches in the same order: this loader does not shuffle


def test_hook_record(tmp_path: Any) -> None:
    path = tmp_path / "records.jsonl"
    fit(Classifier(), example("record")(str(path)), example("loss_terms")(weight=0.1), limit_train_batches=STEPS)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [sorted(line) for line in lines] == STEPS * [["lasso/penalty", "step"]]
    assert [line["step"] for line in lines] == [0, 1]
    assert all(line["lasso/penalty"] > 0 for line in lines)


# -- whose hook it was -------------------------------------------------------------------------------------------------


class Sound(Method):
    """Has every hook that Broken has."""

    name = "sound"

    @hookimpl
    def plan_update(self, plan: Any) -> None: ...

    @hookimpl
    def prepare_data(self, view: Any) -> None: ...

    @hookimpl
    def loss_terms(self, step: Any) -> None: ...

    @hookimpl
    def transform_gradients(self, step: Any) -> None: ...

    @hookimpl
    def after_update(self, step: Any) -> None: ...


class Other(Sound):
    """The same code in another method."""

    name = "other"


def broken_in(hook: str, wrapper: bool = False) -> Method:
    def fail(self: Any) -> None:
        raise ValueError("no luck")

    def fail_around(self: Any) -> Any:
        yield
        raise ValueError("no luck")

    decorated = hookimpl(specname=hook, wrapper=wrapper)(fail_around if wrapper else fail)
    broken: Method = type("Broken", (Method,), {"name": "broken", "implementation": decorated})()
    return broken


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no notes on errors")
@pytest.mark.parametrize("wrapper", [False, True])
@pytest.mark.parametrize("hook", [hook for hook in vars(Sound) if hook in HOOK_NAMES])
def test_an_error_in_a_hook_names_the_method(hook: str, wrapper: bool) -> None:
    with pytest.raises(ValueError, match="no luck") as caught:
        fit(Classifier(), Sound(), broken_in(hook, wrapper), Other(), limit_train_batches=1)
    assert caught.value.__notes__ == [f"This was raised in the hook {hook!r} of Broken ({__name__})."]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no notes on errors")
def test_of_two_methods_with_the_same_code_the_one_that_failed_is_named() -> None:
    class Choosy(Method):
        name = "choosy"
        identified_by = ("fails",)

        def __init__(self, fails: bool = False) -> None:
            self.fails = fails

        @hookimpl
        def after_update(self, step: Any) -> None:
            if self.fails:
                raise ValueError("no luck")

    class Picky(Choosy):
        name = "picky"

    for methods in ((Choosy(), Picky(fails=True)), (Picky(fails=True), Choosy())):
        with pytest.raises(ValueError, match="no luck") as caught:
            fit(Classifier(), *methods, limit_train_batches=1)
        assert caught.value.__notes__ == [f"This was raised in the hook 'after_update' of Picky ({__name__})."]


# -- observers ---------------------------------------------------------------------------------------------------------


def test_an_observer_that_fails_is_named_once_and_reaches_neither_training_nor_another_observer() -> None:
    seen: list[str] = []

    class Faithful:
        @hookimpl
        def record(self, record: Any) -> None:
            seen.append(record.key)

    class Failing:
        @hookimpl
        def record(self, record: Any) -> None:
            raise OSError("disk full")

    class Watched(Method):
        name = "watched"

        def on_attach(self, trainer: Any, pl_module: Any) -> None:
            for observer in (Faithful(), Failing(), Faithful()):
                self.attachment.manager.register(observer)

    message = (
        r"The observer Failing failed on the record 'lasso/penalty': OSError: disk full. Training goes on; further"
    )
    with pytest.warns(UserWarning, match=message) as warned:
        watched = trained(Watched(), example("loss_terms")(weight=0.1))
    assert len([each for each in warned if "observer" in str(each.message)]) == 1
    assert seen == 2 * STEPS * ["lasso/penalty"]
    assert_same_bits(watched, trained(example("loss_terms")(weight=0.1)))


def test_an_observer_whose_hook_does_not_fit_is_refused_and_not_kept() -> None:
    class Misspelt:
        @hookimpl
        def recrod(self, record: Any) -> None: ...

    class Asking:
        @hookimpl
        def record(self, record: Any, trainer: Any) -> None: ...

    manager = HookManager([])
    for observer, message in ((Misspelt(), r"Misspelt .*'recrod'.*Did you mean 'record'\?"), (Asking(), "trainer")):
        with pytest.raises(HookError, match=message):
            manager.register(observer)
        assert not manager.is_registered(observer)
    manager.check_pending()


def test_an_observer_may_be_taken_out_again() -> None:
    seen: list[Any] = []

    class Noting:
        @hookimpl
        def record(self, record: Any) -> None:
            seen.append(record)

    manager, observer = HookManager([]), Noting()
    record = thunderstone.Record("m", "n", 1.0, 0, 0)
    manager.register(observer)
    assert manager.observe(record) == []
    manager.unregister(observer)
    assert manager.observe(record) == []
    assert seen == [record]


# -- what is going to leave the contract -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("always::thunderstone.ContractWarning")
def test_what_is_going_to_leave_is_announced_where_it_is_implemented(monkeypatch: pytest.MonkeyPatch) -> None:
    going = leaving("the hook 'after_update'", since="1.1", until="2.0", instead="implement 'after_step'")

    class Later(AttachmentHooks):
        @hookspec(warn_on_impl=going)
        def after_update(self, step: Any) -> None: ...

    monkeypatch.setattr("thunderstone.attachment.hook_manager.AttachmentHooks", Later)
    with pytest.warns(
        ContractWarning, match=r"'after_update' leaves thunderstone's contract with version 2.0"
    ) as warned:
        trained(example("after_update")(limit=0.2))
    (announced,) = [each for each in warned if each.category is ContractWarning]
    assert announced.filename == example("after_update").after_update.__code__.co_filename


def test_today_nothing_is_going_to_leave() -> None:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(AttachmentHooks)
    specifications = [getattr(manager.hook, hook).spec for hook in HOOK_NAMES]
    assert not any(each.warn_on_impl or each.warn_on_impl_args for each in specifications)

"""Named extra losses, and the outputs they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loops.optimization.automatic import Closure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import ArgumentError, GradientStep, LossStep, Method, StepError, UpdatePlan, hookimpl


class Net(LightningModule):
    """Two heads; `calls` forwards a step; returns a tensor or a dict."""

    def __init__(self, calls: int = 1, as_dict: bool = False, own_forward: bool = True) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.head = nn.Linear(5, 2)
        self.calls, self.as_dict, self.own_forward = calls, as_dict, own_forward

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x).tanh()
        return {"hidden": hidden, "logits": self.head(hidden)}

    def training_step(self, batch: list[Tensor]) -> Any:
        if not self.own_forward:
            return self.head(self.body(batch[0])).square().mean()
        outputs = [self(batch[0] * (number + 1)) for number in range(self.calls)]
        loss = torch.stack([output["logits"].square().mean() for output in outputs]).sum()
        return {"loss": loss, "extra": 1} if self.as_dict else loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Penalty(Method):
    """``weight * mean(output ** 2)``."""

    name = "penalty"

    def __init__(self, weight: float = 0.5, output: str | None = ":logits", call: int | None = None) -> None:
        self.weight, self.output, self.call = weight, output, call
        self.outputs: list[Tensor] = []

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.capture = self.attachment.capture(self, self.output, self.call)

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        output = step.output(self.capture)
        self.outputs.append(output.detach().clone())
        return {"square": self.weight * output.square().mean()} if self.weight else None


def fit(module: LightningModule, *methods: Method, **settings: Any) -> LightningModule:
    torch.manual_seed(1)
    x = torch.randn(12, 3)
    arguments: dict[str, Any] = {"logger": False, "max_epochs": 2} | settings
    trainer = Trainer(
        accelerator="cpu",
        callbacks=list(methods),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(module, DataLoader(TensorDataset(x), batch_size=4))
    return module


def net(**arguments: Any) -> Net:
    torch.manual_seed(0)
    return Net(**arguments)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_term_is_trained_on_like_the_loss(as_dict: bool, accumulate: int) -> None:
    class Written(Net):
        def training_step(self, batch: list[Tensor]) -> Any:
            return self(batch[0])["logits"].square().mean() * 1.5

    torch.manual_seed(0)
    by_hand = fit(Written(), accumulate_grad_batches=accumulate)
    attached = fit(net(as_dict=as_dict), Penalty(0.5), accumulate_grad_batches=accumulate)
    torch.testing.assert_close(weights(attached), weights(by_hand), rtol=1e-5, atol=1e-7)
    assert not torch.equal(weights(attached), weights(fit(net(as_dict=as_dict), accumulate_grad_batches=accumulate)))


def test_no_term_changes_nothing() -> None:
    assert torch.equal(weights(fit(net(), Penalty(0.0))), weights(fit(net())))


def test_terms_run_inside_the_precision_context() -> None:
    seen = []

    class Peek(Penalty):
        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
            seen.append((step.output(self.capture) @ torch.ones(2, 2)).dtype)
            return {"square": step.output(self.capture).float().square().mean()}

    fit(net(), Peek(), precision="bf16-mixed")
    assert set(seen) == {torch.bfloat16}


def test_terms_are_logged_one_by_one(tmp_path: Path) -> None:
    class Two(Penalty):
        name = "two"

        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
            return {"a": step.loss.detach() * 0 + 2, "b": step.loss * 0 + 3}

    logger = CSVLogger(tmp_path)
    fit(net(), Two(), logger=logger, log_every_n_steps=1)
    logger.save()
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    last = dict(zip(columns, lines[-1].split(","), strict=True))
    assert (float(last["two/a"]), float(last["two/b"])) == (2.0, 3.0)


@pytest.mark.parametrize(("call", "factor"), [(0, 1), (1, 2), (-1, 3), (-2, 2), (None, 3)])
def test_which_of_several_calls_counts(call: int | None, factor: int) -> None:
    method = Penalty(0.0, "body", call)
    module = net(calls=3)
    torch.manual_seed(1)
    first = torch.randn(12, 3)[:4]
    with torch.no_grad():
        expected = module.body(first * factor)
    fit(module, method)
    torch.testing.assert_close(method.outputs[0], expected)


def test_the_last_call_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(net(calls=2), Penalty(0.1))
    said = [record.message for record in caplog.records if "is called 2 times" in record.message]
    assert len(said) == 1
    assert "the last call is used" in said[0]
    assert "call=0" in said[0]


def test_a_call_that_is_not_made() -> None:
    with pytest.raises(StepError, match=r"call=4 of the module's own forward.*called 2 times.*call=1"):
        fit(net(calls=2), Penalty(call=4))


def test_nothing_captured_names_the_candidates() -> None:
    with pytest.raises(StepError, match=r"own forward was not called.*body \(4, 5\), head \(4, 2\)") as error:
        fit(net(own_forward=False), Penalty(output=None))
    assert "output='head'" in str(error.value)


def test_an_unknown_submodule_gets_the_nearest_name() -> None:
    with pytest.raises(ArgumentError, match="Did you mean 'head'"):
        fit(net(), Penalty(output="haed"))


@pytest.mark.parametrize("bad", [{"output": 3}, {"call": "first"}, {"call": True}, {"call": 1.0}], ids=str)
def test_an_output_and_a_call_of_another_type(bad: dict[str, Any]) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"Penalty: {name}="):
        fit(net(), Penalty(**bad))


def test_a_graph_compiled_before_there_was_a_hook() -> None:
    """Compiled code does not look for hooks that came later; the module's name is right, and the message says why."""
    torch.compiler.reset()
    module = net()
    compiled = torch.compile(module, backend="eager")
    fit(compiled)
    with pytest.raises(StepError, match=r"submodule 'head' is called in training_step.*torch\.compiler\.reset"):
        fit(compiled, Penalty(output="head"))
    torch.compiler.reset()
    method = Penalty(output="head")
    fit(compiled, method)
    assert len(method.outputs) == 6


@pytest.mark.parametrize("output", [None, ":nothing"])
def test_an_output_that_is_no_tensor_names_its_entries(output: str | None) -> None:
    with pytest.raises(StepError, match=r"entries hidden, logits.*output=':hidden'"):
        fit(net(), Penalty(output=output))


@pytest.mark.parametrize("bad", [3.0, torch.ones(2), "text"])
def test_a_term_must_be_a_scalar(bad: Any) -> None:
    class Bad(Penalty):
        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Any]:
            return {"broken": bad}

    with pytest.raises(StepError, match="Bad: loss_terms returned 'broken'"):
        fit(net(), Bad())


@pytest.mark.parametrize(("bad", "shown"), [(torch.ones(2), r"a tensor of shape \(2,\)"), (["x"], r"\['x'\]")])
def test_terms_must_have_names(bad: Any, shown: str) -> None:
    class Bad(Penalty):
        @hookimpl
        def loss_terms(self, step: LossStep) -> Any:
            return bad

    with pytest.raises(StepError, match=f"Bad: loss_terms returned {shown}, where a mapping.*HINT"):
        fit(net(), Bad())


class Twice(Method):
    """Replaces the gradient by a recomputed one."""

    name = "twice"

    def __init__(self) -> None:
        self.same: list[bool] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        again = step.recompute()
        first = step.gradients
        self.same.append(
            all(a is not None and b is not None and torch.equal(a, b) for a, b in zip(first, again, strict=True))
        )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_second_pass_has_the_same_terms_and_records_nothing(tmp_path: Path, accumulate: int) -> None:
    replays = []

    class Watched(Penalty):
        @hookimpl
        def loss_terms(self, step: LossStep) -> dict[str, Tensor]:
            replays.append(step.replay)
            return {"square": self.weight * step.output(self.capture).square().mean()}

    twice = Twice()
    module = fit(net(), Watched(), twice, accumulate_grad_batches=accumulate)
    assert twice.same
    assert all(twice.same)
    assert replays.count(True) == replays.count(False)
    alone = fit(net(), Penalty(0.5), accumulate_grad_batches=accumulate)
    assert torch.equal(weights(module), weights(alone))


def test_an_objective_in_place_of_the_loss() -> None:
    """`recompute(objective=...)` differentiates what it is given, averaged over micro-batches."""
    found: list[Tensor] = []

    class MeanOutput(Penalty):
        @hookimpl
        def plan_update(self, plan: UpdatePlan) -> None:
            plan.request_recompute()

        @hookimpl
        def transform_gradients(self, step: GradientStep) -> None:
            gradients = step.recompute(objective=lambda inner: inner.output(self.capture).mean())
            found.append(gradients[step.names.index("head.bias")].clone())

        @hookimpl
        def loss_terms(self, step: LossStep) -> None:
            return None

    method = MeanOutput()
    plain = fit(net(), accumulate_grad_batches=3)
    assert torch.equal(weights(fit(net(), method, accumulate_grad_batches=3)), weights(plain))
    # d mean(logits) / d bias = 1 / classes, whatever the batch.
    torch.testing.assert_close(found[0], torch.full((2,), 0.5))


def test_hooks_are_gone_afterwards() -> None:
    module = net()
    fit(module, Penalty())
    assert all(not child._forward_hooks for child in module.modules())
    with pytest.raises(ArgumentError):
        fit(module, Penalty(output="haed"))
    assert all(not child._forward_hooks for child in module.modules())


def test_a_module_that_returns_none_is_left_alone() -> None:
    class Skips(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return None if batch_idx == 1 else self(batch[0])["logits"].square().mean()

    method = Penalty(0.1)
    # Lightning says it once a process.
    Closure.warning_cache.clear()
    with pytest.warns(UserWarning, match="returned `None`"):
        fit(Skips(), method)
    assert len(method.outputs) == 4


class Numbered(Method):
    """Notes the number of every batch, in the first pass and in the second."""

    name = "numbered"

    def __init__(self) -> None:
        self.numbers: list[tuple[int, bool]] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute()

    @hookimpl
    def loss_terms(self, step: LossStep) -> None:
        self.numbers.append((step.batch_number, step.replay))

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        step.recompute()


def test_batches_are_numbered_through_epochs_and_alike_in_a_second_pass() -> None:
    numbered = Numbered()
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[numbered],
        max_epochs=2,
        accumulate_grad_batches=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(TensorDataset(torch.randn(8, 3)), batch_size=2))
    windows = [[(k, False), (k + 1, False), (k, True), (k + 1, True)] for k in (0, 2, 4, 6)]
    assert numbered.numbers == [pair for window in windows for pair in window]

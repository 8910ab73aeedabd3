"""MESA against the paper's equation; the average; what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import SumMetric

from thunderstone import ArgumentError, StepError
from thunderstone_sharpness import MESA


def test_against_the_equation(classifier, fit, weights, dataset) -> None:
    weight, decay, temperature, rate = 0.8, 0.9, 2.0, 0.2
    data = dataset(torch.float64)
    method = MESA(weight, decay, temperature, start_epoch=1)
    trained = fit(classifier(dtype=torch.float64), method, data=data, max_epochs=3)

    net, average = classifier(dtype=torch.float64).net, classifier(dtype=torch.float64).net
    for epoch in range(3):
        for x, y in DataLoader(data, batch_size=8):
            logits = net(x)
            loss = nn.functional.cross_entropy(logits, y)
            if epoch >= 1:
                p = (average(x).detach() / temperature).softmax(-1)
                loss = loss + weight * (p * (p.log() - (logits / temperature).log_softmax(-1))).sum(-1).mean()
            net.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter, mean in zip(net.parameters(), average.parameters(), strict=True):
                    parameter -= rate * parameter.grad
                    mean.copy_(decay * mean + (1 - decay) * parameter)
    torch.testing.assert_close(weights(trained), weights(net), rtol=1e-10, atol=1e-12)
    exported = classifier(dtype=torch.float64)
    exported.load_state_dict(method.average)
    torch.testing.assert_close(weights(exported), weights(average), rtol=1e-10, atol=1e-12)


def test_weight_zero_changes_nothing(classifier, fit, weights) -> None:
    assert torch.equal(weights(fit(classifier(), MESA(0, start_epoch=0))), weights(fit(classifier())))


class Normalised(LightningModule):
    """Batch norm, dropout, tied weights, and a forward with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight
        self.modes: list[bool] = []

    def forward(self, tokens: Tensor, *, scale: float) -> Tensor:
        self.modes.append(self.training)
        return self.head(self.drop(self.norm(self.embed(tokens)))) * scale

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0], scale=2.0), batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.05)


def test_statistics_modes_and_randomness_are_left_alone(fit) -> None:
    """The average's forward runs in evaluation mode on copies: the module's own first step is the plain one."""
    data = TensorDataset(torch.randint(0, 9, (16,)))
    results = []
    for methods in ((), (MESA(start_epoch=0, decay=0.5),)):
        torch.manual_seed(0)
        module = fit(Normalised(), *methods, data=data, max_epochs=1, limit_train_batches=1)
        results.append((module.norm.running_mean.clone(), int(module.norm.num_batches_tracked), torch.rand(3)))
        assert module.modes[0] is True
        assert module.training
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] == 1
    assert torch.equal(results[0][2], results[1][2])


def test_buffers_are_averaged_and_tied_weights_stay_tied(fit) -> None:
    method = MESA(start_epoch=0, decay=0.5)
    module = fit(Normalised(), method, data=TensorDataset(torch.randint(0, 9, (16,))))
    average = method.average
    assert torch.equal(average["embed.weight"], average["head.weight"])
    assert not torch.equal(average["norm.running_mean"], module.norm.running_mean)
    assert torch.equal(average["norm.num_batches_tracked"], module.norm.num_batches_tracked)
    Normalised().load_state_dict(average)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_average_survives_a_checkpoint(classifier, fit, weights, tmp_path: Path) -> None:
    arguments = {"start_epoch": 1, "decay": 0.8}
    whole = MESA(**arguments)
    straight = fit(classifier(), whole, max_epochs=4)
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    fit(classifier(), MESA(**arguments), checkpoint, max_epochs=2, enable_checkpointing=True)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][whole.state_key]["average"]
    again = MESA(**arguments)
    settings = {"max_epochs": 4, "enable_checkpointing": True, "ckpt_path": tmp_path / "last.ckpt"}
    resumed = fit(classifier(), again, ModelCheckpoint(tmp_path, save_last=True), **settings)
    assert torch.equal(weights(resumed), weights(straight))
    assert all(torch.equal(value, again.average[name]) for name, value in whole.average.items())


def test_a_second_fit_begins_anew(classifier, fit, weights) -> None:
    method = MESA(start_epoch=0, decay=0.9)
    fit(classifier(), method)
    again = fit(classifier(), method)
    assert torch.equal(weights(again), weights(fit(classifier(), MESA(start_epoch=0, decay=0.9))))


class Growing(LightningModule):
    """Makes a buffer in its first forward, resizes another, and gets a layer when half of the training is over."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 3))
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scale"):
            self.register_buffer("scale", x.std(0))
        if len(self.seen) < len(x):
            self.seen = torch.ones(len(x))
        return self.layers(x / self.scale)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.layers.append(nn.Linear(3, 3))
            self.trainer.optimizers[0].add_param_group({"params": list(self.layers[1].parameters())})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_module_that_grows(fit) -> None:
    method = MESA(start_epoch=0, decay=0.9)
    module = fit(Growing(), method)
    average = method.average
    assert average.keys() == module.state_dict().keys() >= {"scale", "seen", "layers.1.weight"}
    assert {name: value.shape for name, value in average.items()} == {
        name: value.shape for name, value in module.state_dict().items()
    }
    # The new layer's average began with the layer, and is behind it by now; the old one's went on.
    for name in ("layers.0.weight", "layers.1.weight"):
        assert 0 < (average[name] - module.state_dict()[name]).abs().max() < 0.5


def test_an_input_that_is_changed_in_place(fit) -> None:
    class Hasty(Growing):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x.mul_(2))

    with pytest.raises(StepError, match="MESA: the module's own forward changes its input in place"):
        fit(Hasty(), MESA(start_epoch=0))


def test_nothing_averaged_yet() -> None:
    with pytest.raises(StepError, match="MESA has averaged nothing yet"):
        MESA().average  # noqa: B018


class Talkative(LightningModule):
    """A forward that leaves traces of every kind, some of them in tensors its own graph needs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.register_buffer("steps", torch.zeros(()))
        self.scale = torch.ones(3)
        self.sizes: list[int] = []
        self.count = 0
        self.total = SumMetric()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.layer(x + 0.1 * torch.randn_like(x)) * self.scale
        self.scale = 0.9 * self.scale + 0.1 * logits.detach().mean(0)
        self.steps += 1
        self.sizes.append(len(x))
        self.count += 1
        self.total.update(len(x))
        self.log("mean", logits.detach().mean(), on_step=False, on_epoch=True, reduce_fx="sum")
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_further_pass_leaves_no_trace(fit, weights, dataset) -> None:
    """With a weight too small to matter, everything is as if there had been one pass."""
    plain, attached = Talkative(), Talkative()
    for module, methods in ((plain, ()), (attached, (MESA(1e-30, 0.9, start_epoch=0),))):
        torch.manual_seed(1)
        fit(module, *methods, data=dataset(), max_epochs=2)
    assert torch.equal(weights(attached), weights(plain))
    assert (attached.sizes, attached.count, attached.steps) == (plain.sizes, plain.count, plain.steps)
    assert attached.total.compute() == plain.total.compute() == 48
    assert torch.equal(attached.scale, plain.scale)
    assert torch.equal(attached.trainer.callback_metrics["mean"], plain.trainer.callback_metrics["mean"])


def test_a_slow_average_moves_in_half_precision(classifier, fit) -> None:
    """bfloat16 has eight bits: 0.9998 of it plus 0.0002 of something near is what it was before."""
    method = MESA(decay=0.9998, start_epoch=0)
    start = {name: value.clone() for name, value in classifier().bfloat16().state_dict().items()}
    module = fit(classifier(), method, precision="bf16-true", max_epochs=3)
    average = method.average
    assert {value.dtype for value in average.values()} == {torch.float32}
    assert all(not torch.equal(average[name], value.float()) for name, value in start.items())
    module.load_state_dict(average)


class Filtered(Normalised):
    """Leaves the frozen half out of its checkpoints."""

    def state_dict(self, *arguments: object, **keywords: object) -> dict[str, Tensor]:
        everything = super().state_dict(*arguments, **keywords)
        return {name: value for name, value in everything.items() if not name.startswith("norm")}


def test_what_a_module_leaves_out_of_checkpoints_is_averaged_too(fit) -> None:
    method = MESA(start_epoch=0, decay=0.5, output="norm", class_dim=1)
    module = fit(Filtered(), method, data=TensorDataset(torch.randint(0, 9, (16,))))
    assert method.average.keys() == {name for name, _ in _named(module)}
    assert not torch.equal(method.average["norm.running_mean"], module.norm.running_mean)


def _named(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


@pytest.mark.parametrize(
    "bad",
    [{"class_dim": 0}, {"class_dim": 1.5}, {"weight": -1}, {"decay": 1.0}, {"decay": -0.1}, {"temperature": 0}],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"MESA: {name}="):
        MESA(**bad)

"""Runs small enough to repeat: data, networks and a Trainer, and methods that show what the attachment hands them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from thunderstone import GradientStep, Method, UpdatePlan, UpdateStep, hookimpl

FEATURES, CLASSES = 6, 3


def samples(count: int = 24, seed: int = 0, dtype: torch.dtype = torch.float32) -> TensorDataset:
    """`count` points in FEATURES dimensions with labels of CLASSES classes, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    # Drawn in double precision whatever is asked for: the same points, only rounded.
    x = torch.randn(count, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return TensorDataset(x, torch.randint(CLASSES, (count,), generator=generator))


def loader(count: int = 24, batch_size: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    """`samples` in order."""
    return DataLoader(samples(count, seed, dtype), batch_size=batch_size)


def perceptron(*extra: nn.Module) -> nn.Sequential:
    """Two layers with `extra` between the first and its activation; the same weights every time."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), *extra, nn.Tanh(), nn.Linear(8, CLASSES))


class Classifier(LightningModule):
    """Cross entropy on a network, with an optimizer that a test chooses."""

    def __init__(
        self,
        net: nn.Module | None = None,
        optimizer: Callable[[Iterable[Any]], Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.net = net if net is not None else perceptron()
        self.build_optimizer = optimizer or sgd

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(batch)

    def configure_optimizers(self) -> Optimizer:
        return self.build_optimizer(self.parameters())


def sgd(parameters: Iterable[Any]) -> Optimizer:
    """SGD with momentum: what one update did wrong shows in all that follow."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def plain_sgd(parameters: Iterable[Any]) -> Optimizer:
    """SGD that moves weights by the very gradient it is given."""
    return torch.optim.SGD(parameters, lr=1.0)


def trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    """A silent Trainer on the CPU, for one epoch unless told otherwise."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
    }
    return Trainer(callbacks=list(callbacks), **{**quiet, **settings})


def fit(module: LightningModule, *callbacks: Callback, data: Any = None, seed: int = 7, **settings: Any) -> Trainer:
    """Fit `module` under a fixed seed and return the Trainer it was done with."""
    torch.manual_seed(seed)
    fitted = trainer(*callbacks, **settings)
    fitted.fit(module, loader() if data is None else data)
    return fitted


def half_precision(scale: float = 2.0**10) -> dict[str, Any]:
    """16-bit mixed precision on the CPU, which Lightning only offers as a plug-in; a Trainer setting."""
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))]}


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same_bits(first: nn.Module | dict[str, Tensor], second: nn.Module | dict[str, Tensor]) -> None:
    """Every parameter and buffer equal to the last bit."""
    left = state(first) if isinstance(first, nn.Module) else first
    right = state(second) if isinstance(second, nn.Module) else second
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different, f"differ: {different}"


def assert_moved(before: dict[str, Tensor], module: nn.Module, least: float = 1e-4) -> None:
    """Some weight is not where it was: the comparison that follows or precedes is about something."""
    after = state(module)
    assert max(float((before[name] - after[name]).abs().max()) for name in before if before[name].numel()) > least


class Ascend(Method):
    """Replaces the gradient by the one at ``w + rho * g / |g|``, and keeps both.

    Written on the public step object alone, so that what the attachment guarantees is seen without a family.
    """

    name = "ascend"
    exclusive = frozenset({"gradient"})

    def __init__(self, rho: float = 0.5, sync: bool = True) -> None:
        self.rho = rho
        self.sync = sync
        self._first: list[list[Tensor | None]] = []
        self._second: list[list[Tensor | None]] = []
        self._skipped: list[bool] = []
        self._parameters: list[nn.Parameter] = []

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute(local_gradients=not self.sync)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._parameters = step.parameters
        self._first.append(_copies(step.gradients))
        step.gradients = self.look(step)
        step.synchronised = True
        self._second.append(_copies(step.gradients))

    def look(self, step: GradientStep) -> list[Tensor | None]:
        """The gradients to step with."""
        factor = self.rho / step.norm()
        delta = [None if gradient is None else gradient * factor for gradient in step.gradients]
        with step.perturbed(delta) if self.rho else nullcontext():
            return step.recompute()

    @hookimpl
    def after_update(self, step: UpdateStep) -> None:
        self._skipped.append(step.skipped)


class Again(Ascend):
    """A second pass at the same weights whose gradients are looked at and dropped: it must change nothing at all."""

    name = "again"

    def __init__(self) -> None:
        super().__init__(rho=0.0)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._parameters = step.parameters
        self._first.append(_copies(step.gradients))
        self._second.append(_copies(self.look(step)))


class Spy(Method):
    """Keeps the gradients it is shown; asks for nothing."""

    name = "spy"

    def __init__(self) -> None:
        self._seen: list[list[Tensor | None]] = []

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        self._seen.append(_copies(step.gradients))


def assert_second_pass_is_the_first(method: Again, tolerance: float = 0.0) -> None:
    """The gradients of both passes of every update agree (to the last bit, unless told otherwise)."""
    assert method._first, "no update was made"
    for first, second in zip(method._first, method._second, strict=True):
        for one, other in zip(first, second, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(other, one, rtol=0, atol=tolerance)


def _copies(tensors: Iterable[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.detach().clone() for tensor in tensors]

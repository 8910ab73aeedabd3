"""Two replicas over gloo: what they end with goes to ``<folder>/rank<number>.pt``. Run by test_data_parallel.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from thunderstone import GradientStep, Method, UpdatePlan, hookimpl
from thunderstone_estimators import SVRG, GradientVariance

UPDATES = 6


class Classifier(LightningModule):
    """Double precision, and no statistics: one process with the joint batch must give the same."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


class Local(Method):
    """Doubles each replica's own gradient and leaves it to the attachment to average them."""

    name = "local"

    @hookimpl
    def plan_update(self, plan: UpdatePlan) -> None:
        plan.request_recompute(local_gradients=True)

    @hookimpl
    def transform_gradients(self, step: GradientStep) -> None:
        assert step.replicas == 1 or not step.synchronised
        step.gradients = [None if gradient is None else 2 * gradient for gradient in step.gradients]


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def ended(replicas: int, *methods: Callback, accumulate: int = 1, **strategy: Any) -> dict[str, Any]:
    """Weights, what SVRG keeps and what was measured, after the same joint batches whatever the number of replicas."""
    module, data = Classifier(), samples()
    # Two batches to an update leave one whole update an epoch, which has no variance.
    monitor = GradientVariance(every_n_steps=2 if accumulate == 1 else 100, draws=3)

    def loader() -> DataLoader[Any]:
        sampler = DistributedSampler(data, shuffle=False) if replicas > 1 else None
        return DataLoader(data, batch_size=8 // replicas, sampler=sampler)

    # Made by the module once the processes know one another.
    module.train_dataloader = loader
    trainer = Trainer(
        accelerator="cpu",
        devices=replicas,
        strategy=DDPStrategy(**strategy) if replicas > 1 else "auto",
        max_epochs=UPDATES // 3,
        accumulate_grad_batches=accumulate,
        callbacks=[monitor, *methods],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module)
    found: dict[str, Any] = {"weights": torch.cat([p.detach().flatten() for p in module.parameters()])}
    for method in methods:
        if isinstance(method, SVRG):
            found |= {f"snapshot {name}": value for name, value in method.state_dict()["gradient"].items()}
    for reading in monitor.readings:
        assert reading.plain_variance is not None
        found |= {f"variance {reading.step}": reading.variance, f"plain {reading.step}": reading.plain_variance}
    return found


def experiments(replicas: int) -> dict[str, dict[str, Any]]:
    """Each coefficient, gradients that are views into buckets, and a method that works on local gradients."""
    return {
        "fixed": ended(replicas, SVRG(1.0, "fixed")),
        "optimal": ended(replicas, SVRG(1.0, "optimal"), gradient_as_bucket_view=True),
        # Three batches an epoch: the last update is half of one.
        "accumulated": ended(replicas, SVRG(1.0, "fixed"), accumulate=2),
        "local": ended(replicas, Local()),
        "svrg of local": ended(replicas, SVRG(0.5, "fixed"), Local()),
    }


if __name__ == "__main__":
    results = experiments(2)
    torch.save(results, Path(sys.argv[1]) / f"rank{torch.distributed.get_rank()}.pt")

"""Two replicas over gloo: what they end with goes to ``<folder>/rank<number>.pt``. Run by test_data_parallel.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from thunderstone_sharpness import IGNITE, MESA, SAF, SAM, GradientNorm

# Not a multiple of two: a sampler for two replicas hands one sample to both of them.
SAMPLES = 23


class Classifier(LightningModule):
    """Calls its own forward, with or without statistics that each replica keeps for itself."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        norm = nn.BatchNorm1d(6) if normalised else nn.Identity()
        self.net = nn.Sequential(nn.Linear(4, 6), norm, nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def samples(number: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(number, 4, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())


def states(module: LightningModule, methods: list[Any]) -> dict[str, Any]:
    """Weights, and what each method ended with: the state it would save, without asking other replicas."""
    found = {"weights": torch.cat([parameter.detach().flatten() for parameter in module.parameters()])}
    for method in methods:
        kept = {} if isinstance(method, SAM) else method.state_dict()
        found.update({f"{method.name}.{key}": value for key, value in kept.items()})
    return found


def trainer(callbacks: list[Callback], replicas: int, **settings: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=replicas,
        max_epochs=5,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"strategy": "ddp" if replicas > 1 else "auto", **settings},
    )


def in_order(replicas: int) -> dict[str, Any]:
    """SAF, MESA and GradientNorm on the same joint batches, whatever the number of replicas."""
    module = Classifier(normalised=False)
    methods = [
        SAF(2.0, 1.0, epochs_back=1, start_epoch=1, dtype="float32"),
        MESA(2.0, 0.5, 1.0, start_epoch=1),
        GradientNorm(0.1, 0.5, sync=True),
    ]
    data = samples(24)

    def loader() -> DataLoader[Any]:
        sampler = DistributedSampler(data, shuffle=False) if replicas > 1 else None
        return DataLoader(data, batch_size=8 // replicas, sampler=sampler)

    # Made by the module once the processes know one another.
    module.train_dataloader = loader
    trainer([*methods], replicas, use_distributed_sampler=False, enable_checkpointing=False).fit(module)
    return states(module, methods[:2])


def shuffled(folder: Path, checkpoint: Path | None) -> dict[str, Any]:
    """SAM, SAF and MESA together, with normalisation and a shuffled, padded data set; from a checkpoint or whole."""
    module = Classifier(normalised=True)
    methods = [
        SAM(0.1),
        SAF(2.0, 1.0, epochs_back=1, start_epoch=1),
        MESA(2.0, 0.5, 1.0, start_epoch=1),
    ]
    torch.manual_seed(1)
    saving = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=8, save_top_k=-1)
    run = trainer([*methods, *([] if checkpoint else [saving])], 2, enable_checkpointing=checkpoint is None)
    run.fit(module, DataLoader(samples(SAMPLES), batch_size=4, shuffle=True), ckpt_path=checkpoint)
    return states(module, methods)


TWO_PASSES = {
    "gradient norm, averaged": lambda: GradientNorm(0.1, 0.5, sync=True),
    "gradient norm, own": lambda: GradientNorm(0.1, 0.5),
    "SAM, averaged": lambda: SAM(0.1, sync=True),
    "SAM, own": lambda: SAM(0.1),
    "IGNITE": lambda: IGNITE(0.5, rho=0.1),
}


def in_buckets(name: str, views: bool, accumulate: int) -> dict[str, Any]:
    """Methods with a second pass, whose gradients DDP writes into the same buckets; with views, `.grad` lies there."""
    module = Classifier(normalised=False)
    strategy = DDPStrategy(process_group_backend="gloo", gradient_as_bucket_view=views)
    run = trainer(
        [TWO_PASSES[name]()], 2, strategy=strategy, enable_checkpointing=False, accumulate_grad_batches=accumulate
    )
    run.fit(module, DataLoader(samples(24), batch_size=4))
    return states(module, [])


def main(folder: Path) -> None:
    results = {"in order": in_order(2), "whole": shuffled(folder, None)}
    # Three batches an epoch: the eighth update is the second of the third epoch.
    results["resumed"] = shuffled(folder, folder / "step=8.ckpt")
    for accumulate in (1, 2):
        for views in (False, True):
            found = {name: in_buckets(name, views, accumulate) for name in TWO_PASSES}
            results[f"{'views' if views else 'copies'} of {accumulate}"] = found
    torch.save(results, folder / f"rank{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

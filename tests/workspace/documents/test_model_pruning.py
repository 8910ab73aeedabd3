"""What docs/coming_from/model_pruning.md says of Lightning's own callback, measured."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pytestmark = pytest.mark.filterwarnings("ignore")


class Layers(LightningModule):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 10), nn.Linear(10, 10)
        if tied:
            self.second.weight = self.first.weight

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        (x,) = batch
        return (self.second(torch.relu(self.first(x))) - x).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(TensorDataset(torch.randn(16, 10)), batch_size=8)


def trained(module: LightningModule, pruning: ModelPruning, epochs: int = 1, resumed: str | None = None) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs, callbacks=[pruning], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ckpt_path=resumed)
    return trainer


def pruning(permanent: bool, name: str = "l1_unstructured", tickets: bool = False, amount: float = 0.8) -> ModelPruning:
    return ModelPruning(
        name,
        amount=lambda epoch: 0 if epoch and not tickets else amount,
        parameter_names=["weight"],
        make_pruning_permanent=permanent,
        use_lottery_ticket_hypothesis=tickets,
    )


def test_a_resumed_run_loses_its_sparsity_or_does_not_load(tmp_path):
    torch.manual_seed(0)
    checkpoint = str(tmp_path / "pruned.ckpt")
    module, again = Layers(), Layers()
    trained(module, pruning(permanent=True)).save_checkpoint(checkpoint)
    assert abs(float((module.first.weight == 0).float().mean()) - 0.8) < 0.1
    trained(again, pruning(permanent=True), 2, checkpoint)
    assert bool((again.first.weight != 0).all())

    module = Layers()
    trained(module, pruning(permanent=False)).save_checkpoint(checkpoint)
    assert "first.weight_orig" in module.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        trained(Layers(), pruning(permanent=False), 2, checkpoint)


def test_a_buffer_named_like_a_mask_cannot_be_saved(tmp_path):
    module = Layers()
    module.register_buffer("user_mask", torch.ones(2))
    with pytest.raises(KeyError, match="user_orig"):
        trained(module, pruning(permanent=True)).save_checkpoint(tmp_path / "pruned.ckpt")


def test_tied_weights_come_apart_under_random_pruning():
    torch.manual_seed(0)
    module = Layers(tied=True)
    trained(module, pruning(permanent=False, name="random_unstructured", amount=0.5))
    assert not torch.equal(module.first.weight_mask, module.second.weight_mask)


@pytest.mark.parametrize(("epochs", "rewound"), [(1, True), (2, False)])
def test_on_a_cpu_tickets_are_rewound_once(epochs, rewound):
    torch.manual_seed(0)
    module = Layers()
    initial = module.first.weight.detach().clone()
    trained(module, pruning(permanent=True, tickets=True, amount=0.3), epochs)
    left = module.first.weight != 0
    assert torch.equal(module.first.weight[left], initial[left]) == rewound


def test_masks_that_stay_cannot_be_copied_nor_trained_again():
    module, callback = Layers(), pruning(permanent=False, tickets=True, amount=0.5)
    trained(module, callback)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    with pytest.raises(RuntimeError, match="deepcopy"):
        trained(module, callback)

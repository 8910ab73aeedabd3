"""Pruning by the loss's answer to each connection."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from thunderstone import ArgumentError, StepError, UnsupportedSettingError
from thunderstone_pruning import SNIP, FixedMask
from thunderstone_pruning.mask_files import Ticket


@pytest.mark.parametrize("batches", [1, 3])
def test_masks_and_training_are_those_written_by_hand(
    classifier, fit, by_hand, keep_by_sorting, same, dataset, batches
) -> None:
    """Lee et al. 2019, eq. 4 and 6: the largest |w dL/dw| of the mean loss of the first batches."""
    module = classifier(dtype=torch.float64)
    reference = by_hand(module)
    method = SNIP(0.3, batches)
    fit(module, method, data=dataset(torch.float64))
    every = [reference.gradients(number) for number in range(batches)]
    scores = {
        name: (reference.weights[name] * torch.stack([one[name] for one in every]).mean(0)).abs()
        for name in reference.names
    }
    reference.masks = keep_by_sorting(scores, round(0.3 * 42))
    assert all(method.masks[name].double().equal(mask) for name, mask in reference.masks.items())
    reference.mask()
    for _ in range(6):
        reference.update()
    same(module, reference.weights)


def test_looking_leaves_no_trace(classifier, fit, dataset, tmp_path) -> None:
    """With dropout, running statistics and shuffling: the run of the same masks without having looked."""

    def run(method) -> dict[str, torch.Tensor]:
        module = classifier(noisy=True)
        fit(module, method, data=DataLoader(dataset(), batch_size=8, shuffle=True))
        return module.state_dict()

    method = SNIP(0.5, batches=2)
    found = run(method)
    path = Ticket(method.masks).save(tmp_path / "masks.ckpt")
    expected = run(FixedMask(str(path)))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_other_scores(classifier, fit) -> None:
    method, module = SNIP(0.5, score="magnitude"), classifier()
    weights = torch.cat([module.net[0].weight.detach().flatten(), module.net[2].weight.detach().flatten()]).abs()
    fit(module, method, max_steps=1, max_epochs=-1)
    kept = torch.cat([method.masks["net.0.weight"].flatten(), method.masks["net.2.weight"].flatten()])
    assert kept.sum() == 21
    assert weights[kept].min() > weights[~kept].max()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_without_a_loss_are_passed_over(classifier, fit, dataset) -> None:
    class Skipping(type(classifier())):
        def training_step(self, batch, batch_idx):
            return None if batch_idx != 1 else super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    module = Skipping()
    method = SNIP(0.3)
    fit(module, method)
    reference = SNIP(0.3)
    x, y = dataset().tensors
    fit(classifier(), reference, data=torch.utils.data.TensorDataset(x[8:16], y[8:16]))
    assert all(method.masks[name].equal(reference.masks[name]) for name in method.masks)

    class Silent(type(classifier())):
        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(StepError, match="SNIP: training_step returned no loss"):
        fit(Silent(), SNIP(0.3))


def test_an_overflow_under_a_grad_scaler_is_looked_at_again_with_a_smaller_scale(classifier, fit) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    def scaled(scale: float) -> tuple[SNIP, dict]:
        method = SNIP(0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        seen = {}

        class First(SNIP):
            def on_train_start(self, trainer, pl_module):
                super().on_train_start(trainer, pl_module)
                seen.update(scaler.state_dict())

        method = First(0.5)
        fit(
            classifier(), method, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)], max_steps=1, max_epochs=-1
        )
        return method, seen

    large, state = scaled(2.0**40)
    assert state["scale"] == 2.0**40
    usual, _ = scaled(2.0**8)
    differing = sum(int((large.masks[name] != usual.masks[name]).sum()) for name in usual.masks)
    assert large.masks.kept == usual.masks.kept == 21
    assert differing <= 2


def test_nan_names_the_layer(classifier, fit) -> None:
    module = classifier()
    with torch.no_grad():
        module.net[2].weight[0, 0] = torch.nan
    with pytest.raises(ArgumentError, match=r"SNIP: scores\[.*\]=nan is not allowed: such scores have no order"):
        fit(module, SNIP(0.5))
    assert not any((parameter == 0).any() for parameter in module.parameters())


def test_manual_optimization_is_refused(classifier, fit) -> None:
    module = classifier()
    module.automatic_optimization = False
    with pytest.raises(UnsupportedSettingError, match="SNIP cannot run with manual optimization"):
        fit(module, SNIP(0.5))


@pytest.mark.parametrize("bad", [{"density": 0}, {"batches": 0}, {"score": "snap"}, {"seed": -1}, {"empty": "x"}])
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"SNIP: {name}="):
        SNIP(**bad)

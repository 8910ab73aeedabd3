"""The best of several random sparse networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from thunderstone import ArgumentError, StepError, UnsupportedSettingError
from thunderstone_pruning import FixedMask, RandomPruning, RandomSearch, Ticket


def masked_loss(module: nn.Module, masks: dict[str, torch.Tensor], batches: list[tuple[torch.Tensor, ...]]) -> float:
    """The mean loss of the classifier under masks, written out."""
    net = module.net
    first, second = (net[place].weight.detach() * masks[f"net.{place}.weight"] for place in (0, 2))
    losses = [
        nn.functional.cross_entropy(torch.tanh(x @ first.T + net[0].bias) @ second.T + net[2].bias, y)
        for x, y in batches
    ]
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize("batches", [1, 2])
def test_the_network_of_the_lowest_loss_is_trained(classifier, fit, dataset, batches) -> None:
    found = RandomSearch(0.4, candidates=6, batches=batches)
    fit(classifier(dtype=torch.float64), found, data=dataset(torch.float64))
    module = classifier(dtype=torch.float64)
    x, y = dataset(torch.float64).tensors
    seen = [(x[8 * number : 8 * number + 8], y[8 * number : 8 * number + 8]) for number in range(batches)]
    losses, masks = [], []
    for seed in range(6):
        method = RandomPruning(0.4, seed=seed)
        fit(classifier(dtype=torch.float64), method, data=dataset(torch.float64), max_steps=1, max_epochs=-1)
        masks.append(dict(method.masks))
        losses.append(masked_loss(module, masks[-1], seen))
    best = losses.index(min(losses))
    assert len(set(losses)) == 6
    assert all(found.masks[name].equal(mask) for name, mask in masks[best].items())


def test_looking_leaves_no_trace(classifier, fit, dataset, tmp_path) -> None:
    """With dropout, running statistics and shuffling: the run of the same masks without having looked."""

    def run(method) -> dict[str, torch.Tensor]:
        module = classifier(noisy=True)
        fit(module, method, data=DataLoader(dataset(), batch_size=8, shuffle=True))
        return module.state_dict()

    method = RandomSearch(0.5, candidates=4, batches=2)
    found = run(method)
    expected = run(FixedMask(str(Ticket(method.masks).save(tmp_path / "masks.ckpt"))))
    assert all(found[name].equal(expected[name]) for name in expected)


def test_without_a_finite_loss_nothing_is_pruned(classifier, fit) -> None:
    module = classifier()
    with torch.no_grad():
        module.net[2].bias[0] = torch.nan
    with pytest.raises(StepError, match="RandomSearch: none of 3 networks has a finite loss"):
        fit(module, RandomSearch(0.5, candidates=3))
    assert not any((parameter == 0).any() for parameter in module.parameters())


def test_manual_optimization_is_refused(classifier, fit) -> None:
    module = classifier()
    module.automatic_optimization = False
    with pytest.raises(UnsupportedSettingError, match="RandomSearch cannot run with manual optimization"):
        fit(module, RandomSearch(0.5))


@pytest.mark.parametrize(
    "bad", [{"density": 0}, {"candidates": 0}, {"batches": 0}, {"distribution": "x"}, {"seed": -1}]
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"RandomSearch: {name}="):
        RandomSearch(**bad)

"""LAMP against its definition, and in the hands of another package's methods."""

from __future__ import annotations

from typing import Any

import pytest
import thunderstone
import torch
from torch import nn

from thunderstone_flint.lamp import lamp, lamp_score


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 4), (2, 3, 2, 2)])
def test_against_the_definition(shape: tuple[int, ...]) -> None:
    """score(u) = W[u]^2 / sum over v >= u of W[v]^2, with the weights in ascending order of their magnitude."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    flat = weight.flatten().tolist()
    expected = [w**2 / sum(v**2 for v in flat if abs(v) >= abs(w)) for w in flat]
    torch.testing.assert_close(lamp_score(weight).flatten().tolist(), expected, rtol=1e-12, atol=0)


def test_what_is_pruned_stays_last() -> None:
    assert lamp_score(torch.tensor([[0.0, -2.0], [0.0, 1.0]])).tolist() == [[0.0, 1.0], [0.0, pytest.approx(0.2)]]
    assert lamp_score(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert lamp_score(torch.empty(0)).tolist() == []


def test_the_scale_of_a_layer_does_not_count() -> None:
    weight = torch.randn(50, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    torch.testing.assert_close(lamp_score(1e3 * weight), lamp_score(weight))


def test_half_precision_is_summed_in_single() -> None:
    weight = torch.full((70_000,), 1.0, dtype=torch.float16)  # a sum above what float16 holds
    scores = lamp_score(weight)
    assert scores.dtype == torch.float32
    assert scores.max() == 1
    assert scores.min().item() == pytest.approx(1 / 70_000)


def test_it_is_found_by_kind_and_name() -> None:
    assert thunderstone.strategy("pruning.score", "lamp") is lamp


def test_no_layer_is_emptied(fit: Any, module: Any) -> None:
    """By magnitude, a layer of small weights goes as a whole; by LAMP, every layer keeps its largest."""
    pruning = pytest.importorskip("thunderstone_pruning")

    def kept(score: str) -> list[int]:
        network = module()
        with torch.no_grad():
            network.net[0].weight.mul_(1e-3)
        settings = {"density": 0.25, "stop": 2, "interval": 1, "schedule": "one_shot", "include": "*weight"}
        trained = fit(network, pruning.GradualPruning(score=score, **settings))
        return [int(layer.weight.count_nonzero()) for layer in trained.net if isinstance(layer, nn.Linear)]

    assert sum(kept("lamp")) == sum(kept("magnitude")) == 4
    assert min(kept("lamp")) >= 1
    assert kept("lamp")[0] > kept("magnitude")[0]

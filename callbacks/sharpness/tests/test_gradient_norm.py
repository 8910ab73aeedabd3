"""The gradient-norm penalty against the paper's algorithm, and its two exact special cases."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from thunderstone import ArgumentError, CompositionError
from thunderstone_sharpness import SAM, GradientNorm
from thunderstone_sharpness.gradient_norm import mixed_gradients


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_alpha_one_is_sam_bit_for_bit(classifier, fit, weights, accumulate, precision) -> None:
    settings = {"accumulate_grad_batches": accumulate, "precision": precision}
    sam = fit(classifier(momentum=0.9), SAM(rho=0.1), **settings)
    penalised = fit(classifier(momentum=0.9), GradientNorm(r=0.1, alpha=1), **settings)
    assert torch.equal(weights(sam), weights(penalised))
    assert not torch.equal(weights(sam), weights(fit(classifier(momentum=0.9), **settings)))


@pytest.mark.parametrize("off", [{"alpha": 0}, {"r": 0}])
def test_alpha_zero_is_the_plain_run(classifier, fit, weights, off) -> None:
    assert torch.equal(weights(fit(classifier(), GradientNorm(**off))), weights(fit(classifier())))


def test_against_the_algorithm_in_float64(classifier, fit, weights, dataset) -> None:
    """Algorithm 1 of the paper, in a plain loop."""
    r, alpha, rate = 0.07, 0.6, 0.2
    data = dataset(torch.float64)
    trained = fit(classifier(dtype=torch.float64), GradientNorm(r=r, alpha=alpha), data=data)

    net = classifier(dtype=torch.float64).net
    parameters = list(net.parameters())
    for _ in range(2):
        for x, y in DataLoader(data, batch_size=8):
            first = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), parameters)
            norm = sum(g.square().sum() for g in first).sqrt()
            with torch.no_grad():
                for parameter, g in zip(parameters, first, strict=True):
                    parameter += r * g / norm
            second = torch.autograd.grad(nn.functional.cross_entropy(net(x), y), parameters)
            with torch.no_grad():
                for parameter, g, g_up in zip(parameters, first, second, strict=True):
                    parameter -= r * g / norm
                    parameter -= rate * ((1 - alpha) * g + alpha * g_up)
    torch.testing.assert_close(weights(trained), weights(net), rtol=1e-10, atol=1e-12)


def test_mixture_where_a_gradient_is_missing() -> None:
    one = torch.ones(2)
    mixed = mixed_gradients([one, None, one, None], [one * 3, one, None, None], 0.25)
    assert [None if g is None else g.tolist() for g in mixed] == [[1.5, 1.5], [0.25, 0.25], [0.75, 0.75], None]


@pytest.mark.parametrize("bad", [{"r": -1}, {"r": float("nan")}, {"alpha": -0.1}, {"alpha": "big"}, {"sync": 1}])
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"GradientNorm: {name}="):
        GradientNorm(**bad)


def test_it_cannot_share_the_gradient(classifier, fit) -> None:
    with pytest.raises(CompositionError, match="GradientNorm and SAM"):
        fit(classifier(), GradientNorm(), SAM())

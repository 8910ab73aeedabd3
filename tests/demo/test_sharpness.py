"""The demo's two measures against dense references."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thunderstone.demo.sharpness import cross_entropy_of, largest_eigenvalue, loss_rise


def _classifier():
    network = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    return network, torch.randn(40, 5, dtype=torch.float64), torch.randint(0, 3, (40,))


def _dense_hessian(loss, parameters):
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters, create_graph=True)])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True) for entry in gradient]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


def test_the_eigenvalue_is_that_of_the_dense_hessian():
    network, images, labels = _classifier()
    loss, parameters = cross_entropy_of(network, images, labels), list(network.parameters())
    expected = torch.linalg.eigvalsh(_dense_hessian(loss, parameters))[-1].item()
    found = largest_eigenvalue(loss, parameters, torch.Generator().manual_seed(0), tolerance=1e-8)
    assert found == pytest.approx(expected, rel=1e-6)
    quick = largest_eigenvalue(loss, parameters, torch.Generator().manual_seed(0))
    assert quick == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("spectrum", [[3.0, -7.0, 1.0, 0.5], [2.0, 2.0, 2.0, 2.0], [-1.0, -2.0, -3.0, -4.0]])
def test_it_is_the_largest_and_not_the_largest_in_magnitude(spectrum):
    curvature = torch.tensor(spectrum, dtype=torch.float64)
    weights = torch.ones(4, dtype=torch.float64, requires_grad=True)
    found = largest_eigenvalue(lambda: (curvature * weights**2).sum() / 2, [weights], torch.Generator().manual_seed(1))
    assert found == pytest.approx(max(spectrum), rel=1e-2)


def test_the_rise_is_that_of_a_step_along_the_gradient():
    network, images, labels = _classifier()
    radii = [0.1, 0.7]
    rises = loss_rise(network, images, labels, radii, batch_size=20)
    expected = torch.zeros(2, dtype=torch.float64)
    for batch, truth in ((images[:20], labels[:20]), (images[20:], labels[20:])):
        loss = cross_entropy_of(network, batch, truth)
        parameters = dict(network.named_parameters())
        gradients = dict(zip(parameters, torch.autograd.grad(loss(), list(parameters.values())), strict=True))
        length = sum(float(gradient.pow(2).sum()) for gradient in gradients.values()) ** 0.5
        for number, radius in enumerate(radii):
            moved = {name: weight + radius * gradients[name] / length for name, weight in parameters.items()}
            there = nn.functional.cross_entropy(torch.func.functional_call(network, moved, batch), truth)
            expected[number] += float(there.detach() - loss().detach()) / 2
    torch.testing.assert_close(rises, expected)
    assert (rises > 0).all()


def test_the_rise_leaves_weights_and_gradients_alone_also_after_an_error():
    network, images, labels = _classifier()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss_rise(network, images, labels, [0.5], batch_size=40)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    network.register_forward_pre_hook(lambda *_: 1 / 0 if len(calls) == 1 else None)
    with pytest.raises(ZeroDivisionError):
        loss_rise(network, images, labels, [0.5], batch_size=40)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())

"""Making modules smaller, and what belongs to them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thunderstone import ArgumentError
from thunderstone_pruning import Structure, load_structure, plan_channels
from thunderstone_pruning.structure import PassThrough


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def structure(x) -> Structure:
    return plan_channels(network(), lambda m: m(x), 0.5)


def test_a_saved_one_makes_a_new_module_into_the_one_that_was_saved(x, structure, tmp_path) -> None:
    net = network()
    structure.apply(net)
    path = Structure(**{**vars(structure), "weights": net.state_dict()}).save(tmp_path / "folder" / "structure.pt")
    found, other = load_structure(path), network(seed=9)
    found.apply(other)
    other.load_state_dict(found.weights)
    assert other(x).equal(net(x))
    assert sum(p.numel() for p in other.parameters()) == 4 * 5 + 4 + 2 * 4 + 4 * 3 + 3
    assert repr(other) == repr(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)))


def test_twice_is_once(x, structure) -> None:
    net = network()
    structure.apply(net)
    before = copy.deepcopy(net.state_dict())
    structure.apply(net)
    assert structure.applied_to(net)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


def test_another_architecture_is_refused_and_left_alone(structure) -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ArgumentError, match=r"structure='3.weight' is not allowed: the structure is of a module with"):
        structure.apply(net)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    with pytest.raises(ArgumentError, match="structure='1' is not allowed: Sequential has no such submodule"):
        Structure(removed=("1",)).apply(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adafactor])
def test_optimizers_go_on_with_what_is_left(x, structure, kind) -> None:
    net = network()
    optimizer = kind(net.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))

    def step() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    step()
    weights = list(net.parameters())
    state = {key: value.clone() for key, value in optimizer.state[net[3].weight].items() if value is not None}
    structure.apply(net, [optimizer])
    assert [id(p) for p in net.parameters()] == [id(p) for p in weights]
    kept = structure.kept["3.weight"][1]
    found = optimizer.state[net[3].weight]
    if kind is torch.optim.Adafactor:
        # Moments by row and column belong to no entry: they begin anew.
        assert found == {}
    else:
        slots = [key for key, value in state.items() if value.shape == (3, 8)]
        assert slots
        assert all(found[key].equal(state[key][:, kept]) for key in slots)
    step()
    assert all(p.grad.shape == p.shape for p in net.parameters())


def test_removed_blocks_leave_the_optimizer(x) -> None:
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2))
    groups = [{"params": [net[0].weight, net[1].weight, net[1].bias]}, {"params": [net[0].bias, *net[2].parameters()]}]
    optimizer = torch.optim.Adam(groups, lr=0.1)
    net(x).sum().backward()
    optimizer.step()
    gone = list(net[1].parameters())
    Structure(removed=("1",)).apply(net, [optimizer])
    assert isinstance(net[1], PassThrough)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 3]
    assert not any(parameter in optimizer.state for parameter in gone)
    assert net(x).equal(net[2](net[0](x)))
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_tied_weights_stay_tied(x) -> None:
    net = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    net[1].weight = net[0].weight
    rows = torch.tensor([0, 2])
    shapes = {"0.weight": (5, 5), "1.weight": (5, 5)}
    Structure(shapes, {name: [rows, rows] for name in shapes}).apply(net)
    assert net[0].weight is net[1].weight
    assert net[0].weight.shape == (2, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_result_can_be_exported(x, structure) -> None:
    net = network().eval()
    structure.apply(net)
    expected = net(x)
    exported = torch.export.export(net, (x,))
    torch.testing.assert_close(exported.module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(net, x)(x), expected)
    torch.testing.assert_close(torch.jit.script(net)(x), expected)


@pytest.mark.parametrize("content", [None, b"nothing", {"state_dict": {}}])
def test_files_that_hold_none(tmp_path, content) -> None:
    path = tmp_path / "file.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ArgumentError, match=r"load_structure: path=.*HINT: pass a file that StructuredPruning or"):
        load_structure(path)

"""Which channels go, and that nothing else does."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone_pruning import plan_channels


class Joined(nn.Module):
    """A residual sum, a concatenation, a grouped and a depthwise convolution, a flattened map."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, width, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.side = nn.Conv2d(2, 4, 1)
        self.merge = nn.Conv2d(width + 4, 6, 1)
        self.hidden = nn.Linear(24, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.norm(self.stem(x)))
        first = first + self.grouped(torch.relu(self.inner(first)))
        joined = self.merge(torch.cat([torch.relu(self.depthwise(first)), torch.relu(self.side(x))], dim=1))
        return self.head(torch.relu(self.hidden(nn.functional.adaptive_avg_pool2d(joined, 2).flatten(1))))


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(width: int = 6) -> Joined:
    torch.manual_seed(2)
    net = Joined(width).double().eval()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
    return net


def silenced(net: nn.Module, structure) -> nn.Module:
    """The whole network, in which what the structure leaves out is multiplied with zero where it is read.

    A depthwise layer goes through its channels one by one; what is left out is not read by the layer behind it.
    """
    whole = copy.deepcopy(net)
    with torch.no_grad():
        for name, indices in structure.kept.items():
            tensor = dict(whole.named_parameters()).get(name)
            if tensor is None or tensor.dim() < 2 or indices[1] is None:
                continue
            gone = torch.ones(tensor.shape[1], dtype=torch.bool)
            gone[indices[1]] = False
            tensor[:, gone] = 0
    return whole


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 5), st.floats(0.05, 0.7), st.sampled_from(["layer", "global"]), st.sampled_from(["l1", "l2"]))
def test_the_smaller_network_is_the_whole_one_that_does_not_read_what_went(half, ratio, scope, score) -> None:
    net = network(2 * half)
    x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(half), dtype=torch.float64)
    structure = plan_channels(net, lambda m: m(x), ratio, scope=scope, score=score, empty="keep_one")
    before = copy.deepcopy(net.state_dict())
    smaller = copy.deepcopy(net)
    structure.apply(smaller)
    torch.testing.assert_close(smaller(x), silenced(net, structure)(x), rtol=1e-10, atol=1e-12)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert [smaller.stem.out_channels, smaller.norm.num_features] == [smaller.stem.weight.shape[0]] * 2
    assert smaller.depthwise.groups == smaller.depthwise.weight.shape[0] == smaller.grouped.weight.shape[0]


def test_the_filters_with_the_smallest_norms_go(inputs) -> None:
    """Li et al. 2017, section 3.1: the sum of the absolute weights of a filter."""
    net = network()
    structure = plan_channels(net, lambda m: m(inputs), 0.5)
    for name, parts in (("inner", 2), ("hidden", 1)):
        weight = net.get_submodule(name).weight
        sums = [sum(abs(value) for value in row) for row in weight.flatten(1).tolist()]
        size = len(sums) // parts
        of_part = [sum(sums[place + size * part] for part in range(parts)) for place in range(size)]
        best = sorted(range(size), key=lambda place: of_part[place])[round(size / 2) :]
        expected = sorted(place + size * part for part in range(parts) for place in best)
        assert structure.kept[f"{name}.weight"][0].tolist() == expected


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.34, 0.5, 0.75])
def test_counts_are_exact(inputs, ratio) -> None:
    net = network()
    smaller = copy.deepcopy(net)
    plan_channels(net, lambda m: m(inputs), ratio, exclude="grouped").apply(smaller)
    assert smaller.hidden.out_features == 10 - round(ratio * 10)
    assert smaller.side.out_channels == 4 - round(ratio * 4)
    assert smaller.head.out_features == 3
    # Added to one another: excluded together.
    assert smaller.stem.out_channels == smaller.grouped.out_channels == 6


def test_the_smallest_scales_go(inputs) -> None:
    """Liu et al. 2017, section 3: the channels whose scale in the normalisation is smallest, over all layers."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
        nn.Linear(16, 5), nn.Linear(5, 2),
    ).double()  # fmt: skip
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.1, -0.9, 0.3, 0.8]))
        net[4].weight.copy_(torch.tensor([1.0, 0.2, -0.05, 2.0]))
    structure = plan_channels(net, lambda m: m(inputs), 0.5, score="normalisation_scale", scope="global")
    assert structure.kept["0.weight"][0].tolist() == [1, 3]
    assert structure.kept["3.weight"][0].tolist() == [0, 3]
    # Nothing normalises the hidden layer.
    assert "7.weight" not in structure.kept
    assert structure.kept["6.weight"][1].tolist() == [0, 1, 2, 3, 12, 13, 14, 15]


def test_a_loss_is_as_good_as_the_output(inputs) -> None:
    net, labels = network(), torch.tensor([0, 1, 2])
    one = plan_channels(net, lambda m: m(inputs), 0.5)
    two = plan_channels(net, lambda m: nn.functional.cross_entropy(m(inputs), labels), 0.5)
    assert one.kept.keys() == two.kept.keys()
    assert all(
        (a is None and b is None) or a.equal(b)
        for name in one.kept
        for a, b in zip(one.kept[name], two.kept[name], strict=True)
    )


def test_a_layer_that_would_be_empty(inputs) -> None:
    net = network()
    with pytest.raises(ArgumentError, match=r"layer='[a-z, ]*inner[a-z, ]*' is not allowed: it would have no"):
        plan_channels(net, lambda m: m(inputs), 0.9)
    smaller = copy.deepcopy(net)
    plan_channels(net, lambda m: m(inputs), 0.9, empty="keep_one").apply(smaller)
    # Two parts, of which each keeps one.
    assert smaller.inner.out_channels == 2
    assert smaller.hidden.out_features == 1
    smaller(inputs)


class Counts(nn.Module):
    """Its code knows how many channels there are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).view(-1, 64))


@pytest.mark.parametrize(
    ("net", "arguments", "message"),
    [
        (Joined, {"exclude": "nothing"}, "exclude='nothing' is not allowed: it matches no layer"),
        (Joined, {"include": "haed"}, "include='haed' is not allowed: it matches no layer. HINT: Did you mean 'head'"),
        (Joined, {"include": "head"}, "module='Joined' is not allowed: none of its layers can lose channels"),
        (Joined, {"score": "l3"}, "score='l3'"),
        (Joined, {"scope": "all"}, "scope='all'"),
        (Joined, {"ratio": 1.5}, "ratio=1.5"),
        (Counts, {}, "module='Counts' is not allowed: without those channels it does not run"),
        (
            lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(64, 2)),
            {"score": "normalisation_scale"},
            "score='normalisation_scale' is not allowed: no prunable layer has batch normalisation",
        ),
    ],
)
def test_what_cannot_be_is_said(inputs, net, arguments, message) -> None:
    module = net()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ArgumentError, match=f"plan_channels: {message}"):
        plan_channels(module, lambda m: m(inputs.float()), **{"ratio": 0.5, **arguments})
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())


def test_without_the_library_it_says_how_to_get_it(inputs, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ImportError, match=r"torch-pruning, which is not installed. HINT: pip install 'thunder"):
        plan_channels(network(), lambda m: m(inputs), 0.5)


class Written(nn.Module):
    """Layers of given sizes, and code that uses them."""

    def __init__(self, code, **layers: nn.Module) -> None:
        super().__init__()
        self.code = code
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, x)


def test_frozen_layers_keep_their_channels_and_so_does_what_is_added_to_them() -> None:
    def code(net: nn.Module, x: Tensor) -> Tensor:
        stem = net.stem(x)
        return net.head(torch.relu(net.wide(torch.relu(stem + net.body(stem)))))

    parts = {"stem": nn.Linear(5, 8), "body": nn.Linear(8, 8), "wide": nn.Linear(8, 6), "head": nn.Linear(6, 3)}
    net = Written(code, **parts)
    x = torch.randn(2, 5)
    assert "body.weight" in plan_channels(net, lambda m: m(x), 0.5).kept
    net.stem.requires_grad_(False)
    found = plan_channels(net, lambda m: m(x), 0.5)
    assert set(found.kept) == {"wide.weight", "wide.bias", "head.weight"}
    found.apply(net)
    assert (net.stem.weight.shape, net.wide.weight.shape) == ((8, 5), (3, 8))
    assert not net.stem.weight.requires_grad


def test_tied_weights_that_would_lose_other_channels() -> None:
    def code(net: nn.Module, x: Tensor) -> Tensor:
        return net.d(torch.relu(net.c(torch.relu(net.b(torch.relu(net.a(x)))))))

    net = Written(code, a=nn.Linear(5, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8), d=nn.Linear(8, 3))
    net.c.weight = net.b.weight
    with pytest.raises(ArgumentError, match=r"module='c.weight' is not allowed: it is the same tensor as 'b.weight'"):
        plan_channels(net, lambda m: m(torch.randn(2, 5)), 0.5)
    # Both read what is added to an embedding: the same channels go.
    text = Written(lambda m, x: m.h(m.e(x) + m.l(m.e(x))), e=nn.Embedding(9, 8), l=nn.Linear(8, 8), h=nn.Linear(8, 9))
    text.h.weight = text.e.weight
    ids = torch.randint(0, 9, (2, 4))
    plan_channels(text, lambda m: m(ids), 0.5).apply(text)
    assert text.h.weight is text.e.weight
    assert text(ids).shape == (2, 4, 9)


def counts(net: nn.Module, x: Tensor) -> Tensor:
    h = net.a(x)
    if h.shape[1] != 16:
        raise AssertionError
    return net.c(h)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            lambda: Written(
                lambda m, x: m.c(nn.functional.glu(m.a(x))), a=nn.Linear(5, 16), c=nn.Linear(8, 3)
            ),
            r"torch-pruning does not follow the channels of a \(IndexError: .*exclude=\['a'\]",
        ),
        (
            lambda: Written(counts, a=nn.Linear(5, 16), c=nn.Linear(16, 3)),
            r"without those channels it does not run \(AssertionError\)",
        ),
        (
            lambda: Written(
                lambda m, x: m.c(m.a(x)), a=nn.utils.parametrizations.weight_norm(nn.Linear(5, 16)), c=nn.Linear(16, 3)
            ),
            "none of its layers can lose channels",
        ),
    ],
    ids=["glu", "asserts", "parametrized"],
)  # fmt: skip
def test_what_torch_pruning_cannot_follow_is_said(net, message) -> None:
    with pytest.raises(ArgumentError, match=f"plan_channels: module='Written' is not allowed: {message}"):
        plan_channels(net(), lambda m: m(torch.randn(2, 5)), 0.5)


@pytest.mark.parametrize(
    ("between", "warned"),
    [
        (lambda h: h.flatten(1), False),
        (lambda h: h.permute(0, 2, 3, 1).flatten(1), True),
        (lambda h: h.flip(1).flatten(1), True),
        (lambda h: nn.functional.dropout(h).flatten(1), False),
    ],
    ids=["in order", "permuted", "flipped", "random"],
)
def test_channels_out_of_order_are_warned_of(between, warned, recwarn) -> None:
    torch.manual_seed(0)
    net = Written(lambda m, x: m.c(between(torch.relu(m.a(x)))), a=nn.Conv2d(2, 8, 3), c=nn.Linear(128, 3))
    x = torch.randn(3, 2, 6, 6)
    plan_channels(net, lambda m: m(x), 0.5)
    assert [str(w.message)[:39] for w in recwarn] == warned * ["plan_channels: the smaller Written is n"]

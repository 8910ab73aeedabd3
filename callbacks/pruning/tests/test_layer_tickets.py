"""Removing whole blocks before training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from thunderstone import ArgumentError
from thunderstone_pruning import LayerTickets, load_structure, residual_blocks
from thunderstone_pruning.structure import PassThrough

sys.path.insert(0, str(Path(__file__).parent))
try:
    from structured_networks import Images, Net, images
finally:
    sys.path.remove(str(Path(__file__).parent))

BLOCKS = ["net.blocks.0", "net.blocks.1", "net.blocks.3", "net.blocks.4"]


def module() -> Images:
    torch.manual_seed(0)
    return Images()


def train(fit, method, **settings):
    return fit(module(), method, data=images(), **{"max_epochs": 1, **settings})


def gone(trained: Images) -> list[str]:
    return [name for name, layer in trained.named_modules() if isinstance(layer, PassThrough)]


def test_residual_blocks_are_found() -> None:
    net = Net()
    assert residual_blocks(net, lambda m: m(torch.randn(2, 1, 6, 6))) == [name[4:] for name in BLOCKS]
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


class Scales(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)


class Product(Scales):
    def forward(self, x):
        return x * self.layer(x)


class Normalised(Scales):
    def forward(self, x):
        return nn.functional.layer_norm(x + self.layer(x), (4,))


class Prenormalised(Scales):
    def forward(self, x, again=True):
        x = x + self.layer(nn.functional.layer_norm(x, (4,)))
        return x + nn.functional.gelu(self.layer(x)) if again else x


class InPlace(Scales):
    def forward(self, x):
        x += self.layer(x)
        return nn.functional.relu(x, inplace=True)


class Inner(Scales):
    def __init__(self) -> None:
        super().__init__()
        self.block = Prenormalised()

    def forward(self, x):
        return x + self.layer(self.block(x))


@pytest.mark.parametrize(
    ("block", "found"),
    [
        (Product, []),
        (Normalised, []),
        (Prenormalised, ["1"]),
        (InPlace, ["1"]),
        (Inner, ["1"]),
    ],
)
def test_what_a_residual_block_is(block, found) -> None:
    net = nn.Sequential(nn.Linear(3, 4), block(), nn.Linear(4, 2))
    assert residual_blocks(net, lambda m: m(torch.randn(2, 3))) == found


@pytest.mark.parametrize(
    ("order", "expected"), [("first", BLOCKS[:2]), ("last", BLOCKS[2:]), ("random", None)], ids=str
)
def test_half_of_them_go(fit, tmp_path, order, expected) -> None:
    method = LayerTickets(order=order)
    trained = train(fit, method, default_root_dir=tmp_path)
    assert len(gone(trained)) == 2
    assert expected is None or gone(trained) == expected
    known = load_structure(tmp_path / "structure.pt")
    assert (known.metadata["blocks_before"], known.metadata["blocks_after"]) == (4, 2)
    assert known.metadata["parameters_after"] == sum(p.numel() for p in trained.parameters())
    assert known.metadata["flops_after"] < known.metadata["flops_before"]


def test_it_trains_as_the_network_without_them(fit, tmp_path) -> None:
    """By hand: the blocks taken out before `fit`, under the same random numbers."""
    plain = module()
    for name in BLOCKS[2:]:
        plain.net.blocks[int(name[-1])] = nn.Identity()
    torch.manual_seed(4)
    fit(plain, data=images(), max_epochs=2)
    torch.manual_seed(4)
    found = train(fit, LayerTickets(order="last", structure=None), max_epochs=2, default_root_dir=tmp_path)
    assert found.state_dict().keys() == plain.state_dict().keys()
    assert all(value.equal(found.state_dict()[name]) for name, value in plain.state_dict().items())


def test_seeds_choose(fit, tmp_path) -> None:
    chosen = {}
    for seed in (0, 1, 2, 3, 0):
        found = tuple(gone(train(fit, LayerTickets(seed=seed, structure=None), max_steps=1, default_root_dir=tmp_path)))
        assert chosen.setdefault(seed, found) == found
    assert len(set(chosen.values())) > 1


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_ends_with_the_same_bits(fit, tmp_path) -> None:
    def run(checkpoint=None):
        saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        settings = {"default_root_dir": tmp_path, "max_epochs": 2, "enable_checkpointing": True}
        method = LayerTickets(structure=None)
        return fit(module(), method, saves, data=images(), ckpt_path=checkpoint, **settings)

    whole = run()
    resumed = run(tmp_path / "step=4.ckpt")
    assert gone(resumed) == gone(whole)
    assert all(value.equal(resumed.state_dict()[name]) for name, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"include": "net.blocks.[01]", "fraction": 0.9}, BLOCKS[:2]),
        ({"exclude": "net.blocks.[01]", "fraction": 0.9}, BLOCKS[2:]),
        # Not residual, and asked for.
        ({"include": "net.stem.1", "fraction": 0.9}, ["net.stem.1"]),
        ({"fraction": 0.0}, []),
        ({"fraction": 0.1}, []),
    ],
    ids=str,
)
def test_patterns(fit, tmp_path, arguments, expected) -> None:
    assert gone(train(fit, LayerTickets(**arguments, structure=None), default_root_dir=tmp_path)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"include": "net.blocks.7"}, "include='net.blocks.7' is not allowed: it matches no block"),
        ({"include": "net.blocks.2"}, "include='net.blocks.2' is not allowed: it matches no block"),
        ({"include": ["net.blocks.0", "net.blocks.0.norm"]}, "include=.*'net.blocks.0.norm' lies in 'net.blocks.0'"),
        ({"exclude": "*"}, r"exclude='\*' is not allowed: it matches every block"),
    ],
    ids=str,
)
def test_what_cannot_be_is_said(fit, tmp_path, arguments, message) -> None:
    with pytest.raises(ArgumentError, match=f"LayerTickets: {message}"):
        train(fit, LayerTickets(**arguments), default_root_dir=tmp_path)


def test_a_network_without_blocks_is_refused(classifier, fit) -> None:
    with pytest.raises(ArgumentError, match="module='Classifier' is not allowed: it has no residual blocks"):
        fit(classifier(), LayerTickets())


@pytest.mark.parametrize(
    "bad",
    [{"fraction": 1}, {"fraction": -1}, {"order": "middle"}, {"seed": -1}, {"structure": ""}, {"include": ""}],
    ids=str,
)
def test_bad_arguments(bad) -> None:
    (name,) = bad
    with pytest.raises(ArgumentError, match=f"LayerTickets: {name}="):
        LayerTickets(**bad)

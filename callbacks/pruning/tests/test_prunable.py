"""Which parameters are pruned."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thunderstone import ArgumentError
from thunderstone_pruning import prunable_parameters


class Tagger(nn.Module):
    """One of each kind of layer; the head's weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.lstm = nn.LSTM(8, 4, num_layers=1, bidirectional=True)
        self.attention = nn.MultiheadAttention(8, 2)
        self.conv = nn.Sequential(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8), nn.LayerNorm([8, 5]))
        self.offsets = nn.Parameter(torch.zeros(3, 8))
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight


EVERYTHING = [
    "embed.weight",
    "lstm.weight_ih_l0",
    "lstm.weight_hh_l0",
    "lstm.weight_ih_l0_reverse",
    "lstm.weight_hh_l0_reverse",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "conv.0.weight",
]


def test_weight_matrices_by_default_in_the_modules_order() -> None:
    module = Tagger()
    found = prunable_parameters(module)
    assert list(found) == EVERYTHING
    assert all(found[name] is module.get_parameter(name) for name in found)


def test_projections_of_different_widths() -> None:
    found = prunable_parameters(nn.MultiheadAttention(8, 2, kdim=3, vdim=5))
    assert list(found) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"]


def test_frozen_weights_are_left_alone_unless_named() -> None:
    module = Tagger()
    module.lstm.requires_grad_(False)
    assert list(prunable_parameters(module)) == [name for name in EVERYTHING if not name.startswith("lstm")]
    assert list(prunable_parameters(module, include="lstm.weight_ih_l0")) == ["lstm.weight_ih_l0"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("lstm*", None, EVERYTHING[1:5]),
        (["conv.*", "attention*"], ["*.out_proj", "conv.2"], ["attention.in_proj_weight", "conv.0.weight"]),
        # By any name of a tied weight, and by its layer's.
        ("head", None, ["embed.weight"]),
        (None, "head.weight", EVERYTHING[1:]),
        # What is no usual weight, when it is named: by a pattern when it is a matrix, otherwise in full.
        ("off*", None, ["offsets"]),
        (["conv.1.bias", "conv.0"], None, ["conv.0.weight", "conv.1.bias"]),
    ],
)
def test_patterns(include, exclude, expected) -> None:
    assert list(prunable_parameters(Tagger(), include, exclude)) == expected


@pytest.mark.parametrize(
    ("include", "exclude", "message"),
    [
        ("lstn*", None, r"Tester: include='lstn\*' is not allowed: it matches no parameter"),
        ("embed.weigth", None, "Did you mean 'embed.weight'"),
        (None, "heed.weight", "Tester: exclude='heed.weight'.*matches no parameter.*Did you mean 'embed.weight'"),
        (None, ["e*", "*"], r"exclude=\['e\*', '\*'\] is not allowed: it matches everything.*embed.weight, lstm"),
        ([], None, r"include=\[\] is not allowed: an empty pattern matches nothing"),
        (3, None, "include=3 is not allowed: it must be text or a list of texts"),
        (None, ["a", 3], "exclude=.*it must be text or a list of texts"),
    ],
)
def test_patterns_that_cannot_be(include, exclude, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        prunable_parameters(Tagger(), include, exclude, who="Tester")


def test_a_module_without_layers_to_prune() -> None:
    with pytest.raises(ArgumentError, match="module='BatchNorm1d' is not allowed: it has no trainable weights"):
        prunable_parameters(nn.BatchNorm1d(3))


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_has_no_weights_yet() -> None:
    with pytest.raises(ArgumentError, match=r"module='0.weight'.*lazy layer"):
        prunable_parameters(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2)))

"""What is left of a network, and its operations against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.flop_counter import FlopCounterMode

from thunderstone import ArgumentError
from thunderstone_pruning import sparsity_report


@pytest.fixture
def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.ConvTranspose2d(8, 4, 2, stride=2),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 10),
    )


def test_flops_are_those_of_torchs_counter(convolutions) -> None:
    x = torch.randn(2, 3, 8, 8)
    found = sparsity_report(convolutions, example_inputs=x)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        convolutions.eval()(x)
    assert found.flops == counter.get_total_flops()
    by_layer = {name.rpartition(".")[2]: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}
    assert {layer.name.split(".")[0]: layer.flops for layer in found.layers} == {
        name: flops for name, flops in by_layer.items() if name in "0346"
    }


def test_effective_operations_follow_the_density(convolutions) -> None:
    with torch.no_grad():
        convolutions[0].weight.view(-1)[::4] = 0
        convolutions[6].weight.view(-1)[: 1440 * 3 // 4] = 0
    found = {
        layer.name: layer for layer in sparsity_report(convolutions, example_inputs=torch.randn(1, 3, 8, 8)).layers
    }
    assert found["0.weight"].density == 0.75
    assert found["6.weight"].density == 0.25
    for layer in found.values():
        assert layer.effective_flops == layer.density * layer.flops
    assert found["3.weight"].density == 1


def test_totals_table_and_text(convolutions) -> None:
    with torch.no_grad():
        convolutions[6].weight.zero_()
    found = sparsity_report(convolutions, exclude="3")
    weights = 216 + 128 + 1440
    assert (found.weights, found.remaining) == (weights, 216 + 128)
    assert found.density == (216 + 128) / weights
    assert found.sparsity == 1 - found.density
    assert found.others == sum(p.numel() for p in convolutions.parameters()) - weights
    assert found.flops is found.effective_flops is None
    table = found.table()
    assert [row[0] for row in table.rows] == ["0.weight", "4.weight", "6.weight", "total"]
    assert table.rows[2] == ("6.weight", "10x144", 1440, 0, 0.0, None, None)
    lines = str(found).splitlines()
    assert lines[0].split() == list(table.columns)
    assert lines[-1].split() == ["total", "1,784", "344", "0.1928", "-", "-"]
    assert len({len(line) for line in lines}) == 1
    summary = found.summary()
    assert summary["layers"] == {"0.weight": 1.0, "4.weight": 1.0, "6.weight": 0.0}
    assert summary["remaining"] == 344


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_recurrent_layers_use_a_weight_once_a_step() -> None:
    lstm = nn.LSTM(6, 5, num_layers=2, bidirectional=True, proj_size=3)
    found = sparsity_report(lstm, example_inputs=(torch.randn(7, 2, 6),))
    assert [layer.flops for layer in found.layers] == [2 * 14 * layer.weights for layer in found.layers]
    assert len(found.layers) == 12
    packed = pack_padded_sequence(torch.randn(7, 2, 6), torch.tensor([7, 4]))
    assert sparsity_report(lstm, example_inputs=[packed]).flops == 2 * 11 * found.weights
    cell = nn.GRUCell(6, 5)
    assert sparsity_report(cell, example_inputs=torch.randn(3, 6)).flops == 2 * 3 * (15 * 6 + 15 * 5)


@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 4}])
def test_attention_counts_queries_keys_and_values_by_themselves(widths) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **widths)
    query, key, value = torch.randn(2, 3, 8), torch.randn(2, 5, widths.get("kdim", 8)), torch.randn(2, 5, 8)
    value = value[..., : widths.get("vdim", 8)]
    if not widths:
        with torch.no_grad():
            attention.in_proj_weight[:8] = 0
    found = sparsity_report(attention, example_inputs=(query, key, value))
    assert found.flops == 2 * (6 * 64 + 10 * 8 * key.shape[-1] + 10 * 8 * value.shape[-1] + 6 * 64)
    assert found.effective_flops == found.flops - (0 if widths else 2 * 6 * 64)


class TiedEncoder(nn.Module):
    """An embedding whose weight is the output's as well, around an encoder layer called with keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 11)
        self.out.weight = self.embed.weight
        self.unused = nn.Linear(2, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(input=self.layer(src=self.embed(tokens)))


def test_tied_weights_encoder_layers_and_what_was_not_called() -> None:
    found = {
        layer.name: layer
        for layer in sparsity_report(TiedEncoder(), example_inputs=torch.zeros(2, 5, dtype=torch.int64)).layers
    }
    assert found["embed.weight"].flops == 2 * 10 * 88
    assert found["layer.self_attn.in_proj_weight"].flops == 2 * 10 * 192
    assert found["layer.self_attn.out_proj.weight"].flops == 2 * 10 * 64
    assert found["layer.linear1.weight"].flops == 2 * 10 * 128
    assert found["unused.weight"].flops is None
    assert "out.weight" not in found


def test_the_forward_pass_leaves_no_trace(convolutions) -> None:
    convolutions[2].eval()
    before = {name: value.clone() for name, value in convolutions.state_dict().items()}
    random = torch.get_rng_state()
    sparsity_report(convolutions, example_inputs=torch.randn(2, 3, 8, 8, generator=torch.Generator()))
    assert all(value.equal(before[name]) for name, value in convolutions.state_dict().items())
    assert [layer.training for layer in convolutions] == [True, True, False, True, True, True, True]
    assert torch.get_rng_state().equal(random)
    assert not any(layer._forward_hooks for layer in convolutions.modules())


def test_masks_say_what_is_left() -> None:
    net = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    found = sparsity_report(net, masks={"weight": mask}, example_inputs=torch.ones(4, 3))
    assert (found.remaining, found.flops, found.effective_flops) == (3, 48, 24)
    with pytest.raises(ArgumentError, match=r"masks=\"mask 'weight' of shape \(2,\)\" is not allowed"):
        sparsity_report(net, masks={"weight": mask[:, 0]})

"""How often each weight is multiplied with something in a forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.rnn import PackedSequence

from thunderstone.isolation import ModuleState, RandomState


@dataclass(frozen=True)
class Use:
    """A part of a weight and how often each of its elements is used.

    Attributes:
        start: First row (of dimension 0).
        stop: One past the last row.
        times: Multiplications of each element.
    """

    start: int
    stop: int
    times: int


def weight_uses(module: nn.Module, example_inputs: Tensor | Sequence[Any]) -> dict[int, list[Use]]:
    """Run `module` once and count the uses of the weights in its layers, by the identity of the parameter.

    In evaluation mode and without gradients; running statistics, modes and random states are as before. Counted are
    convolutions, linear and bilinear layers, recurrent layers and attention's projections that are called as modules;
    an embedding looks up and multiplies nothing, and is listed with no use.

    Args:
        module: Any module; `forward` is called.
        example_inputs: Its positional arguments; a tensor is the only one.
    """
    uses: dict[int, list[Use]] = {}

    def note(layer: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        named = inspect.signature(layer.forward).bind(*arguments, **keywords).arguments
        for weight, use in _uses(layer, named, output):
            uses.setdefault(id(weight), []).append(use)

    inputs = [example_inputs] if isinstance(example_inputs, Tensor) else list(example_inputs)
    state = ModuleState(module)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    random = RandomState(device)
    modes = [(layer, layer.training) for layer in module.modules()]

    def restore_modes() -> None:
        for layer, training in modes:
            layer.training = training

    with ExitStack() as undo, torch.no_grad():
        undo.callback(random.restore)
        undo.callback(state.restore)
        undo.callback(restore_modes)
        for layer in module.modules():
            undo.callback(layer.register_forward_hook(note, with_kwargs=True).remove)
        module.eval()
        module(*inputs)
    return uses


def _uses(layer: nn.Module, named: dict[str, Any], output: Any) -> Iterator[tuple[nn.Parameter, Use]]:
    if isinstance(layer, _ConvTransposeNd):
        yield _all(layer.weight, named["input"].numel() // layer.in_channels)
    elif isinstance(layer, _ConvNd):
        yield _all(layer.weight, output.numel() // layer.out_channels)
    elif isinstance(layer, (nn.Linear, nn.Bilinear)):
        yield _all(layer.weight, output.numel() // layer.out_features)
    elif isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        yield _all(layer.weight, 0)
    elif isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        values = named["input"]
        steps = values.data.shape[0] if isinstance(values, PackedSequence) else values.numel() // layer.input_size
        for name, weight in layer.named_parameters(recurse=False):
            if name.startswith("weight_"):
                yield _all(weight, steps)
    elif isinstance(layer, nn.MultiheadAttention):
        yield from _attention(layer, named)


def _attention(layer: nn.MultiheadAttention, named: dict[str, Any]) -> Iterator[tuple[nn.Parameter, Use]]:
    inputs = (named["query"], named["key"], named["value"])
    widths = (layer.embed_dim, layer.kdim, layer.vdim)
    times = [tensor.numel() // width for tensor, width in zip(inputs, widths, strict=True)]
    packed = layer._parameters["in_proj_weight"]
    if packed is not None:
        for number, count in enumerate(times):
            yield packed, Use(number * layer.embed_dim, (number + 1) * layer.embed_dim, count)
    else:
        projections = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        for weight, count in zip(projections, times, strict=True):
            yield _all(weight, count)
    # Not called as a module.
    yield _all(layer.out_proj.weight, times[0])


def _all(weight: Any, times: int) -> tuple[nn.Parameter, Use]:
    return weight, Use(0, weight.shape[0], times)

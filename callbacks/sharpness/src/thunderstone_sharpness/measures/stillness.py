"""Holding everything still around a measure: what it touches is put back to the same bits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from thunderstone.isolation import ModuleState, RandomState
from thunderstone_sharpness.measures.noise import SEED


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Whatever happens inside, the module and the process are afterwards as they were, also after an exception.

    Put back to the same bits: parameters, ``.grad`` (set aside inside), buffers, statistics in plain attributes, modes
    and the global random states. Costs one copy of the parameters and buffers.
    """
    first = next(module.parameters(), None)
    parameters = list(module.parameters())
    with ExitStack() as stack:
        # Run in reverse and all of them, even if one raises.
        stack.callback(RandomState(first.device if first is not None else None).restore)
        stack.callback(ModuleState(module).restore)
        stack.callback(_put_back, parameters, [parameter.grad for parameter in parameters])
        stack.callback(_copy_back, parameters, [parameter.detach().clone() for parameter in parameters])
        for parameter in parameters:
            parameter.grad = None
        yield


def _put_back(parameters: list[nn.Parameter], gradients: list[Tensor | None]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@torch.no_grad()
def _copy_back(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


@contextmanager
def differentiable(module: nn.Module, *, twice: bool = False) -> Iterator[None]:
    """Gradients can be taken inside, in the precision of the weights.

    Inference mode, autocast and compiled graphs are left for the time being: a compiled forward has no second
    derivative, would be compiled anew for the evaluation mode, and a rounded loss hides small differences.

    Args:
        module: Recurrent layers in it run without cuDNN, whose kernels have no gradient in evaluation mode.
        twice: Second derivatives are needed. Attention then runs as plain matrix products: no fused attention kernel
            can be differentiated twice.
    """
    device = next((parameter.device.type for parameter in module.parameters()), "cpu")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device, enabled=False))
        if hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if any(isinstance(child, nn.RNNBase) for child in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if twice:
            stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
        yield


def outside_inference(value: Any) -> Any:
    """`value` with every inference tensor replaced by a copy that can take part in a graph."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if type(value) is dict:
        return {key: outside_inference(inner) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(outside_inference(inner) for inner in value)
    return value


def fixed_randomness(device: torch.device) -> RandomState:
    """Seed every global generator and take the state: a loss that draws is the same function in every measurement.

    To be called inside `unchanged`, which puts the generators back.
    """
    random.seed(SEED)
    np.random.seed(SEED)
    # Not torch.manual_seed, which seeds the devices of other processes' models too.
    torch.default_generator.manual_seed(SEED)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(SEED)
    return RandomState(device)

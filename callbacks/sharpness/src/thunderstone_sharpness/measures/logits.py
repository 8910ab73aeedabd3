"""Logit normalisation: takes the scale of the logits out of a measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone import ArgumentError
from thunderstone.errors import suggestion
from thunderstone_sharpness.measures.errors import MeasureError

_FLAG = "True for the module's own forward, or the name of the submodule that gives the logits, e.g. 'net.head'"


def normalised_logits(logits: Tensor, dim: int = -1) -> Tensor:
    """Logits centred and divided by their L2 norm over `dim`. Andriushchenko et al. 2023, arXiv 2302.07011, section 3.

    Without it a network that is merely more confident looks sharper. Logits that are all equal become zeros.

    Args:
        logits: Any shape, floating point.
        dim: The dimension of the classes.

    Returns:
        A tensor of the same shape.

    >>> normalised_logits(torch.tensor([[0.0, 6.0, 3.0]]))
    tensor([[-0.7071,  0.7071,  0.0000]])
    """
    centred = logits - logits.mean(dim, keepdim=True)
    length: Tensor = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    return centred / length.clamp_min(1e-12)


def check_where(method: str, value: object) -> bool | str:
    """`value` as a ``normalise_logits`` argument, or ArgumentError; `logits_of` finds the submodule."""
    if not isinstance(value, (bool, str)):
        reason = f"it must be a bool or a name, not {type(value).__name__}"
        raise ArgumentError(method, "normalise_logits", value, reason, f"pass {_FLAG}")
    return value


def logits_of(method: str, module: nn.Module, where: bool | str) -> tuple[str, nn.Module]:
    """Name and module whose output are the logits.

    Raises:
        ArgumentError: There is no submodule of the name.
    """
    checked = check_where(method, where)
    name = checked if isinstance(checked, str) else ""
    modules = dict(module.named_modules())
    if name not in modules:
        hint = suggestion(name, [known for known in modules if known])
        raise ArgumentError(method, "normalise_logits", where, f"{type(module).__name__} has no such submodule", hint)
    return name, modules[name]


@contextmanager
def with_normalised_logits(measure: str, module: nn.Module, where: bool | str) -> Iterator[None]:
    """The output of `module` (or of its submodule of the name `where`) is normalised inside.

    Raises:
        ArgumentError: There is no such submodule.
        MeasureError: The output is no tensor, or nothing passed through it.
    """
    if where is False:
        yield
        return
    name, target = logits_of(measure, module, where)
    described = f"submodule {name!r}" if name else f"{type(module).__name__}.forward"
    calls = 0

    def normalise(_: nn.Module, __: tuple[Any, ...], output: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if not isinstance(output, Tensor) or output.ndim == 0 or not output.is_floating_point():
            problem = f"normalise_logits={where!r}: the output of {described} is {type(output).__name__}, not logits"
            raise MeasureError(measure, problem, "name the submodule whose output is the tensor of logits")
        return normalised_logits(output)

    handle = target.register_forward_hook(normalise)
    try:
        yield
    finally:
        handle.remove()
    if calls == 0:
        problem = f"normalise_logits={where!r}, but the loss never called {described}"
        raise MeasureError(measure, problem, "name the submodule that the loss gets its logits from, e.g. 'net.head'")

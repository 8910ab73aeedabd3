"""Finding what can be taken out of a module: residual blocks, and whatever hands on the shape it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# What may lie between a block's addition and its output: activations, which hand on what has gone through one already.
_UNARY = ("Relu", "LeakyRelu", "Gelu", "Silu", "Elu", "Hardtanh", "Clone", "Alias")


def residual_blocks(module: nn.Module, run: Callable[[nn.Module], Any]) -> list[str]:
    """Names of the submodules whose output is their input plus something, of the same shape; the outermost of each.

    Such a block can be taken out: what it was given is handed on. A block with a layer in its shortcut (where the
    number of channels or the resolution changes) is none.

    Args:
        module: Run in place: pass a copy where that matters.
        run: Runs it, e.g. ``lambda m: m(x)``.
    """
    found: dict[str, bool] = {}
    given: dict[str, Tensor] = {}

    def before(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> Any:
            if not arguments or not isinstance(arguments[0], Tensor) or not arguments[0].is_floating_point():
                return None
            # A leaf of its own, to be met again at the end of the shortcut.
            given[name] = arguments[0].detach().requires_grad_()
            # In-place operations on a leaf are refused; a view of it may be written to.
            return (given[name].clone(), *arguments[1:])

        return hook

    def after(name: str) -> Callable[..., Any]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            start = given.pop(name, None)
            residual = (
                start is not None
                and isinstance(output, Tensor)
                and output.shape == start.shape
                and _reaches(output.grad_fn, start)
            )
            # Called several times: one way or the other every time.
            found[name] = found.get(name, True) and residual

        return hook

    handles = []
    for name, submodule in module.named_modules():
        holds = any(True for _ in submodule.children()) and any(True for _ in submodule.parameters())
        if name and holds:
            handles.append(submodule.register_forward_pre_hook(before(name)))
            handles.append(submodule.register_forward_hook(after(name)))
    try:
        with torch.enable_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
    return _outermost(module, [name for name, residual in found.items() if residual])


def same_shaped(module: nn.Module, run: Callable[[nn.Module], Any]) -> list[str]:
    """Names of the submodules whose output is one tensor of the shape of their first input, whatever they do.

    Args:
        module: Run in place.
        run: Runs it.
    """
    found: dict[str, bool] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            tensors = bool(arguments) and isinstance(arguments[0], Tensor) and isinstance(output, Tensor)
            found[name] = found.get(name, True) and tensors and arguments[0].shape == output.shape

        return hook

    handles = [submodule.register_forward_hook(note(name)) for name, submodule in module.named_modules() if name]
    try:
        run(module)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name, _ in module.named_modules() if found.get(name)]


def _outermost(module: nn.Module, names: Iterable[str]) -> list[str]:
    chosen = set(names)
    inside = {name for name in chosen for outer in chosen if name.startswith(f"{outer}.")}
    return [name for name, _ in module.named_modules() if name in chosen - inside]


def _reaches(node: Any, start: Tensor) -> bool:
    """Whether a way of additions and activations alone, with at least one addition, leads to the leaf."""
    waiting: list[tuple[Any, bool]] = [(node, False)]
    seen = set()
    while waiting:
        node, added = waiting.pop()
        if node is None or (node, added) in seen:
            continue
        seen.add((node, added))
        if added and getattr(node, "variable", None) is start:
            return True
        kind = node.name().partition("Backward")[0]
        if kind in ("Add", *_UNARY):
            waiting += [(before, added or kind == "Add") for before, _ in node.next_functions]
    return False

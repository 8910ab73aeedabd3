"""Which parameters of a module are pruned: weight matrices by default, and what patterns say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from thunderstone import ArgumentError
from thunderstone.errors import suggestion

Patterns = str | Sequence[str] | None

# Layers whose connections pruning is about, with the beginning of the names of their weights: no biases, no
# normalisation. An attention's output projection is a Linear of its own.
_WEIGHTS: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...]], ...] = (
    ((_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag), ("weight",)),
    ((nn.MultiheadAttention,), ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
    ((nn.RNNBase, nn.RNNCellBase), ("weight_",)),
)


def prunable_parameters(
    module: nn.Module, include: Patterns = None, exclude: Patterns = None, *, who: str = "prunable_parameters"
) -> dict[str, nn.Parameter]:
    """The parameters to prune, by their name in `module`, in its order; a tied weight once, under its first name.

    By default the trainable weights of convolutions, linear and bilinear layers, embeddings, recurrent layers and
    attention's projections. A pattern is compared (as a shell does: ``*`` any text, ``?`` any character) with the name
    of a parameter and with the name of the layer that holds it; a tied weight answers to all of its names.

    Args:
        module: Any module.
        include: Patterns of what to prune, among trainable parameters of two or more dimensions. A parameter named in
            full is taken whatever it is.
        exclude: Patterns of what not to prune.
        who: Named in errors.

    Raises:
        ArgumentError: A pattern matches nothing, nothing is left, or the module has nothing to prune.
    """
    included, excluded = check_patterns(who, "include", include), check_patterns(who, "exclude", exclude)
    names = _names(module)
    usual = {id(parameter) for layer in module.modules() for parameter in _usual(layer)}
    parameters = dict(module.named_parameters())
    chosen = {
        name: parameter for name, parameter in parameters.items() if parameter.requires_grad and id(parameter) in usual
    }
    if included:
        known = {name: parameter for name, parameter in parameters.items() if _may_be_included(parameter)}
        chosen = {}
        for pattern in included:
            exact = {name: p for name, p in parameters.items() if pattern in names[id(p)]}
            found = exact or {name: p for name, p in known.items() if _matches(pattern, names[id(p)])}
            if not found:
                _nothing(who, "include", pattern, known or parameters)
            chosen.update(found)
        chosen = {name: parameter for name, parameter in parameters.items() if name in chosen}
    if not chosen:
        layers = "convolutions, linear layers, embeddings, recurrent layers and attention"
        raise ArgumentError(
            who,
            "module",
            type(module).__name__,
            f"it has no trainable weights of {layers}",
            "name parameters in full with include=[…], or train a module that has such layers",
        )
    before = list(chosen)
    for pattern in excluded:
        out = {name for name, parameter in parameters.items() if _matches(pattern, names[id(parameter)])}
        if not out:
            _nothing(who, "exclude", pattern, parameters)
        chosen = {name: parameter for name, parameter in chosen.items() if name not in out}
    if not chosen:
        hint = f"leave something to prune; without exclude= these are: {', '.join(before)}"
        raise ArgumentError(who, "exclude", exclude, "it matches everything that could be pruned", hint)
    for name, parameter in chosen.items():
        _check(who, name, parameter)
    return chosen


def check_patterns(who: str, argument: str, patterns: Patterns) -> list[str]:
    """The patterns as a list; ArgumentError when they are no text, or empty."""
    if patterns is None:
        return []
    listed = [patterns] if isinstance(patterns, str) else patterns
    hint = "pass a pattern such as 'encoder.*', or a list of them; None is no pattern"
    if not isinstance(listed, (list, tuple)) or not all(isinstance(pattern, str) for pattern in listed):
        raise ArgumentError(who, argument, patterns, "it must be text or a list of texts", hint)
    if not listed or not all(listed):
        raise ArgumentError(who, argument, patterns, "an empty pattern matches nothing", hint)
    return list(listed)


def _usual(layer: nn.Module) -> Iterator[nn.Parameter]:
    for kinds, beginnings in _WEIGHTS:
        if isinstance(layer, kinds):
            for name, parameter in layer.named_parameters(recurse=False):
                if name.startswith(beginnings):
                    yield parameter


def _names(module: nn.Module) -> dict[int, set[str]]:
    """All names of every parameter, by its identity."""
    names: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return names


def _matches(pattern: str, names: set[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern) for name in names)


def _may_be_included(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and (isinstance(parameter, UninitializedParameter) or parameter.dim() >= 2)


def _nothing(who: str, argument: str, pattern: str, known: dict[str, nn.Parameter]) -> None:
    raise ArgumentError(who, argument, pattern, "it matches no parameter", suggestion(pattern, known))


def _check(who: str, name: str, parameter: nn.Parameter) -> None:
    if isinstance(parameter, UninitializedParameter):
        hint = "run a batch through the module first, or exclude it"
        raise ArgumentError(who, "module", name, "a lazy layer has no weights before its first batch", hint)
    if not parameter.is_floating_point():
        hint = "exclude it"
        raise ArgumentError(who, "module", name, f"weights of type {parameter.dtype} have no order", hint)

"""Which channels to remove, with everything that hangs on them: torch-pruning's dependency graph and exact counts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from thunderstone import ArgumentError
from thunderstone.arguments import finite, one_of
from thunderstone.errors import suggestion
from thunderstone_pruning.masks import EMPTY, global_masks, kept_after, layer_masks, refuse_empty
from thunderstone_pruning.probing import Probe
from thunderstone_pruning.prunable import Patterns, check_patterns
from thunderstone_pruning.structure import Structure

CHANNEL_SCORES = ("l1", "l2", "normalisation_scale")
SCOPES = ("layer", "global")

# Their output for one channel depends on the others.
_OVER_CHANNELS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.MultiheadAttention)
# Of the output's length: far above the rounding of 16 bits, far below what misplaced weights cause once trained.
_TOLERANCE = 0.05

Trace = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class _Channels:
    """Output channels that can only go together: of a layer, and of those that are added to it.

    Attributes:
        layers: Names of the layers whose outputs they are; the first is the one they are counted in.
        size: How many.
        parts: Equal parts (of a grouped convolution, of a group normalisation) that lose the same channels each.
        group: torch-pruning's, with all channels.
    """

    layers: tuple[str, ...]
    size: int
    parts: int
    group: Any


def plan_channels(
    module: nn.Module,
    trace: Trace,
    ratio: float,
    *,
    score: str = "l1",
    scope: str = "layer",
    include: Patterns = None,
    exclude: Patterns = None,
    empty: str = "refuse",
    who: str = "plan_channels",
) -> Structure:
    """The structure of `module` without the share `ratio` of its channels that score lowest; the module stays as it is.

    Channels of convolutions and linear layers go with all that depends on them: the normalisation behind them, the
    inputs of the next layers, and the channels of other layers they are added to. Layers that make the output (what
    `trace` returns) keep theirs, and so do frozen ones.

    Args:
        module: Any module; copied.
        trace: Runs a copy and returns tensors with their graph, e.g. ``lambda m: m(x)``, or a loss.
        ratio: Share of the channels of each layer, or of all together, between 0 and 1; to the nearest whole number.
        score: ``"l1"`` or ``"l2"``: norm of the filter (Li et al. 2017, arXiv 1608.08710); ``"normalisation_scale"``:
            the scale of the batch normalisation behind it (Liu et al. 2017, arXiv 1708.06519).
        scope: ``"layer"`` removes the share of each layer, ``"global"`` compares all layers, norms in units of the
            layer's mean.
        include: Patterns of layers that lose channels; None is all convolutions and linear layers.
        exclude: Patterns of layers that keep theirs.
        empty: A layer that would lose its last channel: ``"refuse"`` raises, ``"keep_one"`` leaves it its best.
        who: Named in errors.

    Raises:
        ArgumentError: An argument is out of range, no layer can lose channels, or the smaller module does not run.
        ImportError: torch-pruning is not installed.
    """
    one_of(who, "score", score, CHANNEL_SCORES)
    one_of(who, "scope", scope, SCOPES)
    one_of(who, "empty", empty, EMPTY)
    finite(who, "ratio", ratio, "0.5 removes every second channel", minimum=0, maximum=1)
    pruning = torch_pruning(who)
    work = copied(module)
    frozen = {layer for layer in work.modules() if any(not p.requires_grad for p in layer.parameters(recurse=False))}
    for parameter in work.parameters():
        # What hangs together is read off the graph of gradients; a frozen layer would be missing there.
        if parameter.is_floating_point():
            parameter.requires_grad_()
    with warnings.catch_warnings(), torch.enable_grad():
        # Its own remarks on operations it does not know; what comes out of them is tried below.
        warnings.simplefilter("ignore")
        graph = pruning.DependencyGraph().build_dependency(
            work, example_inputs=None, forward_fn=lambda traced, _: trace(traced), verbose=False
        )
        found = _prunable(pruning, graph, work, frozen, include, exclude, who)
        scores = _scores(pruning, found, score, scope, type(module).__name__, who)
        keep = _chosen(found, scores, ratio, scope, empty, who)
        probe = Probe(work)
        modules = dict(work.named_modules())
        for channels in found:
            gone = (~keep[channels.layers[0]]).nonzero().flatten().tolist() if channels.layers[0] in keep else []
            part = channels.size // channels.parts
            indices = [index + number * part for number in range(channels.parts) for index in gone]
            if indices:
                layer = modules[channels.layers[0]]
                prune = graph.get_pruner_of_module(layer).prune_out_channels
                with _understood(type(module).__name__, who, channels.layers):
                    graph.get_pruning_group(layer, prune, indices).prune(record_history=False)
        structure = probe.structure(who, {})
    _try(structure, module, trace, who)
    return structure


def torch_pruning(who: str) -> Any:
    """The library, or an ImportError that says how to get it."""
    try:
        import torch_pruning  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            f"{who} finds out which channels hang together with torch-pruning, which is not installed. HINT: pip "
            "install 'thunderstone-pruning[structured]'"
        ) from error
    return torch_pruning


def copied(module: nn.Module) -> nn.Module:
    """A copy that runs on its own: what torch.compile has put into a module would run the original."""
    twin = copy.deepcopy(module)
    for submodule in twin.modules():
        for name in ("forward", "training_step", "validation_step", "test_step", "predict_step", "_compiler_ctx"):
            vars(submodule).pop(name, None)
    return twin


def _prunable(
    pruning: Any, graph: Any, module: nn.Module, frozen: set[nn.Module], include: Patterns, exclude: Patterns, who: str
) -> list[_Channels]:
    names = {submodule: name for name, submodule in module.named_modules()}
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    layers = [name for submodule, name in names.items() if isinstance(submodule, kinds)]
    for argument, patterns in (("include", include), ("exclude", exclude)):
        for pattern in check_patterns(who, argument, patterns):
            if not any(fnmatchcase(name, pattern) for name in layers):
                raise ArgumentError(who, argument, pattern, "it matches no layer", suggestion(pattern, layers))
    included, excluded = check_patterns(who, "include", include), check_patterns(who, "exclude", exclude)
    known = (*kinds, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.Embedding)
    found = []
    for group in graph.get_all_groups(root_module_types=list(kinds)):
        holders = [dependency.target for dependency, _ in group]
        outputs = [d.target.module for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)]
        its = tuple(dict.fromkeys(names[layer] for layer in outputs if isinstance(layer, kinds)))
        real = [node.module for node in holders if node.module in names or isinstance(node.module, nn.Parameter)]
        if (
            # What reaches the output keeps its width, and so do layers the graph knows no way to cut exactly.
            any(not node.outputs for node in holders if node.module not in names or node.module in outputs)
            # What nobody trains is left alone, and what is added to it keeps as many channels.
            or not frozen.isdisjoint(outputs)
            or not all(isinstance(layer, known) and not is_parametrized(layer) for layer in real)
            or (included and not all(any(fnmatchcase(name, p) for p in included) for name in its))
            or any(fnmatchcase(name, pattern) for name in its for pattern in excluded)
        ):
            continue
        with _understood(type(module).__name__, who, its):
            parts = max(_parts(graph, layer) for layer in real)
        found.append(_Channels(its, len(group[0].idxs), parts, group))
    if not found:
        reason = "none of its layers can lose channels: they make the output, are frozen, excluded, or hang on such"
        hint = "look at include and exclude; attention and recurrent layers keep their width"
        raise ArgumentError(who, "module", type(module).__name__, reason, hint)
    return found


def _parts(graph: Any, layer: nn.Module) -> int:
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.in_channels == layer.out_channels:
        return 1
    pruner = graph.get_pruner_of_module(layer)
    return max(int(pruner.get_out_channel_groups(layer)), int(pruner.get_in_channel_groups(layer)))


def _scores(
    pruning: Any, found: Sequence[_Channels], score: str, scope: str, module: str, who: str
) -> dict[str, Tensor]:
    normalizer = "mean" if scope == "global" and score != "normalisation_scale" else None
    if score == "normalisation_scale":
        importance = pruning.importance.BNScaleImportance(group_reduction="mean", normalizer=None)
    else:
        power = 1 if score == "l1" else 2
        layers = [nn.modules.conv._ConvNd, nn.Linear]
        importance = pruning.importance.GroupMagnitudeImportance(
            p=power, group_reduction="first", normalizer=normalizer, target_types=layers
        )
    scores = {}
    for channels in found:
        with _understood(module, who, channels.layers):
            values = importance(channels.group)
        if values is not None:
            scores[channels.layers[0]] = values.detach().float().view(channels.parts, -1).mean(dim=0)
    if not scores:
        reason = "no prunable layer has batch normalisation with a scale behind it"
        raise ArgumentError(who, "score", score, reason, "use score='l1'")
    return scores


def _chosen(
    found: Sequence[_Channels], scores: dict[str, Tensor], ratio: float, scope: str, empty: str, who: str
) -> dict[str, Tensor]:
    """Which channels (of one part) stay, by the name of the layer they are counted in."""
    sizes = {name: score.numel() for name, score in scores.items()}
    if scope == "global":
        return global_masks(scores, kept_after(sum(sizes.values()), ratio), empty=empty, who=who)
    counts = {name: kept_after(size, ratio) for name, size in sizes.items()}
    emptied = [name for name, number in counts.items() if not number]
    if emptied and empty == "refuse":
        refuse_empty(who, emptied)
    return layer_masks(scores, {**counts, **dict.fromkeys(emptied, 1)}, who=who)


@contextmanager
def _understood(module: str, who: str, layers: Sequence[str]) -> Iterator[None]:
    """Turns whatever torch-pruning fails with into an error that says at which layers."""
    try:
        yield
    except Exception as error:
        reason = f"torch-pruning does not follow the channels of {', '.join(layers)} ({_text(error)})"
        raise ArgumentError(who, "module", module, reason, f"exclude={list(layers)}") from error


def _text(error: Exception) -> str:
    return ": ".join(filter(None, (type(error).__name__, str(error).partition("\n")[0])))


def _try(structure: Structure, module: nn.Module, trace: Trace, who: str) -> None:
    smaller = copied(module).eval()
    structure.apply(smaller, who=who)
    with torch.no_grad():
        try:
            found = trace(smaller)
        except Exception as error:
            raise ArgumentError(
                who,
                "module",
                type(module).__name__,
                f"without those channels it does not run ({_text(error)}): its code counts on a number of channels, or "
                "joins them in a way that torch-pruning does not follow",
                "take sizes from the tensors (x.flatten(1), x.shape) instead of numbers, or exclude the layers before",
            ) from error
        whole = copied(module).eval()
        _silence(whole, structure)
        expected = trace(whole)
        comparable = isinstance(found, Tensor) and isinstance(expected, Tensor) and found.shape == expected.shape
        # Normalised over channels it is another function; with random numbers it is another one each time.
        if not comparable or any(isinstance(layer, _OVER_CHANNELS) for layer in whole.modules()):
            return
        off = float((found - expected).norm()) / (float(expected.norm()) or 1.0)
        if off > _TOLERANCE and trace(whole).equal(expected):
            rank_zero_warn(
                f"{who}: the smaller {type(module).__name__} is not the whole one with those channels silenced (its "
                f"output is off by {off:.0%}). Either its code normalises over channels (a softmax, a norm), and all "
                "is well; or it changes their order (a permutation before flatten, a shuffle, a flip, a stack), and "
                "weights now lie at other channels than they were trained for. HINT: exclude the layers before, or "
                "build the module so that channels stay in order"
            )


def _silence(module: nn.Module, structure: Structure) -> None:
    """Multiply with zero what is left out of each parameter, in place."""
    for name, parameter in module.named_parameters():
        for dimension, indices in enumerate(structure.kept.get(name, ())):
            if indices is not None:
                stays = torch.zeros(parameter.shape[dimension], dtype=torch.bool)
                stays[indices] = True
                parameter.movedim(dimension, 0)[~stays.to(parameter.device)] = 0

"""The micro-batches of one accumulated update, with all that is needed to go through them again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.attachment.module_state import ModuleState
from thunderstone.attachment.untrained_parameters import UntrainedParameters
from thunderstone.errors import StepError
from thunderstone.random_state import RandomState


@dataclass
class UpdatePlan:
    """What the methods want of the update that is about to begin; handed to `plan_update`.

    Attributes:
        index: Number of the update, counted like `trainer.global_step`, from 0.
        recompute: Some method will go through the accumulated batch again.
        local_gradients: Some method wants the first pass's gradients of this replica alone.
    """

    index: int
    recompute: bool = False
    local_gradients: bool = False

    def request_recompute(self, *, local_gradients: bool = False) -> None:
        """Ask for the micro-batches of this update to be recorded, so that `GradientStep.recompute` works.

        Args:
            local_gradients: Under data parallelism, leave the first pass's gradients unsynchronised: each replica
                sees its own. What the method then leaves in `step.gradients` is averaged if it is still local.
        """
        self.recompute = True
        self.local_gradients = self.local_gradients or local_gradients


@dataclass
class MicroBatch:
    """One recorded call of `training_step`; `number` is that of the batch since training began.

    A `foreign` one is not of this run's training: it is drawn in a further pass, and its number is its place in there.

    Attributes:
        arguments: What `training_step` was called with, containers copied.
        keywords: Its keyword arguments.
        random_state: The random states before the call.
        module_state: The module's state before it; None where it is not put back.
        versions: Tensors of the batch with their version counters, which tell of changes in place.
        indices: Sample indices (B,), where they are tracked.
    """

    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    random_state: RandomState
    module_state: ModuleState | None
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    indices: Tensor | None = None
    number: int = 0
    foreign: bool = False

    @classmethod
    def take(
        cls,
        module: nn.Module,
        device: torch.device,
        arguments: tuple[Any, ...],
        keywords: dict[str, Any],
        indices: Tensor | None = None,
        untrained: UntrainedParameters | None = None,
        number: int = 0,
        foreign: bool = False,
    ) -> MicroBatch:
        """Record a call that is about to be made. Tensors are kept by reference, containers are copied."""
        arguments, keywords = copy_containers(arguments), copy_containers(keywords)
        versions: list[tuple[Tensor, int]] = []
        _collect_versions((arguments, keywords), versions)
        state = ModuleState(module, untrained)
        return cls(arguments, keywords, RandomState(device), state, versions, indices, number, foreign)

    def fresh_call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments for another pass, in containers of their own.

        Raises:
            StepError: The first pass changed a tensor of the batch in place.
        """
        for tensor, version in self.versions:
            if tensor._version != version:
                raise StepError(
                    f"training_step changed a batch tensor of shape {tuple(tensor.shape)} in place, so a second pass "
                    "would see another batch than the first. HINT: replace in-place operations on the batch "
                    "(x.add_(...), x[...] = ...) by their out-of-place forms (x = x + ...), or work on a clone"
                )
        return copy_containers(self.arguments), copy_containers(self.keywords)


@dataclass
class Window:
    """The accumulation window in progress. Empty between two updates.

    Attributes:
        plan: What the methods want of the update; None between two updates.
        epoch: The epoch the window belongs to.
        batches: The recorded micro-batches.
        handed_out_buffers: Rank 0's buffers went to all replicas when the window began.
    """

    plan: UpdatePlan | None = None
    epoch: int = -1
    batches: list[MicroBatch] = field(default_factory=list)
    handed_out_buffers: bool = True

    def clear(self) -> None:
        """Forget the window: the update is done, or was abandoned at an epoch's end."""
        self.plan = None
        self.batches.clear()

    def state_dict(self) -> dict[str, Any]:
        """The window for a checkpoint written between two micro-batches; empty between two updates.

        Tensors and primitives only. A batch that holds anything else cannot be stored; it is left out and
        ``complete`` says so.
        """
        if self.plan is None or not self.batches:
            return {}
        complete = all(_is_storable((batch.arguments, batch.keywords)) for batch in self.batches)
        return {
            "index": self.plan.index,
            "recompute": self.plan.recompute,
            "local_gradients": self.plan.local_gradients,
            "epoch": self.epoch,
            "complete": complete,
            "batches": [
                {
                    "arguments": batch.arguments,
                    "keywords": batch.keywords,
                    "indices": batch.indices,
                    "number": batch.number,
                    "random_state": batch.random_state.state_dict(),
                    "module_state": batch.module_state.portable() if batch.module_state is not None else {},
                }
                for batch in self.batches
            ]
            if complete
            else [],
        }

    def load_state_dict(self, state: dict[str, Any], module: nn.Module, device: torch.device) -> None:
        """Take up a window where a checkpoint left it.

        Raises:
            StepError: The window needs batches that could not be stored.
        """
        self.clear()
        if not state:
            return
        if state["recompute"] and not state["complete"]:
            raise StepError(
                "the checkpoint was written between two micro-batches of one update, and their batches hold objects "
                "that a checkpoint cannot store. HINT: save checkpoints at the end of an update (a multiple of "
                "accumulate_grad_batches), or let the loader yield tensors in lists, tuples and dicts"
            )
        self.plan = UpdatePlan(state["index"], state["recompute"], state["local_gradients"])
        self.epoch = state["epoch"]
        for saved in state["batches"]:
            arguments = _to_device(saved["arguments"], device)
            keywords = _to_device(saved["keywords"], device)
            versions: list[tuple[Tensor, int]] = []
            _collect_versions((arguments, keywords), versions)
            random_state = RandomState.from_state_dict(saved["random_state"], device)
            module_state = ModuleState.from_portable(module, saved["module_state"])
            self.batches.append(
                MicroBatch(
                    tuple(arguments), keywords, random_state, module_state, versions, saved["indices"], saved["number"]
                )
            )


def copy_containers(value: Any) -> Any:
    """Copy containers and batch objects, keep the tensors they hold; a `batch.pop()` then leaves the record alone.

    Lists, dicts, tuples and their subclasses, other mappings (a tokenizer's `BatchEncoding`) and objects of a class of
    one's own (a dataclass, a graph) are gone into.

    Args:
        value: A batch, or anything in one.
    """
    if isinstance(value, (Tensor, nn.Module, type)) or callable(value):
        return value
    if isinstance(value, tuple):
        copies = [copy_containers(inner) for inner in value]
        return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies) if copies else value
    if isinstance(value, list) and type(value) is list:
        return [copy_containers(inner) for inner in value]
    if isinstance(value, MutableMapping):
        copied = copy.copy(value)
        for key in list(copied):
            copied[key] = copy_containers(copied[key])
        return copied
    if isinstance(value, (list, set)) or _has_attributes(value):
        return _copied_object(value)
    return value


def _has_attributes(value: Any) -> bool:
    # Slots and C types hold no attributes that a batch could be taken apart by.
    return hasattr(value, "__dict__") and type(value).__module__ != "builtins"


def _copied_object(value: Any) -> Any:
    copied = copy.copy(value)
    if _has_attributes(copied) and copied is not value:
        attributes = vars(copied)
        for key, inner in list(attributes.items()):
            attributes[key] = copy_containers(inner)
    return copied


def _collect_versions(value: Any, into: list[tuple[Tensor, int]]) -> None:
    if isinstance(value, Tensor):
        if not value.is_inference():
            into.append((value, value._version))
    elif isinstance(value, Mapping):
        for inner in value.values():
            _collect_versions(inner, into)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _collect_versions(inner, into)
    elif not isinstance(value, (nn.Module, type)) and not callable(value) and _has_attributes(value):
        for inner in vars(value).values():
            _collect_versions(inner, into)


def _is_storable(value: Any) -> bool:
    if type(value) is dict:
        return all(isinstance(key, (str, int)) and _is_storable(inner) for key, inner in value.items())
    if type(value) in (list, tuple):
        return all(_is_storable(inner) for inner in value)
    return isinstance(value, (Tensor, bool, int, float, str, bytes, type(None)))


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to_device(inner, device) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_device(inner, device) for inner in value)
    return value

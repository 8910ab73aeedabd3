"""A captured output whose distribution is pulled towards another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from thunderstone import ArgumentError, LossStep, Method, StepError, UnknownNameError, hookimpl, strategy
from thunderstone.arguments import captured, finite, flag, one_of, whole
from thunderstone_estimators.sliced_wasserstein.choice import as_control_variate
from thunderstone_estimators.sliced_wasserstein.directions import DIRECTIONS
from thunderstone_estimators.sliced_wasserstein.distance import checked_chunk, sliced_wasserstein_distance

WHO = "SlicedWassersteinPenalty"
_TARGETS = (
    "name a prior ('normal', 'uniform', 'laplace', 'sphere'), an entry of the batch ('batch:0', 'batch:image') or "
    "another output ('output:decoder')"
)


class SlicedWassersteinPenalty(Method):
    """Pulls the distribution of an output towards a prior or a second batch: a Wasserstein auto-encoder, unchanged.

    Adds ``weight * SW_p^p(output, target)`` to the loss: the sliced Wasserstein distance between the points of a
    captured output in the batch and as many draws from a prior, or the points of an entry of the batch, or those of
    another captured output. With the code of an auto-encoder and a normal prior that is the sliced Wasserstein
    auto-encoder (Kolouri et al. 2018, arXiv 1804.01947); control variates as in Nguyen & Ho 2023, arXiv 2305.00402.
    Cost: no further pass; projections and sorting of the points, in every training step.

    The penalty is that of each micro-batch, and under data parallelism of each replica's. Directions and draws come
    from a generator that is made anew for each batch from the seed, the batch's number and the rank: the module's own
    random numbers are those of a run without the penalty, a resumed run draws what the uninterrupted one would have
    drawn, and replicas average over different directions.

    Args:
        weight: lambda, 0 or more; 0 switches the method off.
        output: Whose distribution is matched: None for the module's own forward, or the name of a submodule, with an
            entry after a colon where the output is no tensor (``"encoder"``, ``"net:code"``).
        call: Which call of it counts when there are several in a step: 0 the first, -1 the last.
        target: What it is matched to. A prior: ``"normal"``, ``"uniform"`` (on [-1, 1]), ``"laplace"``, ``"sphere"``
            or any strategy of kind ``estimators.prior``. An entry of the batch: ``"batch"``, ``"batch:0"``,
            ``"batch:image"``. Another output: ``"output"`` for the own forward's, ``"output:NAME"`` for a submodule's.
        target_call: As `call`, of the other output.
        detach_target: Let no gradient flow into the other output, which then does not move towards the first.
        loc: Added to the prior's draws.
        scale: The prior's draws are multiplied by it first; above 0.
        num_projections: L, directions a step.
        p: Order, at least 1.
        control_variate: None, ``"lower"``, ``"upper"``, ``"gaussian"``, ``"harmonic"`` or any strategy of kind
            ``estimators.control_variate``.
        directions: ``"orthogonal"``, ``"uniform"`` or ``"qmc"``.
        point_dims: How many leading dimensions of an output count points; the others, flattened, are coordinates. 1
            for a vector (or image) a sample, 2 for a vector at each position of a sequence.
        seed: Of directions and of the prior's draws.
        chunk: Directions at a time, which bounds memory; None for all at once.

    Raises:
        ArgumentError: An argument is out of range, or there is no such submodule, prior or control variate.
    """

    name: ClassVar[str] = "sliced_wasserstein_penalty"
    identified_by: ClassVar[tuple[str, ...]] = ("output", "target")

    def __init__(
        self,
        weight: float = 1.0,
        output: str | None = None,
        call: int | None = None,
        target: str = "normal",
        target_call: int | None = None,
        detach_target: bool = False,
        loc: float = 0.0,
        scale: float = 1.0,
        num_projections: int = 50,
        p: float = 2.0,
        control_variate: str | None = None,
        directions: str = "orthogonal",
        point_dims: int = 1,
        seed: int = 0,
        chunk: int | None = None,
    ) -> None:
        self.weight = finite(WHO, "weight", weight, "use 0.1 to 10; 0 switches the method off", minimum=0)
        captured(WHO, output, call)
        self.output = output
        self.call = call
        self.target = target
        self._kind, self._place = _checked_target(target)
        self.target_call = _checked_target_call(target_call, self._kind)
        self.detach_target = flag(WHO, "detach_target", detach_target, "True holds the other output fixed")
        self.loc = finite(WHO, "loc", loc, "use 0, or where the prior's centre is to be")
        self.scale = finite(WHO, "scale", scale, "use 1, or how far the prior is to extend", above=0)
        self._check_belongs(target)
        self.num_projections = whole(WHO, "num_projections", num_projections, "50 to 1000 are usual")
        self.p = finite(WHO, "p", p, "use 2, or 1 for less weight on far points", minimum=1)
        self.control_variate = _checked_variate(control_variate)
        self.directions = one_of(WHO, "directions", directions, DIRECTIONS)
        self.point_dims = whole(WHO, "point_dims", point_dims, "1 for a point a sample, 2 for one a position")
        self.seed = whole(WHO, "seed", seed, "use 0", minimum=0)
        self.chunk = checked_chunk(WHO, chunk)
        self._warned = False

    def _check_belongs(self, target: str) -> None:
        """An argument that this target does not take would do nothing without a word."""
        for argument, value, neutral in (("loc", self.loc, 0.0), ("scale", self.scale, 1.0)):
            if self._kind != "prior" and value != neutral:
                raise ArgumentError(WHO, argument, value, f"target={target!r} is no prior", "leave it out")
        if self._kind != "output" and self.detach_target:
            reason = f"target={target!r} is no output, and has no gradient"
            raise ArgumentError(WHO, "detach_target", True, reason, "leave it out")

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have the outputs captured."""
        self._warned = False
        if self.weight > 0:
            self._capture = self.attachment.capture(self, self.output, self.call)
            if self._kind == "output":
                self._other = self.attachment.capture(self, self._place or None, self.target_call)

    @hookimpl
    def loss_terms(self, step: LossStep) -> dict[str, Tensor] | None:
        """The weighted distance; nothing where the weight is 0."""
        if self.weight == 0:
            return None
        points = self._points(step.output(self._capture), "the captured output")
        words = [self.seed, step.batch_number, step.trainer.global_rank]
        generator = torch.Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]))
        others = self._others(step, points, generator)
        if others.shape[1] != points.shape[1]:
            raise StepError(
                f"{WHO}: the captured output has points of {points.shape[1]} coordinates, target={self.target!r} of "
                f"{others.shape[1]}. HINT: match outputs of one size, or set point_dims={self.point_dims} differently"
            )
        if not bool(points.isfinite().all() & others.isfinite().all()):
            return {"penalty": self._not_finite(step, points, others)}
        distance = sliced_wasserstein_distance(
            points,
            others,
            num_projections=self.num_projections,
            p=self.p,
            control_variate=self.control_variate,
            directions=self.directions,
            generator=generator,
            chunk=self.chunk,
        )
        if not step.replay:
            self.record("distance", distance.detach())
        return {"penalty": self.weight * distance**self.p}

    def _others(self, step: LossStep, points: Tensor, generator: torch.Generator) -> Tensor:
        """The points to match, (M, D), on the device of `points`."""
        if self._kind == "prior":
            draws: Tensor = strategy("estimators.prior", self.target)(*points.shape, generator)
            return (self.loc + self.scale * draws).to(points.device, torch.promote_types(points.dtype, torch.float32))
        if self._kind == "output":
            other = step.output(self._other)
            return self._points(other.detach() if self.detach_target else other, f"target={self.target!r}")
        entry: Any = step.batch
        for part in self._place.split(":") if self._place else ():
            entry = _entry(entry, part)
        if not isinstance(entry, Tensor):
            found = ", ".join(_entries(step.batch)) or "none"
            raise StepError(
                f"{WHO}: target={self.target!r} is {type(entry).__name__}, not a tensor. Entries of the batch: "
                f"{found}. HINT: name one, e.g. target='batch:0' or target='batch:image'"
            )
        return self._points(entry, f"target={self.target!r}")

    def _points(self, tensor: Tensor, what: str) -> Tensor:
        """(N, D), without copying where possible."""
        if not tensor.is_floating_point():
            raise StepError(f"{WHO}: {what} is of {tensor.dtype}. HINT: points must be floating point")
        if tensor.dim() < self.point_dims or tensor.numel() == 0:
            raise StepError(
                f"{WHO}: {what} has shape {tuple(tensor.shape)}, and its first {self.point_dims} dimension(s) are to "
                "count points. HINT: lower point_dims, or capture an output that still has the batch dimension"
            )
        return tensor.reshape(tensor.shape[: self.point_dims].numel(), -1)

    def _not_finite(self, step: LossStep, points: Tensor, others: Tensor) -> Tensor:
        """A penalty of NaN, said once: as in a run without the penalty, a GradScaler skips the step."""
        if not self._warned and not step.replay:
            self._warned = True
            rank_zero_warn(
                f"{WHO}: the captured output or target={self.target!r} is not finite in batch {step.batch_number}, so "
                "the penalty is NaN. HINT: in 16-bit precision a GradScaler skips such a step; otherwise lower the "
                "learning rate or weight"
            )
        return (points.sum() + others.sum()) * torch.nan


def _checked_target(target: object) -> tuple[str, str]:
    """What kind of target it is, and the place it is found at."""
    if not isinstance(target, str):
        raise ArgumentError(WHO, "target", target, f"it must be a name, not {type(target).__name__}", _TARGETS)
    kind, _, place = target.partition(":")
    if kind in ("batch", "output"):
        return kind, place
    try:
        strategy("estimators.prior", target)
    except UnknownNameError as error:
        raise ArgumentError(WHO, "target", target, str(error), _TARGETS) from error
    return "prior", target


def _checked_target_call(call: object, kind: str) -> int | None:
    if call is None:
        return None
    if isinstance(call, bool) or not isinstance(call, int):
        raise ArgumentError(WHO, "target_call", call, "it must be a whole number", "0 is the first call, -1 the last")
    if kind != "output":
        raise ArgumentError(WHO, "target_call", call, "the target is no captured output", "leave it out")
    return call


def _checked_variate(name: object) -> str | None:
    if name is None:
        return None
    hint = "use 'lower', 'upper', 'gaussian' or 'harmonic', or None for plain Monte Carlo"
    if not isinstance(name, str):
        raise ArgumentError(WHO, "control_variate", name, f"it must be a name, not {type(name).__name__}", hint)
    try:
        as_control_variate(WHO, name)
    except UnknownNameError as error:
        raise ArgumentError(WHO, "control_variate", name, str(error), hint) from error
    return name


def _entry(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    if isinstance(value, (list, tuple)) and part.lstrip("-").isdigit():
        position = int(part)
        return value[position] if -len(value) <= position < len(value) else None
    return getattr(value, part, None)


def _entries(batch: Any) -> list[str]:
    if isinstance(batch, Mapping):
        return [str(key) for key in batch]
    return [str(number) for number in range(len(batch))] if isinstance(batch, (list, tuple)) else []

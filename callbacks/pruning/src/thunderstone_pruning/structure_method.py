"""What methods share that make the module smaller in the middle of a fit."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer, callbacks
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from thunderstone import ArgumentError, Artifact, Method, StepError, Table, UnsupportedSettingError
from thunderstone.isolation import RandomState, loss_of, silenced, training_pass
from thunderstone_pruning.channels import copied
from thunderstone_pruning.structure import Structure

_SHARDED = "its parameters are held in pieces on several processes, and are cut whole"
# They hold a copy of the weights in the shapes they had.
_AVERAGING = tuple(
    kind
    for name in ("WeightAveraging", "EMAWeightAveraging", "StochasticWeightAveraging")
    if (kind := getattr(callbacks, name, None)) is not None
)


class StructureMethod(Method):
    """A method that removes parts of the module, once in a fit.

    A subclass decides when, and calls `_remove` with a function that says what. The structure is part of the method's
    state; a checkpoint of a smaller module makes the module smaller before its weights are read.
    """

    # Masks have the shapes of the weights.
    exclusive: ClassVar[frozenset[str]] = frozenset({"masks", "structure"})
    unsupported_strategies: ClassVar[dict[str, str]] = {
        "FSDPStrategy": _SHARDED,
        "ModelParallelStrategy": _SHARDED,
        "DeepSpeedStrategy": _SHARDED,
    }

    structure: str | None = None
    _found: Structure | None = None
    _unreported = False
    _file: Path | None = None
    _of: weakref.ref[nn.Module] | None = None
    _shadowed: tuple[LightningModule, dict[str, Any]] | None = None

    @property
    def _off(self) -> bool:
        """Whether nothing is removed in any case."""
        return False

    # -- life cycle ----------------------------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work; be there when a checkpoint is read."""
        if self._off:
            return
        who = type(self).__name__
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, _AVERAGING):
                raise UnsupportedSettingError(
                    who,
                    f"{type(callback).__name__} beside it",
                    "it averages weights of the shapes they had before",
                    "average in a further training, with FixedStructure",
                )
        if getattr(trainer.strategy, "_ddp_comm_hook", None) is not None:
            raise UnsupportedSettingError(
                who,
                "a communication hook of DistributedDataParallel",
                "the module is wrapped anew when parts of it are gone, and the hook belongs to the old wrapper",
                "leave ddp_comm_hook out",
            )
        if self._of is None or self._of() is not pl_module:
            self._found = None
        self._of = weakref.ref(pl_module)
        self._shadow(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The checkpoint has been read."""
        super().on_fit_start(trainer, pl_module)
        self._unshadow()

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave nothing behind."""
        self._unshadow()

    def _shadow(self, module: LightningModule) -> None:
        """Cut the module when a checkpoint is about to be loaded into it: its weights are the smaller ones."""
        own: Callable[[dict[str, Any]], None] = module.on_load_checkpoint
        attributes = vars(module)
        before = {name: attributes[name] for name in ("on_load_checkpoint",) if name in attributes}

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            state = checkpoint.get("callbacks", {}).get(self.state_key, {})
            if state.get("structure"):
                Structure.from_state_dict(state["structure"]).apply(module, who=type(self).__name__)
            own(checkpoint)

        attributes["on_load_checkpoint"] = on_load_checkpoint
        self._shadowed = (module, before)

    def _unshadow(self) -> None:
        if self._shadowed is not None:
            module, before = self._shadowed
            vars(module).pop("on_load_checkpoint", None)
            vars(module).update(before)
            self._shadowed = None

    # -- removing ------------------------------------------------------------------------------------------------------

    def _remove(self, trainer: Trainer, module: LightningModule, plan: Callable[[Tracer], Structure]) -> None:
        """Find out what is to go, and let it go, in the module and its optimizers; on every process, rank 0's choice.

        Args:
            trainer: The running Trainer, between two updates.
            module: The LightningModule.
            plan: Says what; nothing it does to copies of the module is seen.
        """
        structure, error = None, None
        with self._tracer(trainer, module) as tracer:
            try:
                structure = plan(tracer)
                structure = _measured(structure, tracer)
            except Exception as raised:
                error = raised
        if trainer.world_size > 1:
            state = None if structure is None else structure.state_dict()
            state, error = trainer.strategy.broadcast((state, error))
            structure = None if state is None else Structure.from_state_dict(state)
        if error is not None:
            raise error
        assert structure is not None
        self._install(trainer, module, structure)
        self._save(trainer, module)

    def _install(self, trainer: Trainer, module: LightningModule, structure: Structure) -> None:
        strategy: Any = trainer.strategy
        wrapped = strategy.model is not strategy.lightning_module and hasattr(strategy, "configure_ddp")
        if wrapped:
            # Its reducer holds buckets of the old shapes, and hooks on the weights that go with it.
            strategy.model = strategy.lightning_module
            gc.collect()
        before = _size(module)
        structure.apply(module, trainer.optimizers, who=type(self).__name__)
        if wrapped:
            strategy.configure_ddp()
        metadata = {**structure.metadata, "parameters_before": before, "parameters_after": _size(module)}
        self._found = replace(structure, weights=None, metadata=metadata)
        self._unreported = True
        self._show()

    def _save(self, trainer: Trainer, module: LightningModule) -> None:
        # Asked for on every process: with some loggers the folder's name is agreed on.
        folder = trainer.log_dir or trainer.default_root_dir
        if self.structure is not None and trainer.is_global_zero:
            assert self._found is not None
            self._file = replace(self._found, weights=module.state_dict()).save(Path(folder) / self.structure)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show how many of the parameters are gone, also where a checkpoint brought a smaller module."""
        self._show()

    def _show(self) -> None:
        if self._found is not None and self._found.metadata.get("parameters_before"):
            known = self._found.metadata
            self.status(sparsity=1 - known["parameters_after"] / known["parameters_before"])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record what is left, and what was removed where that is news."""
        if self._found is None:
            return
        known = self._found.metadata
        for name in ("parameters", "flops"):
            if known.get(f"{name}_before"):
                self.record(name, known[f"{name}_after"] / known[f"{name}_before"])
        if self._unreported:
            self._unreported = False
            after = pl_module.state_dict()
            rows = [
                (name, "x".join(map(str, shape)), "x".join(map(str, after[name].shape)))
                for name, shape in self._found.shapes.items()
                if name in after
            ]
            rows += [(name, "block", "removed") for name in self._found.removed]
            self.record("structure", Table(["name", "before", "after"], rows))
            if self._file is not None:
                self.record("file", Artifact(self._file, "structure", dict(known)))

    @contextmanager
    def _tracer(self, trainer: Trainer, module: LightningModule) -> Iterator[Tracer]:
        """Something that runs copies of the module on a training batch, as training does and without a trace of it."""
        who = type(self).__name__
        random = RandomState(trainer.strategy.root_device)
        try:
            with training_pass(who, trainer, module) as drawn:
                for batch in drawn:
                    arguments = self.attachment.micro_batch(batch).arguments
                    tracer = Tracer(trainer, module, arguments)
                    if tracer.has_loss():
                        break
                else:
                    raise StepError(f"{who}: training_step returned no loss for any batch. HINT: return one")
                yield tracer
        finally:
            random.restore()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What was removed."""
        own = {} if self._found is None else {"structure": self._found.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a saved state; the module has it already."""
        super().load_state_dict(state_dict)
        saved = state_dict.get("structure")
        self._found = None if saved is None else Structure.from_state_dict(saved)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_of": None, "_shadowed": None}


class Tracer:
    """Runs copies of a LightningModule on one training batch.

    Args:
        trainer: The running Trainer.
        module: The module the copies are made of.
        arguments: Of `training_step`.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, arguments: tuple[Any, ...]) -> None:
        self.trainer, self.module, self._arguments = trainer, module, arguments

    def has_loss(self) -> bool:
        """Whether `training_step` returns one for this batch."""
        with torch.no_grad():
            return self._run(copied(self.module)) is not None

    def __call__(self, twin: nn.Module) -> Tensor:
        """The loss of a copy, with its graph where gradients are on."""
        loss = self._run(twin)
        if loss is None:
            raise StepError(f"training_step of a copy of {type(self.module).__name__} returned no loss")
        return loss

    def flops(self, twin: nn.Module) -> int:
        """Floating-point operations of a forward pass of the batch, in convolutions and matrix products."""
        # With gradients, as in training: without them some layers take fused ways that are not counted.
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            self(twin)
        return int(counter.get_total_flops())

    def _run(self, twin: nn.Module) -> Tensor | None:
        assert isinstance(twin, LightningModule)
        twin.trainer = self.trainer
        try:
            with silenced(self.trainer, twin), self.trainer.precision_plugin.train_step_context():
                return loss_of(twin.training_step(*self._arguments))
        finally:
            twin.trainer = None


def file_name(who: str, structure: object) -> str | None:
    """`structure`, if it can name a file; ArgumentError otherwise."""
    if structure is not None and (not isinstance(structure, str) or not structure):
        raise ArgumentError(who, "structure", structure, "it must name a file", "pass a path, or None to write none")
    return structure


def _measured(structure: Structure, tracer: Tracer) -> Structure:
    before, after = copied(tracer.module).eval(), copied(tracer.module).eval()
    structure.apply(after)
    flops = {"flops_before": tracer.flops(before), "flops_after": tracer.flops(after)}
    return replace(structure, metadata={**structure.metadata, **flops})


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""The base class of every method."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch.callbacks import Callback

from thunderstone.attachment.declared import check_identified_by
from thunderstone.errors import HookError, StepError, UnsupportedSettingError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from thunderstone.attachment.attachment import Attachment
    from thunderstone.attachment.masks import Masks
    from thunderstone.attachment.rounds import Rounds
    from thunderstone.progress import Phase


class Method(Callback):
    """A training method: a Lightning callback that also takes part in the attachment's hooks.

    A subclass names itself, keeps every `__init__` argument in an attribute of the same name (so that it can be
    shown, tracked and rebuilt), and implements the hooks of `thunderstone.attachment.hookspecs` it needs. `__init__`
    checks its arguments and touches neither a device nor a random state.

    Attributes:
        name: What users type and what metrics are namespaced by, e.g. ``"sam"``.
        exclusive: Resources only one attached method may own, e.g. ``{"gradient"}``; two owners are refused. The host
            knows ``gradient``, ``masks``, ``objective`` and ``rounds``; other names are your own.
        identified_by: Arguments that tell two instances on one Trainer apart; they become part of `state_key`.
        unsupported_strategies: Lightning strategy class names this method cannot work with, each with the reason;
            refused at attach time.
    """

    name: ClassVar[str] = ""
    exclusive: ClassVar[frozenset[str]] = frozenset()
    identified_by: ClassVar[tuple[str, ...]] = ()
    unsupported_strategies: ClassVar[dict[str, str]] = {}

    _attachment: Attachment | None = None
    _masks: Masks | None = None
    _rounds_of_fit: Rounds | None = None

    # -- identity ------------------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments this method was built with, by name."""
        # Of the class, not of __init__: a class without one of its own has no arguments.
        names = inspect.signature(type(self)).parameters
        for name in names:
            if not hasattr(self, name):
                raise AttributeError(
                    f"{type(self).__name__} does not keep its argument {name!r}. HINT: write self.{name} = ... in "
                    "__init__, under the same name, and leave out *args and **kwargs"
                )
        return {name: getattr(self, name) for name in names}

    @property
    def state_key(self) -> str:
        """Where this method's state lives in a checkpoint: unique across packages, and across instances by
        `identified_by`."""
        identity = f"{type(self).__module__}.{type(self).__qualname__}"
        if not self.identified_by:
            # Lightning asks in every hook of every step.
            return identity
        try:
            told_apart = ",".join(f"{name}={getattr(self, name)!r}" for name in self.identified_by)
        except (AttributeError, TypeError):
            # The Trainer asks before anything is attached.
            check_identified_by(self)
            raise
        return f"{identity}({told_apart})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.arguments.items())})"

    # -- what a subclass may override ----------------------------------------------------------------------------------

    def on_attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once a `fit`, before anything runs. Raise UnsupportedSettingError for settings that cannot work."""

    def on_detach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Called once after `on_attach`, whether the run ended, failed or was interrupted. Undo what was done."""

    # -- reporting -----------------------------------------------------------------------------------------------------

    def record(self, name: str, value: Any) -> None:
        """Report a scalar, `Histogram`, `Table`, matplotlib figure or `Artifact` as ``method/name``.

        Written on rank zero alone; nothing happens when no Trainer is attached. A scalar is also among
        `trainer.callback_metrics`, on every rank that reports it. A scalar tensor is read only when a tracker writes
        it, so recording does not wait for the device.
        """
        if self._attachment is not None:
            self._attachment.record(self, name, value)

    def status(self, **values: str | float | None) -> None:
        """Show short values in the Trainer's progress bar from now on, e.g. ``status(sparsity=0.64)``.

        For what a person who watches wants to know; what is to be kept is recorded. Nothing where no bar is on a
        screen.

        Args:
            values: Name → text or number; None takes one away again.
        """
        if self._attachment is not None:
            self._attachment.display.show(values)

    def progress(self, what: str, total: float | None = None) -> Phase:
        """Work that takes long, shown below the Trainer's progress bar from ``with`` on until it is done.

        For example ``with self.progress("full gradient", batches) as phase: ...``, and in it ``phase.advance()`` for
        each batch. Nothing, at next to no cost, where no bar is on a screen.

        Args:
            what: A few words.
            total: How much there is to do, in any unit; the time left is known from it. None where it is not known.
        """
        from thunderstone.progress import Phase

        what = f"{type(self).__name__}: {what}"
        return Phase(what, total) if self._attachment is None else self._attachment.display.phase(what, total)

    @property
    def attachment(self) -> Attachment:
        """The attachment of the Trainer this method is attached to. Raises StepError outside of a fit."""
        if self._attachment is None:
            raise StepError(
                f"{type(self).__name__} is not attached to a Trainer. HINT: pass it in Trainer(callbacks=[...]) and "
                "use it between the start and the end of `fit`"
            )
        return self._attachment

    @property
    def masks(self) -> Masks:
        """The masks this method owns, which the host enforces; kept after the fit, and part of `state_dict`.

        Raises:
            StepError: The class does not declare that it owns them.
        """
        if "masks" not in self.exclusive:
            raise StepError(
                f"{type(self).__name__} does not own masks. HINT: declare exclusive = frozenset({{'masks'}}) in the "
                "class"
            )
        if self._masks is None:
            from thunderstone.attachment.masks import Masks

            self._masks = Masks(type(self).__name__)
        return self._masks

    def gather_states(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The `state` of every rank, in order, for a `state_dict` that holds what differs between ranks.

        A checkpoint is what rank zero's `state_dict` returns. All ranks call this, as all ranks call
        `trainer.save_checkpoint`; on those that write none, and outside of a fit, it is their own state alone.

        Args:
            state: Tensors and primitives in dicts, lists and tuples.
        """
        from thunderstone.resume.ranks import gather_on_rank_zero

        return [state] if self._attachment is None else gather_on_rank_zero(self._attachment.trainer, state)

    # -- Lightning's side: subclasses that override these call super() -------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self._masks:
            state["masks"] = self._masks.state_dict()
        if self._rounds_of_fit is not None:
            state["rounds"] = self._rounds_of_fit.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "masks" in state_dict:
            self.masks.load_state_dict(state_dict["masks"])
        if "rounds" in state_dict and self._rounds_of_fit is not None:
            self._rounds_of_fit.load_state_dict(state_dict["rounds"])

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        import lightning.pytorch

        from thunderstone.attachment.attaching import attach

        if not isinstance(trainer, lightning.pytorch.Trainer):
            raise UnsupportedSettingError(
                type(self).__name__,
                f"a Trainer of {type(trainer).__module__.partition('.')[0]}",
                "methods are callbacks of `lightning.pytorch`, and the two packages are copies that do not mix",
                "write `import lightning.pytorch as pl` for `import pytorch_lightning as pl`",
            )
        attach(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._attachment is None:
            raise HookError(
                f"{type(self).__name__} overrides `setup` and does not call super().setup(trainer, pl_module, stage), "
                "so it was not attached. HINT: call it"
            )
        self._attachment.start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # The methods' state stays reachable: a checkpoint may be written on the way out.
        if self._attachment is not None:
            self._attachment.stop()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._attachment is not None:
            self._attachment.detach()

    def __getstate__(self) -> dict[str, Any]:
        # A copy, or the twin in a spawned process, is not attached.
        return {key: value for key, value in vars(self).items() if key != "_attachment"}

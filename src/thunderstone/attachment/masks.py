"""The sparsity of a run: which weights are kept, and the promise that the others are zero."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from thunderstone.errors import ArgumentError, ResumeError, StepError, suggestion

if TYPE_CHECKING:
    from thunderstone.attachment.mask_enforcement import MaskEnforcement

# What torch.compile puts into the names of what it compiles.
_COMPILED = "_orig_mod."


class Masks(Mapping[str, Tensor]):
    """Parameter name → bool tensor of the parameter's shape, True where a weight is kept.

    Owned by the method that declares ``exclusive = {"masks"}`` and read as `Method.masks`. While a fit runs, the host
    keeps everything zero where a mask is False: weights after every optimizer step, gradients before clipping, the
    optimizer's slots (momentum and the like would revive what is pruned), and the averages of Lightning's averaging
    callbacks. No parameter is renamed, replaced or reordered, and nothing is added to the module: its `state_dict` is
    that of a plain one. Tied weights have one mask, under the first of their names.

    Args:
        method: Class name of the owner, for messages.
    """

    def __init__(self, method: str) -> None:
        self._method = method
        # 0 and 1 in integers as wide as the weights (bool until a fit has begun); see `mask_enforcement.zero`.
        self._kept: dict[str, Tensor] = {}
        self._loaded = False
        self._module: weakref.ref[nn.Module] | None = None
        self._enforcement: MaskEnforcement | None = None

    # -- reading -------------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        return self._kept[name].bool()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __repr__(self) -> str:
        return f"Masks({self.kept} of {self.total} weights kept in {len(self)} parameters)"

    @property
    def kept(self) -> int:
        """How many weights of the masked parameters are kept; reading it waits for the device."""
        return sum(int(kept.count_nonzero()) for kept in self._kept.values())

    @property
    def total(self) -> int:
        """How many weights the masked parameters have."""
        return sum(kept.numel() for kept in self._kept.values())

    @property
    def density(self) -> float:
        """`kept` / `total`; 1.0 where nothing is masked."""
        return self.kept / self.total if self.total else 1.0

    # -- changing ------------------------------------------------------------------------------------------------------

    def set(self, masks: Mapping[str, Tensor]) -> None:
        """Replace all masks. Parameters that are not named become dense; an empty mapping ends all masking.

        At once everything is zero where a mask is False. A weight that is kept again starts at zero, with zero
        optimizer slots. Under data parallelism to be called on every rank; rank 0's names and values hold.

        Args:
            masks: Parameter name → bool tensor of the parameter's shape, on any device; copied. Any name of a tied
                weight will do.

        Raises:
            StepError: No fit is running, or its optimizers are not set up yet.
            ArgumentError: See `check`.
        """
        if self._enforcement is None:
            raise StepError(
                f"{self._method}: masks were set while no fit is running. HINT: set them from on_fit_start on (after "
                "super().on_fit_start), when parameters are where they are trained"
            )
        self._enforcement.replace(masks)

    def check(self, module: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`masks` by the first name of each parameter, if `set` would take them for this module.

        Raises:
            ArgumentError: There is no parameter of a name; a value is not a bool tensor of the parameter's shape; two
                names of one tied weight have different masks.
        """
        named = dict(module.named_parameters(remove_duplicate=False))
        short = {name.replace(_COMPILED, ""): parameter for name, parameter in named.items()}
        first = {id(parameter): name for name, parameter in reversed(named.items())}
        checked: dict[str, Tensor] = {}
        for name, mask in masks.items():
            parameter = named.get(name)
            parameter = parameter if parameter is not None else short.get(name.replace(_COMPILED, ""))
            if parameter is None:
                self._refuse(name, f"{type(module).__name__} has no such parameter", suggestion(name, named))
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
                self._refuse(name, f"a mask is a bool tensor, not {kind}", "compare (weight != 0) or convert (.bool())")
            if mask.shape != parameter.shape:
                reason = f"the parameter has the shape {tuple(parameter.shape)}, the mask {tuple(mask.shape)}"
                self._refuse(name, reason, "make the mask for this architecture")
            known = checked.get(first[id(parameter)])
            if known is not None and not torch.equal(known, mask.to(known.device)):
                self._refuse(name, f"it is tied to {first[id(parameter)]!r}, which has another mask", "give one mask")
            checked[first[id(parameter)]] = mask
        return checked

    def _refuse(self, name: str, reason: str, hint: str) -> NoReturn:
        raise ArgumentError(self._method, "masks", name, reason, hint)

    # -- gradients of what is pruned -----------------------------------------------------------------------------------

    def request_dense_gradients(self) -> None:
        """In `plan_update`: keep this update's gradients of the masked parameters as they were before masking."""
        if self._enforcement is not None:
            self._enforcement.keep_dense_gradients = True

    @property
    def dense_gradients(self) -> Mapping[str, Tensor]:
        """Parameter name → gradient before masking, in `transform_gradients` and `after_update` of an update that was
        planned so; empty otherwise. Scaled under a GradScaler."""
        return self._enforcement.dense_gradients if self._enforcement is not None else {}

    # -- life cycle, for the host --------------------------------------------------------------------------------------

    def begin(self, module: nn.Module) -> None:
        """A fit of `module` begins: masks of another module are dropped, those just loaded are kept."""
        if not self._loaded and (self._module is None or self._module() is not module):
            self._kept = {}
        self._module = weakref.ref(module)

    def enforced_by(self, enforcement: MaskEnforcement | None, module: nn.Module) -> None:
        """The optimizers are there (None: the fit is over). Masks from a checkpoint are checked here.

        Raises:
            ResumeError: They do not fit the module.
        """
        self._enforcement = enforcement
        if enforcement is None:
            return
        self._loaded = False
        try:
            enforcement.hold(self.check(module, {name: self[name] for name in self._kept}))
        except ArgumentError as error:
            self._kept = {}
            raise ResumeError(
                f"{self._method}: the checkpoint holds a mask for {error.value!r} that does not fit: {error.reason}. "
                "HINT: resume with the module the checkpoint was written from"
            ) from error

    @property
    def integers(self) -> dict[str, Tensor]:
        """The masks as they are enforced; not to be changed."""
        return self._kept

    @integers.setter
    def integers(self, kept: dict[str, Tensor]) -> None:
        self._kept = kept

    def state_dict(self) -> dict[str, Tensor]:
        """The masks by name, as bool tensors."""
        return dict(self)

    def load_state_dict(self, masks: Mapping[str, Tensor]) -> None:
        """Masks of a checkpoint; in force from the start of the fit that is being prepared (or of the next one)."""
        if self._enforcement is not None:
            # A learning rate finder puts back what it has saved in this very fit.
            self._enforcement.hold(masks)
            return
        self._kept = {name: mask.detach().clone() for name, mask in masks.items()}
        self._loaded = True

    def __getstate__(self) -> dict[str, Any]:
        # A copy can be read, and belongs to no fit.
        return {**vars(self), "_module": None, "_enforcement": None, "_loaded": False}

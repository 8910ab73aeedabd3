"""What a round begins from: the place a fit began at, or one that was marked in its first round."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from thunderstone import lightning_private
from thunderstone.attachment.callback_state import CallbackStates
from thunderstone.attachment.module_state import ModuleState
from thunderstone.attachment.replay import gradient_scaler
from thunderstone.random_state import RandomState

if TYPE_CHECKING:
    from collections.abc import Iterable


class RoundStart:
    """The Trainer, its callbacks and the random states right before the strategy and the optimizers are set up.

    Args:
        trainer: The Trainer.
        callbacks: State of the callbacks as it was when nothing had been loaded into them; None to take it now.
        without: Callbacks that are not put back.
    """

    def __init__(self, trainer: Trainer, callbacks: CallbackStates | None, without: Iterable[Callback]) -> None:
        self._trainer = trainer
        self._callbacks = callbacks or CallbackStates(lightning_private.callbacks_of(trainer), without)
        self._accumulated = trainer.accumulate_grad_batches
        self._loops = lightning_private.loops(trainer)
        self._random = RandomState(trainer.strategy.root_device)
        self._loaders = [_loader_state(loader) for loader in lightning_private.given_loaders(trainer)]
        scaler = gradient_scaler(trainer)
        self._scaler = scaler.state_dict() if scaler is not None else None

    @property
    def epochs(self) -> int:
        """How many epochs were behind the Trainer."""
        return int(self._loops["epoch_progress"]["current"]["ready"])

    def restore(self, seed: int | None) -> None:
        """Put everything back, with the random states of then or those of a seed."""
        trainer = self._trainer
        lightning_private.restore_loops(trainer, self._loops)
        self._callbacks.restore()
        trainer.should_stop = False
        trainer.accumulate_grad_batches = self._accumulated
        scaler = gradient_scaler(trainer)
        if scaler is not None and self._scaler is not None:
            scaler.load_state_dict(self._scaler)
        for loader, state in zip(lightning_private.given_loaders(trainer), self._loaders, strict=True):
            _set_loader_state(loader, state)
        if seed is None:
            self._random.restore()
        else:
            set_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run cannot know by itself; of this rank."""
        return {"random": self._random.state_dict(), "loops": self._loops, "loaders": self._loaders}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
        self._random = RandomState.from_state_dict(state["random"], self._trainer.strategy.root_device)
        self._loops, self._loaders = state["loops"], state["loaders"]


class Mark:
    """The weights, and the state of the module beside them, that rounds begin from.

    Args:
        module: The module as it is now.

    Attributes:
        weights: Parameters and buffers by their names in `state_dict`; on the CPU.
        place: Where in the run the mark was set; None at its start.
    """

    def __init__(self, module: LightningModule) -> None:
        self.weights = {name: value.detach().cpu().clone() for name, value in _tensors(module).items()}
        self.place: dict[str, Any] | None = None
        self._trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
        self._state = ModuleState(module)

    @torch.no_grad()
    def rewind(self, module: LightningModule) -> None:
        """Put the module back, in place: parameters stay the same objects."""
        for name, value in _tensors(module).items():
            if name in self.weights:
                value.copy_(self.weights[name])
        for name, parameter in module.named_parameters():
            parameter.requires_grad = self._trained.get(name, parameter.requires_grad)
        self._state.restore()

    def state_dict(self) -> dict[str, Any]:
        """Weights are those of every rank; see `portable` for what is not."""
        return {"weights": self.weights, "trained": self._trained}

    def portable(self) -> dict[str, Any]:
        """The module's state beside the weights, of this rank."""
        return self._state.portable()

    def load_state_dict(self, state: dict[str, Any], portable: dict[str, Any], module: LightningModule) -> None:
        """See `state_dict` and `portable`."""
        self.weights, self._trained = state["weights"], state["trained"]
        self._state = ModuleState.from_portable(module, portable)


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and torch as `lightning.seed_everything` does, without leaving an environment variable."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _tensors(module: LightningModule) -> dict[str, Tensor]:
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _loader_state(loader: Any) -> dict[str, Any]:
    from thunderstone.resume.loader_random_state import held_states, sampler_numbers

    return {"held": held_states(loader), "numbers": sampler_numbers(loader)}


def _set_loader_state(loader: Any, state: dict[str, Any]) -> None:
    from thunderstone.resume.loader_random_state import set_held_states, set_sampler_numbers

    set_held_states(loader, state["held"])
    set_sampler_numbers(loader, state["numbers"])

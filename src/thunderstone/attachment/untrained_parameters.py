"""Parameters that no optimizer moves, but a training step may: momentum encoders, target networks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class UntrainedParameters:
    """The values of all parameters outside the optimizers, taken down so that they can be put back.

    A training step that averages weights into a second network changes it once a pass. Where such parameters outweigh
    the trained ones they are a frozen backbone, which nothing changes and which is too large to copy every step: they
    are left alone.

    Args:
        module: The module being trained.
        optimizers: Its optimizers; what they move is not part of this.
        earlier: The values at the previous micro-batch of the same update; what has not changed since is shared.
    """

    def __init__(
        self, module: nn.Module, optimizers: Iterable[Optimizer], earlier: UntrainedParameters | None = None
    ) -> None:
        trained = {
            id(parameter)
            for optimizer in optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.requires_grad
        }
        named = dict(module.named_parameters())
        untrained = {name: parameter for name, parameter in named.items() if id(parameter) not in trained}
        self._kept: dict[str, tuple[nn.Parameter, tuple[int, int], Tensor]] = {}
        if not untrained:
            return
        size = sum(parameter.nbytes for parameter in named.values() if id(parameter) in trained)
        if sum(parameter.nbytes for parameter in untrained.values()) > size:
            return
        for name, parameter in untrained.items():
            known = earlier._kept.get(name) if earlier is not None else None
            mark = (parameter._version, parameter.data_ptr())
            saved = known[2] if known is not None and known[1] == mark else parameter.detach().clone()
            self._kept[name] = (parameter, mark, saved)

    def restore(self) -> None:
        """Put the values back in place."""
        with torch.no_grad():
            for parameter, _, saved in self._kept.values():
                parameter.copy_(saved)

    def named(self) -> dict[str, Tensor]:
        """The values by qualified name."""
        return {name: saved for name, (_, _, saved) in self._kept.items()}

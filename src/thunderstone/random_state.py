"""The random state of a process: Python's, NumPy's, torch's on the CPU and on one accelerator."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


class RandomState:
    """A snapshot of every global generator a training step may draw from; taking or restoring one draws nothing.

    Args:
        device: The device training runs on. Its generator is part of the snapshot when it is not the CPU.
    """

    __slots__ = ("_accelerator", "_device", "_numpy", "_python", "_torch")

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device if device is not None and device.type != "cpu" else None
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._accelerator: Tensor | None = _accelerator_state(self._device) if self._device is not None else None

    def restore(self) -> None:
        """Put every generator back to where it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._device is not None and self._accelerator is not None:
            getattr(torch, self._device.type).set_rng_state(self._accelerator, *_index(self._device))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and primitives only, so that ``torch.load(weights_only=True)`` can read it."""
        version, words, gaussian = self._python
        kind, keys, position, has_gaussian, cached = self._numpy
        return {
            "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gaussian": gaussian},
            "numpy": {
                "kind": str(kind),
                "keys": torch.from_numpy(keys.astype(np.int64)),
                "position": int(position),
                "has_gaussian": int(has_gaussian),
                "cached": float(cached),
            },
            "torch": self._torch,
            "accelerator": self._accelerator,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], device: torch.device | None = None) -> RandomState:
        """Rebuild a snapshot; an accelerator's state is used only where `device` is an accelerator."""
        snapshot = cls(device)
        python, numpy = state["python"], state["numpy"]
        snapshot._python = (python["version"], tuple(python["words"].tolist()), python["gaussian"])
        keys = numpy["keys"].cpu().numpy().astype(np.uint32)
        snapshot._numpy = (numpy["kind"], keys, numpy["position"], numpy["has_gaussian"], numpy["cached"])
        snapshot._torch = state["torch"].cpu()
        if snapshot._device is not None and state["accelerator"] is not None:
            snapshot._accelerator = state["accelerator"].cpu()
        return snapshot


def _index(device: torch.device) -> tuple[torch.device, ...]:
    # MPS has one generator and takes no device.
    return () if device.type == "mps" else (device,)


def _accelerator_state(device: torch.device) -> Tensor:
    state: Tensor = getattr(torch, device.type).get_rng_state(*_index(device))
    return state

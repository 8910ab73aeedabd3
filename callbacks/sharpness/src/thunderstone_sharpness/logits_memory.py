"""What SAF remembers: the logits of every sample in the last epochs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thunderstone import StepError

_NEVER = -1


class LogitsMemory:
    """A ring of the last ``epochs_back + 1`` epochs' logits for every sample of a dataset.

    Reading an epoch's slot and writing the current one never touch each other, so a batch that is gone through twice
    reads the same past twice.

    Args:
        epochs_back: How many epochs ago the past lies.
        dtype: torch.float16 or torch.float32.
        device: Where the memory lives. On the CPU it is pinned when there is a CUDA device to copy to.
    """

    def __init__(self, epochs_back: int, dtype: torch.dtype, device: torch.device) -> None:
        self.epochs_back, self.dtype, self.device = epochs_back, dtype, device
        self._logits: Tensor | None = None
        self._written: Tensor | None = None

    @property
    def allocated(self) -> bool:
        """Whether the shape of a sample's logits is known."""
        return self._logits is not None

    @property
    def bytes(self) -> int:
        """Size of the memory in bytes."""
        return 0 if self._logits is None else self._logits.numel() * self._logits.element_size()

    def allocate(self, samples: int, shape: tuple[int, ...]) -> None:
        """Make room for `samples` samples with logits of `shape` each."""
        size = (self.epochs_back + 1, samples, *shape)
        pinned = self.device.type == "cpu" and torch.cuda.is_available()
        self._logits = torch.zeros(size, dtype=self.dtype, device=self.device, pin_memory=pinned)
        self._written = torch.full((self.epochs_back + 1, samples), _NEVER, dtype=torch.int64)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise StepError when a sample's logits have another shape than those that are remembered."""
        if self._logits is not None and tuple(self._logits.shape[2:]) != shape:
            raise StepError(
                f"SAF remembers logits of shape {tuple(self._logits.shape[2:])} a sample, and now got {shape}. HINT: "
                "capture an output whose shape does not change between epochs (the number of classes, the padded "
                "length), or use MESA, which keeps no logits"
            )

    def read(self, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Logits of `epochs_back` epochs before `epoch`.

        Args:
            indices: int64 (batch,), on the CPU.
            epoch: The current epoch.

        Returns:
            Positions within the batch of the samples that have such a past, int64 (known,) on the CPU, and their
            logits, (known, *shape), on the memory's device.
        """
        logits, written = self._tables(indices)
        slot, past = (epoch - self.epochs_back) % (self.epochs_back + 1), epoch - self.epochs_back
        known = (written[slot, indices] == past).nonzero().flatten() if past >= 0 else indices.new_empty(0)
        return known, logits[slot, indices[known].to(self.device)]

    def write(self, indices: Tensor, epoch: int, values: Tensor) -> None:
        """Remember `values`, (batch, *shape), as the logits of `epoch`."""
        logits, written = self._tables(indices)
        slot = epoch % (self.epochs_back + 1)
        # float16 ends at 65504; a larger logit is remembered as the largest one.
        bound = torch.finfo(self.dtype).max
        logits[slot, indices.to(self.device)] = values.detach().clamp(-bound, bound).to(self.device, self.dtype)
        written[slot, indices] = epoch

    def _tables(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if self._logits is None or self._written is None:
            raise StepError("SAF's memory is read before it was allocated")
        samples = self._written.shape[1]
        needed = int(indices.max()) + 1 if indices.numel() else 0
        if needed > samples:
            logits, written = self._logits, self._written
            self.allocate(needed, tuple(logits.shape[2:]))
            self._logits[:, :samples] = logits
            self._written[:, :samples] = written
        return self._logits, self._written

    def state_dict(self) -> dict[str, Any]:
        """Tensors only; empty before the first batch."""
        return {} if self._logits is None else {"logits": self._logits, "written": self._written}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved memory; its number of epochs must be this one's."""
        if not state:
            return
        logits, written = state["logits"], state["written"]
        if logits.shape[0] != self.epochs_back + 1:
            raise StepError(
                f"the checkpoint remembers {logits.shape[0] - 1} epochs, epochs_back is {self.epochs_back}. HINT: "
                "resume with the same epochs_back"
            )
        self.allocate(written.shape[1], tuple(logits.shape[2:]))
        assert self._logits is not None and self._written is not None
        self._logits.copy_(logits)
        self._written.copy_(written)

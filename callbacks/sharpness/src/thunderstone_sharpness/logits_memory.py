"""What SAF remembers: the logits of every sample in the last epochs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thunderstone import StepError
from thunderstone_sharpness.replicas import fewest_and_most, merged_rows

_NEVER = -1


class LogitsMemory:
    """A ring of the last ``epochs_back + 1`` epochs' logits for every sample of a dataset.

    Reading an epoch's slot and writing the current one never touch each other, so a batch that is gone through twice
    reads the same past twice.

    Args:
        epochs_back: How many epochs ago the past lies.
        dtype: torch.float16 or torch.float32.
        device: Where the logits live. On the CPU they are pinned when there is a CUDA device to copy to.
    """

    def __init__(self, epochs_back: int, dtype: torch.dtype, device: torch.device) -> None:
        self.epochs_back, self.dtype, self.device = epochs_back, dtype, device
        self._logits: Tensor | None = None
        # On the CPU: the epoch whose logits an entry holds, and which replica saw the sample in the latest epoch.
        self._written = torch.empty(0, 0, dtype=torch.int32)
        self._owner = torch.empty(0, dtype=torch.int32)

    @property
    def allocated(self) -> bool:
        """Whether the shape of a sample's logits is known."""
        return self._logits is not None

    @property
    def samples(self) -> int:
        """For how many samples there is room."""
        return self._written.shape[1]

    @property
    def bytes(self) -> int:
        """Size of the memory in bytes."""
        if self._logits is None:
            return 0
        return self._logits.nbytes + self._written.nbytes + self._owner.nbytes

    def reserve(self, samples: int, shape: tuple[int, ...]) -> None:
        """Have room for `samples` samples at least, with logits of `shape` each; keep what is remembered."""
        if self._logits is None:
            self._allocate(samples, shape)
        elif samples > self.samples:
            self._grow(self._logits, samples)

    def forget(self) -> None:
        """Let no sample have a past, and keep the room."""
        self._written.fill_(_NEVER)

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
        logits = self._with_room_for(_needed(indices))
        slot, past = (epoch - self.epochs_back) % (self.epochs_back + 1), epoch - self.epochs_back
        known = (self._written[slot, indices] == past).nonzero().flatten() if past >= 0 else indices.new_empty(0)
        return known, logits[slot, indices[known].to(self.device)]

    def write(self, indices: Tensor, epoch: int, values: Tensor, replica: int = 0) -> None:
        """Remember `values`, (batch, *shape), as the logits of `epoch`.

        A sample whose logits are not all finite has none in this epoch: under a GradScaler an overflow skips the
        update, and remembering it would spoil another one epochs later.
        """
        logits = self._with_room_for(_needed(indices))
        slot, values = epoch % (self.epochs_back + 1), values.detach()
        finite = values.isfinite().flatten(1).all(1)
        # float16 ends at 65504; a larger logit is remembered as the largest one.
        bound = torch.finfo(self.dtype).max
        stored = values.nan_to_num(0.0).clamp(-bound, bound).to(self.device, self.dtype)
        logits[slot, indices.to(self.device)] = stored
        self._written[slot, indices] = torch.where(finite.cpu(), epoch, _NEVER).to(torch.int32)
        self._owner[indices] = replica

    def share(self, epoch: int, device: torch.device) -> None:
        """Give every replica what all of them remember of `epoch`. Each calls this at the epoch's end.

        Args:
            epoch: The epoch that ends.
            device: Where replicas exchange tensors.
        """
        slot = epoch % (self.epochs_back + 1)
        merged = self._merged_slot(epoch, device)
        if merged is not None and self._logits is not None:
            self._logits[slot], self._written[slot], self._owner = merged

    def state_dict(self, epoch: int, device: torch.device | None = None) -> dict[str, Any]:
        """Tensors only; empty before the first batch.

        Args:
            epoch: The current epoch.
            device: Where replicas exchange tensors, all of which have to call this then; None in a single process.
        """
        merged = self._merged_slot(epoch, device) if device is not None else None
        if self._logits is None:
            return {}
        if merged is None:
            return {"logits": self._logits, "written": self._written, "owner": self._owner}
        # Saving changes nothing here: what others know of this epoch becomes this replica's only at the epoch's end.
        slot = epoch % (self.epochs_back + 1)
        logits, written = self._logits.clone(), self._written.clone()
        logits[slot], written[slot], owner = merged
        return {"logits": logits, "written": written, "owner": owner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved memory; its number of epochs must be this one's."""
        if not state:
            return
        logits, written = state["logits"], state["written"]
        if logits.shape[0] != self.epochs_back + 1:
            raise StepError(
                f"SAF: the checkpoint remembers {logits.shape[0] - 1} epochs, epochs_back={self.epochs_back}. HINT: "
                "resume with the same epochs_back"
            )
        memory = self._allocate(written.shape[1], tuple(logits.shape[2:]))
        memory.copy_(logits)
        self._written.copy_(written)
        self._owner.copy_(state["owner"])

    def _merged_slot(self, epoch: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor] | None:
        fewest, most = fewest_and_most(self._written.shape[1], device)
        if fewest == 0:
            return None
        slot = epoch % (self.epochs_back + 1)
        logits = self._with_room_for(most)[slot]
        logits, known, owner = merged_rows(logits, self._written[slot] == epoch, self._owner, device)
        return logits, torch.where(known, epoch, _NEVER).to(torch.int32), owner

    def _with_room_for(self, samples: int) -> Tensor:
        if self._logits is None:
            raise StepError("SAF: the memory is used before it was allocated. HINT: call `reserve` first")
        if samples <= self.samples:
            return self._logits
        # A dataset that tells no length grows sample by sample: by half at least, or each batch would copy it all.
        return self._grow(self._logits, max(samples, self.samples + self.samples // 2))

    def _grow(self, logits: Tensor, samples: int) -> Tensor:
        present, written, owner = self.samples, self._written, self._owner
        memory = self._allocate(samples, tuple(logits.shape[2:]))
        memory[:, :present] = logits
        self._written[:, :present] = written
        self._owner[:present] = owner
        return memory

    def _allocate(self, samples: int, shape: tuple[int, ...]) -> Tensor:
        size = (self.epochs_back + 1, samples, *shape)
        pinned = self.device.type == "cpu" and torch.cuda.is_available()
        self._logits = torch.zeros(size, dtype=self.dtype, device=self.device, pin_memory=pinned)
        self._written = torch.full((self.epochs_back + 1, samples), _NEVER, dtype=torch.int32)
        self._owner = torch.zeros(samples, dtype=torch.int32)
        return self._logits


def _needed(indices: Tensor) -> int:
    return int(indices.max()) + 1 if indices.numel() else 0

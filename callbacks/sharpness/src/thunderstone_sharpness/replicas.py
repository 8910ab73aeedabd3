"""What data-parallel replicas tell one another, so that a method's state is the same on all of them."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor

_CHUNK = 2**22


def exchange_device(trainer: Trainer) -> torch.device | None:
    """Where replicas exchange tensors, or None when there is one process."""
    several = trainer.world_size > 1 and dist.is_available() and dist.is_initialized()
    return trainer.strategy.root_device if several else None


def fewest_and_most(number: int, device: torch.device) -> tuple[int, int]:
    """The smallest and the largest of a number over all replicas."""
    extremes = torch.tensor([-number, number], device=device)
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    return -int(extremes[0]), int(extremes[1])


def merged_rows(values: Tensor, known: Tensor, owner: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of which every replica knows some rows, as one table that is the same to the last bit on all of them.

    Where several replicas made a row themselves, the first of them counts. What a replica made comes before what
    others had from it in an earlier merge, which may be older: so merging in between changes no later merge.

    Args:
        values: (rows, ...), of the same shape on every replica.
        known: bool (rows,) on the CPU.
        owner: int (rows,) on the CPU: the replica that made each known row.
        device: Where tensors are exchanged.

    Returns:
        New tensors like the arguments. Rows that no replica knows hold zeros.
    """
    rank, replicas = dist.get_rank(), dist.get_world_size()
    nobody = torch.iinfo(torch.int64).max
    # Lowest first: the owner, and for each owner itself before the others.
    claim = owner.long() * (replicas + 1) + torch.where(owner == rank, 0, 1 + rank)
    claim = torch.where(known, claim, nobody)
    best = claim.to(device, copy=True)
    dist.all_reduce(best, op=dist.ReduceOp.MIN)
    best = best.cpu()
    known_anywhere = best < nobody
    chosen = (known_anywhere & (claim == best)).to(values.device)
    merged = torch.empty_like(values)
    rows = max(1, _CHUNK // max(1, values[:1].numel()))
    for start in range(0, len(values), rows):
        part = slice(start, start + rows)
        shape = (-1, *[1] * (values.dim() - 1))
        # One replica contributes and the others add zeros, which is exact.
        total = torch.where(chosen[part].view(shape), values[part], 0).to(device)
        dist.all_reduce(total)
        merged[part] = total
    merged_owner = torch.where(known_anywhere, best // (replicas + 1), owner).to(owner.dtype)
    return merged, known_anywhere, merged_owner


def broadcast_from_first(tensors: list[Tensor], device: torch.device) -> None:
    """Overwrite tensors in place by those of the first replica, with one exchange for each type."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        same = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.flatten() for tensor in same]).to(device)
        dist.broadcast(flat, src=0)
        parts = flat.split([tensor.numel() for tensor in same])
        for tensor, part in zip(same, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

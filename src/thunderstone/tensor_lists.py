"""Multi-tensor arithmetic on lists that may hold None and sharded tensors.

Everything works on local storage (`DTensor.to_local` shares it), so element-wise steps need no communication; only
`total_norm` reduces over shards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


def local(tensor: Tensor) -> Tensor:
    """The tensor's storage on this rank: itself, or the shard of a DTensor."""
    if isinstance(tensor, DTensor):
        with torch.no_grad():
            return tensor.to_local()
    return tensor


@torch.no_grad()
def total_norm(tensors: Iterable[Tensor | None], group: dist.ProcessGroup | None = None) -> Tensor:
    """L2 norm over all tensors together, as a 0-d float32 (float64 for float64 input) tensor.

    DTensors are reduced over the mesh dimensions that shard them (a replicated dimension counts once). Plain tensors
    that are shards, as in FSDP1, are reduced over `group`.

    Args:
        tensors: Any shapes; None entries count as zero.
        group: The process group over which plain tensors are sharded; None when they are whole.

    Returns:
        0-d tensor on the tensors' device; zero on an empty list.
    """
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        if group is None:
            return torch.zeros(())
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        square = torch.zeros((), device=device)
        dist.all_reduce(square, group=group)
        return square.sqrt()
    if group is None and not any(isinstance(tensor, DTensor) for tensor in present):
        return _norm(present)
    sharded: dict[tuple[dist.ProcessGroup, ...], list[Tensor]] = {}
    for tensor in present:
        sharded.setdefault(_shard_groups(tensor, group), []).append(local(tensor))
    squares = []
    # Every rank holds the same parameters in the same order, so the groups are visited in the same order too.
    for groups, members in sharded.items():
        square = _norm(members).square()
        for shard_group in groups:
            dist.all_reduce(square, group=shard_group)
        squares.append(square)
    return torch.stack(squares).sum().sqrt()


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    values = [_real_values(tensor) for tensor in tensors]
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in values) else torch.float32
    nonempty = [tensor for tensor in values if tensor.numel()]
    if not nonempty:
        return torch.zeros((), dtype=wide, device=tensors[0].device)
    # Half-precision norms are accumulated in the wide type: a sum of squares overflows float16 at once.
    norms = torch._foreach_norm(nonempty, 2, dtype=wide)
    total: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
    return total


def _real_values(tensor: Tensor) -> Tensor:
    """Real numbers with the same norm: of a sparse tensor what is stored, of complex numbers both parts."""
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _shard_groups(tensor: Tensor, group: dist.ProcessGroup | None) -> tuple[dist.ProcessGroup, ...]:
    if not isinstance(tensor, DTensor):
        return () if group is None else (group,)
    mesh = tensor.device_mesh
    return tuple(
        mesh.get_group(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if isinstance(placement, Shard)
    )


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy values in place; storage pointers stay, so CUDA graphs and optimizers keep working.

    Args:
        targets: What is written to.
        sources: Parallel to `targets`, of the same shapes.
    """
    if targets:
        torch._foreach_copy_([local(target) for target in targets], [local(source) for source in sources])


@torch.no_grad()
def add_into(targets: Sequence[Tensor], deltas: Sequence[Tensor]) -> None:
    """``target += delta`` in place, for each pair of the two lists.

    Args:
        targets: What is added to.
        deltas: Parallel to `targets`, of the same shapes; may be sparse.
    """
    pairs = [(local(target), local(delta)) for target, delta in zip(targets, deltas, strict=True)]
    dense = [(target, delta) for target, delta in pairs if not delta.is_sparse]
    if dense:
        torch._foreach_add_([target for target, _ in dense], [delta for _, delta in dense])
    for target, delta in pairs:
        if delta.is_sparse:
            target.add_(delta)

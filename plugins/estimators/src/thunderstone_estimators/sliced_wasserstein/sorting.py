"""Sorting along the last dimension; on the CPU with NumPy, whose vectorised sort takes a fraction of torch's time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Below this many entries another thread costs more than it saves.
WORTH_THREADS = 2**18
# Of this many entries at a time, so that what NumPy allocates on the way stays small.
PIECE = 2**17


def sort_last(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted values and the order that sorts them, int64, as `torch.sort(values, -1)` gives them; ties in any order."""
    if not _in_reach_of_numpy(values):
        found = torch.sort(values, -1)
        return found.values, found.indices
    ordered, order = _Sort.apply(values)  # type: ignore[no-untyped-call]
    return ordered, order


def sorted_last(values: Tensor) -> Tensor:
    """`sort_last` without the order, which takes another part off the time where no gradient is needed."""
    if not _in_reach_of_numpy(values) or (values.requires_grad and torch.is_grad_enabled()):
        return sort_last(values)[0]
    copied = values.detach().clone(memory_format=torch.contiguous_format)
    _in_pieces(_rows(copied).numpy(), lambda rows, _: rows.sort(-1), None)
    return copied


class _Sort(torch.autograd.Function):
    @staticmethod
    def forward(values: Tensor) -> tuple[Tensor, Tensor]:
        order = torch.empty(values.shape, dtype=torch.int64)
        _in_pieces(_rows(values.detach()).numpy(), _argsort_into, _rows(order).numpy())
        return values.gather(-1, order), order

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (order,) = ctx.saved_tensors
        # A permutation reaches every place once: nothing to begin with, nothing to add up.
        return torch.empty_like(gradients[0]).scatter(-1, order, gradients[0])


def _in_reach_of_numpy(values: Tensor) -> bool:
    # Not the tensors of `torch.func`, of a compiler or of a subclass, which have no memory to hand over.
    plain = type(values) is Tensor and values.device.type == "cpu" and not torch.compiler.is_compiling()
    if not plain or values.dtype not in (torch.float32, torch.float64):
        return False
    try:
        values.detach().numpy()
    except RuntimeError:
        return False
    return True


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _argsort_into(rows: np.ndarray, order: np.ndarray | None) -> None:
    assert order is not None
    order[...] = rows.argsort(-1)


def _in_pieces(
    rows: np.ndarray, work: Callable[[np.ndarray, np.ndarray | None], None], into: np.ndarray | None
) -> None:
    """`work` on some rows (and the same rows of `into`) after others, on as many threads as torch may use."""
    height = max(1, PIECE // rows.shape[-1])
    pieces = [
        (rows[start : start + height], None if into is None else into[start : start + height])
        for start in range(0, len(rows), height)
    ]
    threads = min(torch.get_num_threads(), len(pieces)) if rows.size >= WORTH_THREADS else 1
    if threads == 1:
        for piece, target in pieces:
            work(piece, target)
        return
    # NumPy lets go of the interpreter while it sorts. A pool of the moment: a kept one would not survive a fork.
    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work, piece, target) for piece, target in pieces]:
            future.result()

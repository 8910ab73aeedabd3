"""Token sequences out of a loader's dataset, without the loader's iterator noticing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from thunderstone import UnsupportedSettingError
from thunderstone.isolation import RandomState

_FORM = 'a mapping with "input_ids", or a first tensor of whole numbers'


def token_ids(who: str, batch: Any, where: str | None) -> Tensor:
    """The ids of a batch of one sample, int64 (length,); what an attention mask leaves out at the end is not there.

    Args:
        who: Who asks, for messages.
        batch: A tensor, a mapping or a sequence.
        where: An entry of it, by key or number, or None: ``input_ids``, or the first tensor of whole numbers.

    Raises:
        UnsupportedSettingError: There are no ids at this place.
    """
    found = _entry(batch, where)
    if not isinstance(found, Tensor) or found.is_floating_point() or found.dtype == torch.bool:
        shown = f"a batch of type {type(batch).__name__}"
        reason = f"no token ids were found in it{'' if where is None else f' at {where!r}'}, only {_described(found)}"
        places = _places(batch)
        hint = f"yield {_FORM}" + (f", or say where the ids are: {who}(tokens=...), one of {places}" if places else "")
        raise UnsupportedSettingError(who, shown, reason, hint)
    ids = found[0] if found.dim() > 1 else found
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if isinstance(mask, Tensor) and mask.shape == found.shape:
        ids = ids[(mask[0] if mask.dim() > 1 else mask).bool()]
    return ids.reshape(-1).long().cpu()


def _entry(batch: Any, where: str | None) -> Any:
    if where is not None:
        if isinstance(batch, Mapping):
            return batch.get(where)
        if isinstance(batch, (list, tuple)) and where.lstrip("-").isdigit():
            return batch[int(where)] if -len(batch) <= int(where) < len(batch) else None
        return None
    if isinstance(batch, Mapping):
        return batch.get("input_ids")
    if isinstance(batch, (list, tuple)):
        of_ids = (one for one in batch if isinstance(one, Tensor) and not one.is_floating_point())
        return next(of_ids, batch[0] if batch else None)
    return batch


def _places(batch: Any) -> str:
    """The entries that a batch has, as they would be named."""
    names = list(batch) if isinstance(batch, Mapping) else range(len(batch)) if isinstance(batch, (list, tuple)) else ()
    return ", ".join(repr(str(name)) for name in names)


def _described(found: Any) -> str:
    return f"a tensor of {str(found.dtype).removeprefix('torch.')}" if isinstance(found, Tensor) else (
        "nothing" if found is None else f"a {type(found).__name__}"
    )  # fmt: skip


def sequences(who: str, loader: Any, indices: Iterable[int] | None, where: str | None) -> Iterator[Tensor]:
    """The ids of single samples of a loader's dataset, put together by its `collate_fn`; see `token_ids`.

    Args:
        who: Who asks, for messages.
        loader: A DataLoader.
        indices: Which samples, or None for all in their order (those of a stream as they come).
        where: See `token_ids`.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset):
        samples: Iterator[Any] = iter(dataset)
    else:
        samples = (dataset[index] for index in (range(len(dataset)) if indices is None else indices))
    for sample in samples:
        batch = loader.collate_fn([sample]) if loader.batch_sampler is not None else loader.collate_fn(sample)
        yield token_ids(who, batch, where)


def held_out(who: str, trainer: Trainer, count: int, longer_than: int, where: str | None) -> list[Tensor]:
    """The first `count` sequences of the validation data that are longer than a context.

    Raises:
        UnsupportedSettingError: There is no validation data, or none of its texts is long enough.
    """
    loaders: Any = trainer.val_dataloaders
    loader = next(iter(loaders.values())) if isinstance(loaders, Mapping) else loaders
    loader = loader[0] if isinstance(loader, (list, tuple)) and loader else loader
    if not hasattr(loader, "dataset"):
        reason = "held-out contexts are the beginnings of its texts"
        hint = "pass a validation loader, with limit_val_batches above 0, or prompts instead of contexts"
        raise UnsupportedSettingError(who, "no validation DataLoader", reason, hint)
    random_state = RandomState()
    try:
        texts = list(islice((ids for ids in sequences(who, loader, None, where) if len(ids) > longer_than), count))
    finally:
        random_state.restore()
    if not texts:
        reason = f"none of them is longer than context_length={longer_than}"
        raise UnsupportedSettingError(who, "these validation texts", reason, "use a shorter context_length")
    return texts

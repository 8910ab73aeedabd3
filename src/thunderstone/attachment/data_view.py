"""What methods may do with the training data: know which samples a batch is made of, train on a few of them, and make
several steps of each batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from thunderstone.attachment.repeats import Repeats, check_repeatable
from thunderstone.attachment.subset import Subset
from thunderstone.errors import StepError, UnsupportedSettingError
from thunderstone.lightning_private import batch_index


class IndexRecord:
    """Stands in for a loader's batch sampler and writes down what it yields; everything else is the sampler's own.

    The sampler runs in the main process whatever the number of workers, and batches arrive in the order it yielded
    them; so the n-th batch of an epoch is the n-th entry, however far workers run ahead.

    Args:
        sampler: The loader's batch sampler, or its sampler where the loader does no batching.
    """

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler
        self.entries: list[Any] = []
        self.iterations = 0

    def __iter__(self) -> Iterator[Any]:
        # Each epoch has a list of its own: an iterator that is still running fills the one it began with.
        entries: list[Any] = []
        self.entries = entries
        self.iterations += 1
        for indices in self._sampler:
            entries.append(indices)
            yield indices

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)


class DataView:
    """The training loader of a fit, before it is iterated; handed to `prepare_data`.

    Attributes:
        trainer: The running Trainer.
        module: The LightningModule.
        loader: The loader as Lightning will iterate it (with the sampler it put in under data parallelism).

    Args:
        continued: Whether a resumed epoch goes on where it was, its consumed batches passed over; otherwise the loader
            begins anew while Lightning goes on counting.
    """

    def __init__(
        self, trainer: Trainer, module: LightningModule, loader: Any, continued: Callable[[], bool] = lambda: False
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.loader = loader
        self._record: IndexRecord | None = None
        self._asking, self._hint = "", ""
        self._subset: Subset | None = None
        self._repeats: Repeats | None = None
        self._attribute = ""
        self._first = 0
        self._seen_iterations = 0
        self._continued = continued

    @property
    def dataset(self) -> Any:
        """The loader's dataset, or None when it has none."""
        return getattr(self.loader, "dataset", None)

    @property
    def indices_asked_by(self) -> str:
        """Who has asked for sample indices so far; empty where nobody has.

        A method whose steps are not about the samples of a batch looks last (``@hookimpl(trylast=True)``).
        """
        return self._asking

    @property
    def started(self) -> bool:
        """Whether the loader has been iterated with its indices tracked, over a subset, or with repeated batches."""
        tracked = self._record is not None and self._record.iterations > 0
        repeated = self._repeats is not None and bool(self._repeats.begun)
        return tracked or repeated or (self._subset is not None and self._subset.started)

    def track_indices(self, method: str, hint: str) -> None:
        """Have the sample indices of every batch known as `LossStep.indices`; the batch itself is not touched.

        Args:
            method: Who asks, for messages.
            hint: What to do where indices cannot be known, e.g. a method that needs none.

        Raises:
            UnsupportedSettingError: The data has no indices (an IterableDataset, a loader that is no DataLoader, or
                one that hands batches out of order).
        """
        if self._record is not None:
            return
        if not isinstance(self.loader, DataLoader):
            reason = "only a torch DataLoader has a sampler that says which samples a batch is made of"
            setting = f"a training loader of type {type(self.loader).__name__}"
            raise UnsupportedSettingError(method, setting, reason, hint)
        if isinstance(self.loader.dataset, IterableDataset):
            reason = "its samples have no indices by which they could be known again in the next epoch"
            name = type(self.loader.dataset).__name__
            raise UnsupportedSettingError(method, f"an IterableDataset ({name})", reason, hint)
        if not getattr(self.loader, "in_order", True):
            reason = "batches arrive in another order than the sampler drew them in"
            raise UnsupportedSettingError(method, "DataLoader(in_order=False)", reason, "use in_order=True")
        with self._own_samplers():
            self._record = IndexRecord(None)
        self._asking, self._hint = method, hint

    def subset(self, method: str, samples: int, seed: int, hint: str) -> Subset:
        """Have the loader draw from a fixed choice of its samples only, in the way it draws from all.

        The choice depends on the seed and on the number of samples there are, and on nothing else: it is the same in
        every epoch, in every process and after a resume. The dataset is not touched, and sample indices
        (`track_indices`, in whatever order the two are called) stay those of the whole dataset.

        Args:
            method: Who asks, for messages.
            samples: How many samples, 1 or more; all of them where there are fewer.
            seed: Of the choice.
            hint: What to do where a subset cannot be taken.

        Raises:
            UnsupportedSettingError: See `Subset`.
            StepError: A subset of this loader was taken already.
        """
        if self._subset is not None:
            raise StepError(
                f"{method}: a subset of this training loader was taken already. HINT: attach one such method"
            )
        with self._own_samplers():
            self._subset = Subset(method, self.loader, samples, seed, hint)
        return self._subset

    def repeat(self, method: str, times: int, hint: str) -> None:
        """Have every batch come `times` in a row, as the same samples in the same order.

        The epoch is `times` as many batches, whatever shuffles them, splits them among replicas or loads them; the
        length that the loader tells is that of all. Each copy is loaded by itself: a dataset that draws random numbers
        gives others. The number of a batch in the epoch, modulo `times`, says which copy it is, except where a run
        is resumed in mid-epoch without `ExactResume`.

        Args:
            method: Who asks, for messages.
            times: How often each batch comes, 1 or more; 1 leaves the loader alone.
            hint: What to do where batches cannot be repeated.

        Raises:
            UnsupportedSettingError: The loader is no DataLoader, its data is a stream, or it hands batches out of
                order.
            StepError: The batches of this loader are repeated already.
        """
        if self._repeats is not None:
            raise StepError(
                f"{method}: the batches of this training loader are repeated already. HINT: attach one such method"
            )
        if times == 1:
            return
        check_repeatable(method, self.loader, hint)
        with self._own_samplers():
            self._repeats = Repeats(None, times)

    @contextmanager
    def _own_samplers(self) -> Iterator[None]:
        """Inside, the loader has its own samplers; afterwards, in whatever order they were asked for, its batches are
        of a subset, then repeated, and at last written down."""
        if self._attribute:
            vars(self.loader)[self._attribute] = self._inner()
        try:
            yield
        finally:
            standing = [wrapper for wrapper in (self._repeats, self._record) if wrapper is not None]
            if standing:
                self._attribute = "batch_sampler" if self.loader.batch_sampler is not None else "sampler"
                sampler = getattr(self.loader, self._attribute)
                for wrapper in standing:
                    wrapper._sampler = sampler
                    sampler = wrapper
                # DataLoader forbids assigning its samplers because a running iterator would not notice; none is
                # running yet.
                vars(self.loader)[self._attribute] = sampler

    def _inner(self) -> Any:
        sampler = getattr(self.loader, self._attribute)
        while isinstance(sampler, (IndexRecord, Repeats)):
            sampler = sampler._sampler
        return sampler

    def current_indices(self) -> Tensor | None:
        """Indices of the batch in training, int64 (batch size,), or None when they are not tracked.

        Raises:
            StepError: The sampler yields something that is not an index.
        """
        record = self._record
        if record is None:
            return None
        position = batch_index(self.trainer)
        if record.iterations != self._seen_iterations:
            resumed = self._seen_iterations == 0 and self.trainer.ckpt_path is not None
            in_place = self._continued() or hasattr(self.loader, "load_state_dict")
            self._first = position if resumed and not in_place else 0
            self._seen_iterations = record.iterations
        try:
            return torch.as_tensor(record.entries[position - self._first], dtype=torch.int64).reshape(-1)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            raise StepError(
                f"{self._asking}: the samples of batch {position} cannot be known: the loader's {self._attribute} "
                f"({type(record._sampler).__name__}) did not yield integer indices for it ({error}). HINT: use a "
                f"sampler that yields integers, or {self._hint}"
            ) from error

    def release(self) -> None:
        """Give the loader its own samplers back."""
        if self._attribute:
            vars(self.loader)[self._attribute] = self._inner()
            self._record = self._repeats = None
            self._attribute = ""
        if self._subset is not None:
            self._subset.release()
            self._subset = None

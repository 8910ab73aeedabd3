"""The demo's data: few real images, and many wrong labels among them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thunderstone.errors import RequestError

EXAMPLES = 600
WRONG = 0.4
CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's handwritten digits, split at random, with some training labels replaced by wrong ones.

    Attributes:
        images: Training images, float32 (examples, 1, 8, 8), of mean 0 and standard deviation 1 over all pixels.
        labels: What the network is told they are, int64 (examples,).
        wrong: Which of the labels are wrong, bool (examples,).
        test_images: All other images, float32 (1797 − examples, 1, 8, 8).
        test_labels: Their true labels, int64.
    """

    images: Tensor
    labels: Tensor
    wrong: Tensor
    test_images: Tensor
    test_labels: Tensor


def noisy_digits(seed: int, examples: int = EXAMPLES, wrong: float = WRONG) -> Digits:
    """A split of the digits that depends on nothing but the arguments; no global random state is used.

    Args:
        seed: Decides the split, and which labels become which wrong ones.
        examples: Training images; the others are for testing.
        wrong: Share of the training labels that is replaced, each by one of the nine other classes with equal chance.

    Raises:
        RequestError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise RequestError(
            f"demo: its images come with scikit-learn, and the module {error.name!r} is not installed. "
            "HINT: pip install 'thunderstone[demo]'"
        ) from error
    loaded = load_digits()
    pixels = torch.tensor(loaded.images, dtype=torch.float32).unsqueeze(1)
    pixels = (pixels - pixels.mean()) / pixels.std()
    truth = torch.tensor(loaded.target, dtype=torch.int64)

    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(truth), generator=generator)
    training, test = order[:examples], order[examples:]
    mistaken = torch.randperm(examples, generator=generator)[: round(wrong * examples)]
    is_wrong = torch.zeros(examples, dtype=torch.bool)
    is_wrong[mistaken] = True
    shift = torch.randint(1, CLASSES, (examples,), generator=generator)
    labels = torch.where(is_wrong, (truth[training] + shift) % CLASSES, truth[training])
    return Digits(pixels[training], labels, is_wrong, pixels[test], truth[test])

"""What a model predicts on given texts: loss, entropy and the probability of the favourite token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from thunderstone.isolation import ModuleState, RandomState
from thunderstone_hyperfitting.measures import prediction_entropy, top1_probability


@contextmanager
def reading(module: nn.Module) -> Iterator[torch.device]:
    """Inside a module runs in evaluation mode and without gradients; afterwards it and all generators are as before."""
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    state, random_state = ModuleState(module), RandomState(device)
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            yield device
    finally:
        for child, training in modes:
            child.training = training
        state.restore()
        random_state.restore()


def prediction_statistics(
    model: nn.Module,
    texts: Sequence[Tensor],
    batch_size: int = 16,
    after_texts: Callable[[int], None] = lambda count: None,
) -> dict[str, float]:
    """Means over every token but the first of each text, given the tokens before it.

    Args:
        model: Maps ids (N, L) to logits (N, L, V), a tensor or an object with ``.logits``.
        texts: Ids, int64 (length,), at least two each.
        batch_size: How many texts of one length the model sees at once.
        after_texts: Called after each batch with the number of its texts, to show how far it is.

    Returns:
        ``loss``: cross-entropy in nats; ``entropy`` of the predicted distributions in nats; ``top1_probability``.
    """
    by_length: dict[int, list[Tensor]] = {}
    for text in texts:
        by_length.setdefault(len(text), []).append(text)
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    with reading(model) as device:
        for group in by_length.values():
            for start in range(0, len(group), batch_size):
                ids = torch.stack(group[start : start + batch_size]).to(device)
                logits = logits_of(model(ids))[:, :-1].float()
                future = ids[:, 1:]
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), future.flatten())
                means = [float(loss), float(prediction_entropy(logits)), float(top1_probability(logits))]
                sums += torch.tensor(means, dtype=torch.float64) * future.numel()
                count += future.numel()
                after_texts(len(ids))
    values = (sums / count).tolist()
    return dict(zip(("loss", "entropy", "top1_probability"), values, strict=True))


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returned: the tensor itself, or ``.logits``, or ``["logits"]``."""
    found = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise TypeError(f"no logits in what the model returned: {type(output).__name__}")
    return found

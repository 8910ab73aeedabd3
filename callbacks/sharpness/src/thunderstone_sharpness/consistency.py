"""The loss that SAF and MESA share: how far predictions have moved from earlier ones."""

from __future__ import annotations

from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from thunderstone import ArgumentError, Method, StepError
from thunderstone.arguments import whole


def trajectory_loss(past: Tensor, present: Tensor, temperature: float, class_dim: int = -1) -> Tensor:
    """Mean of ``KL(softmax(past / tau) || softmax(present / tau))`` over all but the class dimension.

    Du et al. 2022, eq. 7 (the released code multiplies by tau squared; the paper does not).

    Args:
        past: Earlier logits, any shape with classes along `class_dim`. No gradient flows into them.
        present: Logits of the same shape, with their graph.
        temperature: tau, above 0.
        class_dim: The dimension of the classes.

    Returns:
        0-d float32 tensor (float64 for float64 logits).
    """
    wide = present.dtype if present.dtype.itemsize >= 4 else past.float().dtype
    log_past = log_softmax(past.detach().to(present.device, wide) / temperature, dim=class_dim)
    log_present = log_softmax(present.to(wide) / temperature, dim=class_dim)
    return kl_div(log_present, log_past, reduction="none", log_target=True).sum(dim=class_dim).mean()


def class_dimension(method: str, value: object) -> int:
    """`value` as the dimension of the classes; 0 is the batch. Raises ArgumentError."""
    hint = "use -1 where classes come last, or 1 for (N, C, H, W)"
    number = whole(method, "class_dim", value, hint, minimum=-64)
    if number == 0:
        raise ArgumentError(method, "class_dim", 0, "dimension 0 is the batch", hint)
    return number


def metric_name(name: str, method: Method, output: str | None, trainer: Trainer) -> str:
    """`name`; with the output behind it where several instances are attached, one for each head of a module."""
    several = sum(type(callback) is type(method) for callback in trainer.callbacks) > 1  # type: ignore[attr-defined]
    return f"{name}/{output or 'forward'}" if several else name


def check_logits(method: str, logits: Tensor, class_dim: int) -> None:
    """Raise StepError for an output that is not a batch of distributions over at least two classes."""
    shape, dims = tuple(logits.shape), logits.dim()
    if not logits.is_floating_point():
        raise StepError(
            f"{method}: the captured output is of type {logits.dtype}, logits are floating point. HINT: capture the "
            "submodule that returns the logits"
        )
    if not -dims <= class_dim < dims or class_dim % dims == 0:
        raise StepError(
            f"{method}: the captured output has shape {shape}, and class_dim={class_dim} is not a dimension of it "
            "beside the batch. HINT: capture logits of shape (batch, classes), or set class_dim"
        )
    if shape[class_dim] < 2:
        raise StepError(
            f"{method}: the captured output has shape {shape}, a single class along class_dim={class_dim}: its softmax "
            "is 1 whatever the weights. HINT: capture an output with a logit for each class; a binary classifier "
            "needs two"
        )

"""The loss that SAF and MESA share: how far predictions have moved from earlier ones."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


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

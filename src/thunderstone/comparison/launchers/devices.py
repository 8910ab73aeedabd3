"""Which GPUs a run may use."""

from __future__ import annotations

import os

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """The GPUs of this process, each as `CUDA_VISIBLE_DEVICES` names it; none where torch finds none."""
    import torch

    # CUDA leaves out whatever follows the first name that is no device.
    count = torch.cuda.device_count()
    listed = os.environ.get(VISIBLE)
    names = [str(number) for number in range(count)] if listed is None else [each.strip() for each in listed.split(",")]
    return names[:count]

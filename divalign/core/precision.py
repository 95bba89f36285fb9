"""Float64 where a device computes in it: Apple's GPUs (torch's "mps") have no float64."""

from __future__ import annotations

import torch
from torch import Tensor

WITHOUT_FLOAT64 = ("mps",)


def widest_dtype(device: torch.device | str) -> torch.dtype:
    """Return float64 where the device has it, else float32.

    Untested on an Apple GPU, which no machine of ours has: tests hold the rule and not the hardware to it.
    """
    return torch.float32 if torch.device(device).type in WITHOUT_FLOAT64 else torch.float64


def in_widest(values: Tensor) -> Tensor:
    """Return the values, where they lie, in the `widest_dtype` of their device."""
    return values.to(widest_dtype(values.device))

"""Tokens per second, and the share of the machine's own matrix product rate that useful work takes (MFU)."""

from __future__ import annotations

import time
from typing import Any

import torch

TIMES = ("tokens_per_second", "mfu")  # what a log holds that another run of the same training would not


class Speed:
    """Counts useful work between two logs.

    Useful are each prompt once where responses share it, each response, the head on scored tokens alone, and no
    padding; forward and backward are 6 operations per weight and token, 4 where the weights are frozen under an
    adapter. Attention is left out, which understates long rows. The rate it is held against is measured here, in the
    dtype of the products, and not taken from a data sheet.

    Sampled responses count as rows do: the tokens of the forward with gradients, not those of decoding. The seconds
    are all that passed, with sampling, rewards and the reference's scores, so the speed is that of the whole update.
    """

    def __init__(self, model: Any, dtype: torch.dtype | None = None) -> None:
        head = model.get_output_embeddings()
        self.head = sum(parameter.numel() for parameter in head.parameters()) if head is not None else 0
        frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        embeddings = {
            id(parameter) for part in (model.get_input_embeddings(), head) if part for parameter in part.parameters()
        }
        self.backbone = sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
        self.each = 4 if frozen else 6
        self.parameter = next(model.parameters())
        self.dtype = dtype or self.parameter.dtype
        self._rate: float | None = None
        self.reset()

    def reset(self) -> None:
        self.tokens, self.scored, self.start = 0, 0, time.perf_counter()

    def add(self, inputs: dict[str, Any]) -> None:
        """Count a batch that goes forward and backward, by its layout."""
        self.tokens += int(inputs["attention_mask"].sum())
        self.scored += len(inputs["targets"])

    def metrics(self) -> dict[str, float]:
        """Return both numbers since the last `reset`, and start anew; nothing if nothing was counted."""
        seconds, tokens = time.perf_counter() - self.start, self.tokens
        operations = self.each * (self.backbone * tokens + self.head * self.scored)
        self.reset()
        if not tokens:
            return {}
        if self._rate is None:
            self._rate = matmul_rate(self.parameter.device, self.dtype)
        return dict(zip(TIMES, (tokens / seconds, operations / seconds / self._rate), strict=True))


def matmul_rate(
    device: Any = "cpu", dtype: torch.dtype = torch.float32, *, size: int = 1024, repeats: int = 8
) -> float:
    """Return the rate of square matrix products in operations per second, the best of `repeats`."""
    if torch.device(device).type != "cpu":
        size = 4096  # a small product does not fill an accelerator
    matrix = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best

"""How long a stage takes on a GPU, from sizes alone: arithmetic with stated assumptions, not a measurement.

    seconds = max(operations / (MFU peak), forwards bytes of weights / (REACHED bandwidth)) + forwards layers LAYER

The first term bounds training and reading prompts, the second generation, whose every step reads all weights; the last
is the dispatch of each layer from Python, which bounds small models.
"""

from __future__ import annotations

from typing import NamedTuple

from divalign.core.names import find
from divalign.lm.shape import ModelShape
from divalign.stages.cost import BYTES, Job

MFU = 0.35  # of the peak that a training or a prefill of a few hundred tokens a row reaches
REACHED = 0.6  # of the memory's bandwidth
LAYER = 0.8e-3  # seconds per layer and forward: about 25 ms a step of a 7B model in transformers


class Gpu(NamedTuple):
    """One GPU: dense bfloat16 operations per second, bytes per second of its memory, and bytes of it."""

    name: str
    peak: float
    bandwidth: float
    memory: float


# Figures of NVIDIA's data sheets.
GPUS = {
    "a100": Gpu("A100 80 GB", 312e12, 2.04e12, 80e9),
    "h100": Gpu("H100 SXM", 989e12, 3.35e12, 80e9),
    "h200": Gpu("H200", 989e12, 4.8e12, 141e9),
}


def find_gpu(name: str) -> Gpu:
    """Return a GPU of `GPUS`. Raises ValueError, naming the nearest, for an unknown name."""
    return find(name, GPUS, kind="GPU", of=Gpu)


def gpu_seconds(job: Job, shape: ModelShape, gpu: Gpu, *, dtype: str) -> float:
    """Return how long a stage takes on a GPU that does nothing else; see the formula above."""
    weights = shape.parameters * BYTES[dtype]
    products = job.operations / (MFU * gpu.peak)
    reading = job.forwards * weights / (REACHED * gpu.bandwidth)
    return max(products, reading) + job.forwards * shape.layers * LAYER + job.fixed

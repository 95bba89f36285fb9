"""One of two processes that train with an anchor; the other half of a test."""

import os
import sys
from pathlib import Path

import torch

from divalign.train.doctor import _weights, trainer


def moved(folder: Path, *, batch: int) -> torch.Tensor:
    """Return what two anchored updates did to the weights."""
    one = trainer(folder, "kldo", batch=batch, sft_weight=1.5, learning_rate=0.1)
    before = _weights(one)
    one.train()
    return _weights(one) - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    found = moved(Path(sys.argv[1]), batch=4)
    if torch.distributed.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]) / "two.pt")
    torch.distributed.barrier()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo's may fail in the interpreter's own end

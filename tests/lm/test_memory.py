"""Running out of memory halves a batch and changes no number, wherever a model runs over many rows."""

import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from divalign.data.batching import Encoded
from divalign.data.examples import user_says
from divalign.lm.hidden import hidden_states, response_states
from divalign.lm.memory import halving
from divalign.lm.next_token import next_token_logprobs
from divalign.lm.score import sequence_log_probs
from tests.tiny import tiny_model

ROWS = [Encoded([5, 6, 7][: 1 + n % 3], [8, 9, 10 + n]) for n in range(9)]
CONVERSATIONS = [user_says("word " * (1 + number % 4) + str(number)) for number in range(9)]
USES: dict[str, Any] = {
    "log-probs": lambda model, tokenizer: sequence_log_probs(model, ROWS, tokenizer.pad_token_id),
    "response states": lambda model, tokenizer: response_states(model, ROWS, tokenizer.pad_token_id)["response"],
    "hidden states": lambda model, tokenizer: hidden_states(model, tokenizer, CONVERSATIONS)["generation"],
    "next token": lambda model, tokenizer: next_token_logprobs(model, tokenizer, CONVERSATIONS, ["a", "b"]),
}


def limited(model: Any, limit: int, error: type[Exception]) -> list[int]:
    """Let the model run out of memory above `limit` rows, and return where each forward's rows are noted."""
    sizes: list[int] = []

    def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
        sizes.append(options["input_ids"].shape[0])
        if sizes[-1] > limit:
            raise error("DefaultCPUAllocator: can't allocate memory")

    model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    return sizes


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_running_out_of_memory_halves_the_batch_and_changes_no_number(use: Any, error: type[Exception]) -> None:
    expected = use(*tiny_model("Mistral"))  # a sliding window, so that every row is one of its own
    model, tokenizer = tiny_model("Mistral")
    sequence_log_probs(model, ROWS[:1], tokenizer.pad_token_id)  # the trials of a new model run before the limit
    sizes = limited(model, 2, error)
    np.testing.assert_allclose(use(model, tokenizer), expected, rtol=1e-5, atol=1e-5)
    assert [size for size in sizes if size > 1][:3] == [9, 4, 2]  # a common prefix is read by itself


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_single_row_that_is_too_large_is_an_error(use: Any) -> None:
    model, tokenizer = tiny_model("Mistral")
    sequence_log_probs(model, ROWS[:1], tokenizer.pad_token_id)
    limited(model, 0, torch.OutOfMemoryError)
    with pytest.raises(MemoryError, match=r"out of memory with a single (row|conversation) in the batch"):
        use(model, tokenizer)


def test_batches_grow_back_and_keep_their_order() -> None:
    sizes: list[int] = []

    def compute(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if len(sizes) == 1:
            raise MemoryError
        return [2 * item for item in items]

    parts = list(halving([list(range(8)), list(range(8, 32)), list(range(32, 64))], compute))
    assert [item for part, _ in parts for item in part] == list(range(64))
    assert all(doubled == [2 * item for item in part] for part, doubled in parts)
    assert sizes[:3] == [8, 4, 4]
    assert max(sizes[3:]) >= 16


def test_another_error_passes_through() -> None:
    def compute(_items: list[int]) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(halving([[1, 2]], compute))


FREED = """
import numpy as np
from divalign.lm.memory import release

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024

before = resident()
blocks = [np.ones(2**16) for _ in range(800)]  # 400 MB in blocks that the C library takes from its heap
last = blocks[-1]
del blocks
kept = resident() - before
release()
print(kept, resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_what_is_freed_goes_back_to_the_machine() -> None:
    command = [sys.executable, "-c", FREED]
    kept, left = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert kept > 200  # or the test proves nothing
    assert left < 50

"""Faults that a child process brings upon itself before it runs `divalign`, and jobs around it."""

from __future__ import annotations

import functools
import importlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TRAINER = "divalign.train.trainer:DivergenceTrainer.compute_loss"  # once for each micro-batch


def signal_at(target: str, call: int, number: int) -> None:
    """Send this process a signal when a function is about to be called for the `call`-th time, from 1."""

    def before(calls: int, *_: Any, **__: Any) -> None:
        if calls == call:
            os.kill(os.getpid(), number)

    _wrap(target, before)


def memory_for(rows: int) -> None:
    """Fail every forward of more than `rows` rows as torch does where memory runs out."""

    def before(calls: int, *args: Any, **inputs: Any) -> None:
        given = next(
            value for value in (inputs.get("input_ids"), inputs.get("inputs_embeds"), *args[1:]) if value is not None
        )
        if len(given) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is (simulated)")

    _wrap("transformers.models.llama.modeling_llama:LlamaModel.forward", before)


def jump_clock(seconds: float, after: int) -> None:
    """Let the clock of the day jump after so many looks at it."""
    inner, looks = time.time, 0

    def jumping() -> float:
        nonlocal looks
        looks += 1
        return inner() + (seconds if looks > after else 0)

    time.time = jumping


def largest_file(size: int) -> None:
    """Refuse to write beyond `size` bytes of any file, as a quota does: EFBIG in place of ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def wait_until(target: str, file: str, words: str, then: str = "") -> None:
    """Hold a function back until a file holds some words; create the file `then` when it is about to be called."""

    def before(*_: Any, **__: Any) -> None:
        if then:
            Path(then).touch()
        for _ in range(3000):
            if Path(file).is_file() and words in Path(file).read_text():
                return
            time.sleep(0.02)
        raise TimeoutError(f"{file} never held {words!r}")

    _wrap(target, before)


def wait_for(file: str) -> None:
    """Wait until a file is there."""
    while not Path(file).exists():
        time.sleep(0.01)


def impatient(seconds: float, attempts: int) -> None:
    """Give a server so many seconds and attempts, where a user's are minutes."""
    models = importlib.import_module("divalign.stages.models")
    options = {"timeout": seconds, "attempts": attempts, "first_pause": 0.01}
    models.ServerOptions = functools.partial(models.ServerOptions, **options)


def fill_disk(folder: str, leave: int) -> None:
    """Job: write a file until nothing fits, and then take `leave` bytes off it again."""
    path = Path(folder) / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65536))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))


def shell(command: str) -> None:
    """Job: run a command, as this process's name space sees the disk."""
    subprocess.run(command, shell=True, check=True)


def copy(source: str, target: str) -> None:
    """Job: copy a folder."""
    shutil.copytree(source, target)


def _wrap(target: str, before: Callable[..., None]) -> None:
    """Call `before` with the number of the call, from 1, and the arguments each time a function is called."""
    module, _, name = target.partition(":")
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    inner, calls = getattr(owner, last), 0

    @functools.wraps(inner)
    def wrapped(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        before(calls, *args, **options)
        return inner(*args, **options)

    setattr(owner, last, wrapped)


def only_at_the_end() -> None:
    """Leave out the checkpoints of the schedule, so that those that are asked for are the only ones."""
    from divalign.train import run

    inner = run.DivergenceConfig
    run.DivergenceConfig = lambda **options: inner(**{**options, "save_steps": 10_000})  # type: ignore[assignment,misc]

"""A process with everything imported that forks a child per job, so that jobs cost no imports.

`python -m tests.zygote` reads lines of JSON, each a list of jobs to run together, and answers with how each ended (as
`os.waitstatus_to_exitcode` says: negative for a signal) and after how many seconds. A job is a `call`
("module:function"), its `arguments`, and if wanted `env`, `log` (a file for what it prints), and `kill_after` seconds a
`signal`. The parent kills, because only it knows that the process id is still the child's.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "no_proxy": "127.0.0.1",
}
FAILED = 70  # a job that raised; its traceback is in its log


class Ended(NamedTuple):
    """How a job ended, and after how many seconds."""

    code: int
    seconds: float


class Zygote:
    """Runs jobs in children of a warm process."""

    def __init__(self, *prefix: str) -> None:
        command = [*prefix, sys.executable, "-W", "ignore", "-m", "tests.zygote"]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def together(self, jobs: Sequence[dict[str, Any]]) -> list[Ended]:
        """Run jobs at the same time; return how each ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(jobs) + "\n")
        self.process.stdin.flush()
        return [Ended(*entry) for entry in json.loads(self.process.stdout.readline())]

    def run(self, arguments: Sequence[object], *setup: list[Any], **options: Any) -> Ended:
        """Run `divalign` with arguments, after functions of `tests.faults.setups` as [name, *arguments]."""
        return self.together([divalign_job(arguments, *setup, **options)])[0]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def divalign_job(arguments: Sequence[object], *setup: list[Any], **options: Any) -> dict[str, Any]:
    """Return the job that runs `divalign` with arguments."""
    return {"call": "tests.zygote:divalign", "arguments": [list(map(str, arguments)), list(setup)], **options}


def divalign(arguments: list[str], setup: list[list[Any]]) -> None:
    from divalign.cli import main
    from tests.faults import setups

    for name, *values in setup:
        getattr(setups, name)(*values)
    sys.argv = ["divalign", *arguments]
    main()


def _warm() -> None:
    for name in ("stages.attack", "stages.judge", "stages.train", "study.plan", "config", "cli"):
        importlib.import_module(f"divalign.{name}")
    importlib.import_module("transformers.models.llama.modeling_llama")


def _child(job: dict[str, Any]) -> None:
    log = os.open(job.get("log") or os.devnull, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (0, 1, 2):
        os.dup2(log, stream)
    os.environ.update(job.get("env") or {})
    module, _, function = job["call"].partition(":")
    try:
        getattr(importlib.import_module(module), function)(*job["arguments"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = FAILED
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(jobs: list[dict[str, Any]]) -> list[Ended]:
    start, children = time.monotonic(), []
    for job in jobs:
        child = os.fork()
        if child == 0:
            _child(job)
        children.append(child)
    for job, child in zip(jobs, children, strict=True):
        if job.get("kill_after") is not None:
            time.sleep(max(0.0, job["kill_after"] - (time.monotonic() - start)))
            os.kill(child, job.get("signal", signal.SIGKILL))
    return [Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - start) for child in children]


if __name__ == "__main__":
    _warm()
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)  # noqa: T201

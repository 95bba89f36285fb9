"""A process with everything imported that forks one child per line of arguments, so that kills cost no imports.

It reads lines of JSON: the arguments of `divalign`, and after how many seconds to send SIGKILL, or null. It prints how
each child ended (as `os.waitstatus_to_exitcode` says: negative for a signal) and after how many seconds. The parent
kills, because only it knows that the process id is still the child's.
"""

import json
import os
import signal
import sys
import time

import transformers.models.llama.modeling_llama

import divalign.stages.attack
import divalign.stages.judge
from divalign.cli import main

WARM = (transformers.models.llama.modeling_llama, divalign.stages.attack, divalign.stages.judge)

for line in sys.stdin:
    arguments, kill_after = json.loads(line)
    start, child = time.monotonic(), os.fork()
    if child == 0:
        devnull = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1):
            os.dup2(devnull, stream)
        sys.argv = ["divalign", *arguments]
        try:
            main()
            os._exit(0)
        except SystemExit as error:
            os._exit(error.code if isinstance(error.code, int) else 1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([code, time.monotonic() - start]), flush=True)  # noqa: T201

"""The cost of a call in CPU time, which a busy machine does not lengthen as it does the time on the clock."""

import time
from collections.abc import Callable
from typing import Any


def cpu_seconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.process_time()
    call(*arguments)
    return time.process_time() - start

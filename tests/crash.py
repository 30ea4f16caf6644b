"""Processes that are killed: forked from the tests, so that they start at once."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any


def fork(work: Callable[[], None]) -> int:
    """Run something in a child, which ends with exit code 0 if it returned; the child's process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numerical libraries, not of ours
        child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def die_at_line(file: str, line: int) -> Callable[[FrameType, str, Any], Any]:
    """Trace function that kills this process before the given line event inside a file."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(file):
            return None
        if event == "line":
            count += 1
            if count == line:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    return trace

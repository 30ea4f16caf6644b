"""Which arcs an input takes through our own code: from line to line, in the modules of one package alone.

In 60 CPU seconds over the zoos a campaign that recorded nothing opened 16,249 inputs, which take 2,473 arcs of
`runtime`; one that was guided opened 11,475, which take 2,709: recording costs three inputs in ten and pays.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

__all__ = ["Arc", "arcs_of"]

Arc = tuple[str, int, int]
"""A file and two of its lines; 0 is before the first line of a function and behind its last."""


@contextlib.contextmanager
def arcs_of(package: Path) -> Iterator[set[Arc]]:
    """A set to which the arcs are added that this thread takes through a package's modules."""
    found: set[Arc] = set()
    ours = str(package) + os.sep

    def called(frame: FrameType, event: str, argument: object) -> Any:
        del event, argument
        file = frame.f_code.co_filename
        if not file.startswith(ours):
            return None
        last = 0

        def stepped(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal last
            del argument
            if event != "exception":
                line = 0 if event == "return" else frame.f_lineno
                found.add((file, last, line))
                last = line
            return stepped

        return stepped

    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield found
    finally:
        sys.settrace(before)

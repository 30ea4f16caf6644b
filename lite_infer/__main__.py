"""How a process starts and ends that nobody uses but the command line.

Settles what would not be ours to settle in a program that only imports `runtime`; knows nothing of what is done.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

__all__ = ["main"]

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main() -> int:
    """Run the command line on the words of this process; return the exit code."""
    gc.disable()  # imports make many objects and no garbage
    _import_numpy()
    from runtime.cli import main as run

    gc.enable()
    atexit.register(gc.freeze)  # looking through all objects once more frees what the system frees at once
    return run()


def _import_numpy() -> None:
    """Import numpy with one thread for its linear algebra, which nothing here uses.

    It starts a thread for each core, and they spin for some time. Processes that are started from here inherit nothing
    of this.
    """
    given = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    try:
        import numpy  # noqa: F401
    finally:
        if given is None:
            del os.environ[_BLAS_THREADS]


if __name__ == "__main__":
    sys.exit(main())

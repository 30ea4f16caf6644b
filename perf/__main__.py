"""``python -m perf``: the same door as ``lite-infer perf``, so that errors and exit codes are the same."""

from __future__ import annotations

import sys

from runtime.cli import main

if __name__ == "__main__":
    sys.exit(main(["perf", *sys.argv[1:]]))

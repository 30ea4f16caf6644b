"""How long to fuzz: ``LITE_INFER_FUZZ=N`` asks for N times as many inputs as a usual run of the tests takes."""

from __future__ import annotations

import os

__all__ = ["FUZZ_TIMES"]

FUZZ_TIMES = max(1, int(os.environ.get("LITE_INFER_FUZZ") or 1))

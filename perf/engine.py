"""OpenVINO as anybody imports it, model converter included, but without its report over the network that it was.

Knows one module name; everything of this suite that uses OpenVINO directly takes it from here.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # documented: importing it raises ImportError

import openvino  # noqa: E402
from openvino import opset13 as ops  # noqa: E402

__all__ = ["openvino", "ops"]

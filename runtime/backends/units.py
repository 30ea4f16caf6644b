"""What the CPU has for 8-bit products, as an engine can use it.

Knows CPU facts and one variable of OpenVINO's kernels. Must not know any engine's objects, nor bundles. The answer
costs no time, so that it can be asked at every start.
"""

from __future__ import annotations

import os
from typing import Literal

from runtime._kernel_arguments import native_kernels

__all__ = ["Int8Unit", "int8_unit"]

Int8Unit = Literal["vnni", "dotprod"]

_UNITS: dict[str, Int8Unit] = {"avx512_vnni": "vnni", "avx_vnni": "vnni", "asimddp": "dotprod"}
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_BELOW = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
"""Limits that take every 8-bit dot product away."""


def int8_unit(engine: str) -> Int8Unit | None:
    """Name the instructions that make 8-bit products faster than float ones here.

    Parameters
    ----------
    engine : str
        ``openvino``, whose kernels may be limited by ``ONEDNN_MAX_CPU_ISA``, or ``onnxruntime``.

    Returns
    -------
    unit : {"vnni", "dotprod"} or None
        ``vnni``: AVX512-VNNI or AVX-VNNI (x86-64, AMX machines included); ``dotprod``: the dot products of ARM v8.2.
        None where the CPU has neither, or the operating system or the limit disables them.
    """
    found = set(native_kernels().int8_units())
    limit = os.environ.get(_LIMIT, "").upper() if engine == "openvino" else ""
    if limit in _BELOW:
        return None
    if limit.startswith("AVX2_VNNI"):
        found.discard("avx512_vnni")
    return next((unit for name, unit in _UNITS.items() if name in found), None)

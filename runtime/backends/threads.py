"""How many cores this process may use.

Knows operating systems. Must not know any engine, and never sets a thread count for the whole process.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from pathlib import Path

__all__ = ["default_threads"]

_CGROUP = Path("/sys/fs/cgroup")
_TOPOLOGY = Path("/sys/devices/system/cpu")


def default_threads() -> int:
    """Return the number of threads that suits inference: the physical cores that this process may use.

    Two hardware threads of one core share the units that the engines keep busy, so more threads than cores make
    inference slower.

    Returns
    -------
    count : int
        At least 1. The least of: physical cores (within the process's CPU affinity, where the system has one),
        logical processors, and the CPU quota of the container. Where the system does not tell about cores, logical
        processors count.
    """
    allowed = _allowed_processors()
    logical = len(allowed) if allowed is not None else (os.cpu_count() or 1)
    counts = (logical, _count_cores(allowed), _quota())
    return max(1, min(count for count in counts if count is not None))


def _allowed_processors() -> set[int] | None:
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return None


def _count_cores(allowed: set[int] | None) -> int | None:
    if sys.platform == "darwin":
        return _macos_cores()
    if sys.platform == "win32":
        return _windows_cores()
    return None if allowed is None else _linux_cores(allowed)


def _linux_cores(allowed: set[int], topology: Path = _TOPOLOGY) -> int | None:
    """Count groups of sibling threads among the allowed processors."""
    siblings = set()
    for processor in allowed:
        try:
            siblings.add((topology / f"cpu{processor}" / "topology" / "thread_siblings_list").read_text())
        except OSError:  # containers may hide it
            return None
    return len(siblings) or None


def _quota(cgroup: Path = _CGROUP) -> int | None:
    """CPUs that a container's quota allows, rounded up; cgroup version 2, then 1."""
    try:
        words = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            words = [(cgroup / "cpu" / f"cpu.cfs_{part}_us").read_text() for part in ("quota", "period")]
        except OSError:
            return None
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max": no limit
        return None
    return max(1, math.ceil(quota / period)) if quota > 0 and period > 0 else None


def _macos_cores() -> int | None:
    libc = ctypes.CDLL(None)
    count = ctypes.c_int32(0)
    size = ctypes.c_size_t(ctypes.sizeof(count))
    failed = libc.sysctlbyname(b"hw.physicalcpu", ctypes.byref(count), ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed or count.value < 1 else count.value


def _windows_cores() -> int | None:
    if sys.platform != "win32":  # lets the type checker know that `windll` exists below
        return None
    query = ctypes.windll.kernel32.GetLogicalProcessorInformationEx
    length = ctypes.c_uint32(0)
    query(0, None, ctypes.byref(length))  # 0: RelationProcessorCore; fails, but tells the length
    buffer = ctypes.create_string_buffer(length.value)
    if not length.value or not query(0, buffer, ctypes.byref(length)):
        return None
    return _count_records(buffer.raw[: length.value])


def _count_records(buffer: bytes) -> int | None:
    """Count the variable-size records that Windows returns, one a core: uint32 kind, uint32 size, data."""
    count = position = 0
    while position + 8 <= len(buffer):
        size = int.from_bytes(buffer[position + 4 : position + 8], "little")
        if size < 8:
            return None
        position += size
        count += 1
    return count or None

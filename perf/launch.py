"""Run one command and write down its wall time, CPU seconds and peak memory; a script of its own.

Knows the standard library alone and imports little of it. It stands between the suite and what is measured because
on Linux the peak memory of a child starts at that of the process that forked it: the suite holds volumes, this
script holds a bare interpreter. Usage: ``python -I -S launch.py RESULT COMMAND...``; the exit code is the command's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import NoReturn

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run ``arguments[1:]``, write the figures to the file ``arguments[0]``, return the exit code."""
    result, *command = arguments
    signal.signal(signal.SIGTERM, _stop)
    begun = time.perf_counter()
    process = subprocess.Popen(command)
    try:
        code, cpu_s, peak_rss_bytes = _wait(process)
        wall_s = time.perf_counter() - begun
    except BaseException:
        process.kill()
        process.wait()
        raise
    figures = {"wall_s": wall_s, "cpu_s": cpu_s, "peak_rss_bytes": peak_rss_bytes}
    with open(result, "w", encoding="utf-8") as stream:  # noqa: PTH123 - pathlib is not worth its import here
        json.dump(figures, stream)
    if code < 0:
        sys.stderr.write(f"ended by signal {-code} ({signal.Signals(-code).name})\n")
    return code if 0 <= code < 256 else 1


def _stop(*_: int | FrameType | None) -> NoReturn:
    sys.exit(1)


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, float | None, int | None]:
    """Exit code, CPU seconds and peak resident bytes of a process that has ended."""
    if sys.platform == "win32":
        return (process.wait(), *_windows_usage(int(process._handle)))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others kibibytes
    return process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit


if sys.platform == "win32":

    def _windows_usage(handle: int) -> tuple[float | None, int | None]:
        import ctypes
        from ctypes import wintypes

        class Counters(ctypes.Structure):
            _fields_ = [
                ("cb", wintypes.DWORD),
                ("page_faults", wintypes.DWORD),
                ("peak_working_set", ctypes.c_size_t),
                ("others", ctypes.c_size_t * 7),
            ]

        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        counters = Counters(cb=ctypes.sizeof(Counters))
        known = kernel.K32GetProcessMemoryInfo(wintypes.HANDLE(handle), ctypes.byref(counters), counters.cb)
        times = [wintypes.FILETIME() for _ in range(4)]  # creation, exit, kernel, user
        timed = kernel.GetProcessTimes(wintypes.HANDLE(handle), *(ctypes.byref(one) for one in times))
        ticks = sum((one.dwHighDateTime << 32) + one.dwLowDateTime for one in times[2:])  # of 100 ns
        return (ticks * 1e-7 if timed else None), (int(counters.peak_working_set) if known else None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

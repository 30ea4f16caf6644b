"""What this computer is, as far as speed depends on it.

Knows where Linux, macOS and Windows say so; must not collect anything that names the computer or its user. What
cannot be found out is None, never a guess.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from perf.records import Machine

__all__ = ["ISA_FLAGS", "PACKAGES", "describe_machine"]

ISA_FLAGS = (
    *("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512_vnni"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "avx10_1", "avx10_2"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Instruction sets that matter to inference, in the spelling of Linux."""

PACKAGES = (
    *("lite-infer", "numpy", "openvino", "onnxruntime", "opencv-python-headless", "nibabel", "pydicom", "pillow"),
    "msgspec",
)

_VARIABLES = re.compile(r"ONEDNN_(MAX_CPU_ISA|DEFAULT_FPMATH_MODE)|(OMP|MKL|OPENBLAS)_NUM_THREADS|OMP_WAIT_POLICY")
_APPLE = {"FEAT_DotProd": "asimddp", "FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16", "FEAT_SME": "sme"}


def describe_machine(openvino_capabilities: tuple[str, ...] | None = None) -> Machine:
    """Collect the facts; ``openvino_capabilities`` come from a process that has loaded OpenVINO."""
    information = _cpu_information()
    return Machine(
        cpu=_cpu_name(information),
        architecture=platform.machine(),
        isa=_isa(information),
        physical_cores=_physical_cores(information),
        logical_cores=os.cpu_count() or 1,
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        quota_cores=_quota(Path("/sys/fs/cgroup/cpu.max")),
        memory_bytes=_memory_bytes(),
        system=f"{platform.system()} {platform.release()}",
        governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        openvino_capabilities=openvino_capabilities,
        environment={name: os.environ[name] for name in sorted(os.environ) if _VARIABLES.fullmatch(name)},
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
    )


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip() or None
    return None


def _cpu_information() -> str:
    """``/proc/cpuinfo``, or nothing."""
    return _text(Path("/proc/cpuinfo")) or ""


def _field(information: str, name: str) -> str | None:
    match = re.search(rf"^{name}\s*:\s*(.+)$", information, re.MULTILINE)
    return match.group(1).strip() if match else None


def _sysctl(name: str) -> str | None:
    if platform.system() != "Darwin":
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip() or None
    return None


def _cpu_name(information: str) -> str:
    return (
        _field(information, "model name")
        or _sysctl("machdep.cpu.brand_string")
        or _windows_cpu_name()
        or platform.processor()
        or "unknown"
    )


def _windows_cpu_name() -> str | None:
    if sys.platform != "win32":
        return None
    import winreg

    with contextlib.suppress(OSError):
        key = winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0")
        return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    return None


def _isa(information: str) -> tuple[str, ...]:
    flags = set((_field(information, "flags") or _field(information, "Features") or "").split())
    if platform.system() == "Darwin":
        flags |= {flag for name, flag in _APPLE.items() if _sysctl(f"hw.optional.arm.{name}") == "1"}
        flags |= {"asimd"} if platform.machine() == "arm64" else set()
        flags |= {"avx2"} if _sysctl("hw.optional.avx2_0") == "1" else set()
        flags |= {"avx512f"} if _sysctl("hw.optional.avx512f") == "1" else set()
    return tuple(flag for flag in ISA_FLAGS if flag in flags)


def _physical_cores(information: str) -> int | None:
    """Distinct cores over all sockets."""
    sockets = re.findall(r"^physical id\s*:\s*(\d+)$", information, re.MULTILINE)
    cores = re.findall(r"^core id\s*:\s*(\d+)$", information, re.MULTILINE)
    if cores and len(sockets) == len(cores):
        return len(set(zip(sockets, cores, strict=True)))
    counted = _sysctl("hw.physicalcpu")
    return int(counted) if counted else None


def _quota(path: Path) -> float | None:
    """Cores that a container may use, where it is limited."""
    quota, _, period = (_text(path) or "max").partition(" ")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        return round(int(quota) / int(period), 2)
    return None


def _memory_bytes() -> int | None:
    if platform.system() == "Windows":
        return _windows_memory_bytes()
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _windows_memory_bytes() -> int | None:
    import ctypes

    buffer = (ctypes.c_ulonglong * 8)()  # MEMORYSTATUSEX: length and load share the first eight bytes
    ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(buffer)
    known = ctypes.CDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(buffer))
    return int(buffer[1]) if known else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

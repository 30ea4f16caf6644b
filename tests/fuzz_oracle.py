"""What fuzzing asks of an input: it may only be read or refused, in one line, soon, in little memory and silently."""

from __future__ import annotations

import contextlib
import resource
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import LiteInferError
from runtime.io import load
from runtime.io.summaries import describe
from runtime.manifest import parse_manifest

__all__ = ["MANIFEST", "MAX_CPU_SECONDS", "Case", "How", "limit_memory", "open_case"]

MAX_CPU_SECONDS = 10
MAX_ADDRESSES = 2 << 30
"""Address space beyond what the libraries take: larger requests fail, and the failure is a finding."""
MAX_GROWTH = 96 << 20
"""Memory really used for one file beside what its size allows."""
MANIFEST = "manifest.json"

_PACKED = (b"\x1f\x8b", b"PK", b"NR")


@dataclass(frozen=True)
class Case:
    """Files that belong together and the name that is opened: a dot opens their folder, `MANIFEST` a manifest."""

    files: dict[str, bytes]
    opened: str


@dataclass(frozen=True)
class How:
    """How an image is opened."""

    volume: int | None = 0
    force: bool = False
    described: bool = False


def open_case(case: Case, folder: Path, how: How) -> None:
    """Write the files to a folder that holds nothing else and open them; raise whatever is wrong with that."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    allowed = MAX_GROWTH + sum(len(data) * (1040 if data.startswith(_PACKED) else 40) for data in case.files.values())
    memory, began = _most_memory(), time.process_time()
    with _warnings_checked(), _errors_checked():
        if case.opened == MANIFEST:
            parse_manifest(case.files[MANIFEST])
        elif how.described:
            describe(folder / case.opened)
        else:
            load(folder / case.opened, volume=how.volume, force=how.force)
    grown, seconds = _most_memory() - memory, time.process_time() - began
    if grown > allowed:
        msg = f"took {grown >> 20} MiB, {allowed >> 20} MiB allowed"
        raise AssertionError(msg)
    if seconds > MAX_CPU_SECONDS:
        msg = f"took {seconds:.0f} s"
        raise AssertionError(msg)


@contextlib.contextmanager
def _errors_checked() -> Iterator[None]:
    try:
        yield
    except LiteInferError as error:
        if not str(error) or not str(error).isprintable():
            msg = "a message that is not one line of text"
            raise AssertionError(msg) from error
        if "not enough memory" in str(error):
            msg = f"asked for more than {MAX_ADDRESSES >> 30} GiB"
            raise AssertionError(msg) from error


@contextlib.contextmanager
def _warnings_checked() -> Iterator[None]:
    """Warnings of numpy and other libraries, which say nothing to a user, are findings."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    shown = [one for one in told if not issubclass(one.category, (DeprecationWarning, PendingDeprecationWarning))]
    if shown:
        msg = f"warned: {shown[0].category.__name__}: {shown[0].message} ({shown[0].filename}:{shown[0].lineno})"
        raise AssertionError(msg)


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def limit_memory() -> None:
    """Give this process no more addresses than it has and `MAX_ADDRESSES`."""
    with contextlib.suppress(OSError):  # no /proc: the check of memory really used is left
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MAX_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

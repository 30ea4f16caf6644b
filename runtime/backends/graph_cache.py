"""The folder of compiled graphs: which of them are whole, how much they take, keeping that within a limit, emptying it.

Knows the layout that `open_backend` gives it: ``<digest>/<engine's settings>/*.blob``, one folder a graph and setting,
and beside each blob its sha256. Knows no engine and no bundle. A compiled graph may go at any time: the next start
compiles it again. Nothing else in the folder is touched, and no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from runtime._digest import sha256_of
from runtime.errors import OutputError

__all__ = [
    "LIMIT_BYTES",
    "CompiledGraph",
    "clear_graphs",
    "compiled_graphs",
    "drop_damaged",
    "prune_graphs",
    "record_digests",
]

LIMIT_BYTES = 2 << 30
"""Compiled graphs that were used longest ago are removed until those kept have at most this many bytes."""

_OURS = re.compile(r"[0-9a-f]{16}|bf16_probe")
_ENDING = ".blob"
_RECORD = ".sha256"


@dataclass(frozen=True)
class CompiledGraph:
    """A graph compiled in one way.

    Attributes
    ----------
    folder : Path
        Where it is.
    bytes : int
        What its files take.
    used_ns : int
        When it was last opened, in nanoseconds since 1970: the modification time of the folder.
    """

    folder: Path
    bytes: int
    used_ns: int


def compiled_graphs(root: Path) -> list[CompiledGraph]:
    """List what is kept.

    Parameters
    ----------
    root : Path
        The folder of compiled graphs; it need not exist.

    Returns
    -------
    graphs : list of CompiledGraph
        Least recently used first. What vanishes or cannot be read meanwhile is left out.
    """
    found = []
    for folder in _folders(root):
        with suppress(OSError):
            files = _files(folder)
            if files:
                found.append(CompiledGraph(folder, sum(files.values()), folder.stat().st_mtime_ns))
    return sorted(found, key=lambda graph: (graph.used_ns, graph.folder))


def prune_graphs(root: Path, *, opened: Path, limit_bytes: int) -> int:
    """Count a graph as used now, and remove those used longest ago until the rest is within a limit.

    Parameters
    ----------
    root : Path
        The folder of compiled graphs.
    opened : Path
        The folder of the graph in use, which stays.
    limit_bytes : int
        Limit of all together.

    Returns
    -------
    removed : int
        How many graphs went. What cannot be removed (in use on Windows, not permitted) stays without a word.
    """
    with suppress(OSError):
        os.utime(opened)
    graphs = compiled_graphs(root)
    excess = sum(graph.bytes for graph in graphs) - limit_bytes
    removed = 0
    for graph in graphs:
        if excess <= 0:
            break
        if graph.folder == opened:
            continue
        with suppress(OSError):
            _remove(graph.folder)
            excess -= graph.bytes
            removed += 1
    return removed


def clear_graphs(root: Path) -> int:
    """Remove all compiled graphs.

    Parameters
    ----------
    root : Path
        The folder of compiled graphs; it goes too unless it holds what is not ours.

    Returns
    -------
    removed : int
        How many there were.

    Raises
    ------
    OutputError
        If one cannot be removed.
    """
    graphs = compiled_graphs(root)
    try:
        for folder in list(_folders(root)):
            if folder.is_dir():  # the last of its settings takes a digest's folder along
                _remove(folder)
    except OSError as error:
        msg = f"cannot clear {root}: {error.strerror}; close other programs that use lite-infer, or remove it by hand"
        raise OutputError(msg) from error
    with suppress(OSError):  # not empty, or not there
        root.rmdir()
    return len(graphs)


def drop_damaged(folder: Path) -> int:
    """Remove the compiled graphs of one folder that are not what was recorded of them, or of which nothing was.

    Parameters
    ----------
    folder : Path
        That of one graph and setting.

    Returns
    -------
    damaged : int
        How many are not what was recorded.

    Raises
    ------
    OSError
        If one cannot be read or removed.
    """
    damaged = 0
    for blob in folder.glob(f"*{_ENDING}"):
        try:
            recorded = _recorded(blob)
            if recorded == sha256_of(blob):
                continue
        except FileNotFoundError:  # another process was faster
            continue
        blob.unlink(missing_ok=True)
        damaged += recorded is not None
    return damaged


def record_digests(folder: Path) -> None:
    """Record what was compiled now, for `drop_damaged` at the next start; OSError if that fails.

    Processes that start together may write one graph in turn. Each looks again after it wrote its record, so that the
    last record is that of the last graph.
    """
    for blob in folder.glob(f"*{_ENDING}"):
        with suppress(FileNotFoundError):  # another process drops what is not recorded yet
            digest = sha256_of(blob)
            while True:
                blob.with_suffix(_RECORD).write_text(digest, encoding="ascii")
                found = sha256_of(blob)
                if found == digest:
                    break
                digest = found


def _recorded(blob: Path) -> str | None:
    try:
        return blob.with_suffix(_RECORD).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeError):
        return None


def _folders(root: Path) -> Iterator[Path]:
    """Folders with compiled graphs: those of the settings below each digest, and the digest's own."""
    for digest in _subfolders(root):
        if _OURS.fullmatch(digest.name):
            yield from _subfolders(digest)
            yield digest


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return sorted(Path(item.path) for item in found if item.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _files(folder: Path) -> dict[Path, int]:
    sizes = {}
    for path in folder.iterdir():
        status = path.lstat()
        if path.suffix in (_ENDING, _RECORD) and stat.S_ISREG(status.st_mode):
            sizes[path] = status.st_size
    return sizes


def _remove(folder: Path) -> None:
    for path in _files(folder):
        path.unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        with suppress(OSError):
            empty.rmdir()

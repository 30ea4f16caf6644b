"""Where embeddings live on disk: one checked file per entry, and an SQLite index of sizes and ages.

Knows files, SQLite and numpy; knows no image, graph or session, and never where the folder should be.

Rules that everything here follows:

* An entry is served only if its checksum, its key and every length in it agree, so files may be torn,
  swapped or cut at any time. That also makes ``fsync`` unnecessary.
* Readers use the file system alone. Only writers open the index, each time inside a transaction that holds
  its write lock; a temporary file seen while holding the lock therefore belongs to a process that died.
* A row is committed before its file appears and deleted after its file is gone: the index may count too
  much, never too little, so the limit holds at every moment, also the moment of a SIGKILL.
* The index may be lost. The first write of a process compares it with the folder and repairs it.
* The age of an entry is its file's modification time, which readers set; the index is corrected by it
  when an entry is about to be evicted.

The index uses SQLite's rollback journal, not its write-ahead log: readers do not need the index, and the
log would add shared memory (unsafe across ``fork``, absent on network folders) and files deleted by name.
"""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime._entry import PREFIX_BYTES, BadEntry, decode_entry, encode_entry
from runtime.errors import OutputError

if TYPE_CHECKING:
    import sqlite3

__all__ = ["DiskStore"]

_MAX_ENTRY_BYTES = 1 << 28
_BUSY_SECONDS = 2.0
_OURS = re.compile(r"([0-9a-f]{16,128})\.embedding|[0-9a-f]{16,128}\.[0-9a-f]{16}\.tmp")
_INDEX = "index.sqlite3"
_TRANSIENT = ("locked", "full", "readonly", "unable to open")  # SQLite errors that a new index would not cure
# A link or a pipe in the place of an entry is refused; Windows, without these, must not translate line ends.
_NO_SURPRISES = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_SCHEMA = (
    "CREATE TABLE entries (key TEXT PRIMARY KEY, size INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX entries_by_age ON entries (used)",
    "CREATE TABLE totals (bytes INTEGER NOT NULL)",
    "CREATE TRIGGER added AFTER INSERT ON entries BEGIN UPDATE totals SET bytes = bytes + new.size; END",
    "CREATE TRIGGER removed AFTER DELETE ON entries BEGIN UPDATE totals SET bytes = bytes - old.size; END",
)


@contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    """Hold the index's write lock; commit at the end, undo on any way out but the normal one."""
    index.execute("BEGIN IMMEDIATE")
    try:
        yield
        index.execute("COMMIT")
    finally:
        if index.in_transaction:
            index.execute("ROLLBACK")


class DiskStore:
    """Byte-bounded, persistent mapping of hex keys to tensors, shared by any number of processes.

    Safe from several threads. A folder that cannot be written turns the writing off for the life of this
    object, with one warning in the log; nothing but :meth:`clear` and :meth:`usage` raises.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        self.problem: str | None = None
        self._lock = threading.Lock()
        self._index: sqlite3.Connection | None = None
        self._index_identity: tuple[int, int] | None = None

    def read(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Tensors of an intact entry, read-only, and count that as use; None without one."""
        path = self._path(key)
        try:
            data = self._read_file(path)
            tensors = decode_entry(key, data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (BadEntry, OSError):
            self._discard(path)
            return None
        self.touch(key)
        return tensors

    def touch(self, key: str) -> None:
        """Count an entry as used now. A folder that cannot be written loses only its order of eviction."""
        now = time.time_ns()
        with suppress(OSError):
            os.utime(self._path(key), ns=(now, now))

    def write(self, key: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Store C-contiguous tensors under a key, evicting the least recently used entries first."""
        try:
            import sqlite3
        except ImportError as error:  # a Python built without it
            self._turn_off(str(error))
            return
        # A damaged index may also hold text that is not UTF-8, or numbers that are text.
        damage = (sqlite3.Error, ValueError, TypeError)
        with self._lock:
            if self.problem is not None:
                return
            try:
                try:
                    self._write(key, tensors)
                except FileNotFoundError:  # another process cleared the folder this very moment
                    self._write(key, tensors)
                except damage as error:
                    if isinstance(error, sqlite3.Error) and any(word in str(error) for word in _TRANSIENT):
                        raise
                    self._discard_index()
                    self._write(key, tensors)
            except OSError as error:
                self._turn_off(error.strerror or type(error).__name__)
            except damage as error:
                self._turn_off(str(error))

    def usage(self) -> tuple[int, int]:
        """Count the entries on disk and their bytes, whoever wrote them."""
        try:
            entries, _ = self._scan()
        except OSError as error:
            msg = f"cannot list the embedding cache {self.directory}: {error.strerror}; check its permissions"
            raise OutputError(msg) from error
        return len(entries), sum(size for size, _ in entries.values())

    def clear(self) -> tuple[int, int]:
        """Remove all entries, leftovers and the index, and return the entries and bytes removed."""
        self.close()
        try:
            entries, temporaries = self._scan()
            for name in (*temporaries, *(f"{key}.embedding" for key in entries)):
                (self.directory / name).unlink(missing_ok=True)
            for suffix in ("", "-journal"):
                (self.directory / (_INDEX + suffix)).unlink(missing_ok=True)
        except OSError as error:
            msg = f"cannot clear {self.directory}: {error.strerror}; remove the folder by hand"
            raise OutputError(msg) from error
        with suppress(OSError):  # not empty: files of somebody else, or another process is writing again
            self.directory.rmdir()
        return len(entries), sum(size for size, _ in entries.values())

    def close(self) -> None:
        """Close the index; a later write opens it again."""
        with self._lock:
            self._close_index()

    def forget_parent(self) -> None:
        """Let go, in a forked child, of what belongs to the parent process.

        SQLite forbids even closing an inherited connection, so it is kept alive for ever.
        """
        if self._index is not None:
            import ctypes

            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._index))
        self._index = None
        self._lock = threading.Lock()  # the old one may be held by a thread that exists only in the parent

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.embedding"

    def _scan(self) -> tuple[dict[str, tuple[int, int]], list[str]]:
        """Key -> (size, modification time) of all entries, and the names of temporary files.

        Anything else in the folder is none of our business.
        """
        entries: dict[str, tuple[int, int]] = {}
        temporaries: list[str] = []
        try:
            with os.scandir(self.directory) as found:
                for item in found:
                    match = _OURS.fullmatch(item.name)
                    if match is None or not item.is_file(follow_symlinks=False):
                        continue
                    if match[1] is None:
                        temporaries.append(item.name)
                        continue
                    with suppress(FileNotFoundError):  # evicted by another process since
                        status = item.stat(follow_symlinks=False)
                        entries[match[1]] = (status.st_size, status.st_mtime_ns)
        except (FileNotFoundError, NotADirectoryError):
            pass  # nothing was stored yet
        return entries, temporaries

    def _read_file(self, path: Path) -> NDArray[np.uint8]:
        with os.fdopen(os.open(path, os.O_RDONLY | _NO_SURPRISES), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not PREFIX_BYTES < status.st_size <= _MAX_ENTRY_BYTES:
                raise BadEntry
            data = np.empty(status.st_size, dtype=np.uint8)
            if file.readinto(data.data) != data.size:
                raise BadEntry
        data.flags.writeable = False
        return data

    def _discard(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._turn_off(f"a damaged entry cannot be removed ({error.strerror})")

    def _turn_off(self, reason: str) -> None:
        if self.problem is None:
            import logging  # costs start-up time

            self.problem = reason
            logging.getLogger("runtime.cache").warning(
                "embedding cache: %s; this session keeps new embeddings in memory only", reason
            )

    # Everything below needs self._lock.

    def _write(self, key: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        parts = encode_entry(key, tensors)
        size = sum(len(part) for part in parts)
        fits = size <= min(self.limit_bytes, _MAX_ENTRY_BYTES)
        if not fits and not self._path(key).exists():
            return
        index = self._opened_index()
        used = time.time_ns()
        with _transaction(index):
            self._evict(index, key)
            if not fits:
                return
            self._make_room(index, size)
            index.execute("INSERT INTO entries VALUES (?, ?, ?)", (key, size, used))
        with _transaction(index):
            if index.execute("SELECT 1 FROM entries WHERE key = ?", (key,)).fetchone() is not None:
                self._write_file(key, parts, used)

    def _write_file(self, key: str, parts: list[bytes | memoryview], used: int) -> None:
        temporary = self.directory / f"{key}.{os.urandom(8).hex()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_SURPRISES
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                for part in parts:
                    file.write(part)
            os.utime(temporary, ns=(used, used))
            temporary.replace(self._path(key))
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise

    def _evict(self, index: sqlite3.Connection, key: str) -> None:
        self._path(key).unlink(missing_ok=True)
        index.execute("DELETE FROM entries WHERE key = ?", (key,))

    def _make_room(self, index: sqlite3.Connection, size: int) -> None:
        while index.execute("SELECT bytes FROM totals").fetchone()[0] + size > self.limit_bytes:
            oldest = index.execute("SELECT key, size, used FROM entries ORDER BY used LIMIT 1").fetchone()
            if oldest is None:
                return
            key, entry_size, used = oldest
            try:
                touched = self._path(key).lstat().st_mtime_ns
            except FileNotFoundError:
                touched = used
            index.execute("DELETE FROM entries WHERE key = ?", (key,))
            if touched > used:  # read since it was written: it goes back into the queue at that time
                index.execute("INSERT INTO entries VALUES (?, ?, ?)", (key, entry_size, touched))
            else:
                self._path(key).unlink(missing_ok=True)

    def _opened_index(self) -> sqlite3.Connection:
        path = self.directory / _INDEX
        if self._index is not None:
            with suppress(FileNotFoundError):
                status = path.stat()
                if (status.st_dev, status.st_ino) == self._index_identity:
                    return self._index
            self._close_index()  # somebody cleared the folder under us
        import sqlite3

        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        index = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._index, self._index_identity = index, None
        path.chmod(0o600)  # not made by us: closing our own descriptor would drop the locks that SQLite holds
        status = path.stat()
        index.execute("PRAGMA journal_mode = PERSIST")
        index.execute("PRAGMA synchronous = OFF")
        with _transaction(index):
            found = index.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
            schema = tuple(row[0] for row in found)
            if not schema:
                for statement in _SCHEMA:
                    index.execute(statement)
            elif schema != _SCHEMA:
                msg = "the index has another layout"
                raise sqlite3.DatabaseError(msg)
            self._repair(index)
        self._index_identity = (status.st_dev, status.st_ino)
        return index

    def _repair(self, index: sqlite3.Connection) -> None:
        """Remove leftovers, drop rows without a file and adopt files without a row."""
        found, temporaries = self._scan()
        for name in temporaries:
            (self.directory / name).unlink(missing_ok=True)
        rows = {key: (size, used) for key, size, used in index.execute("SELECT key, size, used FROM entries")}
        stale = [(key,) for key, values in rows.items() if found.get(key) != values]
        index.executemany("DELETE FROM entries WHERE key = ?", stale)
        missing = [(key, *values) for key, values in found.items() if rows.get(key) != values]
        index.executemany("INSERT INTO entries VALUES (?, ?, ?)", missing)
        index.execute("DELETE FROM totals")
        index.execute("INSERT INTO totals SELECT coalesce(sum(size), 0) FROM entries")

    def _close_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = None

    def _discard_index(self) -> None:
        self._close_index()
        for suffix in ("", "-journal"):
            (self.directory / (_INDEX + suffix)).unlink(missing_ok=True)

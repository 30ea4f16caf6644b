"""Embeddings that were computed before: in memory for this session, on disk for the next one.

Knows names and bytes; knows no image file, graph or backend. What a key must cover is stated by
:func:`embedding_key`; the folder is the business of ``runtime._store``.

An embedding contains the image that it was made from, in a form that can be partly inverted. The folder is
therefore readable by its owner only, nothing in it is named after a patient or a file, and all of it may be
removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._entry import owned_tensor
from runtime._store import DiskStore
from runtime.directories import cache_directory
from runtime.errors import InferenceError, LiteInferError, SessionStateError

__all__ = ["CacheInfo", "EmbeddingCache", "content_digest", "embedding_key"]

_KEY = re.compile(r"[0-9a-f]{16,128}")
_TOUCH_SECONDS = 60.0  # an entry that is only ever hit in memory must not look unused on disk


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What an :class:`EmbeddingCache` holds, or what was removed from it.

    Attributes
    ----------
    memory_entries, memory_bytes, memory_limit : int
        Embeddings in memory, the bytes of their tensors, and the limit of those bytes.
    disk_entries, disk_bytes, disk_limit : int
        Embeddings on disk, written by any process, the bytes of their files, and the limit of those
        bytes; the index beside them (about 0.2 kB an entry) is not counted. 0 without a disk part.
    directory : Path or None
        Folder of the disk part, which exists after the first embedding was stored; None without one.
    hits, misses : int
        Look-ups of this cache object that found an embedding, in memory or on disk, and that did not.
    """

    memory_entries: int
    memory_bytes: int
    memory_limit: int
    disk_entries: int
    disk_bytes: int
    disk_limit: int
    directory: Path | None
    hits: int
    misses: int


@dataclass(slots=True)
class _Held:
    """An embedding in memory."""

    tensors: dict[str, NDArray[Any]]
    nbytes: int
    touched: float  # time.monotonic() when the file's age was last set


class EmbeddingCache:
    """Keeps encoder outputs by key, in a byte-bounded memory and in a byte-bounded folder.

    Both parts evict the least recently used embeddings first. The folder may be shared by any number of
    processes, which may be killed at any moment: a damaged file is a miss, never a wrong embedding. When the
    folder cannot be written (full, read-only, ...) this object goes on in memory and says so once in the log
    ``runtime.cache``.

    A key stands for one value for ever: whoever changes what the tensors depend on must change the key.

    Safe to use from several threads. After a fork the child goes on with its own connection to the folder.

    Parameters
    ----------
    memory_bytes : int, default 512 MiB
        Limit of the tensors in memory; 0 keeps none. An embedding above the limit is not kept.
    disk_bytes : int, default 4 GiB
        Limit of the files on disk; 0 for no disk part.
    directory : Path, optional
        Folder of the disk part. Default: ``embeddings`` in `runtime.directories.cache_directory`. It is made, for its
        owner only, when the first embedding is stored.

    Raises
    ------
    LiteInferError
        If a limit is negative, or the user's cache folder cannot be found out.

    Examples
    --------
    >>> key = embedding_key(b"digest", graph_sha256="00", backend="fake 1", precision="fp32", transform="id")
    >>> with EmbeddingCache(disk_bytes=0) as cache:
    ...     cache.put(key, {"image_embeddings": np.zeros((1, 2, 3, 5), np.float16)})
    ...     cache.get(key)["image_embeddings"].shape
    (1, 2, 3, 5)
    """

    def __init__(
        self, *, memory_bytes: int = 512 << 20, disk_bytes: int = 4 << 30, directory: Path | None = None
    ) -> None:
        if memory_bytes < 0 or disk_bytes < 0:
            msg = f"cache limits of {memory_bytes} and {disk_bytes} bytes: wanted 0 (off) or more"
            raise LiteInferError(msg)
        self._memory_limit = memory_bytes
        self._disk_limit = disk_bytes
        self._store: DiskStore | None = None
        if disk_bytes:
            folder = cache_directory() / "embeddings" if directory is None else Path(directory).absolute()
            self._store = DiskStore(folder, disk_bytes)
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._held_bytes = 0
        self._hits = 0
        self._misses = 0
        self._pid = os.getpid()
        self._closed = False

    def get(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Look an embedding up, in memory and then on disk.

        Parameters
        ----------
        key : str
            From :func:`embedding_key`.

        Returns
        -------
        tensors : dict of str to ndarray, or None
            The tensors as they were put, read-only, shared with the cache, C-contiguous; None if there is
            no intact embedding of that key.

        Raises
        ------
        LiteInferError
            If the key is not made of 16 to 128 lower-case hexadecimal digits.
        SessionStateError
            If the cache is closed.
        """
        self._enter(key)
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                self._held.move_to_end(key)
                self._hits += 1
        if held is not None:
            now = time.monotonic()
            if self._store is not None and now - held.touched > _TOUCH_SECONDS:
                held.touched = now
                self._store.touch(key)
            return dict(held.tensors)
        tensors = None if self._store is None else self._store.read(key)
        with self._lock:
            if tensors is None:
                self._misses += 1
                return None
            self._hits += 1
            self._keep(key, tensors)
        return dict(tensors)

    def put(self, key: str, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Keep an embedding: in memory at once, on disk before this returns.

        Parameters
        ----------
        key : str
            From :func:`embedding_key`.
        tensors : mapping of str to ndarray
            Outputs of the encoder: one or more tensors of up to 8 axes, none of them empty, of bool, signed
            or unsigned integers, float16, float32 or float64. Copied, except read-only C-contiguous arrays
            that own their memory, which the caller must leave as they are.

        Raises
        ------
        LiteInferError
            If the key is not made of 16 to 128 lower-case hexadecimal digits.
        InferenceError
            If there is no tensor, or one has no elements, too many axes or another dtype.
        SessionStateError
            If the cache is closed.
        """
        self._enter(key)
        owned = {name: owned_tensor(name, tensor) for name, tensor in tensors.items()}
        if not owned:
            msg = "the embedding has no tensors: an encoder must have at least one output"
            raise InferenceError(msg)
        with self._lock:
            self._keep(key, owned)
        if self._store is not None:
            self._store.write(key, owned)

    def info(self) -> CacheInfo:
        """Count what the cache holds now. The folder is listed, but neither made nor changed.

        Returns
        -------
        info : CacheInfo
            Entries, bytes, limits, hits and misses.

        Raises
        ------
        OutputError
            If the folder exists but cannot be listed.
        SessionStateError
            If the cache is closed.
        """
        self._enter()
        disk = (0, 0) if self._store is None else self._store.usage()
        with self._lock:
            return self._info((len(self._held), self._held_bytes), disk)

    def clear(self) -> CacheInfo:
        """Remove all embeddings from memory and from the folder, also those that other processes wrote.

        Returns
        -------
        removed : CacheInfo
            ``memory_entries``, ``memory_bytes``, ``disk_entries`` and ``disk_bytes`` say what was removed.
            Files in the folder that are not the cache's own stay.

        Raises
        ------
        OutputError
            If a file cannot be removed.
        SessionStateError
            If the cache is closed.
        """
        self._enter()
        with self._lock:
            memory = (len(self._held), self._held_bytes)
            self._held.clear()
            self._held_bytes = 0
        disk = (0, 0) if self._store is None else self._store.clear()
        return self._info(memory, disk)

    def close(self) -> None:
        """Give back memory and files; the embeddings on disk stay. May be called again; nothing else may."""
        self._adopt()
        self._closed = True
        with self._lock:
            self._held.clear()
            self._held_bytes = 0
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> EmbeddingCache:
        """Return the cache itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the cache."""
        self.close()

    def _enter(self, key: str | None = None) -> None:
        if self._closed:
            msg = "this embedding cache is closed: make a new one"
            raise SessionStateError(msg)
        if key is not None and not _KEY.fullmatch(key):
            msg = f"cache key of {len(key)} characters: wanted 16 to 128 lower-case hexadecimal digits"
            raise LiteInferError(msg)
        self._adopt()

    def _adopt(self) -> None:
        """Make the object this process's own: after a fork, locks and connections are the parent's."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._lock = threading.Lock()
        # A thread of the parent may have been between changing the entries and changing their sum.
        self._held_bytes = sum(held.nbytes for held in self._held.values())
        if self._store is not None:
            self._store.forget_parent()

    def _keep(self, key: str, tensors: dict[str, NDArray[Any]]) -> None:
        """Put an entry first in line; needs the lock."""
        nbytes = sum(tensor.nbytes for tensor in tensors.values())
        previous = self._held.pop(key, None)
        if previous is not None:
            self._held_bytes -= previous.nbytes
        if nbytes > self._memory_limit:
            return
        while self._held_bytes + nbytes > self._memory_limit:
            _, evicted = self._held.popitem(last=False)
            self._held_bytes -= evicted.nbytes
        self._held[key] = _Held(tensors, nbytes, time.monotonic())
        self._held_bytes += nbytes

    def _info(self, memory: tuple[int, int], disk: tuple[int, int]) -> CacheInfo:
        directory = None if self._store is None else self._store.directory
        counts = (self._hits, self._misses)
        return CacheInfo(*memory, self._memory_limit, *disk, self._disk_limit, directory, *counts)


def embedding_key(content: bytes, *, graph_sha256: str, backend: str, precision: str, transform: str) -> str:
    """Name of an embedding: the same if and only if everything that it depends on is the same.

    Parameters
    ----------
    content : bytes
        From :func:`content_digest`.
    graph_sha256 : str
        sha256 of the encoder graph.
    backend : str
        Name and version of the inference engine, since another version may round differently.
    precision : str
        Inference precision in use, after ``auto`` was resolved.
    transform : str
        Everything between the image and the encoder's input (size, resize rule, normalisation, padding,
        dtype that the embedding is stored in), in any stable spelling.

    Returns
    -------
    key : str
        64 hexadecimal digits. Each part is preceded by its length, so that no two lists of parts are
        written alike.

    Examples
    --------
    >>> embedding_key(b"", graph_sha256="ab", backend="c", precision="", transform="")[:8]
    '49bcfd6f'
    """
    digest = hashlib.sha256(b"lite-infer embedding 1")
    for part in (content, *(text.encode() for text in (graph_sha256, backend, precision, transform))):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def content_digest(image: NDArray[Any]) -> bytes:
    """Digest of a slice as the encoder is shown it: in the canonical view, after windowing.

    It stands for everything upstream at once. Slice axis, slice index, window and the storage order of the
    file need no place in the key: where they make a difference, the pixels differ, and where they make none
    (a neighbour with equal pixels, the same scan stored flipped), the embedding may be shared. A renamed or
    rewritten file keeps its embeddings, and no path or patient identifier enters the key.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, 3)
        Rows and columns of the image, any numeric dtype and any strides.

    Returns
    -------
    digest : bytes
        SHA-256, for which most processors have instructions, over dtype, shape and the values in C order,
        little-endian.

    Examples
    --------
    >>> image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    >>> content_digest(image) == content_digest(np.asfortranarray(image))
    True
    >>> content_digest(image) == content_digest(image.reshape(3, 2))
    False
    """
    values = np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{values.dtype.str} {image.shape} ".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.digest()

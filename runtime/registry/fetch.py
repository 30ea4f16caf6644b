"""Fetch a file by its sha256: from mirrors first, resuming what was begun, verified before it gets its name.

The only module of the runtime that uses the network, and only when it is called. Knows HTTP, digests and files; knows
nothing of bundles. What was fetched lies under its digest, so a copy of that folder on any web server is a mirror.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from runtime._digest import sha256_of
from runtime.errors import DownloadError, OutputError
from runtime.registry import web

__all__ = ["PART", "Progress", "Wanted", "fetch", "inside", "is_blob", "is_offline", "mirrors"]

PART = ".part"
"""Ending of what was fetched in part."""
MAX_BYTES = 16 << 30
"""Limit of a file whose size nobody told."""

_CHUNK_BYTES = 1 << 18
_ATTEMPTS = 3
_PAUSE_SECONDS = 1.0
_TRUE = frozenset({"1", "on", "true", "yes"})

Progress = Callable[[int, "int | None"], None]
"""Called with the bytes that are there and the bytes wanted, where known."""


@dataclass(frozen=True)
class Wanted:
    """A file to fetch.

    Attributes
    ----------
    sha256 : str
        Its digest, 64 lower-case hexadecimal digits.
    bytes : int or None
        Its size, where known.
    most : int, optional
        Bytes to take of a file whose size is not known; by default `MAX_BYTES`.
    places : tuple of str or Path
        URLs and files where it may be had, in order; mirrors come before them.
    """

    sha256: str
    bytes: int | None
    places: tuple[str | Path, ...]
    most: int | None = None

    @property
    def limit(self) -> int:
        """Bytes to take at most."""
        return self.bytes or self.most or MAX_BYTES


class _Unsuitable(Exception):
    """A place does not have the file; says why."""


class _Interrupted(Exception):
    """The connection ended early; another attempt may go on."""


def is_offline(asked: bool = False) -> bool:
    """Whether the network must not be used: asked for, or said by LITE_INFER_OFFLINE or HF_HUB_OFFLINE."""
    said = (os.environ.get(name, "").strip().lower() for name in ("LITE_INFER_OFFLINE", "HF_HUB_OFFLINE"))
    return asked or any(value in _TRUE for value in said)


def mirrors() -> tuple[str | Path, ...]:
    """URLs and folders in LITE_INFER_ENDPOINT, separated by commas; each has files under their sha256."""
    listed = (entry.strip().rstrip("/") for entry in os.environ.get("LITE_INFER_ENDPOINT", "").split(","))
    return tuple(entry if "://" in entry else Path(entry).expanduser() for entry in listed if entry)


def fetch(wanted: Wanted, blobs: Path, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """Return the verified file, fetched unless it is there already.

    Parameters
    ----------
    wanted : Wanted
        What to fetch.
    blobs : Path
        Folder where files lie under their digests; made if need be. What was fetched in part stays there, also after
        Ctrl-C, and the next call goes on from it.
    offline : bool
        Use files only, no URL.
    progress : callable, optional
        Told about progress.

    Returns
    -------
    path : Path
        ``blobs / sha256``.

    Raises
    ------
    DownloadError
        If no place has it, with the reason of each.
    OutputError
        If it cannot be written.
    """
    path = blobs / wanted.sha256
    if is_blob(path):
        return path
    mirrored = [inside(mirror, wanted.sha256) for mirror in mirrors()]
    places = [place for place in (*mirrored, *wanted.places) if isinstance(place, Path) or not offline]
    reasons = []
    part = path.with_name(wanted.sha256 + PART)
    try:
        blobs.mkdir(parents=True, exist_ok=True)
        if part.is_symlink():  # what it leads to is not ours to write
            part.unlink()
        for place in dict.fromkeys(places):
            try:
                _fetch_from(place, wanted, part, progress or (lambda _there, _wanted: None))
            except _Unsuitable as error:
                reasons.append(f"{web.shown(place)}: {error}")
            else:
                part.replace(path)
                return path
    except OSError as error:
        msg = f"{blobs}: cannot be written ({error.strerror or error}); free space, or set LITE_INFER_HOME elsewhere"
        raise OutputError(msg) from error
    raise DownloadError(_failure(wanted, reasons, offline))


def inside(place: str | Path, relative: str) -> str | Path:
    """Where a file is below a folder or URL."""
    return place / relative if isinstance(place, Path) else f"{place.rstrip('/')}/{quote(relative)}"


def is_blob(path: Path) -> bool:
    """Tell whether a file that is named after its digest is here, undamaged and no link."""
    return path.is_file() and not path.is_symlink() and sha256_of(path) == path.name


def _failure(wanted: Wanted, reasons: list[str], offline: bool) -> str:
    name = f"the file with sha256 {wanted.sha256[:12]}..."
    if reasons:
        return f"{name} was found nowhere; tried {'; '.join(reasons)}"
    if offline:
        return f"{name} is not here, and the network may not be used; bring it with lite-infer models import"
    return f"{name} is offered nowhere; give a place with --url, or mirrors in LITE_INFER_ENDPOINT"


def _fetch_from(place: str | Path, wanted: Wanted, part: Path, progress: Progress) -> None:
    """Complete and verify the part; _Unsuitable if this place cannot."""
    for _ in range(2):  # what was begun elsewhere may be wrong: then once more from the start
        begun = _size(part)
        _check_space(part, wanted, begun)
        if isinstance(place, Path):
            _copy(place, wanted, part, progress)
        else:
            _download(place, wanted, part, progress)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        found = sha256_of(part)
        if found == wanted.sha256:
            return
        part.unlink()
        if not begun:
            break
    msg = f"what it has is another file (sha256 {found[:12]}..., wanted {wanted.sha256[:12]}...)"
    raise _Unsuitable(msg)


def _size(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _check_space(part: Path, wanted: Wanted, begun: int) -> None:
    needed = (wanted.bytes or 0) - begun
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        msg = f"{part.parent}: {needed >> 20} MiB more are needed and {free >> 20} MiB are free; free some"
        raise OutputError(msg)


def _copy(source: Path, wanted: Wanted, part: Path, progress: Progress) -> None:
    try:
        file = source.open("rb")
    except OSError as error:
        raise _Unsuitable(error.strerror or "cannot be read") from error
    with file, part.open("wb") as target:
        size = os.fstat(file.fileno()).st_size
        if size > wanted.limit or wanted.bytes not in (None, size):
            _refuse_size(size, wanted.limit)
        while chunk := file.read(_CHUNK_BYTES):
            target.write(chunk)
            progress(target.tell(), wanted.bytes)


def _download(url: str, wanted: Wanted, part: Path, progress: Progress) -> None:
    """Attempt until the part is as long as the file; attempts that brought something do not count."""
    attempts = 0
    while wanted.bytes is None or _size(part) < wanted.bytes or not part.exists():
        before = _size(part)
        try:
            _attempt(url, wanted, part, progress)
        except (_Interrupted, web.Transient) as error:
            attempts = 1 if _size(part) > before else attempts + 1
            if attempts >= _ATTEMPTS:
                raise _Unsuitable(str(error)) from error
            time.sleep(_PAUSE_SECONDS * attempts)
        else:
            break
    if wanted.bytes is not None and _size(part) > wanted.bytes:
        part.unlink()
        msg = "what was begun is longer than the file"
        raise _Unsuitable(msg)


def _attempt(url: str, wanted: Wanted, part: Path, progress: Progress) -> None:
    begun = _size(part)
    try:
        response = web.opened(url, {"Range": f"bytes={begun}-"} if begun else {})
    except HTTPError as error:
        error.close()
        if error.code == 416 and begun:  # nothing lies beyond what we have: all of it, or more than there is
            if web.total_of(error.headers) != begun:
                part.unlink()
                msg = "what was begun does not fit"
                raise _Interrupted(msg) from error
            return
        msg = f"HTTP {error.code} {error.reason}"
        raise _Unsuitable(msg) from error
    except (URLError, ValueError) as error:
        raise _Unsuitable(web.reason(error)) from error
    with response:
        if response.status == 206 and web.start_of(response.headers) != begun:
            part.unlink(missing_ok=True)
            msg = "it does not go on where it was asked to"
            raise _Interrupted(msg)
        resumed = response.status == 206
        total = web.length_of(response.headers, begun if resumed else 0)
        if wanted.bytes is not None and total is not None and total != wanted.bytes:
            _refuse_size(total, wanted.bytes)
        with part.open("ab" if resumed else "wb") as file:
            for chunk in web.chunks(response, _CHUNK_BYTES):
                if file.tell() + len(chunk) > wanted.limit:
                    _refuse_size(None, wanted.limit)
                file.write(chunk)
                progress(file.tell(), wanted.bytes or total)
            if total is not None and file.tell() < total:
                msg = f"the connection ended after {file.tell()} of {total} bytes"
                raise _Interrupted(msg)


def _refuse_size(found: int | None, wanted: int) -> None:
    what = "more" if found is None else str(found)
    msg = f"what it has is another file ({what} bytes, wanted {wanted})"
    raise _Unsuitable(msg)

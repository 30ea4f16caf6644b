"""What a site offers: a JSON file that names bundles and sets, the digest of each one's manifest, and where they lie.

Knows the index's schema, and models by what they consist of. A site is a folder with bundles and ``index.json`` on any
web server or network share; `write_index` makes the file. The index states one digest a bundle, that of its manifest
(or a set's ``set.json``), which states those of the files: whoever trusts the index can trust what is fetched by it,
from wherever.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec
from msgspec import Meta, Struct

from runtime._manifest_records import Name
from runtime.bundle_set import SET_NAME, BundleSet, open_model
from runtime.errors import BundleError, DownloadError
from runtime.io._atomic import atomic_file
from runtime.manifest import MANIFEST_NAME, FileRecord, Licence
from runtime.registry import web
from runtime.registry.content import Head, content_in

__all__ = ["INDEX_NAME", "IndexEntry", "Offer", "offers", "write_index"]

INDEX_NAME = "index.json"
INDEX_VERSION = 1
MAX_INDEX_BYTES = 1 << 22

_HOW = "see the README on offering bundles"


class IndexEntry(Struct, frozen=True, omit_defaults=True):
    """One bundle or set of an index.

    `head` is the file that tells what it consists of and `manifest` that file's record; `bytes` counts all other files,
    `url` is that of the folder, relative to the index.
    """

    name: Name
    version: str
    title: str
    licence: Licence
    manifest: FileRecord
    bytes: Annotated[int, Meta(ge=0, le=1 << 40)]
    url: str
    head: Head = "manifest.json"


class _Index(Struct, frozen=True):
    index_version: int
    bundles: tuple[IndexEntry, ...]


class _Version(Struct, frozen=True):
    index_version: int


@dataclass(frozen=True)
class Offer:
    """A bundle that a site offers.

    Attributes
    ----------
    entry : IndexEntry
        What the index says of it.
    place : str or Path
        URL or folder that its files are below.
    """

    entry: IndexEntry
    place: str | Path


def index_source(asked: str | None) -> str | None:
    """URL or file of the index: what was asked for, else LITE_INFER_INDEX."""
    return asked or os.environ.get("LITE_INFER_INDEX") or None


def offers(source: str | None, *, offline: bool = False) -> list[Offer]:
    """Read an index.

    Parameters
    ----------
    source : str or None
        URL or file; by default LITE_INFER_INDEX. Without either nothing is offered.
    offline : bool
        Refuse a URL.

    Returns
    -------
    found : list of Offer
        In the index's order.

    Raises
    ------
    DownloadError
        If the index cannot be had, or is none.
    """
    source = index_source(source)
    if source is None:
        return []
    is_url = "://" in source
    if is_url and offline:
        msg = f"{web.shown(source)}: the network may not be used; bring bundles with lite-infer models import"
        raise DownloadError(msg)
    text = _downloaded(source) if is_url else _file_text(Path(source).expanduser())
    base: str | Path = source if is_url else Path(source).expanduser().absolute().parent
    return [Offer(entry, _place(base, entry)) for entry in _parsed(text, web.shown(source))]


def write_index(folder: Path) -> Path:
    """Write the index of the bundles and sets in a folder into it.

    Parameters
    ----------
    folder : Path
        Bundles and sets are the folders in it that have a manifest or a ``set.json``. Their files are verified.

    Returns
    -------
    path : Path
        ``index.json`` in the folder.

    Raises
    ------
    BundleError
        If there is no bundle, two have one name, or one is damaged.
    OutputError
        If the file cannot be written.
    """
    found = sorted({path.parent for name in (MANIFEST_NAME, SET_NAME) for path in folder.glob(f"*/{name}")})
    entries: dict[str, IndexEntry] = {}
    for each in found:
        entry = _entry(each)
        if entry.name in entries:
            msg = f"{each}: is called {entry.name!r} like {entries[entry.name].url}; offer one of them"
            raise BundleError(msg)
        entries[entry.name] = entry
    if not entries:
        msg = f"{folder}: has no bundle in it; put folders with {MANIFEST_NAME} there"
        raise BundleError(msg)
    index = msgspec.to_builtins(_Index(INDEX_VERSION, tuple(entries.values())))
    with atomic_file(folder / INDEX_NAME) as stream:
        stream.write((json.dumps(index, indent=2, ensure_ascii=False) + "\n").encode())
    return folder / INDEX_NAME


def _entry(folder: Path) -> IndexEntry:
    """What the index says of a folder, all of whose files are verified."""
    model = open_model(folder)
    for bundle in model.bundles if isinstance(model, BundleSet) else (model,):
        for relative in bundle.manifest.files:
            bundle.path(relative)
    content = content_in(folder)
    return IndexEntry(
        name=content.name,
        version=content.version,
        title=content.title,
        licence=content.licence,
        manifest=FileRecord(sha256=content.sha256, bytes=len(content.text)),
        bytes=content.bytes,
        url=quote(f"{folder.name}/"),
        head=content.head,
    )


def _downloaded(url: str) -> bytes:
    try:
        with web.opened(url, {}) as response:
            text = b""
            for chunk in web.chunks(response, 1 << 16):
                text += chunk
                if len(text) > MAX_INDEX_BYTES:
                    break
            return text
    except HTTPError as error:
        error.close()
        reason = f"HTTP {error.code} {error.reason}"
    except (URLError, ValueError, web.Transient) as error:
        reason = str(error) if isinstance(error, web.Transient) else web.reason(error)
    msg = f"{web.shown(url)}: the index of bundles cannot be had: {reason}"
    raise DownloadError(msg)


def _file_text(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_INDEX_BYTES + 1)
    except OSError as error:
        msg = f"{path}: the index of bundles cannot be read ({error.strerror}); {_HOW}"
        raise DownloadError(msg) from error


def _parsed(text: bytes, source: str) -> tuple[IndexEntry, ...]:
    if len(text) > MAX_INDEX_BYTES:
        msg = f"{source}: has more than {MAX_INDEX_BYTES} bytes; wanted an index of bundles; {_HOW}"
        raise DownloadError(msg)
    try:
        version = msgspec.json.decode(text, type=_Version).index_version
        if version > INDEX_VERSION:
            msg = f"{source}: index_version {version}, this version reads up to {INDEX_VERSION}; upgrade lite-infer"
            raise DownloadError(msg)
        return msgspec.json.decode(text, type=_Index).bundles
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        msg = f"{source}: is no index of bundles ({error}); {_HOW}"
        raise DownloadError(msg) from error


def _place(base: str | Path, entry: IndexEntry) -> str | Path:
    """Folder or URL of a bundle; a page on the web may name places on the web alone."""
    if isinstance(base, Path):
        return entry.url if "://" in entry.url else base / unquote(entry.url)
    place = urljoin(base, entry.url)
    if urlsplit(place).scheme not in ("http", "https"):
        msg = f"{web.shown(base)}: offers {entry.name!r} at {entry.url[:80]!r}, which is not on the web; {_HOW}"
        raise DownloadError(msg)
    return place

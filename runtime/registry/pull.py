"""Pull a bundle or set that a site offers, or a published checkpoint, into the store.

Knows what is offered and published, the store, and how files are fetched; decides what may be pulled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from runtime._digest import sha256_of
from runtime.errors import DownloadError, OutputError
from runtime.manifest import MAX_MANIFEST_BYTES
from runtime.registry.content import content_of
from runtime.registry.fetch import Progress, Wanted, fetch, inside
from runtime.registry.index import Offer
from runtime.registry.published import Published
from runtime.registry.store import Store, is_plain_file

__all__ = ["Pulled", "pull_bundle", "pull_checkpoint"]


@dataclass(frozen=True)
class Pulled:
    """Where something is now, and whether it was there already."""

    path: Path
    was_there: bool


def pull_bundle(
    offer: Offer, store: Store, *, force: bool = False, offline: bool = False, progress: Progress | None = None
) -> Pulled:
    """Fetch a bundle's manifest, or those of a set, then the files, and install it.

    Parameters
    ----------
    offer : Offer
        From `runtime.registry.index.offers`.
    store : Store
        Where it goes.
    force : bool
        Replace another bundle of that name.
    offline : bool
        Use network shares and mirrors that are folders only.
    progress : callable, optional
        Told about progress.

    Returns
    -------
    pulled : Pulled
        The bundle's folder.

    Raises
    ------
    DownloadError
        If a file cannot be had, or is another one.
    ManifestError
        If the manifest is none.
    OutputError
        If the name is taken, or the store cannot be written.
    """
    entry = offer.entry
    with store.changing():
        if not store.is_wanted(entry.name, entry.manifest.sha256, force=force):
            return Pulled(store.models / entry.name, was_there=True)
        record = entry.manifest
        if record.bytes > MAX_MANIFEST_BYTES:
            msg = f"{entry.name}: its manifest is said to have {record.bytes} bytes; tell who offers it"
            raise DownloadError(msg)
        wanted = Wanted(record.sha256, record.bytes, (inside(offer.place, entry.head),))
        path = fetch(wanted, store.blobs, offline=offline)

        def read(relative: str, sha256: str) -> bytes:
            inner = Wanted(sha256, None, (inside(offer.place, relative),), most=MAX_MANIFEST_BYTES)
            return fetch(inner, store.blobs, offline=offline).read_bytes()

        content = content_of(entry.head, path.read_bytes(), read)
        if content.name != entry.name:
            msg = f"the index calls a bundle {entry.name!r} that calls itself {content.name!r}; tell who offers it"
            raise DownloadError(msg)
        total = content.bytes
        store.check_space(total)
        done = 0
        for relative, file in content.files.items():
            wanted = Wanted(file.sha256, file.bytes, (inside(offer.place, relative),))
            fetch(wanted, store.blobs, offline=offline, progress=_from(done, total, progress))
            done += file.bytes
        folder = store.install(content)
        path.unlink(missing_ok=True)
        return Pulled(folder, was_there=False)


def _from(done: int, total: int, progress: Progress | None) -> Progress | None:
    return None if progress is None else lambda there, _: progress(done + there, total)


def pull_checkpoint(
    published: Published,
    store: Store,
    *,
    sha256: str | None = None,
    url: str | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch a checkpoint as its authors published it; it is verified, not opened.

    Parameters
    ----------
    published : Published
        From `runtime.registry.published.find_published`.
    store : Store
        Where it goes.
    sha256 : str, optional
        Its digest, where the registry does not know it.
    url : str, optional
        Where it may be had, where the registry knows no direct place.
    offline, progress
        As in `pull_bundle`.

    Returns
    -------
    pulled : Pulled
        The file.

    Raises
    ------
    DownloadError
        If its authors gave no licence, nobody knows its sha256, no place can be asked by a program, or it cannot be
        had.
    OutputError
        If another file is here under that name, or the store cannot be written.
    """
    if published.licence is None:
        msg = f"{published.title}: its authors gave no licence, so it is not pulled; ask them: {published.repository}"
        raise DownloadError(msg)
    if published.sha256 is not None and sha256 not in (None, published.sha256):
        msg = f"{published.title}: the registry knows its sha256 as {published.sha256}, not {sha256}; leave it out"
        raise DownloadError(msg)
    digest = sha256 or published.sha256
    with store.changing():
        there = store.checkpoint(published.name)
        if there is not None:
            _check_same(there, digest, published.name)
            return Pulled(there, was_there=True)
        digest, places = _source(published, digest, url)
        size = published.bytes if digest == published.sha256 else None
        fetch(Wanted(digest, size, places), store.blobs, offline=offline, progress=progress)
        last = PurePosixPath(urlsplit(places[0]).path).name
        name = published.file or (last if is_plain_file(last) else "checkpoint.pth")
        return Pulled(store.keep_checkpoint(published.name, name, digest), was_there=False)


def _check_same(there: Path, digest: str | None, name: str) -> None:
    found = sha256_of(there)
    if digest not in (None, found):
        msg = f"{there}: has sha256 {found}, wanted {digest}; to fetch it again: lite-infer models remove {name}"
        raise OutputError(msg)


def _source(published: Published, digest: str | None, url: str | None) -> tuple[str, tuple[str, ...]]:
    """Digest and places of a checkpoint; DownloadError says which of them is not known, and what to do."""
    if digest is None:
        msg = (
            f"{published.title}: its sha256 is not known, so lite-infer cannot tell whether what arrives is right; "
            f"download it yourself from {published.pages[0].url}, or give the digest that you trust with --sha256"
        )
        raise DownloadError(msg)
    if url is None and not published.direct:
        msg = (
            f"{published.title}: is published on a page for people, {published.pages[0].url}; download it there, "
            "or give a direct place with --url"
        )
        raise DownloadError(msg)
    return digest, published.direct if url is None else (url,)

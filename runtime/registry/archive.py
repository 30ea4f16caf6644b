"""Bundles and sets of them on a stick: one zip archive, verified when it is written and when it is read.

Knows zip archives and what models consist of; knows no network. Nothing of an archive reaches a final place before its
sha256 is the one that the manifest states, and nothing that no manifest lists is unpacked.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from runtime._digest import sha256_of
from runtime._zip import ZipArchive, ZipLimits
from runtime.bundle import Bundle
from runtime.bundle_set import SET_NAME, BundleSet, open_model
from runtime.errors import BundleError, BundleIntegrityError, OutputError
from runtime.io._atomic import atomic_file
from runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES
from runtime.registry.content import Content, Head, content_in, content_of
from runtime.registry.fetch import PART, is_blob
from runtime.registry.store import Store

__all__ = ["LIMITS", "import_archive", "pack"]

LIMITS = ZipLimits(members=1000, total_bytes=16 << 30)
"""What an archive with a bundle may hold."""

_CHUNK_BYTES = 1 << 20
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The same bundle makes the same archive, byte for byte, on every day."""


def pack(name_or_path: str | Path, output: Path | None = None, *, force: bool = False) -> tuple[Path, str]:
    """Write a bundle or a set into one zip archive for `import_archive`.

    Parameters
    ----------
    name_or_path : str or Path
        As `runtime.Session` takes it.
    output : Path, optional
        The archive; by default ``<name>-<version>.zip`` here.
    force : bool
        Replace a file of that name.

    Returns
    -------
    path : Path
        The archive.
    sha256 : str
        Its digest.

    Raises
    ------
    BundleError
        If there is no such bundle, or it is damaged.
    OutputError
        If the archive exists or cannot be written.
    """
    model = open_model(name_or_path)
    content = content_in(model.folder)
    output = Path(f"{content.name}-{_plain(content.version)}.zip") if output is None else output
    if output.exists() and not force:
        msg = f"{output} exists; choose another name, or replace it with --force"
        raise OutputError(msg)
    files = _verified(model)
    with atomic_file(output) as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for relative, path in {content.head: model.folder / content.head, **files}.items():
                info = zipfile.ZipInfo(relative, _WHEN)
                info.external_attr = 0o100644 << 16
                info.file_size = path.stat().st_size
                with path.open("rb") as source, archive.open(info, "w") as target:
                    shutil.copyfileobj(source, target, _CHUNK_BYTES)
        stream.seek(0)
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return output, digest.hexdigest()


def import_archive(path: Path, store: Store, *, sha256: str | None = None, force: bool = False) -> Path:
    """Install the bundle, or the set, of a zip archive.

    Parameters
    ----------
    path : Path
        What `pack` wrote, or any zip archive of a bundle's folder or of its content.
    store : Store
        Where it goes.
    sha256 : str, optional
        What the archive's digest must be.
    force : bool
        Replace a bundle of that name.

    Returns
    -------
    folder : Path
        The bundle.

    Raises
    ------
    BundleError
        If the archive is unreadable, made to do harm, or holds no bundle.
    BundleIntegrityError
        If a file, or the archive, is not what its sha256 says.
    OutputError
        If a bundle of that name exists, or it cannot be written.
    """
    with ZipArchive(path, limits=LIMITS, error=BundleError) as archive:
        if sha256 is not None:
            _check_archive(path, sha256)
        prefix, head = _head(path, archive)

        def read(relative: str, _sha256: str = "") -> bytes:
            return _read(path, archive, prefix + relative)

        content = content_of(head, read(head), read)
        _check_listed(path, archive, prefix, content)
        with store.changing():
            if not store.is_wanted(content.name, content.sha256, force=force):
                return store.models / content.name
            try:
                _unpack(path, archive, prefix, content, store)
                return store.install(content)
            except BaseException:
                store.forget(content)
                raise


def _verified(model: Bundle | BundleSet) -> dict[str, Path]:
    """Every file but the one that tells what there is, by its relative path."""
    if not isinstance(model, BundleSet):
        return {relative: model.path(relative) for relative in model.manifest.files}
    files: dict[str, Path] = {}
    for bundle in model.bundles:  # their manifests were verified when the set was opened
        own = {MANIFEST_NAME: bundle.folder / MANIFEST_NAME, **_verified(bundle)}
        files |= {f"{bundle.folder.name}/{relative}": path for relative, path in own.items()}
    return files


def _plain(version: str) -> str:
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in version)[:40]


def _check_archive(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        msg = f"{path}: sha256 {found}, wanted {sha256}; copy the archive again"
        raise BundleIntegrityError(msg)


def _head(path: Path, archive: ZipArchive) -> tuple[str, Head]:
    """Prefix of all that counts, empty or the one folder it is packed in, and the file that tells what there is."""
    sets = _shallow(archive, SET_NAME)
    bundles = [place for place in _shallow(archive, MANIFEST_NAME) if not any(place.startswith(one) for one in sets)]
    if len(sets) + len(bundles) != 1:
        what = "no" if not (sets or bundles) else f"{len(sets) + len(bundles)} times"
        msg = f"{path}: has {what} {MANIFEST_NAME}; wanted one bundle or set, as lite-infer models pack writes it"
        raise BundleError(msg)
    return (sets[0], "set.json") if sets else (bundles[0], "manifest.json")


def _shallow(archive: ZipArchive, wanted: str) -> list[str]:
    """What stands before the name of a file at the top of an archive, or in a folder there."""
    places = [name.removesuffix(wanted) for name in archive.files if name.split("/")[-1] == wanted]
    return [place for place in places if place.count("/") <= 1 and not place.startswith("__MACOSX")]


def _read(path: Path, archive: ZipArchive, name: str) -> bytes:
    """Read a manifest or ``set.json``."""
    if name not in archive.files:
        msg = f"{path}: {name} is missing; pack the set again"
        raise BundleIntegrityError(msg)
    if archive.files[name] > MAX_MANIFEST_BYTES:
        msg = f"{path}: its {name} has more than {MAX_MANIFEST_BYTES} bytes; pack the bundle again"
        raise BundleError(msg)
    return archive.read(name)


def _check_listed(path: Path, archive: ZipArchive, prefix: str, content: Content) -> None:
    problems = []
    for relative, record in content.files.items():
        found = archive.files.get(prefix + relative)
        if found is None:
            problems.append(f"{relative} is missing")
        elif found != record.bytes:
            problems.append(f"{relative} has {found} bytes, wanted {record.bytes}")
    if problems:
        msg = f"{path}: {'; '.join(problems)}; pack the bundle again"
        raise BundleIntegrityError(msg)


def _unpack(path: Path, archive: ZipArchive, prefix: str, content: Content, store: Store) -> None:
    """Unpack what the manifests list into the store's blobs."""
    store.check_space(content.bytes)
    for relative, record in content.files.items():
        blob = store.blobs / record.sha256
        if is_blob(blob):
            continue
        digest = hashlib.sha256()
        part = store.blobs / (record.sha256 + PART)
        try:
            part.unlink(missing_ok=True)
            with part.open("xb") as target:
                for chunk in archive.chunks(prefix + relative):
                    digest.update(chunk)
                    target.write(chunk)
            if digest.hexdigest() != record.sha256:
                msg = f"{path}: {relative} has sha256 {digest.hexdigest()[:12]}..., wanted {record.sha256[:12]}...; "
                raise BundleIntegrityError(msg + "the archive is damaged or was changed, pack the bundle again")
            part.replace(blob)
        except OSError as error:
            part.unlink(missing_ok=True)
            msg = f"{store.blobs}: cannot be written ({error.strerror}); free space, or set LITE_INFER_HOME elsewhere"
            raise OutputError(msg) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise

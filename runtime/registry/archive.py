"""Bundles on a stick: one zip archive, verified when it is written and when it is read.

Knows zip archives and bundles; knows no network. Nothing of an archive reaches a final place before its sha256 is the
one that the manifest states, and nothing that the manifest does not list is unpacked.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from pathlib import Path

from runtime._digest import sha256_of
from runtime._zip import ZipArchive, ZipLimits
from runtime.bundle import open_bundle
from runtime.errors import BundleError, BundleIntegrityError, OutputError
from runtime.io._atomic import atomic_file
from runtime.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, parse_manifest
from runtime.registry.fetch import PART, is_blob
from runtime.registry.store import Store

__all__ = ["LIMITS", "import_archive", "pack"]

LIMITS = ZipLimits(members=1000, total_bytes=16 << 30)
"""What an archive with a bundle may hold."""

_CHUNK_BYTES = 1 << 20
_WHEN = (1980, 1, 1, 0, 0, 0)
"""The same bundle makes the same archive, byte for byte, on every day."""


def pack(name_or_path: str | Path, output: Path | None = None, *, force: bool = False) -> tuple[Path, str]:
    """Write a bundle into one zip archive for `import_archive`.

    Parameters
    ----------
    name_or_path : str or Path
        As `runtime.bundle.open_bundle` takes it.
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
    bundle = open_bundle(name_or_path)
    manifest = bundle.manifest
    output = Path(f"{manifest.name}-{_plain(manifest.version)}.zip") if output is None else output
    if output.exists() and not force:
        msg = f"{output} exists; choose another name, or replace it with --force"
        raise OutputError(msg)
    files = {relative: bundle.path(relative) for relative in manifest.files}
    with atomic_file(output) as stream:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for relative, path in {MANIFEST_NAME: bundle.folder / MANIFEST_NAME, **files}.items():
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
    """Install the bundle of a zip archive.

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
        prefix = _prefix(path, archive)
        text = archive.read(prefix + MANIFEST_NAME)
        manifest = parse_manifest(text)
        _check_listed(path, archive, prefix, manifest)
        with store.changing():
            if not store.is_wanted(manifest.name, hashlib.sha256(text).hexdigest(), force=force):
                return store.models / manifest.name
            try:
                _unpack(path, archive, prefix, manifest, store)
                return store.install(text)
            except BaseException:
                store.forget(manifest)
                raise


def _plain(version: str) -> str:
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "_" for sign in version)[:40]


def _check_archive(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        msg = f"{path}: sha256 {found}, wanted {sha256}; copy the archive again"
        raise BundleIntegrityError(msg)


def _prefix(path: Path, archive: ZipArchive) -> str:
    """Empty, or the one folder that the archive packs the bundle in."""
    places = [name.removesuffix(MANIFEST_NAME) for name in archive.files if name.split("/")[-1] == MANIFEST_NAME]
    shallow = [place for place in places if place.count("/") <= 1 and not place.startswith("__MACOSX")]
    if len(shallow) != 1:
        what = "no" if not shallow else f"{len(shallow)} times"
        msg = f"{path}: has {what} {MANIFEST_NAME}; wanted one bundle, as lite-infer models pack writes it"
        raise BundleError(msg)
    if archive.files[shallow[0] + MANIFEST_NAME] > MAX_MANIFEST_BYTES:
        msg = f"{path}: its {MANIFEST_NAME} has more than {MAX_MANIFEST_BYTES} bytes; pack the bundle again"
        raise BundleError(msg)
    return shallow[0]


def _check_listed(path: Path, archive: ZipArchive, prefix: str, manifest: Manifest) -> None:
    problems = []
    for relative, record in manifest.files.items():
        found = archive.files.get(prefix + relative)
        if found is None:
            problems.append(f"{relative} is missing")
        elif found != record.bytes:
            problems.append(f"{relative} has {found} bytes, wanted {record.bytes}")
    if problems:
        msg = f"{path}: {'; '.join(problems)}; pack the bundle again"
        raise BundleIntegrityError(msg)


def _unpack(path: Path, archive: ZipArchive, prefix: str, manifest: Manifest, store: Store) -> None:
    """Unpack what the manifest lists into the store's blobs."""
    store.check_space(sum(record.bytes for record in manifest.files.values()))
    for relative, record in manifest.files.items():
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

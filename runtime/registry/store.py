"""Bundles and checkpoints that were fetched: files by their sha256, and folders that `open_bundle` finds by name.

Knows files, digests and what models consist of; knows no network. Below one folder lie::

    blobs/<sha256>                 what was fetched, complete and verified; <sha256>.part what was begun
    models/<name>/                 a bundle or a set; its files are links to the blobs, or the blobs themselves moved
    checkpoints/<name>/<file>      a published checkpoint, likewise, beside SHA256SUMS

A folder appears whole or not at all. Whoever changes anything holds the lock. Nothing is changed or removed that these
three folders lead to by a link, nothing that is not named as above, and no folder with anything else in it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from runtime._digest import sha256_of
from runtime.arrival import HIDDEN, REPLACED, arriving_folder, check_replaceable, discard, is_elsewhere
from runtime.bundle import is_bundle_name
from runtime.bundle_set import BundleSet, model_files, open_model
from runtime.directories import data_directory
from runtime.errors import BundleError, LiteInferError, OutputError
from runtime.registry.content import Content, content_in, head_in
from runtime.registry.fetch import PART
from runtime.registry.lock import locked

__all__ = ["Removed", "Store", "is_plain_file"]

_SUMS = "SHA256SUMS"
_BLOB = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Removed:
    """What `Store.remove` took away: folders, and the bytes that came free."""

    folders: tuple[Path, ...]
    bytes: int


class Store:
    """The folder of what was fetched; safe to use from several processes.

    Parameters
    ----------
    root : Path, optional
        Where it is; by default `runtime.directories.data_directory`. Made when something is put there.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = data_directory() if root is None else root.absolute()
        self.blobs = self.root / "blobs"
        self.models = self.root / "models"
        self.checkpoints = self.root / "checkpoints"

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the lock; what a process that died left half-made goes first.

        OutputError if another holds it, or one of the store's folders leads elsewhere.
        """
        with locked(self.root / "lock") as held:
            self._check_own()
            if held:  # else what is half-made may be another's who is at work
                self._settle()
            yield

    def is_wanted(self, name: str, head_sha256: str, *, force: bool) -> bool:
        """Tell whether a model is to be fetched: not if the one whose manifest has that digest is here and whole.

        Of a set the digest is that of ``set.json``. OutputError if the name is taken, unless by a bundle or set and
        with `force`.
        """
        folder = self._folder(self.models, name)
        same = _digest_of(folder / head_in(folder)) == head_sha256
        if same and not force and _is_whole(folder):
            return False
        check_replaceable(folder, force=force or same, files=model_files)
        return True

    def install(self, content: Content) -> Path:
        """Make a model's folder of blobs that are all here and verified, in place of what `is_wanted` let pass.

        Parameters
        ----------
        content : Content
            What it consists of; its text becomes exactly that file.

        Returns
        -------
        folder : Path
            ``models/<name>``.

        Raises
        ------
        OutputError
            If something that is neither bundle nor set has the name, or the folder cannot be written.
        """
        folder = self._folder(self.models, content.name)
        files = {relative: self.blobs / record.sha256 for relative, record in content.files.items()}
        with arriving_folder(folder, force=True, files=model_files) as work:
            copied = _placed(files, work)
            (work / content.head).write_bytes(content.text)
        _drop(copied)
        return folder

    def check_space(self, nbytes: int) -> None:
        """Refuse what does not fit on the disk; makes the folder of blobs."""
        try:
            self.blobs.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.blobs).free
        except OSError as error:
            msg = f"{self.blobs}: cannot be written ({error.strerror}); set LITE_INFER_HOME to a folder of yours"
            raise OutputError(msg) from error
        if nbytes > free:
            msg = f"{self.root}: {nbytes >> 20} MiB are needed and {free >> 20} MiB are free; free some"
            raise OutputError(msg)

    def forget(self, content: Content) -> None:
        """Remove a model's blobs, except those that another one needs."""
        _drop(self._unneeded({record.sha256 for record in content.files.values()}))

    def keep_checkpoint(self, name: str, file: str, sha256: str) -> Path:
        """Give a blob that is here and verified the name of a published checkpoint; return the file."""
        folder = self._folder(self.checkpoints, name)
        with arriving_folder(folder, force=False) as work:
            copied = _placed({file: self.blobs / sha256}, work)
            (work / _SUMS).write_text(f"{sha256}  {file}\n", encoding="utf-8")
        _drop(copied)
        return folder / file

    def checkpoint(self, name: str) -> Path | None:
        """File of a published checkpoint that is here, else None."""
        folder = self._folder(self.checkpoints, name)
        return next((folder / file for file in _sums(folder)), None)

    def remove(self, name: str) -> Removed:
        """Remove a bundle or set and a checkpoint of that name, and the blobs that nothing else needs.

        BundleError if neither is here; OutputError if it holds what was not fetched, or cannot be removed.
        """
        places = {self._folder(self.models, name): _bundled, self._folder(self.checkpoints, name): _summed}
        self._check_own()
        known = {folder: listed(folder) for folder, listed in places.items() if os.path.lexists(folder)}
        if not known:
            msg = f"{self.root}: holds no {name!r}; lite-infer models list shows what is there"
            raise BundleError(msg)
        before = self.bytes()
        digests = {digest for folder in known for digest in _digests(folder)}
        for folder, files in known.items():
            discard(folder, files)
        _drop(self._unneeded(digests))
        return Removed(tuple(known), before - self.bytes())

    def unfinished(self) -> list[Path]:
        """What was fetched for a bundle or checkpoint that never became complete."""
        if not self.blobs.is_dir():
            return []
        needed = self._needed()
        ours = (path for path in self.blobs.iterdir() if _BLOB.fullmatch(path.name.removesuffix(PART)))
        return sorted(path for path in ours if path.name not in needed)

    def remove_unfinished(self) -> int:
        """Remove what `unfinished` lists; return the bytes that came free. OutputError if that fails."""
        self._check_own()
        before = self.bytes()
        _drop(self.unfinished())
        return before - self.bytes()

    def bytes(self) -> int:
        """Space that all of it takes, a file with several names counted once."""
        sizes = {}
        for folder in (self.blobs, self.models, self.checkpoints):
            for path in folder.rglob("*") if folder.is_dir() else ():
                status = path.lstat()
                sizes[status.st_dev, status.st_ino] = 0 if path.is_dir() else status.st_size
        return sum(sizes.values())

    def _folder(self, kind: Path, name: str) -> Path:
        """Folder of a name; BundleError for what is none, such as a path that would lead out of the store."""
        if not is_bundle_name(name):
            msg = f"{name!r} is no name of a bundle; wanted letters, digits, '.', '_' and '-', at most 64"
            raise BundleError(msg)
        return kind / name

    def _check_own(self) -> None:
        """Refuse a store whose folders lead elsewhere."""
        for kind in (self.blobs, self.models, self.checkpoints):
            if is_elsewhere(kind):
                msg = (
                    f"{kind}: is a link, and lite-infer changes nothing outside {self.root}; make it a folder again, "
                    "or set LITE_INFER_HOME elsewhere"
                )
                raise OutputError(msg)

    def _needed(self) -> set[str]:
        kinds = [kind for kind in (self.models, self.checkpoints) if kind.is_dir()]
        return {digest for kind in kinds for folder in kind.iterdir() for digest in _digests(folder)}

    def _unneeded(self, digests: set[str]) -> list[Path]:
        return [self.blobs / digest for digest in digests - self._needed()]

    def _settle(self) -> None:
        """Bring a replaced folder back where its replacement never came, and remove what else was left half-made."""
        for kind in (self.models, self.checkpoints):
            for hidden in sorted(kind.glob(f"{HIDDEN}*")) if kind.is_dir() else ():
                if is_elsewhere(hidden):
                    continue
                with contextlib.suppress(OSError):
                    _bring_back(hidden, kind)
                    shutil.rmtree(hidden)


def _bring_back(hidden: Path, kind: Path) -> None:
    try:
        place = kind / content_in(hidden / REPLACED).name
    except LiteInferError:  # nothing was replaced
        return
    if not os.path.lexists(place):
        (hidden / REPLACED).rename(place)


def _placed(files: Mapping[str, Path], folder: Path) -> list[Path]:
    """Link blobs into a folder; return those that had to be copied, which need not be kept."""
    copied = []
    for relative, blob in files.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(blob, target)
        except OSError:  # the file system has no hard links
            shutil.copyfile(blob, target)
            copied.append(blob)
    return copied


def _drop(blobs: list[Path]) -> None:
    for blob in blobs:
        try:
            blob.unlink(missing_ok=True)
        except OSError as error:
            msg = f"{blob}: cannot be removed ({error.strerror}); check its permissions and try again"
            raise OutputError(msg) from error


def _digest_of(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None


def _is_whole(folder: Path) -> bool:
    """Tell whether every file of a bundle or set is what its digest says."""
    try:
        model = open_model(folder)
        for bundle in model.bundles if isinstance(model, BundleSet) else (model,):
            for relative in bundle.manifest.files:
                bundle.path(relative)
    except BundleError:
        return False
    return True


def _bundled(folder: Path) -> list[str]:
    """Files of a bundle or set; OutputError if it is none."""
    try:
        return model_files(folder)
    except BundleError as error:
        raise _not_ours(folder) from error


def _summed(folder: Path) -> list[str]:
    """Files of a published checkpoint's folder; OutputError if it is none."""
    sums = _sums(folder)
    if not sums:
        raise _not_ours(folder)
    return [_SUMS, *sums]


def _not_ours(folder: Path) -> OutputError:
    return OutputError(f"{folder}: is nothing that lite-infer fetched, or damaged, so it stays; remove it by hand")


def _digests(folder: Path) -> list[str]:
    """Digests of the files of a bundle or set, its manifest's among them, or of a checkpoint."""
    try:
        content = content_in(folder)
        return [content.sha256, *(record.sha256 for record in content.files.values())]
    except (LiteInferError, OSError):
        return list(_sums(folder).values())


def _sums(folder: Path) -> dict[str, str]:
    """Name -> digest of the files that SHA256SUMS lists."""
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return {}
    found = (line.partition("  ") for line in lines)
    return {file: digest for digest, _, file in found if _BLOB.fullmatch(digest) and is_plain_file(file)}


def is_plain_file(name: str) -> bool:
    """Tell whether a text can name a file that was fetched: one visible component of a path, and no other."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name) is not None and name.upper() != _SUMS

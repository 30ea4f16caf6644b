"""A folder that appears whole or not at all, takes an older bundle's place, or goes.

Knows the file system, manifests and the error tree. What it makes on the way are hidden folders beside the final one,
all named alike, so that nobody else's are ever taken for them. A folder is replaced or removed only if everything in it
is known to be ours, and no link is followed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import ManifestError, OutputError
from runtime.manifest import MANIFEST_NAME, load_manifest

__all__ = [
    "HIDDEN",
    "REPLACED",
    "arriving_folder",
    "bundle_files",
    "check_replaceable",
    "discard",
    "is_elsewhere",
    "strangers",
]

HIDDEN = ".lite-infer."
"""What the names of folders begin with that are half made, or on their way out."""
REPLACED = "replaced-bundle"
"""Name of what is replaced, in a hidden folder beside it, while its successor takes its place."""

_GONE = "gone"
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""What desktops leave in folders that were looked at."""


def bundle_files(folder: Path) -> list[str]:
    """Relative paths of a bundle's files, its manifest's among them; ManifestError if the folder is no bundle."""
    return [MANIFEST_NAME, *load_manifest(folder).files]


def strangers(folder: Path, known: Collection[str]) -> list[str]:
    """List what a folder holds beside the files that are known, as relative paths; of a strange folder only itself.

    Links to folders are strangers whatever their name; they are not followed.
    """
    parents = {parent.as_posix() for name in known for parent in Path(name).parents}
    home = Path(os.path.realpath(folder))
    found: list[str] = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        base = Path(place).relative_to(folder)
        foreign = [
            name for name in folders if (base / name).as_posix() not in parents or is_elsewhere(home / base / name)
        ]
        folders[:] = [name for name in folders if name not in foreign]
        foreign += [name for name in files if name not in _LITTER and (base / name).as_posix() not in known]
        found += [(base / name).as_posix() for name in foreign]
    return sorted(found)


def is_elsewhere(path: Path) -> bool:
    """Tell whether the last component of a path is a link (or a junction, on Windows)."""
    return Path(os.path.realpath(path)) != Path(os.path.realpath(path.parent)) / path.name


def _raise(error: OSError) -> None:
    raise error


def check_replaceable(output: Path, *, force: bool, files: Callable[[Path], Collection[str]] = bundle_files) -> None:
    """Refuse a place that is taken: anything without `force`; with it anything but a bundle alone or an empty folder.

    `files` lists the files of what may be replaced, or raises a ManifestError. OutputError says what is in the way.
    """
    if not os.path.lexists(output):
        return
    if not force:
        msg = f"{output} exists; choose another folder, or replace it with --force"
        raise OutputError(msg)
    try:
        if not output.is_dir() or is_elsewhere(output):
            raise _no_bundle(output)
        if any(output.iterdir()):
            _check_known(output, files(output))
    except ManifestError as error:
        raise _no_bundle(output) from error
    except OSError as error:
        raise _output_error(output, error) from error


def _no_bundle(output: Path) -> OutputError:
    return OutputError(f"{output} exists and is not a bundle, so it is not replaced; choose another folder")


def _check_known(folder: Path, known: Collection[str]) -> None:
    """Refuse a folder that holds more than the files that are known; OutputError names some of the others."""
    others = strangers(folder, known)
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        msg = f"{folder} holds {', '.join(others[:3])}{more}, which lite-infer did not put there; move that elsewhere"
        raise OutputError(msg)


@contextmanager
def arriving_folder(
    output: Path, *, force: bool, files: Callable[[Path], Collection[str]] = bundle_files
) -> Iterator[Path]:
    """Yield an empty folder beside `output` that takes its name when the block ends, and is removed if it fails.

    OutputError if the place is taken (see `check_replaceable`) or cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = _hidden_beside(output)
    except OSError as error:
        raise _output_error(output, error) from error
    try:
        yield work
        work.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        check_replaceable(output, force=force, files=files)
        _replace(work, output)
    except OSError as error:
        raise _output_error(output, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def discard(folder: Path, known: Collection[str]) -> None:
    """Remove a folder of files that are known; it loses its name at once.

    OutputError if it is a link, holds anything else, or cannot be removed; then all of it stays.
    """
    try:
        if is_elsewhere(folder):
            msg = f"{folder} is a link, which lite-infer did not put there; move it elsewhere"
            raise OutputError(msg)
        _check_known(folder, known)
        attic = _hidden_beside(folder)
        try:
            folder.rename(attic / _GONE)
        except OSError:
            attic.rmdir()
            raise
    except OSError as error:
        msg = f"{folder}: cannot be removed ({error.strerror or error}); close programs that use it and try again"
        raise OutputError(msg) from error
    shutil.rmtree(attic, ignore_errors=True)


def _replace(work: Path, output: Path) -> None:
    """Put `work` in the place of `output`; what was there goes only once the new folder has its name."""
    if not output.exists():
        work.rename(output)
        return
    attic = _hidden_beside(output)
    old = attic / REPLACED
    try:
        output.rename(old)
        try:
            work.rename(output)
        except BaseException:
            old.rename(output)
            raise
        old.rename(attic / _GONE)
    except BaseException:
        with suppress(OSError):
            attic.rmdir()  # which fails, as it must, where it still holds the old folder
        raise
    shutil.rmtree(attic, ignore_errors=True)


def _hidden_beside(output: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{HIDDEN}{output.name[:60]}.", dir=output.parent))


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _output_error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder")

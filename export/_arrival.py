"""A folder that appears whole or not at all, beside or in place of an older bundle.

Knows the file system and the error tree only.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import OutputError
from runtime.manifest import MANIFEST_NAME

__all__ = ["arriving_folder", "check_replaceable"]


def check_replaceable(output: Path, *, force: bool) -> None:
    """Refuse a place that is taken: anything without `force`, and with it anything but a bundle or an empty folder."""
    if not os.path.lexists(output):
        return
    if not force:
        msg = f"{output} exists; choose another folder, or replace it with --force"
        raise OutputError(msg)
    is_folder = output.is_dir() and not output.is_symlink()
    if not is_folder or not ((output / MANIFEST_NAME).is_file() or not any(output.iterdir())):
        msg = f"{output} exists and is not a bundle, so it is not replaced; choose another folder"
        raise OutputError(msg)


@contextmanager
def arriving_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `output` that takes its name when the block ends, and is removed if it fails.

    OutputError if the place is taken (see `check_replaceable`) or cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{output.name[:60]}.", dir=output.parent))
    except OSError as error:
        raise _output_error(output, error) from error
    try:
        yield work
        work.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        check_replaceable(output, force=force)
        _replace(work, output)
    except OSError as error:
        raise _output_error(output, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _replace(work: Path, output: Path) -> None:
    """Put `work` in the place of `output`; what was there goes only once the new folder has its name."""
    if not output.exists():
        work.rename(output)
        return
    with tempfile.TemporaryDirectory(prefix=f".{output.name[:60]}.old.", dir=output.parent) as attic:
        old = Path(attic) / "bundle"
        output.rename(old)
        try:
            work.rename(output)
        except BaseException:
            old.rename(output)
            raise


def _umask() -> int:
    """Read the process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def _output_error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); free space or choose another folder")

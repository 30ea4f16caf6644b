"""Where the command line writes: names of files, what is refused before work begins, and the writing itself.

Knows results and the public API; parses nothing and prints nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io import FORMATS, READABLE, check_output, output_format, output_suffix
from runtime.io._atomic import check_writable
from runtime.io._source import protected_paths
from runtime.segmentation import Segmentation

__all__ = ["Targets", "Wanted", "Written", "check_names", "choose_targets", "write"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for.

    Attributes
    ----------
    outputs : tuple of Path
        Names that were given; none: one is chosen.
    format : str or None
        Format of the names that several formats share.
    separate : bool
        Whether every object gets files of its own.
    statistics, preview : str or None
        None: not wanted; empty: wanted under a name that is chosen.
    """

    outputs: tuple[Path, ...] = ()
    format: str | None = None
    separate: bool = False
    statistics: str | None = None
    preview: str | None = None


@dataclass(frozen=True, slots=True)
class Targets:
    """Files to write, with the format of each."""

    outputs: tuple[tuple[Path, str], ...]
    separate: bool
    statistics: Path | None
    preview: Path | None


@dataclass(frozen=True, slots=True)
class Written:
    """Files that were written."""

    outputs: tuple[Path, ...]
    statistics: Path | None
    preview: Path | None


def check_names(wanted: Wanted) -> None:
    """Refuse names that no format has, before even the image is read."""
    _formats(wanted, wanted.outputs)
    if wanted.statistics and Path(wanted.statistics).suffix.lower() not in (".json", ".csv"):
        msg = f"{wanted.statistics}: statistics are JSON or CSV; give a name that ends in .json or .csv"
        raise OutputError(msg)
    if wanted.preview and Path(wanted.preview).suffix.lower() != ".png":
        msg = f"{wanted.preview}: a preview is a PNG; give a name that ends in .png"
        raise OutputError(msg)


def choose_targets(source: Path, volume: Volume, wanted: Wanted, objects: int) -> Targets:
    """Choose file names: beside the input, or in the current directory where that cannot be written.

    What cannot be written is refused here, before minutes are spent on what goes there; the writers check again.
    """
    names = wanted.outputs or (_default(source, volume),)
    first = names[0]
    picture = output_suffix(first) == ".png"
    preview = wanted.preview
    if preview is None and picture:
        preview = ""
    where = Targets(
        outputs=tuple(zip(names, _formats(wanted, names), strict=True)),
        separate=wanted.separate,
        statistics=_beside(first, wanted.statistics, "statistics.json"),
        preview=_beside(first, preview, "overlay.png" if picture else "preview.png"),
    )
    _check(where, volume, objects)
    return where


def write(result: Segmentation, where: Targets) -> Written:
    """Write everything; what fails does not keep the rest from being written, and is reported afterwards."""
    save = result.save_objects if where.separate else result.save
    steps: list[Callable[[], Path | tuple[Path, ...]]] = [
        partial(save, path, format=form) for path, form in where.outputs
    ]
    if where.statistics is not None:
        steps.append(partial(result.save, where.statistics))
    if where.preview is not None:
        steps.append(partial(result.save_preview, where.preview))
    done: list[Path] = []
    failed: list[OutputError] = []
    for step in steps:
        try:
            found = step()
        except OutputError as error:
            failed.append(error)
        else:
            done += found if isinstance(found, tuple) else (found,)
    if failed:
        rest = f"; written: {', '.join(map(str, done))}" if done else ""
        raise OutputError("; ".join(map(str, failed)) + rest) from failed[0]
    extra = [path for path in (where.statistics, where.preview) if path is not None]
    return Written(tuple(done[: len(done) - len(extra)]), where.statistics, where.preview)


def _formats(wanted: Wanted, names: tuple[Path, ...]) -> list[str]:
    """Format of each name; the one that was chosen applies to the names that may have it."""
    endings = {one.name: one.endings for one in FORMATS}.get(wanted.format or "", ())
    fits = [output_suffix(name) in endings for name in names]
    if wanted.format is not None and names and not any(fits):
        output_format(names[0], wanted.format)  # says what is wrong with it
    return [output_format(name, wanted.format if fit else None) for name, fit in zip(names, fits, strict=True)]


def _default(source: Path, volume: Volume) -> Path:
    folder = source.resolve().parent
    if not os.access(folder, os.W_OK):
        folder = Path.cwd()
    if source.suffix.lower() == ".npz":
        suffix = ".npz"
    else:
        suffix = ".png" if volume.is_2d and volume.affine is None else ".nii.gz"
    return folder / f"{_stem(source)}_seg{suffix}"


def _beside(output: Path, name: str | None, ending: str) -> Path | None:
    if name:
        return Path(name)
    stem = output.name[: -len(output_suffix(output))]
    return None if name is None else output.with_name(f"{stem}_{ending}")


def _stem(path: Path) -> str:
    name = path.resolve().name if path.name in ("", ".", "..") else path.name
    for ending in sorted(READABLE, key=len, reverse=True):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _check(where: Targets, volume: Volume, objects: int) -> None:
    extra = [path for path in (where.statistics, where.preview) if path is not None]
    seen: set[Path] = set()
    for path in (*(path for path, _ in where.outputs), *extra):
        if path.absolute() in seen:
            msg = f"{path}: two results have the same name; give them different ones"
            raise OutputError(msg)
        seen.add(path.absolute())
    for path, form in where.outputs:
        check_output(path, volume, format=form, objects=objects, separate=where.separate)
    if where.statistics is not None:
        check_output(where.statistics, volume)
    if where.preview is not None:
        check_writable(where.preview, protected=protected_paths(volume.source))

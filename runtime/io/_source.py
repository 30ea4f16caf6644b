"""What a loader remembers about the file, for the writer: the opaque `Volume.source`.

Knows paths and bytes; knows no format library. Holds no patient data: header strings are blanked before
they get here, and paths are only ever compared, never shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.io._dicom_files import DicomFile

__all__ = ["DicomSource", "FileSource", "NiftiSource", "protected_paths"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """Where an image came from.

    Attributes
    ----------
    paths : tuple of Path
        The resolved input files, which no writer may replace.
    """

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiSource(FileSource):
    """A NIfTI file.

    Attributes
    ----------
    block : bytes
        Its header (348 or 540 bytes) in native byte order, with the free-text fields blanked.
    ndim : int
        2 where the file itself declares a two-dimensional image, else 3.
    """

    block: bytes
    ndim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DicomSource(FileSource):
    """One DICOM series, or one multi-frame object.

    Attributes
    ----------
    frames : tuple of (int, int)
        For each slice k of the volume: index into ``files`` and 0-based frame within that file.
    files : tuple of Path or ZipMember
        Where to read them again: ``paths``, or members of the archive that ``paths`` names.
    copies : tuple of int
        Slices k that fill a gap of the series (``force``): copies of a neighbour, which no file holds.
    """

    frames: tuple[tuple[int, int], ...]
    files: tuple[DicomFile, ...]
    copies: tuple[int, ...] = ()


def protected_paths(source: object) -> tuple[Path, ...]:
    """Input files that a result must not replace; empty where the image did not come from a file."""
    return source.paths if isinstance(source, FileSource) else ()

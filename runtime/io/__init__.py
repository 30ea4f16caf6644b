"""Files in and out: `load` makes a `Volume`, `save` writes a label map beside it (`_saving`).

Knows which format a file has and who reads it; each format lives in a module of its own, which imports its
library only when it is used. Must not know intensities' meaning, sessions, prompts (except boxes that a file
brings) or models.
"""

from __future__ import annotations

import os
from pathlib import Path

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._gzip import DAMAGE, unpacked_head
from runtime.io._kinds import ZIP_START, is_dicom, is_metaimage, is_mgh, is_nifti, is_npz, is_nrrd, is_raster
from runtime.io._reading import LOGGER, check_file
from runtime.io._saving import FORMATS, WRITABLE, check_output, output_format, output_suffix, save

__all__ = [
    "FORMATS",
    "READABLE",
    "WRITABLE",
    "check_output",
    "kind_of",
    "load",
    "output_format",
    "output_suffix",
    "save",
]

READABLE = (
    ".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".npz", ".png", ".jpg", ".jpeg",
    ".bmp", ".tif", ".tiff", ".dcm", ".zip",
)  # fmt: skip
"""Usual names of what `load` reads; content decides, and a folder is a DICOM series."""

_HEAD_BYTES = 1024


def load(
    path: str | os.PathLike[str], *, volume: int | None = None, series: str | None = None, force: bool = False
) -> Volume:
    """Read an image.

    What the file is, its content decides, not its name; a folder is taken as one DICOM series.

    Parameters
    ----------
    path : str or path-like
        NIfTI (``.nii``, ``.nii.gz``, header pairs), NRRD (``.nrrd``, ``.nhdr``), MetaImage (``.mha``, ``.mhd``),
        FreeSurfer's MGZ and MGH, the challenge's NPZ, PNG, JPEG, BMP, TIFF, a DICOM file, or
        a folder or zip archive with DICOM files.
    volume : int, optional
        Which time point or frame, 0-based, of a file that holds several.
    series : str, optional
        SeriesInstanceUID, or the number that the error message lists, where a folder holds several series.
    force : bool
        Read a DICOM series with gaps, duplicates or missing positions all the same, as well as can be: gaps are
        filled with copies of the neighbouring slices, of duplicates the first is kept, slices without position
        are left out (or, if none has one, ordered by InstanceNumber). ``notes`` of the volume says what was
        found and done.

    Returns
    -------
    image : Volume
        Array in file order [i, j, k(, c)], affine, spacing, and what `save` needs.

    Raises
    ------
    ImageError
        If the path is not an image that can be read, or a choice is needed.

    Examples
    --------
    >>> load("scan.txt")
    Traceback (most recent call last):
    ...
    runtime.errors.ImageError: scan.txt: does not exist; check the name and the permissions
    """
    image = _read(Path(path), volume, series, force)
    for note in image.notes:
        LOGGER.warning("%s", note)
    return image


def _read(place: Path, volume: int | None, series: str | None, force: bool) -> Volume:
    kind = kind_of(place)
    if kind == "zip" or place.is_dir():
        from runtime.io.dicom import read_series

        return read_series(place, series=series, volume=volume, force=force)
    if kind == "dicom":
        from runtime.io.dicom import read_file

        return read_file(place, volume=volume, force=force)
    if series is not None:
        msg = f"{place}: is not DICOM, so it has no series to choose; leave series out"
        raise ImageError(msg)
    if kind == "nifti":
        from runtime.io.nifti import read_nifti

        return read_nifti(place, volume=volume)
    if kind == "nrrd":
        from runtime.io.nrrd import read_nrrd

        return read_nrrd(place, volume=volume)
    if kind == "metaimage":
        from runtime.io.metaimage import read_metaimage

        return read_metaimage(place, volume=volume)
    if kind == "mgh":
        from runtime.io.mgh import read_mgh

        return read_mgh(place, volume=volume)
    if volume not in (None, 0):
        msg = f"{place}: holds one image, so there is no volume {volume}; leave volume out"
        raise ImageError(msg)
    if kind == "npz":
        from runtime.io.npz import read_npz

        return read_npz(place)
    from runtime.io.raster import read_raster

    return read_raster(place)


def kind_of(path: Path) -> str:
    """Format of a file by its content; where that says nothing, by its name.

    Parameters
    ----------
    path : Path
        A file or folder.

    Returns
    -------
    kind : str
        ``dicom`` (also folders), ``zip`` (of DICOM files), ``nifti``, ``nrrd``, ``metaimage``, ``mgh``, ``npz`` or
        ``raster``.

    Raises
    ------
    ImageError
        If it is no image that can be read.
    """
    if path.is_dir():
        return "dicom"
    check_file(path)
    return _kind(path)


def _kind(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        msg = f"{path}: cannot be opened; check the permissions"
        raise ImageError(msg) from error
    name = path.name.lower()
    if head.startswith(ZIP_START):
        return "npz" if is_npz(path) or name.endswith(".npz") else "zip"
    if name.endswith((".img", ".img.gz")):
        return "nifti"
    unpacked = _unpacked(path, head)
    tests = {"dicom": is_dicom, "raster": is_raster, "nrrd": is_nrrd, "metaimage": is_metaimage}
    for kind, is_kind in tests.items():
        if is_kind(head):
            return kind
    if is_nifti(unpacked):
        return "nifti"
    if is_mgh(unpacked):
        return "mgh"
    for kind, endings in _ENDINGS.items():  # a damaged file: its reader says best what is wrong
        if name.endswith(endings):
            return kind
    wanted = "NIfTI, NRRD, MetaImage, MGZ, NPZ, PNG, JPEG, TIFF or DICOM"
    msg = f"{path}: is not an image that can be read; wanted {wanted}"
    raise ImageError(msg)


def _unpacked(path: Path, head: bytes) -> bytes:
    """The same of what a gzip stream holds; as it is if that is damaged or no such stream."""
    try:
        return unpacked_head(path, _HEAD_BYTES)
    except DAMAGE:
        return head


_ENDINGS = {
    "nifti": (".nii", ".nii.gz", ".hdr", ".hdr.gz"),
    "nrrd": (".nrrd", ".nhdr"),
    "metaimage": (".mha", ".mhd"),
    "mgh": (".mgz", ".mgh"),
    "dicom": (".dcm", ".dicom", ".ima"),
    "zip": (".zip",),
    "npz": (".npz",),
    "raster": (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
}

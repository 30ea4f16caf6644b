"""Files in and out: `load` makes a `Volume`, `save` writes a label map beside it.

Knows which format a file has and who reads it; each format lives in a module of its own, which imports its
library only when it is used. Must not know intensities' meaning, sessions, prompts (except boxes that a file
brings) or models.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, OutputError
from runtime.geometry import Volume
from runtime.io._dicom_files import ZIP_START
from runtime.io._reading import LOGGER, check_file
from runtime.io._voxels import unpacked_head

__all__ = ["READABLE", "WRITABLE", "kind_of", "load", "output_suffix", "save"]

READABLE = (
    ".nii", ".nii.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".npz", ".png", ".jpg", ".jpeg",
    ".bmp", ".tif", ".tiff", ".dcm", ".zip",
)  # fmt: skip
"""Usual names of what `load` reads; content decides, and a folder is a DICOM series."""

WRITABLE = (".nii.gz", ".nii", ".npz", ".png")
"""Endings that `save` understands."""

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


def save(
    path: str | os.PathLike[str],
    label_map: NDArray[Any],
    reference: Volume,
    *,
    names: Mapping[int, str] | None = None,
) -> Path:
    """Write a label map beside the image that it belongs to.

    The ending chooses the format: ``.nii`` and ``.nii.gz`` keep the image's place in the world, ``.npz`` holds
    ``segs`` as the challenge wants it, ``.png`` is for 2-D images. The file appears whole or not at all.

    Parameters
    ----------
    path : str or path-like
        The file to write. An existing one is replaced, but never the input.
    label_map : ndarray of int or bool, shape (I, J, K)
        0 is background; stored in the smallest of uint8, uint16 and uint32 that holds the largest label.
        For a 2-D image (I, J) will do.
    reference : Volume
        The image that was segmented.
    names : mapping of int to str, optional
        Names of the labels; kept by NIfTI (label table), ignored elsewhere.

    Returns
    -------
    path : Path
        What was written.

    Raises
    ------
    OutputError
        If the ending is unknown, the label map does not fit the image, or the file cannot be written.
    """
    place = Path(path)
    suffix = output_suffix(place)
    labels = _labels(place, label_map, reference)
    if suffix == ".npz":
        from runtime.io.npz import write_npz

        write_npz(place, labels, reference)
    elif suffix == ".png":
        from runtime.io.raster import write_raster

        write_raster(place, labels, reference)
    else:
        from runtime.io.nifti import write_nifti

        write_nifti(place, labels, reference, names=names)
    return place


def output_suffix(path: str | os.PathLike[str]) -> str:
    """Ending of a result's name that decides its format.

    Parameters
    ----------
    path : str or path-like
        A file name.

    Returns
    -------
    suffix : str
        One of `WRITABLE`.

    Raises
    ------
    OutputError
        If the name ends otherwise.

    Examples
    --------
    >>> output_suffix("liver.NII.gz")
    '.nii.gz'
    """
    name = Path(path).name.lower()
    for suffix in WRITABLE:
        if name.endswith(suffix) and name != suffix:
            return suffix
    msg = f"{path}: unknown output format; wanted a name that ends in {', '.join(WRITABLE)}"
    raise OutputError(msg)


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
    from runtime.io.dicom import is_dicom
    from runtime.io.metaimage import is_metaimage
    from runtime.io.mgh import is_mgh
    from runtime.io.nifti import is_nifti
    from runtime.io.npz import is_npz
    from runtime.io.nrrd import is_nrrd
    from runtime.io.raster import is_raster

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
    except (OSError, EOFError, zlib.error):
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


def _labels(path: Path, label_map: NDArray[Any], reference: Volume) -> NDArray[np.unsignedinteger[Any]]:
    labels = label_map[:, :, np.newaxis] if label_map.ndim == 2 and reference.shape[2] == 1 else label_map
    if labels.dtype.kind not in "uib" or labels.shape != reference.shape:
        msg = (
            f"{path}: label map of dtype {label_map.dtype} and shape {label_map.shape}; "
            f"wanted integers in the shape of the image, {reference.shape}"
        )
        raise OutputError(msg)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 2**32:
        msg = f"{path}: labels run from {low} to {high}; wanted 0 to {2**32 - 1}"
        raise OutputError(msg)
    smallest = next(dtype for dtype in (np.uint8, np.uint16, np.uint32) if high <= np.iinfo(dtype).max)
    return labels.astype(smallest, copy=False)

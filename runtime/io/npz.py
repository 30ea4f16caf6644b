"""The challenge's NPZ files (CVPR 2024, segment anything in medical images on a laptop).

Knows ``imgs``, ``boxes``, ``spacing`` and ``segs`` and their axis orders; unpickles nothing.

A 3-D file holds ``imgs`` (D, H, W), ``boxes`` of (xmin, ymin, zmin, xmax, ymax, zmax) and ``spacing``; a 2-D
one ``imgs`` (H, W) or (H, W, 3) and ``boxes`` of (xmin, ymin, xmax, ymax). Which it is, the start of the name
says (``2D``, ``3D``), else the number of box coordinates, else the shape. ``spacing`` is taken as (x, y, z):
the challenge's files were written with SimpleITK's ``GetSpacing``. Box ends are inclusive; an upper end that
lies one beyond the image (the challenge clips its margins there) is moved onto the last pixel.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume
from runtime.io._quiet import quiet
from runtime.io._reading import MAX_RATIO, check_file, check_size, foreign, named, read_into
from runtime.io._result import Result
from runtime.io._source import FileSource
from runtime.io._voxels import single
from runtime.types import Box

__all__ = ["MAX_BOXES", "read_arrays", "read_npz", "write_npz"]

MAX_BOXES = 10_000
"""Most boxes that a file may bring."""

_WANTED = "an NPZ file"
_ZIP_LEVEL = 3


def read_npz(path: Path) -> Volume:
    """Read one NPZ file of the challenge with its boxes.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    image : Volume
        ``imgs`` with axes turned to (i = column, j = row, k = slice) as a view; no affine; ``prompts`` holds
        the boxes in file order.

    Raises
    ------
    ImageError
        If the file is no such NPZ, is damaged, lies about its sizes, or its arrays do not fit together.
    """
    available = check_file(path)
    with foreign(path, _WANTED), zipfile.ZipFile(path) as archive:
        names = {name[: -len(".npy")] for name in archive.namelist() if name.endswith(".npy")}
        if "imgs" not in names:
            found = ", ".join(sorted(names)) or "none"
            msg = f"{path}: has no array 'imgs' (found {found}); wanted imgs, boxes and, in 3-D, spacing"
            raise ImageError(msg)
        imgs = _member(path, archive, "imgs", available)
        boxes = _member(path, archive, "boxes", available) if "boxes" in names else None
        spacing = _member(path, archive, "spacing", available) if "spacing" in names else None
    rows = _box_rows(path, boxes)
    is_2d = _is_2d(path, imgs, rows)
    colour = is_2d and imgs.ndim == 3
    if imgs.ndim != (2 if is_2d else 3) + colour or (colour and imgs.shape[2] != 3):
        kind = "2-D, so (H, W) or (H, W, 3)" if is_2d else "3-D, so (D, H, W)"
        msg = f"{path}: imgs has shape {imgs.shape}, but the file is {kind} was wanted; check its name and arrays"
        raise ImageError(msg)
    # 2-D: (row, column[, c]) -> (i, j, 1[, c]); 3-D: (slice, row, column) -> (i, j, k)
    array = imgs.swapaxes(0, 1)[:, :, np.newaxis] if is_2d else imgs.transpose(2, 1, 0)
    with named(path):
        return Volume(
            array,
            spacing=_spacing(path, spacing, is_2d),
            is_2d=is_2d,
            prompts=tuple(_box(path, row, (array.shape[0], array.shape[1], array.shape[2]), is_2d) for row in rows),
            source=FileSource(paths=(path.resolve(),)),
        )


def write_npz(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write ``segs`` in the challenge's axis order: (D, H, W), or (H, W) for a 2-D image.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have.
    result : Result
        What to write.
    """
    labels = result.label_map
    segs = labels[:, :, 0].T if result.reference.is_2d else labels.transpose(2, 1, 0)
    # As numpy.savez_compressed, whose level takes twice the time for a third of a file that is small anyway.
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=_ZIP_LEVEL) as archive,
        archive.open("segs.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array(member, np.ascontiguousarray(segs), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an NPZ file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    arrays : dict of str to ndarray
        Numbers by name; a single number as an array of one.

    Raises
    ------
    ImageError
        If the file is no NPZ, is damaged, lies about its sizes, or holds anything but numbers.
    """
    available = check_file(path)
    with foreign(path, _WANTED), zipfile.ZipFile(path) as archive:
        names = [name[: -len(".npy")] for name in archive.namelist() if name.endswith(".npy")]
        return {name: _member(path, archive, name, available) for name in names}


def _member(path: Path, archive: zipfile.ZipFile, name: str, available: int) -> NDArray[Any]:
    """One array, whose claimed size is checked against limits and archive before it is allocated."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        with quiet():
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            else:
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        if dtype.kind not in "uifb":
            msg = f"{path}: '{name}' holds {dtype}, wanted numbers; save it again as plain arrays"
            raise ImageError(msg)
        if shape == ():
            shape = (1,)
        wanted = math.prod(shape) * dtype.itemsize if 0 in shape else check_size(path, shape, dtype.itemsize)
        if wanted > info.file_size or info.file_size > available * MAX_RATIO:
            msg = f"{path}: '{name}' claims {wanted} bytes, more than the file can hold; it is damaged"
            raise ImageError(msg)
        flat = np.empty(wanted, dtype=np.uint8)
        if read_into(stream, flat.data) < wanted:
            msg = f"{path}: '{name}' is truncated; copy or download the file again"
            raise ImageError(msg)
        stream.read(1)  # reaching the end checks the CRC
    array = flat.view(dtype).reshape(shape, order="F" if fortran else "C")
    array = array.astype(np.uint8) if dtype.kind == "b" else array.astype(dtype.newbyteorder("="), copy=False)
    return single(array) if array.dtype == np.float64 and name == "imgs" else array


def _box_rows(path: Path, boxes: NDArray[Any] | None) -> NDArray[np.float64]:
    if boxes is None or boxes.size == 0:
        return np.zeros((0, 0))
    rows = np.atleast_2d(boxes).astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] not in (4, 6) or len(rows) > MAX_BOXES:
        msg = f"{path}: boxes has shape {boxes.shape}, wanted (N, 4) for 2-D or (N, 6) for 3-D, N up to {MAX_BOXES}"
        raise ImageError(msg)
    return rows


def _is_2d(path: Path, imgs: NDArray[Any], rows: NDArray[np.float64]) -> bool:
    prefix = path.name[:2].upper()
    by_boxes: bool | None = rows.shape[1] == 4 if rows.size else None
    if prefix in ("2D", "3D"):
        by_name = prefix == "2D"
        if by_boxes is not None and by_boxes != by_name:
            msg = f"{path}: the name says {prefix}, but its boxes have {rows.shape[1]} numbers; rename the file"
            raise ImageError(msg)
        return by_name
    if by_boxes is not None:
        return by_boxes
    return imgs.ndim == 2 or (imgs.ndim == 3 and imgs.shape[2] == 3)


def _spacing(path: Path, spacing: NDArray[Any] | None, is_2d: bool) -> tuple[float, float, float]:
    if spacing is None:
        return (1.0, 1.0, 1.0)
    values = [float(value) for value in spacing.ravel()[:4]]
    if len(values) == 2 and is_2d:
        values.append(1.0)
    if len(values) != 3 or not all(math.isfinite(value) and value > 0 for value in values):
        msg = f"{path}: spacing is {values}, wanted three positive numbers (x, y, z in mm)"
        raise ImageError(msg)
    return (values[0], values[1], values[2])


def _box(path: Path, row: NDArray[np.float64], shape: tuple[int, int, int], is_2d: bool) -> Box:
    half = len(row) // 2
    numbers = [float(value) for value in row]
    for axis, size in enumerate(shape[:half]):
        if numbers[half + axis] == size:  # the challenge clips a margin to the size, one beyond the last pixel
            numbers[half + axis] = size - 1.0
    try:
        return Box(tuple(numbers), slice_index=0 if is_2d else None)
    except PromptError as error:
        msg = f"{path}: boxes: {error}"
        raise ImageError(msg) from error

"""MetaImage files in: ``.mha``, and ``.mhd`` with its data file beside it.

Knows the fields of the header; the voxels are read by `_voxels` within its limits. Must not know intensities'
meaning, prompts or models. There is no reader of this format that is small and permissively licensed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._grid import Bytes, Grid, data_beside, read_grid, world_affine
from runtime.io._reading import BoundedFile, check_file, foreign, named
from runtime.io._voxels import Packing

__all__ = ["MAX_HEADER_BYTES", "read_metaimage"]

MAX_HEADER_BYTES = 1 << 20
"""Most bytes of a header."""

_WANTED = "a MetaImage file"
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_SIZE_NOT_KNOWN = -1


def read_metaimage(path: Path, *, volume: int | None = None) -> Volume:
    """Read a MetaImage.

    Its world is LPS, as ITK writes it. Voxels keep their stored dtype, but float64 becomes float32 and int64 the
    smaller integer that holds the values.

    Parameters
    ----------
    path : Path
        ``.mha`` or ``.mhd``; raw, compressed and text data, attached or in one file beside the header.
    volume : int, optional
        Which one, 0-based, along a fourth axis or of the channels that are no colours.

    Returns
    -------
    image : Volume
        Array in file order; 8-bit colours become [..., 3]. No affine for images of two dimensions.

    Raises
    ------
    ImageError
        If the file is no MetaImage, is damaged, exceeds the limits, names a data file outside its folder, or
        holds several volumes and none was chosen.

    References
    ----------
    MetaIO documentation, https://itk.org/Wiki/ITK/MetaIO/Documentation
    """
    check_file(path)
    fields, start = _fields(path)
    with foreign(path, _WANTED), named(path):
        dtype, channels = _elements(fields)
        grid = _grid(fields, channels)
    name = fields["elementdatafile"]
    local = name.upper() == "LOCAL"
    if not local and (name.split()[0] == "LIST" or "%" in name):
        msg = f"{path}: its data lie in several files; save it as one .mha file first"
        raise ImageError(msg)
    data = path if local else data_beside(path, name)
    where = _bytes(path, fields, data, start if local else 0, dtype, math.prod(grid.sizes))
    return read_grid(path, grid, where, volume=volume, wanted="a complete MetaImage file")


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """Fields by lower-case name, and where the data begin: behind ElementDataFile, which is always the last."""
    fields: dict[str, str] = {}
    with foreign(path, _WANTED), BoundedFile(path) as stream:
        while line := stream.readline(MAX_HEADER_BYTES):
            if stream.tell() > MAX_HEADER_BYTES:
                break
            name, sign, value = line.decode("utf-8", "replace").partition("=")
            if not sign and line.strip():
                break
            fields[name.strip().lower()] = value.strip()
            if name.strip().lower() == "elementdatafile" and value.strip():
                return fields, stream.tell()
    msg = f"{path}: its header does not come to ElementDataFile within {MAX_HEADER_BYTES >> 10} KiB; it is damaged"
    raise ImageError(msg)


def _numbers(fields: dict[str, str], names: Sequence[str], count: int) -> list[float] | None:
    """Numbers of the first field that is there; None without any."""
    text = next((fields[name] for name in names if name in fields), None)
    if text is None:
        return None
    values = [float(word) for word in text.split()]
    if len(values) != count or not np.isfinite(values).all():
        msg = f"its {names[0]} is not {count} numbers; repair the header"
        raise ImageError(msg)
    return values


def _true(fields: dict[str, str], *names: str) -> bool:
    return any(fields.get(name, "").lower()[:1] in ("t", "1", "y") for name in names)


def _elements(fields: dict[str, str]) -> tuple[np.dtype[Any], int]:
    kind = fields.get("elementtype", "").removesuffix("_ARRAY")
    if kind not in _TYPES:
        msg = "its ElementType is no number that is known; save it as MET_SHORT, MET_UCHAR or MET_FLOAT"
        raise ImageError(msg)
    big = _true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    channels = int(fields.get("elementnumberofchannels", "1"))
    if channels < 1:
        msg = f"it has {channels} channels; wanted 1 or more"
        raise ImageError(msg)
    return np.dtype((">" if big else "<") + _TYPES[kind]), channels


def _grid(fields: dict[str, str], channels: int) -> Grid:
    if fields.get("objecttype", "Image").lower() != "image":
        msg = "holds an object that is no image; give an image"
        raise ImageError(msg)
    ndim = int(fields.get("ndims", "0"))
    if not 2 <= ndim <= 4:
        msg = f"has {ndim} dimensions; wanted 2, 3 or 4"
        raise ImageError(msg)
    sizes = _numbers(fields, ("dimsize",), ndim)
    if sizes is None or any(size != int(size) for size in sizes):
        msg = "its DimSize is no list of whole numbers; repair the header"
        raise ImageError(msg)
    steps = _numbers(fields, ("elementspacing", "elementsize"), ndim) or [1.0] * ndim
    turned = _numbers(fields, ("transformmatrix", "rotation", "orientation"), ndim * ndim)
    origin = _numbers(fields, ("offset", "position", "origin"), ndim) or [0.0] * ndim
    if min(steps) <= 0:
        msg = "its ElementSpacing is not positive; repair the header"
        raise ImageError(msg)
    affine = None
    notes: tuple[str, ...] = ()
    if ndim > 2:
        if turned is None:
            notes = ("the header has no orientation; the axes are taken for those of the world (LPS)",)
        cosines = np.eye(ndim) if turned is None else np.array(turned).reshape(ndim, ndim)  # one row for each axis
        affine = world_affine(cosines[:3, :3] * np.array(steps[:3])[:, np.newaxis], origin[:3])
    return Grid(
        sizes=(channels, *(int(size) for size in sizes)),
        space=tuple(range(1, 1 + min(ndim, 3))),
        colours=True,
        affine=affine,
        spacing=(steps[0], steps[1], 1.0) if affine is None else (1.0, 1.0, 1.0),  # else from the affine
        notes=notes,
    )


def _bytes(path: Path, fields: dict[str, str], data: Path, start: int, dtype: np.dtype[Any], elements: int) -> Bytes:
    packing: Packing = "zlib" if _true(fields, "compresseddata") else "raw"
    if not _true(fields, "binarydata") and "binarydata" in fields:
        packing = "text"
    with foreign(path, _WANTED):
        skip = int(fields.get("headersize", "0"))
    if skip == _SIZE_NOT_KNOWN and packing == "raw":  # the data end with the file
        start = max(start, check_file(data) - elements * dtype.itemsize)
    elif skip < 0:
        msg = f"{path}: its HeaderSize is {skip}; wanted a number of bytes"
        raise ImageError(msg)
    return Bytes(data=data, packing=packing, dtype=dtype, start=start + max(0, skip))

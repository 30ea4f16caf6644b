"""NRRD files in: ``.nrrd``, and ``.nhdr`` with its data file beside it.

Knows the fields of the header, which pynrrd parses; the voxels are read by `_voxels` within its limits. Must not
know intensities' meaning, prompts or models.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._grid import Bytes, Grid, data_beside, read_grid, world_affine
from runtime.io._quiet import quiet
from runtime.io._reading import BoundedFile, check_file, foreign, named
from runtime.io._voxels import Packing

__all__ = ["MAX_HEADER_BYTES", "read_nrrd"]

MAX_HEADER_BYTES = 1 << 20
"""Most bytes of a header."""

_WANTED = "a NRRD file"
_MAX_AXES = 16
_PACKINGS: dict[str, Packing] = {
    "raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2",
    "ascii": "text", "text": "text", "txt": "text",
}  # fmt: skip
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_FLIPS = {
    "right-anterior-superior": (1, 1), "ras": (1, 1), "left-anterior-superior": (-1, 1), "las": (-1, 1),
    "left-posterior-superior": (-1, -1), "lps": (-1, -1), "scanner-xyz": (-1, -1),
}  # fmt: skip
_MILLIMETRES = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001}
_SPACE_KINDS = frozenset({"domain", "space", "none", "???"})
_COLOUR_KINDS = frozenset({"3-color", "rgb-color", "4-color", "rgba-color", "vector", "3-vector", "4-vector"})


def read_nrrd(path: Path, *, volume: int | None = None) -> Volume:
    """Read a NRRD image.

    World coordinates of any of the named spaces become RAS; a space without anatomical meaning is taken as LPS,
    as ITK does. Voxels keep their stored dtype, but float64 becomes float32 and int64 the smaller integer that
    holds the values.

    Parameters
    ----------
    path : Path
        ``.nrrd`` or ``.nhdr``; raw, gzip, bzip2 and text encodings, attached or in one file beside the header.
    volume : int, optional
        Which one, 0-based, along an axis that is neither space nor colour (time, gradients, components).

    Returns
    -------
    image : Volume
        Array in file order; colours of 8 bits become [..., 3]. No affine where the header has no directions.

    Raises
    ------
    ImageError
        If the file is no NRRD image, is a segmentation (``.seg.nrrd``), is damaged, exceeds the limits, names a
        data file outside its folder, or holds several volumes and none was chosen.

    References
    ----------
    Definition of the NRRD file format, https://teem.sourceforge.net/nrrd/format.html
    """
    check_file(path)
    lines, start = _lines(path)
    if any(line.startswith(("Segmentation_", "Segment0_")) for line in lines[1:]):
        msg = f"{path}: is a segmentation (.seg.nrrd), not an image; give the image that it was drawn on"
        raise ImageError(msg)
    header = _fields(path, lines)
    with foreign(path, _WANTED), named(path):
        dtype = _dtype(header)
        grid = _grid(header)
    name = header.get("data file", header.get("datafile"))
    data = path if name is None else data_beside(path, _one_file(path, str(name)))
    where = _bytes(path, header, data, 0 if name is not None else start, dtype, math.prod(grid.sizes))
    return read_grid(path, grid, where, volume=volume, wanted="a complete NRRD file")


def _lines(path: Path) -> tuple[list[str], int]:
    """Lines of the header, and where the data begin."""
    lines = []
    with foreign(path, _WANTED), BoundedFile(path) as stream:
        while line := stream.readline(MAX_HEADER_BYTES):
            if stream.tell() > MAX_HEADER_BYTES:
                msg = f"{path}: its header exceeds the limit of {MAX_HEADER_BYTES >> 10} KiB; it is damaged"
                raise ImageError(msg)
            text = line.decode("utf-8", "replace").rstrip()
            if not text:
                break
            lines.append(text)
        return lines, stream.tell()


def _fields(path: Path, lines: list[str]) -> dict[str, Any]:
    """Parsed fields; comments and key/value pairs, where names of patients hide, are dropped unread."""
    import nrrd

    kept = lines[:1]
    kept += [line for line in lines[1:] if line[0] != "#" and line.partition(":")[2][:1] != "="]
    with foreign(path, _WANTED), quiet():
        return {str(key).lower(): value for key, value in nrrd.read_header(kept).items()}


def _dtype(header: dict[str, Any]) -> np.dtype[Any]:
    name = " ".join(str(header["type"]).lower().split())
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        msg = "its type is no number that is known; save it as short, unsigned char or float"
        raise ImageError(msg)
    order = {"little": "<", "big": ">"}.get(str(header.get("endian", "")).lower())
    text = _PACKINGS.get(str(header["encoding"]).lower()) == "text"
    if order is None and not text and not code.endswith("1"):
        msg = "its header lacks the endian field (little or big); add it"
        raise ImageError(msg)
    return np.dtype((order or "<") + code)


def _grid(header: dict[str, Any]) -> Grid:
    sizes = tuple(int(size) for size in header["sizes"])
    if len(sizes) != int(header["dimension"]) or len(sizes) > _MAX_AXES:
        msg = f"its dimension is {header['dimension']}, but it has {len(sizes)} sizes; repair the header"
        raise ImageError(msg)
    kinds = [str(kind).lower() for kind in header.get("kinds", ())] or ["domain"] * len(sizes)
    if len(kinds) != len(sizes):
        msg = f"it has {len(sizes)} axes, but {len(kinds)} kinds; repair the header"
        raise ImageError(msg)
    steps = header.get("space directions")
    if steps is None:
        space = tuple(axis for axis, kind in enumerate(kinds) if kind in _SPACE_KINDS)[:3]
        spacing = _spacing(header.get("spacings"), space)
        return Grid(sizes=sizes, space=space, colours=_coloured(kinds, space), affine=None, spacing=spacing)
    directions = np.array([[math.nan] * 3 if step is None else step for step in steps], dtype=np.float64)
    if directions.ndim != 2 or len(directions) != len(sizes) or directions.shape[1] not in (2, 3, 4):
        msg = "its space directions do not fit its axes; repair the header"
        raise ImageError(msg)
    known = np.isfinite(directions[:, :3]).all(axis=1) & directions[:, :3].any(axis=1)
    space = tuple(int(axis) for axis in np.flatnonzero(known))
    spacing = _spacing(np.linalg.norm(np.where(np.abs(directions) < 1e30, directions, 0), axis=1), space)
    affine = None
    notes: tuple[str, ...] = ()
    if directions.shape[1] > 2 and len(space) in (2, 3):
        units = np.array([_MILLIMETRES.get(str(unit), 1.0) for unit in (*header.get("space units", ()), *"xyz")][:3])
        origin = np.zeros(3) if header.get("space origin") is None else np.array(header["space origin"])[:3]
        name = str(header.get("space", "")).lower().removesuffix("-time")
        if name not in _FLIPS:
            notes = ("the header does not say what its axes mean in the patient; LPS is assumed",)
        flips = _FLIPS.get(name, (-1, -1))
        affine = world_affine(directions[list(space), :3] * units, origin * units, flips)
        spacing = (1.0, 1.0, 1.0)  # from the affine
    return Grid(sizes=sizes, space=space, colours=_coloured(kinds, space), affine=affine, spacing=spacing, notes=notes)


def _coloured(kinds: list[str], space: tuple[int, ...]) -> bool:
    return any(kind in _COLOUR_KINDS for axis, kind in enumerate(kinds) if axis not in space)


def _spacing(values: Any, space: tuple[int, ...]) -> tuple[float, float, float]:
    """Millimetres along the axes of space; 1.0 where unknown."""
    found = [] if values is None else [float(value) for value in values]
    kept = [found[axis] if axis < len(found) and 0 < found[axis] < 1e30 else 1.0 for axis in space]
    i, j, k = (*kept, 1.0, 1.0, 1.0)[:3]
    return (i, j, k)


def _one_file(path: Path, name: str) -> str:
    if name.split()[0:1] == ["LIST"] or "%" in name:
        msg = f"{path}: its data lie in several files; save it as one .nrrd file first"
        raise ImageError(msg)
    return name


def _bytes(path: Path, header: dict[str, Any], data: Path, start: int, dtype: np.dtype[Any], elements: int) -> Bytes:
    packing = _PACKINGS.get(str(header["encoding"]).lower())
    if packing is None:
        msg = f"{path}: its encoding is not one of raw, gzip, bzip2 and text; save it with one of these"
        raise ImageError(msg)
    with foreign(path, _WANTED):
        lines = int(header.get("line skip", header.get("lineskip", 0)))
        skip = int(header.get("byte skip", header.get("byteskip", 0)))
    if lines < 0 or skip < -1 or (skip == -1 and packing != "raw"):
        msg = f"{path}: its line skip and byte skip are {lines} and {skip}; wanted numbers of lines and bytes"
        raise ImageError(msg)
    size = check_file(data)
    with foreign(path, _WANTED), data.open("rb") as stream:
        stream.seek(start)
        for _ in range(lines):
            if not stream.readline(MAX_HEADER_BYTES) or stream.tell() - start > MAX_HEADER_BYTES:
                msg = f"{path}: its line skip leads beyond the limit of {MAX_HEADER_BYTES >> 10} KiB; it is damaged"
                raise ImageError(msg)
        start = stream.tell()
    if skip == -1:  # the data end with the file
        start, skip = max(start, size - elements * dtype.itemsize), 0
    return Bytes(data=data, packing=packing, dtype=dtype, start=start, skip=skip)

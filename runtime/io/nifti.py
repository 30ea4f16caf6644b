"""NIfTI files: ``.nii``, ``.nii.gz`` and header pairs in, label maps out.

Knows the layout of the voxels behind a header; what the header means is in `_nifti_header`. Must not know
intensities' meaning, prompts or models.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._gzip import is_gzip, packed_into, unpacked_head
from runtime.io._nifti_header import (
    HEADER_BYTES,
    anonymous_block,
    grid_affine,
    label_header,
    label_table,
    parse_header,
)
from runtime.io._reading import check_file, check_size, choose_volume, foreign, named
from runtime.io._result import Result
from runtime.io._source import NiftiSource
from runtime.io._voxels import Stored, read_voxels, scaled

__all__ = ["read_nifti", "write_nifti"]

_WANTED = "a NIfTI file"


def read_nifti(path: Path, *, volume: int | None = None) -> Volume:
    """Read a NIfTI-1 or NIfTI-2 image.

    Voxels keep their stored dtype unless the header scales them: whole-numbered slope and intercept give
    the smallest of the stored dtype, int16 and int32 that holds the values, anything else float32. float64
    becomes float32 (whole numbers above 2**24 lose digits); int64 becomes int16 or int32 where it fits.

    Parameters
    ----------
    path : Path
        ``.nii``, ``.nii.gz``, ``.hdr`` or ``.img``; compression is told by content.
    volume : int, optional
        Which time point (0-based) of a 4-D file to read; the others are skipped, not loaded.

    Returns
    -------
    image : Volume
        Array in file order (Fortran contiguous). NaN and infinity are kept.

    Raises
    ------
    ImageError
        If the file is no NIfTI image, is truncated or damaged, exceeds the limits, holds several time
        points and none was chosen, or holds complex numbers or vectors.
    """
    header_path, data_path = _pair(path)
    check_file(header_path)
    with foreign(path, _WANTED):
        header = parse_header(unpacked_head(header_path, HEADER_BYTES))
    if header is None:
        msg = f"{path}: has no NIfTI header (magic n+1, ni1 or n+2); convert the image to NIfTI"
        raise ImageError(msg)
    shape, skip = _grid(path, header, volume)
    dtype = _stored_dtype(path, header)
    with foreign(path, _WANTED):
        paired = bytes(header["magic"])[1:2] == b"i"
        offset = float(header["vox_offset"])
        if not paired:
            offset = offset or float(header.single_vox_offset)
        source = NiftiSource(
            paths=tuple({header_path.resolve(), (data_path if paired else header_path).resolve()}),
            block=anonymous_block(header),
            ndim=2 if int(header["dim"][0]) == 2 else 3,
        )
    with foreign(path, _WANTED), named(path):
        scaling = _scaling(header)
        notes: list[str] = []
        affine = grid_affine(header, shape, notes)
    if not 0 <= offset < 2**53 or offset != int(offset):
        msg = f"{path}: vox_offset is {offset}, wanted a whole number of bytes; repair the header"
        raise ImageError(msg)
    data = data_path if paired else header_path
    check_file(data)
    with foreign(path, _WANTED), data.open("rb") as stream:
        packed = is_gzip(stream.read(2))
    stored = Stored(
        data=data,
        packing="gzip" if packed else "raw",
        skip=int(offset) + skip * dtype.itemsize,
        dtype=np.dtype(np.uint8) if dtype.names else dtype,
        run=math.prod(shape) * (dtype.itemsize if dtype.names else 1),
    )
    array = _array(read_voxels(path, stored, "a complete NIfTI file"), shape, scaling)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    with named(path):
        return Volume(
            array,
            affine=affine,
            spacing=(float(zooms[0]), float(zooms[1]), float(zooms[2])),
            is_2d=source.ndim == 2,
            notes=tuple(notes),
            source=source,
        )


def write_nifti(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write a label map on the grid of an image.

    The header's geometry is that of the image, bit for bit where the image is a NIfTI file; slope 1,
    intercept 0, no cal_min / cal_max, intent LABEL, no free text, no extension but the label table. The same
    input gives the same bytes.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have, ``.nii`` or ``.nii.gz``.
    result : Result
        What to write; its names, if any, become a Caret label table.
    """
    from nibabel.nifti1 import Nifti1Extension

    image, labels = result.reference, result.label_map
    header = label_header(image.source, image.shape, labels.dtype, image.affine, image.spacing)
    if result.names:
        header.extensions.append(Nifti1Extension(0, label_table(result.names)))
    if path.name.lower().endswith(".gz"):
        with packed_into(stream) as packed:
            _write_voxels(packed, header, labels)
    else:
        _write_voxels(stream, header, labels)


def _write_voxels(stream: Any, header: Any, label_map: NDArray[Any]) -> None:
    header.write_to(stream)
    for k in range(label_map.shape[2]):
        stream.write(np.ascontiguousarray(label_map[:, :, k].T).data)  # i runs fastest


def _pair(path: Path) -> tuple[Path, Path]:
    """(header, voxels) of what the user named; the same file twice for single files."""
    name = path.name
    for packed in ("", ".gz"):
        if name.lower().endswith(f".img{packed}"):
            return path.with_name(name[: -4 - len(packed)] + ".hdr" + packed), path
        if name.lower().endswith(f".hdr{packed}"):
            return path, path.with_name(name[: -4 - len(packed)] + ".img" + packed)
    return path, path


def _grid(path: Path, header: Any, volume: int | None) -> tuple[tuple[int, int, int], int]:
    """((I, J, K), voxels to skip) for the chosen time point."""
    ndim = int(header["dim"][0])
    dims = [int(size) for size in header["dim"][1 : 1 + ndim]]
    if not 2 <= ndim <= 7 or len(dims) != ndim:
        msg = f"{path}: the header claims {ndim} dimensions, wanted 2 or 3; repair or convert the image"
        raise ImageError(msg)
    while len(dims) > 3 and dims[-1] == 1:
        dims.pop()
    check_size(path, dims, 1)
    size = "x".join(map(str, dims))
    if len(dims) > 4:
        msg = f"{path}: is {len(dims)}-dimensional ({size}: vectors per voxel); extract one 3-D volume first"
        raise ImageError(msg)
    points = dims[3] if len(dims) == 4 else 1
    with named(path):
        index = choose_volume(points, volume, f"time points or channels ({size})")
    shape = (dims[0], dims[1], dims[2] if len(dims) > 2 else 1)
    return shape, index * shape[0] * shape[1] * shape[2]


def _stored_dtype(path: Path, header: Any) -> np.dtype[Any]:
    with foreign(path, "a NIfTI file of a known datatype"):
        dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.kind == "c":
        msg = f"{path}: holds complex numbers; save their magnitude as a real image first"
        raise ImageError(msg)
    if dtype.names is None and dtype.kind not in "uif":
        msg = f"{path}: datatype {int(header['datatype'])} holds no grey values or colours; convert the image"
        raise ImageError(msg)
    return dtype


def _scaling(header: Any) -> tuple[float, float] | None:
    """(slope, intercept), or None where the stored values are the values."""
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite(slope):
        return None
    if not np.isfinite(inter):
        msg = f"scl_inter is {inter} while scl_slope is {slope:g}; repair the header"
        raise ImageError(msg)
    return None if (slope, inter) == (1.0, 0.0) else (slope, inter)


def _array(flat: NDArray[Any], shape: tuple[int, int, int], scaling: tuple[float, float] | None) -> NDArray[Any]:
    voxels = shape[0] * shape[1] * shape[2]
    if flat.dtype == np.uint8 and len(flat) != voxels:  # colours: (c, i, j, k) -> (i, j, k, c), alpha dropped
        channels = len(flat) // voxels
        return np.moveaxis(flat.reshape((channels, *shape), order="F"), 0, -1)[..., :3]
    return scaled(flat, *(scaling or (1.0, 0.0))).reshape(shape, order="F")

"""NIfTI files: ``.nii``, ``.nii.gz`` and header pairs in, label maps out.

Knows the layout of the voxels behind a header; what the header means is in `_nifti_header`. Must not know
intensities' meaning, prompts or models.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._atomic import atomic_file
from runtime.io._nifti_header import (
    HEADER_BYTES,
    anonymous_block,
    grid_affine,
    label_header,
    label_table,
    parse_header,
)
from runtime.io._reading import LOGGER, MAX_RATIO, check_file, check_size, foreign, named, read_into
from runtime.io._source import NiftiSource, protected_paths

__all__ = ["is_nifti", "read_nifti", "write_nifti"]

_GZIP = b"\x1f\x8b"
_GZIP_LEVEL = 3
_TAIL_BYTES = 1 << 16
_TAIL_CHUNKS = 16
_CHUNK_VOXELS = 1 << 20
_LARGEST_FACTOR = 2.0**31
_WANTED = "a NIfTI file"


def is_nifti(path: Path) -> bool:
    """Whether a file starts with a NIfTI header, compressed or not."""
    try:
        return parse_header(_head(path)) is not None
    except (OSError, EOFError, zlib.error):
        return False


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
        header = parse_header(_head(header_path))
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
        affine = grid_affine(header, shape, warn=True)
    if not 0 <= offset < 2**53 or offset != int(offset):
        msg = f"{path}: vox_offset is {offset}, wanted a whole number of bytes; repair the header"
        raise ImageError(msg)
    flat = _read_voxels(path, data_path if paired else header_path, (int(offset), skip), shape, dtype)
    array = _finish(flat, shape, scaling)
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    with named(path):
        return Volume(
            array,
            affine=affine,
            spacing=(float(zooms[0]), float(zooms[1]), float(zooms[2])),
            is_2d=source.ndim == 2,
            source=source,
        )


def write_nifti(
    path: Path, label_map: NDArray[np.unsignedinteger[Any]], reference: Volume, *, names: Mapping[int, str] | None
) -> None:
    """Write a label map on the grid of an image.

    The header's geometry is that of the image, bit for bit where the image is a NIfTI file; slope 1,
    intercept 0, no cal_min / cal_max, intent LABEL, no free text, no extension but the label table. The same
    input gives the same bytes.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``.
    label_map : ndarray of uint8, uint16 or uint32, shape (I, J, K)
        Labels in the file order of ``reference``.
    reference : Volume
        The image that was segmented.
    names : mapping of int to str, optional
        Names of the labels, written as a Caret label table.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    from nibabel.nifti1 import Nifti1Extension

    header = label_header(reference.source, reference.shape, label_map.dtype, reference.affine, reference.spacing)
    if names:
        header.extensions.append(Nifti1Extension(0, label_table(names)))
    with atomic_file(path, protected=protected_paths(reference.source)) as stream:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the gzip header: the same labels give the same file.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, 0) as packed:
                _write_voxels(packed, header, label_map)
        else:
            _write_voxels(stream, header, label_map)


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


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file's bytes, unpacked, and whether they were packed."""
    with path.open("rb") as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
                yield stream, True  # type: ignore[misc]
        else:
            yield raw, False


def _head(path: Path) -> bytes:
    with _opened(path) as (stream, _):
        return stream.read(HEADER_BYTES)


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
    if volume is None and points > 1:
        choice = f"choose one with volume=0 .. {points - 1} (--volume N)"
        msg = f"{path}: holds {points} time points or channels ({size}); {choice}"
        raise ImageError(msg)
    index = volume or 0
    if not 0 <= index < points:
        msg = f"{path}: there is no volume {index}, the file has {points}; choose 0 .. {points - 1}"
        raise ImageError(msg)
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


def _read_voxels(
    path: Path, data_path: Path, start: tuple[int, int], shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Flat voxels in native byte order; colours as flat bytes, the channel running fastest."""
    wanted = check_size(path, shape, dtype.itemsize)
    available = check_file(data_path)
    offset = start[0] + start[1] * dtype.itemsize
    with foreign(path, "a complete NIfTI file"), _opened(data_path) as (stream, packed):
        limit = available * MAX_RATIO if packed else available
        got = 0
        if offset + wanted <= limit:  # otherwise the header lies, and nothing is allocated
            stream.seek(offset)
            flat = np.empty(wanted, dtype=np.uint8)
            got = read_into(stream, flat.data)
        if got < wanted:
            msg = f"{path}: is truncated, it holds fewer than the {wanted} bytes of voxels that the header announces"
            raise ImageError(msg + "; copy or download it again")
        if packed:
            _check_tail(stream)
    if dtype.names is not None:
        return flat
    voxels = flat.view(dtype)
    if not dtype.isnative:
        voxels.byteswap(inplace=True)
        voxels = voxels.view(dtype.newbyteorder("="))
    return voxels


def _check_tail(stream: BinaryIO) -> None:
    """Read on to the end of a packed file, which checks its checksum, unless the end is far."""
    for _ in range(_TAIL_CHUNKS):
        if not stream.read(_TAIL_BYTES):
            return
    LOGGER.info("bytes behind the voxels that were asked for are ignored, and the checksum with them")


def _finish(flat: NDArray[Any], shape: tuple[int, int, int], scaling: tuple[float, float] | None) -> NDArray[Any]:
    voxels = shape[0] * shape[1] * shape[2]
    if len(flat) != voxels:  # colours: (c, i, j, k) -> (i, j, k, c), alpha dropped
        channels = len(flat) // voxels
        return np.moveaxis(flat.reshape((channels, *shape), order="F"), 0, -1)[..., :3]
    slope, inter = scaling or (1.0, 0.0)
    target = _target_dtype(flat, slope, inter)
    if target != flat.dtype or scaling is not None:
        flat = _converted(flat, target, slope, inter)
    return flat.reshape(shape, order="F")


def _target_dtype(flat: NDArray[Any], slope: float, inter: float) -> np.dtype[Any]:
    """Smallest dtype that holds ``slope * flat + inter``."""
    whole = slope == int(slope) and inter == int(inter) and max(abs(slope), abs(inter)) < _LARGEST_FACTOR
    if flat.dtype.kind == "f" or not whole:
        return np.dtype(np.float32)
    same = (slope, inter) == (1.0, 0.0)
    if same and flat.dtype.itemsize <= 4:
        return flat.dtype
    ends = sorted(int(end) * int(slope) + int(inter) for end in (flat.min(), flat.max()))
    candidates: list[np.dtype[Any]] = [np.dtype(np.int16), np.dtype(np.int32)]
    if flat.dtype.itemsize <= 2:
        candidates.insert(0, flat.dtype)
    for candidate in candidates:
        if np.iinfo(candidate).min <= ends[0] and ends[1] <= np.iinfo(candidate).max:
            return candidate
    return flat.dtype if same else np.dtype(np.float32)


def _converted(flat: NDArray[Any], target: np.dtype[Any], slope: float, inter: float) -> NDArray[Any]:
    """``slope * flat + inter`` piece by piece, in place where the dtype stays."""
    out = flat if flat.dtype == target else np.empty(flat.shape, dtype=target)
    whole = target.kind != "f"
    for start in range(0, len(flat), _CHUNK_VOXELS):
        part = slice(start, start + _CHUNK_VOXELS)
        with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are data here
            if whole:
                out[part] = flat[part].astype(np.int64) * int(slope) + int(inter)
            else:
                out[part] = flat[part].astype(np.float64) * slope + inter
    return out

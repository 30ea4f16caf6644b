"""FreeSurfer's MGH files in: ``.mgz`` and ``.mgh``.

Knows the header through nibabel; the voxels are read by `_voxels` within its limits. Must not know intensities'
meaning, prompts or models.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.io._grid import Bytes, Grid, read_grid, world_affine
from runtime.io._gzip import is_gzip, unpacked_head
from runtime.io._kinds import MGH_TYPES, is_mgh
from runtime.io._reading import check_file, foreign, named

__all__ = ["read_mgh"]

_HEADER_BYTES = 284
"""Where the voxels begin."""

_WANTED = "a FreeSurfer MGH file"


def read_mgh(path: Path, *, volume: int | None = None) -> Volume:
    """Read an MGH or MGZ image.

    Parameters
    ----------
    path : Path
        The file; compression is told by content.
    volume : int, optional
        Which frame, 0-based, of a file with several.

    Returns
    -------
    image : Volume
        Array in file order in its stored dtype; affine to scanner RAS.

    Raises
    ------
    ImageError
        If the file is no MGH image, is damaged, exceeds the limits, or holds several frames and none was chosen.
    """
    check_file(path)
    with foreign(path, _WANTED):
        head = unpacked_head(path, _HEADER_BYTES)
    if not is_mgh(head):
        msg = f"{path}: has no FreeSurfer MGH header; convert the image to NIfTI"
        raise ImageError(msg)
    from nibabel.freesurfer.mghformat import MGHHeader

    with foreign(path, _WANTED), np.errstate(all="ignore"):
        header = MGHHeader(head, check=False)
        sizes = tuple(int(size) for size in header["dims"])
        world = np.array(header.get_affine(), dtype=np.float64)
    with named(path):
        affine = world_affine(world[:3, :3].T, world[:3, 3], (1, 1))  # it is RAS already
    where = Bytes(
        data=path,
        packing="gzip" if is_gzip(_first(path)) else "raw",
        dtype=np.dtype(MGH_TYPES[int.from_bytes(head[20:24], "big")]),
        skip=_HEADER_BYTES,
    )
    spacing = tuple(float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
    grid = Grid(
        sizes=sizes, space=(0, 1, 2), colours=False, affine=affine, spacing=(spacing[0], spacing[1], spacing[2])
    )
    return read_grid(path, grid, where, volume=volume, wanted="a complete MGH file")


def _first(path: Path) -> bytes:
    with foreign(path, _WANTED), path.open("rb") as stream:
        return stream.read(2)

"""What reading a volume takes beside the volume itself: a few slices, whatever the format."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.io import load

SHAPE = (256, 256, 80)
BESIDE_BYTES = 8 << 20
"""Beside 10 MiB of voxels: modules that are imported on first use, headers, and pieces of 4 MiB."""


@pytest.fixture(scope="module")
def voxels() -> NDArray[np.int16]:
    array = np.zeros(SHAPE, np.int16, order="F")
    array[20:200, 30:220] = np.arange(80) * 11 - 300
    return array


def _write(folder: Path, name: str, array: NDArray[Any], write_slice: Callable[..., Path]) -> Path:
    path = folder / name
    affine = np.diag([-0.8, -0.8, 2.0, 1.0])
    if name == "series":
        for k in range(array.shape[2]):
            pixels = (array[:, :, k].T.astype(np.int32) + 1024).astype(np.uint16)
            where = {"ImagePositionPatient": [0, 0, 2 * k], "InstanceNumber": k}
            # slice 0 alone would fit unsigned integers: the dtype has to change later
            write_slice(pixels + (2048 if k == 0 else 0), f"{k:03d}", RescaleIntercept=-1024, RescaleSlope=1, **where)
    elif name.endswith(".nrrd"):
        header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 256 256 80\nendian: little\nencoding: gzip\n\n"
        path.write_bytes(header.encode() + gzip.compress(array.tobytes(order="F"), 1))
    elif name.endswith(".mha"):
        header = "ObjectType = Image\nNDims = 3\nDimSize = 256 256 80\nElementType = MET_SHORT\n"
        path.write_bytes((header + "ElementDataFile = LOCAL\n").encode() + array.tobytes(order="F"))
    elif name.endswith(".mgz"):
        nibabel.save(nibabel.MGHImage(array, affine), path)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine, dtype=array.dtype), path)
    return path


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.nrrd", "x.mha", "x.mgz", "series"])
def test_a_volume_is_read_once_and_never_copied(
    tmp_path: Path, voxels: NDArray[np.int16], write_slice: Callable[..., Path], name: str
) -> None:
    path = _write(tmp_path, name, voxels, write_slice)
    tracemalloc.start()
    volume = load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[:, :, 1:], voxels[:, :, 1:])
    assert peak < voxels.nbytes + BESIDE_BYTES


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_wide_numbers_are_narrowed_in_place(tmp_path: Path, voxels: NDArray[np.int16], dtype: Any) -> None:
    nibabel.save(nibabel.Nifti1Image(voxels.astype(dtype), np.eye(4), dtype=dtype), tmp_path / "x.nii")
    tracemalloc.start()
    volume = load(tmp_path / "x.nii")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.array, voxels)
    assert peak < voxels.size * 8 + 2 * BESIDE_BYTES

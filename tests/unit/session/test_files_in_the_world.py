"""The same scene and the same box in millimetres give the same mask in the world, whatever file holds the scene."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import RAS_AFFINE, STORAGES, Storage, affine_of, storage_id, stored
from tiny_bundle import BOX, SCENE_SHAPE, inside, scene_pixels, unstored

from runtime import Session, load, world_box
from runtime.geometry import Volume

LPS = np.diag([-1.0, -1.0, 1.0])


def _nifti(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path.with_suffix(".nii"))
    return path.with_suffix(".nii")


def _nrrd(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    import nrrd

    world = LPS @ affine[:3]
    header = {"space": "left-posterior-superior", "space directions": world[:, :3].T, "space origin": world[:, 3]}
    nrrd.write(str(path.with_suffix(".nrrd")), array, header)
    return path.with_suffix(".nrrd")


def _mha(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    world = LPS @ affine[:3]
    steps = np.linalg.norm(world[:, :3], axis=0)
    lines = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "TransformMatrix": " ".join(map(str, (world[:, :3] / steps).T.ravel())),
        "Offset": " ".join(map(str, world[:, 3])),
        "ElementSpacing": " ".join(map(str, steps)),
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": "MET_UCHAR",
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{name} = {value}\n" for name, value in lines.items())
    path.with_suffix(".mha").write_bytes(header.encode() + array.tobytes(order="F"))
    return path.with_suffix(".mha")


def _mgz(path: Path, array: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    nibabel.save(nibabel.MGHImage(array, affine), path.with_suffix(".mgz"))
    return path.with_suffix(".mgz")


def _box_mm() -> tuple[float, ...]:
    corners = np.array(BOX).reshape(2, 3) @ RAS_AFFINE[:3, :3].T + RAS_AFFINE[:3, 3]
    return tuple(corners.ravel().tolist())


def _mask(session: Session, volume: Volume, box_mm: tuple[float, ...]) -> NDArray[Any]:
    axis = volume.slice_axis_of("axial")
    return session.segment(volume, prompts=[world_box(volume, box_mm, axis)], slice_axis=axis).label_map


@pytest.mark.parametrize("storage", STORAGES, ids=storage_id)
def test_a_box_in_millimetres_finds_the_same_voxels_in_every_file(
    session: Session, tmp_path: Path, storage: Storage
) -> None:
    array, affine = stored(scene_pixels(), storage), affine_of(storage, SCENE_SHAPE)
    writers: tuple[Callable[..., Path], ...] = (_nifti, _nrrd, _mha, _mgz)
    for write in writers:
        volume = load(write(tmp_path / "scene", np.ascontiguousarray(array), affine))
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_array_equal(unstored(_mask(session, volume, _box_mm()), storage), inside())


def test_the_48_orientations_of_the_zoo_give_one_mask_with_the_default_model(shared: Path) -> None:
    folder = shared / "data" / "nifti_zoo"
    names = sorted((folder / "orient").iterdir())
    containers = [folder / "container" / name for name in ("itk.nrrd", "itk.nhdr", "itk.mha", "itk.mhd", "small.mgz")]
    reference = load(folder / "ref_ras.nii.gz")
    low, high = reference.affine @ (12, 14, 7, 1), reference.affine @ (34, 40, 9, 1)
    box_mm = (*low[:3].tolist(), *high[:3].tolist())
    with Session(precision="fp32", cache=False) as session:
        wanted = _mask(session, reference, box_mm)
        assert len(names) == 48
        assert 0 < wanted.sum() < wanted.size
        for path in (*names, *containers):
            volume = load(path)
            found = nibabel.Nifti1Image(_mask(session, volume, box_mm), volume.affine)
            turned = nibabel.as_closest_canonical(found)
            np.testing.assert_array_equal(np.asanyarray(turned.dataobj), wanted, err_msg=path.name)

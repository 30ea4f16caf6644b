"""runtime.io.mesh: closed surfaces in RAS millimetres that hold exactly the centres of an object's voxels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from results import mask_of, result_of, segment, some_segments
from scenes import STORAGES, storage_id, volume_of

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io import check_output, save
from runtime.io._result import Segment
from runtime.io._saving import write_results

trimesh = pytest.importorskip("trimesh", reason="trimesh reads surfaces back")
pytest.importorskip("skimage", reason="scikit-image makes surfaces: lite-infer[mesh]")

SHAPE = (9, 7, 6)
OBLIQUE = np.array([[0.8, -0.5, 0.9, -12.5], [0.48, 1.1, -1.2, 31.0], [-0.36, 0.3, 3.0, 7.25], [0, 0, 0, 1.0]])


def inside(vertices: NDArray[Any], faces: NDArray[Any], volume: Volume) -> NDArray[np.bool_]:
    """Voxels whose centre a surface winds around once, by its solid angle there."""
    assert volume.affine is not None
    centres = np.argwhere(np.ones(volume.shape, bool)) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    winding = np.zeros(len(centres))
    for triangle in vertices[faces]:
        a, b, c = (corner - centres for corner in triangle)
        la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
        below = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
        winding += np.arctan2((a * np.cross(b, c)).sum(1), below) / (2 * np.pi)
    np.testing.assert_allclose(winding, np.rint(winding), atol=1e-3)
    return np.rint(winding).reshape(volume.shape) == 1


def read(path: Path) -> dict[str, Any]:
    """Meshes of a file by name, as trimesh reads them."""
    split = {"split_objects": True, "group_material": False} if path.suffix == ".obj" else {}
    loaded = trimesh.load(path, process=False, **split)
    if isinstance(loaded, trimesh.Scene):
        return {name: loaded.geometry[name] for name in loaded.geometry}
    return {path.stem: loaded}


@pytest.mark.parametrize("ending", ["obj", "glb"])
@pytest.mark.parametrize("storage", STORAGES[::13], ids=storage_id)
def test_every_object_is_a_closed_surface_around_its_voxels(tmp_path: Path, storage: Any, ending: str) -> None:
    volume = volume_of(np.zeros(SHAPE, np.int16), storage, OBLIQUE)
    segments = some_segments(volume.shape)
    path = tmp_path / f"out.{ending}"
    check_output(path, volume, objects=3)
    write_results(path, result_of(volume, segments))
    meshes = read(path)
    for one in segments[:2]:
        mesh = meshes[one.name]
        np.testing.assert_array_equal(inside(mesh.vertices, mesh.faces, volume), mask_of(one, volume.shape))
    assert meshes["Niere, links"].is_watertight
    block = mask_of(segments[1], volume.shape).sum() * volume.voxel_ml * 1000
    assert 0.8 * block < meshes["Niere, links"].volume < block


@pytest.mark.parametrize("storage", STORAGES[::13], ids=storage_id)
def test_an_stl_holds_one_object_and_says_that_it_is_ras(tmp_path: Path, storage: Any) -> None:
    volume = volume_of(np.zeros(SHAPE, np.int16), storage, OBLIQUE)
    one = some_segments(volume.shape)[1]
    write_results(tmp_path / "out.stl", result_of(volume, (one,)))
    (mesh,) = read(tmp_path / "out.stl").values()
    np.testing.assert_array_equal(inside(mesh.vertices, mesh.faces, volume), mask_of(one, volume.shape))
    header = (tmp_path / "out.stl").read_bytes()[:80]
    assert b"SPACE=RAS" in header
    assert not header.startswith(b"solid")
    np.testing.assert_allclose(np.einsum("ij,ij->i", mesh.face_normals, mesh.triangles_cross) > 0, True)


def test_an_obj_says_that_it_is_ras_and_names_its_objects(tmp_path: Path) -> None:
    volume = volume_of(np.zeros(SHAPE, np.int16), STORAGES[5])
    write_results(tmp_path / "out.obj", result_of(volume, some_segments(volume.shape)))
    lines = (tmp_path / "out.obj").read_text(encoding="utf-8").splitlines()
    assert "# SPACE=RAS" in lines
    assert [line for line in lines if line.startswith("o ")] == ["o liver", "o Niere, links", "o nothing"]


def test_a_glb_has_the_colours_of_the_objects(tmp_path: Path) -> None:
    volume = volume_of(np.zeros(SHAPE, np.int16), STORAGES[5])
    write_results(tmp_path / "out.glb", result_of(volume, some_segments(volume.shape)))
    meshes = read(tmp_path / "out.glb")
    assert list(meshes) == ["liver", "Niere, links"], "what was not found has no surface"
    factor = np.array(meshes["liver"].visual.material.baseColorFactor, float)[:3] / 255
    srgb = np.where(factor <= 0.0031308, factor * 12.92, 1.055 * factor ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb * 255, (230, 159, 0), atol=2)


@pytest.mark.parametrize("ending", ["obj", "stl", "glb"])
def test_nothing_found_is_an_empty_surface(tmp_path: Path, ending: str) -> None:
    empty = Segment(1, "nothing", (0, 0, 0), np.zeros((0, 0, 0), bool))
    volume = volume_of(np.zeros(SHAPE, np.int16), STORAGES[0])
    write_results(tmp_path / f"out.{ending}", result_of(volume, (empty,)))
    assert (tmp_path / f"out.{ending}").stat().st_size > 0


def test_an_image_without_a_place_in_the_world_is_measured_from_its_first_voxel(tmp_path: Path) -> None:
    volume = Volume(np.zeros(SHAPE), spacing=(0.5, 2.0, 3.0))
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 1:3, 1] = True
    write_results(tmp_path / "out.stl", result_of(volume, (segment(1, "x", mask),)))
    (mesh,) = read(tmp_path / "out.stl").values()
    np.testing.assert_allclose(mesh.bounds, [(0.75, 1.0, 1.5), (1.75, 5.0, 4.5)])


def test_several_objects_in_one_stl_are_refused_before_work_begins(tmp_path: Path) -> None:
    volume = Volume(np.zeros(SHAPE))
    with pytest.raises(OutputError, match="an STL holds one surface, there are 2 objects; add --separate"):
        check_output(tmp_path / "out.stl", volume, objects=2)
    check_output(tmp_path / "out.stl", volume, objects=2, separate=True)
    labels = np.zeros(SHAPE, int)
    labels[1], labels[5] = 1, 2
    with pytest.raises(OutputError, match="an STL holds one surface"):
        save(tmp_path / "out.stl", labels, volume)
    assert not list(tmp_path.iterdir())


def test_an_image_of_one_slice_has_no_surface(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="an image of one slice has no surface"):
        check_output(tmp_path / "out.glb", Volume(np.zeros((5, 4, 1)), is_2d=True))


def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage.measure", None)
    with pytest.raises(OutputError, match=r"need scikit-image, which is not installed; install lite-infer\[mesh\]"):
        check_output(tmp_path / "out.glb", Volume(np.zeros(SHAPE)))

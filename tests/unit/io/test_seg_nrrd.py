"""runtime.io.seg_nrrd: what slicerio and pynrrd read back lies on the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray
from results import mask_of, placed, result_of, some_segments
from scenes import STORAGES, storage_id, volume_of

from runtime.geometry import Volume
from runtime.io import check_output, save
from runtime.io._saving import write_results

slicerio = pytest.importorskip("slicerio", reason="slicerio reads 3D Slicer's segmentations")
SHAPE = (9, 7, 5)
OBLIQUE = np.array([[0.8, -0.5, 0.9, -12.5], [0.48, 1.1, -1.2, 31.0], [-0.36, 0.3, 3.0, 7.25], [0, 0, 0, 1.0]])


def saved(folder: Path, volume: Volume, *, overlapping: bool) -> tuple[Path, list[NDArray[np.bool_]]]:
    segments = some_segments(volume.shape, overlapping=overlapping)
    path = folder / "out.seg.nrrd"
    check_output(path, volume)
    write_results(path, result_of(volume, segments))
    return path, [mask_of(one, volume.shape) for one in segments]


def voxels_of(data: dict[str, Any], segment: dict[str, Any]) -> NDArray[np.bool_]:
    voxels = data["voxels"]
    layer = voxels[segment["layer"]] if voxels.ndim == 4 else voxels
    return np.asarray(layer == segment["labelValue"])


@pytest.mark.parametrize("overlapping", [True, False])
@pytest.mark.parametrize("storage", STORAGES[::7], ids=storage_id)
def test_slicerio_reads_every_object_where_it_was(tmp_path: Path, storage: Any, overlapping: bool) -> None:
    volume = volume_of(np.zeros(SHAPE, np.int16), storage, OBLIQUE)
    path, masks = saved(tmp_path, volume, overlapping=overlapping)
    data = slicerio.read_segmentation(str(path))
    assert data["voxels"].ndim == (4 if overlapping else 3)
    assert [one["labelValue"] for one in data["segments"]] == [1, 2, 3]
    for one, mask in zip(data["segments"], masks, strict=True):
        found = voxels_of(data, one)
        np.testing.assert_array_equal(found, mask)
        points_lps = np.argwhere(found) @ data["ijkToLPS"][:3, :3].T + data["ijkToLPS"][:3, 3]
        np.testing.assert_array_equal(placed(points_lps, volume), mask)


def test_segments_have_the_fields_that_slicer_reads(tmp_path: Path) -> None:
    path, masks = saved(tmp_path, volume_of(np.zeros(SHAPE, np.int16), STORAGES[0]), overlapping=True)
    header = nrrd.read_header(str(path))
    assert header["space"] == "left-posterior-superior"
    assert header["kinds"] == ["list", "domain", "domain", "domain"]
    assert header["Segmentation_SourceRepresentation"] == "Binary labelmap"
    assert header["Segmentation_ContainedRepresentationNames"] == "Binary labelmap|"
    assert header["Segmentation_ReferenceImageExtentOffset"] == "0 0 0"
    where = np.argwhere(masks[1])
    extent = np.stack([where.min(axis=0), where.max(axis=0)], axis=1).ravel()
    assert header["Segment1_Extent"] == " ".join(map(str, extent))
    assert header["Segment2_Extent"] == "0 -1 0 -1 0 -1"
    assert (header["Segment0_ID"], header["Segment0_Layer"], header["Segment1_Layer"]) == ("Segment_1", "0", "1")
    assert header["Segment0_Color"] == "0.901961 0.623529 0"
    assert "SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~" in header["Segment0_Tags"]


def test_names_of_any_script_are_kept_and_cannot_break_the_header(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1] = 1
    names = {1: "Leber ü 肝\nSegment0_Name:=x\\"}
    for path in (tmp_path / "a.seg.nrrd", tmp_path / "b.seg.nrrd"):
        save(path, labels, Volume(np.zeros(SHAPE)), names=names)
    assert (tmp_path / "a.seg.nrrd").read_bytes() == (tmp_path / "b.seg.nrrd").read_bytes()
    lines = (tmp_path / "a.seg.nrrd").read_bytes().partition(b"\n\n")[0].decode("utf-8").splitlines()
    assert [line for line in lines if line.startswith("Segment0_Name:")] == [
        "Segment0_Name:=Leber ü 肝\\nSegment0_Name:=x\\\\"
    ]


def test_an_image_without_a_place_in_the_world_has_its_own_spacing(tmp_path: Path) -> None:
    volume = Volume(np.zeros(SHAPE), spacing=(0.5, 2.0, 3.0))
    path, masks = saved(tmp_path, volume, overlapping=False)
    data = slicerio.read_segmentation(str(path))
    np.testing.assert_array_equal(data["ijkToLPS"], np.diag([0.5, 2.0, 3.0, 1.0]))
    np.testing.assert_array_equal(voxels_of(data, data["segments"][0]), masks[0])


def test_many_labels_take_as_many_bytes_as_they_need(tmp_path: Path) -> None:
    labels = (np.arange(np.prod(SHAPE)) * 3).reshape(SHAPE)
    save(tmp_path / "out.seg.nrrd", labels, Volume(np.zeros(SHAPE)))
    voxels, header = nrrd.read(str(tmp_path / "out.seg.nrrd"))
    assert header["type"] == "uint16"
    np.testing.assert_array_equal(voxels, labels)

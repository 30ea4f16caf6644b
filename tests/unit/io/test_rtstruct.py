"""runtime.io.rtstruct: closed contours in the patient that hold exactly the voxels of the objects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from polygons import even_odd, painted
from results import LAYOUTS, PATIENT, UID, Layout, mask_of, result_of, segment, some_segments, write_series

from runtime.errors import OutputError
from runtime.geometry import Volume, world_to_voxel
from runtime.io import check_output, load
from runtime.io._saving import write_results

ZOO = (
    ("series/ct_small_17", None),
    ("series/oblique_oriented_3", None),
    ("series/ct_3slice_with_SEG", None),
    ("series/mr_fmri_two_timepoints", 1),
    ("single/IM_0027_fMAP.dcm", 1),
    ("single/6_1.dcm", None),
    ("single/0.dcm", None),
)


def contours(dataset: Any, number: int, volume: Volume) -> dict[int, list[NDArray[np.float64]]]:
    """Slice -> polygons (i, j) in voxels of a region; every corner lies on a slice."""
    assert volume.affine is not None
    found: dict[int, list[NDArray[np.float64]]] = {}
    (region,) = [item for item in dataset.ROIContourSequence if item.ReferencedROINumber == number]
    for contour in region.get("ContourSequence") or ():
        assert contour.ContourGeometricType == "CLOSED_PLANAR"
        points_lps = np.array(contour.ContourData, float).reshape(-1, 3)
        assert len(points_lps) == contour.NumberOfContourPoints
        points_ijk = world_to_voxel(volume.affine, points_lps * (-1, -1, 1))
        k = round(float(points_ijk[0, 2]))
        np.testing.assert_allclose(points_ijk[:, 2], k, atol=2e-3)
        found.setdefault(k, []).append(points_ijk[:, :2])
    return found


def saved(folder: Path, volume: Volume) -> tuple[Any, list[NDArray[np.bool_]]]:
    segments = some_segments(volume.shape)
    path = folder / "out.rtstruct.dcm"
    check_output(path, volume, objects=len(segments))
    write_results(path, result_of(volume, segments))
    return pydicom.dcmread(path), [mask_of(one, volume.shape) for one in segments]


def assert_same_in_the_patient(dataset: Any, volume: Volume, masks: list[NDArray[np.bool_]]) -> None:
    for number, mask in enumerate(masks, start=1):
        for read in (even_odd, painted):
            found = np.zeros_like(mask)
            for k, polygons in contours(dataset, number, volume).items():
                found[:, :, k] = read(polygons, mask.shape[:2])
            np.testing.assert_array_equal(found, mask)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_object_is_where_it_was(tmp_path: Path, layout: Layout) -> None:
    volume = load(write_series(tmp_path / "in", layout))
    dataset, masks = saved(tmp_path, volume)
    assert_same_in_the_patient(dataset, volume, masks)
    assert [item.ROIName for item in dataset.StructureSetROISequence] == ["liver", "Niere, links", "nothing"]


@pytest.mark.parametrize(("name", "repetition"), ZOO)
def test_real_series_come_back_where_they_were(tmp_path: Path, shared: Path, name: str, repetition: int | None) -> None:
    volume = load(shared / "data" / "dicom_zoo" / name, volume=repetition)
    dataset, masks = saved(tmp_path, volume)
    assert_same_in_the_patient(dataset, volume, masks)


def test_contours_name_their_slice_and_lie_exactly_on_it(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "in", LAYOUTS[6])
    dataset, _ = saved(tmp_path, load(folder))
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, folder.iterdir())}
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (image,) = contour.ContourImageSequence
        own = slices[image.ReferencedSOPInstanceUID]
        cosines = np.array(own.ImageOrientationPatient, float)
        points = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(own.ImagePositionPatient, float)
        np.testing.assert_allclose(points @ np.cross(cosines[:3], cosines[3:]), 0, atol=1e-6)


def test_the_patient_the_study_and_the_source_are_named_and_nothing_else(tmp_path: Path) -> None:
    dataset, _ = saved(tmp_path, load(write_series(tmp_path / "in", InstitutionName="Hospital", OperatorsName="Op^1")))
    assert {keyword: str(dataset[keyword].value) for keyword in PATIENT} == PATIENT
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == f"{UID}.4"
    assert series.SeriesInstanceUID == f"{UID}.2"
    assert len(series.ContourImageSequence) == 6
    assert dataset.ROIContourSequence[0].ROIDisplayColor == [230, 159, 0]
    assert all(word not in str(dataset) for word in ("Hospital", "Op^1", str(tmp_path)))


def test_a_contour_of_any_length_is_written(tmp_path: Path) -> None:
    volume = load(write_series(tmp_path / "in", Layout("wide", (1, 0, 0), (0, 1, 0), shape=(50, 40, 1))))
    sieve = np.ones(volume.shape, dtype=bool)
    sieve[1:-1:2, 1:-1:2] = False
    write_results(tmp_path / "out.rtstruct.dcm", result_of(volume, (segment(1, "sieve", sieve),)))
    dataset = pydicom.dcmread(tmp_path / "out.rtstruct.dcm")
    (contour,) = dataset.ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints > 3000, "more text than explicit VR can hold"
    assert_same_in_the_patient(dataset, volume, [sieve])


@pytest.mark.parametrize("kind", ["array", "picture"])
def test_an_image_without_a_place_in_a_patient_is_refused(tmp_path: Path, shared: Path, kind: str) -> None:
    if kind == "array":
        volume, message = Volume(np.zeros((3, 4, 5)), affine=np.eye(4)), "did not come from DICOM"
    else:
        volume = load(shared / "data" / "dicom_zoo" / "single" / "examples_rgb_color.dcm")
        message = "a structure set needs the position of its slices"
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / "out.dcm", volume, format="dicom_rtstruct")
    assert not list(tmp_path.iterdir())


RT_UTILS = """
import sys
import numpy as np
from rt_utils import RTStructBuilder
folder, path, out = sys.argv[1:]
read = RTStructBuilder.create_from(dicom_series_path=folder, rt_struct_path=path)
names = read.get_roi_names()
np.savez(out, *[read.get_roi_mask_by_name(name) for name in names[:2]], names=np.array(names))
"""


@pytest.mark.slow
def test_rt_utils_reads_every_voxel(tmp_path: Path) -> None:
    """It is installed aside and without its OpenCV, which would replace ours; it wants square images and pixels."""
    aside = tmp_path / "aside"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(aside), "rt-utils==1.2.7"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"rt-utils cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(aside), os.environ.get("PYTHONPATH", "")])}
    for layout in (
        Layout("axial", (1, 0, 0), (0, 1, 0), (0.8, 0.8), shape=(24, 24, 5), shuffled=True),
        Layout("oblique", (0.8, 0.48, -0.36), (-0.6, 0.64, -0.48), (1.1, 1.1), 3.3, (24, 24, 4)),
    ):
        home = tmp_path / layout.name
        volume = load(write_series(home / "in", layout))
        pair = np.zeros(volume.shape, bool)
        pair[4:15, 6:20, 1:3] = True
        pair[7:9, 9:12, 1:3] = pair[10, 10, 1:3] = False
        segments = (some_segments(volume.shape)[0], segment(2, "two holes", pair))
        write_results(home / "out.rtstruct.dcm", result_of(volume, segments))
        words = [
            sys.executable,
            "-c",
            RT_UTILS,
            str(home / "in"),
            str(home / "out.rtstruct.dcm"),
            str(home / "out.npz"),
        ]
        read = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        assert read.returncode == 0, read.stderr
        with np.load(home / "out.npz") as data:
            assert data["names"].tolist() == ["liver", "two holes"]
            for number, one in enumerate(segments):  # rt-utils: [row, column, slice], slices along the normal
                np.testing.assert_array_equal(data[f"arr_{number}"].transpose(1, 0, 2), mask_of(one, volume.shape))

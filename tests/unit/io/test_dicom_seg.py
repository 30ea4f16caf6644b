"""runtime.io.dicom_seg: what highdicom reads back lies on the image, voxel by voxel in the patient."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from results import LAYOUTS, PATIENT, UID, Layout, mask_of, placed, result_of, segment, some_segments, write_series

from runtime.errors import LiteInferError, OutputError
from runtime.geometry import Volume
from runtime.io import check_output, load
from runtime.io._codes import coding_of
from runtime.io._saving import write_results

highdicom = pytest.importorskip("highdicom", reason="highdicom writes DICOM segmentations: lite-infer[dicom-out]")

ZOO = (
    ("series/ct_small_17", None),
    ("series/ct_shuffled_instance", None),
    ("series/oblique_oriented_3", None),
    ("series/ct_gantry_tilt", None),
    ("series/mr_fmri_two_timepoints", 1),
    ("series/ct_3slice_with_SEG", None),
    ("single/6_1.dcm", None),
    ("single/IM_0027_fMAP.dcm", 1),
    ("single/eCT_Supplemental.dcm", None),
    ("single/0.dcm", None),
)
IMAGES = ("single/dx_image.dcm", "single/examples_rgb_color.dcm", "single/CT_small.dcm", "single/1.dcm")


def saved(folder: Path, volume: Volume, *, overlapping: bool = True) -> tuple[Path, list[NDArray[np.bool_]]]:
    """A segmentation, and the masks that it was made of."""
    segments = some_segments(volume.shape, overlapping=overlapping)
    path = folder / "out.seg.dcm"
    check_output(path, volume, objects=len(segments))
    assert write_results(path, result_of(volume, segments)) == (path,)
    return path, [mask_of(one, volume.shape) for one in segments]


def points_of(dataset: Any) -> dict[int, NDArray[np.float64]]:
    """Centres of the pixels of every segment in LPS mm, by the frames' own functional groups."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    spacing = [float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    found: dict[int, list[NDArray[np.float64]]] = {}
    frames = np.atleast_3d(dataset.pixel_array) if dataset.NumberOfFrames > 1 else dataset.pixel_array[np.newaxis]
    for frame, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        identified = group if "SegmentIdentificationSequence" in group else shared
        number = identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(frame)
        points = position + np.outer(column, cosines[:3]) * spacing[1] + np.outer(row, cosines[3:]) * spacing[0]
        found.setdefault(int(number), []).append(points)
    return {number: np.concatenate(points) for number, points in found.items()}


def assert_same_in_the_patient(path: Path, volume: Volume, masks: list[NDArray[np.bool_]]) -> None:
    points = points_of(pydicom.dcmread(path))
    for number, mask in enumerate(masks, start=1):
        if number in points:
            np.testing.assert_array_equal(placed(points[number], volume), mask)
        else:
            assert not mask.any()


@pytest.mark.parametrize(
    ("layout", "overlapping"),
    [*((layout, True) for layout in LAYOUTS), (LAYOUTS[0], False), (LAYOUTS[6], False)],
    ids=lambda value: value.name if isinstance(value, Layout) else str(value),
)
def test_highdicom_reads_every_object_where_it_was(tmp_path: Path, layout: Layout, overlapping: bool) -> None:
    volume = load(write_series(tmp_path / "in", layout))
    path, masks = saved(tmp_path, volume, overlapping=overlapping)
    assert_same_in_the_patient(path, volume, masks)
    read = highdicom.seg.segread(path)
    assert read.SegmentsOverlap == ("YES" if overlapping else "NO")
    assert [read.get_segment_description(n).segment_label for n in (1, 2, 3)] == ["liver", "Niere, links", "nothing"]
    for number, mask in enumerate(masks[:2], start=1):  # as highdicom itself understands the geometry
        image = read.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        assert volume.affine is not None
        points_lps = np.argwhere(image.array > 0) @ image.affine[:3, :3].T + image.affine[:3, 3]
        np.testing.assert_array_equal(placed(points_lps, volume), mask)


@pytest.mark.parametrize(("name", "repetition"), ZOO)
def test_real_series_come_back_where_they_were(tmp_path: Path, shared: Path, name: str, repetition: int | None) -> None:
    volume = load(shared / "data" / "dicom_zoo" / name, volume=repetition)
    path, masks = saved(tmp_path, volume)
    assert_same_in_the_patient(path, volume, masks)


@pytest.mark.parametrize("name", IMAGES)
def test_single_images_are_segmented_pixel_by_pixel(tmp_path: Path, shared: Path, name: str) -> None:
    volume = load(shared / "data" / "dicom_zoo" / name)
    path, masks = saved(tmp_path, volume)
    dataset = pydicom.dcmread(path)
    numbers = [
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for group in dataset.PerFrameFunctionalGroupsSequence
    ]
    for number, frame in zip(numbers, dataset.pixel_array, strict=True):
        np.testing.assert_array_equal(frame.T > 0, masks[number - 1][:, :, 0])


@pytest.mark.parametrize(("name", "repetition"), [("single/6_1.dcm", None), ("single/IM_0027_fMAP.dcm", 1)])
def test_frames_refer_to_the_frames_of_a_multi_frame_source_by_their_own_numbers(
    tmp_path: Path, shared: Path, name: str, repetition: int | None
) -> None:
    source = pydicom.dcmread(shared / "data" / "dicom_zoo" / name, stop_before_pixels=True)
    path, _ = saved(tmp_path, load(shared / "data" / "dicom_zoo" / name, volume=repetition))
    for group in pydicom.dcmread(path).PerFrameFunctionalGroupsSequence:
        reference = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        theirs = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        position = theirs.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, position, atol=1e-4)


def test_the_patient_the_study_and_the_source_are_named_and_nothing_else(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "in", LAYOUTS[1], InstitutionName="Hospital", OperatorsName="Op^One")
    path, _ = saved(tmp_path, load(folder))
    dataset = pydicom.dcmread(path)
    assert {keyword: str(dataset[keyword].value) for keyword in PATIENT} == PATIENT
    assert dataset.StudyInstanceUID == f"{UID}.1"
    assert dataset.FrameOfReferenceUID == f"{UID}.4"
    assert dataset.SeriesInstanceUID != f"{UID}.2"
    assert (dataset.Manufacturer, dataset.SegmentSequence[0].SegmentAlgorithmType) == ("lite-infer", "SEMIAUTOMATIC")
    identification = dataset.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (identification.AlgorithmName, identification.AlgorithmVersion) == ("tiny", "1.2")
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == f"{UID}.2"
    referenced = {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence}
    assert referenced <= {f"{UID}.3.{k + 1}" for k in range(6)}
    assert all(word not in str(dataset) for word in ("Op^One", "Hospital", str(tmp_path)))


def test_codes_and_colours_follow_the_name_and_the_label(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, load(write_series(tmp_path / "in")))
    liver, kidney, _ = pydicom.dcmread(path).SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Liver"
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    colour = highdicom.color.CIELabColor.from_dicom_value(tuple(liver.RecommendedDisplayCIELabValue)).to_rgb()
    assert np.abs(np.subtract(colour, (230, 159, 0))).max() <= 1


@pytest.mark.parametrize(
    ("name", "meaning", "side"),
    [
        ("liver", "Liver", None),
        ("Liver", "Liver", None),
        ("left kidney", "Kidney", "Left"),
        ("kidney_right", "Kidney", "Right"),
        ("left", "Tissue", None),
        ("object 1", "Tissue", None),
        ("something_left", "Tissue", None),
    ],
)
def test_a_name_is_coded_where_the_tables_have_it(name: str, meaning: str, side: str | None) -> None:
    coding = coding_of(name)
    assert coding.kind[2] == meaning
    assert (coding.side and coding.side[2]) == side


def test_a_missing_highdicom_is_named_where_it_would_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = load(write_series(tmp_path / "in", LAYOUTS[0]))
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(OutputError, match=r"needs highdicom, .*; install lite-infer\[dicom-out\]"):
        check_output(tmp_path / "out.dcm", volume)
    with pytest.raises(OutputError, match="did not come from DICOM"):
        check_output(tmp_path / "out.dcm", Volume(volume.array))


@pytest.mark.parametrize("ending", ["seg.dcm", "rtstruct.dcm"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientBirthDate": "1950-01-02", "StudyTime": "noon"},
        {"PatientSex": "U", "StudyDate": "2020.13.77"},
        {"PatientID": "x" * 100, "AccessionNumber": "a" * 40, "PatientName": None},
    ],
)
def test_what_is_odd_about_the_source_is_carried_as_it_is(
    tmp_path: Path, attributes: dict[str, Any], ending: str
) -> None:
    with pydicom.config.disable_value_validation():
        volume = load(write_series(tmp_path / "in", **attributes))
    path = tmp_path / f"out.{ending}"
    check_output(path, volume)
    write_results(path, result_of(volume, some_segments(volume.shape)))
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(path)
        found = {keyword: str(dataset.get(keyword)) for keyword in attributes}
    assert found == {keyword: value or "" for keyword, value in attributes.items()}


SMALL = Layout("small", (1, 0, 0), (0, 1, 0), shape=(6, 5, 2))


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_in_the_source_only_our_errors_escape(tmp_path: Path, seed: int) -> None:
    folder = write_series(tmp_path / "in", SMALL)
    rng = np.random.default_rng(seed)
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        for place in rng.integers(340, len(data) - 70, 2):
            data[place] = rng.integers(32, 127) if rng.random() < 0.7 else rng.integers(256)
        file.write_bytes(bytes(data))
    for ending in ("seg.dcm", "rtstruct.dcm"):
        with contextlib.suppress(LiteInferError):
            volume = load(folder)
            write_results(tmp_path / f"out.{ending}", result_of(volume, some_segments(volume.shape)))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_an_image_that_did_not_come_from_dicom_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"this image did not come from DICOM; give the series as the input"):
        check_output(tmp_path / "out.dcm", Volume(np.zeros((3, 4, 5)), affine=np.eye(4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"StudyInstanceUID": None}, "needs StudyInstanceUID, which the source lacks"),
        ({"PixelSpacing": None}, "needs PixelSpacing, which the source lacks"),
    ],
)
def test_a_source_that_lacks_what_is_referred_to_is_refused(
    tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    volume = load(write_series(tmp_path / "in", **attributes))
    with pytest.raises(OutputError, match=message):
        check_output(tmp_path / "out.dcm", volume)


def test_a_source_that_is_gone_is_reported(tmp_path: Path) -> None:
    volume = load(write_series(tmp_path / "in"))
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(OutputError, match="the series that was segmented can no longer be read"):
        check_output(tmp_path / "out.dcm", volume)


def test_a_series_without_a_frame_of_reference_gets_one_for_all_its_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = load(write_series(tmp_path / "in", FrameOfReferenceUID=None, PatientName=None, StudyID=None))
    names = []
    for ending in ("seg.dcm", "rtstruct.dcm"):
        path = tmp_path / f"out.{ending}"
        write_results(path, result_of(volume, some_segments(volume.shape)))
        names.append(pydicom.dcmread(path).FrameOfReferenceUID)
    assert names[0] == names[1]
    assert caplog.text.count("names no frame of reference") == 2, "once for each result"


def test_slices_that_fill_gaps_are_no_part_of_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_series(tmp_path / "in")
    (folder / "IM002").unlink()
    volume = load(folder, force=True)
    assert volume.shape[2] == 6
    masks = [np.zeros(volume.shape, dtype=bool)]
    masks[0][3:7, 2:5, 1:5] = True
    for ending in ("seg.dcm", "rtstruct.dcm"):
        path = tmp_path / f"out.{ending}"
        check_output(path, volume)
        write_results(path, result_of(volume, (segment(1, "liver", masks[0]),)))
    masks[0][:, :, 2] = False
    assert_same_in_the_patient(tmp_path / "out.seg.dcm", volume, masks)
    contours = pydicom.dcmread(tmp_path / "out.rtstruct.dcm").ROIContourSequence[0].ContourSequence
    assert len(contours) == 3
    assert caplog.text.count("1 slices that fill gaps of the series are no part of") == 2


def test_logs_name_neither_the_patient_nor_the_series(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    saved(tmp_path, load(write_series(tmp_path / "in")))
    assert UID not in caplog.text
    assert "ller" not in caplog.text


def test_nothing_found_is_a_segmentation_without_voxels(tmp_path: Path) -> None:
    volume = load(write_series(tmp_path / "in"))
    write_results(tmp_path / "out.dcm", result_of(volume, some_segments(volume.shape)[2:]))
    dataset = pydicom.dcmread(tmp_path / "out.dcm")
    assert not dataset.pixel_array.any()
    assert [item.SegmentLabel for item in dataset.SegmentSequence] == ["nothing"]


@pytest.mark.parametrize("ending", ["seg.dcm", "rtstruct.dcm"])
@pytest.mark.parametrize("layout", [LAYOUTS[0], LAYOUTS[6]], ids=lambda layout: layout.name)
def test_dciodvfy_finds_no_error(tmp_path: Path, layout: Layout, ending: str) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy, the validator of dicom3tools, is not installed")
    volume = load(write_series(tmp_path / "in", layout))
    write_results(tmp_path / f"out.{ending}", result_of(volume, some_segments(volume.shape)))
    done = subprocess.run([program, str(tmp_path / f"out.{ending}")], capture_output=True, text=True, check=False)
    said = (done.stdout + done.stderr).splitlines()
    assert any(line in ("Segmentation", "RTStructureSet") for line in said), said
    assert [line for line in said if line.startswith("Error")] == []


@pytest.mark.slow
def test_dcmqi_reads_every_object_where_it_was(tmp_path: Path) -> None:
    dcmqi = pytest.importorskip("dcmqi", reason="dcmqi (pip install dcmqi) reads segmentations with DCMTK and ITK")
    import nibabel

    program = next(Path(dcmqi.__file__).parent.rglob("segimage2itkimage*"))
    layout = LAYOUTS[6]
    volume = load(write_series(tmp_path / "in", layout))
    path, masks = saved(tmp_path, volume)
    words = ["--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "--prefix", "q", "-t", "nii"]
    subprocess.run([str(program), *words], check=True, capture_output=True)
    for number, mask in enumerate(masks[:2], start=1):
        image = nibabel.load(tmp_path / f"q-{number}.nii.gz")
        points_ras = np.argwhere(np.asarray(image.dataobj) > 0) @ image.affine[:3, :3].T + image.affine[:3, 3]
        np.testing.assert_array_equal(placed(points_ras * (-1, -1, 1), volume), mask)

"""runtime.io._saving: which format a name asks for, what is refused early, and files that appear together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from results import mask_of, result_of, some_segments

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io import FORMATS, WRITABLE, _saving, check_output, output_format
from runtime.io._result import Result, layers_of
from runtime.io._saving import write_results

SHAPE = (9, 7, 5)
VOLUME = Volume(np.zeros(SHAPE, np.int16), affine=np.diag([1.0, 2, 3, 1]))


@pytest.mark.parametrize("ending", WRITABLE)
def test_every_ending_has_a_format_and_a_writer(ending: str) -> None:
    chosen = output_format(f"result{ending}")
    assert chosen in {one.name for one in FORMATS}
    assert all(callable(part) for part in _saving._writer(chosen))


@pytest.mark.parametrize(
    ("name", "chosen", "wanted"),
    [
        ("a.dcm", None, "dicom_seg"),
        ("a.dcm", "dicom_rtstruct", "dicom_rtstruct"),
        ("A.RTSTRUCT.DCM", None, "dicom_rtstruct"),
        ("a.seg.dcm", None, "dicom_seg"),
        ("a.seg.nrrd", None, "seg_nrrd"),
        ("a.b.nii.gz", "nifti", "nifti"),
    ],
)
def test_the_longest_ending_decides_and_a_format_may_be_named(name: str, chosen: str | None, wanted: str) -> None:
    assert output_format(name, chosen) == wanted


@pytest.mark.parametrize(
    ("name", "chosen", "message"),
    [
        ("a.nii", "dicom_seg", r"a\.nii: format dicom_seg wants a name that ends in \.seg\.dcm or \.dcm"),
        ("a.seg.dcm", "dicom_rtstruct", r"format dicom_rtstruct wants a name that ends in \.rtstruct\.dcm or \.dcm"),
        ("a.nii", "mha", r"format 'mha': wanted one of nifti, npz"),
        ("a.nrrd", None, "unknown output format"),
    ],
)
def test_a_format_that_does_not_fit_the_name_is_refused(name: str, chosen: str | None, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        output_format(name, chosen)


@pytest.mark.parametrize("name", ["result.nii.gz", "result.seg.nrrd", "result.stl", "result.json", "result.npz"])
def test_every_object_can_have_a_file_of_its_own_with_its_whole_mask(tmp_path: Path, name: str) -> None:
    segments = some_segments(SHAPE)
    paths = write_results(tmp_path / name, result_of(VOLUME, segments), separate=True)
    ending = name.removeprefix("result")
    assert [path.name for path in paths] == [
        f"result_1_liver{ending}",
        f"result_2_Niere-links{ending}",
        f"result_3_nothing{ending}",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in paths]
    if ending == ".nii.gz":
        for path, one in zip(paths, segments, strict=True):
            np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), mask_of(one, SHAPE))


def test_hostile_names_stay_in_the_folder_and_apart(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    names = {1: "../../etc/x", 2: "", 3: "CON", 4: "a" * 300, 5: "x:y*?"}
    for label in names:
        labels[label] = label
    paths = write_results(tmp_path / "r.nii", Result(labels, VOLUME, names), separate=True)
    assert [path.name for path in paths] == [
        "r_1_etc-x.nii",
        "r_2.nii",
        "r_3_CON.nii",
        f"r_4_{'a' * 40}.nii",
        "r_5_x-y.nii",
    ]
    assert all(path.parent == tmp_path and path.exists() for path in paths)


def test_files_of_one_result_appear_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = _saving._writer("nifti"), []

    def write(stream: Any, path: Path, result: Result) -> None:
        calls.append(sorted(one.name for one in tmp_path.iterdir() if not one.name.startswith(".")))
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real.write(stream, path, result)

    monkeypatch.setattr(_saving, "_writer", lambda _: real._replace(write=write))
    with pytest.raises(OutputError, match=r"r_3_nothing\.nii: no space left while writing"):
        write_results(tmp_path / "r.nii", result_of(VOLUME, some_segments(SHAPE)), separate=True)
    assert calls == [[], [], []], "nothing has its name before all is complete"
    assert list(tmp_path.iterdir()) == []


def test_more_objects_than_files_can_be_open_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="101 objects; at most 100 are written to files of their own"):
        check_output(tmp_path / "r.nii", VOLUME, objects=101, separate=True)


def test_no_memory_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        raise MemoryError

    writer = _saving._writer("nifti")._replace(write=starved)
    monkeypatch.setattr(_saving, "_writer", lambda _: writer)
    with pytest.raises(OutputError, match="not enough memory to write it"):
        write_results(tmp_path / "r.nii", result_of(VOLUME, some_segments(SHAPE)))
    assert list(tmp_path.iterdir()) == []


def test_a_png_of_a_volume_is_refused_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a PNG holds one slice, the result has 5"):
        check_output(tmp_path / "r.png", VOLUME)


def test_checking_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "r.nii").write_bytes(b"old")
    check_output(tmp_path / "r.nii", VOLUME)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("r.nii", b"old")]


def test_objects_that_overlap_go_to_different_layers_and_others_share_one() -> None:
    one, other, empty = some_segments(SHAPE)
    assert layers_of([one, other, empty]) == [0, 1, 0]
    assert layers_of([one, one, one]) == [0, 1, 2]
    assert layers_of(some_segments(SHAPE, overlapping=False)) == [0, 0, 0]
    assert layers_of([]) == []


def test_a_label_map_alone_says_what_the_objects_are() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:4, 1, 3:] = 7
    labels[5, 5, 0] = 2
    first, second = Result(labels, VOLUME, {7: "seven"}).segments
    assert (first.label, first.name, first.corner, first.crop.shape) == (2, "object 2", (5, 5, 0), (1, 1, 1))
    assert (second.label, second.name, second.corner) == (7, "seven", (2, 1, 3))
    np.testing.assert_array_equal(mask_of(second, SHAPE), labels == 7)

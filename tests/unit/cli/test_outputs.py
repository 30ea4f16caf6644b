"""``lite-infer ... -o FILE``: every format, several at once, and what stays when one of them fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command_line import Runner, left_behind
from results import Layout, write_series
from tiny_bundle import BOX, inside

import runtime

SOLID = ",".join(map(str, BOX))
WINDOW = ("--window", "127.5,255")
SERIES = Layout("axial", (1, 0, 0), (0, 1, 0), shape=(48, 40, 6))
SERIES_BOX = ("--box", "liver=10,8,1,30,28,4")


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(runtime, "Session", never)


def test_one_run_writes_every_format_that_is_asked_for(run: Runner, volume_file: Path) -> None:
    names = ["out.nii.gz", "out.seg.nrrd", "out.obj", "out.glb", "out.stl", "out.json", "out.csv", "out.npz"]
    words = [word for name in names for word in ("-o", name)]
    done = run(volume_file, "--box", f"ball={SOLID}", *WINDOW, *words, "--json")
    assert (done.code, done.err) == (0, "")
    assert left_behind(volume_file.parent, volume_file) == sorted(names)
    assert (done.json["output"], done.json["outputs"]) == (names[0], names)
    np.testing.assert_array_equal(np.asarray(nibabel.load("out.nii.gz").dataobj), inside())
    assert json.loads(Path("out.json").read_text())["ball"]["n_voxels"] == inside().sum()


def test_a_series_becomes_a_segmentation_and_a_structure_set(run: Runner, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    folder = write_series(tmp_path / "series", SERIES)
    done = run(folder, *SERIES_BOX, "-o", "a.dcm", "-o", "b.rtstruct.dcm")
    assert (done.code, done.err) == (0, "")
    assert [line.split()[-1] for line in done.out.splitlines()[-2:]] == ["a.dcm", "b.rtstruct.dcm"]
    assert [pydicom.dcmread(name).Modality for name in ("a.dcm", "b.rtstruct.dcm")] == ["SEG", "RTSTRUCT"]
    assert run(folder, *SERIES_BOX, "-o", "c.dcm", "--format", "dicom_rtstruct").code == 0
    assert pydicom.dcmread("c.dcm").Modality == "RTSTRUCT"
    assert left_behind(tmp_path, folder) == ["a.dcm", "b.rtstruct.dcm", "c.dcm"]


def test_a_series_in_an_archive_has_dicom_results_as_well(run: Runner, tmp_path: Path) -> None:
    import shutil

    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    folder = write_series(tmp_path / "series", SERIES)
    shutil.make_archive(str(tmp_path / "case"), "zip", folder)
    found = []
    for source in (folder, tmp_path / "case.zip"):
        assert run(source, *SERIES_BOX, "-o", "a.dcm").code == 0
        found.append(pydicom.dcmread("a.dcm"))
    np.testing.assert_array_equal(found[0].pixel_array, found[1].pixel_array)
    assert found[0].PatientName == found[1].PatientName


def test_every_object_gets_a_file_of_its_own(run: Runner, volume_file: Path) -> None:
    boxes = ("--box", f"left={SOLID}", "--box", "10,20,2,30,45,6")
    done = run(volume_file, *boxes, *WINDOW, "--separate", "-o", "r.stl", "-o", "r.nii", "--json")
    assert (done.code, done.err) == (0, "")
    wanted = ["r_1_left.stl", "r_2_object-2.stl", "r_1_left.nii", "r_2_object-2.nii"]
    assert done.json["outputs"] == wanted
    assert left_behind(volume_file.parent, volume_file) == sorted(wanted)
    np.testing.assert_array_equal(np.asarray(nibabel.load("r_1_left.nii").dataobj), inside())


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("-s",), "scan_seg_statistics.json"),
        (("--statistics", "numbers.csv"), "numbers.csv"),
        (("-o", "out.seg.nrrd", "-s"), "out_statistics.json"),
    ],
)
def test_statistics_are_written_where_they_are_wanted(
    run: Runner, volume_file: Path, words: tuple[str, ...], wanted: str
) -> None:
    done = run(volume_file, "--box", SOLID, "--json", *words)
    assert done.code == 0
    assert Path(done.json["statistics"]).name == wanted
    assert len(left_behind(volume_file.parent, volume_file)) == 2


@pytest.mark.usefixtures("never_opened")
@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-o", "out.dcm"), "refers to the DICOM series that was segmented, and this image did not come from DICOM"),
        (("-o", "out.rtstruct.dcm"), "out.rtstruct.dcm: a structure set refers to the DICOM series"),
        (("-o", "a.nii", "-o", "b.dcm"), "b.dcm: a DICOM segmentation refers to"),
        (("-o", "out.nii", "--format", "dicom_seg"), "format dicom_seg wants a name that ends in .seg.dcm or .dcm"),
        (("-o", "out.stl", "--box", "1,1,1,5,5,5"), "an STL holds one surface, there are 2 objects; add --separate"),
        (("-s", "numbers.txt"), "numbers.txt: statistics are JSON or CSV"),
        (("-s", "numbers.nii"), "numbers.nii: statistics are JSON or CSV"),
        (("-o", "a.json", "-s", "a.json"), "a.json: two results have the same name"),
    ],
)
def test_a_result_that_cannot_be_written_is_found_before_anything_is_computed(
    run: Runner, volume_file: Path, words: tuple[str, ...], text: str
) -> None:
    done = run(volume_file, "--box", SOLID, *words)
    assert done.code == 6
    assert text in done.err
    assert left_behind(volume_file.parent, volume_file) == []


def test_a_bad_name_is_found_before_the_image_is_read(run: Runner) -> None:
    done = run("absent.nii", "--box", SOLID, "-o", "out.xyz")
    assert done.code == 6
    assert "unknown output format" in done.err


@pytest.mark.usefixtures("never_opened")
@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def refused(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_CREAT and "archive" in os.fspath(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *rest, **more)

    (volume_file.parent / "archive").mkdir()
    monkeypatch.setattr(os, "open", refused)  # root may write everywhere
    for words in (("-o", "archive/out.nii"), ("-p", "archive/look.png"), ("-s", "archive/n.csv")):
        done = run(volume_file, "--box", SOLID, *words)
        assert done.code == 6
        assert "writing is not permitted there; choose another folder" in done.err
    assert left_behind(volume_file.parent, volume_file) == ["archive"]


def test_what_fails_does_not_take_the_rest_with_it(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of work are not lost because one file of several cannot be written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("runtime.io.seg_nrrd._geometry", full)
    done = run(volume_file, "--box", SOLID, "-o", "a.seg.nrrd", "-o", "b.nii", "-s", "c.json")
    assert done.code == 6
    assert (
        "a.seg.nrrd: no space left while writing; free some or choose another folder; written: b.nii, c.json"
        in done.err
    )
    assert left_behind(volume_file.parent, volume_file) == ["b.nii", "c.json"]


def test_a_preview_that_fails_leaves_the_label_map(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise runtime.errors.OutputError("look.png: no space left while writing")

    monkeypatch.setattr("runtime.io.raster.write_overlay", full)
    done = run(volume_file, "--box", SOLID, "-o", "out.nii", "-p", "look.png")
    assert done.code == 6
    assert "look.png: no space left while writing; written: out.nii" in done.err
    assert left_behind(volume_file.parent, volume_file) == ["out.nii"]


def test_the_help_names_every_ending(run: Runner, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    shown = "".join(capsys.readouterr().out.split())
    assert all(ending in shown for ending in runtime.io.WRITABLE)

"""lite-infer info: what a file or folder holds, without a name, a date or, unless asked for, a UID."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset

from runtime.cli import main

SECRETS = ("Doe", "19990101", "Head routine", "HOSPITAL")


def _slice(folder: Path, number: int, height: float, uid: str = "1.2.3.4", modality: str = "CT") -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    data.SeriesInstanceUID, data.Modality, data.InstanceNumber = uid, modality, number
    data.PatientName, data.StudyDate, data.SeriesDescription = "Doe^Jane", "19990101", "Head routine"
    data.InstitutionName = "HOSPITAL"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 5, 7, 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing, data.ImagePositionPatient = [0.5, 0.5], [0, 0, height]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelData = (number + np.arange(35, dtype=np.int16) * 8).tobytes()
    folder.mkdir(exist_ok=True)
    data.save_as(folder / f"{number}.dcm", enforce_file_format=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, height in enumerate((0, 2, 4, 8)):
        _slice(tmp_path / "in", number, height)
    _slice(tmp_path / "in", 9, 0, uid="9.8.7", modality="MR")
    return tmp_path / "in"


def test_series_are_listed_with_what_is_wrong_and_nothing_private(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "series 1  CT, 4 images of 7x5, 5 slices"
    assert out.splitlines()[1] == "  spacing  0.5 x 0.5 x 2 mm, axes LPS"
    assert "  found    the distance between its 4 slices is 2.000 mm, but 4.000 mm" in out
    assert "series 2  MR, 1 images of 7x5, 1 slices" in out
    assert not any(secret in out + err for secret in (*SECRETS, "1.2.3.4", "9.8.7", str(folder)))


def test_uids_are_printed_when_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder), "--uids"]) == 0
    assert "uid      9.8.7" in capsys.readouterr().out
    assert main(["info", str(folder), "--uids", "--json"]) == 0
    assert [one["uid"] for one in json.loads(capsys.readouterr().out)["series"]] == ["1.2.3.4", "9.8.7"]


def test_the_json_says_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(folder), "--json"]) == 0
    text = capsys.readouterr().out
    data = json.loads(text)
    first = data["series"][0]
    assert (data["info_version"], data["format"], len(data["series"])) == (1, "dicom", 2)
    assert "uid" not in first
    assert (first["number"], first["modality"], first["images"], first["slices"]) == (1, "CT", 4, 5)
    assert (first["size"], first["spacing_mm"], first["orientation"]) == ([7, 5], [0.5, 0.5, 2.0], "LPS")
    assert len(first["findings"]) == 1
    assert first["refused"] is None
    assert not any(secret in text for secret in SECRETS)


def test_other_images_are_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    array = np.arange(7 * 5 * 3 * 2, dtype=np.int16).reshape(7, 5, 3, 2)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, 2.0, 3.0, 1.0])), tmp_path / "Doe.nii.gz")
    assert main(["info", str(tmp_path / "Doe.nii.gz")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "format    nifti",
        "image     7x5x3 voxels, int16",
        "spacing   1 x 2 x 3 mm",
        "axes      LAS",
        "values    0 to 208",
        "volumes   2; choose one with --volume 0 .. 1",
    ]
    assert main(["info", str(tmp_path / "Doe.nii.gz"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["shape"], data["volumes"], data["dtype"], data["orientation"]) == ([7, 5, 3], 2, "int16", "LAS")
    assert (data["range"], data["colour"], data["boxes"]) == ([0, 208], False, 0)
    assert data["findings"] == []


def test_what_had_to_be_guessed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nibabel.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), None)
    nibabel.save(image, tmp_path / "x.nii")
    guess = "the header has no orientation (both codes are 0); left and right are a guess"
    assert main(["info", str(tmp_path / "x.nii")]) == 0
    assert f"found     {guess}" in capsys.readouterr().out
    command = [
        str(tmp_path / "x.nii"),
        "--box",
        "0,0,2,2",
        "-o",
        str(tmp_path / "seg.nii"),
        "--json",
        "--window",
        "1,9",
    ]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [guess]


def test_what_is_no_image_is_error_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.txt").write_text("hello")
    assert main(["info", str(tmp_path / "x.txt")]) == 3
    assert main(["info", str(tmp_path / "absent")]) == 3
    assert main(["info"]) == 2
    assert "is not an image that can be read" in capsys.readouterr().err


def test_a_forced_series_is_segmented_and_the_summary_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    command = [str(folder), "--series", "1", "--box", "1,1,4,3@1", "-o", str(tmp_path / "seg.nii.gz"), "--json"]
    assert main(command) == 3
    assert "load it all the same with force=True (--force)" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["shape"] == [7, 5, 5]
    assert len(data["warnings"]) == 1
    assert "copies of their neighbours fill the places of missing slices (1)" in data["warnings"][0]
    assert data["warnings"][0] in caplog.text

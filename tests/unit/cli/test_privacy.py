"""What names a patient stays where it is: in the DICOM files, and in the DICOM objects made from them.

Every text and UID of a series carries a mark, and so do its folder and the names of its files. The marks are looked for
in all that a run prints and logs, in the cache, and in every file that it writes. The input's own path is printed where
it must be: after ``error:``, and where a result lies.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from command_line import Finished, Runner
from engines import skip_without, start_python
from results import Layout, write_series
from scenes import RAS_AFFINE
from tiny_bundle import scene_volume

SERIES = Layout("axial", (1, 0, 0), (0, 1, 0), shape=(48, 40, 6))
BOX = ("--box", "liver=10,8,1,30,28,4")
ROOT = "1.2.826.0.1.77123"
TEXT = {
    "PatientName": "Kowalska^Maria",
    "PatientID": "KOW-77123",
    "PatientBirthDate": "19620413",
    "PatientComments": "Kowalska comes with her Kowalski",
    "OtherPatientIDs": "KOW-77123-B",
    "StudyDescription": "Kowalska staging",
    "SeriesDescription": "Kowalska abdomen",
    "ProtocolName": "Kowalska protocol",
    "AccessionNumber": "ACC77123",
    "StudyID": "ST77123",
    "InstitutionName": "Kowalska hospital",
    "ReferringPhysicianName": "Kowalska^Referring",
    "OperatorsName": "Kowalska^Operator",
    "ImageComments": "Kowalska image",
    "StudyInstanceUID": f"{ROOT}.1",
    "SeriesInstanceUID": f"{ROOT}.2",
    "FrameOfReferenceUID": f"{ROOT}.4",
    "DeviceSerialNumber": "SN77123",
    "StationName": "KOW77123",
}
pytestmark = pytest.mark.filterwarnings("ignore:Unknown encoding", "ignore:Invalid value")  # of the tests' own writing
PRIVATE = ("kowalsk", "77123", "19620413", "kow-")
"""In lower case: what may stand in a DICOM object alone."""
PLACE = ("nowak", "zielinska")
"""In the folder's and in the files' names."""
OUTPUTS = ["r.nii.gz", "r.seg.nrrd", "r.npz", "r.json", "r.csv", "r.obj"]


def marked_series(folder: Path, **attributes: Any) -> Path:
    """Write a series in which everything is marked, with private elements and values that pydicom warns of."""
    write_series(folder, SERIES, **TEXT, **attributes)
    for number, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{ROOT}.3.{number}"
        block = data.private_block(0x0011, "KOWALSKA 77123", create=True)
        block.add_new(1, "LO", "Kowalska private")
        with pydicom.config.disable_value_validation():
            data.PatientAge = "Kowalska is 61"
            data.StudyDate = "Kowalska 13"
            data.add_new("IrradiationEventUID", "UI", "77123.kowalska")
            data.add_new("ContentTime", "TM", "kowalska")
            data.SpecificCharacterSet = "ISO_IR 77123"
            data.save_as(folder / f"zielinska_{number}.dcm")
        path.unlink()
    return folder


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return marked_series(tmp_path / "nowak" / "series")


@pytest.fixture
def logged(series: Path, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged once the series is written, down to the level that only developers read."""
    caplog.set_level(logging.DEBUG)
    for name in ("pydicom", "PIL", "lite_infer", "runtime", "highdicom", "nibabel"):
        caplog.set_level(logging.DEBUG, logger=name)
    caplog.clear()
    return caplog


def found_in(text: str, marks: tuple[str, ...]) -> list[str]:
    return [mark for mark in marks if mark in text.lower()]


def check_printed(done: Finished, logged: str = "") -> None:
    """No mark in what was printed and logged, but for the path after ``error:`` and in the names of results."""
    assert not found_in(done.out + done.err + logged, PRIVATE)
    assert not found_in(logged, PLACE)
    for line in done.err.splitlines():
        assert line.startswith("lite-infer: error: ") or not found_in(line, PLACE)


def contents(path: Path) -> bytes:
    """All bytes of a file, packed and unpacked."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return data + gzip.decompress(data)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return data + b"".join(archive.read(name) for name in archive.namelist())
    if data.startswith(b"NRRD"):
        head, _, packed = data.partition(b"\n\n")
        return head + zlib.decompressobj(wbits=47).decompress(packed)
    return data


def check_files(folder: Path, *known: Path) -> list[str]:
    """No mark in names and contents of files, but for DICOM objects' contents; the names."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and not any(path.is_relative_to(one) for one in known)
    ]
    for path in paths:
        assert not found_in(str(path.relative_to(folder)), (*PRIVATE, *PLACE))
        if path.suffix != ".dcm":
            assert not found_in(contents(path).decode("latin-1"), (*PRIVATE, *PLACE)), path.name
    return sorted(path.name for path in paths)


# Runs that succeed


def test_a_run_with_every_output_names_nobody_outside_dicom(
    run: Runner, series: Path, tmp_path: Path, cache_folder: Path, logged: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("highdicom")
    pytest.importorskip("skimage")
    dicom = ["r.seg.dcm", "r.rtstruct.dcm"]
    words = [word for name in (*OUTPUTS, *dicom) for word in ("-o", name)]
    done = run(series, *BOX, *words, "--preview", "p.png", "--verbose", "--json")
    assert done.code == 0, done.err
    check_printed(done, logged.text)
    assert not found_in(done.out, PLACE)
    assert check_files(tmp_path, series.parent) == sorted([*OUTPUTS, *dicom, "p.png"])
    assert check_files(cache_folder)
    for name in dicom:
        assert str(pydicom.dcmread(tmp_path / name).PatientName) == TEXT["PatientName"], (
            "DICOM results name the patient"
        )


def test_the_name_of_the_result_beside_the_input_is_all_that_shows_its_place(
    run: Runner, series: Path, logged: pytest.LogCaptureFixture
) -> None:
    done = run(series, *BOX)
    assert done.code == 0
    check_printed(done, logged.text)
    assert [line for line in done.out.splitlines() if found_in(line, PLACE)] == [f"written   {series}_seg.nii.gz"]
    done = run(series, *BOX, "--json")
    told = done.json
    for key in ("output", "outputs"):
        told.pop(key)
    assert not found_in(json.dumps(told), PLACE)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_process_of_its_own_prints_nothing_private_either(
    engine: str, series: Path, models: Path, tmp_path: Path, cache_folder: Path
) -> None:
    """Also what compiled libraries write past Python, and what engines keep."""
    skip_without(engine)
    code = "import sys; from runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [series, *BOX, "--bundle", models / "tiny", "--backend", engine, "--verbose", "-o", tmp_path / "r.nii.gz"]
    words += ["--precision", "fp32"]
    process = start_python(code, *words, environment={"PYTHONWARNINGS": "default", "ORT_LOGGING_LEVEL": "0"})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "slices" in out
    check_printed(Finished(0, out, err))
    assert not found_in(out + err, PLACE)
    assert check_files(tmp_path, series.parent) == ["r.nii.gz"]
    assert check_files(cache_folder)


def test_info_and_doctor_name_nobody(run: Runner, series: Path, logged: pytest.LogCaptureFixture) -> None:
    from runtime.cli import main

    for words in (["info", str(series)], ["info", str(series), "--json"], ["doctor"], ["cache", "info"]):
        assert main(words) == 0
    assert not found_in(logged.text, (*PRIVATE, *PLACE))


# Warnings and errors


def _gap(folder: Path) -> None:
    (folder / "zielinska_2.dcm").unlink()


def _twice(folder: Path) -> None:
    shutil.copy(folder / "zielinska_2.dcm", folder / "zielinska_2b.dcm")


def _two_series(folder: Path) -> None:
    for path in list(folder.iterdir()):
        data = pydicom.dcmread(path)
        data.SeriesInstanceUID, data.SOPInstanceUID = f"{ROOT}.9", f"{data.SOPInstanceUID}.9"
        data.save_as(folder / f"zielinska_9{path.name[-5:]}")


def _cut(folder: Path) -> None:
    path = folder / "zielinska_3.dcm"
    path.write_bytes(path.read_bytes()[:-900])


def _no_decoder(folder: Path) -> None:
    _changed(folder, lambda data: setattr(data.file_meta, "TransferSyntaxUID", f"{ROOT}.8"))


def _no_pixels(folder: Path) -> None:
    _changed(folder, lambda data: data.__delitem__("PixelData"))


def _bad_numbers(folder: Path) -> None:
    with pydicom.config.disable_value_validation():
        _changed(folder, lambda data: data.add_new("PixelSpacing", "LO", ["kowalska", "77123"]))


def _no_images(folder: Path) -> None:
    _changed(folder, lambda data: (data.__delitem__("Rows"), setattr(data, "Modality", "RTSTRUCT")))


def _changed(folder: Path, change: Any) -> None:
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        change(data)
        with pydicom.config.disable_value_validation():
            data.save_as(path)


HARM = [_gap, _twice, _two_series, _cut, _no_decoder, _no_pixels, _bad_numbers, _no_images]


@pytest.mark.parametrize("harm", HARM, ids=[harm.__name__.strip("_") for harm in HARM])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_a_damaged_series_is_refused_or_forced_without_a_name(
    run: Runner, series: Path, tmp_path: Path, logged: pytest.LogCaptureFixture, harm: Any, packed: bool
) -> None:
    harm(series)
    logged.clear()
    place = Path(shutil.make_archive(str(series), "zip", series)) if packed else series
    codes = set()
    for words in ((), ("--force",), ("--force", "--verbose", "--json")):
        done = run(place, *BOX, "-o", tmp_path / "r.nii.gz", *words)
        check_printed(done, logged.text)
        codes.add(done.code)
    assert 3 in codes or logged.text, "neither refused nor warned of"
    assert check_files(tmp_path, series.parent) in ([], ["r.nii.gz"])


def test_a_file_inside_an_archive_is_not_named_even_in_an_error(run: Runner, series: Path) -> None:
    _cut(series)
    done = run(shutil.make_archive(str(series), "zip", series), *BOX)
    assert done.code == 3
    assert "zielinska" not in done.err.lower()


# Other formats that have room for names


def test_texts_of_a_nifti_header_are_not_copied(run: Runner, tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    image = nibabel.Nifti1Image(scene_volume(dtype=np.int16).array, RAS_AFFINE)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        image.header[field] = b"Kowalska 77123"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Kowalska^Maria"))
    place = tmp_path / "nowak"
    place.mkdir(exist_ok=True)
    nibabel.save(image, place / "scan.nii.gz")
    done = run(
        place / "scan.nii.gz", "--box", "8,18,1,32,50,7", "-o", "r.nii.gz", "-o", "r.seg.nrrd", "-o", "r.json", "-v"
    )
    assert done.code == 0
    check_printed(done, logged.text)
    assert check_files(tmp_path, place) == ["r.json", "r.nii.gz", "r.seg.nrrd"]


def test_key_values_of_a_nrrd_file_are_not_copied(
    run: Runner, tmp_path: Path, logged: pytest.LogCaptureFixture
) -> None:
    header = (
        "NRRD0005\ntype: short\ndimension: 3\nspace: RAS\nsizes: 48 64 9\nspace directions: (1,0,0) (0,2,0) (0,0,3)\n"
        "space origin: (1,2,3)\nendian: little\nencoding: raw\ncontent: Kowalska\nDICOM_0010_0010:=Kowalska^Maria\n\n"
    )
    data = scene_volume(dtype=np.int16).array.astype("<i2").tobytes(order="F")
    (tmp_path / "nowak").mkdir(exist_ok=True)
    (tmp_path / "nowak" / "scan.nrrd").write_bytes(header.encode() + data)
    done = run(tmp_path / "nowak" / "scan.nrrd", "--box", "8,18,1,32,50,7", "-o", "r.nii.gz", "-o", "r.seg.nrrd")
    assert done.code == 0
    check_printed(done, logged.text)
    assert check_files(tmp_path, tmp_path / "nowak") == ["r.nii.gz", "r.seg.nrrd"]

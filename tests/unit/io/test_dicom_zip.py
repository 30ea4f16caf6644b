"""Zip archives with DICOM: read in memory like a folder; nothing is written, and nothing beyond the limits is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError, OutputError
from runtime.io import load, save
from runtime.io._dicom_files import ZipMember
from runtime.io._dicom_header import read_dataset
from runtime.io.dicom import list_series

WriteSlice = Callable[..., Path]


@pytest.fixture
def series(write_slice: WriteSlice, tmp_path: Path) -> Path:
    for k in range(4):
        pixels = np.full((5, 7), 10 * k, dtype=np.int16)
        write_slice(pixels, f"{3 - k}.dcm", ImagePositionPatient=[0, 0, 2 * k], InstanceNumber=k)
    return tmp_path / "series"


def _zipped(folder: Path, target: Path, prefix: str = "DOE^JANE/study/") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("empty") if hasattr(archive, "mkdir") else None
        archive.writestr("readme.txt", "hello")
        for path in sorted(folder.iterdir()):
            archive.write(path, prefix + path.name)
    return target


def test_an_archive_is_read_like_the_folder(series: Path, tmp_path: Path) -> None:
    plain, packed = load(series), load(_zipped(series, tmp_path / "study.zip"))
    np.testing.assert_array_equal(packed.array, plain.array)
    np.testing.assert_array_equal(packed.affine, plain.affine)
    assert (packed.modality, packed.spacing) == (plain.modality, plain.spacing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series", "study.zip"], "nothing was unpacked"


def test_the_source_can_be_read_again_and_is_protected(series: Path, tmp_path: Path) -> None:
    place = _zipped(series, tmp_path / "study.zip")
    volume = load(place)
    assert volume.source.paths == (place.resolve(),)
    for k, (file, frame) in enumerate(volume.source.frames):
        header = read_dataset(volume.source.files[file], pixels=False)
        assert (int(header.InstanceNumber), frame) == (k, 0)
    named = tmp_path / "study.nii"
    place.rename(named)
    with pytest.raises(OutputError, match="is the input itself"):
        save(named, np.ones(volume.shape, np.uint8), load(named))


def test_series_are_chosen_by_number_and_by_uid(series: Path, write_slice: WriteSlice, tmp_path: Path) -> None:
    write_slice(np.zeros((5, 7), np.int16), "other.dcm", SeriesInstanceUID="9.8.7", SeriesNumber=7)
    place = _zipped(series, tmp_path / "study.zip")
    with pytest.raises(ImageError, match=r"holds 2 series; choose one with series=1 \.\. 2 \(--series N\)"):
        load(place)
    assert load(place, series="1").shape == (7, 5, 4)
    assert load(place, series="9.8.7").is_2d
    assert [one.images for one in list_series(place)] == [4, 1]


def test_errors_name_the_archive_and_not_the_patient_inside(series: Path, tmp_path: Path) -> None:
    first = sorted(series.iterdir())[0]
    first.write_bytes(first.read_bytes()[:-20])
    with pytest.raises(ImageError, match=r"study\.zip \(file \d\): .*complete pixel data") as caught:
        load(_zipped(series, tmp_path / "study.zip"))
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "C:evil.dcm", "..\\evil.dcm"])
def test_members_that_lead_elsewhere_are_refused_and_nothing_is_written(
    series: Path, tmp_path: Path, name: str
) -> None:
    place = tmp_path / "inner" / "study.zip"
    place.parent.mkdir()
    with zipfile.ZipFile(place, "w") as archive:
        archive.write(next(series.iterdir()), "x.dcm")
        info = zipfile.ZipInfo(name)
        info.filename = name  # ZipInfo makes backslashes harmless on Windows
        archive.writestr(info, b"evil")
    with pytest.raises(ImageError, match="has a name that leads elsewhere"):
        load(place)
    assert [path.name for path in tmp_path.rglob("*evil*")] == []


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: Any) -> None:
    place = tmp_path / "bomb.zip"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.dcm", bytes(100 << 20))
    with pytest.raises(ImageError, match="unpacks to 104857600 bytes, more than 200 times its size"):
        load(place)


def test_an_archive_without_images_says_what_it_holds(write_slice: WriteSlice, tmp_path: Path, series: Path) -> None:
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ImageError, match=r"text\.zip: holds no DICOM images; give"):
        load(tmp_path / "text.zip")
    write_slice(np.zeros((5, 7), np.int16), "a.dcm", folder="objects", Modality="RTSTRUCT")
    write_slice(np.zeros((5, 7), np.int16), "b.dcm", folder="objects", Modality="SEG")
    for place in (tmp_path / "objects", _zipped(tmp_path / "objects", tmp_path / "objects.zip")):
        with pytest.raises(ImageError, match=r"but only a segmentation \(1\), a structure set \(1\); give"):
            load(place)


def test_a_damaged_archive_is_an_image_error(series: Path, tmp_path: Path) -> None:
    place = _zipped(series, tmp_path / "study.zip")
    raw = bytearray(place.read_bytes())
    for cut in (raw[:-30], raw[: len(raw) // 2], bytes(raw[:200]) + b"\xff" * 50 + bytes(raw[250:])):
        place.write_bytes(cut)
        with pytest.raises(ImageError, match=r"study\.zip"):
            load(place)


def test_members_are_read_alone_when_no_archive_is_open(series: Path, tmp_path: Path) -> None:
    place = _zipped(series, tmp_path / "study.zip")
    names = zipfile.ZipFile(place).namelist()
    member = ZipMember(place, names[-1], len(names))
    array: NDArray[Any] = read_dataset(member, pixels=True).pixel_array
    assert array.shape == (5, 7)
    assert str(member) == f"{place} (file {len(names)})"

"""runtime.io.dicom on slices made here: geometry against the standard's own formula, values, and refusals."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ImageError, OutputError
from runtime.io import load, save
from runtime.io._quiet import quiet
from runtime.io.dicom import list_series

WriteSlice = Callable[..., Path]
ROWS, COLUMNS, SLICES = 5, 7, 4
OBLIQUE = [0.9541666, -0.2080757, 0.2151061, 0.2785886, 0.880128, -0.3843997]


def _pixels(k: int) -> NDArray[np.int16]:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) + 100 * k).astype(np.int16)


def _position(k: int, orientation: list[float], step: float = 2.5) -> list[float]:
    normal = np.cross(orientation[:3], orientation[3:])
    return [round(float(value), 6) for value in np.array([-120.5, 33.0, 7.25]) + k * step * normal]


@pytest.fixture
def write_series(write_slice: WriteSlice, tmp_path: Path) -> Callable[..., Path]:
    """A series in which neither names nor InstanceNumber tell the order; attributes may depend on k."""

    def write(orientation: list[float] | None = None, **attributes: Any) -> Path:
        axes = orientation or [1, 0, 0, 0, 1, 0]
        for k, name in enumerate(("c", "a", "d", "b")):
            here = {keyword: value(k) if callable(value) else value for keyword, value in attributes.items()}
            here = {"ImagePositionPatient": _position(k, axes), "InstanceNumber": (3, 1, 4, 2)[k], **here}
            write_slice(_pixels(k), name, ImageOrientationPatient=axes, **here)
        return tmp_path / "series"

    return write


@pytest.mark.parametrize(
    "orientation",
    [
        [1, 0, 0, 0, 1, 0],
        [-1, 0, 0, 0, -1, 0],
        [0, 1, 0, 0, 0, -1],
        [1, 0, 0, 0, 0, -1],
        [0, 0, 1, 1, 0, 0],
        [-1, 0, 0, 0, 1, 0],
        OBLIQUE,
    ],
)
def test_every_voxel_lies_where_the_standard_puts_it(
    write_series: Callable[..., Path], orientation: list[float]
) -> None:
    volume = load(write_series(orientation))
    assert volume.shape == (COLUMNS, ROWS, SLICES)
    for k in range(SLICES):
        np.testing.assert_array_equal(volume.array[:, :, k].T, _pixels(k))
        for column, row in ((0, 0), (6, 0), (0, 4), (5, 3)):
            # PS3.3 C.7.6.2.1.1: P = S + X * spacing[1] * column + Y * spacing[0] * row, in LPS.
            place = np.array(_position(k, orientation))
            place = place + np.array(orientation[:3]) * 0.6 * column + np.array(orientation[3:]) * 0.9 * row
            expected = place * (-1, -1, 1)
            np.testing.assert_allclose((volume.affine @ (column, row, k, 1))[:3], expected, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, (0.6, 0.9, 2.5), rtol=1e-5)
    assert (volume.modality, volume.is_2d) == ("CT", False)


def test_stored_values_become_hounsfield_units_in_int16(write_series: Callable[..., Path]) -> None:
    volume = load(write_series(RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, 300], WindowWidth=[400, 1500]))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array[:, :, 2].T, _pixels(2) - 1024)
    assert volume.window == (40.0, 400.0)


def test_rescaling_is_applied_slice_by_slice(write_series: Callable[..., Path]) -> None:
    volume = load(write_series(RescaleSlope=lambda k: 1 + 0.5 * k, RescaleIntercept=lambda k: -k))
    assert volume.array.dtype == np.float32
    for k in range(SLICES):
        np.testing.assert_allclose(volume.array[:, :, k].T, _pixels(k) * (1 + 0.5 * k) - k)


def test_values_that_outgrow_int16_on_a_late_slice_are_not_cut(write_series: Callable[..., Path]) -> None:
    volume = load(write_series(RescaleSlope=lambda k: 200 if k == 3 else 1, RescaleIntercept=-10))
    assert volume.array.dtype == np.int32
    np.testing.assert_array_equal(volume.array[:, :, 0].T, _pixels(0) - 10)
    np.testing.assert_array_equal(volume.array[:, :, 3].T, _pixels(3).astype(int) * 200 - 10)


@pytest.mark.parametrize(("slope", "intercept"), [("0", "0"), ("1e99", "0"), ("1", "-1e99")])
def test_a_rescaling_that_makes_no_values_is_refused(
    write_series: Callable[..., Path], slope: str, intercept: str
) -> None:
    with pytest.raises(ImageError, match=r"RescaleSlope .* make no values; repair the header"):
        load(write_series(RescaleSlope=slope, RescaleIntercept=intercept))


@pytest.mark.parametrize(("dtype", "total"), [(np.uint8, 255), (np.uint16, 65535), (np.int16, -1)])
def test_monochrome1_is_turned_over_together_with_its_window(write_slice: WriteSlice, dtype: type, total: int) -> None:
    pixels = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(dtype)
    path = write_slice(pixels, "x.dcm", PhotometricInterpretation="MONOCHROME1", WindowCenter=30, WindowWidth=60)
    volume = load(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array[:, :, 0].T, total - pixels.astype(int))
    assert volume.window == (total - 30.0, 60.0)


def test_monochrome1_is_turned_over_after_rescaling(write_slice: WriteSlice) -> None:
    pixels = np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(np.uint8)
    attributes = {"RescaleSlope": 2, "RescaleIntercept": -10, "WindowCenter": 30, "WindowWidth": 60}
    volume = load(write_slice(pixels, "x.dcm", PhotometricInterpretation="MONOCHROME1", **attributes))
    np.testing.assert_array_equal(volume.array[:, :, 0].T, -10 + (2 * 255 - 10) - (2 * pixels.astype(int) - 10))
    assert volume.window == (-10 + (2 * 255 - 10) - 30, 60.0)


def test_one_file_is_a_2d_image_with_its_place_in_the_world(write_slice: WriteSlice) -> None:
    volume = load(write_slice(_pixels(1), "x.dcm", ImagePositionPatient=[1, 2, 3]))
    assert volume.is_2d
    assert volume.shape == (COLUMNS, ROWS, 1)
    np.testing.assert_allclose(volume.affine, [[-0.6, 0, 0, -1], [0, -0.9, 0, -2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def test_a_picture_without_position_has_no_affine(write_slice: WriteSlice) -> None:
    volume = load(write_slice(_pixels(0), "x.dcm", ImagePositionPatient=None, ImageOrientationPatient=None))
    assert volume.affine is None
    assert volume.spacing == (0.6, 0.9, 2.5)


def test_imager_spacing_serves_where_there_is_no_pixel_spacing(
    write_slice: WriteSlice, caplog: pytest.LogCaptureFixture
) -> None:
    assert load(write_slice(_pixels(0), "x", PixelSpacing=None, ImagerPixelSpacing=[0.3, 0.2])).spacing[:2] == (
        0.2,
        0.3,
    )
    assert not caplog.records
    assert load(write_slice(_pixels(0), "y", PixelSpacing=None)).spacing[:2] == (1.0, 1.0)
    assert "the pixel spacing is not stated; 1 mm is assumed" in caplog.text


def test_colours_are_kept_as_8_bit_rgb(write_slice: WriteSlice) -> None:
    pixels = np.arange(ROWS * COLUMNS * 3).reshape(ROWS, COLUMNS, 3)
    np.testing.assert_array_equal(load(write_slice(pixels.astype(np.uint8), "x")).array[6, 1, 0], pixels[1, 6])
    wide = load(write_slice((pixels * 256 + 77).astype(np.uint16), "y")).array
    assert wide.dtype == np.uint8
    np.testing.assert_array_equal(wide[6, 1, 0], pixels[1, 6])


def test_a_gantry_tilt_is_kept_as_a_sheared_affine(
    write_series: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    volume = load(write_series(ImagePositionPatient=lambda k: [0, 1.0 * k, 3.0 * k]))
    np.testing.assert_allclose(volume.affine[:3, 2], (0, -1, 3))
    assert "sheared by 18.4 degrees" in caplog.text


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"ImagePositionPatient": lambda k: [0, 0, (0, 2, 4, 8)[k]]}, "4.000 mm between slices 2 and 3"),
        ({"ImagePositionPatient": lambda k: [0, 0, (0, 2, 2, 4)[k]]}, "4 slices lie at 3 positions"),
        ({"ImagePositionPatient": lambda k: [9 * (k == 1), 0, 2 * k]}, "do not lie on a line"),
        ({"ImagePositionPatient": lambda k: None if k == 1 else [0, 0, 2 * k]}, "1 of 4 slices have no position"),
        ({"ImagePositionPatient": None}, "none of its 4 slices has a position"),
        ({"ImageOrientationPatient": lambda k: OBLIQUE if k == 2 else [1, 0, 0, 0, 1, 0]}, "point in 2 directions"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, "not a pair of perpendicular unit vectors"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 2, 0]}, "not a pair of perpendicular unit vectors"),
        ({"PixelSpacing": lambda k: [0.9, 0.6 + 0.1 * (k == 0)]}, "different pixel spacings"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "is a Siemens mosaic"),
    ],
)
def test_stacks_that_are_not_one_are_refused_with_what_was_found(
    write_slice: WriteSlice, tmp_path: Path, attributes: dict[str, Any], message: str
) -> None:
    for k in range(SLICES):
        here = {keyword: value(k) if callable(value) else value for keyword, value in attributes.items()}
        write_slice(_pixels(k), f"{k}", **{"ImagePositionPatient": [0, 0, 2 * k], **here})
    with pytest.raises(ImageError, match=f"series: .*{message}"):
        load(tmp_path / "series")


def test_slices_of_different_sizes_are_refused(write_slice: WriteSlice, tmp_path: Path) -> None:
    for k in range(3):
        write_slice(_pixels(k)[: 5 - (k == 2)], f"{k}", ImagePositionPatient=[0, 0, k])
    with pytest.raises(ImageError, match=r"different sizes: 7x5 \(2\), 7x4 \(1\)"):
        load(tmp_path / "series")


def test_small_errors_of_position_are_accepted(write_series: Callable[..., Path]) -> None:
    volume = load(write_series(ImagePositionPatient=lambda k: [0, 0, (0, 2.51, 4.99, 7.5)[k]]))
    assert volume.spacing[2] == pytest.approx(2.5)


def test_repeated_positions_ask_which_repetition_is_meant(write_slice: WriteSlice, tmp_path: Path) -> None:
    for number in range(6):
        place = [0, 0, 3.0 * (number % 3)]
        write_slice(_pixels(number), f"{5 - number}", ImagePositionPatient=place, InstanceNumber=number)
    with pytest.raises(ImageError, match=r"2 images at each of 3 positions .*volume=0 \.\. 1"):
        load(tmp_path / "series")
    np.testing.assert_array_equal(load(tmp_path / "series", volume=1).array[:, :, 2].T, _pixels(5))
    with pytest.raises(ImageError, match="there is no volume 2"):
        load(tmp_path / "series", volume=2)


def test_two_series_are_listed_and_never_mixed(write_series: Callable[..., Path], write_slice: WriteSlice) -> None:
    folder = write_series()
    for k in range(2):
        write_slice(_pixels(7), f"other{k}", SeriesInstanceUID="9.8.7", SeriesNumber=5, ImagePositionPatient=[0, 0, k])
    with pytest.raises(ImageError, match=r"holds 2 series; .*1 = CT, 4 of 7x5; 2 = CT, 2 of 7x5$"):
        load(folder)
    assert load(folder, series="9.8.7").shape[2] == 2
    assert load(folder, series="1").shape[2] == 4
    with pytest.raises(ImageError, match=r"has no series 3; choose one"):
        load(folder, series="3")
    assert [(one.number, one.uid, one.images, one.size) for one in list_series(folder)] == [
        (1, "1.2.3.4", 4, (7, 5)),
        (2, "9.8.7", 2, (7, 5)),
    ]


def test_what_is_no_image_in_the_folder_is_passed_over(
    write_series: Callable[..., Path], write_slice: WriteSlice
) -> None:
    folder = write_series()
    write_slice(_pixels(0), "seg", SeriesInstanceUID="9.8.7", Modality="SEG")
    (folder / "notes.txt").write_text("hello")
    (folder / ".DS_Store").touch()
    (folder / "deeper").mkdir()
    assert load(folder).shape == (COLUMNS, ROWS, SLICES)


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT", "RTDOSE", "SR"])
def test_objects_that_are_no_image_are_named(write_slice: WriteSlice, modality: str) -> None:
    with pytest.raises(ImageError, match=rf"\({modality}\), not an image"):
        load(write_slice(_pixels(0), "x.dcm", Modality=modality))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"NumberOfFrames": 10**6}, "claims 1000000 frames, the limit is 50000"),
        ({"Rows": 65535, "Columns": 65535}, "more than the limits"),
        ({"Rows": 50}, "is not a DICOM file with complete pixel data"),
        ({"Rows": None}, "holds no DICOM image"),
        ({"PixelData": None}, "has no pixel data"),
        ({"SamplesPerPixel": 4}, "has 4 samples per pixel"),
    ],
)
def test_headers_that_lie_are_image_errors(write_slice: WriteSlice, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load(write_slice(_pixels(0), "x.dcm", **attributes))


def test_a_deflated_file_that_swells_beyond_the_limit_is_refused(
    write_slice: WriteSlice, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom

    path = write_slice(np.zeros((512, 512), np.int16), "x.dcm")
    data = pydicom.dcmread(path)
    data.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    data.save_as(path)
    assert load(path).shape == (512, 512, 1)
    monkeypatch.setattr("runtime.io._dicom_header.MAX_BYTES", 1 << 18)
    with pytest.raises(ImageError, match="inflates to more than"):
        load(path)


def test_a_missing_decoder_is_named(write_slice: WriteSlice, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom
    from pydicom.encaps import encapsulate

    path = write_slice(_pixels(0), "x.dcm")
    for syntax, need in (
        (pydicom.uid.JPEGLosslessSV1, r"needs imagecodecs; install lite-infer\[dicom\]"),
        (pydicom.uid.JPEGExtended12Bit, r"12-bit JPEG needs imagecodecs; install lite-infer\[dicom\]"),
        (pydicom.uid.JPEGLSLossless, "install pyjpegls"),
    ):
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
        data.save_as(path.with_name("y.dcm"))
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "imagecodecs", None)
            patch.setattr("pydicom.pixels.decoders.base.Decoder.is_available", False)
            with pytest.raises(ImageError, match=need):
                load(path.with_name("y.dcm"))


def test_neither_logs_nor_warnings_nor_errors_name_the_patient(
    write_slice: WriteSlice, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    caplog.set_level("DEBUG")
    path = write_slice(_pixels(0), "x.dcm")
    raw = path.read_bytes()
    for old in (b"1.2.3.4\0", b"0.9\\0.6 ", b"0.0\\0.0\\0.0 "):  # a UID, and what should be numbers
        assert raw.count(old) == 1
        path.write_bytes(raw.replace(old, (b"Doe^Jane" + bytes(9))[: len(old)]))
        message = ""
        try:
            load(path)
        except ImageError as error:
            message = str(error)
        assert "Doe" not in caplog.text + message
    assert not any("Doe" in str(warning.message) for warning in recwarn)


def test_silence_ends_with_the_last_thread_that_asked_for_it() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with quiet():
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with quiet():
        thread.start()
        inside.wait(5)
    assert list(warnings.filters) != before
    leave.set()
    thread.join()
    assert list(warnings.filters) == before


def test_a_file_of_the_series_is_not_overwritten(write_series: Callable[..., Path]) -> None:
    folder = write_series()
    (folder / "a").rename(folder / "a.nii")
    volume = load(folder)
    with pytest.raises(OutputError, match="is the input itself"):
        save(folder / "a.nii", np.zeros(volume.shape, int), volume)
    assert [volume.source.paths[file].name for file, _ in volume.source.frames] == ["c", "a.nii", "d", "b"]


def test_labels_of_a_series_are_written_in_its_place(write_series: Callable[..., Path], tmp_path: Path) -> None:
    import nibabel

    volume = load(write_series(OBLIQUE))
    labels = (volume.array == 211).astype(int)
    save(tmp_path / "seg.nii.gz", labels, volume)
    written = nibabel.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(written.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(written.get_qform(), volume.affine, atol=1e-3)
    assert (written.header["qform_code"], written.header["sform_code"]) == (1, 1)
    np.testing.assert_array_equal(written.get_fdata(), labels)

"""Mutated files: whatever they hold, only `LiteInferError` escapes, soon and without large allocations."""

from __future__ import annotations

import io
import tempfile
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from fuzz_length import FUZZ_TIMES
from fuzz_seeds import NAMES, dicom_slice, encoded_slice, seed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from runtime.errors import ImageError, LiteInferError
from runtime.io import load

MAX_SECONDS = 10.0
MAX_PEAK_BYTES = 64 << 20
"""Seeds are a few kB; whatever a mutated header claims, this is far more than they need."""

BYTE = st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255))
EDIT = st.tuples(st.sampled_from(["set", "cut", "insert", "double"]), st.integers(0, 2**20), BYTE, st.integers(1, 9))


def _mutated(original: bytes, edits: list[tuple[str, int, int, int]]) -> bytes:
    raw = bytearray(original)
    for kind, place, byte, length in edits:
        start = place % max(1, len(raw))
        if kind == "set":
            raw[start : start + length] = bytes([byte]) * min(length, len(raw) - start)
        elif kind == "cut":
            del raw[start : start + length * (1 + byte)]
        elif kind == "insert":
            raw[start:start] = bytes([byte]) * length
        else:
            raw[start:start] = raw[start : start + length]
    return bytes(raw)


def _survives(name: str, raw: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        message = ""
        tracemalloc.start()
        begin = time.process_time()  # of a busy machine, the other processes are no fault
        try:
            message = "" if load(path).array.size else "empty\n"
        except LiteInferError as error:
            message = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert "\n" not in message
    assert time.process_time() - begin < MAX_SECONDS
    assert peak < MAX_PEAK_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_images(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(seed(name))
    assert load(tmp_path / name).shape[:2] in ((12, 10), (10, 12))


@pytest.mark.parametrize(
    ("name", "edits"),
    [
        pytest.param("x.dcm", [("insert", 191, 0, 2)], id="an element that claims 1.2 GB"),
        pytest.param("enhanced.dcm", [("cut", 0, 0, 1)], id="a preamble of 127 bytes"),
        pytest.param("rle.dcm", [("set", 704, 107, 1)], id="RLE that makes a Rust decoder panic"),
        pytest.param("x.png", [("set", 8, 0, 1), ("set", 564408, 127, 1)], id="a PNG chunk that claims 2 GB"),
        pytest.param("x.bmp", [("insert", 198, 127, 9), ("insert", 36, 148, 1)], id="a BMP of very many pixels"),
    ],
)
def test_what_fuzzing_found_stays_mended(name: str, edits: list[tuple[str, int, int, int]]) -> None:
    _survives(name, _mutated(seed(name), edits))


def _huge(name: str) -> bytes:
    stream = io.BytesIO()
    values = np.full((3, 12, 10), 1e300)
    if name == "3D.npz":
        np.savez(stream, imgs=values)
        return stream.getvalue()
    data = dcmread(io.BytesIO(dicom_slice(BitsAllocated=64)))
    del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
    data.DoubleFloatPixelData = values[0].tobytes()
    data.save_as(stream)
    return stream.getvalue()


@pytest.mark.parametrize("name", ["3D.npz", "x.dcm"])
def test_values_beyond_float32_are_infinite_without_a_warning(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(_huge(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load(tmp_path / name).array
    assert found.dtype == np.float32
    assert np.isposinf(found).all()


def test_a_signalling_nan_in_an_affine_is_refused_without_a_warning(tmp_path: Path) -> None:
    raw = bytearray(seed("x.nii"))
    raw[280:284] = b"\1\0\xa0\x7f"
    (tmp_path / "x.nii").write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="sform and qform are singular or not finite"):
            load(tmp_path / "x.nii")


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "codes", "sizes", "number"),
    [("x.nii", slice(252, 256), 76, b"\1\0\xa0\x7f"), ("two.nii", slice(344, 352), 104, b"\1\0\0\0\0\0\xf4\x7f")],
    ids=["NIfTI-1", "NIfTI-2"],
)
def test_a_signalling_nan_among_voxel_sizes_is_refused_without_a_warning(
    name: str, codes: slice, sizes: int, number: bytes, axis: int, tmp_path: Path
) -> None:
    raw = bytearray(seed(name))
    raw[codes] = bytes(codes.stop - codes.start)  # neither sform nor qform: voxel sizes alone say where voxels lie
    place = sizes + axis * len(number)
    raw[place : place + len(number)] = number
    (tmp_path / name).write_bytes(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"voxel sizes \[.*nan.*\] are not positive numbers"):
            load(tmp_path / name)


def test_an_array_that_python_2_wrote_is_read_without_a_warning(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((3, 12, 10), np.uint8))
    header = array.getvalue().replace(b"(3, 12, 10)", b"(3L, 12, 10)").replace(b" \n", b"\n", 1)
    with zipfile.ZipFile(tmp_path / "3D.npz", "w") as archive:
        archive.writestr("imgs.npy", header)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(tmp_path / "3D.npz").shape == (10, 12, 3)


J2K, J2K_LOSSY, JPEG_LS, JPEG, JPEG_LOSSLESS, JPEG_12 = (
    f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 80, 50, 70, 51)
)


def _refused(raw: bytes, text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dcm"
        path.write_bytes(raw)
        with pytest.raises(ImageError, match=text) as caught:
            load(path)
    assert str(caught.value).count("x.dcm") == 1


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_box_without_size_in_jpeg_2000_is_no_endless_loop(length: int) -> None:
    signature = b"\0\0\0\x0cjP  \r\n\x87\n"
    frame = signature + length.to_bytes(4, "big") + b"ftyp" + bytes(24)
    _refused(encoded_slice(frame, J2K), "does not say how large it is")


def _jpeg(marker: int, rows: int, columns: int, components: int = 1, bits: int = 8) -> bytes:
    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    table = b"\xff\xe0\0\x10JFIF\0\1\2\0\0\1\0\1\0\0\xff"  # a segment and a fill byte come first
    return b"\xff\xd8" + table + bytes([0xFF, marker, 0, 11, bits]) + size + bytes([components, 1, 0x11, 0]) + bytes(40)


def _j2k(rows: int, columns: int, components: int = 1) -> bytes:
    words = (columns, rows, 0, 0, columns, rows, 0, 0)
    numbers = b"".join(word.to_bytes(4, "big") for word in words) + components.to_bytes(2, "big")
    return b"\xff\x4f\xff\x51\0\x29\0\0" + numbers + b"\7\1\1" + bytes(40)


BOMBS = [
    *((_j2k(60_000, 60_000), syntax) for syntax in (J2K, J2K_LOSSY)),
    (_j2k(12, 10, 16_384), J2K),
    (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftyp" + bytes(12) + b"\0\0\0\0jp2c" + _j2k(60_000, 60_000), J2K),
    (_jpeg(0xF7, 60_000, 60_000), JPEG_LS),
    (_jpeg(0xC0, 60_000, 60_000), JPEG),
    (_jpeg(0xC3, 60_000, 60_000), JPEG_LOSSLESS),
    (_jpeg(0xC3, 12, 0), JPEG_LOSSLESS),
    (_jpeg(0xC1, 60_000, 60_000, bits=12), JPEG_12),
]


@pytest.mark.parametrize(("frame", "syntax"), BOMBS, ids=range(len(BOMBS)))
def test_an_encoded_frame_that_claims_more_than_its_header_is_refused_before_it_is_decoded(
    frame: bytes, syntax: str
) -> None:
    pytest.importorskip("imagecodecs")
    raw = encoded_slice(frame, syntax)
    _refused(raw, r"an encoded frame claims \d+ x \d+ pixels of \d+ components, the header 10 x 12")
    _survives("x.dcm", raw)


def test_an_element_of_unknown_kind_is_damage() -> None:
    raw = dicom_slice()
    place = raw.index(b"\x28\0\x01\x01US")  # BitsStored
    _refused(raw[: place + 4] + b"UW" + raw[place + 6 :], "is not a DICOM file with complete pixel data")


def test_pixels_that_are_no_jpeg_in_a_jpeg_file_are_damage() -> None:
    pytest.importorskip("imagecodecs")
    data = encoded_slice(bytes(8), JPEG_LOSSLESS).replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x08\0OF")
    _refused(data, "is not a DICOM file")


def test_more_bits_than_numbers_have_are_damage() -> None:
    pytest.importorskip("imagecodecs")
    raw = encoded_slice(_jpeg(0xC3, 12, 10), JPEG_LOSSLESS, BitsStored=65535, PhotometricInterpretation="MONOCHROME1")
    _refused(raw, "claims 65535 bits a pixel")


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(EDIT, min_size=1, max_size=6))
def test_mutated_files_raise_nothing_but_our_own_errors(name: str, edits: list[tuple[str, int, int, int]]) -> None:
    _survives(name, _mutated(seed(name), edits))


@settings(max_examples=60 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.sampled_from(["1", "2", "-7", ""])), min_size=1, max_size=6),
    st.sampled_from([None, 0, 1]),
)
def test_any_positions_of_slices_are_survived_even_when_forced(
    places: list[tuple[float, str]], volume: int | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for number, (height, instance) in enumerate(places):
            position = [0, 0, f"{height:.6g}"] if instance else None
            slice_ = dicom_slice(ImagePositionPatient=position, InstanceNumber=instance or 1)
            (Path(folder) / f"{number}").write_bytes(slice_)
        try:
            found = load(folder, force=True, volume=volume)
        except LiteInferError:
            return
        assert found.shape[2] <= 10 * len(places)
        assert len(found.source.frames) == found.shape[2]


@settings(max_examples=100 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.integers(-32768, 32767), min_size=8, max_size=8),
    st.sampled_from([2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536, 1792, 2304]),
    st.lists(st.floats(width=32), min_size=30, max_size=30),
    st.lists(st.integers(-1, 5), min_size=3, max_size=3),
)
def test_any_field_values_in_a_nifti_header_are_survived(
    dim: list[int], datatype: int, floats: list[float], codes: list[int]
) -> None:
    header = nibabel.Nifti1Header(seed("x.nii")[:348], check=False)
    header["dim"] = [dim[0] % 9, *dim[1:]] if dim[0] % 2 else [3, 12, 10, 3, 1, 1, 1, 1]
    header["datatype"] = datatype
    header["pixdim"], header["scl_slope"], header["scl_inter"] = floats[:8], floats[8], floats[9]
    header["srow_x"], header["srow_y"], header["srow_z"] = floats[10:14], floats[14:18], floats[18:22]
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = floats[22:25]
    header["qform_code"], header["sform_code"], header["xyzt_units"] = codes[0], codes[1], codes[2] % 256
    header["vox_offset"] = 352 if codes[0] else floats[25]
    _survives("x.nii", header.binaryblock + seed("x.nii")[348:] + bytes(4096))


HEADER_WORD = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "none", "(1,0,0)", "(nan,0,0)", "(1e300,0,0)", "()", "x" * 300, "LOCAL", "LIST", "%d", '"', "\0"]
    ),
)
NRRD_FIELDS = (
    "type", "dimension", "space", "space dimension", "sizes", "space directions", "space origin", "endian", "encoding",
    "kinds", "spacings", "space units", "byte skip", "line skip", "data file",
)  # fmt: skip
META_FIELDS = (
    "ObjectType", "NDims", "DimSize", "ElementType", "ElementSpacing", "TransformMatrix", "Offset", "HeaderSize",
    "ElementNumberOfChannels", "CompressedData", "BinaryData", "ElementByteOrderMSB",
)  # fmt: skip


@settings(max_examples=150 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(NRRD_FIELDS), st.lists(HEADER_WORD, max_size=5).map(" ".join), st.booleans())
def test_any_field_in_a_nrrd_header_is_survived(field: str, value: str, replaced: bool) -> None:
    head, _, data = seed("x.nrrd").partition(b"\n\n")
    lines = [line for line in head.split(b"\n") if not (replaced and line.startswith(field.encode() + b":"))]
    _survives("x.nrrd", b"\n".join([*lines, f"{field}: {value}".encode()]) + b"\n\n" + data)


@settings(max_examples=150 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(META_FIELDS), st.lists(HEADER_WORD, max_size=5).map(" ".join))
def test_any_field_in_a_metaimage_header_is_survived(field: str, value: str) -> None:
    head, last, data = seed("x.mha").partition(b"ElementDataFile = LOCAL\n")
    _survives("x.mha", head + f"{field} = {value}\n".encode() + last + data)


DECIMAL = st.one_of(st.floats(-1e6, 1e6).map(lambda value: f"{value:.6g}"), st.sampled_from(["0", "-1", "1e308", ""]))


@settings(max_examples=60 * FUZZ_TIMES, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([0, 1, 12, 65535]),
    st.sampled_from([0, 1, 10, 65535]),
    st.sampled_from([1, 8, 12, 16, 24, 32, 64]),
    st.sampled_from(["MONOCHROME1", "MONOCHROME2", "RGB", "PALETTE COLOR", "YBR_FULL", "WHITE"]),
    st.lists(DECIMAL, min_size=12, max_size=12),
    st.sampled_from([0, 1, 3, 40_000, 2**31 - 1]),
)
def test_any_attribute_values_in_a_dicom_file_are_survived(
    rows: int, columns: int, bits: int, colours: str, decimals: list[str], frames: int
) -> None:
    _survives(
        "x.dcm",
        dicom_slice(
            Rows=rows,
            Columns=columns,
            BitsAllocated=bits,
            BitsStored=bits,
            PhotometricInterpretation=colours,
            PixelSpacing=decimals[:2],
            ImagePositionPatient=decimals[2:5],
            ImageOrientationPatient=decimals[5:11],
            RescaleSlope=decimals[11],
            NumberOfFrames=frames,
        ),
    )

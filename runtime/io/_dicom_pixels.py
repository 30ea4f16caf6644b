"""From encoded pixel data to one array of modality values or colours.

Knows pydicom's decoders and what they need; knows nothing of space.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.io._codestream import check_frame
from runtime.io._dicom_files import DicomFile, archive_of
from runtime.io._dicom_header import Frame, read_dataset
from runtime.io._quiet import quiet
from runtime.io._reading import foreign, named
from runtime.io._voxels import single

__all__ = ["IMAGECODECS_SYNTAXES", "JPEG_LOSSY12", "PACKAGES", "read_pixels"]

JPEG_LOSSY12 = "1.2.840.10008.1.2.4.51"
IMAGECODECS_SYNTAXES = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_DICOM_ROOT = "1.2.840.10008."
_MOST_BITS = 64
_RLE = "1.2.840.10008.1.2.5"
PACKAGES = {
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
}
_WANTED = "a DICOM file with complete pixel data"


def read_pixels(files: Sequence[DicomFile], frames: Sequence[Frame]) -> tuple[NDArray[Any], tuple[float, float] | None]:
    """Decode the frames of a volume.

    Grey values are rescaled frame by frame and MONOCHROME1 is turned over, so that larger is brighter. Whole
    numbers stay integers of the smallest dtype out of the stored one, int16 and int32 that holds them all;
    fractions become float32. Colours (RGB, YBR, palettes) become 8-bit RGB.

    Parameters
    ----------
    files : sequence of Path or ZipMember
        The files of the series, all in one folder or archive.
    frames : sequence of Frame
        One for each slice, in order.

    Returns
    -------
    array : ndarray, shape (columns, rows, K) or (columns, rows, K, 3)
        Modality values or colours.
    window : tuple of 2 float, or None
        (level, width) of the middle slice, in the values of ``array``.

    Raises
    ------
    ImageError
        If pixel data are missing, damaged or encoded in a way for which no decoder is installed.
    """
    rows, columns, _ = frames[0].size
    values = _Values((len(frames), rows, columns))
    window = None
    by_file: dict[int, dict[int, list[int]]] = {}  # file -> frame -> slices: more than one where it fills a gap
    for k, frame in enumerate(frames):
        by_file.setdefault(frame.file, {}).setdefault(frame.index, []).append(k)
    with archive_of(files[0]) as archive:
        for file, by_index in by_file.items():
            with quiet():
                dataset = read_dataset(files[file], pixels=True, archive=archive)
                for k, found in _read_file(files[file], dataset, frames, by_index, values):
                    window = found if k == len(frames) // 2 else window
    return values.array.swapaxes(0, 2), window  # (k, row, column[, c]) -> (i, j, k[, c])


def _read_file(
    path: DicomFile, dataset: Any, frames: Sequence[Frame], by_index: dict[int, list[int]], values: _Values
) -> list[tuple[int, tuple[float, float] | None]]:
    """Decode some frames of one file into their slices; slice and window, in rescaled values, of each."""
    windows: list[tuple[int, tuple[float, float] | None]] = []
    indices = sorted(by_index)
    stored = _Stored.of(path, dataset)
    for index, pixels in zip(indices, _decoded(path, dataset, stored, indices), strict=True):
        frame = frames[by_index[index][0]]
        if pixels.shape[:2] != frame.size[:2]:
            msg = f"{path}: decodes to {pixels.shape} pixels, wanted {frame.size[:2]}; the file is damaged"
            raise ImageError(msg)
        slope, intercept, turned = _rescale(path, stored, frame)
        window = frame.window if pixels.ndim == 2 else None
        if window is not None and turned is not None:
            window = (turned - window[0], window[1])
        for k in by_index[index]:
            values.put(k, pixels, slope, intercept)
            windows.append((k, window))
    return windows


@dataclass(frozen=True, slots=True)
class _Stored:
    """What the header says of the stored pixels, read at once: pydicom parses an element when it is asked for."""

    syntax: str
    bits: int
    frames: int
    signed: bool
    colours: bool
    photometric: str
    looked_up: bool

    @classmethod
    def of(cls, path: DicomFile, dataset: Any) -> _Stored:
        """Read a header; `ImageError` if an element of it is damaged."""
        syntax = _transfer_syntax(path, dataset)
        with foreign(path, _WANTED):
            bits = int(dataset.get("BitsStored") or dataset.get("BitsAllocated") or 8)
            if not 1 <= bits <= _MOST_BITS:
                msg = f"{path}: claims {bits} bits a pixel, wanted 1 to {_MOST_BITS}; the file is damaged"
                raise ImageError(msg)
            return cls(
                syntax=syntax,
                bits=bits,
                frames=int(dataset.get("NumberOfFrames") or 1),
                signed=dataset.get("PixelRepresentation") == 1,
                colours=dataset.get("SamplesPerPixel") == 3,
                photometric=str(dataset.get("PhotometricInterpretation")),
                looked_up="ModalityLUTSequence" in dataset,
            )


class _Values:
    """Slices as they come, in a dtype that grows when a slice does not fit."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._low: float = math.inf
        self._high: float = -math.inf
        self._whole = True
        self.array: NDArray[Any] = np.empty((0,))

    def put(self, k: int, pixels: NDArray[Any], slope: float, intercept: float) -> None:
        """Store ``slope * pixels + intercept`` as slice ``k``."""
        if pixels.ndim == 3:
            if not self.array.size:
                self.array = np.empty((*self._shape, 3), dtype=np.uint8)
            self.array[k] = pixels
            return
        self._whole = self._whole and pixels.dtype.kind in "iu" and slope == int(slope) and intercept == int(intercept)
        ends = [float(end) * slope + intercept for end in (pixels.min(), pixels.max())]
        self._low, self._high = min(self._low, *ends), max(self._high, *ends)
        dtype = self._dtype(pixels.dtype)
        if not self.array.size:
            self.array = np.empty(self._shape, dtype=dtype)
        elif self.array.dtype != dtype:
            self._grow(dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            if (slope, intercept) == (1.0, 0.0):
                self.array[k] = pixels
            elif self._whole and dtype.kind != "f":
                wide = np.int32 if max(map(abs, ends)) + abs(intercept) < 2**31 else np.int64
                scaled = pixels if slope == 1 else pixels.astype(wide) * wide(slope)
                np.add(scaled, wide(intercept), out=self.array[k], dtype=wide, casting="unsafe")
            else:
                self.array[k] = pixels.astype(np.float64) * slope + intercept

    def _grow(self, dtype: np.dtype[Any]) -> None:
        """Change the dtype; slice by slice within the same memory where the new one is no wider."""
        old = self.array
        if dtype.itemsize != old.dtype.itemsize:
            self.array = old.astype(dtype)
            return
        self.array = old.view(dtype)
        for k in range(len(old)):
            self.array[k] = old[k].astype(dtype)

    def _dtype(self, stored: np.dtype[Any]) -> np.dtype[Any]:
        if self._whole:
            for candidate in (stored, np.dtype(np.int16), np.dtype(np.int32)):
                limits = np.iinfo(candidate)
                if limits.min <= self._low and self._high <= limits.max and candidate.itemsize <= 4:
                    return candidate
        return np.dtype(np.float32)


def _rescale(path: DicomFile, stored: _Stored, frame: Frame) -> tuple[float, float, float | None]:
    """(slope, intercept, sum of the ends of the value range where bright means low, else None)."""
    slope, intercept = frame.slope, frame.intercept
    if stored.looked_up:
        slope, intercept = 1.0, 0.0
    if slope == 0 or not math.isfinite(slope + intercept):
        msg = f"{path}: RescaleSlope {slope:g} and RescaleIntercept {intercept:g} make no values; repair the header"
        raise ImageError(msg)
    if stored.photometric != "MONOCHROME1":
        return slope, intercept, None
    ends = -1 if stored.signed else 2**stored.bits - 1
    return -slope, slope * ends + intercept, slope * ends + 2 * intercept


def _decoded(path: DicomFile, dataset: Any, stored: _Stored, indices: list[int]) -> Iterator[NDArray[Any]]:
    """Stored values (rows, columns), or 8-bit RGB (rows, columns, 3), of some frames in ascending order."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        msg = f"{path}: has no pixel data; check that the file is complete"
        raise ImageError(msg)
    if stored.syntax in IMAGECODECS_SYNTAXES or (stored.syntax == JPEG_LOSSY12 and stored.bits > 8):
        source = _jpeg_frames(path, dataset, stored, indices)
    else:
        source = _pydicom_frames(path, dataset, stored, indices)
    for pixels in source:
        with foreign(path, _WANTED):
            values = _interpreted(dataset, pixels)
        yield values


def _transfer_syntax(path: DicomFile, dataset: Any) -> str:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with foreign(path, _WANTED):
        syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
        if not syntax:  # a bare data set: pydicom has found out how it is encoded
            syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = syntax
        return str(syntax)


def _pydicom_frames(path: DicomFile, dataset: Any, stored: _Stored, indices: list[int]) -> Iterator[NDArray[Any]]:
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import iter_pixels

    syntax = stored.syntax
    said = f" (it says {syntax})" if syntax.startswith(_DICOM_ROOT) else ""  # others may be anybody's
    with foreign(path, f"a DICOM file of a known transfer syntax{said}"):
        available = get_decoder(syntax).is_available
    if not available:
        need = PACKAGES.get(syntax, "another program that converts it")
        msg = f"{path}: its transfer syntax {syntax} needs a decoder that is not installed; install {need}"
        raise ImageError(msg)
    with foreign(path, _WANTED), named(path):
        _check_frames(dataset, syntax, max(indices))
    # pylibjpeg-rle is faster, but panics on damaged data with what is not even an Exception.
    plugin = "pydicom" if syntax == _RLE else ""
    frames = iter_pixels(dataset, indices=None if stored.frames == 1 else indices, decoding_plugin=plugin)
    for _ in indices:
        with foreign(path, _WANTED):
            pixels = next(frames)
        yield pixels


def _check_frames(dataset: Any, syntax: str, last: int) -> None:
    """Refuse encoded frames that claim more than the header, before pydicom lets a decoder reserve it."""
    from pydicom.encaps import generate_frames
    from pydicom.pixels.utils import as_pixel_options
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return
    options = as_pixel_options(dataset)
    offsets = options.get("extended_offsets")
    if offsets and len(offsets[0]) != len(offsets[1]):  # which pydicom ignores then
        offsets = None
    frames = generate_frames(dataset.PixelData, number_of_frames=options["number_of_frames"], extended_offsets=offsets)
    for frame in islice(frames, last + 1):
        check_frame(frame, dataset.Rows, dataset.Columns)


def _jpeg_frames(path: DicomFile, dataset: Any, stored: _Stored, indices: list[int]) -> Iterator[NDArray[Any]]:
    """Lossless and 12-bit JPEG, which need imagecodecs (libjpeg-turbo); pydicom has no permissive plugin."""
    try:
        jpeg_decode: Any = importlib.import_module("imagecodecs").jpeg_decode
    except ImportError as error:
        msg = f"{path}: lossless or 12-bit JPEG needs imagecodecs; install lite-infer[dicom]"
        raise ImageError(msg) from error
    from pydicom.encaps import generate_frames

    space = "YCBCR" if stored.photometric.startswith("YBR") else "RGB"
    colours = {"colorspace": space, "outcolorspace": "RGB"} if stored.colours else {}
    with foreign(path, _WANTED):
        encoded = enumerate(generate_frames(dataset.PixelData, number_of_frames=stored.frames))
    for wanted in indices:
        with foreign(path, _WANTED), named(path):
            data = next(frame for index, frame in encoded if index == wanted)
            check_frame(data, dataset.Rows, dataset.Columns)
            pixels: NDArray[Any] = jpeg_decode(data, **colours)
            if stored.signed and not colours:
                unused = 8 * pixels.dtype.itemsize - stored.bits
                signed = np.left_shift(pixels, unused).view(pixels.dtype.str.replace("u", "i"))
                pixels = np.right_shift(signed, unused)  # spreads the sign
        yield pixels


def _interpreted(dataset: Any, pixels: NDArray[Any]) -> NDArray[Any]:
    from pydicom.pixels import apply_color_lut, apply_modality_lut

    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)[..., :3]
        return (pixels >> 8).astype(np.uint8) if pixels.dtype.itemsize > 1 else pixels
    if pixels.ndim == 3:
        unused = max(0, int(dataset.BitsStored) - 8)
        return (pixels >> unused).astype(np.uint8)
    if "ModalityLUTSequence" in dataset:
        return np.asarray(apply_modality_lut(pixels, dataset))
    if pixels.dtype == np.float64:
        return single(pixels)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)

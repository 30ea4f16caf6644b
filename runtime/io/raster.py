"""Pictures: PNG, JPEG, BMP and TIFF in; label PNG and preview PNG out.

Knows Pillow and its modes; knows no world coordinates. Orientation tags (EXIF) are not applied, so that a
box drawn on the stored pixels, and the label PNG that is written for them, fit the stored pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, OutputError
from runtime.geometry import Volume
from runtime.io._atomic import atomic_file
from runtime.io._palette import object_colour
from runtime.io._quiet import quiet
from runtime.io._reading import MAX_RATIO, BoundedFile, check_file, check_size, foreign
from runtime.io._result import Result
from runtime.io._source import FileSource, protected_paths

__all__ = ["MAX_PIXELS", "check_raster", "read_raster", "write_overlay", "write_raster"]

MAX_PIXELS = 89_478_485
"""Most pixels of a picture: where Pillow starts to suspect a decompression bomb."""

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
_WANTED = "a picture"

_LEVEL = 2
"""Of a preview's compression: pictures with noise get no smaller with PNG's usual 6, which takes four times as long."""

_FILL_OPACITY = 0.25
_LINE = 2
_DASH = 6
_MIN_SIZE = 384
"""A preview of a smaller image is enlarged by a whole factor until its shorter side reaches this."""
_MAX_SIZE = 2048
"""No side is enlarged beyond this."""


def read_raster(path: Path) -> Volume:
    """Read one picture.

    Grey pictures of 8 or 16 bits (and float TIFF) keep their values, 1-bit ones become 0 and 255; colours,
    palettes and CMYK become RGB. Alpha is dropped, not blended. Orientation tags are not applied.

    Parameters
    ----------
    path : Path
        A PNG, JPEG, BMP or single-page TIFF.

    Returns
    -------
    image : Volume
        Shape (W, H, 1) or (W, H, 1, 3); i = column, j = row; no affine, spacing 1.

    Raises
    ------
    ImageError
        If it is no such picture, is damaged, too large, or holds several pages.
    """
    from PIL import Image

    available = check_file(path)
    with foreign(path, _WANTED), quiet(), BoundedFile(path) as stream, Image.open(stream, formats=_FORMATS) as picture:
        size = f"{picture.width}x{picture.height}"
        pixel_count = check_size(path, picture.size, 1)
        if pixel_count > MAX_PIXELS:
            msg = f"{path}: has {size} pixels, the limit is {MAX_PIXELS}; crop or shrink it"
            raise ImageError(msg)
        if pixel_count > 8 * MAX_RATIO * available:
            msg = f"{path}: claims {size} pixels, more than the file can hold; it is damaged"
            raise ImageError(msg)
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format == "TIFF":
            msg = f"{path}: holds {frames} pages; save the one to segment as a file of its own"
            raise ImageError(msg)
        pixels = _pixels(picture)
    array = pixels.swapaxes(0, 1)[:, :, np.newaxis]  # (row, column[, c]) -> (i, j, 1[, c])
    return Volume(array, is_2d=True, source=FileSource(paths=(path.resolve(),)))


def check_raster(path: Path, reference: Volume, count: int) -> None:
    """Refuse an image of several slices."""
    if reference.shape[2] != 1:
        msg = f"{path}: a PNG holds one slice, the result has {reference.shape[2]}; write .nii.gz or .npz instead"
        raise OutputError(msg)


def write_raster(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write a 2-D label map as a grey PNG whose pixel values are the labels.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have.
    result : Result
        What to write; 8 bits for labels up to 255, else 16 bits.

    Raises
    ------
    OutputError
        If there are labels above 65535.
    """
    from PIL import Image

    labels = result.label_map
    if labels.dtype.itemsize > 2:
        msg = f"{path}: a PNG holds labels up to 65535; write .nii.gz or .npz instead"
        raise OutputError(msg)
    pixels = np.ascontiguousarray(labels[:, :, 0].T)  # (i, j) -> (row, column)
    Image.fromarray(pixels).save(stream, format="PNG")


def write_overlay(
    path: Path,
    image: NDArray[np.uint8],
    masks: Sequence[NDArray[np.bool_]],
    *,
    boxes: Sequence[Sequence[float] | None] = (),
    pixel_size: tuple[float, float] = (1.0, 1.0),
    reference: Volume | None = None,
) -> None:
    """Write a preview: the image with the outline and a tint of each mask, and the boxes.

    Small images are enlarged by a whole factor and pixels that are not square are shown in their true
    proportions. Mask n and box n share a colour of the palette; a later mask is drawn over an earlier one.

    Parameters
    ----------
    path : Path
        The ``.png`` to write.
    image : ndarray of uint8, shape (H, W) or (H, W, 3)
        [row, column], already windowed.
    masks : sequence of ndarray of bool, shape (H, W)
        One mask an object.
    boxes : sequence of 4 float, or None
        xyxy in pixels of ``image``, both ends inclusive; None for an object without one here.
    pixel_size : tuple of 2 float
        Height and width of a pixel, in any unit.
    reference : Volume, optional
        The image that was segmented, whose file must not be overwritten.

    Raises
    ------
    OutputError
        If shapes do not fit together, the name does not end in ``.png``, or the file cannot be written.
    """
    from PIL import Image

    if path.suffix.lower() != ".png":
        msg = f"{path}: a preview is a PNG; give a name that ends in .png"
        raise OutputError(msg)
    if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or any(m.shape != image.shape[:2] for m in masks):
        shapes = sorted({mask.shape for mask in masks})
        msg = f"{path}: preview of a {image.dtype} image {image.shape} with masks {shapes}; wanted uint8 and one shape"
        raise OutputError(msg)
    height, width = _display_size((image.shape[0], image.shape[1]), pixel_size)
    shown = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    canvas = np.array(shown.resize((width, height), Image.Resampling.BICUBIC))
    scale_xy = (width / image.shape[1], height / image.shape[0])
    for index, mask in enumerate(masks):
        plain = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
        large = np.asarray(plain.resize((width, height), Image.Resampling.NEAREST)) > 0
        colour = np.array(object_colour(index))
        canvas[large] = np.rint(canvas[large] * (1 - _FILL_OPACITY) + colour * _FILL_OPACITY).astype(np.uint8)
        canvas[large & ~_eroded(large, _LINE)] = colour
    for index, box in enumerate(boxes):
        if box is not None:
            _draw_box(canvas, box, scale_xy, object_colour(index))
    protected = protected_paths(reference.source) if reference is not None else ()
    with atomic_file(path, protected=protected) as stream:
        Image.fromarray(canvas).save(stream, format="PNG", compress_level=_LEVEL)


def _pixels(picture: Any) -> NDArray[Any]:
    mode = picture.mode
    if mode in _GREY16:
        return np.array(picture, dtype=np.uint16)
    if mode == "I":  # 32-bit signed: some writers and older Pillow use it for 16-bit grey
        wide = np.array(picture, dtype=np.int32)
        return wide.astype(np.uint16) if wide.min() >= 0 and wide.max() <= 65535 else wide
    if mode == "F":
        return np.array(picture, dtype=np.float32)
    return np.array(picture.convert("L" if mode in ("1", "L", "LA", "La") else "RGB"))


def _display_size(size: tuple[int, int], pixel_size: tuple[float, float]) -> tuple[int, int]:
    """Height and width of the preview."""
    sane = all(math.isfinite(side) and side > 0 for side in pixel_size)
    smallest = min(pixel_size) if sane else 1.0
    true = [n * (side / smallest if sane else 1.0) for n, side in zip(size, pixel_size, strict=True)]
    shrink = min(1.0, max(_MAX_SIZE, *size) / max(true))  # a thin stack must not grow without bounds
    true = [max(1.0, side * shrink) for side in true]
    factor = max(1, min(math.ceil(_MIN_SIZE / min(true)), int(_MAX_SIZE / max(true))))
    return round(true[0] * factor), round(true[1] * factor)


def _eroded(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask without ``steps`` layers of pixels; the image's edge counts as outside."""
    inner = np.pad(mask, steps)
    for _ in range(steps):
        shrunk = inner.copy()
        shrunk[1:] &= inner[:-1]
        shrunk[:-1] &= inner[1:]
        shrunk[:, 1:] &= inner[:, :-1]
        shrunk[:, :-1] &= inner[:, 1:]
        inner = shrunk
    return inner[steps:-steps, steps:-steps] if steps else inner


def _draw_box(
    canvas: NDArray[np.uint8],
    box: Sequence[float],
    scale_xy: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    """A one-pixel dashed rectangle just around the inclusive box, dark beneath so that it shows on bright images."""
    from PIL import Image, ImageDraw

    x0, y0, x1, y1 = box
    left, top = round(x0 * scale_xy[0]), round(y0 * scale_xy[1])
    right, bottom = round((x1 + 1) * scale_xy[0]) - 1, round((y1 + 1) * scale_xy[1]) - 1
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((left, top, right, bottom), outline=(0, 0, 0))
    for start in range(left, right + 1, 2 * _DASH):
        end = min(start + _DASH - 1, right)
        pen.line((start, top, end, top), fill=colour)
        pen.line((start, bottom, end, bottom), fill=colour)
    for start in range(top, bottom + 1, 2 * _DASH):
        end = min(start + _DASH - 1, bottom)
        pen.line((left, start, left, end), fill=colour)
        pen.line((right, start, right, end), fill=colour)
    canvas[:] = np.asarray(picture)

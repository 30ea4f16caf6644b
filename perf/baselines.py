"""Masks without a network, for scale: what a box alone, an ellipse, a threshold and GrabCut give.

Knows OpenCV and boxes; knows no file and no model. Each function takes an image [row, column] of uint8 and a box of
whole numbers, both ends inclusive, and returns a mask of the image's size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["BASELINES"]

Image = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Mask = NDArray[np.bool_]

_ITERATIONS = 5
_LEAST_MARGIN = 20
_LARGEST = 256


def _filled_box(image: Image, box: Box) -> Mask:
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = True
    return mask


def _inscribed(shape: tuple[int, ...], box: Box, share: float = 1.0) -> Mask:
    """Ellipse around the middle of the box whose axes are a share of its sides."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    radius_x, radius_y = share * (box[2] - box[0] + 1) / 2, share * (box[3] - box[1] + 1) / 2
    return np.asarray(((columns - x) / radius_x) ** 2 + ((rows - y) / radius_y) ** 2 <= 1)


def _ellipse(image: Image, box: Box) -> Mask:
    return _inscribed(image.shape, box)


def _otsu(image: Image, box: Box) -> Mask:
    """Otsu's threshold inside the box; the class that is commoner in the middle than in the corners is the object."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    part = np.ascontiguousarray(grey[box[1] : box[3] + 1, box[0] : box[2] + 1])
    _, levels = cv2.threshold(part, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    bright = np.asarray(levels) > 0
    own = (0, 0, part.shape[1] - 1, part.shape[0] - 1)
    middle, corners = _inscribed(part.shape, own, 0.5), ~_inscribed(part.shape, own)
    outside = float(bright[corners].mean()) if corners.any() else 0.0
    found = bright if not middle.any() or float(bright[middle].mean()) >= outside else ~bright
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = found
    return mask


def _grabcut(image: Image, box: Box, *, seeded: bool) -> Mask:
    """GrabCut on a crop around the box, sure of the background outside it and, if seeded, of the object's core.

    Crops of more than 256 pixels a side are reduced to that: it takes tens of seconds on larger ones.
    """
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    margin_x, margin_y = max(_LEAST_MARGIN, width // 2), max(_LEAST_MARGIN, height // 2)
    left, top = max(0, box[0] - margin_x), max(0, box[1] - margin_y)
    crop = image[top : box[3] + margin_y + 1, left : box[2] + margin_x + 1]
    colour = np.ascontiguousarray(crop if crop.ndim == 3 else np.repeat(crop[:, :, None], 3, axis=2))
    factor = min(1.0, _LARGEST / max(colour.shape[:2]))
    size = (max(1, round(colour.shape[1] * factor)), max(1, round(colour.shape[0] * factor)))
    reduced = np.asarray(cv2.resize(colour, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    inner = tuple(int((end - start) * factor) for end, start in zip(box, (left, top) * 2, strict=True))
    found = _cut(reduced, (inner[0], inner[1], inner[2], inner[3]), seeded=seeded)
    rows, columns = colour.shape[:2]
    full = cv2.resize(found.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[top : top + rows, left : left + columns] = np.asarray(full) > 0
    return mask


def _cut(colour: Image, inner: Box, *, seeded: bool) -> Mask:
    labels = np.full(colour.shape[:2], cv2.GC_BGD, np.uint8)
    inside = _filled_box(colour, inner)
    labels[inside] = cv2.GC_PR_BGD if seeded else cv2.GC_PR_FGD
    if seeded:
        labels[_inscribed(colour.shape, inner) & inside] = cv2.GC_PR_FGD
        labels[_inscribed(colour.shape, inner, 0.25) & inside] = cv2.GC_FGD
    cut: Any = cv2.grabCut  # its stub knows neither a missing rectangle nor models of zeros
    try:
        cut(colour, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # it wants samples of both kinds, which a box as large as the image does not leave
        return np.zeros(labels.shape, np.bool_)
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


BASELINES: Mapping[str, Callable[[Image, Box], Mask]] = {
    "box": _filled_box,
    "ellipse": _ellipse,
    "otsu": _otsu,
    "grabcut": lambda image, box: _grabcut(image, box, seeded=False),
    "grabcut, seeded": lambda image, box: _grabcut(image, box, seeded=True),
}
"""Name -> mask of an image and a box."""

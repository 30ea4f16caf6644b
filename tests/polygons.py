"""Two ways to read polygons back as pixels: whose centre lies inside, and as OpenCV paints them."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def even_odd(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels (u, v) from whose centre a ray towards high u crosses the lines an odd number of times."""
    crossings = np.zeros((shape[0] + 1, shape[1]), dtype=int)  # of the row v, between centre u - 1 and centre u
    for polygon in polygons:
        start, end = polygon, np.roll(polygon, -1, axis=0)
        low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
        first, last = np.ceil(low).astype(int), np.ceil(high).astype(int)  # rows low <= v < high
        edge = np.repeat(np.arange(len(polygon)), last - first)
        v = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]).astype(int)
        share = (v - start[edge, 1]) / (end[edge, 1] - start[edge, 1])
        u = start[edge, 0] + share * (end[edge, 0] - start[edge, 0])
        np.add.at(crossings, (np.clip(np.ceil(u), 0, shape[0]).astype(int), v), 1)
    beyond = crossings[::-1].cumsum(axis=0)[::-1]  # at u or higher
    return beyond[1:] % 2 == 1


def painted(polygons: Sequence[NDArray[np.float64]], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels that `cv2.fillPoly` covers, corners rounded to whole pixels, as rt-utils reads structure sets."""
    canvas = np.zeros(shape[:2], dtype=np.uint8)  # [u, v]: OpenCV's x is v
    cv2.fillPoly(canvas, [np.rint(polygon[:, ::-1]).astype(np.int32) for polygon in polygons], 1)
    return canvas.astype(bool)

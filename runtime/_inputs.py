"""What callers may hand to a session instead of frozen values: bare arrays, tuples of numbers.

Knows `Volume` and the prompts; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume
from runtime.types import Box, Point

__all__ = ["BARE_ARRAY", "MAX_PIXELS", "as_prompts", "bare_volume"]

MAX_PIXELS = 1 << 28
"""Largest bare image, in pixels."""


class _BareArray:
    """Marks the source of a volume made from a bare (H, W) array, whose results go back rows first."""


BARE_ARRAY = _BareArray()


def bare_volume(array: NDArray[Any]) -> Volume:
    """Wrap a bare array; (H, W[, 3]) becomes a 2-D image, (I, J, K) a volume without affine."""
    if array.size > MAX_PIXELS and array.ndim == 2:
        msg = f"image of shape {array.shape}: wanted at most {MAX_PIXELS} pixels"
        raise ImageError(msg)
    if array.ndim == 2:
        return Volume(array.T[:, :, np.newaxis], is_2d=True, source=BARE_ARRAY)
    if array.ndim == 3 and array.shape[2] == 3:
        return Volume(array.swapaxes(0, 1)[:, :, np.newaxis, :], is_2d=True, source=BARE_ARRAY)
    if array.ndim == 3:
        return Volume(array)
    msg = f"array of shape {array.shape}: wanted (H, W), (H, W, 3) or (I, J, K)"
    raise ImageError(msg)


def as_prompts(
    box: Sequence[Box | Sequence[float]],
    boxes: Sequence[Box | Sequence[float]],
    points: Sequence[Point | Sequence[float]],
    prompts: Sequence[Box | Point],
    slice_index: int | None,
) -> list[Box | Point]:
    """All prompts of a call as frozen values; flat boxes without a slice lie on ``slice_index``."""
    found: list[Box | Point] = []
    for one in (*box, *boxes, *prompts):
        prompt = one if isinstance(one, Box | Point) else Box(tuple(one))
        if isinstance(prompt, Box) and not prompt.is_3d and prompt.slice_index is None:
            prompt = Box(prompt.xyxy, slice_index, prompt.name)
        found.append(prompt)
    found += [one if isinstance(one, Point) else Point(tuple(one)) for one in points]
    return found

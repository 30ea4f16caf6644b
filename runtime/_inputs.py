"""What callers may hand to a session instead of frozen values: bare arrays, tuples of numbers.

Knows `Volume` and the prompts; knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume
from runtime.types import Box, Point

__all__ = ["BARE_ARRAY", "MAX_PIXELS", "as_array", "as_prompts", "as_volume", "bare_volume"]

MAX_PIXELS = 1 << 28
"""Largest bare image, in pixels."""


class _BareArray:
    """Marks the source of a volume made from a bare (H, W) array, whose results go back rows first."""


BARE_ARRAY = _BareArray()


def as_array(image: Any) -> NDArray[Any]:
    """An image as an array; a path and rows of unequal length are refused with an ImageError."""
    if isinstance(image, str | os.PathLike):
        msg = f"{image}: a path, where an array or a Volume was wanted; read the file with runtime.load first"
        raise ImageError(msg)
    try:
        return np.asarray(image)
    except ValueError as error:
        msg = f"image of type {type(image).__name__}: wanted an array with equal rows"
        raise ImageError(msg) from error


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


def as_volume(image: Any) -> Volume:
    """A volume or bare array as a volume that can be segmented; ImageError where it is coloured and has slices."""
    volume = image if isinstance(image, Volume) else bare_volume(as_array(image))
    if volume.array.ndim == 4 and volume.shape[2] > 1:
        msg = f"colour volume of shape {volume.array.shape}: volumes are grey; convert it, or give single images"
        raise ImageError(msg)
    return volume


def as_prompts(
    boxes: Iterable[Box | Sequence[float]],
    points: Iterable[Point | Sequence[float]],
    prompts: Iterable[Box | Point],
    slice_index: int | None,
) -> list[Box | Point]:
    """All prompts of a call as frozen values; flat boxes without a slice lie on ``slice_index``."""
    found: list[Box | Point] = [one if isinstance(one, Box) else Box(one) for one in _listed(boxes, "boxes")]
    found += [one if isinstance(one, Box | Point) else Box(one) for one in _listed(prompts, "prompts")]
    found += [one if isinstance(one, Point) else Point(one) for one in _listed(points, "points")]
    return [
        Box(one.xyxy, slice_index, one.name)
        if isinstance(one, Box) and not one.is_3d and one.slice_index is None
        else one
        for one in found
    ]


def _listed(values: Any, what: str) -> list[Any]:
    """The values one by one; a single prompt, where several may stand, is refused by name."""
    try:
        return list(values)
    except TypeError as error:
        msg = f"{what} {values!r}: wanted a list, also of one"
        raise PromptError(msg) from error

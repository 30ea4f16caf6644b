"""Small boxes of an image looked at again from closer: crops around them take the image's place.

Follows ``docs/bundle-format.md``, section 6. Knows pixels, prompts, frames and logits, and an engine only as a
callable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.manifest import Closer, Manifest
from runtime.transforms import Frame, covered_cells, frame_of

__all__ = ["answer_from_closer", "small_boxes"]

_WHOLE = 0.8
"""Of the image's longer side: a crop this long shows what the image shows."""

_FEWEST = 24
"""Pixels a side that a crop has at least, where the image has them; and two cells of the logits."""

_BELOW_THRESHOLD = 10.0
"""Logits beside a crop: nothing of the object is there."""

Arrays = dict[str, NDArray[Any]]
Look = Callable[[NDArray[np.uint8], Arrays], Arrays]
"""Crop and the decoder's inputs in its frame, of one prompt -> the decoder's outputs for it, without that axis."""


def small_boxes(rule: Closer, boxes: NDArray[Any], size: tuple[int, int]) -> NDArray[np.intp]:
    """Which of the boxes (N, 4), in pixels of an image of that size, are small."""
    return np.flatnonzero((boxes[:, 2:] - boxes[:, :2] + 1).max(axis=1) <= rule.below * max(size))


def answer_from_closer(
    manifest: Manifest,
    rule: Closer,
    pixels: NDArray[np.uint8],
    box: NDArray[Any],
    prompts: Arrays,
    whole: Arrays,
    look: Look,
) -> Arrays:
    """Mean of the outputs of all looks at a box (4,) in image pixels, the logits in the image's input frame.

    ``prompts`` are the decoder's inputs (1, ...) in that frame. Its outputs for the ``whole`` image, logits (C, h, w)
    and perhaps scores (C,), stand for crops that show as much.
    """
    frame = frame_of(manifest, (pixels.shape[0], pixels.shape[1]))
    cell = frame.input_size[1] / (whole["low_res_logits"].shape[-1] * frame.scale_xy[0])  # pixels
    looks = []
    for rows, columns in _crops(rule, box, frame.original_size, max(_FEWEST, 2 * cell)):
        crop = pixels[rows, columns]
        if max(crop.shape[:2]) >= _WHOLE * max(frame.original_size) or crop.min() == crop.max():
            looks.append(whole)
            continue
        near = frame_of(manifest, (crop.shape[0], crop.shape[1]))
        place = _Place(frame, near, (columns.start, rows.start), manifest.output.threshold - _BELOW_THRESHOLD)
        found = look(crop, place.inwards(box, prompts))
        looks.append({**found, "low_res_logits": place.outwards(found["low_res_logits"])})
    return {name: np.asarray(np.mean([one[name] for one in looks], axis=0), np.float32) for name in whole}


def _crops(rule: Closer, box: NDArray[Any], size: tuple[int, int], fewest: float) -> Iterator[tuple[slice, slice]]:
    """Rows and columns around the middle of the box for each look, as far as the image goes."""
    longest = float((box[2:] - box[:2] + 1).max())
    middle = ((box[:2] + box[2:]) / 2)[::-1]  # x, y -> row, column
    for sides in rule.sides:
        half = max(sides * longest, fewest) / 2
        low = np.maximum(np.floor(middle - half), 0).astype(int)
        high = np.minimum(np.ceil(middle + half) + 1, size).astype(int)
        yield slice(low[0], high[0]), slice(low[1], high[1])


@dataclass(frozen=True, slots=True)
class _Place:
    """A crop in its image, each in an input frame of its own."""

    image: Frame
    crop: Frame
    corner: tuple[int, int]  # x, y in the image
    beside: float

    def inwards(self, box: NDArray[Any], prompts: Arrays) -> Arrays:
        """Prompts in the image's input frame, and their box in its pixels, brought to the crop's input frame."""
        moved = {**prompts, "boxes": self.crop.boxes_to_input(box - np.tile(self.corner, 2))}
        if "points" in prompts:
            pixels = (prompts["points"] + 0.5) / self.image.scale_xy - 0.5
            moved["points"] = self.crop.points_to_input(pixels - self.corner)
        if "masks" in prompts and prompts["has_mask"].any():
            masks = prompts["masks"]
            across, along = (self._inner_weights(masks.shape[-1 - axis], axis) for axis in (0, 1))
            moved["masks"] = np.full_like(masks, self.beside)
            moved["masks"][..., : len(along), : len(across)] = along @ masks @ across.T
        return moved

    def outwards(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (C, h, w) over the crop's input frame, brought to the image's."""
        (x, across), (y, along) = (self._outer_weights(logits.shape[2 - axis], axis) for axis in (0, 1))
        result = np.full_like(logits, self.beside)
        result[:, y, x] = along @ logits[:, : along.shape[1], : across.shape[1]] @ across.T
        return result

    def _inner_weights(self, side: int, axis: int) -> NDArray[np.float32]:
        """Weights of the image's cells for each cell that the crop covers in its own frame."""
        (coarse, all_cells), (fine, inside) = (_cells(one, side, axis) for one in (self.image, self.crop))
        place = ((np.arange(inside) + 0.5) / fine + self.corner[axis]) * coarse - 0.5
        weights = np.zeros((inside, side), np.float32)
        weights[:, :all_cells] = _triangles(np.clip(place, 0, all_cells - 1), all_cells, 1.0)
        return weights

    def _outer_weights(self, side: int, axis: int) -> tuple[slice, NDArray[np.float32]]:
        """Cells of the image that the crop covers, and for each of them weights of the crop's cells."""
        (coarse, _), (fine, inside) = (_cells(one, side, axis) for one in (self.image, self.crop))
        place = ((np.arange(side) + 0.5) / coarse - self.corner[axis]) * fine - 0.5
        covered = np.flatnonzero((place >= -0.5) & (place <= inside - 0.5))
        cells = slice(int(covered[0]), int(covered[-1]) + 1)
        return cells, _triangles(place[cells], inside, max(1.0, fine / coarse))


def _cells(frame: Frame, side: int, axis: int) -> tuple[float, int]:
    """Of ``side`` cells of logits along x (axis 0) or y how many are one pixel, and how many the whole image."""
    a_pixel = frame.scale_xy[axis] * side / frame.input_size[1 - axis]
    return a_pixel, covered_cells(frame, (side, side))[1 - axis]


def _triangles(place: NDArray[np.floating], cells: int, reach: float) -> NDArray[np.float32]:
    """Weights (N, cells) of cells around N places, falling to 0 at ``reach``."""
    weights = np.maximum(1 - np.abs(place[:, np.newaxis] - np.arange(cells)) / reach, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)

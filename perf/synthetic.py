"""Images drawn on the fly: the same seed gives the same image.

Knows arrays; knows no file and no model. They are made to cost what real scans cost (size, noise that does not
compress, objects that change from slice to slice), not to look like any patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CT_SHAPE",
    "CT_SPACING",
    "IMAGE_SIZE",
    "RGB_SIZE",
    "Drawn",
    "ct_volume",
    "grey_image",
    "rgb_image",
    "tight_boxes",
]

CT_SHAPE = (512, 512, 100)
CT_SPACING = (0.8, 0.8, 2.5)
IMAGE_SIZE = (512, 512)
RGB_SIZE = (1024, 1024)

_AIR, _FAT, _MUSCLE, _BONE = -1000.0, -95.0, 45.0, 420.0
_NOISE = 12.0
_LOWEST = -1024


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """An image with the truth about it.

    Attributes
    ----------
    array : ndarray of int16 or uint8, shape (I, J, K) or (I, J, 1, 3)
        Columns first; K is 1 for an image, which may be in colour.
    truth : ndarray of uint8, shape (I, J, K)
        Labels 1..n of the objects.
    boxes : tuple of tuple of 6 int
        x0, y0, z0, x1, y1, z1 of each object, both ends inclusive, tight.
    """

    array: NDArray[np.int16] | NDArray[np.uint8]
    truth: NDArray[np.uint8]
    boxes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class _Organ:
    """Sizes as shares of the image's sides."""

    x: float
    y: float
    radius_x: float
    radius_y: float
    first: float
    slices: float
    value: float


# Five objects of 40 of 100 slices each, on 85 slices in all; the first alone is the one-object case.
_ORGANS = (
    _Organ(0.34, 0.42, 0.105, 0.080, 0.30, 0.40, 125.0),
    _Organ(0.62, 0.38, 0.070, 0.085, 0.08, 0.40, 150.0),
    _Organ(0.70, 0.58, 0.060, 0.050, 0.19, 0.40, -20.0),
    _Organ(0.30, 0.62, 0.050, 0.060, 0.41, 0.40, 190.0),
    _Organ(0.50, 0.58, 0.055, 0.045, 0.53, 0.40, 160.0),
)


def ct_volume(shape: tuple[int, int, int] = CT_SHAPE, *, seed: int = 20) -> Drawn:
    """Draw a CT-like volume: body ellipse with fat and spine, five organs, Gaussian noise, int16 HU."""
    rng = np.random.default_rng(seed)
    columns, rows, slices = shape
    background = _body(columns, rows)
    phases = rng.uniform(0, 2 * np.pi, len(_ORGANS))
    array = np.empty(shape, dtype=np.int16, order="F")
    truth = np.zeros(shape, dtype=np.uint8, order="F")
    for k in range(slices):
        plane = background.copy()
        for label, (organ, phase) in enumerate(zip(_ORGANS, phases, strict=True), start=1):
            inside = _cross_section(organ, (columns, rows), _position(organ, k, slices), phase)
            plane[inside] = organ.value
            truth[:, :, k][inside] = label
        plane += _NOISE * rng.standard_normal(plane.shape, dtype=np.float32)
        array[:, :, k] = np.clip(np.rint(plane), _LOWEST, 3071)
    return Drawn(array, truth, tight_boxes(truth))


def grey_image(size: tuple[int, int] = IMAGE_SIZE, *, seed: int = 21) -> Drawn:
    """Draw an ultrasound-like grey image of one slice: speckle, a gradient, one dark object."""
    rng = np.random.default_rng(seed)
    columns, rows = size
    organ = _Organ(0.52, 0.47, 0.16, 0.12, 0.0, 1.0, 60.0)
    plane = np.linspace(150, 105, rows, dtype=np.float32)[np.newaxis, :].repeat(columns, axis=0)
    inside = _cross_section(organ, (columns, rows), 0.0, 0.7)
    plane[inside] = organ.value
    plane *= 1 + 0.25 * rng.standard_normal(plane.shape, dtype=np.float32)
    array = np.clip(np.rint(plane), 0, 255).astype(np.uint8)[:, :, np.newaxis]
    truth = inside.astype(np.uint8)[:, :, np.newaxis]
    return Drawn(array, truth, tight_boxes(truth))


def rgb_image(size: tuple[int, int] = RGB_SIZE, *, seed: int = 22) -> Drawn:
    """Draw a photograph-like colour image of one slice: 20 objects in rows of five on a noisy ground."""
    rng = np.random.default_rng(seed)
    columns, rows = size
    plane = np.broadcast_to(np.array([176, 122, 104], dtype=np.float32), (columns, rows, 3)).copy()
    truth = np.zeros((columns, rows, 1), dtype=np.uint8)
    for label in range(1, 21):
        row, column = divmod(label - 1, 5)
        x, y = (column + 0.5) / 5 + rng.uniform(-0.02, 0.02), (row + 0.5) / 4 + rng.uniform(-0.02, 0.02)
        organ = _Organ(x, y, rng.uniform(0.04, 0.07), rng.uniform(0.05, 0.08), 0.0, 1.0, 0.0)
        inside = _cross_section(organ, (columns, rows), 0.0, rng.uniform(0, 2 * np.pi))
        plane[inside] = rng.uniform((60, 20, 20), (120, 70, 80))
        truth[inside, 0] = label
    plane += _NOISE * rng.standard_normal(plane.shape, dtype=np.float32)
    array = np.clip(np.rint(plane), 0, 255).astype(np.uint8)[:, :, np.newaxis]
    return Drawn(array, truth, tight_boxes(truth))


def _body(columns: int, rows: int) -> NDArray[np.float32]:
    """One slice without organs and noise, (columns, rows)."""
    x = (np.arange(columns, dtype=np.float32)[:, np.newaxis] / columns - 0.5) / 0.43
    y = (np.arange(rows, dtype=np.float32)[np.newaxis, :] / rows - 0.5) / 0.33
    radius = np.hypot(x, y)
    plane = np.full((columns, rows), _AIR, dtype=np.float32)
    plane[radius < 1.0] = _FAT
    plane[radius < 0.9] = _MUSCLE
    plane[np.hypot(x, (y - 0.62) * 0.9) < 0.12] = _BONE
    return plane


def _position(organ: _Organ, k: int, slices: int) -> float:
    """Where slice k lies in the organ: -1..1 from its first to beyond its last slice, outside that if beyond it."""
    first, count = round(organ.first * slices), round(organ.slices * slices)
    return (k - first - (count - 1) / 2) / ((count + 1) / 2)


def _cross_section(organ: _Organ, size: tuple[int, int], position: float, phase: float) -> NDArray[np.bool_]:
    """Pixels of an organ on one slice, (columns, rows); its outline is a wavy ellipse that turns along the organ."""
    if abs(position) >= 1:
        return np.zeros(size, dtype=np.bool_)
    columns, rows = size
    x = (np.arange(columns, dtype=np.float32)[:, np.newaxis] - organ.x * columns) / (organ.radius_x * columns)
    y = (np.arange(rows, dtype=np.float32)[np.newaxis, :] - organ.y * rows) / (organ.radius_y * rows)
    radius = np.hypot(x, y)
    limit = np.sqrt(1 - position**2) * (1 + 0.1 * np.cos(3 * np.arctan2(y, x) + phase + position))
    return np.asarray(radius < limit)


def tight_boxes(truth: NDArray[np.uint8]) -> tuple[tuple[int, ...], ...]:
    """x0, y0, z0, x1, y1, z1 of every label, in the order of labels."""
    boxes = []
    for label in range(1, int(truth.max()) + 1):
        mask = truth == label
        ends = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
        boxes.append(tuple(int(end[0]) for end in ends) + tuple(int(end[-1]) for end in ends))
    return tuple(boxes)

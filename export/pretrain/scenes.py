"""Random label maps: bodies, partitions, blobs and layers, then one common warp into the input frame.

Knows shapes and the nesting of labels; must not know intensities, prompts or torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.shapes import Canvas, fourier_outline, random_outlines, smooth_noise

__all__ = ["Scene", "draw_size", "framed_shape", "look_up", "make_scene", "paint_canvas", "warp_maps"]

_CANVAS = 320
_COARSEST = 0.18  # least side of a coarse scan, as a share of the input's


@dataclass(frozen=True)
class Scene:
    """Label map of the image proper (no padding) and, for each label, the label it lies in (-1 for none)."""

    labels: NDArray[np.uint8]
    parents: tuple[int, ...]

    def enlarged(self, size: int) -> Scene:
        """Return the scene with its pixels enlarged until the longer side is ``size``."""
        height, width = self.labels.shape
        shape = framed_shape((height, width), size)
        if shape == (height, width):
            return self
        labels = cv2.resize(self.labels, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return Scene(np.asarray(labels, np.uint8), self.parents)


def framed_shape(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Rows and columns of an image in an input frame of ``size`` pixels a side."""
    scale = size / max(shape)
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def draw_size(rng: np.random.Generator, size: int, coarse_share: float) -> int:
    """Longer side at which a scene is drawn: ``size``, or a share of times that of a coarse scan."""
    if coarse_share and rng.uniform() < coarse_share:
        return round(_log_uniform(rng, _COARSEST * size, size))
    return size


def make_scene(rng: np.random.Generator, size: int = 256) -> Scene:
    """Draw one scene whose longer side is ``size`` pixels."""
    canvas = paint_canvas(rng)
    map_x, map_y = warp_maps(rng, size)
    return Scene(look_up(canvas.labels, map_x, map_y), tuple(canvas.parents))


def paint_canvas(rng: np.random.Generator) -> Canvas:
    """Draw the labels of one scene before it is warped into the input frame."""
    canvas = Canvas(_CANVAS)
    kind = rng.uniform()
    if kind < 0.50:
        _paint_body(canvas, rng)
    elif kind < 0.68:
        cells = _paint_partition(canvas, rng, within=None)
        if rng.uniform() < 0.45:
            _paint_organs(canvas, rng, list(range(len(canvas.parents))), int(rng.integers(1, 7)))
        elif rng.uniform() < 0.6:
            _paint_organelles(canvas, rng, cells)
    elif kind < 0.90:
        _paint_blobs(canvas, rng)
    else:
        _paint_layers(canvas, rng)
    return canvas


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _paint_children(
    canvas: Canvas, rng: np.random.Generator, label: int, centre: NDArray[np.float64], radius: float, count: int
) -> None:
    """Paint ``count`` smaller shapes inside a label."""
    for _ in range(count):
        offset = rng.uniform(-0.6, 0.6, 2) * radius
        canvas.paint(random_outlines(rng, centre + offset, radius * rng.uniform(0.1, 0.6)), label, [label])


def _paint_organs(canvas: Canvas, rng: np.random.Generator, base: list[int], count: int) -> None:
    """Paint organs over ``base``; some are rings with a lumen, some carry children."""
    middle = _CANVAS / 2
    painted: list[int] = []
    children_left = int(rng.integers(0, 7))
    for _ in range(count):
        centre = middle + rng.uniform(-0.42, 0.42, 2) * _CANVAS
        radius = _log_uniform(rng, 4, 48) * _CANVAS / 256
        over = base + painted if rng.uniform() < 0.6 else base
        if rng.uniform() < 0.14:  # closed ring: wall and lumen share their centre
            roughness, stretch = rng.uniform(0.02, 0.15), rng.uniform(0, 0.7)
            outer = fourier_outline(rng, centre, radius, roughness=roughness, stretch=stretch)
            wall = canvas.paint([outer], base[0], over)
            inner = (outer - centre) * rng.uniform(0.45, 0.9) + centre + rng.uniform(-0.04, 0.04, 2) * radius
            canvas.paint([inner.astype(np.float32)], wall, [wall])
            painted.append(wall)
            continue
        outlines = random_outlines(rng, centre, radius)
        if len(outlines) == 1 and rng.uniform() < 0.2:  # capsule or fat around it, not part of it
            canvas.paint([_grown(outlines[0], rng.uniform(1.0, 4.0))], base[0], over)
            over = [*over, len(canvas.parents) - 1]
        label = canvas.paint(outlines, base[0], over)
        painted.append(label)
        if children_left and radius > 9 and rng.uniform() < 0.4:
            number = int(rng.integers(1, 4))
            children_left = max(0, children_left - number)
            _paint_children(canvas, rng, label, centre, radius, number)


def _grown(outline: NDArray[np.float32], margin: float) -> NDArray[np.float32]:
    """Push an outline away from its middle by ``margin`` canvas pixels."""
    middle = outline.mean(0)
    reach = np.linalg.norm(outline - middle, axis=1, keepdims=True)
    return np.asarray(middle + (outline - middle) * (1 + margin / np.maximum(reach, 1)), np.float32)


def _paint_organelles(canvas: Canvas, rng: np.random.Generator, cells: list[int]) -> None:
    """Vesicles and nuclei inside the cells of a partition, with a wall or without, all of a kind."""
    walled, typical = rng.uniform() < 0.6, _log_uniform(rng, 2, 16)
    for _ in range(int(rng.integers(8, 60))):
        centre = rng.uniform(0, _CANVAS - 1, 2)
        cell = int(canvas.labels[int(centre[1]), int(centre[0])])
        if cell not in cells:
            continue
        outline = fourier_outline(rng, centre, typical * float(np.exp(rng.normal(0, 0.4))), roughness=0.06)
        label = canvas.paint([outline], cell, [cell])
        if walled:
            inner = (outline - centre) * rng.uniform(0.6, 0.9) + centre
            canvas.paint([inner.astype(np.float32)], label, [label])


def _paint_body(canvas: Canvas, rng: np.random.Generator) -> None:
    """Trunk or limb: outline, shells, organs, bones and vessels."""
    middle = np.full(2, _CANVAS / 2) + rng.uniform(-0.04, 0.04, 2) * _CANVAS
    radius = rng.uniform(0.3, 0.62) * _CANVAS
    outline = fourier_outline(rng, middle, radius, roughness=rng.uniform(0.02, 0.12), stretch=rng.uniform(0, 0.6))
    base = canvas.paint([outline], 0)
    for _ in range(rng.integers(0, 4)):
        outline = ((outline - middle) * rng.uniform(0.84, 0.98) + middle).astype(np.float32)
        outline += rng.standard_normal((1, 2)).astype(np.float32) * 2
        base = canvas.paint([outline], base, [base])
    inside = [base]
    if rng.uniform() < 0.3:
        inside += _paint_partition(canvas, rng, within=base)
    _paint_organs(canvas, rng, inside, int(rng.integers(2, 16)))
    everything = list(range(1, len(canvas.parents)))
    for _ in range(rng.integers(0, 6)):  # bones: shell and marrow
        centre = middle + rng.uniform(-0.8, 0.8, 2) * radius
        bone = fourier_outline(rng, centre, _log_uniform(rng, 4, 20), roughness=0.2, stretch=1.0)
        shell = canvas.paint([bone], base, everything)
        marrow = (bone - centre) * rng.uniform(0.5, 0.85) + centre
        canvas.paint([marrow.astype(np.float32)], shell, [shell])
    for _ in range(rng.integers(2, 14)):  # vessels
        centre = middle + rng.uniform(-0.7, 0.7, 2) * radius
        size = _log_uniform(rng, 2, 9)
        shapes = (
            [fourier_outline(rng, centre, size, roughness=0.04, stretch=0.5)]
            if rng.uniform() < 0.7
            else random_outlines(rng, centre, size * 2.5)
        )
        canvas.paint(shapes, base, everything)


def _paint_partition(canvas: Canvas, rng: np.random.Generator, within: int | None) -> list[int]:
    """Divide the canvas (or one label) into cells, with or without membranes; returns the new labels."""
    shape = canvas.labels.shape
    if rng.uniform() < 0.6:
        count = int(_log_uniform(rng, 6, 110))
        seeds = np.ones(shape, np.uint8)
        seeds[tuple(rng.integers(0, _CANVAS, (2, count)))] = 0
        _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        wobble = _CANVAS / np.sqrt(count) * rng.uniform(0.0, 0.25)
        cells = _displace(cells.astype(np.uint8), rng, wobble, 24.0)
    else:
        count = int(rng.integers(3, 9))
        cell = _log_uniform(rng, 24, 110)
        fields = np.stack([smooth_noise(rng, (_CANVAS, _CANVAS), cell) for _ in range(count)])
        cells = (fields.argmax(0) + 1).astype(np.uint8)
    parent = 0 if within is None else within
    table = np.zeros(256, np.uint8)
    new = [canvas.new_label(parent) for _ in range(int(cells.max()))]
    new = [label for label in new if label]
    if not new:
        return []
    table[1 : len(new) + 1] = new
    ids = table[cells]
    if rng.uniform() < 0.45:  # membranes keep the parent's label
        edge = cv2.morphologyEx(cells, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        thick = int(rng.integers(1, 5))
        grown = cv2.dilate(edge.astype(np.uint8), np.ones((thick, thick), np.uint8)) > 0
        ids = np.where(grown, np.uint8(parent), ids)
    if within is None:
        canvas.labels[:] = ids
    else:
        canvas.labels[:] = np.where(canvas.labels == within, np.where(ids > 0, ids, within), canvas.labels)
    return new


def _paint_blobs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Cells, lesions or axons of similar size on a plain or divided ground, often with walls or nuclei."""
    ground = [0]
    if rng.uniform() < 0.3:
        ground += _paint_partition(canvas, rng, within=None)
    typical = _log_uniform(rng, 6, 60)
    count = int(np.clip(rng.uniform(0.1, 0.6) * _CANVAS**2 / (np.pi * typical**2), 1, 60))
    wall = rng.uniform() < 0.35
    nucleus = rng.uniform() < 0.25
    any_shape = rng.uniform() < 0.4
    apart = rng.uniform() < 0.7
    roughness, stretch = rng.uniform(0.02, 0.3), rng.uniform(0, 1.0)
    thickness = rng.uniform(0.5, 0.92)
    for _ in range(count):
        centre = rng.uniform(0, _CANVAS, 2)
        radius = typical * float(np.exp(rng.normal(0, 0.35)))
        outlines = (
            random_outlines(rng, centre, radius)
            if any_shape
            else [fourier_outline(rng, centre, radius, roughness=roughness, stretch=stretch)]
        )
        over = ground if apart else None
        label = canvas.paint(outlines, 0, over)
        if wall and not any_shape:
            inner = (outlines[0] - centre) * (thickness + rng.uniform(-0.08, 0.06)) + centre
            label = canvas.paint([inner.astype(np.float32)], label, [label])
        if nucleus:
            _paint_children(canvas, rng, label, centre, radius, 1)


def _paint_layers(canvas: Canvas, rng: np.random.Generator) -> None:
    """Wavy layers from top to bottom with some inclusions, as in ultrasound or retina."""
    number = int(rng.integers(3, 10))
    columns = np.arange(_CANVAS)
    rows = np.arange(_CANVAS)[:, None]
    depth = np.sort(rng.uniform(0.02, 0.98, number)) * _CANVAS
    common = smooth_noise(rng, (2, _CANVAS), (1.0, 90.0))[0] * rng.uniform(0, 25)
    for top in depth:
        label = canvas.new_label(0)
        own = smooth_noise(rng, (2, _CANVAS), (1.0, _log_uniform(rng, 15, 120)))[0] * rng.uniform(0, 9)
        canvas.labels[rows > (top + common + own)[columns][None, :]] = label
    _paint_organs(canvas, rng, list(range(len(canvas.parents))), int(rng.integers(1, 8)))
    if rng.uniform() < 0.3:  # sector of a curved probe
        half = rng.uniform(0.45, 0.9)
        apex = np.array([_CANVAS / 2, -rng.uniform(0, 0.35) * _CANVAS])
        angle = np.linspace(np.pi / 2 - half, np.pi / 2 + half, 40)
        far = apex + 1.35 * _CANVAS * np.stack([np.cos(angle), np.sin(angle)], 1)
        sector = np.zeros_like(canvas.labels)
        cv2.fillPoly(sector, [np.round(np.vstack([apex, far])).astype(np.int32)], 1)
        canvas.labels[sector == 0] = 0


def _displace(labels: NDArray[np.uint8], rng: np.random.Generator, amplitude: float, cell: float) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(np.float32)
    shape = (labels.shape[0], labels.shape[1])
    columns += smooth_noise(rng, shape, cell) * amplitude * 0.5
    rows += smooth_noise(rng, shape, cell) * amplitude * 0.5
    return np.asarray(cv2.remap(labels, columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def warp_maps(rng: np.random.Generator, size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each pixel of an image, whose longer side is ``size``, lies on the canvas: x and y, (H, W) each.

    The image is a cropped, turned, scaled, flipped and bent view of the canvas.
    """
    height = width = size
    if rng.uniform() < 0.5:
        short = round(size * rng.uniform(0.55, 1))
        height, width = (short, size) if rng.uniform() < 0.5 else (size, short)
    turn = rng.uniform(-np.pi, np.pi) if rng.uniform() < 0.5 else 0.0
    zoom = _log_uniform(rng, 0.65, 1.7) * size / _CANVAS
    flip = np.where(rng.uniform(size=2) < 0.5, -1.0, 1.0)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = (x - (width - 1) / 2) * (flip[0] / zoom), (y - (height - 1) / 2) * (flip[1] / zoom)
    shift = rng.uniform(-0.1, 0.1, 2) * _CANVAS + _CANVAS / 2
    map_x = (np.cos(turn) * x - np.sin(turn) * y + shift[0]).astype(np.float32)
    map_y = (np.sin(turn) * x + np.cos(turn) * y + shift[1]).astype(np.float32)
    if rng.uniform() < 0.7:
        amplitude = rng.uniform(0, 9) * 0.6
        cell = _log_uniform(rng, 12, 64)
        map_x += smooth_noise(rng, (height, width), cell) * amplitude * min(1.0, cell / 30)
        map_y += smooth_noise(rng, (height, width), cell) * amplitude * min(1.0, cell / 30)
    return map_x, map_y


def look_up(labels: NDArray[np.uint8], map_x: NDArray[np.float32], map_y: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Labels of the canvas at the given positions; 0 beyond its border."""
    warped = cv2.remap(labels, map_x, map_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(warped, np.uint8)

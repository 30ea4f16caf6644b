"""Neighbouring slices of synthetic volumes: objects that grow, shrink, drift, split and end.

Knows how a canvas changes along z and follows objects through it. Must not know torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.pixels import draw_pixels
from export.pretrain.prompts import jitter_box, pick_labels, tight_box
from export.pretrain.scenes import Scene, draw_size, look_up, paint_canvas, warp_maps
from export.pretrain.shapes import Canvas, smooth_noise

__all__ = ["Sequence", "make_sequence"]

_LARGEST_EVOLVING = 0.14  # share of the canvas; larger labels only bend


@dataclass(frozen=True)
class Sequence:
    """T neighbouring slices with P objects, prompted by a box on the first one."""

    pixels: NDArray[np.uint8]  # (T, 3, S, S)
    targets: NDArray[np.uint8]  # (T, P, S, S), 0 or 1; empty beyond an object's end
    boxes: NDArray[np.float32]  # (P, 4) on slice 0
    limits: NDArray[np.float32]  # (P, 4) extent over all slices; infinite where the user did not give it
    is_limit: NDArray[np.bool_]  # (P,) boxes marked as limits: all that a 3-D box says of the first slice


@dataclass(frozen=True)
class _Evolution:
    """Canvas labels, the depth of each pixel inside its object, and each object's profile along z."""

    labels: NDArray[np.uint8]
    depth: NDArray[np.float32]
    roots: NDArray[np.uint8]  # (256,) the evolving object that a label belongs to, or itself
    heir: NDArray[np.uint8]  # (256,) what shows where an object has receded
    centre: NDArray[np.float64]  # (256,)
    reach: NDArray[np.float64]  # (256,) half extent along z
    deepest: NDArray[np.float64]  # (256,)

    def at(self, z: float) -> NDArray[np.uint8]:
        """Labels at height z: an object's section is what lies deeper than its profile asks."""
        relative = np.clip(np.abs(z - self.centre) / self.reach, 0, 1)
        needed = np.where(relative < 1, self.deepest * (1 - np.sqrt(1 - relative**2)), np.inf)
        group = cv2.LUT(self.labels, self.roots)
        receded = self.depth < cv2.LUT(group, needed.astype(np.float32))
        return np.where(receded, cv2.LUT(group, self.heir), self.labels)


def _evolution(canvas: Canvas, rng: np.random.Generator) -> _Evolution:
    count = len(canvas.parents)
    areas = np.bincount(canvas.labels.ravel(), minlength=256).astype(np.float64)
    for label in range(count - 1, 0, -1):  # parents come first, so children add up backwards
        if canvas.parents[label] > 0:
            areas[canvas.parents[label]] += areas[label]
    roots = np.arange(256, dtype=np.uint8)
    heir = np.zeros(256, np.uint8)
    evolving = np.zeros(256, bool)
    for label in range(1, count):
        parent = canvas.parents[label]
        heir[label] = parent
        if parent > 0 and evolving[parent]:
            roots[label] = roots[parent]
            evolving[label] = True
        else:
            evolving[label] = areas[label] < _LARGEST_EVOLVING * canvas.labels.size
    group = cv2.LUT(canvas.labels, roots)
    edges = cv2.morphologyEx(group, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) == 0
    depth = cv2.distanceTransform(edges.astype(np.uint8), cv2.DIST_L2, 3)
    deepest = np.zeros(256)
    np.maximum.at(deepest, group.ravel(), depth.ravel())
    reach = np.exp(rng.uniform(np.log(2.5), np.log(40), 256))
    reach[rng.uniform(size=256) < 0.2] = 1e6
    highest = 0.8 if rng.uniform() < 0.4 else 0.1  # most prompts are given where the object is largest
    centre = rng.uniform(-0.8, highest, 256) * np.minimum(reach, 60)
    reach[~evolving] = 1e6
    return _Evolution(canvas.labels, np.asarray(depth, np.float32), roots, heir, centre, reach, deepest + 1)


def _follow(section: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Components of a section that touch the object as it was on the slice before."""
    count, components = cv2.connectedComponents(section, connectivity=8)
    if count < 2:
        return section
    kept = np.zeros(count, np.uint8)
    kept[np.unique(components[before > 0])] = 1
    kept[0] = 0
    return np.asarray(kept[components], np.uint8)


def _drift(rng: np.random.Generator, shape: tuple[int, int]) -> list[NDArray[np.float32]]:
    """Displacement per slice in x and y: everything moves, neighbouring objects differently."""
    cell = float(np.exp(rng.uniform(np.log(28), np.log(100))))
    speed = rng.uniform(0, 2.0)
    common = rng.normal(0, 0.4 if rng.uniform() < 0.6 else 1.8, 2)  # thick slices, oblique vessels
    return [(smooth_noise(rng, shape, cell) * speed + common[axis]).astype(np.float32) for axis in range(2)]


def make_sequence(
    seed: int,
    index: int,
    *,
    slices: int,
    size: int = 256,
    objects: int = 3,
    mark_limits: bool = False,
    coarse_share: float = 0.0,
) -> Sequence:
    """Draw sequence ``index`` of ``seed``; boxes that are limits are marked as such or pass for the object's own."""
    rng = np.random.default_rng([seed, index, 3])
    while True:
        canvas = paint_canvas(rng)
        evolution = _evolution(canvas, rng)
        map_x, map_y = warp_maps(rng, draw_size(rng, size, coarse_share))
        drift_x, drift_y = _drift(rng, (map_x.shape[0], map_x.shape[1]))
        parents = tuple(canvas.parents)
        drawn = [
            Scene(look_up(evolution.at(z), map_x + z * drift_x, map_y + z * drift_y), parents) for z in range(slices)
        ]
        scenes = [scene.enlarged(size) for scene in drawn]
        found = [pick_labels(scenes[0], rng) for _ in range(objects)]
        picked = [item for item in found if item is not None]
        if picked:
            break
    picked = (picked * objects)[:objects]
    targets = np.zeros((slices, objects, size, size), np.uint8)
    boxes, limits = np.zeros((objects, 4), np.float32), np.zeros((objects, 4), np.float32)
    is_limit = np.zeros(objects, np.bool_)
    for slot, (table, mask) in enumerate(picked):
        followed = mask
        for z, scene in enumerate(scenes):
            if z:
                followed = _follow(np.asarray(cv2.LUT(scene.labels, table), np.uint8), followed)
            targets[z, slot, : followed.shape[0], : followed.shape[1]] = followed
        boxes[slot] = jitter_box(tight_box(mask), rng)
        limits[slot] = [-np.inf, -np.inf, np.inf, np.inf]
        if rng.uniform() < 0.5:
            limits[slot] = tight_box(targets[:, slot].max(0))
            if rng.uniform() < 0.5:  # slices that are not drawn may reach farther
                reach = 0.6 * np.tile(limits[slot, 2:] - limits[slot, :2], 2) * rng.uniform(0, 1, 4)
                limits[slot] += np.array([-1, -1, 1, 1]) * reach * (rng.uniform(size=4) < 0.5)
            if rng.uniform() < 0.5:
                boxes[slot], is_limit[slot] = limits[slot], mark_limits
    return Sequence(_images(drawn, rng, size), targets, boxes, limits, is_limit)


def _images(scenes: list[Scene], rng: np.random.Generator, size: int) -> NDArray[np.uint8]:
    """Render all slices with one look; only the noise differs from slice to slice."""
    look, fault = int(rng.integers(2**31)), int(rng.integers(2**31))
    return np.stack(
        [draw_pixels(scene, size, np.random.default_rng(look), np.random.default_rng(fault), rng) for scene in scenes]
    )

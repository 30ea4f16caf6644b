"""Targets and the prompts that a user, a neighbouring slice or an earlier answer would give for them.

Knows label maps, boxes (xyxy, pixel centres, both ends inclusive), masks and clicks; must not know torch or images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.config import USERS_BOXES
from export.pretrain.scenes import Scene
from export.pretrain.shapes import random_outlines, smooth_noise

__all__ = [
    "Prompt",
    "PromptMix",
    "error_click",
    "jitter_box",
    "make_prompt",
    "neighbour_mask",
    "pick_labels",
    "pick_target",
    "tight_box",
]

_MIN_AREA = 14

Mask = NDArray[np.uint8]  # (H, W), 0 or 1
Box = NDArray[np.float32]  # (4,) xyxy


@dataclass(frozen=True)
class Prompt:
    """One training example: what is wanted, where the box is, and the neighbour's mask if there is one.

    An empty neighbour says that the box is a limit: the section of a 3-D box, with the object somewhere inside.
    """

    target: Mask
    box: Box
    neighbour: Mask | None = None
    click: NDArray[np.float32] | None = None  # (2,) x and y inside the target, where the box says little


@dataclass(frozen=True)
class PromptMix:
    """How often prompts are of which kind; what is left of one are boxes of a user's."""

    neighbour_share: float = 0.25  # box and mask come from a neighbouring slice
    point_share: float = 0.1  # the target is clicked at, and the box is around the click and of any size
    limit_share: float = 0.0  # the box is a limit
    limit_fill: float = 0.45  # least share of a limit's side that the target takes
    boxes: tuple[float, ...] = USERS_BOXES  # shares of boxes as `jitter_box` has them
    hand: float = 7.0  # most pixels by which the sides of the last kind are off


def tight_box(mask: NDArray[np.generic]) -> Box:
    """Smallest box around a non-empty mask: first and last column and row inside it."""
    columns = np.flatnonzero(mask.any(0))
    rows = np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)


def pick_target(scene: Scene, rng: np.random.Generator) -> Mask | None:
    """Draw a label with weight area^0.3 (70 % with what lies inside it), usually one of its components."""
    picked = pick_labels(scene, rng)
    return None if picked is None else picked[1]


def pick_labels(scene: Scene, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Mask] | None:
    """As `pick_target`, with the table (256,) of the labels that the object consists of."""
    labels = scene.labels
    areas = np.bincount(labels.ravel(), minlength=len(scene.parents)).astype(np.float64)
    areas[0] = 0
    areas[areas < _MIN_AREA] = 0
    areas[areas > 0.8 * labels.size] = 0
    if not areas.any():
        return None
    weight = areas**0.3
    chosen = int(rng.choice(len(weight), p=weight / weight.sum()))
    table = np.zeros(256, np.uint8)
    table[chosen] = 1
    if rng.uniform() < 0.7:
        for label in range(chosen + 1, len(scene.parents)):
            table[label] = table[scene.parents[label]] if scene.parents[label] >= 0 else 0
    mask = np.asarray(cv2.LUT(labels, table), np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    if count > 2 and rng.uniform() < 0.88:
        size = stats[1:, cv2.CC_STAT_AREA].astype(np.float64)
        size = np.where(size >= _MIN_AREA, size, 0) ** 0.7
        if not size.any():
            return None
        mask = (components == 1 + rng.choice(count - 1, p=size / size.sum())).astype(np.uint8)
    return (table, mask) if int(mask.sum()) >= _MIN_AREA else None


def jitter_box(box: Box, rng: np.random.Generator, shares: Sequence[float] = USERS_BOXES, most_off: float = 7.0) -> Box:
    """A user's box.

    Of four kinds, with the shares given: tight, mostly too large by up to 8 px, off to either side by 5 % of its size,
    off to either side by up to ``most_off`` pixels. One pixel of a coarse image is several of the input's.
    """
    kind = rng.uniform()
    tight, loose, relative, _ = np.cumsum(shares)
    size = np.array([box[2] - box[0] + 1, box[3] - box[1] + 1])
    outward = np.array([-1, -1, 1, 1], np.float32)
    if kind < tight:
        return box
    if kind < loose:
        most = rng.uniform(0, min(8.0, 1 + 0.35 * float(size.min())))
        moved = box + outward * rng.uniform(-0.35 * most, most, 4)
    elif kind < relative:
        moved = box + rng.normal(0, 0.05, 4) * np.tile(size, 2)
    else:
        hand = rng.uniform(0, min(most_off, 1 + 0.3 * float(size.min())))
        moved = box + rng.uniform(-hand, hand, 4)
    return _ordered(moved)


def _ordered(box: NDArray[np.floating]) -> Box:
    centre = (box[:2] + box[2:]) / 2
    half = np.maximum((box[2:] - box[:2]) / 2, 0.5)
    return np.concatenate([centre - half, centre + half]).astype(np.float32)


def neighbour_mask(target: Mask, rng: np.random.Generator) -> Mask:
    """The same object as it might look one slice away: moved, bent, grown or shrunk, sometimes cut or leaking."""
    height, width = target.shape
    box = tight_box(target)
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2] + 1
    kind = rng.uniform()
    grow = np.exp(rng.normal(0, 0.14))
    if kind >= 0.66:
        grow = rng.uniform(1.3, 2.4) if kind < 0.86 else rng.uniform(0.35, 0.8)
    scale = grow * np.exp(rng.normal(0, 0.06, 2))
    shift = rng.normal(0, 0.05, 2) * size + rng.normal(0, 1.0, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    amplitude = rng.uniform(0, 0.10) * float(size.min())
    cell = max(4.0, float(size.max()) * rng.uniform(0.15, 0.6))
    map_x = (x - centre[0] - shift[0]) / scale[0] + centre[0] + amplitude * smooth_noise(rng, (height, width), cell)
    map_y = (y - centre[1] - shift[1]) / scale[1] + centre[1] + amplitude * smooth_noise(rng, (height, width), cell)
    moved = cv2.remap(target, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_NEAREST)
    fault = rng.uniform()
    if fault < 0.3:  # a piece is missing, or something beside it was taken as well
        spot = centre + rng.uniform(-0.6, 0.6, 2) * size
        outlines = random_outlines(rng, spot, 0.5 * float(size.mean()) * rng.uniform(0.3, 0.9))
        cv2.fillPoly(moved, [np.round(outline).astype(np.int32) for outline in outlines], 0 if fault < 0.17 else 1)
    return np.asarray(moved, np.uint8)


def _ghost(scene: Scene, rng: np.random.Generator) -> Mask | None:
    """Mask of an object that is no longer there: a shape inside one label, followed by no edge."""
    shape = scene.labels.shape
    for _ in range(4):
        centre = np.array([rng.uniform(0, shape[1]), rng.uniform(0, shape[0])])
        radius = float(np.exp(rng.uniform(np.log(2.5), np.log(28))))
        ghost = np.zeros(shape, np.uint8)
        cv2.fillPoly(ghost, [np.round(o).astype(np.int32) for o in random_outlines(rng, centre, radius)], 1)
        area = int(ghost.sum())
        if area < _MIN_AREA:
            continue
        under = np.bincount(scene.labels[ghost > 0], minlength=256)
        label = int(under.argmax())
        if under[label] > 0.88 * area and np.count_nonzero(scene.labels == label) > 3 * area:
            return ghost
    return None


def make_prompt(scene: Scene, rng: np.random.Generator, mix: PromptMix) -> Prompt | None:
    """One target with its box, of a kind that the mix chooses; None where the scene has nothing to point at."""
    kind = rng.uniform()
    as_neighbour = kind < mix.neighbour_share
    if as_neighbour and rng.uniform() < 0.12:
        ghost = _ghost(scene, rng)
        if ghost is not None:
            return Prompt(np.zeros_like(ghost), _grown(tight_box(ghost), rng), ghost)
    target = pick_target(scene, rng)
    if target is None:
        return None
    if as_neighbour:
        neighbour = neighbour_mask(target, rng)
        if int(neighbour.sum()) >= 4:
            return Prompt(target, _grown(tight_box(neighbour), rng), neighbour)
    elif kind < mix.neighbour_share + mix.point_share:
        return _point_prompt(target, rng)
    elif kind < mix.neighbour_share + mix.point_share + mix.limit_share:
        return Prompt(target, _limit(tight_box(target), rng, mix.limit_fill), np.zeros_like(target))
    return Prompt(target, jitter_box(tight_box(target), rng, mix.boxes, mix.hand))


def _point_prompt(target: Mask, rng: np.random.Generator) -> Prompt:
    """A click, rather inside than at the edge, in the middle of a box that is at most roughly of the target's size."""
    depth = cv2.distanceTransform(cv2.copyMakeBorder(target, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 3)
    weight = depth[1:-1, 1:-1].ravel().astype(np.float64)
    row, column = np.unravel_index(int(rng.choice(weight.size, p=weight / weight.sum())), target.shape)
    click = np.array([column, row], np.float32)
    box = tight_box(target)
    side = float(max(box[2] - box[0], box[3] - box[1]) + 1) * float(np.exp(rng.uniform(np.log(0.8), np.log(3.2))))
    half = 0.5 * side * np.exp(rng.normal(0, 0.15, 2))
    return Prompt(target, np.concatenate([click - half, click + half]).astype(np.float32), click=click)


def _limit(box: Box, rng: np.random.Generator, fill: float) -> Box:
    """A box that an object's section fills as sections fill 3-D boxes: ``fill`` of each side or more, anywhere."""
    size = box[2:] - box[:2] + 1
    spare = size / rng.uniform(fill, 1, 2) - size
    low = box[:2] - spare * rng.uniform(0, 1, 2)
    return np.concatenate([low, low + size + spare - 1]).astype(np.float32)


def _grown(box: Box, rng: np.random.Generator) -> Box:
    margin = float(rng.uniform(0, 4))
    return box + np.array([-margin, -margin, margin, margin], np.float32)


def error_click(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """Next click as (x, y, label): the innermost pixel of the largest wrong component; None when all is right."""
    wrong = (predicted != target).astype(np.uint8)
    count, components, stats, _ = cv2.connectedComponentsWithStats(wrong, connectivity=4)
    if count < 2:
        return None
    largest = (components == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    depth = cv2.distanceTransform(cv2.copyMakeBorder(largest, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0), cv2.DIST_L2, 5)
    row, column = np.unravel_index(int(depth[1:-1, 1:-1].argmax()), largest.shape)
    return int(column), int(row), int(target[row, column])

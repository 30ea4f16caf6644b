"""What lies over an image without being anybody's object: projected shadows, highlights, streaks and lost edges.

A radiograph shows the ribs over the lung, an endoscope its own light, ultrasound loses the walls that lie along the
beam, and an organ's border fades where its neighbour is of the same tissue. The labels know nothing of it.
Knows float images only; must not know labels, prompts or torch.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.shapes import arc_outline, fourier_outline, random_outlines, smooth_noise, tube_outline

__all__ = ["add_clutter"]

Image = NDArray[np.float32]  # (H, W, C), about 0..255


def add_clutter(image: Image, rng: np.random.Generator) -> Image:
    """Draw none, one or several kinds of clutter over an image (H, W, C)."""
    if rng.uniform() < 0.18:
        image = _project_shapes(image, rng)
    if rng.uniform() < 0.08:
        image = _add_highlights(image, rng)
    if rng.uniform() < 0.12:
        image = _add_streaks(image, rng)
    if rng.uniform() < 0.35:
        image = _fade_edges(image, rng)
    return image


def _project_shapes(image: Image, rng: np.random.Generator) -> Image:
    """Ribs, tubes and folds: see-through shapes with soft edges, some in a row of the same brightness."""
    height, width = image.shape[:2]
    density = np.zeros((height, width), np.float32)
    alike = rng.uniform(-60, 60)
    parallel = rng.uniform() < 0.4
    bend, turn = rng.uniform(60, 160), rng.uniform(0.8, 2.6)
    for number in range(int(rng.integers(2, 10))):
        centre = rng.uniform(0, 1, 2) * (width, height)
        thick = float(np.exp(rng.uniform(np.log(1.5), np.log(9))))
        if parallel:
            centre[1] = (number + 0.5) * height / 8
            outline = arc_outline(np.random.default_rng(7), centre, bend, thick, turn)
        elif rng.uniform() < 0.7:
            outline = tube_outline(rng, centre, rng.uniform(30, 220), thick)
        else:
            outline = fourier_outline(rng, centre, rng.uniform(6, 60))
        layer = np.zeros((height, width), np.uint8)
        cv2.fillPoly(layer, [np.round(outline).astype(np.int32)], 1)
        density += layer * np.float32(alike if parallel else rng.uniform(-45, 45))
    return np.asarray(image + cv2.GaussianBlur(density, (0, 0), rng.uniform(0.6, 2.5))[..., None], np.float32)


def _add_highlights(image: Image, rng: np.random.Generator) -> Image:
    """Wet tissue under a lamp, calcium or gas: small saturated spots."""
    height, width = image.shape[:2]
    spots = np.zeros((height, width), np.uint8)
    middle, spread = rng.uniform(0.2, 0.8, 2) * (width, height), rng.uniform(15, 90)
    for _ in range(int(rng.integers(2, 25))):
        outlines = random_outlines(rng, rng.normal(middle, spread), float(np.exp(rng.uniform(0, np.log(7)))))
        cv2.fillPoly(spots, [np.round(outline).astype(np.int32) for outline in outlines], 1)
    soft = cv2.GaussianBlur(spots.astype(np.float32), (0, 0), rng.uniform(0.4, 1.2))[..., None]
    bright = float(image.max()) if rng.uniform() < 0.85 else float(image.min())
    return np.asarray(image * (1 - soft) + bright * soft, np.float32)


def _add_streaks(image: Image, rng: np.random.Generator) -> Image:
    """Shadows behind bone or gas and bands of a beam: brightness that changes across one direction only."""
    height, width = image.shape[:2]
    grain = (1e4, float(np.exp(rng.uniform(np.log(4), np.log(50)))))
    side = int(np.hypot(height, width)) + 2
    field = smooth_noise(rng, (side, side), grain)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(0, 360)), 1.0)
    turn[:, 2] -= ((side - width) / 2, (side - height) / 2)
    field = cv2.warpAffine(field, turn, (width, height), borderMode=cv2.BORDER_REFLECT)
    return np.asarray(image * np.maximum(1 + rng.uniform(0.05, 0.4) * field, 0.05)[..., None], np.float32)


def _fade_edges(image: Image, rng: np.random.Generator) -> Image:
    """Borders that are lost in places: part of the image gives way to a strongly blurred copy."""
    shape = (image.shape[0], image.shape[1])
    blurred = cv2.GaussianBlur(image, (0, 0), float(np.exp(rng.uniform(np.log(2.5), np.log(12)))))
    where = smooth_noise(rng, shape, float(np.exp(rng.uniform(np.log(12), np.log(80)))))
    share = 1 / (1 + np.exp(-4 * (where - rng.uniform(-0.3, 1.0))))
    share = (rng.uniform(0.5, 1.0) * share)[..., None].astype(np.float32)
    return np.asarray(image + (blurred.reshape(image.shape) - image) * share, np.float32)

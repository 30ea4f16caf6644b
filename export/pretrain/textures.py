"""Label map to grey or colour image: base intensities, textures and gradients of each label.

Knows labels and their nesting; must not know shapes, scanners' defects, prompts or torch.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.clutter import add_clutter
from export.pretrain.scenes import Scene
from export.pretrain.shapes import smooth_noise

__all__ = ["render"]


def render(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """Paint a scene: float32 (H, W, C), C = 1 or 3 (15 %), about 0..255 and not clipped."""
    channels = 3 if rng.uniform() < 0.15 else 1
    count = len(scene.parents)
    base = _base_intensities(scene.parents, rng)
    tables = [base if channels == 1 else base + rng.normal(0, rng.uniform(5, 45), count) for _ in range(channels)]
    if channels == 3:
        cast = rng.normal(0, 35, 3)
        tables = [table + cast[c] for c, table in enumerate(tables)]
    fields = _fields(scene.labels.shape, rng)
    weights = _weights(count, len(fields), rng)
    texture = np.zeros(scene.labels.shape, np.float32)
    for index, noise in enumerate(fields):
        texture += cv2.LUT(scene.labels, weights[:, index]) * noise
    image = np.empty((*scene.labels.shape, channels), np.float32)
    for c, table in enumerate(tables):
        lut = np.zeros(256, np.float32)
        lut[:count] = table
        gain = 1.0 if channels == 1 else rng.uniform(0.5, 1.3)
        image[..., c] = cv2.LUT(scene.labels, lut) + gain * texture
    return add_clutter(image, rng)


def _base_intensities(parents: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    count = len(parents)
    mode = rng.uniform()
    if mode < 0.55:
        spread = float(np.exp(rng.uniform(np.log(6), np.log(70))))
        base = np.zeros(count)
        base[0] = rng.uniform(0, 255)
        for label in range(1, count):
            base[label] = np.clip(base[parents[label]] + rng.normal(0, spread), -10, 265)
            if parents[label] == 0 and rng.uniform() < 0.5:
                base[label] = rng.uniform(40, 255)
    elif mode < 0.75:
        classes = rng.uniform(0, 255, rng.integers(2, 7))
        base = rng.choice(classes, count) + rng.normal(0, rng.uniform(0, 6), count)
    else:
        base = rng.uniform(0, 255, count)
    if rng.uniform() < 0.55:
        base[0] = rng.uniform(-10, 25)
    return base


def _fields(shape: tuple[int, ...], rng: np.random.Generator) -> list[NDArray[np.float32]]:
    """Four texture fields of different grain and two ramps, shared by all labels."""
    size = (shape[0], shape[1])
    fields = []
    for low, high in ((1.0, 2.5), (1.5, 6.0), (4.0, 16.0), (12.0, 60.0)):
        cell = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        ratio = float(np.exp(rng.normal(0, 0.9))) if rng.uniform() < 0.3 else 1.0
        fields.append(_patterned(smooth_noise(rng, size, (cell * ratio, cell / ratio)), rng))
    rows, columns = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j].astype(np.float32)
    return [*fields, columns, rows]


def _patterned(noise: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Leave the noise as it is, or make fibres and membranes (its zero lines) or spots (its peaks) of it."""
    kind = rng.uniform()
    if kind < 0.6:
        return noise
    if kind < 0.8:
        return np.asarray(1 - 2 * np.minimum(np.abs(noise) * rng.uniform(1, 2.5), 1), np.float32)
    return np.asarray(np.tanh(4 * (noise - rng.uniform(0.3, 1.2))), np.float32)


def _weights(count: int, number: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Amplitude of each field in each label, (256, number); a background is often clean."""
    amplitude = np.exp(rng.uniform(0, np.log(18), (count, number - 2)))
    amplitude *= rng.uniform(size=(count, number - 2)) < 0.5
    amplitude *= rng.uniform(0.3, 1.1)
    if rng.uniform() < 0.5:  # one tissue texture for all: contrast alone tells the objects apart
        amplitude[:] = amplitude[rng.integers(0, count)]
    if rng.uniform() < 0.6:
        amplitude[0] *= 0.15
    ramps = rng.normal(0, 22, (count, 2)) * (rng.uniform(size=(count, 1)) < 0.3)
    table = np.zeros((256, number), np.float32)
    table[:count] = np.concatenate([amplitude, ramps], 1)
    return table

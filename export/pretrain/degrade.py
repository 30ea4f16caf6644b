"""What scanners and screens do to an image: blur, low resolution, bias, noise, window, gamma, inversion.

Knows float images only; must not know labels, prompts or torch.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from export.pretrain.shapes import smooth_noise

__all__ = ["degrade"]

_COARSEST = 3.2  # how many pixels of the network's input a pixel of a scan that was enlarged before covers at most


def degrade(
    image: NDArray[np.float32],
    rng: np.random.Generator,
    noise: np.random.Generator | None = None,
    *,
    coarseness: float = 1.0,
) -> NDArray[np.uint8]:
    """Degrade (H, W, C) and stretch it to uint8 0..255 over its own range, three channels.

    ``rng`` draws the faults and, unless ``noise`` is given, the noise itself. ``coarseness`` is how many of the
    network's pixels one of the image's will cover: what makes an image unsharp is drawn in the network's pixels.
    """
    noise = noise or rng
    shape = (image.shape[0], image.shape[1])
    sigma = 0.25 + 0.9 * abs(rng.standard_normal()) / coarseness
    image = _with_channels(cv2.GaussianBlur(image, (0, 0), float(sigma)))
    noisy = rng.uniform() < 0.75
    early = rng.uniform() < 0.4
    if noisy and early:
        image = _add_noise(image, rng, noise)
    if rng.uniform() < 0.45:
        image = _lower_resolution(image, rng, max(1.0, _COARSEST / coarseness))
    if rng.uniform() < 0.5:
        strength = rng.uniform(0.05, 0.45)
        bias = np.exp(strength * smooth_noise(rng, shape, rng.uniform(60, 250)))
        image = image * bias[..., None]
    if rng.uniform() < 0.2:
        grain = smooth_noise(noise, shape, (rng.uniform(1, 3), rng.uniform(1, 4)))
        image = image * np.maximum(1 + rng.uniform(0.08, 0.5) * grain, 0)[..., None]
    if noisy and not early:
        image = _add_noise(image, rng, noise)
    low, high = np.percentile(image[::3, ::3], [rng.uniform(0, 4), 100 - rng.uniform(0, 4)])
    image = np.clip((image - low) / max(float(high - low), 1e-3), 0, 1)
    image = cv2.pow(image, float(np.exp(0.35 * rng.standard_normal())))
    image = _with_channels(image)
    if rng.uniform() < 0.08:
        image = 1 - image
    return _to_bytes(image)


def _with_channels(image: NDArray[np.float32]) -> NDArray[np.float32]:
    return image[..., None] if image.ndim == 2 else image  # OpenCV drops a single channel


def _add_noise(
    image: NDArray[np.float32], rng: np.random.Generator, source: np.random.Generator
) -> NDArray[np.float32]:
    level = np.exp(rng.uniform(0, np.log(24)))
    noise = source.standard_normal(image.shape, dtype=np.float32)
    if rng.uniform() < 0.3:  # reconstruction or interpolation correlates the noise
        noise = _with_channels(cv2.GaussianBlur(noise, (0, 0), 0.8)) * 2
    return np.asarray(image + np.float32(level) * noise, np.float32)


def _lower_resolution(image: NDArray[np.float32], rng: np.random.Generator, most: float) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    factor = rng.uniform(1, most)
    other = factor if rng.uniform() < 0.75 else rng.uniform(1, most)
    small = cv2.resize(
        image, (max(8, round(width / factor)), max(8, round(height / other))), interpolation=cv2.INTER_AREA
    )
    mode = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(rng.choice(3, p=[0.55, 0.35, 0.1]))]
    return _with_channels(np.asarray(cv2.resize(small, (width, height), interpolation=mode), np.float32))


def _to_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) * (255 / max(high - low, 1e-6)) + 0.5
    return np.repeat(scaled.astype(np.uint8), 3 // image.shape[2], axis=2)

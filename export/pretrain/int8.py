"""INT8 graphs beside the float ones of a trained bundle, calibrated on images that the generator draws.

Knows the generator and `export.quantize`. Must not know training, nor how a graph is quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from export.pretrain.dataset import make_example
from export.quantize import QuantizeOptions, Report, Sample, quantize_folder

__all__ = ["add_int8", "drawn_samples"]

_SEED = 20260717
_IMAGES = 60
_PROMPTS = 3


def drawn_samples(images: int = _IMAGES, *, size: int = 256, seed: int = _SEED) -> list[Sample]:
    """Images that no training run has drawn (their seed is this module's own), each with its objects' boxes."""
    samples = []
    for index in range(images):
        example = make_example(seed, index, size=size, prompts=_PROMPTS, neighbour_share=0.0)
        image = np.ascontiguousarray(example.pixels.transpose(1, 2, 0))  # (3, S, S) -> (S, S, 3)
        samples.append(Sample(image, np.clip(example.boxes.astype(np.float64), 0, size - 1)))
    return samples


def add_int8(
    folder: Path, *, images: int = _IMAGES, max_drop: float = 0.5, report: Callable[[str], None] = lambda _: None
) -> Report:
    """Give a bundle that `write_bundle` just wrote its INT8 graphs, and store its float weights in float16.

    BundleError where the masks would differ from those of float32 by more than `max_drop` Dice points.
    """
    return quantize_folder(folder, drawn_samples(images), QuantizeOptions(max_drop=max_drop, report=report))

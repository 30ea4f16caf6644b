"""Images from the generator of the default model's training, where nobody gave any to calibrate with or measure on.

Knows the generator, which needs no torch. Must not know graphs, nor what is done with the images. They show whether
arithmetic is right, and say nothing of accuracy on scans.
"""

from __future__ import annotations

import numpy as np

from export._calibration import Sample
from export.pretrain.dataset import make_example
from export.pretrain.prompts import PromptMix

__all__ = ["drawn_samples"]

_SEED = 20260717
_PROMPTS = 3


def drawn_samples(images: int, *, size: int = 256, seed: int = _SEED) -> list[Sample]:
    """Images that no training run has drawn (their seed is this module's own), each with its objects' boxes."""
    samples = []
    for index in range(images):
        example = make_example(seed, index, size=size, prompts=_PROMPTS, mix=PromptMix(neighbour_share=0.0))
        image = np.ascontiguousarray(example.pixels.transpose(1, 2, 0))  # (3, S, S) -> (S, S, 3)
        samples.append(Sample(image, np.clip(example.boxes.astype(np.float64), 0, size - 1)))
    return samples

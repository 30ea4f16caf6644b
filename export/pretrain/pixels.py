"""From a scene to the pixels of the input frame: rendered and degraded as drawn, then enlarged as the runtime does.

Knows scenes and the frame. Must not know prompts or torch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from export.pretrain.degrade import degrade
from export.pretrain.scenes import Scene, framed_shape
from export.pretrain.textures import render
from runtime._resize import enlarge_lanczos

__all__ = ["draw_pixels"]


def draw_pixels(
    scene: Scene,
    size: int,
    look: np.random.Generator,
    fault: np.random.Generator,
    noise: np.random.Generator | None = None,
) -> NDArray[np.uint8]:
    """Draw the input (3, size, size) of a scene whose longer side is ``size`` pixels or fewer; padding is 0.

    ``look`` draws intensities and textures, ``fault`` the faults and, unless ``noise`` is given, the noise.
    """
    shape = (scene.labels.shape[0], scene.labels.shape[1])
    image = degrade(render(scene, look), fault, noise, coarseness=size / max(shape))
    enlarged = enlarge_lanczos(image, framed_shape(shape, size))
    height, width = enlarged.shape[:2]
    pixels = np.zeros((3, size, size), np.uint8)
    pixels[:, :height, :width] = enlarged.transpose(2, 0, 1)
    return pixels

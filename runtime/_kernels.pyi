"""Signatures of the compiled kernels. Arrays must be C-contiguous, aligned and in native byte order."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def window_to_uint8(image: NDArray[Any], lower: float, upper: float, zero_stays_zero: bool) -> NDArray[np.uint8]: ...
def encoder_input(
    image: NDArray[Any],
    window: tuple[float, float, bool] | None,
    resized_size: tuple[int, int],
    input_size: tuple[int, int],
    interpolation: str,
    normalise: tuple[str, list[float], list[float], int],
) -> NDArray[np.float32]: ...
def resize_uint8(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]: ...
def resize_logits(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]: ...
def logits_to_masks(
    logits: NDArray[np.float32],
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float,
    inclusive: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]: ...
def mask_box(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]: ...
def int8_units() -> list[str]: ...

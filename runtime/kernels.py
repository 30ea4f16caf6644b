"""Image and mask kernels: the Python face of the compiled module ``runtime._kernels``.

Documents the kernels; knows arrays and numbers; must not know manifests, volumes or prompts. The compiled module is
imported at the first call, so that importing `runtime` works where it is missing. All functions return new arrays,
release the GIL while they work and may be called from several threads at once. Arrays of another dtype, byte order or
memory layout than the kernels read are copied first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime._kernel_arguments import (
    box_or_none,
    contiguous,
    intensities_for_kernels,
    logits_for_kernels,
    native_kernels,
    rows_and_columns,
    uint8_for_kernels,
)

__all__ = [
    "InputOptions",
    "encoder_input",
    "logits_to_mask",
    "logits_to_masks",
    "mask_box",
    "resize_logits",
    "resize_uint8",
    "window_to_uint8",
]


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How an image becomes the input of an encoder.

    Attributes
    ----------
    resized_size : tuple of int
        (rows, columns) of the resized image.
    input_size : tuple of int
        (rows, columns) of the encoder's input; the part to the right of and below the resized image is zero.
    interpolation : {"area", "linear"}
        See `resize_uint8`.
    normalise : {"min_max", "mean_std", "scale"}
        From grey levels x to the network's values. ``min_max``: ``(x - min) / max(max - min, 1e-8)`` in float64, then
        float32, with one minimum and one maximum over all pixels and channels of the resized image. ``mean_std``:
        ``(x - mean[c]) / std[c]`` in float32. ``scale``: ``x / 255`` in float32.
    mean, std : sequence of float
        One number a channel, for ``mean_std`` only.
    channels : int
        Channels of the encoder's input, 1 to 4; a grey image is repeated over them.
    window : tuple of float, optional
        (lower, upper) for `window_to_uint8`, applied before the resizing. Needed unless the image is uint8.
    zero_stays_zero : bool
        See `window_to_uint8`.
    """

    resized_size: tuple[int, int]
    input_size: tuple[int, int]
    interpolation: str = "area"
    normalise: str = "min_max"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: int = 3
    window: tuple[float, float] | None = None
    zero_stays_zero: bool = False


def window_to_uint8(
    image: NDArray[Any], lower: float, upper: float, *, zero_stays_zero: bool = False
) -> NDArray[np.uint8]:
    """Convert intensities to grey levels between two bounds.

    Parameters
    ----------
    image : ndarray of real numbers, any shape
        Intensities in any unit. 8- to 32-bit integers, float32 and float64 are read as they are; other dtypes are
        converted to float64 first.
    lower, upper : float
        Intensities that become 0 and 255, in the unit of the image.
    zero_stays_zero : bool, optional
        Whether intensities of exactly 0 become 0 whatever the bounds are (background of MR).

    Returns
    -------
    levels : ndarray of uint8, same shape, C order
        ``(x - lower) / (upper - lower) * 255`` of the clipped intensities in float64, truncated. NaN becomes 0;
        everything becomes 0 where ``upper`` does not exceed ``lower``.

    Raises
    ------
    TypeError
        If the image does not hold real numbers.
    ValueError
        If a bound, or the distance between them, is not finite.
    BackendUnavailable
        If the compiled module is missing.

    Notes
    -----
    The conversion of the CVPR 2024 challenge "Segment Anything in Medical Images on Laptop", which rounds down where
    many viewers round to nearest.

    Examples
    --------
    >>> import numpy as np
    >>> from runtime.kernels import window_to_uint8
    >>> window_to_uint8(np.array([[-1000, -160, 40], [140, 240, 3000]], np.int16), -160.0, 240.0)
    array([[  0,   0, 127],
           [191, 255, 255]], dtype=uint8)
    """
    levels: NDArray[np.uint8] = native_kernels().window_to_uint8(
        intensities_for_kernels(image), float(lower), float(upper), bool(zero_stays_zero)
    )
    return levels


def resize_uint8(image: NDArray[np.uint8], size: tuple[int, int], *, interpolation: str) -> NDArray[np.uint8]:
    """Resize a uint8 image, bit for bit as OpenCV does.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W) or (H, W, C)
        Grey, or C = 1 to 4 interleaved channels; any strides.
    size : tuple of int
        (rows, columns) of the result.
    interpolation : {"area", "linear"}
        ``cv2.INTER_AREA`` (means of the covered area; where either side grows, OpenCV's linear variant of it) or
        ``cv2.INTER_LINEAR`` (half-pixel centres, no smoothing when shrinking).

    Returns
    -------
    resized : ndarray of uint8, shape (rows, columns) or (rows, columns, C)
        A new array, also where the size is unchanged.

    Raises
    ------
    TypeError
        If the image is not uint8 or the size is not two integers.
    ValueError
        If a side is 0 or too large, C is not 1 to 4, or the interpolation is unknown.
    BackendUnavailable
        If the compiled module is missing.

    Notes
    -----
    Equal to OpenCV 4 and 5 on x86-64, where its uint8 results depend on neither the processor nor the threads.

    Examples
    --------
    >>> import numpy as np
    >>> from runtime.kernels import resize_uint8
    >>> resize_uint8(np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8), (1, 2), interpolation="area")
    array([[25, 45]], dtype=uint8)
    """
    pixels = uint8_for_kernels(image, "window it with window_to_uint8 first")
    resized: NDArray[np.uint8] = native_kernels().resize_uint8(pixels, rows_and_columns(size, "size"), interpolation)
    return resized


def encoder_input(image: NDArray[Any], options: InputOptions) -> NDArray[np.float32]:
    """Make the encoder's input tensor from a slice: window, resize, normalise, pad, planes first.

    Parameters
    ----------
    image : ndarray, shape (H, W) or (H, W, C)
        Grey or C channels, C = ``options.channels``; any strides. uint8 unless ``options.window`` is given, else as
        for `window_to_uint8`.
    options : InputOptions
        Sizes, interpolation and normalisation.

    Returns
    -------
    tensor : ndarray of float32, shape (1, C, rows, columns)
        C planes of ``options.input_size``; a grey image is repeated over them.

    Raises
    ------
    TypeError
        If the image is not uint8 and no window is given, or does not hold real numbers.
    ValueError
        If sizes, channels or statistics do not fit together; the message names the argument.
    BackendUnavailable
        If the compiled module is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from runtime.kernels import InputOptions, encoder_input
    >>> options = InputOptions(resized_size=(1, 2), input_size=(2, 2), channels=1)
    >>> encoder_input(np.array([[0, 10, 20, 30], [40, 50, 60, 70]], np.uint8), options)
    array([[[[0., 1.],
             [0., 0.]]]], dtype=float32)
    """
    window = None
    if options.window is None:
        pixels: NDArray[Any] = uint8_for_kernels(image, "give InputOptions.window for other intensities")
    else:
        pixels = intensities_for_kernels(image)
        lower, upper = options.window
        window = (float(lower), float(upper), bool(options.zero_stays_zero))
    tensor: NDArray[np.float32] = native_kernels().encoder_input(
        pixels,
        window,
        rows_and_columns(options.resized_size, "resized_size"),
        rows_and_columns(options.input_size, "input_size"),
        options.interpolation,
        (options.normalise, list(options.mean), list(options.std), int(options.channels)),
    )
    return tensor


def logits_to_masks(
    logits: NDArray[np.float32],
    *,
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    inclusive: bool = False,
) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Bring a stack of logits to the image's size and threshold them.

    Parameters
    ----------
    logits : ndarray of float32, shape (N, h, w)
        N maps, N may be 0; other float dtypes are converted.
    crop : tuple of int
        (rows, columns) of the upper left part that is kept.
    size : tuple of int
        (H, W) of the masks.
    threshold : float, optional
        A pixel belongs to the mask if its logit is above this (rounded to float32).
    inclusive : bool, optional
        Whether a logit equal to the threshold counts as above.

    Returns
    -------
    masks : ndarray of bool, shape (N, H, W)
        Bilinear interpolation with half-pixel centres, thresholded; NaN is False.
    boxes : ndarray of int64, shape (N, 4)
        Tight xyxy boxes in image pixels, both ends inclusive; -1 where a mask is empty.
    areas : ndarray of int64, shape (N,)
        Pixels of each mask.

    Raises
    ------
    TypeError
        If the logits are not floating point, or a size is not two integers.
    ValueError
        If the logits have another rank or no pixels, the crop exceeds them, or the threshold is not finite.
    BackendUnavailable
        If the compiled module is missing.

    Notes
    -----
    As ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` in float32 without fused
    multiply-adds: values differ from torch's in the last bits, so a mask may differ where the interpolated logit is
    within about 1e-6 of the threshold.

    Examples
    --------
    >>> import numpy as np
    >>> from runtime.kernels import logits_to_masks
    >>> logits = np.float32([[[-1, 1, 9], [-1, 3, 9]]])
    >>> masks, boxes, areas = logits_to_masks(logits, crop=(2, 2), size=(2, 4))
    >>> masks.astype(int)
    array([[[0, 0, 1, 1],
            [0, 0, 1, 1]]])
    >>> boxes, areas
    (array([[2, 0, 3, 1]]), array([4]))
    """
    masks, boxes, areas = native_kernels().logits_to_masks(
        logits_for_kernels(logits, (3,)),
        rows_and_columns(crop, "crop"),
        rows_and_columns(size, "size"),
        float(threshold),
        bool(inclusive),
    )
    return masks, boxes, areas


def logits_to_mask(
    logits: NDArray[np.float32],
    *,
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    inclusive: bool = False,
) -> tuple[NDArray[np.bool_], tuple[int, int, int, int] | None, int]:
    """Bring one map of logits to the image's size and threshold it.

    Parameters
    ----------
    logits : ndarray of float32, shape (h, w)
        The map.
    crop, size, threshold, inclusive
        As for `logits_to_masks`.

    Returns
    -------
    mask : ndarray of bool, shape (H, W)
        The mask.
    box : tuple of int, or None
        Tight xyxy box in image pixels, both ends inclusive; None where the mask is empty.
    area : int
        Pixels of the mask.

    Raises
    ------
    TypeError, ValueError, BackendUnavailable
        As for `logits_to_masks`.
    """
    masks, boxes, areas = native_kernels().logits_to_masks(
        logits_for_kernels(logits, (2,)),
        rows_and_columns(crop, "crop"),
        rows_and_columns(size, "size"),
        float(threshold),
        bool(inclusive),
    )
    return masks[0], box_or_none(boxes[0]), int(areas[0])


def mask_box(mask: NDArray[np.bool_]) -> tuple[tuple[int, int, int, int] | None, int]:
    """Find the tight box and the area of a mask.

    Parameters
    ----------
    mask : ndarray of bool, shape (H, W)
        Any strides.

    Returns
    -------
    box : tuple of int, or None
        xyxy, both ends inclusive; None where the mask is empty.
    area : int
        Pixels of the mask.

    Raises
    ------
    TypeError
        If the mask is not bool.
    ValueError
        If the mask is not 2-D or has no pixels.
    BackendUnavailable
        If the compiled module is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from runtime.kernels import mask_box
    >>> mask_box(np.array([[False, True, True, False], [False, True, False, False]]))
    ((1, 0, 2, 1), 3)
    """
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        msg = f"mask: dtype {array.dtype}, wanted bool"
        raise TypeError(msg)
    box, area = native_kernels().mask_box(contiguous(array))
    return box_or_none(box), int(area)


def resize_logits(logits: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize logits bilinearly, for systems that enlarge them in two steps.

    Parameters
    ----------
    logits : ndarray of float32, shape (h, w) or (N, h, w)
        One map or N of them; other float dtypes are converted.
    size : tuple of int
        (rows, columns) of the result.

    Returns
    -------
    resized : ndarray of float32, shape (rows, columns) or (N, rows, columns)
        Half-pixel centres, no smoothing, float32 arithmetic; see the notes of `logits_to_masks`.

    Raises
    ------
    TypeError
        If the logits are not floating point, or the size is not two integers.
    ValueError
        If the logits have another rank or no pixels, or a side of the size is 0 or too large.
    BackendUnavailable
        If the compiled module is missing.
    """
    stack = logits_for_kernels(logits, (2, 3))
    resized: NDArray[np.float32] = native_kernels().resize_logits(stack, rows_and_columns(size, "size"))
    return resized if np.ndim(logits) == 3 else resized[0]

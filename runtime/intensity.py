"""Which intensities become black and white: window presets, and the choice among them.

Knows volumes and numbers; knows no encoder. A window is applied on demand, slice by slice; the volume is
never copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import kernels
from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume

__all__ = ["PRESETS", "Window", "choose_window"]

PRESETS: dict[str, tuple[float, float]] = {
    "soft-tissue": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
    "brain": (40.0, 80.0),
    "bone": (400.0, 1800.0),
}
"""(level, width) in Hounsfield units by name."""

_CT_MINIMUM = -500.0
_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True, slots=True)
class Window:
    """Linear map of intensities to 0..255.

    Attributes
    ----------
    lower, upper : float
        Intensities that become 0 and 255; limited to the range of the volume.
    level, width : float
        The window as it was asked for or chosen, before that limit.
    origin : {"explicit", "preset", "dicom", "ct", "percentile"}
        What chose it.
    zero_stays_zero : bool
        Whether voxels of exactly 0 (background of MR and others) become 0.
    """

    lower: float
    upper: float
    level: float
    width: float
    origin: str
    zero_stays_zero: bool = False

    def apply(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Convert intensities to uint8: ``(x - lower) / (upper - lower) * 255``, clipped and truncated.

        Parameters
        ----------
        image : ndarray, any shape
            Intensities; NaN becomes 0.

        Returns
        -------
        pixels : ndarray of uint8, same shape
            A new array. All zero where ``upper`` does not exceed ``lower``.
        """
        return kernels.window_to_uint8(image, self.lower, self.upper, zero_stays_zero=self.zero_stays_zero)


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Slices along the axis with the largest stride, so that no pass copies more than one of them."""
    axis = int(np.argmax(np.abs(array.strides)))
    yield from np.moveaxis(array, axis, 0)


def _range(array: NDArray[Any]) -> tuple[float, float]:
    if array.dtype.kind in "ui":
        return float(array.min()), float(array.max())
    low, high = math.inf, -math.inf
    for slab in _slabs(array):
        finite = slab[np.isfinite(slab)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:
        msg = "the image holds no finite intensity; nothing can be segmented in it"
        raise ImageError(msg)
    return low, high


def _positive_percentiles(array: NDArray[Any]) -> tuple[float, float] | None:
    """Percentiles of the voxels above 0, linearly interpolated as `numpy.percentile`; None without any."""
    if array.dtype.kind in "ui" and array.dtype.itemsize <= 2:
        return _histogram_percentiles(array)
    kept = [slab[np.isfinite(slab) & (slab > 0)] for slab in _slabs(array)]
    values = np.concatenate(kept)
    if not values.size:
        return None
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(high)


def _histogram_percentiles(array: NDArray[Any]) -> tuple[float, float] | None:
    """The same from a histogram, which needs no copy of a 16-bit volume."""
    counts = np.zeros(1 << 16, dtype=np.int64)
    for slab in _slabs(array):
        values = slab[slab > 0].astype(np.uint16)
        counts += np.bincount(values, minlength=1 << 16)
    total = int(counts.sum())
    if not total:
        return None
    cumulative = np.cumsum(counts)

    def at(percentile: float) -> float:
        place = (total - 1) * percentile / 100.0
        below = math.floor(place)
        first, second = np.searchsorted(cumulative, [below, min(below + 1, total - 1)], side="right")
        return float(first + (second - first) * (place - below))

    return at(_PERCENTILES[0]), at(_PERCENTILES[1])


def _parse(requested: str | tuple[float, float]) -> tuple[float, float, str]:
    if isinstance(requested, str) and requested in PRESETS:
        return (*PRESETS[requested], "preset")
    try:
        parts = requested.split(",") if isinstance(requested, str) else requested
        level, width = (float(part) for part in parts)
    except (TypeError, ValueError) as error:
        msg = f"window {requested!r}: wanted LEVEL,WIDTH or one of {', '.join(PRESETS)}"
        raise PromptError(msg) from error
    if not (math.isfinite(level) and math.isfinite(width) and width > 0):
        msg = f"window {requested!r}: wanted a finite level and a width above 0"
        raise PromptError(msg)
    return level, width, "explicit"


def choose_window(volume: Volume, requested: str | tuple[float, float] | None = None) -> Window | None:
    """Choose how a volume's intensities become uint8.

    In this order: what was asked for; the window of the DICOM file; soft tissue for CT (by DICOM modality,
    or a minimum below -500); the 0.5 to 99.5 percentile of the voxels above 0. As in the CVPR 2024 challenge
    "Segment Anything in Medical Images on Laptop", the bounds are then limited to the volume's own range,
    and with percentiles voxels of exactly 0 stay 0.

    Parameters
    ----------
    volume : Volume
        The volume.
    requested : str or tuple of 2 float, optional
        ``"LEVEL,WIDTH"``, a name out of `PRESETS`, or (level, width).

    Returns
    -------
    window : Window or None
        None where the image is uint8 already and nothing was asked for: it is then used as it is.

    Raises
    ------
    PromptError
        If ``requested`` is not a window.
    ImageError
        If the volume holds no finite intensity.
    """
    array = volume.array
    asked = None if requested is None else _parse(requested)
    if asked is None and array.dtype == np.uint8:
        return None
    minimum, maximum = _range(array)
    if asked is not None:
        level, width, origin = asked
    elif volume.window is not None:
        (level, width), origin = volume.window, "dicom"
    elif volume.modality == "CT" or minimum < _CT_MINIMUM:
        (level, width), origin = PRESETS["soft-tissue"], "ct"
    else:
        low, high = _positive_percentiles(array) or (minimum, maximum)
        level, width, origin = low + (high - low) / 2, high - low, "percentile"
        return Window(max(low, minimum), min(high, maximum), level, width, origin, zero_stays_zero=True)
    lower, upper = level - width / 2, level + width / 2
    return Window(max(lower, minimum), min(upper, maximum), level, width, origin)

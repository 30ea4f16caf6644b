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
_DIGIT_BITS = 16


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
    """Percentiles of the voxels above 0, linearly interpolated as `numpy.percentile`; None without any.

    Found without a copy of the volume: the bits of positive numbers, read as an unsigned integer, have the order of
    the numbers, so each pass over the slabs counts the next 16 bits of those that may still be the ones wanted.
    """
    bits = 8 * array.dtype.itemsize
    digit = min(bits, _DIGIT_BITS)
    counts = _digit_counts(array, {0}, bits - digit, digit)
    total = int(counts[0].sum())
    if not total:
        return None
    places = [(total - 1) * percentile / 100.0 for percentile in _PERCENTILES]
    ranks = {rank for place in places for rank in (math.floor(place), min(math.floor(place) + 1, total - 1))}
    found = {rank: (0, rank) for rank in ranks}  # rank -> leading bits, rank among the numbers that have them
    for shift in range(bits - digit, -1, -digit):
        if shift < bits - digit:
            counts = _digit_counts(array, {prefix for prefix, _ in found.values()}, shift, digit)
        for rank, (prefix, left) in found.items():
            cumulative = np.cumsum(counts[prefix])
            step = int(np.searchsorted(cumulative, left, side="right"))
            found[rank] = (prefix << digit | step, left - (int(cumulative[step - 1]) if step else 0))
    native = array.dtype.newbyteorder("=")
    values = {rank: float(np.array(key, dtype=f"u{native.itemsize}").view(native)) for rank, (key, _) in found.items()}

    def at(place: float) -> float:
        first, second = values[math.floor(place)], values[min(math.floor(place) + 1, total - 1)]
        return first + (second - first) * (place - math.floor(place))

    return at(places[0]), at(places[1])


def _digit_counts(array: NDArray[Any], leading: set[int], shift: int, digit: int) -> dict[int, NDArray[np.int64]]:
    """How often each digit follows each of the leading bits, among the positive finite values."""
    counts = {prefix: np.zeros(1 << digit, dtype=np.int64) for prefix in leading}
    for slab in _slabs(array):
        above = slab > 0 if slab.dtype.kind in "ui" else (slab > 0) & np.isfinite(slab)
        kept = slab[above].astype(slab.dtype.newbyteorder("="), copy=False)
        keys = kept.view(f"u{kept.dtype.itemsize}")  # in the same order
        kind = keys.dtype.type
        for prefix in leading:
            part = keys if shift + digit == 8 * keys.itemsize else keys[keys >> kind(shift + digit) == prefix]
            low = part >> kind(shift) & kind((1 << digit) - 1)
            counts[prefix] += np.bincount(low.astype(np.int64), minlength=1 << digit)
    return counts


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

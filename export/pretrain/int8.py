"""INT8 graphs beside the float ones of a trained bundle, calibrated on images that the generator draws.

Knows drawn images and `export.quantize`. Must not know training, nor how a graph is quantised.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from export._calibration import divided
from export._drawn_images import drawn_samples
from export.quantize import QuantizeOptions, Report, quantize_folder

__all__ = ["add_int8"]

_IMAGES = 60
_MAX_DROP = 0.65
"""Dice points that INT8 may cost on drawn images, most of whose objects are fainter than real ones: on 183 objects of
the development images graphs made with 0.5, 0.65 and 0.8 cost 0.34, 0.39 and 0.48, and those made with 0.8 followed one
organ of seven volumes into its neighbour."""


def add_int8(
    folder: Path, *, images: int = _IMAGES, max_drop: float = _MAX_DROP, report: Callable[[str], None] = lambda _: None
) -> Report:
    """Give a bundle that `write_bundle` just wrote its INT8 graphs, and store its float weights in float16.

    BundleError where the masks would differ from those of float32 by more than `max_drop` Dice points.
    """
    options = QuantizeOptions(max_drop=max_drop, report=report)
    return quantize_folder(folder, divided(drawn_samples(images), drawn=True), options)

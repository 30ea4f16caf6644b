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
_MAX_DROP = 0.8
"""Dice points that INT8 may cost on drawn images, most of whose objects are fainter than real ones: on 183 objects of the
development images the graphs made with this limit cost 0.48, with 0.65 0.39, with 0.5 0.34."""


def add_int8(
    folder: Path, *, images: int = _IMAGES, max_drop: float = _MAX_DROP, report: Callable[[str], None] = lambda _: None
) -> Report:
    """Give a bundle that `write_bundle` just wrote its INT8 graphs, and store its float weights in float16.

    BundleError where the masks would differ from those of float32 by more than `max_drop` Dice points.
    """
    options = QuantizeOptions(max_drop=max_drop, report=report)
    return quantize_folder(folder, divided(drawn_samples(images), drawn=True), options)

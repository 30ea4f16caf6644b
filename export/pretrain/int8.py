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

_IMAGES = 90


def add_int8(folder: Path, *, report: Callable[[str], None] = lambda _: None) -> Report:
    """Give a bundle that `write_bundle` just wrote its INT8 graphs, and store its float weights in float16.

    BundleError where the masks would differ from those of float32 by more than half a Dice point.
    """
    return quantize_folder(folder, divided(drawn_samples(_IMAGES), drawn=True), QuantizeOptions(report=report))

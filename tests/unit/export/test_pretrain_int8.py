"""INT8 graphs of the model that is trained here: drawn calibration images, the shipped bundle quantised with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")
pytest.importorskip("nncf", reason="the export extra is not installed")

from export._drawn_images import drawn_samples
from export.pretrain.int8 import add_int8
from runtime.bundle import DEFAULT_BUNDLE, available_bundles, open_bundle


def test_drawn_images_are_the_same_every_time_and_their_boxes_lie_inside() -> None:
    samples, again = drawn_samples(3), drawn_samples(3)
    for sample, other in zip(samples, again, strict=True):
        assert sample.image.shape == (256, 256, 3)
        assert sample.image.dtype == np.uint8
        np.testing.assert_array_equal(sample.image, other.image)
        np.testing.assert_array_equal(sample.boxes, other.boxes)
        assert sample.boxes.shape == (3, 4)
        assert (sample.boxes >= 0).all()
        assert (sample.boxes <= 255).all()
        assert (sample.boxes[:, :2] <= sample.boxes[:, 2:]).all()
    assert not np.array_equal(samples[0].image, samples[1].image)


@pytest.mark.slow
def test_the_shipped_bundle_quantises_within_half_a_point(tmp_path: Path) -> None:
    shipped = next(one.folder for one in available_bundles() if one.name == DEFAULT_BUNDLE)
    folder = tmp_path / "bundle"
    shutil.copytree(shipped, folder)
    report = add_int8(folder)
    bundle = open_bundle(folder)
    assert min(report.dice.values()) >= 0.995
    assert report.bytes_after <= 12_000_000
    assert set(bundle.manifest.graphs) == {"float", "int8"}
    assert min(report.quantised.values()) > 0

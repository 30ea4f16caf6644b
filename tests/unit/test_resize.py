"""Resizing rules of published systems: their goldens, and what every resize must keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from published import manifest

from runtime._resize import enlarge_lanczos, resize_bicubic_antialias, resize_bilinear, resize_bilinear_antialias
from runtime.transforms import encoder_input, frame_of

Resize = Callable[[NDArray[np.uint8], tuple[int, int]], NDArray[np.uint8]]
RESIZES = [resize_bilinear, resize_bilinear_antialias, resize_bicubic_antialias]

PUBLISHED = {
    "medficientsam_l0": {
        "input": {"size": [512, 512], "interpolation": "bilinear"},
    },
    "medsam": {
        "input": {"size": [1024, 1024], "resize": "stretch", "pad": "none", "interpolation": "bicubic_antialias"},
    },
    "sam_vit_b": {
        "input": {
            "size": [1024, 1024],
            "interpolation": "bilinear_antialias",
            "normalise": {
                "kind": "mean_std",
                "mean": [123.675, 116.28, 103.53],
                "std": [58.395, 57.12, 57.375],
            },
        },
    },
}


@pytest.mark.parametrize("case", [0, 1])
@pytest.mark.parametrize("system", PUBLISHED)
def test_encoder_inputs_equal_those_of_the_published_code(system: str, case: int, shared: Path) -> None:
    facts = manifest(PUBLISHED[system])
    golden = np.load(shared / "conformance" / system / f"case_{case}.npz")
    image = golden["image"]
    tensor = encoder_input(image, facts.input, frame_of(facts, image.shape[:2]))
    sample = tensor.reshape(-1)[:: int(golden["encoder_input_stride"])]
    np.testing.assert_array_equal(sample, golden["encoder_input_sample"])


def test_an_image_is_enlarged_by_lanczos_and_otherwise_left_to_area() -> None:
    rng = np.random.default_rng(0)
    facts = {name: manifest({"input": {"size": [64, 64], "interpolation": name}}) for name in ("area", "area_lanczos")}
    for shape, grows in (((30, 41), True), ((30, 41, 3), True), ((64, 40), False), ((90, 71), False)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        frame = frame_of(facts["area"], shape[:2])
        area, lanczos = (encoder_input(image, one.input, frame) for one in facts.values())
        assert np.array_equal(area, lanczos) != grows
        assert (enlarge_lanczos(image, frame.resized_size) is image) != grows


def test_lanczos_passes_through_what_it_enlarges_and_overshoots_at_edges_alone() -> None:
    ramp = np.repeat(np.arange(20, 220, 10, dtype=np.uint8)[np.newaxis], 20, axis=0)
    inner = enlarge_lanczos(ramp, (60, 60))[30, 12:48].astype(int)
    assert np.abs(inner - (20 + 10 * ((np.arange(12, 48) + 0.5) / 3 - 0.5))).max() <= 2
    step = np.repeat(np.array([50] * 10 + [200] * 10, np.uint8)[np.newaxis], 20, axis=0)
    wide = enlarge_lanczos(step, (60, 60))[30]
    assert wide.min() < 50 < 200 < wide.max()
    assert set(np.unique(wide[[0, 10, 49, 59]])) == {50, 200}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(7, 31), (40, 12), (1, 1), (33, 20)])
def test_a_constant_image_stays_constant(resize: Resize, size: tuple[int, int]) -> None:
    image = np.full((20, 33, 3), 117, np.uint8)
    resized = resize(image, size)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    # The cubic spline is truncated, so rounding errors may take it one level down.
    assert set(np.unique(resized)) <= ({116, 117} if resize is resize_bicubic_antialias else {117})


@pytest.mark.parametrize("resize", RESIZES)
def test_rows_and_columns_are_treated_alike(resize: Resize) -> None:
    image = np.random.default_rng(3).integers(0, 256, (24, 17), dtype=np.uint8)
    turned = resize(np.ascontiguousarray(image.T), (30, 11)).T
    # Rounding between the two passes may differ by one level.
    assert np.abs(resize(image, (11, 30)).astype(int) - turned).max() <= 1


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (1, 1)])
def test_images_of_one_pixel_a_side_are_resized(resize: Resize, shape: tuple[int, int]) -> None:
    image = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape) * 20
    resized = resize(image, (5, 6))
    assert resized.shape == (5, 6)
    assert image.min() <= resized.min() <= resized.max() <= image.max()

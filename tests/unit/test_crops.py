"""What is cut from an image at a box: which pixels, resized how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime._resize import resize_bilinear_antialias, resize_bilinear_antialias_float
from runtime.crops import crop_arrays
from runtime.manifest import Crop


def crop(size: tuple[int, int], **changes: Any) -> Crop:
    facts = {"name": "crops", "size": size, "interpolation": "area", "normalise": {"kind": "scale"}, **changes}
    return msgspec.convert(facts, Crop)


def picture(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_both_edges_of_a_box_belong_to_it_unless_the_far_one_is_excluded() -> None:
    image = picture(9, 12, 3)
    inclusive = crop_arrays(crop((4, 5)), image, np.array([[2, 3, 6, 6]]))
    np.testing.assert_array_equal(inclusive[0], np.float32(image[3:7, 2:7].transpose(2, 0, 1) / 255))
    exclusive = crop_arrays(crop((3, 4), far_edge="exclusive"), image, np.array([[2, 3, 6, 6]]))
    np.testing.assert_array_equal(exclusive[0], np.float32(image[3:6, 2:6].transpose(2, 0, 1) / 255))


def test_grey_is_repeated_over_three_planes() -> None:
    image = picture(9, 12)
    for interpolation in ("area", "bilinear_antialias_float"):
        found = crop_arrays(crop((4, 4), interpolation=interpolation), image, np.array([[0, 0, 3, 3]]))
        np.testing.assert_array_equal(found[0], np.float32(np.stack([image[:4, :4]] * 3) / 255))


@given(st.lists(st.floats(-20, 40), min_size=4, max_size=4), st.sampled_from(["inclusive", "exclusive"]))
def test_a_box_holds_a_pixel_at_least_and_none_beyond_the_image(ends: list[float], far_edge: str) -> None:
    (x0, x1), (y0, y1) = sorted(ends[:2]), sorted(ends[2:])
    image = np.arange(1, 9 * 12 + 1, dtype=np.uint8).reshape(9, 12)
    found = crop_arrays(crop((2, 2), far_edge=far_edge), image, np.array([[x0, y0, x1, y1]]))
    assert found.shape == (1, 3, 2, 2)
    assert found.min() >= np.float32(1 / 255)


def test_every_box_has_its_own_crop() -> None:
    image, boxes = picture(40, 30, 3), np.array([[0, 0, 9, 9], [5, 20, 29, 39], [7, 7, 7, 7]])
    spec = crop((16, 16), interpolation="bilinear_antialias_float")
    together = crop_arrays(spec, image, boxes)
    for index in range(3):
        np.testing.assert_array_equal(together[index], crop_arrays(spec, image, boxes[index : index + 1])[0])


@pytest.mark.parametrize("kind", ["scale", "min_max", "mean_std"])
@pytest.mark.parametrize("interpolation", ["area", "bilinear_antialias_float"])
def test_normalising_is_as_for_the_encoder(kind: str, interpolation: str) -> None:
    image = picture(20, 20, 3)
    numbers = {"mean": [10, 20, 30], "std": [2, 4, 8]} if kind == "mean_std" else {}
    normalise = {"kind": kind, **numbers}
    found = crop_arrays(crop((20, 20), interpolation=interpolation, normalise=normalise), image, np.array([[0] * 4]))
    level = image[0, 0].astype(np.float64)
    levels = {
        "scale": level / 255,
        "min_max": (level - level.min()) / max(level.max() - level.min(), 1e-8),
        "mean_std": (level - numbers.get("mean", [0] * 3)) / numbers.get("std", [1] * 3),
    }
    np.testing.assert_allclose(found[0], np.broadcast_to(levels[kind][:, None, None], (3, 20, 20)), atol=1e-6)


@pytest.mark.parametrize("size", [(7, 31), (40, 12), (64, 64), (1, 1)])
def test_the_resize_in_floats_is_the_one_in_bytes_but_for_rounding(size: tuple[int, int]) -> None:
    image = picture(33, 20, 3)
    floats, levels = resize_bilinear_antialias_float(image, size), resize_bilinear_antialias(image, size)
    assert floats.dtype == np.float32
    assert floats.shape == (*size, 3)
    np.testing.assert_allclose(floats, levels, atol=1.01)
    np.testing.assert_array_equal(floats[:, :, 1], resize_bilinear_antialias_float(image[:, :, 1], size))


def test_enlarging_in_floats_interpolates_between_neighbours() -> None:
    image = picture(9, 12)
    wanted = cv2.resize(image.astype(np.float32), (50, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resize_bilinear_antialias_float(image, (40, 50)), wanted, atol=1e-3)


@pytest.mark.parametrize("case", [0, 1])
def test_crops_are_those_of_the_published_code(case: int, shared: Path) -> None:
    golden = np.load(shared / "conformance" / "mcp_medsam" / f"case_{case}.npz")
    changes = {"interpolation": "bilinear_antialias_float", "far_edge": "exclusive"}
    found = crop_arrays(crop((64, 64), **changes), golden["image"], golden["boxes"])
    np.testing.assert_allclose(found, golden["crops"], atol=1e-6)
    found = crop_arrays(crop((224, 224), **changes), golden["image"], golden["boxes"])
    sample = found.reshape(len(found), -1)[:, :: int(golden["clip_input_stride"])]
    np.testing.assert_allclose(sample, golden["clip_input_sample"], atol=1e-6)

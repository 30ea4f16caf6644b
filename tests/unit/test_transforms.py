"""Between an image and the input frame: sizes, coordinates, and the goldens of published systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from published import CASES, LITE, PLACED, golden, manifest, manifest_of

from runtime.errors import BundleError, ImageError
from runtime.transforms import (
    check_supported,
    encoder_input,
    frame_of,
)

STRETCH = {"input": {"size": [320, 192], "resize": "stretch", "pad": "none"}}

# Frames


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((300, 217), (256, 185)),  # 185.17
        ((512, 512), (256, 256)),
        ((64, 128), (128, 256)),  # enlarged
        ((3, 1024), (1, 256)),  # 0.75
        ((1, 1024), (1, 256)),  # 0.25: at least one pixel
        ((1024, 2), (256, 1)),  # exactly 0.5, rounded up
        ((101, 99), (256, 251)),  # 250.93
        ((99, 101), (251, 256)),
        ((1, 1), (256, 256)),
    ],
)
def test_the_longest_side_fills_the_input_and_the_other_is_rounded_half_up(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    frame = frame_of(manifest(), size)
    assert frame.resized_size == resized
    assert frame.original_size == size
    assert frame.input_size == (256, 256)
    assert frame.scale_xy == (256 / max(size), 256 / max(size))


def test_stretching_fills_the_input_with_a_factor_of_its_own_for_each_axis() -> None:
    frame = frame_of(manifest(STRETCH), (40, 96))
    assert frame.resized_size == frame.input_size == (320, 192)
    assert frame.scale_xy == (2.0, 8.0)


def test_scaling_by_edges_keeps_what_a_box_covers() -> None:
    frame = frame_of(manifest({"input": {"coordinates": "edges"}}), (64, 128))  # twice enlarged
    np.testing.assert_array_equal(frame.boxes_to_input(np.array([[0, 0, 127, 63]])), [[0, 0, 255, 127]])
    np.testing.assert_array_equal(frame.boxes_to_input(np.array([[5, 6, 5, 6]])), [[10, 12, 11, 13]])
    np.testing.assert_array_equal(frame.points_to_input(np.array([[5.0, 6.0]])), [[10.5, 12.5]])


def test_scaling_by_edges_never_turns_a_small_box_inside_out() -> None:
    facts = manifest({"input": {"coordinates": "edges"}, "prompts": {"box": {"rounding": "none"}}})
    frame = frame_of(facts, (512, 1024))  # shrunk to a quarter
    np.testing.assert_array_equal(frame.boxes_to_input(np.array([[10, 20, 10, 27]])), [[2.125, 5, 2.125, 6]])


@pytest.mark.parametrize("size", [(h, w) for h in (1, 2, 255, 257, 4096) for w in (1, 3, 256, 1000)])
def test_the_resized_image_always_fits_the_input(size: tuple[int, int]) -> None:
    rows, columns = frame_of(manifest(), size).resized_size
    assert 1 <= rows <= 256
    assert 1 <= columns <= 256
    assert max(rows, columns) == 256


# Coordinates


def test_boxes_are_multiplied_and_cut_towards_zero_where_the_bundle_asks() -> None:
    frame = frame_of(manifest(), (300, 217))
    boxes = [[10, 20, 80, 90], [0, 0, 216, 299]]
    wanted = np.trunc(np.array(boxes) * (256 / 300)).astype(np.float32)
    np.testing.assert_array_equal(frame.boxes_to_input(np.array(boxes)), wanted, strict=True)
    exact = np.array(boxes) * (256 / 300)
    np.testing.assert_allclose(frame.boxes_to_input(np.array(boxes), rounded=False), exact, rtol=1e-6)


def test_boxes_keep_their_fractions_where_the_bundle_does_not_round() -> None:
    frame = frame_of(manifest({**STRETCH, "prompts": {"box": {"rounding": "none"}}}), (40, 96))
    found = frame.boxes_to_input(np.array([[1, 2.5, 3, 4]]))
    np.testing.assert_array_equal(found, np.array([[2, 20, 6, 32]], np.float32), strict=True)


def test_coordinates_beyond_the_upper_left_pixel_are_cut_towards_zero_not_down() -> None:
    frame = frame_of(manifest(), (512, 512))
    assert frame.boxes_to_input(np.array([[-0.5, -0.5, 3, 3]])).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("shape", [(0, 2), (3, 2), (2, 5, 2)])
def test_points_are_multiplied_and_never_rounded(shape: tuple[int, ...]) -> None:
    frame = frame_of(manifest(STRETCH), (40, 96))
    points = np.random.default_rng(0).uniform(0, 40, shape)
    np.testing.assert_array_equal(frame.points_to_input(points), (points * [2, 8]).astype(np.float32), strict=True)


# The encoder's input


def reference_input(image: NDArray[np.uint8], size: int = 256) -> NDArray[np.float32]:
    """LiteMedSAM's preprocessing, with OpenCV."""
    height, width = image.shape[:2]
    factor = size / max(height, width)
    shape = (int(width * factor + 0.5), int(height * factor + 0.5))
    small = cv2.resize(image, shape, interpolation=cv2.INTER_AREA).astype(np.float64)
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    small = (small - small.min()) / max(small.max() - small.min(), 1e-8)
    tensor = np.zeros((1, 3, size, size), np.float32)
    tensor[0, :, : shape[1], : shape[0]] = small.transpose(2, 0, 1)
    return tensor


@pytest.mark.parametrize("shape", [(300, 217), (41, 97, 3), (256, 256), (1, 300), (600, 513, 3)])
def test_the_encoder_input_is_that_of_the_published_script(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(3, 250, shape, dtype=np.uint8)
    facts = manifest()
    tensor = encoder_input(image, facts.input, frame_of(facts, shape[:2]))
    np.testing.assert_array_equal(tensor, reference_input(image), strict=True)


def test_the_encoder_input_does_not_depend_on_strides() -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 70), dtype=np.uint8)
    facts = manifest()
    turned = np.asfortranarray(image)[::-1, ::-1]
    frame = frame_of(facts, (50, 70))
    plain = encoder_input(np.ascontiguousarray(turned), facts.input, frame)
    np.testing.assert_array_equal(encoder_input(turned, facts.input, frame), plain)


def test_a_constant_image_gives_zeros_and_no_warning() -> None:
    facts = manifest()
    tensor = encoder_input(np.full((30, 20), 7, np.uint8), facts.input, frame_of(facts, (30, 20)))
    assert tensor.max() == tensor.min() == 0


def test_a_colour_image_for_an_encoder_with_one_channel_is_refused() -> None:
    facts = manifest({"input": {"channels": 1}})
    with pytest.raises(ImageError, match=r"image with 3 channels: this bundle's encoder takes 1"):
        encoder_input(np.zeros((4, 5, 3), np.uint8), facts.input, frame_of(facts, (4, 5)))


# What this version does not do yet

CROP = {
    "name": "crops",
    "size": [64, 64],
    "interpolation": "bilinear_antialias_float",
    "normalise": {"kind": "scale"},
}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input": {"size": [256, 320]}}, r"input.size that is not square with the longest-side rule"),
        (
            {"prompts": {"box": {"use": "optional"}, "crops": [CROP]}},
            r"prompts.crops without a required box",
        ),
        ({"output": {"implicit": True}}, r"output.implicit with input.resize longest_side"),
        (
            {
                "input": {"resize": "stretch", "pad": "none"},
                "output": {"implicit": True, "upsample": "via_input"},
                "prompts": {"mask": {"kind": "logits", "size": [64, 64]}},
            },
            r"output.implicit with output.upsample via_input; output.implicit with prompts.mask of kind logits",
        ),
        ({"prompts": {"box": None, "points": {}}}, r"prompts.points or prompts.mask without boxes for the decoder"),
        (
            {"prompts": {"box": {"use": "limits_mask"}, "mask": {"kind": "logits", "size": [64, 64]}}},
            r"prompts.points or prompts.mask without boxes for the decoder",
        ),
    ],
)
def test_a_bundle_that_asks_for_more_is_refused_by_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(BundleError, match=rf"bundle 'published' needs {text}.*; use a newer version"):
        check_supported(manifest(changes))


def test_everything_that_is_missing_is_named_at_once() -> None:
    with pytest.raises(BundleError, match=r"needs input.size that .* rule; prompts.points or .* decoder, which"):
        check_supported(manifest({"input": {"size": [256, 320]}, "prompts": {"box": None, "points": {}}}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        STRETCH,
        {"input": {"interpolation": "linear"}},
        {"prompts": {"box": {"use": "optional"}, "points": {}, "mask": {"kind": "logits", "size": [64, 64]}}},
        {"output": {"activation": "sigmoid", "threshold": 0.5, "upsample": "via_input", "inclusive": True}},
        {"prompts": {"modality": "required"}, "modalities": ["CT"]},
        {"prompts": {"points": {"derived": "box_quarters"}}},
        {"prompts": {"crops": [CROP], "vectors": {"content": 8}}},
        {"prompts": {"box": None}},
        {"input": {"resize": "stretch", "pad": "none", "spectrum": "waves"}, "output": {"implicit": True}},
        {"prompts": {"box": {"use": "limits_mask"}, "modality": "required"}, "modalities": ["CT"]},
        {"prompts": {"mask": {"kind": "scribble", "size": [64, 64], "derived": "box_stroke"}}},
    ],
)
def test_what_this_version_does_is_let_through(changes: dict[str, Any]) -> None:
    check_supported(manifest(changes))


# Goldens of published systems


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", LITE)
def test_the_encoder_input_equals_the_golden(conformance: Path, system: str, case: str) -> None:
    data = golden(conformance, system, case)
    facts = manifest_of(system)
    image = data["image"]
    tensor = encoder_input(image, facts.input, frame_of(facts, image.shape[:2]))
    np.testing.assert_array_equal(tensor, data["encoder_input"], strict=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", PLACED[:-1])
def test_the_prompt_boxes_equal_the_golden(conformance: Path, system: str, case: str) -> None:
    data = golden(conformance, system, case)
    frame = frame_of(manifest_of(system), data["image"].shape[:2])
    found = frame.boxes_to_input(data["boxes"])
    if system in LITE or system.startswith("medficientsam"):
        np.testing.assert_array_equal(found, data["prompt_boxes"], strict=True)
    else:  # not rounded, so the order of two multiplications shows in the last bit
        np.testing.assert_allclose(found, data["prompt_boxes"], rtol=1e-6)


def test_the_prompt_boxes_of_sam_equal_the_golden(conformance: Path) -> None:
    data = golden(conformance, "sam_vit_b", "case_0")
    assert manifest_of("sam_vit_b").input.coordinates == "resized"
    frame = frame_of(manifest_of("sam_vit_b"), data["image"].shape[:2])
    np.testing.assert_allclose(frame.boxes_to_input(data["boxes"]), data["prompt_boxes"], rtol=1e-6)

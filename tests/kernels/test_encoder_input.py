"""encoder_input against its steps one by one, and against the encoder inputs of published systems."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from layouts import Layout

from runtime import kernels
from runtime.kernels import InputOptions

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
NORMALISATIONS: tuple[dict[str, Any], ...] = (
    {"normalise": "min_max"},
    {"normalise": "mean_std", "mean": MEAN, "std": STD},
    {"normalise": "scale"},
)
SIZES = [
    ((300, 217), (64, 46), (64, 64)),
    ((64, 64), (32, 32), (32, 32)),
    ((20, 33), (39, 64), (64, 64)),
    ((31, 47), (31, 47), (32, 48)),
    ((1, 9), (1, 16), (16, 16)),
    ((50, 40), (48, 80), (48, 80)),
]


@pytest.mark.parametrize("normalisation", NORMALISATIONS, ids=lambda chosen: chosen["normalise"])
@pytest.mark.parametrize("interpolation", ["area", "linear"])
@pytest.mark.parametrize(("shape", "resized_size", "input_size"), SIZES)
@pytest.mark.parametrize("channels", [(), (1,), (3,)], ids=str)
def test_the_fused_steps_equal_the_single_steps(
    shape: tuple[int, int], resized_size: tuple[int, int], input_size: tuple[int, int], channels: tuple[int, ...],
    interpolation: str, normalisation: dict[str, Any], rng: np.random.Generator,
) -> None:  # fmt: skip
    facts = {
        "resized_size": resized_size,
        "input_size": input_size,
        "interpolation": interpolation,
        **normalisation,
    }
    image = rng.integers(20, 231, shape + channels, dtype=np.uint8)
    tensor = kernels.encoder_input(image, InputOptions(**facts))
    assert tensor.shape == (1, 3, *input_size)
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, reference.encoder_input(image, **facts))


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "int64", "float16"]
)
@pytest.mark.parametrize("zero_stays_zero", [False, True])
def test_every_dtype_is_windowed_on_the_way(dtype: str, zero_stays_zero: bool, rng: np.random.Generator) -> None:
    image = rng.integers(0, 120, (90, 71)).astype(dtype)
    for interpolation, size in [("area", (41, 32)), ("area", (45, 32)), ("linear", (64, 50)), ("area", (90, 71))]:
        facts: dict[str, Any] = {
            "resized_size": size,
            "input_size": (96, 72),
            "interpolation": interpolation,
            "window": (-20.5, 90.25),
            "zero_stays_zero": zero_stays_zero,
        }
        tensor = kernels.encoder_input(image, InputOptions(**facts))
        np.testing.assert_array_equal(tensor, reference.encoder_input(image, **facts))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=str)
def test_the_layout_in_memory_does_not_matter(
    dtype: str, channels: tuple[int, ...], layout: Layout, rng: np.random.Generator
) -> None:
    image = rng.integers(0, 120, (19, 23, *channels)).astype(dtype)
    facts: dict[str, Any] = {"resized_size": (13, 16), "input_size": (16, 16), "window": (5.0, 100.0)}
    tensor = kernels.encoder_input(layout(image), InputOptions(**facts))
    np.testing.assert_array_equal(tensor, reference.encoder_input(image, **facts))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_numbers_of_channels_are_filled(channels: int, rng: np.random.Generator) -> None:
    for shape in [(9, 8), (9, 8, channels)]:
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        facts: dict[str, Any] = {
            "resized_size": (7, 6), "input_size": (8, 8), "channels": channels, "normalise": "mean_std",
            "mean": tuple(range(channels)), "std": tuple(range(1, channels + 1)),
        }  # fmt: skip
        tensor = kernels.encoder_input(image, InputOptions(**facts))
        np.testing.assert_array_equal(tensor, reference.encoder_input(image, **facts))


@pytest.mark.parametrize("level", [0, 77, 255])
def test_an_image_of_one_level_becomes_zero_under_min_max(level: int) -> None:
    image = np.full((20, 30), level, np.uint8)
    tensor = kernels.encoder_input(image, InputOptions(resized_size=(21, 32), input_size=(32, 32)))
    assert not tensor.any()


# The goldens


def _longest_side(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    scale = side / max(shape[:2])
    return int(shape[0] * scale + 0.5), int(shape[1] * scale + 0.5)


def _golden_options(system: str, shape: tuple[int, ...]) -> InputOptions:
    if system == "esp_medsam":
        means = (123.675, 116.28, 103.53)
        return InputOptions((1024, 1024), (1024, 1024), "linear", "mean_std", means, means)
    if system == "imedsam":
        return InputOptions((384, 384), (384, 384), "linear", "scale")
    return InputOptions(_longest_side(shape, 256), (256, 256))


@pytest.mark.parametrize("case", ["case_0", "case_1"])
@pytest.mark.parametrize(
    "system",
    ["lite_medsam", "daft", "rep_medsam", "swin_litemedsam", "mcp_medsam", "esp_medsam", "imedsam"],
)
def test_the_encoder_inputs_of_published_systems_are_met_exactly(conformance: Path, system: str, case: str) -> None:
    path = conformance / system / f"{case}.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} of {system} is not among the goldens")
    with np.load(path) as golden:
        image = golden["image"]
        tensor = kernels.encoder_input(image, _golden_options(system, image.shape))
        if "encoder_input" in golden.files:
            np.testing.assert_array_equal(tensor, golden["encoder_input"])
        else:
            sample = tensor.reshape(-1)[:: int(golden["encoder_input_stride"])]
            np.testing.assert_array_equal(sample, golden["encoder_input_sample"])


# Bad arguments

GREY = np.zeros((4, 4), np.uint8)


@pytest.mark.parametrize(
    ("image", "facts", "text"),
    [
        (GREY, {"resized_size": (9, 4)}, "resized_size: 9 x 4 does not fit into input_size 8 x 8"),
        (GREY, {"resized_size": (0, 4)}, "resized_size rows: 0, wanted 1 to"),
        (GREY, {"input_size": (8, 0)}, "input_size columns: 0, wanted 1 to"),
        (GREY, {"channels": 0}, "channels: 0, wanted 1 to 4"),
        (GREY, {"channels": 5}, "channels: 5, wanted 1 to 4"),
        (GREY, {"interpolation": "cubic"}, "interpolation: 'cubic', wanted 'area' or 'linear'"),
        (GREY, {"normalise": "z"}, "normalise: 'z', wanted 'min_max', 'mean_std' or 'scale'"),
        (GREY, {"normalise": "mean_std"}, "mean: 0 values, wanted 3, one a channel"),
        (GREY, {"normalise": "mean_std", "mean": MEAN, "std": (1, 1)}, "std: 2 values, wanted 3"),
        (GREY, {"normalise": "mean_std", "mean": MEAN, "std": (1, 0, 1)}, "std: 0, wanted a number to divide by"),
        (GREY, {"normalise": "mean_std", "mean": (1, np.nan, 1), "std": STD}, "mean: .*nan, wanted a finite number"),
        (GREY, {"window": (0.0, np.inf)}, "upper: inf, wanted a finite number"),
        (np.zeros((4, 4, 2), np.uint8), {}, "image: 2 channels, wanted 1 or 3"),
        (np.zeros((0, 4), np.uint8), {}, r"image: shape \(0, 4\), wanted sides"),
        (np.zeros(4, np.uint8), {}, "image: 1 dimensions, wanted 2 or 3"),
        (np.zeros((0, 4), np.int16), {"window": (0.0, 1.0)}, r"image: shape \(0, 4\), wanted sides"),
    ],
)
def test_facts_that_do_not_fit_are_refused(image: Any, facts: dict[str, Any], text: str) -> None:
    options = InputOptions(**{"resized_size": (4, 4), "input_size": (8, 8), **facts})
    with pytest.raises(ValueError, match=text):
        kernels.encoder_input(image, options)


def test_intensities_without_a_window_are_refused() -> None:
    with pytest.raises(TypeError, match=r"image: dtype int16, wanted uint8; give InputOptions\.window"):
        kernels.encoder_input(np.zeros((4, 4), np.int16), InputOptions((4, 4), (4, 4)))

"""Which intensities become black and white, and why: the order of choices and the challenge's arithmetic."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import intensity
from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume
from runtime.intensity import PRESETS, Window, choose_window

SHAPE = (19, 23, 7)


def ct(dtype: Any = np.int16, low: int = -1024, high: int = 1500, **facts: Any) -> Volume:
    values = np.random.default_rng(0).integers(low, high + 1, SHAPE)
    values.flat[:2] = low, high
    return Volume(values.astype(dtype), **facts)


def chosen(volume: Volume, requested: Any = None) -> Window:
    window = choose_window(volume, requested)
    assert window is not None
    return window


def challenge_uint8(array: NDArray[Any], lower: float, upper: float, *, zeros: bool) -> NDArray[np.uint8]:
    """The conversion of the challenge's preprocessing, as it is published: clip, min-max, 255, zeros stay."""
    clipped = np.clip(array.astype(np.float64), lower, upper)
    scaled = (clipped - clipped.min()) / (clipped.max() - clipped.min()) * 255.0
    if zeros:
        scaled[array == 0] = 0
    return scaled.astype(np.uint8)


# The order of choices


def test_uint8_is_taken_as_it_is_unless_a_window_is_asked_for() -> None:
    volume = Volume(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), window=(20.0, 10.0), modality="CT")
    assert choose_window(volume) is None
    assert chosen(volume, (20, 10)).origin == "explicit"


def test_what_was_asked_for_comes_before_everything() -> None:
    volume = ct(modality="CT", window=(50.0, 350.0))
    assert chosen(volume, "-600,1500").origin == "explicit"
    assert chosen(volume, "lung").origin == "preset"


def test_the_window_of_the_file_comes_before_the_one_for_ct() -> None:
    window = chosen(ct(modality="CT", window=(50.0, 350.0)))
    assert (window.origin, window.level, window.width) == ("dicom", 50, 350)
    assert (window.lower, window.upper) == (-125, 225)


@pytest.mark.parametrize(
    ("volume", "origin"),
    [
        (ct(low=-1024), "ct"),
        (ct(low=-501), "ct"),
        (ct(low=-500), "percentile"),
        (ct(low=0, modality="CT"), "ct"),
        (ct(low=0, modality="MR"), "percentile"),
        (ct(np.float32, low=-1024), "ct"),
        (ct(np.uint16, low=0), "percentile"),
    ],
    ids=["air", "-501", "-500", "CT by name", "MR", "float air", "uint16"],
)
def test_ct_is_known_by_its_modality_or_by_air(volume: Volume, origin: str) -> None:
    window = chosen(volume)
    assert window.origin == origin
    if origin == "ct":
        assert (window.level, window.width) == PRESETS["soft-tissue"]


# The bounds


def test_presets_are_those_of_the_issue() -> None:
    assert PRESETS == {
        "soft-tissue": (40, 400),
        "lung": (-600, 1500),
        "brain": (40, 80),
        "bone": (400, 1800),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_level_minus_and_plus_half_the_width(name: str) -> None:
    level, width = PRESETS[name]
    window = chosen(ct(low=-3000, high=3000), name)
    assert (window.lower, window.upper) == (level - width / 2, level + width / 2)
    assert (window.level, window.width, window.origin) == (level, width, "preset")


def test_bounds_are_limited_to_the_range_of_the_volume_and_say_what_was_chosen() -> None:
    window = chosen(ct(low=-100, high=150), (40, 400))
    assert (window.lower, window.upper) == (-100, 150)
    assert (window.level, window.width) == (40, 400)


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
@pytest.mark.parametrize("low", [-1024, -100])
def test_a_level_and_width_are_converted_as_the_challenge_did_it(dtype: Any, low: int) -> None:
    volume = ct(dtype, low=low, high=1500)
    window = chosen(volume, "40,400")
    wanted = challenge_uint8(volume.array, -160, 240, zeros=False)
    np.testing.assert_array_equal(window.apply(volume.array), wanted)
    assert len(np.unique(wanted)) > 100, "a test on few levels would prove little"


@pytest.mark.parametrize(
    ("dtype", "low"),
    [(np.uint16, 0), *((dtype, low) for dtype in (np.int16, np.float32, np.float64, np.int64) for low in (0, -80))],
)
def test_other_modalities_are_converted_as_the_challenge_did_it(dtype: Any, low: int) -> None:
    volume = ct(dtype, low=low, high=2500)
    volume.array[:, :4] = 0
    window = chosen(volume)
    lower, upper = np.percentile(volume.array[volume.array > 0], [0.5, 99.5])
    assert window.origin == "percentile"
    np.testing.assert_array_equal(window.apply(volume.array), challenge_uint8(volume.array, lower, upper, zeros=True))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32, np.uint32])
@pytest.mark.parametrize("count", [1, 2, 3, 199, 201, 4000])
@pytest.mark.parametrize("order", ["C", "F"])
def test_percentiles_are_those_of_numpy(dtype: Any, count: int, order: Any) -> None:
    limit = min(np.iinfo(dtype).max, 60_000) if np.dtype(dtype).kind != "f" else 60_000
    array = np.zeros((40, 20, 10), dtype, order=order)
    places = np.random.default_rng(count).permutation(array.size)[:count]
    array[np.unravel_index(places, array.shape)] = np.random.default_rng(1).integers(1, limit, count)
    low, high = np.percentile(array[array > 0].astype(np.float64), [0.5, 99.5])
    window = chosen(Volume(array, modality="MR"))
    assert (window.lower, window.upper) == pytest.approx((low, high), rel=1e-12)
    assert (window.level, window.width) == pytest.approx(((low + high) / 2, high - low), rel=1e-4)
    assert window.zero_stays_zero


@pytest.mark.parametrize("dtype", [">i2", ">f4", "f2", "f8", "i4", "i8", "u8"])
def test_percentiles_are_those_of_numpy_in_any_dtype(dtype: str) -> None:
    values = (
        np.random.default_rng(3)
        .normal(300, 2000, (30, 20, 10))
        .clip(0 if dtype == "u8" else -400, 60_000)
        .astype(dtype)
    )
    low, high = np.percentile(values[values > 0].astype(np.float64), [0.5, 99.5])
    window = chosen(Volume(values, modality="MR"))
    assert (window.lower, window.upper) == pytest.approx((low, high), rel=1e-12)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_choosing_a_window_copies_no_more_than_a_few_slices(dtype: Any, modality: str) -> None:
    array = np.zeros((256, 256, 60), dtype, order="F")
    array[20:200] = np.arange(60) * 7 + 1
    volume = Volume(array, modality=modality)
    tracemalloc.start()
    chosen(volume)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * array.nbytes


def test_negative_voxels_do_not_count_among_the_percentiles() -> None:
    array = np.full(SHAPE, -400, np.int16)
    array[0] = np.arange(1, 162).reshape(23, 7)
    window = chosen(Volume(array))
    assert window.lower == pytest.approx(np.percentile(np.arange(1, 162), 0.5))


def test_voxels_that_are_all_negative_use_their_whole_range() -> None:
    window = chosen(Volume(np.linspace(-400, -10, 60).reshape(3, 4, 5)))
    assert (window.lower, window.upper, window.origin) == (-400, -10, "percentile")


def test_nan_and_infinity_do_not_count_and_nan_becomes_black() -> None:
    array = np.random.default_rng(0).uniform(1, 900, SHAPE)
    clean = chosen(Volume(array.copy()))
    dirty = np.concatenate([array, np.full((1, *SHAPE[1:]), np.nan), np.full((2, *SHAPE[1:]), np.inf)])
    dirty[-1] = -np.inf
    window = chosen(Volume(dirty))
    assert (window.lower, window.upper, window.origin) == (clean.lower, clean.upper, "percentile")
    pixels = window.apply(dirty)
    np.testing.assert_array_equal(pixels[: SHAPE[0]], clean.apply(array))
    assert pixels[-3].max() == 0
    assert pixels[-2].min() == 255
    assert pixels[-1].max() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_without_a_finite_intensity_is_refused(bad: float) -> None:
    with pytest.raises(ImageError, match=r"no finite intensity"):
        choose_window(Volume(np.full((2, 3, 4), bad, np.float32)))


def test_the_level_of_huge_intensities_is_finite() -> None:
    window = chosen(Volume(np.linspace(1.5e308, 1.7e308, 60).reshape(3, 4, 5)))
    assert math.isfinite(window.level)
    assert math.isfinite(window.width)


def test_a_volume_of_zeros_becomes_black_without_a_warning() -> None:
    window = chosen(Volume(np.zeros((2, 3, 4), np.int16)))
    assert window.apply(np.zeros((3, 2), np.int16)).max() == 0


def test_a_window_beside_the_range_gives_one_colour() -> None:
    volume = ct(low=500, high=1500)
    assert chosen(volume, (40, 400)).apply(volume.array).max() == 0


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_slices_convert_as_the_whole_volume_does(dtype: Any) -> None:
    volume = ct(dtype)
    window = chosen(volume)
    whole = window.apply(volume.array)
    for k in range(SHAPE[2]):
        np.testing.assert_array_equal(window.apply(volume.array[::-1, :, k].T), whole[::-1, :, k].T)


# What is asked for


@pytest.mark.parametrize("requested", ["40,400", "40.0, 400", (40, 400), [40, 400], np.array([40, 400])])
def test_a_window_may_be_written_in_several_ways(requested: Any) -> None:
    window = chosen(ct(), requested)
    assert (window.level, window.width, window.origin) == (40, 400, "explicit")


@pytest.mark.parametrize(
    ("requested", "text"),
    [
        ("liver", r"window 'liver': wanted LEVEL,WIDTH or one of soft-tissue, lung, brain, bone"),
        ("", r"window '': wanted LEVEL,WIDTH"),
        ("40", r"wanted LEVEL,WIDTH"),
        ("1,2,3", r"wanted LEVEL,WIDTH"),
        ("40;400", r"wanted LEVEL,WIDTH"),
        ((1, 2, 3), r"wanted LEVEL,WIDTH"),
        ((None, 3), r"wanted LEVEL,WIDTH"),
        (7, r"wanted LEVEL,WIDTH"),
        ("40,0", r"wanted a finite level and a width above 0"),
        ((40, -400), r"width above 0"),
        ("nan,400", r"wanted a finite level"),
        ("40,inf", r"wanted a finite level"),
    ],
)
def test_a_bad_window_is_refused_for_uint8_as_well(requested: Any, text: str) -> None:
    for dtype in (np.int16, np.uint8):
        with pytest.raises(PromptError, match=text):
            choose_window(Volume(np.ones((2, 3, 4), dtype)), requested)


def test_no_pass_over_the_volume_copies_more_than_a_slab() -> None:
    """A pass along a short stride would copy the whole of a 512 x 512 x 400 volume."""
    array = np.zeros((5, 7, 3), np.int16, order="F")
    assert [slab.shape for slab in intensity._slabs(array)] == [(5, 7)] * 3
    assert [slab.shape for slab in intensity._slabs(np.ascontiguousarray(array))] == [(7, 3)] * 5
    assert [slab.shape for slab in intensity._slabs(array[:, ::-1, ::-1])] == [(5, 7)] * 3

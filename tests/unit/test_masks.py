"""From logits to masks and to the neighbour's box, and the goldens of published systems."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from published import CASES, PLACED, golden, manifest, manifest_of

from runtime.errors import PromptError
from runtime.transforms import (
    Frame,
    frame_of,
    masks_from_logits,
    resized_label_box,
)

# From logits to masks


def resize_linear(maps: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    return np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in maps])


def smooth(shape: tuple[int, int, int], seed: int = 0) -> NDArray[np.float32]:
    """Logits with large regions, so that few pixels lie next to the threshold."""
    noise = np.random.default_rng(seed).standard_normal((shape[0], 6, 5)).astype(np.float32)
    return resize_linear(noise, shape[1:])


def assert_close(found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> None:
    assert found.shape == wanted.shape
    assert 0.05 < wanted.mean() < 0.95, "a mask of one value would prove little"
    assert (found != wanted).mean() < 1e-3


@pytest.mark.parametrize("size", [(300, 217), (100, 160), (256, 256), (512, 200), (256, 187), (187, 256)])
@pytest.mark.parametrize("upsample", ["direct", "via_input"])
def test_the_padding_is_cropped_before_the_way_back(size: tuple[int, int], upsample: str) -> None:
    facts = manifest({"output": {"low_res_size": [64, 64], "upsample": upsample}})
    frame = frame_of(facts, size)
    logits = smooth((2, 64, 64))
    if upsample == "via_input":
        maps = resize_linear(logits, (256, 256))
        rows, columns = frame.resized_size
    else:
        maps = logits
        rows, columns = (int(side * 64 / 256 + 0.5) for side in frame.resized_size)
    wanted = resize_linear(np.ascontiguousarray(maps[:, :rows, :columns]), size) > 0
    masks, boxes, areas = masks_from_logits(logits, facts.output, frame)
    assert_close(masks, wanted)
    for mask, box, area in zip(masks, boxes, areas, strict=True):
        rows_in, columns_in = np.nonzero(mask)
        assert box.tolist() == [columns_in.min(), rows_in.min(), columns_in.max(), rows_in.max()]
        assert area == len(rows_in)


def test_via_input_and_direct_differ() -> None:
    """Otherwise the test above could not tell them apart."""
    logits = np.random.default_rng(0).standard_normal((1, 64, 64)).astype(np.float32)
    results = []
    for upsample in ("direct", "via_input"):
        facts = manifest({"output": {"low_res_size": [64, 64], "upsample": upsample}})
        results.append(masks_from_logits(logits, facts.output, frame_of(facts, (300, 217)))[0])
    assert (results[0] != results[1]).any()


def test_a_mask_in_the_padding_alone_is_empty() -> None:
    facts = manifest()
    logits = np.full((1, 256, 256), -5, np.float32)
    logits[:, :, 200:] = 5
    masks, boxes, areas = masks_from_logits(logits, facts.output, frame_of(facts, (300, 217)))
    assert not masks.any()
    assert boxes.tolist() == [[-1, -1, -1, -1]]
    assert areas.tolist() == [0]


def test_a_sigmoid_is_applied_before_upsampling_and_the_threshold_after() -> None:
    facts = manifest({"output": {"activation": "sigmoid", "threshold": 0.5}})
    logits = 8 * smooth((1, 256, 256))
    frame = frame_of(facts, (100, 160))
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    rows, columns = frame.resized_size
    cropped = np.ascontiguousarray(probabilities[:, :rows, :columns].astype(np.float32))
    masks, _, _ = masks_from_logits(logits, facts.output, frame)
    assert_close(masks, resize_linear(cropped, (100, 160)) > 0.5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_logits_far_from_zero_raise_no_warning_in_the_sigmoid(sign: int) -> None:
    facts = manifest({"output": {"activation": "sigmoid", "threshold": 0.5}})
    logits = np.full((1, 256, 256), sign * 1e4, np.float32)
    with np.errstate(all="raise"):
        masks, _, _ = masks_from_logits(logits, facts.output, frame_of(facts, (9, 7)))
    assert masks.all() == masks.any() == (sign > 0)


@pytest.mark.parametrize(("inclusive", "found"), [(False, False), (True, True)])
def test_pixels_at_the_threshold_belong_to_the_mask_where_it_is_inclusive(inclusive: bool, found: bool) -> None:
    facts = manifest({"output": {"threshold": 0.25, "inclusive": inclusive}})
    masks, _, _ = masks_from_logits(np.full((1, 256, 256), 0.25, np.float32), facts.output, frame_of(facts, (9, 7)))
    assert masks.all() == masks.any() == found


def test_no_logits_give_no_masks() -> None:
    facts = manifest()
    masks, boxes, areas = masks_from_logits(np.zeros((0, 256, 256), np.float32), facts.output, frame_of(facts, (9, 7)))
    assert (masks.shape, boxes.shape, areas.shape) == ((0, 9, 7), (0, 4), (0,))


# The neighbour's box of the published loops


def frame_300() -> Frame:
    return frame_of(manifest(), (300, 217))


def test_the_neighbours_box_depends_on_the_number_of_the_object() -> None:
    """Partly covered pixels of low labels round to 0: the published code does so, and parity needs it."""
    mask = np.zeros((300, 217), np.bool_)
    mask[101:149, 61:110] = True
    found = {label: resized_label_box(mask, label, "uint8", 3, frame_300()) for label in (1, 2, 200)}
    assert all(box is not None and box.dtype == np.float32 for box in found.values())
    sizes = [float(np.prod(box[2:] - box[:2])) for box in found.values() if box is not None]
    assert sizes[0] < sizes[2]


def test_the_neighbours_box_is_clipped_to_the_side_of_the_input_included() -> None:
    box = resized_label_box(np.ones((300, 217), np.bool_), 1, "uint8", 3, frame_300())
    assert box is not None
    assert box.tolist() == [0, 0, 187, 256]


def test_a_neighbour_that_vanishes_in_the_resize_has_no_box() -> None:
    mask = np.zeros((300, 217), np.bool_)
    assert resized_label_box(mask, 1, "uint8", 3, frame_300()) is None
    large = frame_of(manifest(), (2000, 2000))
    tiny = np.zeros((2000, 2000), np.bool_)
    tiny[7, 9] = True
    assert resized_label_box(tiny, 1, "uint8", 3, large) is None
    assert resized_label_box(tiny, 65_000, "uint16", 0, large) is not None


def test_more_objects_than_the_published_integer_holds_are_refused() -> None:
    mask = np.ones((300, 217), np.bool_)
    with pytest.raises(PromptError, match=r"object number 256: the published loop counts objects in uint8"):
        resized_label_box(mask, 256, "uint8", 3, frame_300())
    assert resized_label_box(mask, 256, "uint16", 3, frame_300()) is not None


# Goldens of published systems


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("system", PLACED)
def test_the_golden_logits_become_the_golden_masks(conformance: Path, system: str, case: str) -> None:
    data = golden(conformance, system, case)
    size = data["image"].shape[:2]
    facts = manifest_of(system)
    masks, _, _ = masks_from_logits(data["low_res_logits"], facts.output, frame_of(facts, size))
    if "mask_shape" in data:
        shape = tuple(data["mask_shape"])
        wanted = np.unpackbits(data["mask"])[: math.prod(shape)].reshape(shape).astype(np.bool_)
        found: NDArray[Any] = masks
    else:
        wanted = data["mask"]
        found = np.zeros(size, np.int64)
        for label, mask in enumerate(masks, 1):
            found[mask] = label
    assert found.shape == wanted.shape
    assert min(np.unique(wanted, return_counts=True)[1]) > 100, "a map of one value would prove little"
    assert (found != wanted).mean() < 1e-3

"""Carrying a mask from slice to slice as the published loops do it, with the stand-in decoder of the goldens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import FACTS, FRAME, SIZE
from published import LOOPS, manifest, manifest_of

from runtime import _decoding
from runtime.errors import PromptError
from runtime.manifest import ChainSettings, LoopSettings
from runtime.propagate import ObjectPlan, SlicePrompt, propagate
from runtime.transforms import Frame, frame_of
from runtime.types import Prediction


def stand_in(call: int, box: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """An ellipse around the box that wanders with the number of the call; nothing on every fifth call."""
    if call % 5 == 3:
        return np.full((256, 256), -1, np.float32)
    x0, y0, x1, y1 = map(float, box)
    scale = 256.0 / side
    centre_x = scale * (x0 + x1) / 2 + 4 * (call % 3 - 1)
    centre_y = scale * (y0 + y1) / 2 + 3 * (call // 3 % 3 - 1)
    radius_x = max(2.0, 0.9 * scale * (x1 - x0) / 2)
    radius_y = max(2.0, 0.9 * scale * (y1 - y0) / 2)
    y, x = np.mgrid[0:256, 0:256] + 0.5
    return (2 - 2 * (((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2)).astype(np.float32)


def predicted(facts: Any, frame: Frame, logits: NDArray[np.float32], score: float = 0.9) -> Prediction:
    outputs = {"low_res_logits": logits[np.newaxis, np.newaxis], "scores": np.full((1, 1), score, np.float32)}
    return _decoding.prediction(facts, [outputs], frame)


@pytest.mark.parametrize("system", LOOPS)
def test_the_published_loop_makes_the_same_calls_and_the_same_labels(conformance: Path, system: str) -> None:
    with np.load(conformance / system / "loop_3d.npz") as file:
        data = {name: file[name] for name in file.files}
    depth, height, width = (int(side) for side in data["shape"])
    facts = manifest_of(system)
    frame = frame_of(facts, (height, width))
    asked: list[NDArray[np.float32]] = []
    segs = np.zeros((depth, height, width), data["segs"].dtype)

    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        asked.append(prompt.box)
        return predicted(facts, frame, stand_in(len(asked) - 1, prompt.box, frame.input_size[0]))

    for label, (x0, y0, z0, x1, y1, z1) in enumerate(data["boxes"].tolist(), 1):
        rectangle = (float(x0), float(y0), float(x1), float(y1))
        last = min(z1, depth - 1) if LOOPS[system].last_slice == "included" else z1
        plan = ObjectPlan(label, {(z0 + z1) // 2: rectangle}, extent=(z0, last), limit=rectangle)
        for step in propagate(decode, plan, frame, LOOPS[system]):
            segs[step.slice_index][step.prediction.masks[0]] = label
    np.testing.assert_array_equal(np.array(asked), data["call_prompt_boxes"], strict=True)
    np.testing.assert_array_equal(segs, data["segs"], strict=True)


def ellipse_at(call: int) -> Callable[[int, SlicePrompt], Prediction]:
    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        return predicted(FACTS, FRAME, stand_in(call, prompt.box, 256))

    return decode


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        ({}, [5, 6, 7, 8, 4, 3]),
        ({"last_slice": "excluded"}, [5, 6, 7, 4, 3]),
        ({"first_slice": "excluded"}, [5, 6, 7, 8, 4]),
    ],
)
def test_the_published_loop_goes_up_and_then_down(changes: dict[str, Any], order: list[int]) -> None:
    rectangle = (20.0, 10.0, 50.0, 40.0)
    plan = ObjectPlan(1, {5: rectangle}, extent=(3, 8), limit=rectangle)
    settings = LoopSettings(box_from="mask", **changes)
    assert [step.slice_index for step in propagate(ellipse_at(4), plan, FRAME, settings)] == order


@pytest.mark.parametrize("fallback", ["rounded", "unrounded"])
def test_the_published_fallback_may_leave_out_the_rounding_on_the_way_down(fallback: Any) -> None:
    frame = frame_of(manifest(), SIZE)
    asked: dict[int, list[float]] = {}

    def nothing(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        asked[index] = prompt.box.tolist()
        return predicted(manifest(), frame, np.full((256, 256), -1, np.float32))

    rectangle = (21.0, 10.0, 50.0, 41.0)
    plan = ObjectPlan(1, {5: rectangle}, extent=(3, 7), limit=rectangle)
    list(propagate(nothing, plan, frame, LoopSettings(box_from="mask", fallback_down=fallback)))
    exact = np.float32(np.array(rectangle) * (256 / 90)).tolist()
    cut = np.trunc(exact).tolist()
    assert exact != cut
    down = exact if fallback == "unrounded" else cut
    assert asked == {5: cut, 6: cut, 7: cut, 4: down, 3: down}


def test_the_published_loop_cuts_crops_around_the_neighbours_mask_or_at_the_given_box() -> None:
    rectangle = (60.0, 10.0, 89.0, 40.0)
    cut: dict[int, list[float]] = {}
    found: dict[int, NDArray[np.int64]] = {}

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        assert prompt.image_box is not None
        cut[index] = prompt.image_box.tolist()
        logits = stand_in(3 if index == 7 else 5, prompt.box, 256)  # nothing is found on slice 7
        prediction = predicted(FACTS, FRAME, logits)
        found[index] = prediction.boxes[0]
        return prediction

    settings = LoopSettings(box_from="mask", crop_margin_px=3)
    list(propagate(decode, ObjectPlan(1, {6: rectangle}, extent=(4, 8), limit=rectangle), FRAME, settings))

    def around(index: int) -> list[float]:
        x0, y0, x1, y1 = found[index].tolist()
        return [max(x0 - 3, 0), max(y0 - 3, 0), min(x1 + 3, 90), min(y1 + 3, 60)]

    assert cut == {6: list(rectangle), 7: around(6), 8: list(rectangle), 5: around(6), 4: around(5)}
    assert found[6][2] + 3 > 90, "the mask lies at the edge"


def test_lite_infers_own_mode_cuts_crops_at_the_box_that_prompts() -> None:
    def decode(_: int, prompt: SlicePrompt) -> Prediction:
        assert prompt.box is not None
        assert prompt.image_box is not None
        np.testing.assert_array_equal(FRAME.boxes_to_input(prompt.image_box[np.newaxis])[0], prompt.box)
        return predicted(FACTS, FRAME, stand_in(0, prompt.box, 256))

    box = (30.0, 20.0, 60.0, 45.0)
    assert len(list(propagate(decode, ObjectPlan(1, {5: box}, extent=(3, 8), limit=box), FRAME, ChainSettings()))) == 6


def test_the_published_loop_needs_a_solid_box() -> None:
    plan = ObjectPlan(1, {5: (0.0, 0.0, 89.0, 59.0)}, extent=(0, 9), known_extent=False)
    with pytest.raises(PromptError, match=r"starts from a 3-D box; give six numbers"):
        list(propagate(ellipse_at(0), plan, FRAME, LoopSettings(box_from="mask")))

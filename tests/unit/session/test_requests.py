"""What `Session.segment` refuses, its clicks, its progress and its cancellation."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scenes import Storage, box_in
from tiny_bundle import (
    BOX,
    FLAT,
    SCENE_SHAPE,
    disc,
    inside,
    scene_pixels,
    scene_volume,
)

from runtime import Session
from runtime.errors import (
    Cancelled,
    ImageError,
    PromptError,
)
from runtime.geometry import Volume
from runtime.types import Box, Point

# Bad images and prompts


@pytest.mark.parametrize(
    "shape", [(), (5,), (2, 3, 4, 5), (0, 5), (5, 0, 3)], ids=["scalar", "1-D", "4-D", "no rows", "no columns"]
)
def test_an_array_that_is_no_image_is_refused(session: Session, shape: tuple[int, ...]) -> None:
    for use in (session.encode, lambda array: session.segment(array, box=(0, 0, 1, 1))):
        with pytest.raises(ImageError, match=r"wanted \(H, W\)|holds no voxels|wanted \(I, J, K\)"):
            use(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", ["bool", "complex64", "O", "S2"])
def test_an_array_of_something_else_than_numbers_is_refused(session: Session, dtype: str) -> None:
    for use in (session.encode, lambda array: session.segment(array, box=(0, 0, 1, 1))):
        with pytest.raises(ImageError, match=r"wanted integers or floating-point numbers"):
            use(np.zeros((5, 6), dtype))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("ct.nii.gz", r"ct.nii.gz: a path, where an array or a Volume was wanted; read the file with runtime.load"),
        (Path("ct.nii.gz"), r"ct.nii.gz: a path"),
        ([[1, 2], [3]], r"image of type list: wanted an array with equal rows"),
        (None, r"array of shape \(\): wanted \(H, W\)"),
    ],
)
def test_something_else_than_an_array_is_refused(session: Session, image: Any, text: str) -> None:
    for use in (session.encode, lambda value: session.segment(value, box=(0, 0, 1, 1))):
        with pytest.raises(ImageError, match=text):
            use(image)


def test_a_prompted_slice_of_one_intensity_is_refused_and_others_are_empty(session: Session) -> None:
    pixels = scene_pixels()
    pixels[:, :, 6] = 9
    with pytest.raises(ImageError, match=r"slice 6 has one intensity only; prompt a slice that shows the object"):
        session.segment(Volume(pixels), box=FLAT, slice_index=6)
    result = session.segment(Volume(pixels), box=FLAT)
    assert {one.slice_index: one.stop for one in result.objects[0].slices if one.stop} == {0: "empty", 6: "empty"}
    result = session.segment(Volume(pixels), box=BOX)
    assert not result.label_map[:, :, 6].any()
    np.testing.assert_array_equal(result.label_map[:, :, 7], inside()[:, :, 7])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, r"no prompt; give a box"),
        ({"box": (1, 2, 3)}, r"box with 3 numbers"),
        ({"box": 7}, r"box 7: wanted 4 or 6 numbers"),
        ({"boxes": [10, 20, 30, 40]}, r"box 10: wanted 4 or 6 numbers"),
        ({"boxes": 7}, r"boxes 7: wanted a list"),
        ({"points": [3, 4]}, r"point 3: wanted 2 or 3 numbers"),
        ({"prompts": 7}, r"prompts 7: wanted a list"),
        ({"prompts": Box((1, 2, 3, 4))}, r"prompts Box.*: wanted a list"),
        ({"box": Point((1, 2))}, r"box Point.*: wanted 4 or 6 numbers"),
        ({"points": [Box((1, 2, 3, 4))]}, r"point Box.*: wanted 2 or 3 numbers"),
        ({"box": (30, 20, 10, 40)}, r"x1 = 10 lies below x0 = 30"),
        ({"box": (1, 2, 48, 4)}, r"x = 48 lies outside the image, whose x runs from 0 to 47"),
        ({"box": (1, 2, float("nan"), 4)}, r"finite number"),
        ({"box": FLAT, "slice_index": 9}, r"slice 9 lies outside the image: axis z has slices 0 to 8"),
        ({"box": FLAT, "slice_index": 3.5}, r"slice_index 3.5: wanted a whole number"),
        ({"box": FLAT, "z_range": (5, 2)}, r"z range 5,2"),
        ({"box": FLAT, "window": "liver"}, r"window 'liver': wanted LEVEL,WIDTH"),
        ({"points": [(3, 4)]}, r"bundle 'tiny' takes no points prompt; it understands box"),
        ({"box": FLAT, "mode": "published"}, r"starts from a 3-D box"),
    ],
)
def test_a_bad_request_is_a_prompt_error(session: Session, options: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        session.segment(scene_volume(), **options)


def test_a_bad_slice_axis_is_an_image_error(session: Session) -> None:
    with pytest.raises(ImageError, match=r"slice_axis 3: wanted 0, 1 or 2"):
        session.segment(scene_volume(), box=FLAT, slice_axis=3)


# Points, masks, candidates


def test_clicks_add_and_take_away(clicks: Session) -> None:
    image, mask = disc()
    plain = clicks.segment(image, box=(15, 8, 45, 32))
    np.testing.assert_array_equal(plain.label_map, mask)
    points = [Point((50, 40)), Point((30, 20), positive=False)]
    result = clicks.segment(image, box=(15, 8, 45, 32), points=points)
    assert result.label_map[40, 50] == 1
    assert result.label_map[20, 30] == 0
    assert mask[20, 30]
    assert not mask[40, 50]


def test_points_alone_make_an_object_where_the_box_is_optional(clicks: Session) -> None:
    image, _ = disc()
    result = clicks.segment(image, points=[(50, 40)])
    assert result.label_map[40, 50] == 1
    assert result.scores.tolist() == [pytest.approx(0.8)]


def test_a_point_in_a_volume_counts_on_its_own_slice(clicks: Session) -> None:
    result = clicks.segment(scene_volume(), box=BOX, points=[Point((20, 24, 3), positive=False)])
    difference = inside() & (result.label_map == 0)
    assert difference[20, 24, 3]
    assert not difference[:, :, [1, 2, 4, 5, 6, 7]].any()


# Progress and cancellation


def test_progress_tells_every_slice_in_file_order(session: Session) -> None:
    storage: Storage = ((0, 1, 2), (False, False, True))
    events: list[Any] = []
    session.segment(scene_volume(storage), box=box_in(storage, BOX, SCENE_SHAPE), progress=events.append)
    assert sorted(event.slice_index for event in events) == [1, 2, 3, 4, 5, 6, 7]
    assert [event.done for event in events] == [1, 2, 3, 4, 5, 6, 7]
    assert {event.total for event in events} == {7}
    assert {event.name for event in events} == {"object 1"}


def test_the_total_is_unknown_where_propagation_decides(session: Session) -> None:
    events: list[Any] = []
    session.segment(scene_volume(), boxes=[BOX, FLAT], progress=events.append)
    assert {event.total for event in events} == {None}
    assert [event.done for event in events] == list(range(1, 17))
    assert {event.name for event in events} == {"object 1", "object 2"}


@pytest.mark.parametrize("after", [0, 3])
def test_cancelling_stops_before_the_next_slice(session: Session, after: int) -> None:
    event = threading.Event()
    seen: list[int] = []

    def progress(step: Any) -> None:
        seen.append(step.done)
        if step.done == after:
            event.set()

    if not after:
        event.set()
    with pytest.raises(Cancelled, match=r"cancelled; nothing was written"):
        session.segment(scene_volume(), box=BOX, progress=progress, cancel=event.is_set)
    assert seen == list(range(1, after + 1))
    np.testing.assert_array_equal(session.segment(scene_volume(), box=BOX).label_map, inside())


def test_an_error_of_the_callers_callback_reaches_the_caller(session: Session) -> None:
    def progress(_: Any) -> None:
        raise ZeroDivisionError("from the caller")

    with pytest.raises(ZeroDivisionError, match=r"from the caller"):
        session.segment(scene_volume(), box=BOX, progress=progress)

"""What moves is looked for where it has gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from phantoms import FRAME, SIZE, Phantom, disk, free, kept, solid, stops, tight_box
from tiny_bundle import SIDE, open_session, tiny_bundle

from runtime import Volume
from runtime.manifest import ChainSettings
from runtime.propagate import ObjectPlan, SlicePrompt, Step, propagate
from runtime.types import Prediction


def oblique(count: int = 7, step: float = 6.0, radius: float = 4.0) -> Phantom:
    """A tube that moves farther than its radius from slice to slice."""
    return Phantom(np.stack([disk((30, 12 + step * k), radius) for k in range(count)]))


def run(phantom: Phantom, plan: ObjectPlan, moved: Any, **settings: Any) -> list[Step]:
    return list(propagate(phantom.decode, plan, FRAME, ChainSettings(**settings), moved))


def known(now: int, before: int, sign: int = 1) -> tuple[float, float]:
    return 6.0 * sign * (now - before), 0.0


def test_the_box_is_moved_and_the_tube_is_not_lost() -> None:
    asked: list[tuple[int, int]] = []

    def motion(before: int, now: int, found: Prediction) -> tuple[float, float]:
        assert found.areas[0]
        asked.append((before, now))
        return known(now, before)

    phantom = oblique()
    plan = replace(free(phantom, 3), known_extent=True)
    for index, mask in kept(run(phantom, plan, motion)).items():
        np.testing.assert_array_equal(mask, phantom.truth[index])
    assert asked == [(3, 4), (4, 5), (5, 6), (3, 2), (2, 1), (1, 0)]
    x0, y0, x1, y1 = tight_box(phantom.truth[3])
    assert phantom.box(4) == [x0 - 2 + 6, y0 - 2, x1 + 2 + 6, y1 + 2]

    lost = oblique()
    still = kept(run(lost, plan, None))
    assert not np.array_equal(still[6], lost.truth[6]), "the box alone grows too slowly to keep up"


def test_the_mask_prompt_moves_with_it() -> None:
    shown: dict[int, np.ndarray[Any, Any]] = {}
    logits = np.zeros((1, *FRAME.input_size), np.float32)
    logits[0, 100, 50] = 9

    def decode(index: int, prompt: SlicePrompt) -> Prediction:
        if prompt.mask_logits is not None:
            shown[index] = prompt.mask_logits
        return replace(phantom.decode(index, prompt), low_res_logits=logits)

    phantom = oblique()
    plan = free(phantom, 3)
    list(propagate(decode, plan, FRAME, ChainSettings(mask_prompt=True), lambda before, now, _: known(now, before)))
    columns = round(6 * FRAME.scale_xy[0])
    assert np.argwhere(shown[4] == 9).tolist() == [[100, 50 + columns]]
    assert np.argwhere(shown[2] == 9).tolist() == [[100, 50 - columns]]


def test_overlap_is_that_of_the_moved_mask() -> None:
    phantom = oblique()
    assert stops(run(phantom, free(phantom, 3), lambda before, now, _: known(now, before), min_overlap=0.95)) == {}
    phantom = oblique()
    assert set(stops(run(phantom, free(phantom, 3), None, min_overlap=0.95, margin_px=10)).values()) == {"overlap"}


@pytest.mark.parametrize("far", [(500.0, 0.0), (0.0, -500.0)])
def test_a_box_that_would_leave_the_image_stays(far: tuple[float, float]) -> None:
    phantom = oblique(step=0)
    plan = replace(free(phantom, 3), known_extent=True)
    run(phantom, plan, lambda *_: far, margin_px=1)
    assert phantom.box(4) == phantom.box(2)
    x0, y0, x1, y1 = tight_box(phantom.truth[3])
    assert phantom.box(4) == [x0 - 1, y0 - 1, x1 + 1, y1 + 1]


def test_part_of_a_box_that_leaves_the_image_is_cut_off() -> None:
    phantom = oblique(step=0)
    run(phantom, replace(free(phantom, 3), known_extent=True), lambda *_: (0.0, 33.0), margin_px=1)
    x0, y0, x1, _ = tight_box(phantom.truth[3])
    assert phantom.box(4) == [x0 - 1, y0 - 1 + 33, x1 + 1, SIZE[0] - 1]


def test_nothing_is_asked_inside_a_solid_box() -> None:
    def never(*_: Any) -> tuple[float, float]:
        raise AssertionError

    phantom = oblique()
    run(phantom, solid(phantom, (0.0, 20.0, 70.0, 40.0), (0, 6)), never)
    assert phantom.order == [3, 4, 5, 6, 2, 1, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_session_follows_a_thin_oblique_tube_along_any_axis(tmp_path: Path, axis: int) -> None:
    """Bright, 5 pixels wide, 3 pixels farther on every slice, between bright things that stand still."""
    count, side = 8, SIDE - 4
    stack = np.full((count, side, side), 20, np.uint8)  # slices, rows, columns
    rows, columns = np.mgrid[:side, :side]
    stack[:, ::8, :2] = 220
    for k in range(count):
        stack[k][np.hypot(rows - 20, columns - 8 - 3 * k) <= 2.6] = 220
    order = {0: (0, 2, 1), 1: (2, 0, 1), 2: (2, 1, 0)}[axis]  # of (slices, rows, columns) as i, j, k
    array = stack.transpose(order)
    bundle = tiny_bundle(tmp_path / "bundle", propagation={"chain": {"margin_px": 1}})
    with open_session(bundle, cache=False) as session:
        found = session.segment(
            Volume(array),
            box=(5, 17, 11, 23),
            slice_axis=axis,
            slice_index=0,
            z_range=(0, count - 1),
            window=(120, 240),
        )
    masks = np.moveaxis(found.label_map, axis, 0).swapaxes(1, 2) > 0  # slices, rows, columns
    for k in range(count):
        truth = np.hypot(rows - 20, columns - 8 - 3 * k) <= 2.6
        assert 2 * np.count_nonzero(masks[k] & truth) > 0.8 * (masks[k].sum() + truth.sum()), k

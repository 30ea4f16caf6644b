"""Bundles that want points and a scribble beside the box: given ones are taken, others come from the box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_bundle import BOX, CLICK_RADIUS, SIDE, disc, open_session, scene_volume
from tiny_prompts import drawing_bundle

from runtime import Session
from runtime._derived import box_quarters, box_stroke, stroke_points
from runtime.errors import ManifestError, PromptError
from runtime.manifest import load_manifest

SIZE = (48, 64)
BOXES = np.float32([[14, 8, 46, 32], [4, 20, 12, 44]])


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def drawing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = drawing_bundle(tmp_path_factory.mktemp("drawing") / "bundle")
    with open_session(folder, backend=request.param, cache=False) as opened:
        yield opened


def discs(points: NDArray[Any]) -> NDArray[np.bool_]:
    """What positive points (N, P, 2) paint."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (x - points[..., :1, np.newaxis]) ** 2 + (y - points[..., 1:, np.newaxis]) ** 2
    return (distance <= CLICK_RADIUS**2).any(axis=1)


def stroke_of(boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return box_stroke(boxes, (SIDE, SIDE), (SIDE, SIDE))[:, 0, : SIZE[0]] > 0


def scribbles(count: int = 2) -> NDArray[np.float32]:
    drawn = np.zeros((count, 1, SIDE, SIDE), np.float32)
    drawn[:, :, 3:5, 20:40] = 1
    return drawn


def test_points_and_stroke_come_from_the_box(drawing: Session) -> None:
    found = drawing.decode(drawing.encode(disc()[0]), boxes=BOXES)
    np.testing.assert_array_equal(found.masks, discs(box_quarters(BOXES)[0]) | stroke_of(BOXES))


def test_given_points_and_scribbles_replace_the_derived_ones_each_on_its_own(drawing: Session) -> None:
    embedding = drawing.encode(disc()[0])
    points = np.float32([[[30, 40], [50, 10], [0, 0]], [[5, 5], [60, 5], [9, 9]]])
    labels = [[1, 1, -1], [1, 0, -1]]
    painted = np.stack([discs(points[:1, :2])[0], discs(points[1:, :1])[0]])
    given = scribbles()[:, 0, : SIZE[0]] > 0
    found = drawing.decode(embedding, boxes=BOXES, points=points, point_labels=labels)
    np.testing.assert_array_equal(found.masks, painted | stroke_of(BOXES))
    found = drawing.decode(embedding, boxes=BOXES, scribbles=scribbles())
    np.testing.assert_array_equal(found.masks, discs(box_quarters(BOXES)[0]) | given)
    found = drawing.decode(embedding, boxes=BOXES, points=points, point_labels=labels, scribbles=scribbles()[:, 0])
    np.testing.assert_array_equal(found.masks, painted | given)


def test_an_empty_scribble_is_not_a_missing_one(drawing: Session) -> None:
    found = drawing.decode(drawing.encode(disc()[0]), boxes=BOXES, scribbles=0 * scribbles())
    np.testing.assert_array_equal(found.masks, discs(box_quarters(BOXES)[0]))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"scribbles": scribbles()}, r"bundle 'tiny' needs a box for every object; it understands box, points, scribb"),
        ({"boxes": BOXES, "scribbles": scribbles(1)}, r"boxes, points and masks for \[1, 2\] objects"),
        ({"boxes": BOXES, "scribbles": 0.5 * scribbles()}, r"scribbles: wanted 1 on the stroke and 0 elsewhere"),
        (
            {"boxes": BOXES, "scribbles": scribbles()[..., :32]},
            r"scribbles of shape \(2, 1, 64, 32\): wanted \(2, 1, 64, 64\), in the input frame",
        ),
        ({"boxes": BOXES, "masks": scribbles()}, r"takes no mask prompt; it understands box, points, scribble"),
    ],
)
def test_what_does_not_fit_is_refused(drawing: Session, given: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        drawing.decode(drawing.encode(disc()[0]), **given)


def test_a_bundle_of_boxes_takes_no_scribble(session: Session) -> None:
    with pytest.raises(PromptError, match=r"takes no scribble prompt; it understands box$"):
        session.decode(session.encode(disc()[0]), boxes=BOXES, scribbles=scribbles())


def test_where_points_are_understood_a_stroke_is_points_beside_those_given(clicks: Session) -> None:
    embedding = clicks.encode(disc()[0])
    strokes = scribbles() - np.roll(scribbles(), 36, axis=2)  # one on the objects, one beside them
    drawn, labels = stroke_points(strokes.astype(np.float64))
    given = np.full((2, 1, 2), 30.0, np.float32)
    found = clicks.decode(embedding, boxes=BOXES, scribbles=strokes)
    np.testing.assert_array_equal(
        found.masks, clicks.decode(embedding, boxes=BOXES, points=drawn, point_labels=labels).masks
    )
    both = clicks.decode(embedding, boxes=BOXES, scribbles=strokes, points=given, point_labels=np.ones((2, 1)))
    np.testing.assert_array_equal(both.masks, found.masks | discs(given))
    assert (both.masks != found.masks).any()


@pytest.mark.parametrize(
    ("drawn", "text"),
    [
        (0.5 * scribbles(), r"wanted 1 on strokes on the object, -1 on strokes beside it and 0 elsewhere"),
        (scribbles()[..., :32], r"scribbles of shape \(2, 1, 64, 32\): wanted \(N, 1, 64, 64\), in the input frame"),
        (scribbles() * np.float32([1, 0])[:, None, None, None], r"an object without a stroke"),
    ],
)
def test_strokes_that_cannot_become_points_are_refused(clicks: Session, drawn: NDArray[Any], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        clicks.decode(clicks.encode(disc()[0]), boxes=BOXES, scribbles=drawn)


def test_objects_of_an_image_have_prompts_from_their_own_boxes(drawing: Session) -> None:
    found = drawing.segment(disc()[0], boxes=BOXES.tolist(), window=(127.5, 255.0))
    painted = discs(box_quarters(BOXES)[0]) | stroke_of(BOXES)
    assert not (painted[0] & painted[1]).any()
    np.testing.assert_array_equal(found.label_map, painted[0] + 2 * painted[1])


def test_every_slice_of_a_volume_is_prompted(drawing: Session) -> None:
    found = drawing.segment(scene_volume(), box=BOX, window=(127.5, 255.0))
    assert found.label_map.any(axis=(0, 1)).nonzero()[0].tolist() == list(range(BOX[2], BOX[5] + 1))


def test_logits_of_the_slice_before_are_not_taken_for_a_scribble(tmp_path: Path) -> None:
    labels = []
    for mask_prompt in (False, True):
        propagation = {"chain": {"mask_prompt": mask_prompt}}
        with open_session(drawing_bundle(tmp_path / str(mask_prompt), propagation=propagation), cache=False) as opened:
            labels.append(opened.segment(scene_volume(), box=BOX, window=(127.5, 255.0)).label_map)
    assert labels[0].any()
    np.testing.assert_array_equal(*labels)


def test_a_manifest_that_derives_logits_is_refused(tmp_path: Path) -> None:
    mask = {"kind": "logits", "size": [SIDE, SIDE], "derived": "box_stroke"}
    with pytest.raises(ManifestError, match=r"prompts.mask.derived: belongs to kind scribble"):
        load_manifest(drawing_bundle(tmp_path, prompts={"box": {}, "mask": mask}))

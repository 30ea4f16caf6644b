"""Bundles that find the object themselves: without a prompt, or within a box."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_bundle import BOX, BRIGHT, FLAT, disc, inside, open_session, scene_pixels, scene_volume
from tiny_prompts import finding_bundle

from runtime import Session
from runtime.errors import PromptError
from runtime.types import Box, Point

WINDOW = (127.5, 255.0)
BRIGHT_VOXELS = scene_pixels() >= BRIGHT


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def finding(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = finding_bundle(tmp_path_factory.mktemp("finding") / "bundle")
    with open_session(folder, backend=request.param, cache=False) as opened:
        yield opened


def bright(box: tuple[int, ...]) -> Any:
    """Bright voxels of the scene within a solid box."""
    x0, y0, z0, x1, y1, z1 = box
    mask = np.zeros_like(BRIGHT_VOXELS)
    mask[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = BRIGHT_VOXELS[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1]
    return mask


def test_one_image_is_decoded_without_a_prompt(finding: Session) -> None:
    image, mask = disc()
    wanted = mask.copy()
    wanted[-1, -1] = True  # the bright corner
    found = finding.decode(finding.encode(image), modality="CT")
    np.testing.assert_array_equal(found.masks, wanted[None])
    assert found.areas.tolist() == [wanted.sum()]
    assert not finding.decode(finding.encode(image), modality="MR").masks.any()


def test_boxes_cut_one_mask_into_several(finding: Session) -> None:
    image, mask = disc()
    boxes = [[15, 8, 45, 32], [25, 20, 29.4, 60 - 30], [0, 40, 10, 47]]
    embedding = finding.encode(image)
    found = finding.decode(embedding, boxes=boxes, modality="CT")
    whole = finding.decode(embedding, modality="CT")
    assert found.masks.shape == (3, *image.shape)
    np.testing.assert_array_equal(found.masks[0], mask)
    part = np.zeros_like(mask)
    part[20:31, 25:30] = mask[20:31, 25:30]
    np.testing.assert_array_equal(found.masks[1], part)
    assert not found.masks[2].any()
    assert found.boxes[1].tolist() == [25, 20, 29, int(np.nonzero(part)[0].max())]
    assert found.boxes[2].tolist() == [-1] * 4
    assert found.areas.tolist() == [mask.sum(), part.sum(), 0]
    np.testing.assert_array_equal(found.low_res_logits, whole.low_res_logits.repeat(3, axis=0))


def test_auto_segments_every_slice_on_its_own(finding: Session) -> None:
    found = finding.segment(scene_volume(), auto=True, modality="CT", window=WINDOW)
    np.testing.assert_array_equal(found.label_map, BRIGHT_VOXELS)
    (only,) = found.objects
    assert [(one.slice_index, one.stop) for one in only.slices] == [(index, None) for index in range(9)]
    assert only.name == "object 1"
    np.testing.assert_array_equal(
        finding.segment(scene_volume(), auto=True, modality="CT", window=WINDOW, z_range=(2, 5)).label_map,
        bright((0, 0, 2, 47, 63, 5)),
    )


def test_a_slice_that_shows_nothing_does_not_end_the_object(finding: Session) -> None:
    pixels = scene_pixels()
    pixels[:, :, 4] = 20  # of one intensity
    found = finding.segment(pixels, auto=True, modality="CT", window=WINDOW)
    wanted = BRIGHT_VOXELS.copy()
    wanted[:, :, 4] = False
    np.testing.assert_array_equal(found.label_map, wanted)


@pytest.mark.parametrize("auto", [True, False])
@pytest.mark.parametrize(
    ("options", "extent"),
    [
        ({"box": BOX}, (1, 7)),
        ({"box": FLAT}, (0, 8)),
        ({"box": FLAT, "z_range": (3, 4)}, (3, 4)),
        ({"box": Box(FLAT, slice_index=5)}, (5, 5)),
        ({"box": FLAT, "slice_index": 5}, (5, 5)),
    ],
    ids=["solid", "flat", "flat with a range", "flat on a slice", "flat on the slice of the call"],
)
def test_a_box_limits_the_masks(finding: Session, options: dict[str, Any], extent: tuple[int, int], auto: bool) -> None:
    found = finding.segment(scene_volume(), auto=auto, modality="CT", window=WINDOW, **options)
    x0, y0, x1, y1 = FLAT
    np.testing.assert_array_equal(found.label_map, bright((x0, y0, extent[0], x1, y1, extent[1])))
    assert [one.slice_index for one in found.objects[0].slices] == list(range(extent[0], extent[1] + 1))


def test_several_boxes_are_several_objects(finding: Session) -> None:
    boxes = [Box(BOX, name="ball"), Box((0, 0, 0, 1, 1, 8), name="corner")]
    found = finding.segment(scene_volume(), boxes=boxes, auto=True, modality="CT", window=WINDOW)
    assert found.names == {1: "ball", 2: "corner"}
    np.testing.assert_array_equal(found.label_map == 1, inside())
    assert (found.label_map[:2, :2] == 2).all()


def test_the_whole_run_is_told_as_progress(finding: Session) -> None:
    events: list[Any] = []
    finding.segment(scene_volume(), auto=True, modality="CT", window=WINDOW, progress=events.append)
    assert [(event.done, event.total) for event in events] == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, r"no prompt; bundle 'tiny' finds the object itself: give auto \(--auto\), or a box that limits the mask"),
        ({"auto": True, "modality": None}, r"no modality; bundle 'tiny' needs one of CT \(0\), MR \(1\)"),
        ({"points": [(3, 4)]}, r"object 1: this bundle takes one box for an object and no points"),
        ({"box": FLAT, "points": [Point((3, 4))]}, r"object 1: this bundle takes one box for an object and no points"),
        ({"boxes": [Box(FLAT, 1, "a"), Box(FLAT, 2, "a")]}, r"a: this bundle takes one box for an object"),
        ({"box": BOX, "z_range": (1, 2)}, r"object 1: its box and the z range both say on which slices"),
        ({"box": Box(FLAT, 3), "z_range": (1, 2)}, r"object 1: its box and the z range both say on which slices"),
        ({"box": (0, 0, 48, 9)}, r"x = 48 lies outside the image"),
        ({"auto": True, "mode": "other"}, r"mode 'other'"),
        ({"auto": True, "z_range": (5, 2)}, r"z range 5,2"),
    ],
)
def test_a_bad_request_is_a_prompt_error(finding: Session, options: dict[str, Any], text: str) -> None:
    with pytest.raises(PromptError, match=text):
        finding.segment(scene_volume(), **{"modality": "CT", **options})


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ({}, r"no modality; bundle 'tiny' needs one of CT \(0\), MR \(1\)"),
        ({"modality": "CT", "boxes": [[0, 0, 99, 9]]}, r"box 0,0,99,9 leaves the image"),
        (
            {"modality": "CT", "points": [[[1, 2]]], "point_labels": [[1]]},
            r"bundle 'tiny' takes no points prompt; it understands box",
        ),
    ],
)
def test_a_bad_decode_is_a_prompt_error(finding: Session, prompts: dict[str, Any], text: str) -> None:
    embedding = finding.encode(disc()[0])
    with pytest.raises(PromptError, match=text):
        finding.decode(embedding, **prompts)


def test_a_bundle_that_takes_no_box_at_all_says_so(tmp_path: Path) -> None:
    with open_session(finding_bundle(tmp_path, prompts={"box": None, "modality": "required"}), cache=False) as session:
        embedding = session.encode(disc()[0])
        with pytest.raises(PromptError, match=r"takes no box prompt; it finds the object itself"):
            session.decode(embedding, boxes=[[1, 2, 3, 4]], modality="CT")
        assert session.decode(embedding, modality="CT").masks.any()


def test_auto_is_refused_by_a_bundle_that_needs_a_prompt(session: Session) -> None:
    with pytest.raises(PromptError, match=r"auto: bundle 'tiny' finds nothing without a prompt; it understands box"):
        session.segment(scene_volume(), auto=True)

"""The evaluation protocols on a folder that is made here, with predictors whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch")

from export.pretrain.cases import read_cases, window_to_bytes
from export.pretrain.evaluate import evaluate_slices, format_table
from export.pretrain.gallery import write_drawn, write_gallery
from export.pretrain.metrics import bootstrap_interval, box_mask, dice, ellipse_mask, mean_over_cases
from export.pretrain.predictors import Answer, Clicks, frame_image
from runtime.errors import ImageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A 40 x 60 picture with two objects and a 30 x 20 x 4 volume with one (i = column, asymmetric)."""
    nibabel = pytest.importorskip("nibabel")
    label = np.zeros((40, 60), np.uint8)
    label[5:15, 10:30] = 1
    label[20:24, 40:46] = 2
    cv2.imwrite(str(tmp_path / "image.png"), np.where(label > 0, 200, 20).astype(np.uint8))
    cv2.imwrite(str(tmp_path / "label.png"), label)
    volume_label = np.zeros((30, 20, 4), np.uint8)
    volume_label[12:27, 3:9, 2] = 1
    volume = np.where(volume_label > 0, 60, -500).astype(np.int16)
    for name, values in (("image", volume), ("label", volume_label)):
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / f"{name}.nii.gz")
    cases: dict[str, Any] = {
        "picture": {
            "image": "image.png",
            "label": "label.png",
            "modality": "US",
            "shape": [40, 60],
            "objects": [{"label": 1, "name": "a", "z": 0, "box2d": [10, 5, 29, 14]}],
            "small_objects": [{"label": 2, "name": "b", "z": 0, "box2d": [40, 20, 45, 23]}],
        },
        "volume": {
            "image": "image.nii.gz",
            "label": "label.nii.gz",
            "modality": "CT",
            "shape": [30, 20, 4],
            "objects": [
                {
                    "label": 1,
                    "name": "c",
                    "z": 2,
                    "box2d": [12, 3, 26, 8],
                    "box3d": [12, 3, 2, 26, 8, 2],
                    "window": [40, 400],
                }
            ],
            "small_objects": [],
        },
    }
    (tmp_path / "prompts.json").write_text(json.dumps({"cases": cases}))
    return tmp_path


class _BoxPredictor:
    """Answers the filled box; one positive click fixes everything that is bright."""

    def encode(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return image

    def decode(
        self,
        embedding: NDArray[np.uint8],
        boxes: NDArray[np.float64] | None,
        clicks: Clicks | None = None,
        earlier: NDArray[np.float32] | None = None,
    ) -> Answer:
        count = len(clicks or []) if boxes is None else len(boxes)
        tried = [[0, 0, -1, -1]] * count if boxes is None else boxes
        masks = np.stack([box_mask((embedding.shape[0], embedding.shape[1]), np.array(box)) for box in tried])
        for row, given in enumerate(clicks or []):
            masks[row] |= any(label for _, _, label in given) & (embedding > 150)
        return Answer(masks, np.zeros((count, 8, 8), np.float32), np.ones(count, np.float32))


def test_a_predictor_that_fills_the_box_scores_as_the_box_baseline(folder: Path) -> None:
    figures = evaluate_slices(_BoxPredictor(), folder)
    assert figures.values["box"] == figures.values["filled_box"]
    assert figures.values["jitter"] == figures.values["filled_jitter"]
    assert figures.values["small/box"] == figures.values["small/filled_box"]
    assert figures.values["ellipse_box"]["picture"][0] < figures.values["filled_box"]["picture"][0]
    assert figures.values["box"]["picture"] == [1.0]  # the object is a rectangle: an off-by-one box would show
    assert figures.values["box"]["volume"] == [1.0]
    assert figures.values["small/box"]["picture"] == [1.0]
    assert figures.values["jitter"]["picture"][0] < 1


def test_objects_of_few_pixels_count_once_more_in_figures_of_their_own(folder: Path) -> None:
    figures = evaluate_slices(_BoxPredictor(), folder, quick=True)
    assert [record["area"] for record in figures.objects] == [200, 24, 90]
    assert {case: len(found) for case, found in figures.values["under_400/box"].items()} == {"picture": 2, "volume": 1}
    assert figures.values["box"]["picture"] == [1.0], "small ones count nowhere else"
    label = cv2.imread(str(folder / "label.png"), cv2.IMREAD_UNCHANGED)
    prompts = json.loads((folder / "prompts.json").read_text())
    label[5:35, 10:30] = 1  # 600 pixels
    prompts["cases"]["picture"]["objects"][0]["box2d"] = [10, 5, 29, 34]
    cv2.imwrite(str(folder / "label.png"), label)
    (folder / "prompts.json").write_text(json.dumps(prompts))
    assert len(evaluate_slices(_BoxPredictor(), folder, quick=True).values["under_400/box"]["picture"]) == 1


def test_clicks_alone_and_sizes_are_reported(folder: Path) -> None:
    summary = evaluate_slices(_BoxPredictor(), folder).summary()
    assert summary["protocols"]["point"]["by_case"]["picture"] == pytest.approx(2 * 200 / (200 + 224))
    assert summary["protocols"]["point_4"]["objects"] == 2
    assert {name: row["objects"] for name, row in summary["by_size"].items()} == {
        "0 to 99 px": 2,
        "100 to 399 px": 1,
    }
    assert {row["box"] for row in summary["by_size"].values()} == {1.0}
    assert "100 to 399 px" in format_table(summary)


def test_a_gallery_has_one_sheet_a_case_with_box_truth_and_answer(folder: Path) -> None:
    sheets = write_gallery(_BoxPredictor(), folder, folder / "sheets")
    assert [sheet.name for sheet in sheets] == ["picture.png", "volume.png"]
    tile = cv2.imread(str(sheets[0]))
    assert tile is not None
    assert tile.shape[1] == 2 * 192, "two objects, side by side"
    colours = {tuple(int(v) for v in colour) for colour in np.unique(tile.reshape(-1, 3), axis=0)}
    assert {(0, 220, 255), (255, 60, 255)} <= colours, "box and answer; the outline of the truth lies under the answer"


def test_the_worst_answers_on_drawn_images_are_one_picture(tmp_path: Path) -> None:
    sheet = cv2.imread(str(write_drawn(_BoxPredictor(), 7, tmp_path / "failures.png")))
    assert sheet is not None
    assert sheet.shape[:2] == (2 * (192 + 16), 6 * 192), "seven tiles in rows of six"


def test_small_objects_are_reported_apart(folder: Path) -> None:
    summary = evaluate_slices(_BoxPredictor(), folder, quick=True).summary()
    assert summary["protocols"]["box"]["objects"] == 2
    assert summary["protocols"]["small/box"]["objects"] == 1
    assert {name: row["box"] for name, row in summary["by_modality"].items()} == {"CT": 1.0, "US": 1.0}
    assert "click_1" not in summary["protocols"]
    assert "small/box" in format_table(summary)


def test_the_jitter_is_the_same_every_time(folder: Path) -> None:
    first, again = (evaluate_slices(_BoxPredictor(), folder, quick=True).values["jitter"] for _ in range(2))
    assert first == again


def test_a_volumes_slice_is_seen_with_columns_along_i(folder: Path) -> None:
    case = next(case for case in read_cases(folder) if case.is_volume)
    item = case.objects[0]
    image, mask = case.slice_image(item), case.slice_mask(item)
    assert image.shape == mask.shape == (20, 30)
    assert image[5, 20] == int((60 + 160) / 400 * 255)
    assert image[0, 0] == 0
    assert mask[3:9, 12:27].all()
    assert mask.sum() == 6 * 15


def test_a_folder_without_prompts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"prompts\.json: not found"):
        next(read_cases(tmp_path))


def test_a_window_cuts_off_the_fraction() -> None:
    assert window_to_bytes(np.array([-10.0, 0.0, 0.5, 0.999, 2.0]), (0.0, 1.0)).tolist() == [0, 0, 127, 254, 255]


def test_the_mean_counts_each_case_once() -> None:
    values = {"one": [0.0, 0.0, 0.0], "two": [1.0]}
    assert mean_over_cases(values) == 0.5
    low, high = bootstrap_interval(values)
    assert (low, high) == (0.0, 1.0)


def test_dice_and_baselines_follow_the_inclusive_box() -> None:
    box = np.array([2.0, 1.0, 5.0, 2.0])
    assert box_mask((6, 9), box).sum() == 4 * 2
    ellipse = ellipse_mask((40, 40), np.array([10.0, 10.0, 29.0, 19.0]))
    assert ellipse.sum() == pytest.approx(np.pi * 10 * 5, rel=0.03)
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1.0
    assert dice(np.array([True, False]), np.array([True, True])) == pytest.approx(2 / 3)


def test_an_image_is_framed_at_the_top_left() -> None:
    image = np.zeros((20, 80), np.uint8)
    image[:, 40:] = 50
    framed, resized = frame_image(image, 64)
    assert resized == (16, 64)
    assert framed[:, :16, 40:].min() == 1
    assert not framed[:, 16:].any()

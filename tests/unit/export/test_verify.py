"""Verification finds what differs: goldens made with torch pass, altered ones fail at the stage that was altered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the export extra is not installed")

from tiny_family import decoded, family, random_model, saved  # noqa: E402

import export.convert  # noqa: E402
from export.convert import convert  # noqa: E402
from export.golden import stand_in  # noqa: E402
from export.verify import Check, verify  # noqa: E402
from runtime.errors import BundleError  # noqa: E402
from runtime.manifest import Manifest, load_manifest  # noqa: E402
from runtime.propagate import ObjectPlan, SlicePrompt, propagate  # noqa: E402
from runtime.transforms import encoder_input, frame_of, masks_from_logits  # noqa: E402
from runtime.types import Prediction  # noqa: E402

TINY = family()
MODEL = random_model()
ENGINE = "onnxruntime"
VOLUME_BOXES = [[4, 5, 0, 20, 30, 3], [10, 2, 1, 32, 39, 4]]

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.convert, "load_families", lambda: (TINY,))
        yield convert(saved(MODEL.state_dict(), folder / "tiny.pth"), folder / "bundle")


def prediction_of(manifest: Manifest, logits: np.ndarray, score: float, size: tuple[int, int]) -> Prediction:
    masks, boxes, areas = masks_from_logits(logits[None], manifest.output, frame_of(manifest, size))
    scores = np.full(1, score, np.float32)
    return Prediction(logits[None], masks, scores, masks[:, None], scores[:, None], boxes, areas)


def image_case(manifest: Manifest) -> Arrays:
    """Arrays of an image with three boxes, sampled as the published goldens are; masks by torch's interpolation."""
    image = np.random.default_rng(7).integers(0, 256, (40, 33, 3), dtype=np.uint8)
    boxes = np.array([[2, 3, 20, 30], [0, 0, 32, 39], [7, 7, 9, 9]])
    frame = frame_of(manifest, (40, 33))
    pixels = encoder_input(image, manifest.input, frame)
    embedding, logits, scores = decoded(MODEL, pixels, frame.boxes_to_input(boxes))
    rows, columns = frame.resized_size
    maps = torch.nn.functional.interpolate(
        torch.from_numpy(logits[:, None, :rows, :columns]), (40, 33), mode="bilinear"
    )
    labels = np.zeros((40, 33), np.uint8)
    for label, mask in enumerate(maps[:, 0].numpy() > 0, 1):
        labels[mask] = label
    return {
        "image": image,
        "boxes": boxes,
        "encoder_input_sample": pixels.reshape(-1)[::3],
        "encoder_input_stride": 3,
        "embedding_sample": embedding.reshape(-1)[::7],
        "embedding_stride": 7,
        "prompt_boxes": frame.boxes_to_input(boxes),
        "low_res_logits": logits,
        "iou": scores,
        "mask": labels,
    }


def volume_case(manifest: Manifest) -> Arrays:
    """Arrays of the published loop through five slices, decoded by torch."""
    volume = np.random.default_rng(8).integers(0, 256, (5, 40, 33), dtype=np.uint8)
    frame = frame_of(manifest, (40, 33))
    segs = np.zeros(volume.shape, np.uint8)
    calls: list[tuple[tuple[int, int], np.ndarray, np.ndarray, float]] = []
    assert manifest.propagation.published is not None

    for number, (x0, y0, z0, x1, y1, z1) in enumerate(VOLUME_BOXES):

        def decode(index: int, prompt: SlicePrompt, number: int = number) -> Prediction:
            assert prompt.box is not None
            image = np.repeat(volume[index][..., None], 3, -1)
            _, logits, scores = decoded(MODEL, encoder_input(image, manifest.input, frame), prompt.box[None])
            rows, columns = frame.resized_size
            calls.append(((number, index), prompt.box, logits[0, :rows, :columns], float(scores[0])))
            return prediction_of(manifest, logits[0], float(scores[0]), (40, 33))

        limit = (float(x0), float(y0), float(x1), float(y1))
        plan = ObjectPlan(number + 1, {(z0 + z1) // 2: limit}, extent=(z0, z1), limit=limit)
        for step in propagate(decode, plan, frame, manifest.propagation.published):
            segs[step.slice_index][step.prediction.masks[0]] = number + 1
    places, boxes, logits, scores = zip(*calls, strict=True)
    return {
        "volume": volume,
        "boxes": np.array(VOLUME_BOXES),
        "call_box_and_slice": np.array(places),
        "call_prompt_boxes": np.stack(boxes),
        "call_low_res_logits_cropped": np.stack(logits).astype(np.float16),
        "call_iou": np.array(scores, np.float32),
        "segs": segs,
    }


@pytest.fixture(scope="module")
def cases(bundle: Path) -> dict[str, Arrays]:
    manifest = load_manifest(bundle)
    return {"case_0": image_case(manifest), "case_3d": volume_case(manifest)}


def replay(bundle: Path, folder: Path, cases: dict[str, Arrays]) -> list[Check]:
    for name, arrays in cases.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return list(verify(bundle, folder, backends=(ENGINE,)))


def test_goldens_made_with_torch_pass_at_every_stage(bundle: Path, cases: dict[str, Arrays], tmp_path: Path) -> None:
    checks = replay(bundle, tmp_path, cases)
    assert [(check.case, check.backend, check.stage) for check in checks] == [
        ("case_0", "-", "encoder_input"),
        ("case_0", "-", "prompt_boxes"),
        ("case_0", ENGINE, "embedding"),
        ("case_0", ENGINE, "low_res_logits"),
        ("case_0", ENGINE, "score"),
        ("case_0", ENGINE, "mask"),
        ("case_0", ENGINE, "one box at a time"),
        ("case_3d", ENGINE, "low_res_logits, rms"),
        ("case_3d", ENGINE, "low_res_logits"),
        ("case_3d", ENGINE, "score"),
        ("case_3d", ENGINE, "segs"),
        ("case_3d", ENGINE, "score of each slice"),
    ]
    assert [check for check in checks if not check.passed] == []


def altered(values: np.ndarray, by: float, count: int) -> np.ndarray:
    changed = values.copy()
    changed.reshape(-1)[5 : 5 + count] += by
    return changed


@pytest.mark.parametrize(
    ("case", "array", "by", "count", "stages"),
    [
        ("case_0", "encoder_input_sample", 1e-6, 1, {"encoder_input"}),
        ("case_0", "prompt_boxes", 1, 1, {"prompt_boxes"}),
        ("case_0", "embedding_sample", 0.002, 1, {"embedding"}),
        ("case_0", "low_res_logits", 0.01, 1, {"low_res_logits"}),
        ("case_0", "mask", 5, 2, {"mask"}),  # 1.5 thousandths of the pixels
        ("case_3d", "call_low_res_logits_cropped", 0.002, 1, {"low_res_logits"}),
        ("case_3d", "call_low_res_logits_cropped", 0.0005, 10_000, {"low_res_logits, rms"}),
        ("case_3d", "call_iou", 0.01, 1, {"score", "score of each slice"}),
        ("case_3d", "call_prompt_boxes", 20, 1, {"low_res_logits, rms", "low_res_logits", "score"}),
        ("case_3d", "segs", 5, 7, {"segs"}),
    ],
)
def test_an_altered_golden_fails_at_its_own_stage(
    bundle: Path,
    cases: dict[str, Arrays],
    tmp_path: Path,
    case: str,
    array: str,
    by: float,
    count: int,
    stages: set[str],
) -> None:
    changed = cases[case] | {array: altered(cases[case][array], by, count)}
    checks = replay(bundle, tmp_path, {"case_0": cases["case_0"], case: changed})
    failed = {(check.case, check.stage) for check in checks if not check.passed}
    assert failed == {(case, stage) for stage in stages}


def test_masks_packed_one_by_one_are_compared_one_by_one(
    bundle: Path, cases: dict[str, Arrays], tmp_path: Path
) -> None:
    arrays = cases["case_0"]
    logits = torch.from_numpy(arrays["low_res_logits"][:, None, :64, :53])
    masks = torch.nn.functional.interpolate(logits, (40, 33), mode="bilinear")[:, 0].numpy() > 0
    packed = arrays | {"mask": np.packbits(masks), "mask_shape": np.array(masks.shape)}
    checks = {check.stage: check for check in replay(bundle, tmp_path, {"case_0": packed})}
    assert checks["mask"].passed
    checks = {
        check.stage: check for check in replay(bundle, tmp_path, {"case_0": packed | {"mask": np.packbits(~masks)}})
    }
    assert checks["mask"].found > 0.99


def test_what_is_no_number_does_not_pass() -> None:
    assert not Check("case", "-", "stage", float("nan"), 1.0).passed


def test_a_folder_without_goldens_is_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no case_0\.npz there; wanted a folder of goldens"):
        list(verify(bundle, tmp_path, backends=()))


def test_goldens_that_lack_arrays_are_refused(bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "case_0.npz", image=np.zeros((4, 4, 3), np.uint8), boxes=np.zeros((1, 4)))
    with pytest.raises(
        BundleError, match=r"case_0\.npz lacks embedding_sample, low_res_logits, mask, prompt_boxes, iou"
    ):
        list(verify(bundle, tmp_path, backends=()))


def test_a_damaged_golden_is_refused(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "case_0.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(BundleError, match=r"case_0\.npz: cannot be read"):
        list(verify(bundle, tmp_path, backends=()))


def test_the_stand_in_paints_an_ellipse_in_its_box_and_rests_every_fifth_time() -> None:
    logits = stand_in(1, np.array([64.0, 32.0, 128.0, 96.0]), 256)
    y, x = np.unravel_index(logits.argmax(), logits.shape)
    assert (x, y) in {(95, 60), (96, 60), (95, 61), (96, 61), (95, 59), (96, 59), (95, 60)}
    assert (stand_in(3, np.zeros(4), 256) == -1).all()

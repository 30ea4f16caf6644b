"""The plain pipeline: its steps against the runtime's, and its answers where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

import runtime
from perf.case_files import write_npz
from perf.stats import dice_by_label
from perf.synthetic import grey_image
from runtime.bundle import open_bundle
from runtime.transforms import encoder_input, frame_of

reference = pytest.importorskip("perf.reference", reason="the reference pipeline needs openvino and OpenCV")


@pytest.fixture(scope="module")
def prepared(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("reference")
    facts = reference.prepare(tiny_bundle, folder / "graphs", folder / "cache", "fp32")
    assert (facts["name"], facts["backend"], facts["precision"]) == ("tiny", "reference", "fp32")
    return folder / "graphs", folder / "cache"


def facts_of(bundle: Path, **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return {**facts, "input": {**facts["input"], **changes}}


@pytest.mark.parametrize("size", [(64, 48), (50, 91), (200, 133)])
def test_its_input_is_that_of_the_runtime(size: tuple[int, int], tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = reference.Geometry(facts_of(tiny_bundle), *size).tensor(image)
    wanted = encoder_input(image, manifest.input, frame_of(manifest, size))
    assert found.shape == (1, 3, 64, 64)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("size", "most"), [((40, 30), 0.02), ((100, 133), 1e-6)])
def test_it_enlarges_as_the_default_model_asks_for(size: tuple[int, int], most: float, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    entry = msgspec.structs.replace(manifest.input, interpolation="area_lanczos")
    noise = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    image = np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)
    found = reference.Geometry(facts_of(tiny_bundle, interpolation="area_lanczos"), *size).tensor(image)
    wanted = encoder_input(image, entry, frame_of(manifest, size))
    assert np.abs(found - wanted).mean() <= most, "where it enlarges by eight taps, the runtime does by six"
    plain = reference.Geometry(facts_of(tiny_bundle), *size).tensor(image)
    assert np.array_equal(found, plain) == (max(size) > 64)


@pytest.mark.parametrize("coordinates", ["exact", "edges"])
def test_its_boxes_are_those_of_the_runtime(coordinates: str, tiny_bundle: Path) -> None:
    manifest = open_bundle(tiny_bundle).manifest
    changed = msgspec.structs.replace(manifest.input, coordinates=coordinates)
    frame = frame_of(msgspec.structs.replace(manifest, input=changed), (50, 91))
    box = np.array([3.0, 7.0, 60.0, 41.0])
    found = reference.Geometry(facts_of(tiny_bundle, coordinates=coordinates), 50, 91).box(box)
    np.testing.assert_allclose(found, frame.boxes_to_input(box), rtol=1e-5)


def test_one_file_is_segmented_and_every_step_timed(
    prepared: tuple[Path, Path], tmp_path: Path, tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = grey_image((64, 48))
    box = (drawn.boxes[0][0], drawn.boxes[0][1], drawn.boxes[0][3], drawn.boxes[0][4])
    write_npz(tmp_path / "2D_grey.npz", drawn.array, [box])
    options = ["--graphs", str(prepared[0]), "--cache", str(prepared[1]), "--precision", "fp32"]
    assert reference.main([str(tmp_path / "2D_grey.npz"), str(tmp_path / "segs.npz"), *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["counts"] == {"slices_encoded": 1, "prompts_decoded": 1}
    assert all(time > 0 for times in found["stages"].values() for time in times)
    segs = np.load(tmp_path / "segs.npz")["segs"]
    with runtime.Session(tiny_bundle, backend="openvino", precision="fp32", cache=False) as session:
        wanted = session.segment(runtime.load(tmp_path / "2D_grey.npz"), boxes=[box]).label_map.T
    assert dice_by_label(segs, wanted)[1] > 0.99


class Painter(reference.Reference):  # type: ignore[misc, name-defined]
    """Answers with the inside of the box, one pixel narrower, without a graph."""

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.encoded: list[int] = []
        self.boxes: list[tuple[int, ...]] = []

    def encode(self, image: np.ndarray, geometry: Any) -> dict[str, Any]:
        self.encoded.append(int(image[0, 0]))
        return {}

    def decode(self, embedding: dict[str, Any], box: np.ndarray, geometry: Any) -> np.ndarray:
        x0, y0, x1, y1 = (round(float(value)) for value in box)
        self.boxes.append((x0, y0, x1, y1))
        mask = np.zeros(geometry.size, np.bool_)
        mask[y0 : y1 + 1, x0 + 1 : x1 + 1] = True
        return mask


def test_a_volume_is_followed_from_the_middle_up_and_down_and_each_slice_encoded_once(tiny_bundle: Path) -> None:
    painter = Painter(facts_of(tiny_bundle))
    images = np.arange(9, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 50), np.uint8)
    labels = reference.segment(painter, images, np.array([[10, 5, 2, 30, 20, 6], [10, 5, 5, 30, 20, 7]]))
    assert painter.encoded == [4, 5, 6, 3, 2, 7]
    assert [box[0] for box in painter.boxes] == [10, 11, 12, 11, 12, 10, 11, 11]  # each from its neighbour's mask
    assert [int(plane.max()) for plane in labels] == [0, 0, 1, 1, 1, 2, 2, 2, 0]


def test_an_empty_mask_is_followed_by_the_given_box(tiny_bundle: Path) -> None:
    painter = Painter(facts_of(tiny_bundle))
    reference.segment(painter, np.zeros((3, 40, 50), np.uint8), np.array([[10, 5, 0, 10, 20, 2]]))
    assert painter.boxes == [(10, 5, 10, 20)] * 3


def test_the_published_rule_takes_the_box_of_the_resized_label_and_grows_it(tiny_bundle: Path) -> None:
    mask = np.zeros((128, 128), np.bool_)
    mask[40:60, 20:80] = True
    geometry = reference.Geometry(facts_of(tiny_bundle), 128, 128)
    published = {"box_from": "resized_label", "margin_px": 3}
    # 20..79 and 40..59 at half the size: 10..39 and 20..29; grown by 3; doubled again
    assert reference._next_box(mask, geometry, published).tolist() == [14, 34, 84, 64]
    assert reference._next_box(mask, geometry, {}).tolist() == [20, 40, 79, 59]
    assert reference._next_box(~mask & mask, geometry, published) is None


def test_a_bundle_that_needs_more_than_boxes_is_refused_in_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = facts_of(tiny_bundle, interpolation="bicubic_antialias")
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(facts), encoding="utf-8")
    arguments = ["--graphs", str(tmp_path / "graphs"), "--cache", str(tmp_path / "cache"), "--prepare", str(folder)]
    assert reference.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no bicubic_antialias interpolation" in line

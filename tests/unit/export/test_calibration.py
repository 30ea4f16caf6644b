"""Calibration folders: what is read, which boxes are put on it, and what is said where nothing is readable."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from conv_bundle import conv_bundle, picture
from PIL import Image
from published import manifest
from tiny_bundle import tiny_bundle

import runtime
from export._calibration import Sample, check_calibratable, divided, prompts_of, read_samples, record, structure_boxes
from runtime.errors import BundleError, ImageError
from runtime.manifest import BoxPrompt, PointPrompt, load_manifest


def volume(shape: tuple[int, int, int] = (40, 50, 12)) -> Any:
    array = np.stack([picture(k, (shape[0], shape[1])) for k in range(shape[2])], 2).astype(np.int16)
    return nibabel.Nifti1Image(array * 4, np.diag([-1.0, -1.0, 2.0, 1.0]))


def test_images_volumes_and_the_challenges_files_become_8_bit_images_with_boxes(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    colour = np.stack([picture(2), picture(3), picture(4)], 2)
    Image.fromarray(colour).save(tmp_path / "b.jpg", quality=95)
    (tmp_path / "deeper").mkdir()
    nibabel.save(volume(), tmp_path / "deeper" / "c.nii.gz")
    np.savez(tmp_path / "2D_d.npz", imgs=colour, boxes=np.array([[3, 4, 20, 30]]))
    imgs = np.stack([picture(k) for k in range(9)])  # (D, H, W)
    boxes = np.array([[5, 6, 1, 30, 40, 5], [10, 11, 6, 20, 21, 8]])
    np.savez(tmp_path / "3D_e.npz", imgs=imgs, boxes=boxes, spacing=np.ones(3))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "meta.json").write_text("{}")

    samples = read_samples(tmp_path, 30)
    assert all(sample.image.dtype == np.uint8 for sample in samples)
    shapes = [sample.image.shape for sample in samples]
    assert shapes[:4] == [(64, 64, 3), (64, 64), (64, 64), (64, 64)], "2-D NPZ, two slices of the 3-D one, PNG"
    assert samples[0].boxes.tolist() == [[3, 4, 20, 30]]
    np.testing.assert_array_equal(samples[1].image, imgs[3])
    assert [sample.boxes.tolist() for sample in samples[1:3]] == [[[5, 6, 30, 40]], [[10, 11, 20, 21]]]
    np.testing.assert_array_equal(samples[3].image, picture(1))
    assert shapes[4:] == [(64, 64, 3)] + [(50, 40)] * 6
    for sample in samples:
        rows, columns = sample.image.shape[:2]
        assert len(sample.boxes)
        assert (sample.boxes >= 0).all()
        assert (sample.boxes[:, 2:] < (columns, rows)).all()
        assert (sample.boxes[:, :2] <= sample.boxes[:, 2:]).all()


def test_dicom_files_series_and_mixed_folders_are_read(tmp_path: Path) -> None:
    from pydicom.data import get_testdata_file

    (tmp_path / "mixed").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(get_testdata_file(name, download=False), tmp_path / "mixed" / name)
    samples = read_samples(tmp_path, 6)
    assert [sample.image.shape for sample in samples] == [(128, 128), (64, 64)]
    assert all(sample.image.dtype == np.uint8 for sample in samples)


def test_the_same_folder_gives_the_same_samples(tmp_path: Path) -> None:
    nibabel.save(volume(), tmp_path / "c.nii")
    first, second = read_samples(tmp_path, 5), read_samples(tmp_path, 5)
    assert len(first) == len(second) == 5
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_boxes_are_put_around_structures() -> None:
    image = np.full((100, 120), 20, np.uint8)
    image[30:60, 40:80] = 200
    boxes = structure_boxes(image)
    assert np.abs(boxes - [40, 30, 79, 59]).max(1).min() <= 2
    assert structure_boxes(np.full((40, 80), 7, np.uint8)).tolist() == [[20, 10, 59, 29]]


def test_a_folder_without_images_lists_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "words.dat").write_bytes(b"words")
    with pytest.raises(
        ImageError, match=r"0 file\(s\) read, 0 usable image\(s\); wanted at least two NIfTI, DICOM"
    ) as it:
        read_samples(tmp_path, 10)
    assert "broken.png" in str(it.value)
    assert "words.dat" in str(it.value)
    with pytest.raises(ImageError, match="is no folder; wanted a folder with NIfTI, DICOM, NPZ, PNG or JPEG"):
        read_samples(tmp_path / "none", 10)


def test_label_maps_and_single_images_are_not_enough(tmp_path: Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "a.png")
    Image.fromarray((picture(1) > 100).astype(np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError, match=r"2 file\(s\) read, 1 usable image\(s\); .* 32 grey levels or more \(label"):
        read_samples(tmp_path, 10)


def test_a_third_is_held_out_and_nothing_is_in_both() -> None:
    samples = [Sample(np.zeros((2, 2), np.uint8), np.zeros((1, 4))) for _ in range(7)]
    images = divided(samples)
    kept, held = images.calibrate, images.held_out
    assert (len(kept), len(held)) == (5, 2)
    assert {id(one) for one in kept} | {id(one) for one in held} == {id(one) for one in samples}
    assert images.measured_on == "2 held-out calibration images"
    two = divided(samples[:2], drawn=True)
    assert (len(two.calibrate), len(two.held_out)) == (1, 1)
    assert two.measured_on == "1 held-out drawn image"


SAMPLE = Sample(picture(1), np.array([[2.0, 4, 20, 30], [5, 5, 9, 9]]))


def test_prompts_are_those_that_the_bundle_understands(tmp_path: Path) -> None:
    boxes_only = manifest()
    assert [set(prompts_of(boxes_only, SAMPLE, number)) for number in range(3)] == [{"boxes"}] * 3
    full = load_manifest(tiny_bundle(tmp_path, clicks=True))
    earlier = np.zeros((2, 64, 64), np.float32)
    assert set(prompts_of(full, SAMPLE, 0, earlier)) == {"boxes"}
    assert set(prompts_of(full, SAMPLE, 1, earlier)) == {"boxes", "points", "point_labels"}
    assert set(prompts_of(full, SAMPLE, 2, earlier)) == {"boxes", "masks"}
    assert prompts_of(full, SAMPLE, 1)["points"].tolist() == [[[11, 17], [2, 4]], [[7, 7], [5, 5]]]
    optional = replace_prompts(full, box=BoxPrompt(use="optional"))
    assert [set(prompts_of(optional, SAMPLE, number)) - {"point_labels"} for number in (1, 4)] == [
        {"boxes", "points"},
        {"points"},
    ]
    clicks = replace_prompts(full, box=None, points=PointPrompt(), mask=None)
    assert set(prompts_of(clicks, SAMPLE, 0)) == {"points", "point_labels"}
    asks = manifest({"prompts": {"modality": "required"}, "modalities": ["CT", "MR"]})
    assert [prompts_of(asks, SAMPLE, number)["modality"] for number in range(3)] == [0, 1, 0]


def replace_prompts(spec: Any, **changes: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(spec, prompts=msgspec.structs.replace(spec.prompts, **changes))


def test_vectors_that_images_do_not_bring_are_drawn_to_measure_and_refused_to_calibrate() -> None:
    facts = manifest({"prompts": {"vectors": {"clip": 8}}})
    with pytest.raises(
        BundleError, match=r"takes vectors \(clip\) that images do not bring, .* choose precision int8-w"
    ):
        check_calibratable(facts)
    check_calibratable(manifest())
    first, again, second = (prompts_of(facts, SAMPLE, number)["extra"]["clip"] for number in (0, 0, 1))
    assert first.shape == (8,)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert "extra" not in prompts_of(manifest(), SAMPLE, 0)


def test_graphs_are_recorded_with_real_embeddings_and_prompts(tmp_path: Path) -> None:
    samples = [replace(SAMPLE, image=picture(seed)) for seed in range(3)]
    with runtime.Session(tiny_bundle(tmp_path, clicks=True), backend="onnxruntime", cache=False) as session:
        recorded = record(session, samples)
        embedding = session.encode(samples[0].image)
    assert [len(recorded[role]) for role in ("encoder", "decoder")] == [3, 4], "mask prompts need an answer first"
    np.testing.assert_array_equal(recorded["decoder"][0]["levels"], embedding.tensors["levels"])
    assert [one["has_mask"].max() for one in recorded["decoder"]] == [0, 0, 0, 1]
    flagged = tiny_bundle(tmp_path / "flagged", clicks=True, prompts={"mask": {"neighbour_flag": 2}})
    with runtime.Session(flagged, backend="onnxruntime", cache=False) as session:
        recorded = record(session, samples)
    assert [one["has_mask"].max() for one in recorded["decoder"]] == [0, 0, 0, 1, 2]
    with runtime.Session(conv_bundle(tmp_path / "conv"), backend="onnxruntime", cache=False) as session:
        assert [len(inputs) for inputs in record(session, samples).values()] == [3, 3]


def test_looks_from_closer_are_not_recorded(tmp_path: Path) -> None:
    """They ask the same graphs; the counts are those of the test before."""
    closer = {"below": 1.0, "sides": [1.5]}
    looking = tiny_bundle(tmp_path, clicks=True, input={"coordinates": "edges"}, prompts={"closer": closer})
    with runtime.Session(looking, backend="onnxruntime", cache=False) as session:
        recorded = record(session, [replace(SAMPLE, image=picture(seed)) for seed in range(3)])
    assert [len(recorded[role]) for role in ("encoder", "decoder")] == [3, 4]

"""Drawn images, and the files that cases are made of."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

import runtime
from perf import case_files, cases
from perf.cases import UserFile, make_cases, read_label_map, series_of
from perf.synthetic import Drawn, ct_volume, grey_image, rgb_image
from runtime._cli_output import demo_command
from runtime.errors import ImageError, PromptError
from runtime.prompt_text import parse_box

SMALL = (64, 48, 100)


@pytest.fixture(scope="module")
def small() -> Drawn:
    return ct_volume(SMALL)


@pytest.fixture
def small_images(monkeypatch: pytest.MonkeyPatch, small: Drawn) -> None:
    monkeypatch.setattr(cases, "ct_volume", lambda: small)
    monkeypatch.setattr(cases, "grey_image", lambda: grey_image((64, 48)))


def test_the_same_seed_draws_the_same_image_and_another_seed_another_one(small: Drawn) -> None:
    again = ct_volume(SMALL)
    assert np.array_equal(small.array, again.array)
    assert small.boxes == again.boxes
    assert not np.array_equal(small.array, ct_volume(SMALL, seed=1).array)
    assert np.array_equal(grey_image((40, 30)).array, grey_image((40, 30)).array)


def test_the_drawn_ct_has_five_objects_of_40_slices_on_85_slices_in_all(small: Drawn) -> None:
    assert small.array.dtype == np.int16
    assert [box[5] - box[2] + 1 for box in small.boxes] == [40] * 5
    assert np.count_nonzero(small.truth.any(axis=(0, 1))) == 85


def test_boxes_are_tight_with_both_ends_inclusive(small: Drawn) -> None:
    for label, (x0, y0, z0, x1, y1, z1) in enumerate(small.boxes, start=1):
        mask = small.truth == label
        inside = mask[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1]
        assert inside.sum() == mask.sum() > 0
        faces = [inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1]]
        assert all(face.any() for face in faces)


def test_the_drawn_ct_is_windowed_as_a_ct_and_its_objects_stand_out(small: Drawn) -> None:
    assert small.array.min() < -500
    for label in range(1, 6):
        assert abs(small.array[small.truth == label].mean() - 45) > 50


@pytest.mark.usefixtures("small_images")
def test_the_files_of_a_drawn_case_hold_the_drawn_voxels_and_prompts(tmp_path: Path, small: Drawn) -> None:
    nifti, npz, grey = make_cases(["ct-5", "ct-1-npz", "grey-1"], [], tmp_path)
    assert np.array_equal(runtime.load(nifti.path).array, small.array)
    assert [parse_box(text).xyxy for text in nifti.boxes] == [tuple(map(float, box)) for box in small.boxes]
    found = runtime.load(npz.path)
    assert found.array.shape == SMALL
    assert found.array.dtype == np.uint8
    assert [prompt.xyxy for prompt in found.prompts] == [tuple(map(float, small.boxes[0]))]
    assert (npz.boxes, npz.suffix, npz.facts.dtype) == ((), ".npz", "uint8")
    assert runtime.load(grey.path).is_2d
    assert len(parse_box(grey.boxes[0]).xyxy) == 4


@pytest.mark.usefixtures("small_images")
def test_the_truth_of_a_case_has_the_axes_of_its_label_map_and_its_objects_only(tmp_path: Path, small: Drawn) -> None:
    nifti, npz = make_cases(["ct-1", "ct-5-npz"], [], tmp_path)
    assert nifti.truth is not None
    assert npz.truth is not None
    assert np.array_equal(read_label_map(nifti.truth), small.truth == 1)
    assert np.array_equal(read_label_map(npz.truth), small.truth.transpose(2, 1, 0))


def test_the_sample_is_what_the_demo_segments(tmp_path: Path) -> None:
    (case,) = make_cases(["sample"], [], tmp_path)
    assert case.arguments() == demo_command()[: len(case.arguments())]


@pytest.mark.usefixtures("small_images")
def test_a_file_of_the_user_is_described_without_its_name_or_digest(tmp_path: Path) -> None:
    make_cases(["ct-1"], [], tmp_path)
    secret = (tmp_path / "ct-100.nii.gz").rename(tmp_path / "Doe_Jane.nii.gz")
    (case,) = make_cases([], [UserFile(secret, ("Jane=1,2,3,4,5,6",))], tmp_path)
    assert case.arguments() == [str(secret), "--box", "Jane=1,2,3,4,5,6"]
    assert case.facts.boxes == ("1,2,3,4,5,6",)
    assert case.facts.sha256 is None
    assert "Doe" not in str(case.facts)
    assert "Jane" not in str(case.facts)


def test_a_missing_file_and_a_file_without_boxes_are_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        make_cases([], [UserFile(tmp_path / "none.nii", ("1,2,3,4",))], tmp_path)
    picture = tmp_path / "picture.png"
    case_files.write_png(picture, grey_image((20, 30)).array[:, :, 0])
    with pytest.raises(PromptError, match="give --box after --file"):
        make_cases([], [UserFile(picture)], tmp_path)


def test_an_unknown_case_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"case mri: wanted some of sample, grey-1"):
        make_cases(["mri"], [], tmp_path)


@pytest.mark.usefixtures("small_images")
def test_series_ask_for_that_many_slices_in_the_middle_of_one_object(tmp_path: Path, small: Drawn) -> None:
    (case,) = make_cases(["slices-10"], [], tmp_path)
    (box,) = (parse_box(text).xyxy for text in case.boxes)
    x0, y0, z0, x1, y1, z1 = (int(value) for value in box)
    assert z1 - z0 + 1 == 10
    truth = read_label_map(case.truth) if case.truth else small.truth
    assert np.array_equal(truth[:, :, z0 : z1 + 1], small.truth[:, :, z0 : z1 + 1] == 1)
    assert truth.sum() == truth[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1].sum()
    assert series_of("slices-10") == ("slices", 10, "slices asked for, of a drawn CT of 512x512x100 voxels")
    assert series_of("ct-1") is None


def test_a_colour_image_has_twenty_objects_and_as_many_boxes_as_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cases, "rgb_image", lambda: rgb_image((100, 80)))
    few, npz = make_cases(["boxes-5", "rgb-20-npz"], [], tmp_path)
    assert len(few.boxes) == 5
    found = runtime.load(npz.path)
    assert (found.array.shape, found.is_2d, len(found.prompts)) == ((100, 80, 1, 3), True, 20)
    assert np.array_equal(runtime.load(few.path).array, found.array)


@pytest.mark.usefixtures("small_images")
def test_the_second_box_is_another_one_on_the_same_slices(tmp_path: Path) -> None:
    for case in make_cases(["ct-1", "grey-1", "sample"], [], tmp_path):
        first, second = parse_box(case.boxes[0]), parse_box(case.second_box)
        half = len(first.xyxy) // 2
        assert second.xyxy[:2] != first.xyxy[:2]
        assert second.xyxy[2:half] == first.xyxy[2:half]
        assert second.slice_index == first.slice_index
        again = case.with_second_box()
        assert again.arguments()[-1] == case.second_box
        assert again.answer_name != case.answer_name


@pytest.mark.usefixtures("small_images")
def test_a_file_of_the_user_gets_a_twin_that_the_reference_reads(tmp_path: Path, small: Drawn) -> None:
    make_cases(["ct-1"], [], tmp_path)
    path = tmp_path / "ct-100.nii.gz"
    one = UserFile(path, ("liver=1,2,3,30,20,60",))
    original, twin = make_cases([], [one], tmp_path, twins=True)
    found = runtime.load(twin.path)
    assert (original.name, twin.name, twin.boxes) == ("file-1", "file-1-npz", ())
    assert found.array.shape == small.array.shape
    assert found.prompts[0].xyxy == (1, 2, 3, 30, 20, 60)
    on_one_slice = UserFile(path, ("1,2,30,20@40",))  # the challenge's format has no such box in a volume
    assert [case.name for case in make_cases([], [on_one_slice], tmp_path, twins=True)] == ["file-1"]


def test_the_twin_of_a_volume_keeps_its_spacing(tmp_path: Path, small: Drawn) -> None:
    path = tmp_path / "own.nii.gz"
    nibabel.save(nibabel.Nifti1Image(small.array, np.diag([1.5, 2.0, 3.25, 1.0])), path)
    _, twin = make_cases([], [UserFile(path, ("1,2,3,30,20,60",))], tmp_path, twins=True)
    assert runtime.load(twin.path).spacing == (1.5, 2.0, 3.25)

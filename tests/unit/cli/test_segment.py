"""``lite-infer FILE --box ...``: what is written where."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from command_line import Runner, left_behind, scene_file, write_nifti
from PIL import Image
from scenes import RAS_AFFINE, STORAGES, box_in
from tiny_bundle import BOX, FLAT, SCENE_SHAPE, ball, disc, inside, scene_pixels, unstored

SOLID = ",".join(map(str, BOX))
FLAT_TEXT = ",".join(map(str, FLAT))
WINDOW = ("--window", "127.5,255")
"""Pixels of the scene are 0 to 255: this window changes none of them."""


def labels_of(path: Path) -> Any:
    return np.asarray(nibabel.load(path).dataobj)


# Files


def test_a_volume_becomes_a_label_map_beside_it(run: Runner, volume_file: Path) -> None:
    done = run(volume_file, "--box", SOLID, *WINDOW)
    assert (done.code, done.err) == (0, "")
    assert left_behind(volume_file.parent, volume_file) == ["scan_seg.nii.gz"]
    image = nibabel.load(volume_file.parent / "scan_seg.nii.gz")
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(labels_of(volume_file.parent / "scan_seg.nii.gz"), inside())
    np.testing.assert_array_equal(image.affine, nibabel.load(volume_file).affine)


def test_a_flat_box_is_followed_through_the_volume(run: Runner, volume_file: Path) -> None:
    assert run(volume_file, "--box", FLAT_TEXT, *WINDOW, "-o", "out.nii").code == 0
    np.testing.assert_array_equal(labels_of(Path("out.nii")), ball())


@pytest.mark.parametrize(("modality", "found"), [("ct", True), ("0", True), ("MR", False), ("1", False)])
def test_the_modality_is_named_or_counted(run: Runner, volume_file: Path, modality: str, found: bool) -> None:
    words = ("--box", SOLID, *WINDOW, "--bundle", "modality", "--modality", modality, "-o", "out.nii")
    assert run(volume_file, *words).code == 0
    assert labels_of(Path("out.nii")).any() == found


@pytest.mark.parametrize(("bias", "found"), [(1, True), (-9, False)])
def test_further_arrays_come_from_a_file(run: Runner, picture_file: Path, bias: float, found: bool) -> None:
    np.savez("extra.npz", bias=np.full((1, 2), bias))
    words = ("--box", "15,8,45,32", "--bundle", "content", "--extra", "extra.npz", "-o", "out.nii")
    assert run(picture_file, *words).code == 0
    assert labels_of(Path("out.nii")).any() == found


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (None, "bundle 'tiny' needs bias (N, 2), one row a prompt; give them as extra, by these names"),
        ({}, "bundle 'tiny' needs bias (N, 2)"),
        ({"bias": [1, 2], "tokens": [3]}, "extra 'tokens': bundle 'tiny' takes no such array; it takes crops"),
        ({"bias": ["one", "two"]}, "--extra extra.npz: 'bias' holds <U3, wanted numbers"),
        (b"no archive", "--extra extra.npz: "),
        ("absent", "--extra absent.npz: "),
    ],
)
def test_further_arrays_that_are_missing_or_do_not_fit_are_a_usage_error(
    run: Runner, picture_file: Path, arrays: Any, text: str
) -> None:
    name = "absent.npz" if arrays == "absent" else "extra.npz"
    if isinstance(arrays, dict):
        np.savez(name, **arrays)
    elif isinstance(arrays, bytes):
        Path(name).write_bytes(arrays)
    words = () if arrays is None else ("--extra", name)
    done = run(picture_file, "--box", "15,8,45,32", "--bundle", "content", *words)
    assert done.code == 2
    assert done.err.startswith("lite-infer: error: ")
    assert text in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("words", [("--auto",), ("--auto", "--box", SOLID), ("--box", SOLID)])
def test_a_bundle_may_find_the_object_itself(run: Runner, volume_file: Path, words: tuple[str, ...]) -> None:
    assert run(volume_file, *words, *WINDOW, "--bundle", "finding", "--modality", "CT", "-o", "out.nii").code == 0
    bright = scene_pixels() >= 200
    np.testing.assert_array_equal(labels_of(Path("out.nii")), bright & inside() if "--box" in words else bright)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--auto",), "auto: bundle 'tiny' finds nothing without a prompt; it understands box"),
        (("--auto", "--bundle", "finding"), "no modality; bundle 'tiny' needs one of CT (0), MR (1)"),
        (("--bundle", "finding"), "or --auto if the bundle needs none"),
    ],
)
def test_auto_where_something_is_missing_is_a_usage_error(
    run: Runner, volume_file: Path, words: tuple[str, ...], text: str
) -> None:
    done = run(volume_file, *words, *WINDOW)
    assert done.code == 2
    assert text in done.err
    assert left_behind(volume_file.parent, volume_file) == []


@pytest.mark.parametrize("storage", STORAGES[3::16])
def test_voxels_of_the_file_are_voxels_of_the_label_map(run: Runner, tmp_path: Path, storage: Any) -> None:
    file = scene_file(tmp_path / "stored.nii", storage)
    box = ",".join(map(str, box_in(storage, BOX, SCENE_SHAPE)))
    assert run(file, "--box", box, "--plane", "axial", *WINDOW, "-o", "out.nii").code == 0
    np.testing.assert_array_equal(unstored(labels_of(Path("out.nii")), storage), inside())


def test_a_picture_becomes_a_label_picture_and_an_overlay(run: Runner, picture_file: Path) -> None:
    done = run(picture_file, "--box", "15,8,45,32")
    assert (done.code, done.err) == (0, "")
    assert left_behind(picture_file.parent, picture_file) == ["photo_seg.png", "photo_seg_overlay.png"]
    with Image.open("photo_seg.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), disc()[1].astype(np.uint8))


def test_a_challenge_file_brings_its_boxes(run: Runner, tmp_path: Path) -> None:
    boxes = np.array([[8, 18, 1, 20, 50, 7], [21, 18, 1, 32, 50, 7]])
    file = tmp_path / "3D_case.npz"
    np.savez(file, imgs=scene_pixels().transpose(2, 1, 0), boxes=boxes, spacing=(1.0, 2.0, 3.0))
    done = run(file, "--json")
    assert done.code == 0
    assert [one["label"] for one in done.json["objects"]] == [1, 2]
    halves = [int(inside(tuple(box)).sum()) for box in boxes.tolist()]
    assert [one["voxels"] for one in done.json["objects"]] == halves
    assert halves[0] != halves[1]
    with np.load(tmp_path / "3D_case_seg.npz") as data:
        segs = data["segs"].transpose(2, 1, 0)
    np.testing.assert_array_equal(segs == 1, inside((8, 18, 1, 20, 50, 7)))
    np.testing.assert_array_equal(segs == 2, inside((21, 18, 1, 32, 50, 7)))
    assert run(file, "--box", SOLID, "--json").json["objects"][0]["voxels"] == inside().sum(), "a box replaces them"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("scan.nii", "scan_seg.nii.gz"),
        ("SCAN.NII.GZ", "SCAN_seg.nii.gz"),
        ("a.b.nii.gz", "a.b_seg.nii.gz"),
        ("scan_seg.nii.gz", "scan_seg_seg.nii.gz"),
    ],
)
def test_default_names_follow_the_input(run: Runner, tmp_path: Path, name: str, wanted: str) -> None:
    write_nifti(tmp_path / "plain.nii.gz" if name.lower().endswith("gz") else tmp_path / "plain.nii", scene_pixels())
    next(tmp_path.glob("plain*")).rename(tmp_path / name)
    assert run(name, "--box", SOLID).code == 0
    assert left_behind(tmp_path, tmp_path / name) == [wanted]


def test_the_current_folder_is_used_where_the_inputs_cannot_be_written(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    file = scene_file(folder / "scan.nii.gz")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder.resolve() and real(path, mode))
    assert run(file, "--box", SOLID).code == 0
    assert left_behind(tmp_path, folder) == ["scan_seg.nii.gz"]
    assert left_behind(folder, file) == []


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("-p",), "scan_seg_preview.png"),
        (("--preview", "look.png"), "look.png"),
        (("-o", "out.nii.gz", "--preview"), "out_preview.png"),
    ],
)
def test_a_preview_is_written_where_it_is_wanted(
    run: Runner, volume_file: Path, words: tuple[str, ...], wanted: str
) -> None:
    done = run(volume_file, "--box", SOLID, "--json", *words)
    assert done.code == 0
    assert Path(done.json["preview"]).name == wanted
    with Image.open(wanted) as picture:
        assert min(picture.size) > 40


def test_nothing_else_than_the_results_is_left_behind(run: Runner, volume_file: Path, cache_folder: Path) -> None:
    assert run(volume_file, "--box", SOLID, "-p", "--no-cache").code == 0
    assert left_behind(volume_file.parent, volume_file) == ["scan_seg.nii.gz", "scan_seg_preview.png"]
    assert not (cache_folder / "embeddings").exists()


def test_compiled_graphs_are_counted_and_cleared_as_well(run: Runner, volume_file: Path, cache_folder: Path) -> None:
    assert run(volume_file, "--box", SOLID, "--backend", "openvino", "--precision", "fp32").code == 0
    graphs = run("cache", "info", "--json").json["graphs"]
    assert graphs["directory"] == str(cache_folder / "graphs")
    assert graphs["entries"] == 2
    assert 0 < graphs["bytes"] <= graphs["limit_bytes"]
    assert "\n2 compiled graphs, " in run("cache", "info").out
    assert run("cache", "clear", "--json").json["graphs"]["entries"] == 0
    assert list(cache_folder.rglob("*.*")) == []


def test_embeddings_are_kept_for_the_next_run(run: Runner, volume_file: Path, cache_folder: Path) -> None:
    first = run(volume_file, "--box", SOLID, "--json").json
    second = run(volume_file, "--box", "10,20,2,30,45,6", "--json").json
    assert (first["timings"]["slices_encoded"], first["timings"]["slices_cached"]) == (7, 0)
    assert (second["timings"]["slices_encoded"], second["timings"]["slices_cached"]) == (0, 5)
    assert stat.S_IMODE((cache_folder / "embeddings").stat().st_mode) == 0o700 or os.name == "nt"
    info = run("cache", "info", "--json").json
    assert info["entries"] == 7
    assert info["directory"] == str(cache_folder / "embeddings")
    assert 0 < info["bytes"] <= info["limit_bytes"]
    assert "7 embeddings" in run("cache", "info").out
    assert run("cache", "clear", "--json").json["entries"] == 0
    assert run(volume_file, "--box", SOLID, "--json").json["timings"]["slices_cached"] == 0


# Options


def test_several_boxes_with_names_and_slices(run: Runner, volume_file: Path) -> None:
    boxes = (f"ball={FLAT_TEXT}@2", "2,40,12,60", f"ball={FLAT_TEXT}@6")
    words = [word for box in boxes for word in ("--box", box)]
    objects = run(volume_file, *WINDOW, *words, "--json").json["objects"]
    assert [(one["label"], one["name"]) for one in objects] == [(1, "ball"), (2, "object 2")]
    assert objects[0]["voxels"] >= ball().sum() - objects[1]["voxels"]


@pytest.mark.parametrize(("policy", "winner"), [("last", 2), ("first", 1)])
def test_the_overlap_policy_is_an_option(run: Runner, volume_file: Path, policy: str, winner: int) -> None:
    boxes = ("--box", "8,18,1,24,50,7", "--box", "16,18,1,32,50,7")
    assert run(volume_file, *WINDOW, *boxes, "--overlap", policy, "-o", "out.nii").code == 0
    both = inside((16, 18, 1, 24, 50, 7))
    assert set(np.unique(labels_of(Path("out.nii"))[both])) == {winner}


def test_the_slice_the_range_and_the_axis_are_options(run: Runner, volume_file: Path) -> None:
    one = run(volume_file, "--box", FLAT_TEXT, "--slice", 3, "--z-range", "3,4", *WINDOW, "--json").json
    assert [each["slice"] for each in one["objects"][0]["slices"]] == [3, 4]
    solid = run(volume_file, "--box", SOLID, "--slice-axis", 1, *WINDOW, "--json").json
    assert solid["slice_axis"] == 1
    assert len(solid["objects"][0]["slices"]) == BOX[4] - BOX[1] + 1
    assert run(volume_file, "--box", SOLID, "--plane", "sagittal", "--json").json["slice_axis"] == 0


def test_the_published_loop_is_an_option(run: Runner, volume_file: Path) -> None:
    done = run(volume_file, "--box", SOLID, "--mode", "published", *WINDOW, "--json")
    assert [each["slice"] for each in done.json["objects"][0]["slices"]] == [1, 2, 3, 4, 5, 6]


def test_boxes_in_millimetres_are_axial_and_may_be_negative(run: Runner, tmp_path: Path) -> None:
    storage = ((2, 0, 1), (True, False, True))  # slices along k are coronal
    file = scene_file(tmp_path / "stored.nii", storage)
    corners = [(RAS_AFFINE @ (*corner, 1))[:3] for corner in (BOX[:3], BOX[3:])]
    assert corners[0][0] < 0, "the test needs a negative number"
    box = ",".join(f"{value:g}" for corner in corners for value in corner)
    assert run(file, "--world", "--box", box, *WINDOW, "-o", "solid.nii").code == 0
    np.testing.assert_array_equal(unstored(labels_of(Path("solid.nii")), storage), inside())
    flat = ",".join(f"{value:g}" for corner in corners for value in corner[:2])
    assert run(file, "--world", "--box", f"{flat}@19", *WINDOW, "--json", "-o", "flat.nii").code == 0
    np.testing.assert_array_equal(unstored(labels_of(Path("flat.nii")), storage), ball())
    # 19 mm lie on slice 3 of 9 from below; the file counts from above.
    only = run(file, "--world", "--box", f"ball={flat}@19", "--z-range", "5,5", *WINDOW, "--json").json
    assert only["objects"][0]["name"] == "ball"
    assert [each["slice"] for each in only["objects"][0]["slices"]] == [5]


def test_a_window_may_have_a_negative_level(run: Runner, volume_file: Path) -> None:
    window = run(volume_file, "--box", SOLID, "--window", "-600,1500", "--json").json["window"]
    assert (window["level"], window["width"], window["origin"]) == (-600, 1500, "explicit")
    assert run(volume_file, "--box", SOLID, "--window", "lung", "--json").json["window"]["origin"] == "preset"


def test_points_go_to_a_bundle_that_takes_them(run: Runner, picture_file: Path) -> None:
    words = ("--box", "15,8,45,32", "--point", "50,40,+", "--point", "30,20,-", "--bundle", "clicks")
    assert run(picture_file, *words).code == 0
    with Image.open("photo_seg.png") as picture:
        labels = np.asarray(picture)
    assert labels[40, 50] == 1
    assert labels[20, 30] == 0
    refused = run(picture_file, *words[:-2])
    assert refused.code == 2
    assert "bundle 'tiny' takes no points prompt; it understands box" in refused.err


@pytest.mark.parametrize("name", ["prompts.json", "prompts.csv"])
def test_prompts_may_come_from_a_file_and_the_command_line_adds_to_them(
    run: Runner, volume_file: Path, name: str
) -> None:
    if name.endswith("csv"):
        Path(name).write_text("name,x0,y0,z0,x1,y1,z1\nball,8,18,1,32,50,7\n", encoding="utf-8")
    else:
        Path(name).write_text('[{"name": "ball", "box": [8, 18, 1, 32, 50, 7]}]', encoding="utf-8")
    objects = run(volume_file, "--prompts", name, "--box", "2,40,1,12,60,7", *WINDOW, "--json").json["objects"]
    assert [one["name"] for one in objects] == ["object 1", "ball"]
    assert objects[1]["voxels"] == inside().sum()


def test_a_time_point_is_chosen_by_number(run: Runner, tmp_path: Path) -> None:
    pixels = np.stack([np.zeros(SCENE_SHAPE, np.uint8), scene_pixels()], axis=3)
    file = write_nifti(tmp_path / "four.nii", pixels)
    refused = run(file, "--box", SOLID)
    assert refused.code == 3
    assert "holds 2" in refused.err
    assert "volume" in refused.err
    assert run(file, "--box", SOLID, "--volume", 1, "-o", "out.nii").code == 0
    np.testing.assert_array_equal(labels_of(Path("out.nii")), inside())
    assert run(file, "--box", SOLID, "--volume", 2).code == 3


def test_a_series_is_chosen_by_number(run: Runner, shared: Path) -> None:
    folder = shared / "data" / "dicom_zoo" / "series" / "several_series_one_folder"
    done = run(folder, "--series", 4, "--box", "5,5,60,60", "-o", "out.nii.gz", "--json")
    assert done.code == 0
    assert sorted(done.json["shape"]) == [5, 88, 128]
    assert labels_of(Path("out.nii.gz")).shape == tuple(done.json["shape"])


def test_the_input_may_be_an_option_and_a_command_may_be_a_file(run: Runner, tmp_path: Path) -> None:
    scene_file(tmp_path / "perf.nii").rename(tmp_path / "cache")
    assert run("-i", "cache", "--box", SOLID, "-o", "a.nii").code == 0
    assert run("./cache", "--box", SOLID, "-o", "b.nii").code == 0
    assert run("cache", "info").code == 0
    np.testing.assert_array_equal(labels_of(Path("a.nii")), labels_of(Path("b.nii")))

"""What goes wrong: one line that says what was found and wanted, the right exit code, nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Finished, Runner, left_behind, scene_file, write_nifti
from engines import start_python
from PIL import Image
from tiny_bundle import BOX, SCENE_SHAPE, scene_pixels

import runtime
from runtime import cli, errors
from runtime.command import EXIT_CODES

SOLID = ",".join(map(str, BOX))


def assert_refused(done: Finished, code: int, text: str) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert done.err.startswith("lite-infer: error: ")
    assert text in done.err
    assert done.err.count("\n") == 1, "one line"
    assert "Traceback" not in done.err


# Usage and prompts: 2

BAD_WORDS: list[tuple[tuple[str, ...], str]] = [
    ((), "no prompt; give --box X0,Y0,X1,Y1, --point, --prompts FILE, or --auto if the bundle needs none"),
    (("--box",), "argument --box: expected one argument; see lite-infer --help"),
    (("--box", "1,2,3"), "box with 3 numbers: wanted 4"),
    (("--box", "1,2,3,4,5"), "box with 5 numbers"),
    (("--box", "1,2,x,4"), "box '1,2,x,4': wanted numbers separated by commas"),
    (("--box", "1,2,nan,4"), "every coordinate must be a finite number"),
    (("--box", "30,20,10,40"), "x1 = 10 lies below x0 = 30; give the smaller end first"),
    (
        ("--box", "10,20,48,40"),
        "x = 48 lies outside the image, whose x runs from 0 to 47 (0-based, both ends inclusive)",
    ),
    (("--box", "-3,20,40,40"), "x = -3 lies outside the image"),
    (("--box", "1,2,3,4@9"), "slice 9 lies outside the image: axis z has slices 0 to 8"),
    (("--box", "1,2,3,4@x"), "'x' after @ is no slice index"),
    (("--box", "a=1,2,3,4@2", "--box", "a=2,3,4,5@2"), "two boxes of one object on slice 2"),
    (("--box", "1,2,3,4", "--slice", "12"), "slice 12 lies outside the image"),
    (("--box", "1,2,3,4", "--slice", "-1"), "slice -1 lies outside the image"),
    (("--box", "1,2,3,4", "--slice", "two"), "argument --slice: invalid int value: 'two'"),
    (("--box", "1,2,3,4", "--z-range", "5"), "--z-range '5': wanted two slice indices, FIRST,LAST"),
    (("--box", "1,2,3,4", "--z-range", "7,3"), "z range 7,3: the last slice lies below the first; swap them"),
    (("--box", "1,2,3,4", "--z-range", "-1,3"), "slice -1 lies outside the image"),
    (("--box", SOLID, "--z-range", "1,3"), "a 3-D box stands alone"),
    (("--point", "3,4"), "point '3,4': wanted x,y,+"),
    (("--point", "3,4,+"), "bundle 'tiny' takes no points prompt; it understands box"),
    (("--box", "1,2,3,4", "--box", "5,6,7,8", "--point", "3,4,+"), "has no name and there are 2 objects"),
    (("--box", SOLID, "--window", "liver"), "window 'liver': wanted LEVEL,WIDTH or one of soft-tissue, lung"),
    (("--box", SOLID, "--window", "40,-400"), "wanted a finite level and a width above 0"),
    (("--box", SOLID, "--plane", "transversal"), "argument --plane: invalid choice: 'transversal'"),
    (("--box", SOLID, "--plane", "axial", "--slice-axis", "2"), "--plane and --slice-axis say the same thing"),
    (("--box", SOLID, "--mode", "magic"), "argument --mode: invalid choice: 'magic'"),
    (("--box", "1,2,3,4", "--mode", "published"), "the published propagation starts from a 3-D box"),
    (("--box", SOLID, "--overlap", "largest"), "argument --overlap: invalid choice: 'largest'"),
    (("--box", SOLID, "--threads", "0"), "threads 0: wanted a whole number from 1"),
    (("--box", SOLID, "--threads", "-2"), "threads -2: wanted a whole number from 1"),
    (("--box", SOLID, "--backend", "tensorflow"), "argument --backend: invalid choice: 'tensorflow'"),
    (("--box", SOLID, "--nosuch"), "unrecognized arguments: --nosuch"),
    (("--box", SOLID, "-i", "other.nii"), "two inputs, "),
    (("--world", "--box", "9000,9000,9010,9010"), "lies outside the image; in voxels it is"),
    (("--world", "--point", "1,2,+"), "--world applies to boxes"),
    (("--world", "--box", "1,2,3,4", "--slice", "3"), "--slice counts slices, --world takes millimetres"),
    (("--prompts", "nosuch.json"), "nosuch.json: cannot be read (No such file or directory)"),
]


@pytest.mark.parametrize(("words", "text"), BAD_WORDS, ids=[" ".join(words) or "nothing" for words, _ in BAD_WORDS])
def test_a_bad_request_is_exit_code_2(run: Runner, volume_file: Path, words: tuple[str, ...], text: str) -> None:
    assert_refused(run(volume_file, *words), 2, text)
    assert left_behind(volume_file.parent, volume_file) == []


def test_no_input_at_all_says_how_it_is_done(run: Runner) -> None:
    assert_refused(run(), 2, "no input; give a file, for example: lite-infer volume.nii.gz --box 10,20,80,90")


def test_a_malformed_prompt_is_found_before_the_file_is_read(run: Runner) -> None:
    assert_refused(run("nosuch.nii", "--box", "1,2,3"), 2, "box with 3 numbers")


def test_a_picture_has_no_world_and_no_plane(run: Runner, picture_file: Path) -> None:
    assert_refused(run(picture_file, "--world", "--box", "1,2,3,4"), 2, "no affine, so millimetres mean nothing")
    assert_refused(
        run(picture_file, "--plane", "axial", "--box", "1,2,3,4"), 3, "no affine, so its axial plane is unknown"
    )


# Images: 3


def test_a_file_that_is_missing_or_no_image_is_exit_code_3(run: Runner, tmp_path: Path) -> None:
    assert_refused(run("nosuch.nii.gz", "--box", SOLID), 3, "nosuch.nii.gz: does not exist")
    (tmp_path / "notes.txt").write_text("no image\n" * 50, encoding="utf-8")
    assert_refused(run("notes.txt", "--box", SOLID), 3, "notes.txt: is not an image that can be read")
    assert_refused(run("", "--box", SOLID), 2, "no input")
    (tmp_path / "empty").mkdir()
    assert_refused(run("empty", "--box", SOLID), 3, "empty: ")


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
def test_a_truncated_file_is_exit_code_3(run: Runner, tmp_path: Path, name: str) -> None:
    file = scene_file(tmp_path / name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    assert_refused(run(file, "--box", SOLID), 3, name)
    assert left_behind(tmp_path, file) == []


def test_a_colour_volume_and_an_unchosen_time_point_are_exit_code_3(run: Runner, tmp_path: Path) -> None:
    colour = np.zeros(SCENE_SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    file = write_nifti(tmp_path / "colour.nii", colour)
    assert_refused(run(file, "--box", SOLID), 3, "volumes are grey")
    four = write_nifti(tmp_path / "four.nii", np.zeros((*SCENE_SHAPE, 2), np.uint8))
    assert_refused(run(four, "--box", SOLID), 3, "volume")


def test_a_slice_of_one_intensity_is_exit_code_3(run: Runner, tmp_path: Path) -> None:
    pixels = scene_pixels()
    pixels[:, :, 4] = 7
    file = write_nifti(tmp_path / "scan.nii", pixels)
    assert_refused(run(file, "--box", "8,18,32,50"), 3, "slice 4 has one intensity only")
    assert left_behind(tmp_path, file) == []


def test_a_folder_with_two_series_is_exit_code_3(run: Runner, shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "dicom_zoo" / "series" / "several_series_one_folder"
    assert_refused(run(folder, "--box", "1,1,5,5"), 3, "series")
    assert_refused(run(folder, "--box", "1,1,5,5", "--series", "99"), 3, "series")
    assert left_behind(tmp_path) == []


# Bundles and engines: 4 and 5


def test_an_unknown_bundle_is_exit_code_4(run: Runner, volume_file: Path) -> None:
    assert_refused(
        run(volume_file, "--box", SOLID, "--bundle", "nosuch"), 4, "no bundle 'nosuch'; found by name: clicks,"
    )
    assert_refused(run(volume_file, "--box", SOLID, "--bundle", "./x"), 4, "x: is no folder with manifest.json")


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("encoder.onnx", lambda data: data[:-1] + bytes([data[-1] ^ 1]), "encoder.onnx: sha256"),
        ("decoder.onnx", lambda data: data[:-9], "decoder.onnx: has"),
        (
            "manifest.json",
            lambda data: data.replace(b'"format_version": 1', b'"format_version": 9'),
            "format_version 9",
        ),
        ("manifest.json", lambda data: data.replace(b'"family"', b'"familie"'), "lacks family"),
        ("manifest.json", lambda data: data[:40], "not valid JSON"),
    ],
    ids=["flipped bit", "truncated", "newer", "lacking", "no JSON"],
)
def test_a_damaged_or_newer_bundle_is_exit_code_4(
    run: Runner, volume_file: Path, models: Path, tmp_path: Path, name: str, change: Any, text: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(models / "tiny", folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    assert_refused(run(volume_file, "--box", SOLID, "--bundle", folder), 4, text)
    assert left_behind(tmp_path, volume_file, folder) == []


def test_a_precision_that_is_not_there_is_exit_code_4_or_5(run: Runner, volume_file: Path) -> None:
    assert_refused(run(volume_file, "--box", SOLID, "--precision", "int8"), 4, "bundle 'tiny' has no int8 graphs")
    assert_refused(run(volume_file, "--box", SOLID, "--precision", "bf16"), 5, "onnxruntime runs fp32 and int8 on CPUs")


def test_a_graph_that_fails_is_exit_code_5(run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise errors.InferenceError("the engine failed")

    monkeypatch.setattr("runtime._engine.open_backend", broken)
    assert_refused(run(volume_file, "--box", SOLID), 5, "the engine failed")
    assert left_behind(volume_file.parent, volume_file) == []


# Output: 6


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-o", "nowhere/out.nii.gz"), "the folder nowhere does not exist; create it or choose another one"),
        (("-o", "out.xyz"), "out.xyz: unknown output format; wanted a name that ends in .nii.gz, .nii, .npz, .png"),
        (("-o", "out.jpg"), "out.jpg: unknown output format"),
        (("-o", "."), "unknown output format"),
        (("-o", "scan.nii.gz"), "scan.nii.gz: is the input itself, which is never overwritten"),
        (("-o", "link.nii.gz"), "link.nii.gz: is the input itself"),
        (("--preview", "nowhere/look.png"), "the folder nowhere does not exist"),
        (("--preview", "look.jpg"), "look.jpg: a preview is a PNG"),
        (("-o", "a.nii", "-o", "./a.nii"), "a.nii: two results have the same name"),
        (("-o", "a.png", "--preview", "a.png"), "a.png: two results have the same name"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_anything_is_computed(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str
) -> None:
    link = volume_file.parent / "link.nii.gz"
    link.symlink_to(volume_file)
    before = volume_file.read_bytes()

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a session was opened")

    monkeypatch.setattr(runtime, "Session", never)
    assert_refused(run(volume_file, "--box", SOLID, *words), 6, text)
    assert volume_file.read_bytes() == before
    assert left_behind(volume_file.parent, volume_file, link) == []


def test_a_volume_is_no_png(run: Runner, volume_file: Path) -> None:
    done = run(volume_file, "--box", SOLID, "-o", "out.png")
    assert_refused(done, 6, "out.png")
    assert left_behind(volume_file.parent, volume_file) == []


def test_a_full_disk_is_exit_code_6_and_leaves_nothing(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_refused(run(volume_file, "--box", SOLID, "--no-cache"), 6, "no space left while writing")
    assert left_behind(volume_file.parent, volume_file) == []


def test_an_earlier_result_survives_a_run_that_fails(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(volume_file, "--box", SOLID).code == 0
    result = volume_file.parent / "scan_seg.nii.gz"
    before = result.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert run(volume_file, "--box", "10,20,2,30,45,6").code == 6
    assert result.read_bytes() == before
    assert left_behind(volume_file.parent, volume_file) == ["scan_seg.nii.gz"]


# Interruption: 130


def test_ctrl_c_is_exit_code_130_and_leaves_nothing(
    run: Runner, volume_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime._volume_run.VolumeRun.pixels", interrupted)
    done = run(volume_file, "--box", SOLID)
    assert (done.code, done.out) == (130, "")
    assert done.err == "lite-infer: interrupted; nothing was written\n"
    assert left_behind(volume_file.parent, volume_file) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_a_real_interrupt_ends_the_process_with_130(models: Path, tmp_path: Path) -> None:
    file = scene_file(tmp_path / "scan.nii.gz")
    code = """
import signal, sys, threading, time
from runtime import _volume_run, cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
def slow(self, position):
    print("started", flush=True)
    # What another thread has begun is waited for
    time.sleep(60 if threading.current_thread() is threading.main_thread() else 1)
_volume_run.VolumeRun.pixels = slow
sys.exit(cli.main(sys.argv[1:]))
"""
    words = (file, "--box", SOLID, "--bundle", models / "tiny", "--backend", "onnxruntime", "--no-cache")
    process = start_python(code, *words)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "lite-infer: interrupted; nothing was written\n"
    assert time.monotonic() - started < 20
    assert left_behind(tmp_path, file) == []


# Warnings


@pytest.mark.parametrize("quiet", [False, True])
def test_a_cache_that_cannot_be_written_is_a_warning_unless_quiet(models: Path, tmp_path: Path, quiet: bool) -> None:
    file = scene_file(tmp_path / "scan.nii.gz")
    (tmp_path / "no-folder").touch()
    words = (file, "--box", SOLID, "--bundle", models / "tiny", "--backend", "onnxruntime", *(["-q"] if quiet else []))
    code = "import sys; from runtime import cli; sys.exit(cli.main(sys.argv[1:]))"
    process = start_python(code, *words, environment={"LITE_INFER_CACHE": str(tmp_path / "no-folder")})
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert (out == "") == quiet
    assert err.count("lite-infer: ") == (0 if quiet else 1)
    assert (err == "") == quiet


# Tracebacks


def test_debug_shows_the_traceback(run: Runner, volume_file: Path) -> None:
    with pytest.raises(errors.PromptError, match=r"box with 3 numbers"):
        run(volume_file, "--box", "1,2,3", "--debug")


def test_every_error_of_the_tree_has_an_exit_code() -> None:
    wanted = {
        errors.PromptError: 2,
        errors.ImageError: 3,
        errors.BundleError: 4,
        errors.ManifestError: 4,
        errors.BundleVersionError: 4,
        errors.BundleIntegrityError: 4,
        errors.BackendError: 5,
        errors.BackendUnavailable: 5,
        errors.InferenceError: 5,
        errors.OutputError: 6,
        errors.CheckpointError: 4,
        errors.DownloadError: 4,
        errors.Cancelled: 130,
    }
    for kind, code in wanted.items():
        assert next(number for parent, number in EXIT_CODES if issubclass(kind, parent)) == code


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("cache", "--json"), "the following arguments are required: action"),
        (("cache", "burn"), "argument action: invalid choice: 'burn'"),
        (("demo", "--box", "1,2,3,4"), "unrecognized arguments: --box"),
    ],
)
def test_other_commands_refuse_bad_words_in_one_line(run: Runner, words: tuple[str, ...], text: str) -> None:
    assert_refused(run(*words), 2, text)


def test_a_command_without_its_action_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["cache"])
    assert "usage: lite-infer cache" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_traceback(models: Path, tmp_path: Path) -> None:
    file = scene_file(tmp_path / "scan.nii.gz")
    words = (str(file), "--box", SOLID, "--bundle", str(models / "tiny"), "--backend", "onnxruntime", "--json")
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from runtime import cli; sys.exit(cli.main(sys.argv[1:]))"
    path = str(Path(runtime.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1
    assert left_behind(tmp_path, file) == ["scan_seg.nii.gz"]


def test_a_picture_that_is_too_large_or_no_picture_is_one_line(run: Runner, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(tmp_path / "black.png")
    assert_refused(run("black.png", "--box", "1,1,3,3"), 3, "one intensity only")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 60)
    assert_refused(run("broken.png", "--box", "1,1,3,3"), 3, "broken.png")

"""runtime.io: which reader a path goes to, and what is no image at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import io
from runtime.errors import ImageError


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.nii: does not exist"):
        io.load(tmp_path / "absent.nii")


def test_paths_may_be_strings(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x.png")
    assert io.load(str(tmp_path / "x.png")).shape == (4, 4, 1)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.png", "x.npz", "x.dcm", "x.tif", "x.txt", "x"])
@pytest.mark.parametrize("content", [b"hello world, this is no image", bytes(700), b"\x1f\x8b", b"PK\3\4", b"BM"])
def test_what_is_no_image_is_an_image_error_whatever_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=rf"{name}: "):
        io.load(tmp_path / name)


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.nii.gz").touch()
    with pytest.raises(ImageError, match="the file is empty"):
        io.load(tmp_path / "x.nii.gz")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.nii")
    with pytest.raises(ImageError, match="is not an ordinary file"):
        io.load(tmp_path / "x.nii")


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(ImageError, match="there is no volume 1"):
        io.load(tmp_path / "x.png", volume=1)
    with pytest.raises(ImageError, match="is not DICOM, so it has no series"):
        io.load(tmp_path / "x.png", series="1.2.3")
    assert io.load(tmp_path / "x.png", volume=0).is_2d


def test_an_empty_folder_says_what_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="holds no DICOM images; give a folder with one series"):
        io.load(tmp_path)


def test_names_of_the_package_are_sorted_and_exist() -> None:
    assert sorted(io.__all__) == io.__all__
    assert all(hasattr(io, name) for name in io.__all__)


def test_importing_the_package_imports_no_format_library() -> None:
    code = """
        import sys
        import runtime.io, runtime.io.nifti, runtime.io.dicom, runtime.io.raster, runtime.io.npz
        import runtime.io.nrrd, runtime.io.metaimage, runtime.io.mgh
        heavy = {"nibabel", "nrrd", "pydicom", "PIL", "cv2", "imagecodecs", "scipy"} & set(sys.modules)
        raise SystemExit(", ".join(sorted(heavy)) or 0)
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

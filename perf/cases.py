"""What is segmented: a real sample, drawn images, files of the user's own.

Knows files, prompts as the command line takes them, and the truth where an image was drawn; knows no timing.
Nothing that a case says of itself holds the name of a file or folder of the user's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import runtime
from perf.records import CaseFacts
from perf.synthetic import CT_SPACING, Drawn, ct_volume, grey_image
from runtime.errors import BackendUnavailable, PromptError

__all__ = ["CASE_NAMES", "QUICK_CASES", "Case", "UserFile", "make_cases", "read_label_map"]

CASE_NAMES = ("sample", "grey-1", "ct-1", "ct-5", "grey-1-npz", "ct-1-npz", "ct-5-npz")
"""Names of the built-in cases; ``-npz`` is the same image in the challenge's format."""

QUICK_CASES = ("sample", "grey-1", "ct-1")

_TITLES = {
    "sample": "real MR, nibabel's example4d, one box on one slice",
    "grey-1": "drawn grey image 512x512, 1 box",
    "ct-1": "drawn CT 512x512x100, 1 object of 40 slices",
    "ct-5": "drawn CT 512x512x100, 5 objects of 40 slices, 85 slices in all",
}


@dataclass(frozen=True, slots=True)
class UserFile:
    """A file of the user's own with its ``--box`` texts."""

    path: Path
    boxes: tuple[str, ...] = ()
    volume: int | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its prompts, on disk.

    Attributes
    ----------
    boxes : tuple of str
        As ``--box`` takes them; empty where the file brings its own.
    suffix : str
        Ending of the label map's file.
    truth : Path or None
        ``.npz`` with ``segs`` in the axis order of the label map's file.
    """

    facts: CaseFacts
    path: Path
    boxes: tuple[str, ...]
    suffix: str
    volume: int | None = None
    truth: Path | None = None

    @property
    def name(self) -> str:
        """Short name in tables and in the JSON file."""
        return self.facts.name

    def arguments(self) -> list[str]:
        """What the command line is given."""
        chosen = [] if self.volume is None else ["--volume", str(self.volume)]
        return [str(self.path), *chosen, *(part for box in self.boxes for part in ("--box", box))]


def make_cases(names: Sequence[str], user_files: Sequence[UserFile], folder: Path) -> list[Case]:
    """Write the named cases into a folder and look at the user's files; images are drawn once."""
    unknown = sorted(set(names) - set(CASE_NAMES))
    if unknown:
        msg = f"case {', '.join(unknown)}: wanted some of {', '.join(CASE_NAMES)}"
        raise PromptError(msg)
    drawn: dict[str, Drawn] = {}
    made = []
    for name in names:
        if name == "sample":
            made.append(_sample())
            continue
        kind = name.partition("-")[0]
        if kind not in drawn:
            drawn[kind] = ct_volume() if kind == "ct" else grey_image()
        made.append(_written(name, drawn[kind], folder))
    return made + [_from_user(number, one) for number, one in enumerate(user_files, start=1)]


def read_label_map(path: Path) -> NDArray[Any]:
    """Labels of a file that lite-infer wrote, in the axis order of that file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive["segs"])
    return runtime.load(path).array


def _sample() -> Case:
    """The volume and the box of ``lite-infer demo``."""
    path = Path(str(files("nibabel") / "tests" / "data" / "example4d.nii.gz"))
    if not path.is_file():
        msg = "nibabel lacks its test data (example4d.nii.gz); run: pip install --force-reinstall nibabel"
        raise BackendUnavailable(msg)
    boxes = ("ventricles=53,50,74,65@13",)
    facts = _facts("sample", _TITLES["sample"], runtime.load(path, volume=0).array, boxes, path)
    return Case(facts, path, boxes, ".nii.gz", volume=0)


def _written(name: str, drawn: Drawn, folder: Path) -> Case:
    """Write a drawn image, unless another case did already, with the truth about the case's objects."""
    kind, count, *form = name.split("-")
    boxes = tuple(_text(box, is_2d=kind == "grey") for box in drawn.boxes[: int(count)])
    array: NDArray[Any] = drawn.array
    truth = np.where(drawn.truth <= int(count), drawn.truth, np.uint8(0))
    title = _TITLES[f"{kind}-{count}"] + (", challenge NPZ" if form else "")
    if form:
        path = folder / f"{'3D' if kind == 'ct' else '2D'}_{name}.npz"
        array = _write_npz(path, drawn, int(count))
        truth, suffix = (truth[:, :, 0].T if kind == "grey" else truth.transpose(2, 1, 0)), ".npz"
    elif kind == "grey":
        path, suffix = folder / "grey.png", ".png"
        _write_png(path, array[:, :, 0])
    else:
        path, suffix = folder / "ct.nii.gz", ".nii.gz"
        if not path.is_file():
            _write_nifti(path, array)
    truth_path = folder / f"{name}_truth.npz"
    np.savez_compressed(truth_path, segs=truth)
    facts = _facts(name, title, array, boxes, path)
    return Case(facts, path, () if form else boxes, suffix, truth=truth_path)


def _text(box: tuple[int, ...], *, is_2d: bool) -> str:
    return ",".join(str(value) for value in ((box[0], box[1], box[3], box[4]) if is_2d else box))


def _write_nifti(path: Path, array: NDArray[Any]) -> None:
    import nibabel

    affine = np.diag([-CT_SPACING[0], -CT_SPACING[1], CT_SPACING[2], 1.0])
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def _write_png(path: Path, plane: NDArray[Any]) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(plane.T)).save(path)  # (i, j) -> (row, column)


def _write_npz(path: Path, drawn: Drawn, count: int) -> NDArray[np.uint8]:
    """Write the challenge's layout: uint8, slices first, boxes of 6 (3-D) or 4 (2-D) numbers; return the voxels."""
    boxes = np.array(drawn.boxes[:count])
    if drawn.array.dtype == np.uint8:
        np.savez_compressed(path, imgs=drawn.array[:, :, 0].T, boxes=boxes[:, [0, 1, 3, 4]])
        return drawn.array.astype(np.uint8)
    lower, upper = -160, 240  # soft tissue, as the challenge prepared CT
    grey = (np.clip(drawn.array, lower, upper).astype(np.float32) - lower) / (upper - lower) * 255
    voxels = grey.astype(np.uint8)
    imgs = np.ascontiguousarray(voxels.transpose(2, 1, 0))
    np.savez_compressed(path, imgs=imgs, boxes=boxes, spacing=np.array(CT_SPACING))
    return voxels


def _from_user(number: int, one: UserFile) -> Case:
    """Read the file once, so that what is wrong with it is said before anything is measured."""
    volume = runtime.load(one.path, volume=one.volume)
    if not one.boxes and not volume.prompts:
        msg = f"{one.path}: no box; give --box after --file"
        raise PromptError(msg)
    npz = one.path.suffix.lower() == ".npz"
    suffix = ".npz" if npz else ".png" if volume.is_2d and volume.affine is None else ".nii.gz"
    shown = tuple(box.rpartition("=")[2] for box in one.boxes)  # the user's names for objects stay out
    title = f"file {number} of the user's"
    facts = _facts(f"file-{number}", title, volume.array, shown, one.path, prompts=len(shown or volume.prompts))
    return Case(facts, one.path.resolve(), one.boxes, suffix, volume=one.volume)


def _facts(
    name: str, title: str, array: NDArray[Any], boxes: tuple[str, ...], path: Path, *, prompts: int | None = None
) -> CaseFacts:
    """Describe an image; no digest of one that is not ours, which could be matched against files elsewhere."""
    size = path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in path.rglob("*"))
    digest = hashlib.sha256(np.asarray(array, order="C").tobytes()).hexdigest() if prompts is None else None
    count = len(boxes) if prompts is None else prompts
    return CaseFacts(name, title, tuple(array.shape), str(array.dtype), count, boxes, digest, size)

"""What is segmented: a real sample, drawn images, files of the user's own.

Knows files, prompts as the command line takes them, and the truth where an image was drawn; knows no timing.
Nothing that a case says of itself holds the name of a file or folder of the user's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

import runtime
from perf.case_files import challenge_levels, write_nifti, write_npz, write_png
from perf.records import CaseFacts
from perf.synthetic import Drawn, ct_volume, grey_image, rgb_image, tight_boxes
from runtime import Box, Volume
from runtime.errors import BackendUnavailable, PromptError
from runtime.prompt_text import parse_box

__all__ = [
    "CASE_NAMES",
    "DEFAULT_CASES",
    "QUICK_CASES",
    "SCALING_CASES",
    "Case",
    "UserFile",
    "make_cases",
    "read_label_map",
    "series_of",
]

_TITLES = {
    "sample": "real MR, nibabel's example4d, one box on one slice",
    "grey-1": "drawn grey image 512x512, 1 box",
    "rgb-20": "drawn colour image 1024x1024, 20 boxes",
    "ct-1": "drawn CT 512x512x100, 1 object of 40 slices",
    "ct-5": "drawn CT 512x512x100, 5 objects of 40 slices, 85 slices in all",
}
CASE_NAMES = (*_TITLES, *(f"{name}-npz" for name in _TITLES if name != "sample"))
"""Names of the built-in cases; ``-npz`` is the same image in the challenge's format."""

DEFAULT_CASES = ("sample", "grey-1-npz", "rgb-20-npz", "ct-1-npz", "ct-5-npz", "ct-1", "ct-5")
QUICK_CASES = ("grey-1-npz", "ct-1-npz")

_SERIES = {
    "slices": ("slices asked for, of a drawn CT of 512x512x100 voxels", (5, 10, 20, 40)),
    "volume": ("slices in a drawn CT of 512x512 pixels, 20 of them asked for", (50, 100, 200)),
    "boxes": ("boxes on a drawn colour image of 1024x1024 pixels", (1, 5, 10, 20)),
}
_ASKED = 20
SCALING_CASES = tuple(f"{name}-{count}" for name, (_, counts) in _SERIES.items() for count in counts)
"""Cases that show what cost grows with: ``SERIES-NUMBER``."""


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
    second_box : str
        Another box on slices that the case's own boxes are on.
    truth : Path or None
        ``.npz`` with ``segs`` in the axis order of the label map's file.
    """

    facts: CaseFacts
    path: Path
    boxes: tuple[str, ...]
    suffix: str
    volume: int | None = None
    truth: Path | None = None
    second_box: str = ""
    is_second: bool = False

    @property
    def answer_name(self) -> str:
        """Under which its answers are kept."""
        return f"{self.name} second" if self.is_second else self.name

    def with_second_box(self) -> Case:
        """Return the same image with another box on the same slices."""
        return replace(self, boxes=(self.second_box,), is_second=True)

    @property
    def name(self) -> str:
        """Short name in tables and in the JSON file."""
        return self.facts.name

    def arguments(self) -> list[str]:
        """What the command line is given."""
        chosen = [] if self.volume is None else ["--volume", str(self.volume)]
        return [str(self.path), *chosen, *(part for box in self.boxes for part in ("--box", box))]


class _Recipe(NamedTuple):
    """What a name of a case means: what is drawn (with how many slices), for how many objects, on how many slices."""

    drawing: str
    slices: int
    objects: int
    asked: int | None
    is_npz: bool


def series_of(name: str) -> tuple[str, int, str] | None:
    """Series, number and meaning of the number of a scaling case; None for any other."""
    series, _, count = name.rpartition("-")
    return (series, int(count), _SERIES[series][0]) if name in SCALING_CASES else None


def _recipe(name: str) -> _Recipe:
    found = series_of(name)
    if found is None:
        drawing, count, *form = name.split("-")
        return _Recipe(drawing, 100 if drawing == "ct" else 1, int(count), None, bool(form))
    series, number, _ = found
    return {
        "slices": _Recipe("ct", 100, 1, number, is_npz=False),
        "volume": _Recipe("ct", number, 1, _ASKED, is_npz=False),
        "boxes": _Recipe("rgb", 1, number, None, is_npz=False),
    }[series]


def make_cases(
    names: Sequence[str], user_files: Sequence[UserFile], folder: Path, *, twins: bool = False
) -> list[Case]:
    """Write the named cases into a folder and look at the user's files; images are drawn once.

    With ``twins``, a file of the user's that is no NPZ is a second case, written in the challenge's format, which
    the reference pipeline reads, where its boxes can be.
    """
    unknown = sorted(set(names) - {*CASE_NAMES, *SCALING_CASES})
    if unknown:
        msg = f"case {', '.join(unknown)}: wanted some of {', '.join((*CASE_NAMES, *SCALING_CASES))}"
        raise PromptError(msg)
    drawn: dict[tuple[str, int], Drawn] = {}
    made = []
    for name in names:
        if name == "sample":
            made.append(_sample())
            continue
        recipe = _recipe(name)
        key = (recipe.drawing, recipe.slices)
        if key not in drawn:
            drawn[key] = _draw(*key)
        made.append(_written(name, recipe, drawn[key], folder))
    for number, one in enumerate(user_files, start=1):
        made += _from_user(number, one, folder if twins else None)
    return made


def _draw(drawing: str, slices: int) -> Drawn:
    if drawing == "ct":
        return ct_volume((512, 512, slices)) if slices != 100 else ct_volume()
    return grey_image() if drawing == "grey" else rgb_image()


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
    return Case(facts, path, boxes, ".nii.gz", volume=0, second_box="55,52,72,63@13")


def _title(name: str) -> str:
    found = series_of(name)
    if found is not None:
        return f"{found[1]} {found[2]}"
    return _TITLES[name.removesuffix("-npz")] + (", challenge NPZ" if name.endswith("-npz") else "")


def _written(name: str, recipe: _Recipe, drawn: Drawn, folder: Path) -> Case:
    """Write a drawn image, unless another case did already, with the truth about the case's objects."""
    truth = np.where(drawn.truth <= recipe.objects, drawn.truth, np.uint8(0))
    boxes = drawn.boxes[: recipe.objects]
    if recipe.asked is not None:
        boxes, truth = _shortened(truth, boxes[0], recipe.asked)
    is_2d = recipe.slices == 1
    if is_2d:
        boxes = tuple((box[0], box[1], box[3], box[4]) for box in boxes)
    array: NDArray[Any] = drawn.array
    if recipe.is_npz:
        path, suffix = folder / f"{'2D' if is_2d else '3D'}_{name}.npz", ".npz"
        array = challenge_levels(array)
        write_npz(path, array, boxes)
        truth = truth[:, :, 0].T if is_2d else truth.transpose(2, 1, 0)
    elif is_2d:
        path, suffix = folder / f"{recipe.drawing}.png", ".png"
        write_png(path, array[:, :, 0])
    else:
        path, suffix = folder / f"{recipe.drawing}-{recipe.slices}.nii.gz", ".nii.gz"
        if not path.is_file():
            write_nifti(path, array)
    truth_path = folder / f"{name}_truth.npz"
    np.savez_compressed(truth_path, segs=truth)
    texts = tuple(_text(box) for box in boxes)
    facts = _facts(name, _title(name), array, texts, path)
    given = () if recipe.is_npz else texts
    return Case(facts, path, given, suffix, truth=truth_path, second_box=_second(boxes[0]))


def _shortened(
    truth: NDArray[np.uint8], box: tuple[int, ...], asked: int
) -> tuple[tuple[tuple[int, ...], ...], NDArray[np.uint8]]:
    """Keep the slices in the middle of an object that are asked for, and its tight box there."""
    first = box[2] + (box[5] - box[2] + 1 - asked) // 2
    kept = np.zeros_like(truth)
    kept[:, :, first : first + asked] = truth[:, :, first : first + asked]
    return tight_boxes(kept), kept


def _second(box: Sequence[float]) -> str:
    """Another box on the same slices: its sides 2 px further in, or out where it is too small for that."""
    half = len(box) // 2
    moved = list(box)
    for axis in range(2):
        low, high = box[axis], box[half + axis]
        step = 2 if high - low > 8 else -min(1, low)
        moved[axis], moved[half + axis] = low + step, high - max(step, 0)
    return _text(moved)


def _text(box: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in box)


def _from_user(number: int, one: UserFile, folder: Path | None) -> list[Case]:
    """Read the file once, so that what is wrong with it is said before anything is measured."""
    volume = runtime.load(one.path, volume=one.volume)
    prompts = [parse_box(text) for text in one.boxes] or [one for one in volume.prompts if isinstance(one, Box)]
    if not prompts:
        msg = f"{one.path}: no box; give --box after --file"
        raise PromptError(msg)
    npz = one.path.suffix.lower() == ".npz"
    suffix = ".npz" if npz else ".png" if volume.is_2d and volume.affine is None else ".nii.gz"
    shown = tuple(box.rpartition("=")[2] for box in one.boxes)  # the user's names for objects stay out
    title = f"file {number} of the user's"
    facts = _facts(f"file-{number}", title, volume.array, shown, one.path, prompts=len(prompts))
    first = prompts[0]
    second = _second(first.xyxy) + ("" if first.slice_index is None or volume.is_2d else f"@{first.slice_index}")
    case = Case(facts, one.path.resolve(), one.boxes, suffix, volume=one.volume, second_box=second)
    if npz or folder is None or any(len(box.xyxy) != (4 if volume.is_2d else 6) for box in prompts):
        return [case]
    return [case, _twin(case, volume, [box.xyxy for box in prompts], folder)]


def _twin(case: Case, volume: Volume, boxes: Sequence[Sequence[float]], folder: Path) -> Case:
    """Write the same image in the challenge's format."""
    name = f"{case.name}-npz"
    path = folder / f"{'2D' if volume.is_2d else '3D'}_{name}.npz"
    write_npz(path, challenge_levels(volume), boxes, volume.spacing)
    title, size = f"{case.facts.title}, challenge NPZ", path.stat().st_size
    facts = msgspec.structs.replace(case.facts, name=name, title=title, dtype="uint8", file_bytes=size)
    return Case(facts, path, (), ".npz", second_box=case.second_box.partition("@")[0])


def _facts(
    name: str, title: str, array: NDArray[Any], boxes: tuple[str, ...], path: Path, *, prompts: int | None = None
) -> CaseFacts:
    """Describe an image; no digest of one that is not ours, which could be matched against files elsewhere."""
    size = path.stat().st_size if path.is_file() else sum(each.stat().st_size for each in path.rglob("*"))
    digest = hashlib.sha256(np.asarray(array, order="C").tobytes()).hexdigest() if prompts is None else None
    count = len(boxes) if prompts is None else prompts
    return CaseFacts(name, title, tuple(array.shape), str(array.dtype), count, boxes, digest, size)

"""What a bundle is calibrated with and measured on: images of a folder as the encoder is shown them, and prompts.

Knows files through the public loaders, volumes, windows and the prompts that a manifest allows. Must not know graphs.
Names of files stay out of what is returned: they may name patients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import runtime
from runtime.backends import Backend, IoSpec
from runtime.errors import BundleError, ImageError
from runtime.geometry import Volume, plane_view
from runtime.intensity import choose_window
from runtime.manifest import Manifest
from runtime.types import Embedding

__all__ = [
    "Images",
    "Sample",
    "check_calibratable",
    "divided",
    "embedding_of",
    "one_box_calls",
    "prompts_of",
    "read_samples",
    "record",
    "structure_boxes",
]

_MOST_TRIED = 2000
_LISTED = 8
_FEWEST_GREYS = 32
_SLICES = 8
_MARGIN = 0.15
_LEVELS = (25, 45, 65, 85)
_SMALLEST, _LARGEST = 0.001, 0.35
_BOXES = 3
_HOLD_OUT = 3
_ALONE = 4
_CALLS = 4


@dataclass(frozen=True)
class Sample:
    """One image, uint8 [row, col(, 3)], and boxes on it, (N, 4) xyxy with both ends inclusive."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Images to calibrate with, if any, and others, held out, to measure on; `drawn` by us or given by the user."""

    calibrate: Sequence[Sample]
    held_out: Sequence[Sample]
    drawn: bool

    @property
    def measured_on(self) -> str:
        """The images to measure on, in words."""
        apart, kind = "held-out " if self.calibrate else "", "drawn" if self.drawn else "calibration"
        return f"{len(self.held_out)} {apart}{kind} image{'' if len(self.held_out) == 1 else 's'}"


def read_samples(folder: Path, limit: int) -> list[Sample]:
    """Read up to `limit` images of a folder and its sub-folders; of volumes, some slices.

    Boxes come with the challenge's NPZ files; elsewhere they are drawn around structures, the same ones every time.
    ImageError lists what was tried where fewer than two images are found: one to calibrate with, one to measure on.
    """
    if not folder.is_dir():
        msg = f"{folder}: is no folder; wanted a folder with NIfTI, DICOM, NPZ, PNG or JPEG images to calibrate with"
        raise ImageError(msg)
    volumes: list[Volume] = []
    refused: list[str] = []
    for path in _candidates(folder):
        if len(volumes) >= limit:
            break
        volumes += _loaded(path, refused)
    share = max(1, min(_SLICES, -(-limit // max(1, len(volumes)))))
    samples = [sample for volume in volumes for sample in _slices(volume, share)][:limit]
    if len(samples) < 2:
        seen = f"{len(volumes)} file(s) read, {len(samples)} usable image(s)"
        tried = "".join(f"\n  {text}" for text in refused[:_LISTED])
        more = f"\n  and {len(refused) - _LISTED} more" if len(refused) > _LISTED else ""
        msg = (
            f"{folder}: {seen}; wanted at least two NIfTI, DICOM, NPZ, PNG or JPEG images or slices with "
            f"{_FEWEST_GREYS} grey levels or more (label maps are none){'; tried:' if refused else ''}{tried}{more}"
        )
        raise ImageError(msg)
    return samples


def _loaded(path: Path, refused: list[str]) -> list[Volume]:
    """The volume at a path; of a folder that is no single series, those of its files."""
    try:
        return [runtime.load(path)]
    except ImageError as error:
        refused.append(str(error))
    files = sorted(path.iterdir()) if path.is_dir() else []
    return [volume for file in files if file.is_file() for volume in _loaded(file, refused)]


def _candidates(folder: Path) -> Iterator[Path]:
    """Files in the order of their names; a folder that holds DICOM files counts as one series."""
    from runtime.io._kinds import is_dicom

    tried = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        paths = [Path(place) / name for name in sorted(names) if not name.startswith(".")]
        series = [path for path in paths if is_dicom(_head(path))]
        if len(series) > 1:
            yield Path(place)
            paths = [path for path in paths if path not in set(series)]
        for path in paths:
            tried += 1
            if tried > _MOST_TRIED:
                return
            if path.suffix.lower() not in {".json", ".txt", ".csv", ".md"}:
                yield path


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _slices(volume: Volume, share: int) -> Iterator[Sample]:
    """Slices as a session shows them to the encoder."""
    if volume.array.ndim == 4 and volume.shape[2] > 1:
        return
    view = plane_view(volume, 2)
    try:
        window = choose_window(volume)
    except ImageError:  # nothing finite in it
        return
    for position in _positions(volume, share):
        plane = view.image(volume.array, position)
        image = np.ascontiguousarray(plane if window is None else window.apply(np.ascontiguousarray(plane)))
        if len(np.unique(image)) < _FEWEST_GREYS:
            continue
        index = view.slice_index(position)
        given = [view.box_to_view(box) for prompt in volume.prompts if (box := _on_slice(prompt.xyxy, index))]
        boxes = np.array(given[:_BOXES], np.float64).reshape(-1, 4)
        yield Sample(image, boxes if len(boxes) else structure_boxes(image))


def _positions(volume: Volume, share: int) -> list[int]:
    """Slices in the middle of the boxes that a file brings, else spread over the volume without its ends."""
    count = volume.shape[2]
    view = plane_view(volume, 2)
    centres = {int(prompt.xyxy[2] + prompt.xyxy[5]) // 2 for prompt in volume.prompts if len(prompt.xyxy) == 6}
    if centres:
        return sorted(view.slice_index(index) for index in sorted(centres)[:share])
    low, high = _MARGIN * (count - 1), (1 - _MARGIN) * (count - 1)
    return sorted({round(place) for place in np.linspace(low, high, min(share, count))})


def _on_slice(xyxy: tuple[float, ...], index: int) -> tuple[float, float, float, float] | None:
    if len(xyxy) == 4:
        return (xyxy[0], xyxy[1], xyxy[2], xyxy[3])
    return (xyxy[0], xyxy[1], xyxy[3], xyxy[4]) if xyxy[2] <= index <= xyxy[5] else None


def structure_boxes(image: NDArray[np.uint8], count: int = _BOXES) -> NDArray[np.float64]:
    """Boxes (N, 4) around connected regions between grey levels, drawn from a generator seeded with the image's shape.

    Where there are no such regions, one box over the middle half of the image.
    """
    grey = image if image.ndim == 2 else image.mean(2).astype(np.uint8)
    smooth = cv2.GaussianBlur(grey, (5, 5), 0)
    found = []
    for level in np.unique(np.percentile(smooth, _LEVELS)):
        for mask in (smooth > level, smooth <= level):
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
            for x, y, width, height, area in stats[1:]:
                if (
                    _SMALLEST <= area / grey.size <= _LARGEST
                    and min(width, height) >= 3
                    and area > 0.3 * width * height
                ):
                    found.append((x, y, x + width - 1, y + height - 1))
    boxes = np.unique(np.array(found, np.float64).reshape(-1, 4), axis=0)
    if not len(boxes):
        rows, columns = grey.shape
        return np.array([[columns // 4, rows // 4, columns - 1 - columns // 4, rows - 1 - rows // 4]], np.float64)
    chosen = np.random.default_rng(grey.shape).permutation(len(boxes))[:count]
    return np.asarray(boxes[np.sort(chosen)])


def divided(samples: Sequence[Sample], *, drawn: bool = False) -> Images:
    """Samples to calibrate with, and every third one, held out, to measure on."""
    held = samples[_HOLD_OUT - 1 :: _HOLD_OUT] or samples[-1:]
    kept = {id(sample) for sample in held}
    return Images([sample for sample in samples if id(sample) not in kept], held, drawn)


def check_calibratable(manifest: Manifest) -> None:
    """Raise BundleError where a bundle wants vectors, which images do not bring, so that ranges cannot be found."""
    if vectors := manifest.prompts.vectors:
        msg = (
            f"bundle {manifest.name!r} takes vectors ({', '.join(vectors)}) that images do not bring, so it "
            "cannot be calibrated from a folder; choose precision int8-weights or fp16"
        )
        raise BundleError(msg)


def prompts_of(
    manifest: Manifest, sample: Sample, number: int, earlier: NDArray[np.float32] | None = None
) -> dict[str, Any]:
    """Keywords of `Session.decode` for one sample: what the bundle understands, varied with the sample's number.

    Boxes, where it reads them; on every third sample clicks as well (every second time alone, where boxes are
    optional), on every third the `earlier` logits. A bundle without boxes gets clicks always. Vectors, which images do
    not bring, are drawn from a normal distribution: enough to compare two precisions, not to calibrate.
    """
    prompts = manifest.prompts
    given: dict[str, Any] = {}
    if prompts.vectors:
        rng = np.random.default_rng(number)
        given["extra"] = {name: rng.standard_normal(length) for name, length in prompts.vectors.items()}
    if prompts.modality is not None:
        given["modality"] = number % len(manifest.modalities)
    clicks = prompts.points is not None and prompts.points.derived is None
    alone = clicks and prompts.box is not None and prompts.box.use == "optional" and number % 6 == _ALONE
    if prompts.reads_boxes and not alone:
        given["boxes"] = sample.boxes
    if clicks and (number % 3 == 1 or "boxes" not in given):
        low, high = sample.boxes[:, :2], sample.boxes[:, 2:]
        given["points"] = np.stack([(low + high) / 2, low], 1)
        given["point_labels"] = np.tile([1.0, 0.0], (len(sample.boxes), 1))
    if prompts.mask is not None and prompts.mask.kind == "logits" and number % 3 == 2 and earlier is not None:
        given["masks"] = earlier
    return given


class _Recorder:
    """A graph that keeps what it is given."""

    def __init__(self, inner: Backend, most: int) -> None:
        self._inner, self._most = inner, most
        self.inputs: list[dict[str, NDArray[Any]]] = []
        self.name, self.precision, self.threads = inner.name, inner.precision, inner.threads
        self.io_spec: IoSpec = inner.io_spec

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if len(self.inputs) < self._most:
            self.inputs.append({name: np.array(value) for name, value in inputs.items()})
        return self._inner.run(inputs)

    def close(self) -> None:
        self._inner.close()


def embedding_of(session: runtime.Session, sample: Sample) -> Embedding:
    """Embedding of a sample without the pixels that looks from closer are taken of: they ask the same graphs again."""
    embedding = session.encode(sample.image)
    return embedding if session.manifest.prompts.closer is None else replace(embedding, pixels=None)


def record(session: runtime.Session, samples: Sequence[Sample]) -> dict[str, list[dict[str, NDArray[Any]]]]:
    """Encode and decode the samples; return what encoder and decoder were given: real embeddings, real prompts."""
    recorders: dict[str, _Recorder] = {}

    def wrapper(role: str) -> Any:
        def wrap(graph: Backend) -> Backend:
            recorders[role] = _Recorder(graph, _CALLS * len(samples))
            return recorders[role]

        return wrap

    for role in ("encoder", "decoder"):
        session._experts.first.wrap_graph(role, wrapper(role))  # the one place that looks behind the public face
    for number, sample in enumerate(samples):
        embedding = embedding_of(session, sample)
        plain = prompts_of(session.manifest, sample, 0)
        if "masks" in prompts_of(session.manifest, sample, number, np.zeros(0, np.float32)):
            plain["masks"] = session.decode(embedding, **plain).low_res_logits
            session.decode(embedding, **plain)
        else:
            session.decode(embedding, **prompts_of(session.manifest, sample, number))
    spec = session.manifest.prompts.mask
    if spec is not None and spec.neighbour_flag != 1:  # what propagation gives: the same masks, otherwise flagged
        decoder = recorders["decoder"].inputs
        carried = [inputs for inputs in decoder if inputs["has_mask"].any()]
        decoder += [{**inputs, "has_mask": inputs["has_mask"] * spec.neighbour_flag} for inputs in carried]
    return {role: recorder.inputs for role, recorder in recorders.items()}


def one_box_calls(calls: Sequence[Mapping[str, NDArray[Any]]], inputs: Sequence[str]) -> list[dict[str, NDArray[Any]]]:
    """Calls of the decoder as its graph for one box takes them, which has those inputs: one for each box.

    Clicks are left out; prompts without a box are.
    """
    found = []
    for call in calls:
        count = len(call["boxes"])
        for number in np.flatnonzero(~np.isnan(call["boxes"]).any(axis=1)):
            rows = slice(number, number + 1)
            found.append({name: call[name][rows] if len(call[name]) == count > 1 else call[name] for name in inputs})
    return found

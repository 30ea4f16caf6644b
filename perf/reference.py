"""What lite-infer is measured against: a plain pipeline, run as ``python -m perf.reference FILE.npz OUT.npz ...``.

It does what the laptop challenge's Python entries do: OpenVINO with its default settings, one slice and one box at a
time, numpy and OpenCV around the graphs, embeddings kept while the file is open, compressed NPZ in and out. Knows a
bundle's manifest as JSON and the three libraries; must not use `runtime`, whose cost it is the measure of. The graphs
are stored as OpenVINO IR with static shapes beforehand (``--prepare``), as those entries ship them.
"""

from __future__ import annotations

import time

_BEGUN = time.perf_counter()

import argparse  # noqa: E402 - the clock of the import runs
import hashlib  # noqa: E402
import json  # noqa: E402
import math  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from perf.engine import openvino  # noqa: E402

__all__ = ["Geometry", "Reference", "main", "prepare", "segment"]

_IMPORT_MS = (time.perf_counter() - _BEGUN) * 1e3
_GRAPHS = ("encoder", "decoder")
_INTERPOLATIONS = {  # where no side grows, and otherwise
    "area": (cv2.INTER_AREA, cv2.INTER_AREA),
    "area_lanczos": (cv2.INTER_AREA, cv2.INTER_LANCZOS4),
    "linear": (cv2.INTER_LINEAR, cv2.INTER_LINEAR),
    "bilinear": (cv2.INTER_LINEAR, cv2.INTER_LINEAR),
}
_OWN_INPUTS = {"boxes", "points", "point_labels", "masks", "has_mask", "modality"}

Arrays = dict[str, NDArray[Any]]


def _name(port: Any) -> str:
    """Name of an input or output: a plain word, whatever the engine's conversion called the tensor beside it."""
    names: set[str] = port.get_names()
    return min(names, key=lambda name: (not name.isidentifier(), len(name), name))


class Unsuitable(Exception):
    """The bundle asks for something that this plain pipeline does not do."""


class Geometry:
    """Where an image lies in the encoder's input, and how to get there and back."""

    def __init__(self, manifest: dict[str, Any], height: int, width: int) -> None:
        entry = manifest["input"]
        self.entry, self.size = entry, (height, width)
        rows, columns = entry["size"]
        if entry["resize"] == "longest_side":
            scale = rows / max(height, width)
            self.resized = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
            self.scales = (scale, scale)  # of x and of y
        else:
            self.resized, self.scales = (rows, columns), (columns / width, rows / height)
        self.rounding = (manifest["prompts"].get("box") or {}).get("rounding", "none")

    def tensor(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(H, W) or (H, W, 3) uint8 -> (1, C, h, w), resized, normalised, padded."""
        entry = self.entry
        grows = self.resized[0] > self.size[0] or self.resized[1] > self.size[1]
        flag = _INTERPOLATIONS[entry["interpolation"]][grows]
        channels = entry.get("channels", 3)
        levels = image if image.ndim == 3 or channels == 1 else np.repeat(image[:, :, None], channels, axis=-1)
        levels = cv2.resize(levels, self.resized[::-1], interpolation=flag).reshape(*self.resized, channels)
        normalise = entry["normalise"]
        if normalise["kind"] == "min_max":
            low, high = levels.min(), levels.max()
            values = (levels - low) / np.clip(float(high) - float(low), 1e-8, None)
        elif normalise["kind"] == "mean_std":
            values = (levels - np.array(normalise["mean"])) / np.array(normalise["std"])
        else:
            values = levels / 255.0
        rows, columns = entry["size"]
        border = ((0, rows - self.resized[0]), (0, columns - self.resized[1]), (0, 0))
        padded = np.pad(values.astype(np.float32), border)
        return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])

    def box(self, box: NDArray[Any]) -> NDArray[np.float32]:
        """Xyxy of the image -> (1, 4) of the input frame."""
        x, y = self.scales
        if self.entry.get("coordinates", "exact") == "edges":
            placed = [box[0] * x, box[1] * y, (box[2] + 1) * x - 1, (box[3] + 1) * y - 1]
        else:
            placed = [box[0] * x, box[1] * y, box[2] * x, box[3] * y]
        if self.rounding == "truncate":
            placed = [int(value) for value in placed]
        return np.array([placed], dtype=np.float32)

    def mask(self, logits: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
        """(h, w) logits -> (H, W) mask."""
        part = logits.shape[0] / self.entry["size"][0]
        rows, columns = (max(1, int(side * part + 0.5)) for side in self.resized)
        cropped = np.ascontiguousarray(logits[:rows, :columns])
        return np.asarray(cv2.resize(cropped, self.size[::-1], interpolation=cv2.INTER_LINEAR)) > threshold


class Reference:
    """Both graphs, compiled with the engine's default settings, or in float32 where it would choose less."""

    def __init__(self, graphs: Path, cache: Path, precision: str = "default", modality: int = 0) -> None:
        self.manifest = json.loads((graphs / "manifest.json").read_text(encoding="utf-8"))
        core = openvino.Core()
        core.set_property({"CACHE_DIR": str(cache)})
        if precision == "fp32":
            core.set_property("CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self.encoder, self.decoder = (core.compile_model(str(graphs / f"{name}.xml"), "CPU") for name in _GRAPHS)
        self.times: dict[str, list[float]] = {"encode_per_slice_ms": [], "decode_per_box_ms": []}
        self._modality = modality
        output = self.manifest["output"]
        limit = output.get("threshold", 0.0)
        self.threshold = math.log(limit / (1 - limit)) if output.get("activation") == "sigmoid" else limit

    def encode(self, image: NDArray[np.uint8], geometry: Geometry) -> Arrays:
        """Embedding of one slice, a copy of the engine's tensors."""
        begun = time.perf_counter()
        found = self.encoder({"image": geometry.tensor(image)})
        kept = {_name(output): found[output].copy() for output in self.encoder.outputs}
        self.times["encode_per_slice_ms"].append((time.perf_counter() - begun) * 1e3)
        return kept

    def decode(self, embedding: Arrays, box: NDArray[Any], geometry: Geometry) -> NDArray[np.bool_]:
        """Mask of one box on one slice, at the image's size."""
        begun = time.perf_counter()
        found = self.decoder(self._inputs(embedding, geometry.box(box)))
        named = {_name(output): found[output] for output in self.decoder.outputs}
        candidates = named["low_res_logits"][0]
        best = int(np.argmax(named["scores"][0])) if "scores" in named else 0
        mask = geometry.mask(candidates[best], self.threshold)
        self.times["decode_per_box_ms"].append((time.perf_counter() - begun) * 1e3)
        return mask

    def _inputs(self, embedding: Arrays, box: NDArray[np.float32]) -> Arrays:
        """All inputs of the decoder: the embedding, the box, and nothing for whatever else it could be told."""
        given = dict(embedding)
        for port in self.decoder.inputs:
            name = _name(port)
            if name == "boxes":
                given[name] = box
            elif name == "modality":
                given[name] = np.array([self._modality], dtype=np.int64)
            elif name not in given:
                nothing = -1 if name == "point_labels" else 0
                given[name] = np.full(tuple(port.shape), nothing, port.element_type.to_dtype())
        return given


def _tight_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    rows, columns = np.where(mask)
    return (columns.min(), rows.min(), columns.max(), rows.max()) if rows.size else None


def _next_box(mask: NDArray[np.bool_], geometry: Geometry, published: dict[str, Any]) -> NDArray[Any] | None:
    """Box of a slice from its neighbour's mask, in image pixels; published loops make it at the encoder's size."""
    tight = _tight_box(mask)
    if tight is None or published.get("box_from") != "resized_label":
        return None if tight is None else np.array(tight)
    label = cv2.resize(mask.astype(np.uint16), geometry.resized[::-1], interpolation=cv2.INTER_AREA)
    left, top, right, bottom = _tight_box(label > 0) or (0, 0, 0, 0)
    (rows, columns), (x, y), margin = geometry.resized, geometry.scales, published.get("margin_px", 0)
    low, high = (
        (max(0, left - margin), max(0, top - margin)),
        (min(columns, right + margin), min(rows, bottom + margin)),
    )
    return np.array([low[0] / x, low[1] / y, high[0] / x, high[1] / y])


def segment(reference: Reference, images: NDArray[np.uint8], boxes: NDArray[Any]) -> NDArray[np.uint16]:
    """Label map of a volume (D, H, W) with boxes (N, 6), or of an image (H, W[, 3]) with boxes (N, 4)."""
    if boxes.shape[1] == 4:
        geometry = Geometry(reference.manifest, *images.shape[:2])
        labels = np.zeros(images.shape[:2], np.uint16)
        embedding = reference.encode(images, geometry)
        for number, box in enumerate(boxes, start=1):
            labels[reference.decode(embedding, box, geometry)] = number
        return labels
    geometry = Geometry(reference.manifest, *images.shape[1:])
    published = reference.manifest.get("propagation", {}).get("published") or {}
    labels = np.zeros(images.shape, np.uint16)
    embeddings: dict[int, Arrays] = {}
    for number, box in enumerate(boxes, start=1):
        given, (first, last) = box[[0, 1, 3, 4]], (int(box[2]), min(int(box[5]), len(images) - 1))
        middle = (first + last) // 2
        found: dict[int, NDArray[np.bool_]] = {}
        for z in (*range(middle, last + 1), *range(middle - 1, first - 1, -1)):
            before = found.get(z - 1 if z > middle else z + 1)
            guess = None if before is None else _next_box(before, geometry, published)
            if z not in embeddings:
                embeddings[z] = reference.encode(images[z], geometry)
            found[z] = reference.decode(embeddings[z], given if guess is None else guess, geometry)
            labels[z][found[z]] = number
    return labels


def prepare(bundle: Path, graphs: Path, cache: Path, precision: str = "default") -> dict[str, Any]:
    """Store a bundle's float graphs as IR with static shapes, and those compiled; facts of them on this machine.

    Raises
    ------
    Unsuitable
        If the bundle needs more than an image and boxes.
    """
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    manifest = json.loads(text)
    if manifest["input"]["interpolation"] not in _INTERPOLATIONS or manifest["input"].get("spectrum"):
        msg = f"the reference pipeline has no {manifest['input']['interpolation']} interpolation; measure without it"
        raise Unsuitable(msg)
    core = openvino.Core()
    graphs.mkdir(parents=True, exist_ok=True)
    for name in _GRAPHS:
        files = manifest["graphs"]["float"][name]
        model = core.read_model(bundle / (files.get("openvino") or files["onnx"]))
        known = _OWN_INPUTS | {"image"} | {tensor["name"] for tensor in manifest["embedding"]}
        known |= {f"{tensor}_before" for tensor in (manifest["prompts"].get("mask") or {}).get("neighbour_tensors", ())}
        unknown = sorted({_name(port) for port in model.inputs} - known)
        if unknown:
            msg = f"the decoder reads {', '.join(unknown)}, which the reference pipeline has not; measure without it"
            raise Unsuitable(msg)
        static = {port: [1 if side.is_dynamic else side for side in port.partial_shape] for port in model.inputs}
        model.reshape(static)
        openvino.save_model(model, graphs / f"{name}.xml", compress_to_fp16=False)
    (graphs / "manifest.json").write_text(text, encoding="utf-8")
    compiled = Reference(graphs, cache, precision).encoder
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    listing = "".join(f"{path} {manifest['files'][path]['sha256']}\n" for path in sorted(manifest["files"]))
    return {
        "name": manifest["name"],
        "version": manifest["version"],
        "sha256": hashlib.sha256(listing.encode()).hexdigest(),
        "backend": "reference",
        "precision": {"f32": "fp32", "f16": "fp16"}.get(used, used),
        "threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
    }


def _run(options: argparse.Namespace) -> dict[str, Any]:
    """Read, segment, write; milliseconds of each step."""
    marks = [time.perf_counter()]

    def since() -> float:
        marks.append(time.perf_counter())
        return (marks[-1] - marks[-2]) * 1e3

    stages: dict[str, list[float]] = {"import_ms": [_IMPORT_MS]}
    reference = Reference(options.graphs, options.cache, options.precision, options.modality)
    stages["start_ms"] = [since()]
    archive = np.load(options.file)
    images, boxes = archive["imgs"], archive["boxes"]
    stages["read_ms"] = [since()]
    labels = segment(reference, images, boxes)
    stages["first_propagate_ms"] = stages["propagate_ms"] = [since()]
    np.savez_compressed(options.output, segs=labels)
    stages["write_ms"] = [since()]
    stages |= {name: [float(np.median(times))] for name, times in reference.times.items()}
    counts = {"slices_encoded": "encode_per_slice_ms", "prompts_decoded": "decode_per_box_ms"}
    return {"stages": stages, "counts": {name: len(reference.times[of]) for name, of in counts.items()}}


def main(arguments: list[str]) -> int:
    """Prepare a bundle or segment one file; JSON on standard output, 1 with one line where the bundle does not fit."""
    parser = argparse.ArgumentParser(prog="python -m perf.reference", description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path, nargs="?", help="imgs and boxes, as in the CVPR 2024 challenge")
    parser.add_argument("output", type=Path, nargs="?", help="segs")
    parser.add_argument("--graphs", type=Path, required=True, help="folder that --prepare filled")
    parser.add_argument("--prepare", type=Path, metavar="BUNDLE", help="fill that folder from a bundle, and end")
    parser.add_argument("--cache", type=Path, required=True, help="folder of compiled graphs")
    parser.add_argument("--precision", choices=("default", "fp32"), default="default", help="default: the engine's own")
    parser.add_argument("--modality", type=int, default=0, help="its index, for a bundle that asks")
    options = parser.parse_args(arguments)
    if options.prepare is None and None in (options.file, options.output):
        parser.error("wanted FILE and OUT, or --prepare BUNDLE")
    try:
        if options.prepare is None:
            print(json.dumps(_run(options)))
        else:
            print(json.dumps(prepare(options.prepare, options.graphs, options.cache, options.precision)))
    except Unsuitable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

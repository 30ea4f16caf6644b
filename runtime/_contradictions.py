"""What a manifest says that cannot all be true, where no single field shows it.

Knows the manifest's fields; reads no file and raises nothing.
"""

from __future__ import annotations

import re

from runtime._manifest_records import FileRecord, GraphFiles, Manifest, Normalise

__all__ = ["contradictions"]

_FILE_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


def _of_normalise(where: str, spec: Normalise) -> list[str]:
    wants = spec.kind == "mean_std"
    if wants != (spec.mean is not None and spec.std is not None):
        return [f"{where}: mean and std belong to kind mean_std, and only there"]
    if spec.std is not None and min(spec.std) <= 0:
        return [f"{where}.std: wanted values above 0"]
    return []


def contradictions(manifest: Manifest) -> list[str]:
    """Contradictions that no single field shows."""
    found = _of_normalise("input.normalise", manifest.input.normalise)
    for crop in manifest.prompts.crops:
        found += _of_normalise(f"prompts.crops.{crop.name}.normalise", crop.normalise)
        if crop.length is not None and crop.graph is None:
            found.append(f"prompts.crops.{crop.name}.length: belongs to a crop with a graph")
    if manifest.input.resize == "stretch" and manifest.input.pad != "none":
        found.append("input.pad: a stretched image fills the input; wanted none")
    if manifest.input.resize == "longest_side" and manifest.input.pad == "none":
        found.append("input.pad: the longest-side rule leaves a border; wanted bottom_right")
    if "float" not in manifest.graphs:
        found.append("graphs: wanted a float graph set")
    if manifest.int8_faster and "int8" not in manifest.graphs:
        found.append("int8_faster: there are no int8 graphs that could be faster")
    if manifest.int8_rest != "fp32" and "int8" not in manifest.graphs:
        found.append("int8_rest: there are no int8 graphs that could leave anything")
    for path in manifest.files:
        if not _FILE_PATTERN.fullmatch(path):
            found.append(f"files: {path!r} is not a plain relative path inside the bundle")
    found += _repeated_files(manifest.files)
    if manifest.prompts.modality is not None and not manifest.modalities:
        found.append("modalities: empty, though prompts.modality asks for one of them")
    if manifest.prompts.mask is not None and manifest.prompts.mask.kind == "logits" and manifest.prompts.mask.derived:
        found.append("prompts.mask.derived: belongs to kind scribble")
    if manifest.input.spectrum == "image":
        found.append("input.spectrum: the encoder would have two inputs 'image'")
    found += _of_points(manifest) + _of_neighbours(manifest) + _of_closer(manifest)
    if not manifest.output.scores:
        if manifest.propagation.chain.starts > 1:
            found.append("propagation.chain.starts: runs are compared by output.scores; wanted true, or one start")
        if manifest.propagation.chain.other_planes:
            found.append(
                "propagation.chain.other_planes: planes are weighed by output.scores; wanted true, or false here"
            )
    found += _repeated_inputs(manifest)
    for label, graph_set in manifest.graphs.items():
        for role, files in graph_set.by_role.items():
            found += _file_problems(f"graphs.{label}.{role}", files, manifest.files)
        for crop in manifest.prompts.crops:
            if crop.graph is not None and crop.graph not in graph_set.extra:
                found.append(f"graphs.{label}.extra: lacks {crop.graph!r}, which crop {crop.name!r} needs")
        if graph_set.one_box is not None:
            found += [f"graphs.{label}.one_box: {reason}" for reason in _against_one_box(manifest)]
    return found


def _against_one_box(manifest: Manifest) -> list[str]:
    """Why a decoder for one box, without points and of fixed sizes, cannot stand for the decoder."""
    points = manifest.prompts.points
    reasons = {
        "the decoder reads no boxes": not manifest.prompts.reads_boxes,
        "points are derived from every box, and it takes none": points is not None and points.derived is not None,
        "the decoder is a function of position, whose sizes are not fixed": manifest.output.implicit,
    }
    return [reason for reason, found in reasons.items() if found]


def _of_points(manifest: Manifest) -> list[str]:
    points, mask = manifest.prompts.points, manifest.prompts.mask
    if points is None or not points.box_sides:
        return []
    if manifest.prompts.box is None or manifest.prompts.box.use != "optional" or points.requires_box:
        return ["prompts.points.box_sides: belongs to an optional box and points that do without one"]
    if not manifest.output.scores or manifest.output.order != "score":
        return ["prompts.points.box_sides: the best box is found by output.scores; wanted true, and order score"]
    if mask is None or mask.kind != "logits":
        return ["prompts.points.box_sides: wanted a decoder that takes masks of kind logits"]
    return []


def _of_closer(manifest: Manifest) -> list[str]:
    """Why a crop cannot take the image's place."""
    prompts = manifest.prompts
    if prompts.closer is None:
        return []
    reasons = {
        "belongs to a decoder that reads boxes": not prompts.reads_boxes,
        "wanted input.resize longest_side and input.coordinates edges": (
            manifest.input.resize != "longest_side" or manifest.input.coordinates != "edges"
        ),
        "wanted prompts without modality, crops and vectors": bool(
            prompts.modality or prompts.crops or prompts.vectors
        ),
        "wanted masks of kind logits": prompts.mask is not None and prompts.mask.kind != "logits",
        "wanted an output that is no function of position": manifest.output.implicit,
    }
    return [f"prompts.closer: {reason}" for reason, found in reasons.items() if found]


def _repeated_files(files: dict[str, FileRecord]) -> list[str]:
    """Names that would be one file where upper and lower case are the same."""
    folded = [path.casefold() for path in files]
    found = ["files: lists manifest.json itself"] if "manifest.json" in folded else []
    if len(set(folded)) != len(folded):
        found.append("files: some paths differ in upper and lower case only")
    return found


def _of_neighbours(manifest: Manifest) -> list[str]:
    mask = manifest.prompts.mask
    if mask is None:
        return []
    if mask.kind != "logits":
        given = {"neighbour_tensors": mask.neighbour_tensors, "empty_is_limit": mask.empty_is_limit}
        return [f"prompts.mask.{name}: belongs to kind logits" for name, value in given.items() if value]
    known = [tensor.name for tensor in manifest.embedding]
    return [
        f"prompts.mask.neighbour_tensors: {name!r} is not among the embedding's tensors {known}"
        for name in mask.neighbour_tensors
        if name not in known
    ]


def _file_problems(where: str, files: GraphFiles, listed: dict[str, FileRecord]) -> list[str]:
    found = []
    if files.onnx is None and files.openvino is None:
        found.append(f"{where}: wanted an onnx or an openvino file")
    wanted = [files.onnx, files.openvino]
    if files.openvino is not None:
        if not files.openvino.endswith(".xml"):
            found.append(f"{where}: {files.openvino!r} is no OpenVINO IR; wanted its .xml")
        wanted.append(files.openvino.removesuffix(".xml") + ".bin")
    found += [f"{where}: {path!r} is not listed in files" for path in wanted if path and path not in listed]
    return found


def _repeated_inputs(manifest: Manifest) -> list[str]:
    """Names that two of the decoder's inputs would share."""
    prompts = manifest.prompts
    names = [tensor.name for tensor in manifest.embedding]
    if len(set(names)) != len(names):
        return [f"embedding: names {names} repeat"]
    if prompts.reads_boxes:
        names.append("boxes")
    names += ["points", "point_labels"] if prompts.points is not None else []
    names += ["masks", "has_mask"] if prompts.mask is not None else []
    names += [f"{name}_before" for name in prompts.mask.neighbour_tensors] if prompts.mask is not None else []
    names += ["modality"] if prompts.modality is not None else []
    names += ["output_size", "rows", "columns"] if manifest.output.implicit else []
    names += [crop.name for crop in prompts.crops] + list(prompts.vectors)
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [f"prompts: the decoder would have several inputs {name!r}" for name in repeated]

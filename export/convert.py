"""Checkpoint -> bundle folder, which appears whole or not at all.

Joins the steps: read, match, build, export, describe, compare with torch, move into place. Must not know what any one
family is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import runtime
from export.families import Extra, Family, Graph, load_families
from export.quantize import Images, QuantizeOptions, images_for, quantize_folder
from runtime._digest import sha256_of
from runtime.arrival import arriving_folder, check_replaceable
from runtime.errors import CheckpointError, PromptError
from runtime.manifest import (
    FORMAT_VERSION,
    LAYOUT_REVISION,
    FileRecord,
    GraphFiles,
    GraphSet,
    Licence,
    Manifest,
    Source,
    write_manifest,
)

if TYPE_CHECKING:
    from export.load import Checkpoint, StateDict

__all__ = ["FORMATS", "PRECISIONS", "ConvertOptions", "convert"]

PRECISIONS = ("fp32", "fp16", "int8-weights", "int8")
"""What the weights can be stored in; ``int8`` adds INT8 graphs to float ones with float16 weights."""
FORMATS = ("onnx", "openvino")
"""What the graphs can be written as. OpenVINO reads both, ONNX Runtime the first."""

_DIGEST_DIGITS = 12
_NOT_MEASURED = "float16 weights in OpenVINO's format: Dice to fp32 and speed are not measured; --format onnx is"


@dataclass(frozen=True)
class ConvertOptions:
    """How to convert; `extra` is the second file that some systems take, `report` is told about each step.

    INT8 graphs need the folder `calibration`; every precision below fp32 is measured on it, or without it on a few
    drawn images; `max_drop` are the Dice points that quantisation may cost.
    """

    precision: Literal["fp32", "fp16", "int8-weights", "int8"] = "fp32"
    formats: tuple[str, ...] = ("onnx",)
    name: str | None = None
    force: bool = False
    unsafe_pickle: bool = False
    extra: Path | None = None
    calibration: Path | None = None
    max_drop: float = 0.5
    report: Callable[[str], None] = lambda _: None


def convert(
    checkpoint: Path, output: Path, *, family: str | None = None, options: ConvertOptions | None = None
) -> Path:
    """Convert a checkpoint into a bundle folder and return it; the family is found out where it is not named.

    CheckpointError if the checkpoint is unreadable or fits no family, OutputError if the folder exists or cannot be
    written, BundleError if the graphs do not compute what the torch model computes.
    """
    from export.compare import compare_graphs
    from export.load import match, read_checkpoint

    options = options or ConvertOptions()
    check_replaceable(output, force=options.force)
    quantisation = _check_quantisation(options)
    source = read_checkpoint(checkpoint, unsafe_pickle=options.unsafe_pickle)
    found, state_dict = match(source, load_families(), wanted=family)
    inside = f", weights under {state_dict.where!r}" if state_dict.where else ""
    options.report(f"{checkpoint.name}: {found.title} ({found.name}){inside}")
    second = _second_file(found, options)
    graphs = _graphs(found, state_dict, second)
    with arriving_folder(output, force=options.force) as folder:
        files = {}
        for role, graph in graphs.items():
            files[role] = _write_graph(role, graph, folder, options)
            options.report(f"wrote the {role}")
        write_manifest(_manifest(found, files, folder, source, second, options), folder)
        worst = compare_graphs(graphs, folder, _weights(options))
        options.report(f"compared with torch: largest difference {worst:.1e} of the root mean square")
        if quantisation is not None:
            quantize_folder(folder, quantisation[1], quantisation[0])
        elif options.precision != "fp32":
            options.report(_NOT_MEASURED)
    options.report(f"done: {output}")
    return output


def _check_quantisation(options: ConvertOptions) -> tuple[QuantizeOptions, Images] | None:
    """What to do after the conversion, and the images for it, read before the long work; None where that is nothing.

    Float16 weights are made of float32 ones, in order to be measured; for OpenVINO's format they are written at once.
    """
    if options.precision == "fp32" or _written_half(options):
        return None
    if options.formats != ("onnx",):
        msg = f"precision {options.precision}: such graphs are ONNX, which both engines read; leave --format out"
        raise PromptError(msg)
    how = QuantizeOptions(precision=options.precision, max_drop=options.max_drop, report=options.report)
    return how, images_for(how, options.calibration)


def _second_file(family: Family, options: ConvertOptions) -> tuple[Extra, Checkpoint] | None:
    """What a family takes beside its checkpoint, and the file given for it; None where none is given."""
    from export.load import read_checkpoint

    extra = family.extra
    if options.extra is None:
        if extra is None:
            return None
        if extra.required:
            msg = f"{family.name} needs a second file: {extra.title}, from {extra.weights}; give it with --extra FILE"
            raise CheckpointError(msg)
        options.report(f"no --extra ({extra.title}): {extra.without}")
        return None
    if extra is None:
        msg = f"--extra {options.extra}: {family.name} is converted from its checkpoint alone; leave --extra out"
        raise CheckpointError(msg)
    options.report(f"{options.extra.name}: {extra.title}")
    return extra, read_checkpoint(options.extra, unsafe_pickle=options.unsafe_pickle)


def _graphs(family: Family, state_dict: StateDict, second: tuple[Extra, Checkpoint] | None) -> Mapping[str, Graph]:
    """Build a family's graphs; their example inputs, on which they are compared, are the same every time."""
    import torch

    from export.load import load_extra, load_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model(family, state_dict)
        return family.graphs(model) if second is None else family.graphs(model, load_extra(*second))


def _written_half(options: ConvertOptions) -> bool:
    """Whether the graphs are written with float16 weights at once: OpenVINO's, without images to measure them on."""
    return options.precision == "fp16" and options.formats != ("onnx",) and options.calibration is None


def _weights(options: ConvertOptions) -> Literal["fp32", "fp16"]:
    """How the graphs store their weights before quantisation."""
    return "fp16" if _written_half(options) else "fp32"


def _write_graph(role: str, graph: Graph, folder: Path, options: ConvertOptions) -> GraphFiles:
    from export.graph import write_onnx, write_openvino

    onnx, openvino = folder / f"{role}.onnx", folder / f"{role}.xml"
    write_onnx(graph, onnx, half_weights=_weights(options) == "fp16")
    if "openvino" in options.formats:
        write_openvino(onnx, openvino)
    if "onnx" not in options.formats:
        onnx.unlink()
    return GraphFiles(onnx=onnx.name if onnx.exists() else None, openvino=openvino.name if openvino.exists() else None)


def _manifest(
    family: Family,
    files: Mapping[str, GraphFiles],
    folder: Path,
    source: Checkpoint,
    second: tuple[Extra, Checkpoint] | None,
    options: ConvertOptions,
) -> Manifest:
    from export.graph import OPSET

    facts, licence, digest = family.facts, family.licence, source.sha256
    if second is not None:
        extra, file = second
        facts = extra.facts or facts
        licence = _joined(licence, extra)
        digest = hashlib.sha256(f"{digest}{file.sha256}".encode()).hexdigest()
    return Manifest(
        format_version=FORMAT_VERSION,
        layout_revision=LAYOUT_REVISION,
        name=options.name or family.name.replace("_", "-"),
        version=digest[:_DIGEST_DIGITS],
        family=family.name,
        title=family.title,
        licence=licence,
        source=Source(
            exporter=f"lite-infer {runtime.__version__}",
            repository=family.repository,
            revision=family.revision,
            paper=family.paper,
            checkpoint_sha256=source.sha256,
            extra_sha256=None if second is None else second[1].sha256,
            opset=OPSET,
        ),
        input=facts.input,
        embedding=facts.embedding,
        prompts=facts.prompts,
        output=facts.output,
        graphs={"float": GraphSet.from_roles(files)},
        weights=_weights(options),
        propagation=facts.propagation,
        modalities=facts.modalities,
        files={path.name: _record(path) for path in sorted(folder.iterdir())},
    )


def _joined(licence: Licence, extra: Extra) -> Licence:
    """Licence of a bundle with the weights of a second file inside."""
    own = f"{extra.title}: {extra.licence.spdx}" + (f", {extra.licence.url}" if extra.licence.url else "")
    notice = own if licence.notice is None else f"{licence.notice}; {own}"
    return Licence(spdx=licence.spdx, url=licence.url, notice=notice)


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)

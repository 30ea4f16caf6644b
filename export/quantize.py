"""A float bundle -> the same bundle with smaller or faster graphs: float16 weights, INT8 weights, or INT8 graphs.

Joins the steps: read the images, make the graphs, measure masks against float32 on both engines, write bundle and
report. Must not know torch, nor how a graph is rewritten.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import runtime
from export._bundle_copy import copy_float, folder_bytes, rewrite_manifest
from export._calibration import Images, Sample, check_calibratable, divided, read_samples, record
from export._drawn_images import drawn_samples
from export._mask_drop import POINTS, Masks, masks_of, mean_dice, speed_ratio
from export._quantize_report import QuantizeOptions, Report
from runtime.arrival import arriving_folder, check_replaceable
from runtime.backends import BACKENDS
from runtime.bundle import open_bundle
from runtime.errors import BundleError, PromptError
from runtime.manifest import Manifest, load_manifest

__all__ = [
    "QUANTIZED",
    "REPORT_NAME",
    "Images",
    "QuantizeOptions",
    "Report",
    "images_for",
    "quantize",
    "quantize_folder",
]

QUANTIZED = ("fp16", "int8-weights", "int8")
"""What `quantize` makes."""
REPORT_NAME = "quantization.json"
"""The report's file in the bundle."""
_DRAWN_IMAGES = 3  # one of each kind of prompts: boxes, clicks, earlier logits
_TIMED_SECONDS = 4.0
_WITH_BF16 = "int8-bf16"
_MORE_DROP = 0.1  # of the drop allowed: what bfloat16 may cost beyond INT8
_GAIN = 1.1
_NO_IMAGES = (
    "int8 needs images, one to calibrate with and one to measure on at least: give --calibration DIR, or choose "
    "int8-weights or fp16"
)


def quantize(
    bundle: Path | str, output: Path, *, calibration: Path | None = None, options: QuantizeOptions | None = None
) -> Report:
    """Write a quantised copy of a bundle; its INT8 graphs, if any, are made anew.

    PromptError if INT8 graphs are wanted without a calibration folder, ImageError if that has no images, BundleError if
    the bundle has no ONNX graphs or its masks differ by more than the drop, OutputError if the folder cannot be made.
    """
    options = options or QuantizeOptions()
    check_replaceable(output, force=options.force)
    source = open_bundle(bundle)
    if source.manifest.weights == "int8":
        msg = f"bundle {source.manifest.name!r} has INT8 weights already; quantise the bundle that it was made from"
        raise BundleError(msg)
    images = images_for(options, calibration)
    with arriving_folder(output, force=options.force) as folder:
        copy_float(source, folder, leave={REPORT_NAME})
        report = quantize_folder(folder, images, options)
    options.report(f"done: {output}")
    return report


def images_for(options: QuantizeOptions, calibration: Path | None) -> Images:
    """Images of a calibration folder, else a few drawn ones; PromptError where INT8 graphs are wanted without one."""
    if calibration is not None:
        return divided(read_samples(calibration, options.images))
    if options.precision == "int8":
        raise PromptError(_NO_IMAGES)
    return Images([], drawn_samples(_DRAWN_IMAGES), drawn=True)


def quantize_folder(folder: Path, images: Images, options: QuantizeOptions | None = None) -> Report:
    """Quantise the bundle in a folder that nobody uses yet, and measure it. Errors as `quantize`."""
    from export._onnx_weights import rewrite, store_half, store_int8

    options = options or QuantizeOptions()
    manifest = load_manifest(folder)
    report = _new_report(folder, manifest, images, options)
    if options.precision == "int8":
        check_calibratable(manifest)
    reference = masks_of(folder, images.held_out, precision="fp32")
    graphs = dict(manifest.graphs)
    if options.precision == "int8":
        from export._int8 import Int8

        graphs["int8"] = Int8(folder, images, reference, report, options).make()
    weights: Literal["fp16", "int8"] = "int8" if options.precision == "int8-weights" else "fp16"
    with tempfile.TemporaryDirectory(prefix="lite-infer-quantize-") as work:
        before = Path(work) / "before"
        if options.precision != "int8":
            shutil.copytree(folder, before)
        for name in {str(files.onnx) for files in manifest.graphs["float"].by_role.values()}:
            rewrite(folder / name, store_int8 if weights == "int8" else store_half)
        rewrite_manifest(folder, manifest, graphs, weights=weights)
        _measure(folder, images, reference, report, options)
        if report.int8_faster.get(BACKENDS[0]):
            _try_bf16(folder, images, reference, report, options)
        if before.exists():
            _time(folder, before, images.held_out, report)
    report.bytes_after = folder_bytes(folder)
    (folder / REPORT_NAME).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    faster = {engine: tuple(units) for engine, units in report.int8_faster.items()}
    metrics = manifest.metrics + report.metrics()
    changes: dict[str, Any] = {"weights": weights, "int8_faster": faster, "int8_rest": report.int8_rest}
    rewrite_manifest(folder, manifest, graphs, metrics=metrics, **changes)
    for line in report.lines():
        options.report(line)
    return report


def _new_report(folder: Path, manifest: Manifest, images: Images, options: QuantizeOptions) -> Report:
    """Report of what is known beforehand. Vectors that a bundle takes are drawn, whoever gave the images."""
    vectors = manifest.prompts.vectors
    return Report(
        options.precision,
        bytes_before=folder_bytes(folder),
        images=len(images.calibrate) + len(images.held_out),
        held_out=len(images.held_out),
        measured_on=images.measured_on + (f" with drawn {' and '.join(vectors)}" if vectors else ""),
        drawn=images.drawn or bool(vectors),
    )


def _time(folder: Path, before: Path, held: Sequence[Sample], report: Report) -> None:
    """Speed of the float graphs against what they were before, on both engines."""
    with runtime.Session(before, backend=BACKENDS[0], precision="fp32", cache=False) as session:
        recorded = record(session, list(held[:1]))
    examples: dict[str, dict[str, Any]] = {role: inputs[0] for role, inputs in recorded.items()}
    for engine in BACKENDS:
        ratios = {
            role: speed_ratio(folder, role, engine, inputs, than=before, seconds=_TIMED_SECONDS, fewest=1)
            for role, inputs in examples.items()
        }
        report.speed[engine] = {role: round(ratio, 3) for role, ratio in ratios.items()}


def _try_bf16(folder: Path, images: Images, reference: Masks, report: Report, options: QuantizeOptions) -> None:
    """Let float layers beside INT8 compute in bfloat16, if this CPU is made for it and masks keep nearly as close.

    It depends on the model: one that samples an image at coordinates loses more by them than by 8 bits (docs/adr/0006).
    """
    from runtime.backends.ov import has_native_bf16

    if not has_native_bf16() or not report.dice:
        return
    found = masks_of(folder, images.held_out, backend=BACKENDS[0], precision=_WITH_BF16, reference=reference)
    report.rest_dice = round(mean_dice(found, reference), 5)
    with runtime.Session(folder, backend=BACKENDS[0], precision="int8", cache=False) as session:
        recorded = record(session, images.held_out[:1])
    report.rest_speed = {
        role: round(speed_ratio(folder, role, BACKENDS[0], inputs[0], precisions=("int8", _WITH_BF16)), 3)
        for role, inputs in recorded.items()
    }
    more = (report.dice[BACKENDS[0]] - report.rest_dice) * POINTS
    drop = (1 - report.rest_dice) * POINTS
    if drop <= options.max_drop and more <= _MORE_DROP * options.max_drop and max(report.rest_speed.values()) >= _GAIN:
        report.int8_rest = "bf16"


def _measure(folder: Path, images: Images, reference: Masks, report: Report, options: QuantizeOptions) -> None:
    """Masks of the finished bundle on both engines; BundleError where they differ by more than the drop.

    A model may find nothing in drawn images, in both precisions: then they are no measure.
    """
    precision = "int8" if options.precision == "int8" else "fp32"
    for engine in BACKENDS:
        found = masks_of(folder, images.held_out, backend=engine, precision=precision, reference=reference)
        if images.drawn and found.empty and reference.empty:
            continue
        report.dice[engine] = round(mean_dice(found, reference), 5)
        drop = (1 - report.dice[engine]) * POINTS
        if not drop <= options.max_drop:
            yours = "measure on your images with --calibration DIR, " if images.drawn else ""
            msg = (
                f"{options.precision}: masks under {engine} differ from those of fp32 by {drop:.2f} Dice points on "
                f"{report.measured_on}; wanted at most {options.max_drop:g}: allow more with --max-drop, "
                f"{yours}or choose another precision"
            )
            raise BundleError(msg)

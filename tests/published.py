"""Manifests of published systems, as far as the runtime's arithmetic needs them.

Facts of the systems' own scripts; `graphs` and `files` name nothing that exists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime.manifest import LoopSettings, Manifest, parse_manifest

_RECORD = {"sha256": "0" * 64, "bytes": 1}

BASE: dict[str, Any] = {
    "format_version": 1,
    "layout_revision": 1,
    "name": "published",
    "version": "1",
    "family": "any",
    "title": "A system of the challenge",
    "licence": {"spdx": "Apache-2.0"},
    "source": {"exporter": "tests 1"},
    "input": {
        "size": [256, 256],
        "resize": "longest_side",
        "interpolation": "area",
        "normalise": {"kind": "min_max"},
        "channels": 3,
        "pad": "bottom_right",
    },
    "embedding": [{"name": "image_embeddings", "shape": [1, 256, 64, 64]}],
    "prompts": {"box": {"use": "required", "rounding": "truncate"}},
    "output": {"low_res_size": [256, 256]},
    "graphs": {"float": {"encoder": {"onnx": "encoder.onnx"}, "decoder": {"onnx": "decoder.onnx"}}},
    "files": {"encoder.onnx": _RECORD, "decoder.onnx": _RECORD},
}

LITE = ("lite_medsam", "rep_medsam", "daft")
"""Systems of 256 pixels whose logits cover the input frame one to one."""

PLACED = (*LITE, "medficientsam_l0", "medsam", "sam_vit_b")
"""Systems with goldens of prompt boxes and masks; one for each rule."""

CASES = ("case_0", "case_1")
"""The goldens' images."""

LOOPS = {
    "lite_medsam": LoopSettings(box_from="resized_label", margin_px=3),
    "rep_medsam": LoopSettings(box_from="resized_label", margin_px=3),
    "daft": LoopSettings(box_from="resized_label", label_dtype="uint16", margin_px=3, last_slice="excluded"),
    **{f"medficientsam_l{size}": LoopSettings(box_from="mask", last_slice="excluded") for size in range(3)},
}
"""The published 3-D loops."""


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of nested dicts with some leaves replaced."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def manifest(changes: dict[str, Any] | None = None) -> Manifest:
    """A valid manifest: LiteMedSAM's facts, with changes."""
    return parse_manifest(msgspec.json.encode(merged(BASE, changes or {})))


def manifest_of(system: str) -> Manifest:
    """Facts of a published system by the name of its folder of goldens."""
    if system in LITE:
        return manifest()
    if system.startswith("medficientsam"):
        return manifest(
            {"input": {"size": [512, 512], "interpolation": "bilinear"}, "output": {"upsample": "via_input"}}
        )
    if system == "medsam":
        return manifest(
            {
                "input": {
                    "size": [1024, 1024],
                    "resize": "stretch",
                    "interpolation": "bicubic_antialias",
                    "pad": "none",
                },
                "prompts": {"box": {"rounding": "none"}},
                "output": {"activation": "sigmoid", "threshold": 0.5},
            }
        )
    if system == "sam_vit_b":
        statistics = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
        return manifest(
            {
                "input": {
                    "size": [1024, 1024],
                    "interpolation": "bilinear_antialias",
                    "coordinates": "resized",
                    "normalise": {"kind": "mean_std", **statistics},
                },
                "prompts": {
                    "box": {"use": "optional", "rounding": "none"},
                    "points": {},
                    "mask": {"kind": "logits", "size": [256, 256]},
                },
                "output": {"candidates": 4, "order": "graph", "upsample": "via_input"},
            }
        )
    raise KeyError(system)


def golden(conformance: Path, system: str, case: str) -> dict[str, NDArray[Any]]:
    """What the authors' own code made of an image."""
    with np.load(conformance / system / f"{case}.npz") as file:
        return {name: file[name] for name in file.files}

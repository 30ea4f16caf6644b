"""Bundles for tests: a manifest that is valid, and folders around it with files of the test's choice."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def manifest_data(**changes: Any) -> dict[str, Any]:
    """A valid manifest as JSON data; keywords replace top-level fields."""
    digest = {"sha256": "0" * 64, "bytes": 0}
    data: dict[str, Any] = {
        "format_version": 1,
        "layout_revision": 1,
        "name": "tiny",
        "version": "1.0",
        "family": "test",
        "title": "A bundle for tests",
        "licence": {"spdx": "Apache-2.0"},
        "source": {"exporter": "tests"},
        "input": {
            "size": [64, 64],
            "resize": "longest_side",
            "interpolation": "area",
            "normalise": {"kind": "min_max"},
            "pad": "bottom_right",
        },
        "embedding": [{"name": "embedding", "shape": [1, 8, 4, 4]}],
        "prompts": {"box": {}},
        "output": {"low_res_size": [16, 16]},
        "graphs": {"float": {"encoder": {"onnx": "encoder.onnx"}, "decoder": {"onnx": "decoder.onnx"}}},
        "files": {"encoder.onnx": digest, "decoder.onnx": digest},
    }
    return {**data, **changes}


def write_bundle(folder: Path, files: dict[str, bytes] | None = None, **changes: Any) -> Path:
    """Write a bundle with the given files, listed with their true digests; return its folder."""
    contents = {"encoder.onnx": b"an encoder", "decoder.onnx": b"a decoder"} if files is None else files
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    records = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        for name, content in contents.items()
    }
    data = manifest_data(**{"files": records, **changes})
    (folder / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    return folder

"""Copies of bundles: the files of a graph, a copy with the float graphs alone, a manifest for what a folder holds.

Knows bundles and manifests. Must not know what is inside a graph.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from runtime._digest import sha256_of
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.manifest import MANIFEST_NAME, FileRecord, GraphFiles, GraphSet, Manifest, write_manifest

__all__ = ["Graphs", "copy_float", "folder_bytes", "rewrite_manifest"]

Graphs = Mapping[Literal["float", "int8"], GraphSet]
"""Graphs of a bundle by precision."""


def copy_float(source: Bundle, folder: Path, leave: Collection[str] = ()) -> Manifest:
    """Copy a bundle with its float graphs as ONNX alone, which both engines read; every file is verified on the way.

    INT8 graphs and the files named in `leave` stay behind. BundleError where a graph is carried as OpenVINO IR only.
    """
    manifest = source.manifest
    graphs = manifest.graphs["float"].by_role
    lacking = [role for role, files in graphs.items() if files.onnx is None]
    if lacking:
        msg = (
            f"bundle {manifest.name!r} carries its {' and '.join(lacking)} as OpenVINO IR alone; wanted ONNX graphs: "
            "convert the checkpoint again with --format onnx or both"
        )
        raise BundleError(msg)
    every = [files for one in manifest.graphs.values() for files in one.by_role.values()]
    kept = set(manifest.files) - {name for files in every for name in _parts(files)} - set(leave)
    kept |= {str(files.onnx) for files in graphs.values()}
    for name in sorted(kept):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path(name), folder / name)
    plain = {role: GraphFiles(onnx=files.onnx) for role, files in graphs.items()}
    metrics = tuple(metric for metric in manifest.metrics if not metric.name.startswith("int8_"))
    float_set = GraphSet.from_roles(plain)
    return rewrite_manifest(folder, manifest, {"float": float_set}, metrics=metrics, int8_faster={}, int8_rest="fp32")


def _parts(files: GraphFiles) -> list[str]:
    names = [files.onnx, files.openvino, files.openvino and files.openvino.removesuffix(".xml") + ".bin"]
    return [name for name in names if name]


def rewrite_manifest(folder: Path, manifest: Manifest, graphs: Graphs, **changes: Any) -> Manifest:
    """Write a manifest with other graphs, changes, and the digests of what the folder holds now; return it."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME):
        files[path.relative_to(folder).as_posix()] = FileRecord(sha256=sha256_of(path), bytes=path.stat().st_size)
    new = msgspec.structs.replace(manifest, graphs=dict(graphs), files=files, **changes)
    write_manifest(new, folder)
    return new


def folder_bytes(folder: Path) -> int:
    """Size of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

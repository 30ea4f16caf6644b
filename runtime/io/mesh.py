"""Surfaces of objects: OBJ, STL and GLB, in RAS millimetres.

Knows marching cubes (scikit-image) and the three containers, which are a few lines each; knows no format of images.
A surface passes half way between the centres of the voxels inside and outside; it is closed, and its triangles are
counter-clockwise as seen from outside. STL and OBJ say ``SPACE=RAS``, which 3D Slicer reads; glTF has no word for it.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import OutputError
from runtime.geometry import Volume
from runtime.io._result import Result, Segment

__all__ = ["check_mesh", "write_mesh"]

_STL_HEADER = b"lite-infer. SPACE=RAS. Units: mm"  # must not start with "solid", which means text
_STL_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_GLB_MAGIC, _GLB_JSON, _GLB_BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT32, _UINT32, _POSITIONS, _INDICES = 5126, 5125, 34962, 34963
"""glTF's numbers for component types and buffer targets."""


class Surface(NamedTuple):
    """Vertices (V, 3) in RAS mm, float64, and triangles (T, 3) of indices into them."""

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int64]


def check_mesh(path: Path, reference: Volume, count: int) -> None:
    """Refuse an image of one slice, a missing scikit-image, and an STL of several objects."""
    if reference.is_2d:
        msg = f"{path}: an image of one slice has no surface; write .nii.gz or .png instead"
        raise OutputError(msg)
    if path.suffix.lower() == ".stl" and count > 1:
        msg = f"{path}: an STL holds one surface, there are {count} objects; add --separate, or write .obj or .glb"
        raise OutputError(msg)
    try:
        importlib.import_module("skimage.measure")
    except ImportError as error:
        msg = f"{path}: surfaces need scikit-image, which is not installed; install lite-infer[mesh]"
        raise OutputError(msg) from error


def write_mesh(stream: BinaryIO, path: Path, result: Result) -> None:
    """Write the surface of every object.

    Parameters
    ----------
    stream : binary file
        Where the bytes go.
    path : Path
        The name that they will have: ``.obj`` and ``.glb`` hold several named objects, ``.stl`` one.
    result : Result
        What to write. An image without a place in the world has its first voxel at the origin.

    Raises
    ------
    OutputError
        If an STL is asked for and there are several objects.
    """
    check_mesh(path, result.reference, len(result.segments))
    surfaces = ((one, _surface(one, result.reference)) for one in result.segments)
    suffix = path.suffix.lower()
    if suffix == ".stl":
        _write_stl(stream, [surface for _, surface in surfaces])
    elif suffix == ".obj":
        _write_obj(stream, surfaces)
    else:
        _write_glb(stream, [(one, surface) for one, surface in surfaces if len(surface.triangles)])


def _surface(one: Segment, reference: Volume) -> Surface:
    if one.is_empty:
        return Surface(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int64))
    marching_cubes: Any = importlib.import_module("skimage.measure").marching_cubes
    padded = np.pad(one.crop, 1).astype(np.float32)
    corners, triangles, *_ = marching_cubes(padded, 0.5, allow_degenerate=False)
    affine = np.diag([*reference.spacing, 1.0]) if reference.affine is None else reference.affine
    points_ijk = corners.astype(np.float64) - 1 + one.corner
    vertices = points_ijk @ affine[:3, :3].T + affine[:3, 3]
    # marching_cubes has its triangles face inwards in voxels; a left-handed affine turns them over by itself.
    if np.linalg.det(affine[:3, :3]) > 0:
        triangles = triangles[:, ::-1]
    return Surface(vertices, triangles.astype(np.int64))


def _write_stl(stream: BinaryIO, surfaces: list[Surface]) -> None:
    stream.write(_STL_HEADER.ljust(80))
    stream.write(struct.pack("<I", sum(len(surface.triangles) for surface in surfaces)))
    for surface in surfaces:
        corners = surface.vertices[surface.triangles]  # (T, 3, 3)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        records = np.zeros(len(corners), dtype=_STL_TRIANGLE)
        records["normal"] = np.divide(normals, lengths, out=np.zeros_like(normals), where=lengths > 0)
        records["corners"] = corners
        stream.write(records.tobytes())


def _write_obj(stream: BinaryIO, surfaces: Iterator[tuple[Segment, Surface]]) -> None:
    stream.write(b"# lite-infer\n# SPACE=RAS\n# Units: mm\n")
    before = 1  # OBJ counts vertices from 1, through all objects
    for one, surface in surfaces:
        stream.write(f"o {' '.join(one.name.split())}\n".encode())
        np.savetxt(stream, surface.vertices, "v %.5f %.5f %.5f")
        np.savetxt(stream, surface.triangles + before, "f %d %d %d")
        before += len(surface.vertices)


def _write_glb(stream: BinaryIO, surfaces: list[tuple[Segment, Surface]]) -> None:
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "lite-infer", "extras": {"space": "RAS", "units": "mm"}},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(surfaces)))}] if surfaces else [{}],
    }
    parts: list[bytes] = []
    if surfaces:
        document |= {name: [] for name in ("nodes", "meshes", "materials", "accessors", "bufferViews")}
    for index, (one, surface) in enumerate(surfaces):
        positions, indices = surface.vertices.astype("<f4"), surface.triangles.astype("<u4")
        for data, target in ((positions, _POSITIONS), (indices, _INDICES)):
            view = {"buffer": 0, "byteOffset": sum(map(len, parts)), "byteLength": data.nbytes, "target": target}
            document["bufferViews"].append(view)
            parts.append(data.tobytes())  # whole words, so that the next part is aligned
        document["accessors"] += [
            {
                "bufferView": 2 * index,
                "componentType": _FLOAT32,
                "count": len(positions),
                "type": "VEC3",
                "min": positions.min(axis=0).tolist(),
                "max": positions.max(axis=0).tolist(),
            },
            {"bufferView": 2 * index + 1, "componentType": _UINT32, "count": indices.size, "type": "SCALAR"},
        ]
        primitive = {"attributes": {"POSITION": 2 * index}, "indices": 2 * index + 1, "material": index}
        document["nodes"].append({"name": one.name, "mesh": index})
        document["meshes"].append({"name": one.name, "primitives": [primitive]})
        document["materials"].append({"name": one.name, "pbrMetallicRoughness": _material(one.colour)})
    if parts:
        document["buffers"] = [{"byteLength": sum(map(len, parts))}]
    header = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 4)
    size = 12 + 8 + len(header) + (8 + sum(map(len, parts)) if parts else 0)
    stream.write(struct.pack("<3I", _GLB_MAGIC, 2, size) + struct.pack("<2I", len(header), _GLB_JSON) + header)
    if parts:
        stream.write(struct.pack("<2I", sum(map(len, parts)), _GLB_BINARY))
        for part in parts:
            stream.write(part)


def _material(colour: tuple[int, int, int]) -> dict[str, Any]:
    """A matt colour; glTF wants light, not sRGB's encoding of it."""
    linear = [(c / 12.92) if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return {"baseColorFactor": [*(round(c, 6) for c in linear), 1.0], "metallicFactor": 0.0, "roughnessFactor": 1.0}

"""Where voxels lie: volumes, affines, anatomical axes and the view that the encoder is shown.

Knows arrays and affines; knows no file format, no prompt object and no model. World coordinates are
millimetres in RAS (+x towards the patient's right, +y anterior, +z superior).
An affine maps homogeneous voxel indices ``(i, j, k, 1)`` of voxel centres to world
coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.types import Box

__all__ = [
    "PLANES",
    "PlaneView",
    "Volume",
    "axis_codes",
    "check_slice_axis",
    "orientation",
    "plane_view",
    "spans_space",
    "world_to_voxel",
]

PLANES = ("sagittal", "coronal", "axial")
"""Anatomical planes, indexed by the world axis (0 = R/L, 1 = A/P, 2 = S/I) that the slices are stacked along."""

_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))


def _checked_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        msg = f"affine of shape {matrix.shape}: wanted (4, 4)"
        raise ImageError(msg)
    if not np.isfinite(matrix).all():
        msg = "affine has NaN or infinite entries: repair the header of the image"
        raise ImageError(msg)
    if not spans_space(matrix):
        with np.errstate(over="ignore"):
            sizes = np.linalg.norm(matrix[:3, :3], axis=0).round(6).tolist()
        msg = f"affine is singular (voxel sizes {sizes} mm): repair the header of the image"
        raise ImageError(msg)
    return matrix


def spans_space(matrix: NDArray[np.float64]) -> bool:
    """Whether the voxel axes of an affine, each scaled to length 1, span a volume and not a plane or a line.

    Parameters
    ----------
    matrix : ndarray of float64, shape (4, 4)
        Voxel index -> RAS mm; may be anything but NaN and infinite.
    """
    with np.errstate(all="ignore"):
        zooms = np.linalg.norm(matrix[:3, :3], axis=0)
        i, j, k = (matrix[:3, :3] / zooms).T
        # Not np.linalg.det, which divides by a pivot: of 1e-310 it makes infinity, and may call a plane a volume.
        return bool((zooms > 0).all() and abs(np.cross(i, j) @ k) >= 1e-6)


def orientation(affine: NDArray[np.float64]) -> tuple[tuple[int, int], ...]:
    """Nearest world axis and direction of each voxel axis.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel index -> RAS mm.

    Returns
    -------
    axes : tuple of 3 (world_axis, sign)
        For each voxel axis the world axis (0, 1 or 2) that it runs along most closely, each used once, and
        +1 where the index grows towards R, A or S, -1 towards L, P or I.

    Raises
    ------
    ImageError
        If the affine is not a finite, invertible (4, 4) matrix.

    Examples
    --------
    >>> orientation(np.diag([-0.8, 0.8, 5.0, 1.0]))
    ((0, -1), (1, 1), (2, 1))
    """
    matrix = _checked_affine(affine)[:3, :3]
    # The nearest rotation (polar decomposition) takes shears out before axes are compared.
    left, _, right = np.linalg.svd(matrix / np.linalg.norm(matrix, axis=0))
    cosines = left @ right
    best = max(permutations(range(3)), key=lambda axes: sum(abs(cosines[axes[a], a]) for a in range(3)))
    return tuple((world, 1 if cosines[world, axis] > 0 else -1) for axis, world in enumerate(best))


def axis_codes(affine: NDArray[np.float64]) -> str:
    """Three letters such as ``RAS``: the direction that each voxel axis grows towards.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel index -> RAS mm.

    Returns
    -------
    codes : str
        One letter out of L/R, P/A, I/S per voxel axis.

    Raises
    ------
    ImageError
        If the affine is not a finite, invertible (4, 4) matrix.

    Examples
    --------
    >>> axis_codes(np.diag([-0.8, 0.8, 5.0, 1.0]))
    'LAS'
    """
    return "".join(_LETTERS[world][sign > 0] for world, sign in orientation(affine))


def world_to_voxel(affine: NDArray[np.float64], points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map world coordinates to voxel indices.

    Parameters
    ----------
    affine : ndarray of float64, shape (4, 4)
        Voxel index -> RAS mm.
    points_mm : ndarray of float64, shape (P, 3)
        RAS millimetres; P points.

    Returns
    -------
    points_ijk : ndarray of float64, shape (P, 3)
        Voxel indices, not rounded; integers are voxel centres.

    Raises
    ------
    ImageError
        If the affine is not a finite, invertible (4, 4) matrix.
    """
    matrix = _checked_affine(affine)
    points = np.atleast_2d(np.asarray(points_mm, dtype=np.float64))
    points_ijk: NDArray[np.float64] = np.linalg.solve(matrix[:3, :3], (points - matrix[:3, 3]).T).T
    return points_ijk


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image with its place in the world.

    Attributes
    ----------
    array : ndarray, shape (I, J, K) or (I, J, K, 3)
        Intensities in file order, i = column, j = row, k = slice; a 2-D image has K = 1. Colour images
        have a last axis of red, green, blue. Not copied.
    affine : ndarray of float64, shape (4, 4), or None
        Voxel index -> RAS mm; None where the file has none (PNG, NPZ).
    spacing : tuple of 3 float
        Millimetres between voxel centres along i, j and k. Default: from the affine; 1.0 where unknown.
    is_2d : bool
        Whether the file held one image rather than a volume; results are then two-dimensional.
    modality : str or None
        DICOM modality (``CT``, ``MR``, ...) where the file says it.
    window : tuple of 2 float or None
        (level, width) that the file itself proposes.
    prompts : tuple of Box
        Boxes that came with the image (the challenge's NPZ).
    notes : tuple of str
        What was guessed of it (an orientation, a spacing), and what was wrong with the file and how it was read
        all the same (`load` with ``force``); `load` logs them as warnings.
    source : object
        What the format's writer needs to write a result beside this image. Opaque.

    Raises
    ------
    ImageError
        If the array has no voxels or a shape or dtype that is not an image, or the affine is unusable.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64] | None = None
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    is_2d: bool = False
    modality: str | None = None
    window: tuple[float, float] | None = None
    prompts: tuple[Box, ...] = ()
    notes: tuple[str, ...] = ()
    source: object = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = self.array.shape
        if self.array.ndim not in (3, 4) or (self.array.ndim == 4 and shape[3] != 3):
            msg = f"array of shape {shape}: wanted (I, J, K) or, in colour, (I, J, K, 3)"
            raise ImageError(msg)
        if min(shape) < 1:
            msg = f"array of shape {shape} holds no voxels"
            raise ImageError(msg)
        if self.array.dtype.kind not in "uif" or self.array.dtype.itemsize > 8:
            msg = f"array of dtype {self.array.dtype}: wanted integers or floating-point numbers"
            raise ImageError(msg)
        if self.affine is not None:
            affine = _checked_affine(self.affine)
            object.__setattr__(self, "affine", affine)
            if self.spacing == (1.0, 1.0, 1.0):
                i, j, k = (float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
                object.__setattr__(self, "spacing", (i, j, k))
        if self.is_2d and shape[2] != 1:
            msg = f"a 2-D image has one slice, not {shape[2]}"
            raise ImageError(msg)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along i, j and k."""
        i, j, k = self.array.shape[:3]
        return (i, j, k)

    @property
    def voxel_ml(self) -> float:
        """Size of a voxel in millilitres."""
        if self.affine is not None:
            return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0
        return float(np.prod(self.spacing)) / 1000.0

    def slice_axis_of(self, plane: str) -> int:
        """Voxel axis that the slices of an anatomical plane are stacked along.

        Parameters
        ----------
        plane : {"axial", "coronal", "sagittal"}
            The plane; for an oblique volume the nearest one.

        Returns
        -------
        slice_axis : int
            0, 1 or 2.

        Raises
        ------
        ImageError
            If the plane is unknown or the volume has no affine to tell planes by.
        """
        if plane not in PLANES:
            msg = f"plane {plane!r}: wanted one of {', '.join(PLANES)}"
            raise ImageError(msg)
        if self.affine is None:
            msg = f"this image has no affine, so its {plane} plane is unknown; give slice_axis 0, 1 or 2 instead"
            raise ImageError(msg)
        worlds = [world for world, _ in orientation(self.affine)]
        return worlds.index(PLANES.index(plane))


@dataclass(frozen=True, slots=True)
class PlaneView:
    """How the slices along one voxel axis are turned into the images that the encoder sees.

    Only transposes and flips, so that every voxel keeps its value. With an affine the view is the
    radiological one (columns towards the patient's left, or posterior in sagittal slices; rows towards
    posterior, or inferior); without one, rows and columns are taken as they are.

    Attributes
    ----------
    slice_axis : int
        Voxel axis that the slices are stacked along.
    swap : bool
        False: columns run along the lower of the two other axes, rows along the higher. True: exchanged.
    flip_columns, flip_rows, flip_slices : bool
        Whether columns, rows and the order of the slices run against the voxel axis.
    shape : tuple of 3 int
        Rows, columns and slices.
    """

    slice_axis: int
    swap: bool
    flip_columns: bool
    flip_rows: bool
    flip_slices: bool
    shape: tuple[int, int, int]

    def image(self, array: NDArray[Any], position: int) -> NDArray[Any]:
        """Slice at a position of the view.

        Parameters
        ----------
        array : ndarray, shape (I, J, K) or (I, J, K, 3)
            The volume in file order.
        position : int
            Slice counted in the order of the view.

        Returns
        -------
        image : ndarray, shape (rows, columns) or (rows, columns, 3)
            A view into ``array``, not a copy.
        """
        plane: NDArray[Any] = np.moveaxis(array, self.slice_axis, 0)[self.slice_index(position)]
        image = plane if self.swap else plane.swapaxes(0, 1)  # (u, v) -> (v, u) = (row, column)
        return image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def to_file(self, image: NDArray[Any]) -> NDArray[Any]:
        """Turn an image of the view back into file order.

        Parameters
        ----------
        image : ndarray, shape (rows, columns)
            An image or mask in the view.

        Returns
        -------
        plane : ndarray, shape (U, V)
            The same values along the two remaining voxel axes in ascending order; a view.
        """
        turned = image[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]
        return turned if self.swap else turned.swapaxes(0, 1)  # (row, column) -> (u, v)

    def slice_index(self, position: int) -> int:
        """File index of the slice at a position of the view (its own inverse)."""
        return self.shape[2] - 1 - position if self.flip_slices else position

    def point_to_view(self, point_uv: tuple[float, float]) -> tuple[float, float]:
        """Map a point on a slice from file axes (u, v) to the view's (x, y) = (column, row)."""
        x, y = point_uv[::-1] if self.swap else point_uv
        rows, columns, _ = self.shape
        return (columns - 1 - x if self.flip_columns else x, rows - 1 - y if self.flip_rows else y)

    def box_to_view(self, box_uv: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """Map an inclusive box from file axes (u0, v0, u1, v1) to the view's xyxy."""
        (xa, ya), (xb, yb) = self.point_to_view(box_uv[:2]), self.point_to_view(box_uv[2:])
        return (min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb))

    def corner_in_file(self, box: tuple[float, float, float, float]) -> tuple[int, int]:
        """Lowest (u, v) in file axes of an inclusive box of the view; the inverse of `box_to_view`."""
        x0, y0, x1, y1 = (int(value) for value in box)
        rows, columns, _ = self.shape
        x = columns - 1 - x1 if self.flip_columns else x0
        y = rows - 1 - y1 if self.flip_rows else y0
        return (y, x) if self.swap else (x, y)


def check_slice_axis(slice_axis: int) -> None:
    """Refuse a slice axis other than 0, 1 and 2 with an ImageError."""
    if slice_axis not in (0, 1, 2):
        msg = f"slice_axis {slice_axis!r}: wanted 0, 1 or 2"
        raise ImageError(msg)


def plane_view(volume: Volume, slice_axis: int) -> PlaneView:
    """View of a volume's slices along one voxel axis.

    Parameters
    ----------
    volume : Volume
        The volume; its affine, if any, decides how slices are turned.
    slice_axis : int
        0, 1 or 2.

    Returns
    -------
    view : PlaneView
        The canonical view: the same anatomy gives the same images in the same order however the file
        was stored.

    Raises
    ------
    ImageError
        If ``slice_axis`` is not 0, 1 or 2.
    """
    check_slice_axis(slice_axis)
    u, v = (axis for axis in range(3) if axis != slice_axis)
    sizes = volume.shape
    if volume.affine is None:
        return PlaneView(slice_axis, False, False, False, False, (sizes[v], sizes[u], sizes[slice_axis]))
    axes = orientation(volume.affine)
    swap = axes[u][0] > axes[v][0]
    column, row = (v, u) if swap else (u, v)
    return PlaneView(
        slice_axis,
        swap,
        flip_columns=axes[column][1] > 0,
        flip_rows=axes[row][1] > 0,
        flip_slices=axes[slice_axis][1] < 0,
        shape=(sizes[row], sizes[column], sizes[slice_axis]),
    )

"""What `Session.segment` returns: label map, per-object masks, scores and how they came about.

Knows arrays, volumes and the writers in `runtime.io`; knows no session and no backend.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime._course import Xyxy
from runtime._inputs import BARE_ARRAY
from runtime.errors import PromptError
from runtime.geometry import Volume, plane_view
from runtime.intensity import Window
from runtime.prompts import group_prompts
from runtime.types import Box, Point, SliceResult, whole

if TYPE_CHECKING:
    from runtime.io._result import Result

__all__ = ["OVERLAP_POLICIES", "ObjectResult", "Segmentation", "as_given", "build_label_map", "check_overlap"]

OVERLAP_POLICIES = ("last", "first")

_MANY_PAGES_BYTES = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class ObjectResult:
    """One segmented object.

    Attributes
    ----------
    name : str
        As given, or ``object N``.
    label : int
        Its value in the label map, from 1.
    score : float
        Mean predicted IoU over its slices; NaN where the system has no IoU head or nothing was found.
    slices : tuple of SliceResult
        Every slice that was decoded, ascending, with its score and, where propagation stopped, why.
    corner : tuple of 3 int
        Voxel indices of the first voxel of ``crop``.
    crop : ndarray of bool, shape (I', J', K')
        The mask inside its bounding box; empty arrays for an empty mask.
    shape : tuple of 3 int
        Shape of the volume.
    """

    name: str
    label: int
    score: float
    slices: tuple[SliceResult, ...]
    corner: tuple[int, int, int]
    crop: NDArray[np.bool_] = field(repr=False)
    shape: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        """Voxels of the mask, before overlaps were decided."""
        return int(np.count_nonzero(self.crop))

    @property
    def region(self) -> tuple[slice, slice, slice]:
        """Half-open slices of the bounding box in the volume."""
        i, j, k = (slice(low, low + size) for low, size in zip(self.corner, self.crop.shape, strict=True))
        return (i, j, k)

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The whole mask, shape (I, J, K), file order; a new array on every access."""
        mask = np.zeros(self.shape, dtype=np.bool_)
        mask[self.region] = self.crop
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The result of `Session.segment`.

    Attributes
    ----------
    label_map : ndarray of unsigned integers
        0 is background, 1..n the objects, in the smallest dtype that holds n. Shape (I, J, K) in file order
        for a volume; (I, J), columns first, for a `Volume` that is a 2-D image; (H, W), rows first, for a bare
        2-D array.
    objects : tuple of ObjectResult
        One per object, in the order of labels; masks before overlaps were decided.
    scores : ndarray of float32, shape (n,)
        Mean predicted IoU per object; NaN without an IoU head.
    timings : dict of str to float
        Milliseconds by stage (``window_ms``, ``encode_ms``, ``decode_ms``, ``total_ms``) and counts
        (``slices_encoded``, ``slices_cached``, ``prompts_decoded``).
    window : Window or None
        Intensity window used; None where uint8 pixels were taken as they are.
    slice_axis : int
        Voxel axis that slices were stacked along.
    backend, precision : str
        What ran the graphs, and how.
    bundle : str
        Name and version of the bundle.
    prompts : tuple of Box or Point
        What was asked for.
    volume : Volume
        The image that was segmented.
    """

    label_map: NDArray[np.unsignedinteger]
    objects: tuple[ObjectResult, ...]
    scores: NDArray[np.float32]
    timings: dict[str, float]
    window: Window | None
    slice_axis: int
    backend: str
    precision: str
    bundle: str
    prompts: tuple[Box | Point, ...]
    volume: Volume = field(repr=False)

    @property
    def names(self) -> dict[int, str]:
        """Object name by label."""
        return {one.label: one.name for one in self.objects}

    @property
    def label_volume(self) -> NDArray[np.unsignedinteger]:
        """The label map in the shape of the volume, (I, J, K), also for 2-D images; a view."""
        return _volume_shaped(self.label_map, self.volume)

    def save(self, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
        """Write the result in the format that the file name asks for.

        DICOM segmentations, structure sets, ``.seg.nrrd``, surfaces and statistics describe every object by its own
        mask, so that objects may overlap there; the other formats hold the label map.

        Parameters
        ----------
        path : path-like
            ``.nii``, ``.nii.gz``, ``.npz``, ``.png`` (2-D), ``.seg.dcm`` or ``.dcm`` (DICOM segmentation),
            ``.rtstruct.dcm``, ``.seg.nrrd``, ``.obj``, ``.stl``, ``.glb``, ``.json`` or ``.csv`` (statistics).
        format : str, optional
            Name of a format, for endings that several share: ``"dicom_rtstruct"`` for a ``.dcm``.

        Returns
        -------
        path : Path
            What was written. The file appears under its name when it is complete, not before.

        Raises
        ------
        OutputError
            If the format is unknown or does not fit the image, a package that writes it is missing, the folder
            cannot be written, the disk is full, or the path is the input's own.
        """
        from runtime.io._saving import write_results

        return write_results(Path(path), self._result(), format=format)[0]

    def save_objects(self, path: str | os.PathLike[str], *, format: str | None = None) -> tuple[Path, ...]:
        """Write every object to a file of its own, as label 1 and with its whole mask.

        Parameters
        ----------
        path : path-like
            ``NAME.ext``, as `save` takes it, stands for ``NAME_LABEL_OBJECT.ext`` of every object.
        format : str, optional
            As `save` takes it.

        Returns
        -------
        paths : tuple of Path
            What was written, in the order of labels. The files appear together once all of them are complete.

        Raises
        ------
        OutputError
            As `save`; nothing has been written then.
        """
        from runtime.io._saving import write_results

        return write_results(Path(path), self._result(), format=format, separate=True)

    def _result(self) -> Result:
        from runtime.io._result import Result, Segment

        segments = tuple(Segment(one.label, one.name, one.corner, one.crop) for one in self.objects)
        return Result(self.label_volume, self.volume, self.names, segments, self.bundle)

    def save_preview(self, path: str | os.PathLike[str], *, slice_index: int | None = None) -> Path:
        """Write a PNG of one slice with the outlines of the masks and the boxes on it.

        Parameters
        ----------
        path : path-like
            A ``.png`` file.
        slice_index : int, optional
            Which slice. Default: the slice of the first box, or else the one with most labelled voxels.

        Returns
        -------
        path : Path
            What was written.

        Raises
        ------
        OutputError
            If the file cannot be written or is the input's own.
        PromptError
            If there is no such slice.
        """
        from runtime.io.raster import write_overlay

        view = plane_view(self.volume, self.slice_axis)
        index = self._preview_slice() if slice_index is None else whole(slice_index, "slice_index")
        last = self.volume.shape[self.slice_axis] - 1
        if not 0 <= index <= last:
            msg = f"slice {index} lies outside the image, which has slices 0 to {last}"
            raise PromptError(msg)
        position = view.slice_index(index)
        image = view.image(self.volume.array, position)
        shown = view.image(self.label_volume, position)
        u, v = (axis for axis in range(3) if axis != self.slice_axis)
        row, column = (u, v) if view.swap else (v, u)
        write_overlay(
            Path(path),
            image if self.window is None else self.window.apply(image),
            [shown == one.label for one in self.objects],
            boxes=[None if flat is None else view.box_to_view(flat) for flat in self._flat_boxes(index, (u, v))],
            pixel_size=(self.volume.spacing[row], self.volume.spacing[column]),
            reference=self.volume,
        )
        return Path(path)

    def _flat_boxes(self, index: int, axes: tuple[int, int]) -> list[Xyxy | None]:
        """Box of each object on a slice, along the two other voxel axes; None where it has none there."""
        middle = self.volume.shape[self.slice_axis] // 2
        found: list[Xyxy | None] = []
        for group in group_prompts(self.prompts) if self.prompts else ():
            flat: Xyxy | None = None
            for box in group.boxes:
                low, high = box.xyxy[: len(box.xyxy) // 2], box.xyxy[len(box.xyxy) // 2 :]
                if box.is_3d and low[self.slice_axis] - 0.5 <= index <= high[self.slice_axis] + 0.5:
                    flat = (low[axes[0]], low[axes[1]], high[axes[0]], high[axes[1]])
                elif not box.is_3d and (middle if box.slice_index is None else box.slice_index) == index:
                    flat = (low[0], low[1], high[0], high[1])
            found.append(flat)
        return found

    def _preview_slice(self) -> int:
        for box in (prompt for prompt in self.prompts if isinstance(prompt, Box)):
            if box.is_3d:
                return round((box.xyxy[self.slice_axis] + box.xyxy[3 + self.slice_axis]) / 2)
            return self.volume.shape[self.slice_axis] // 2 if box.slice_index is None else box.slice_index
        planes = np.moveaxis(self.label_volume, self.slice_axis, 0)
        return int(np.argmax([np.count_nonzero(plane) for plane in planes]))


def _volume_shaped(label_map: NDArray[np.unsignedinteger], volume: Volume) -> NDArray[np.unsignedinteger]:
    """Give a 2-D label map back its slice axis; (I, J) or, of a bare array, (H, W) -> (I, J, 1)."""
    if label_map.ndim == 3:
        return label_map
    plane = label_map.T if volume.source is BARE_ARRAY else label_map
    return plane[:, :, np.newaxis]


def as_given(label_volume: NDArray[np.unsignedinteger], volume: Volume) -> NDArray[np.unsignedinteger]:
    """Label map as a caller gets it, the inverse of `_volume_shaped`: (I, J, 1) of an image loses its slice axis."""
    if not volume.is_2d:
        return label_volume
    plane = label_volume[:, :, 0]
    return plane.T if volume.source is BARE_ARRAY else plane


def check_overlap(overlap: str) -> None:
    """Refuse an unknown overlap policy with a PromptError."""
    if overlap not in OVERLAP_POLICIES:
        msg = f"overlap {overlap!r}: wanted one of {', '.join(OVERLAP_POLICIES)}"
        raise PromptError(msg)


def build_label_map(
    objects: Sequence[ObjectResult], shape: tuple[int, int, int], overlap: str
) -> NDArray[np.unsignedinteger]:
    """Merge masks into a label map.

    Parameters
    ----------
    objects : sequence of ObjectResult
        With distinct labels.
    shape : tuple of 3 int
        Shape of the volume.
    overlap : {"last", "first"}
        Which object keeps a voxel that several claim: the one with the highest or the lowest label.

    Returns
    -------
    label_map : ndarray of unsigned integers, shape (I, J, K)
        In the smallest unsigned dtype that holds all labels; i runs fastest in memory, as files want it.

    Raises
    ------
    PromptError
        If the policy is unknown.
    """
    check_overlap(overlap)
    dtype = np.min_scalar_type(max((one.label for one in objects), default=0))
    label_map = _background(shape, dtype)
    ordered = sorted(objects, key=lambda one: one.label, reverse=overlap == "first")
    for one in ordered:
        np.copyto(label_map[one.region], one.label, where=one.crop, casting="unsafe")
    return label_map


def _background(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros in which i runs fastest.

    On Linux large ones come as pages from the system, which cost nothing until they are touched; the C library would
    hand out what was used before, and clear it.
    """
    import mmap

    size = math.prod(shape) * dtype.itemsize
    if size < _MANY_PAGES_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(shape, dtype=dtype, order="F")
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=dtype).reshape(shape, order="F")

"""What a file, folder or archive holds, told without naming anyone: for ``lite-infer info`` and for pickers in GUIs.

Knows `load` and the series of DICOM; must not know prompts or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.geometry import Volume, axis_codes
from runtime.io import kind_of, load
from runtime.io._reading import SeveralVolumes
from runtime.io.dicom import SeriesSummary, list_series

__all__ = ["ImageSummary", "SeriesSummary", "describe"]


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """An image, or the DICOM series of a folder, an archive or a file.

    Attributes
    ----------
    format : str
        ``dicom``, ``nifti``, ``nrrd``, ``metaimage``, ``mgh``, ``npz`` or ``raster`` (PNG, JPEG ...).
    series : tuple of SeriesSummary
        Of DICOM; empty for other formats, whose image the fields below describe.
    shape : tuple of 3 int, or None
        Voxels along i, j and k.
    volumes : int
        Time points or other volumes, of which ``volume`` chooses one.
    colour : bool
        Whether voxels hold red, green and blue.
    dtype : str
        Of the voxels as they are loaded.
    spacing : tuple of 3 float
        Millimetres; 1.0 where unknown.
    orientation : str or None
        Three letters such as ``RAS``; None where the file does not say.
    value_range : tuple of 2 float, or None
        Lowest and highest finite value of the (first) volume.
    boxes : int
        Prompts that the file brings.
    findings : tuple of str
        What had to be guessed.
    """

    format: str
    series: tuple[SeriesSummary, ...] = ()
    shape: tuple[int, int, int] | None = None
    volumes: int = 1
    colour: bool = False
    dtype: str = ""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    orientation: str | None = None
    value_range: tuple[float, float] | None = None
    boxes: int = 0
    findings: tuple[str, ...] = ()


def describe(path: Path) -> ImageSummary:
    """Say what a path holds.

    Of DICOM the headers alone are read. Any other image is loaded, so that what is described is known to be whole.

    Parameters
    ----------
    path : Path
        What `load` takes.

    Returns
    -------
    summary : ImageSummary
        Nothing in it names a person, except that UIDs can be looked up in the archive that they came from.

    Raises
    ------
    ImageError
        If it holds no image that can be read.
    """
    kind = kind_of(path)
    if kind in ("dicom", "zip"):
        return ImageSummary("dicom", list_series(path))
    volumes = 1
    try:
        volume = load(path)
    except SeveralVolumes as several:
        volumes = several.count
        volume = load(path, volume=0)
    return ImageSummary(
        kind,
        shape=volume.shape,
        volumes=volumes,
        colour=volume.array.ndim == 4,
        dtype=str(volume.array.dtype),
        spacing=volume.spacing,
        orientation=None if volume.affine is None else axis_codes(volume.affine),
        value_range=_range(volume),
        boxes=len(volume.prompts),
        findings=volume.notes,
    )


def _range(volume: Volume) -> tuple[float, float] | None:
    """Lowest and highest finite value, slice by slice."""
    ends = []
    for k in range(volume.shape[2]):
        plane = volume.array[:, :, k]
        kept = plane[np.isfinite(plane)] if plane.dtype.kind == "f" else plane
        if kept.size:
            ends += [float(kept.min()), float(kept.max())]
    return (min(ends), max(ends)) if ends else None

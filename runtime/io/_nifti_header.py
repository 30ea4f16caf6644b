"""What a NIfTI header says, and the header of a label map that lies on the same grid.

Knows nibabel's header classes; touches no voxel and no file.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import spans_space
from runtime.io._kinds import NIFTI_MAGICS
from runtime.io._palette import object_colour
from runtime.io._source import NiftiSource

__all__ = ["HEADER_BYTES", "anonymous_block", "grid_affine", "label_header", "label_table", "parse_header"]

HEADER_BYTES = 540
"""Bytes from the start of a file in which either kind of header lies."""

_FREE_TEXT = ("descrip", "aux_file", "db_name", "intent_name", "data_type")
_MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Spatial part of ``xyzt_units`` -> millimetres; a header that says nothing means millimetres."""

_ABSURD = 1e100
"""Entries of an affine beyond this are damage; their squares would overflow."""

_LARGEST_NIFTI1 = 32767
_INTENT_LABEL = 1002


def parse_header(block: bytes) -> Any | None:
    """Header object of the first bytes of a file, or None where they are no NIfTI header.

    The fields are not judged here, except that pixdim is made to obey the standard (positive zooms, qfac 1
    or -1), as every reader does.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for kind, (size, magics, start) in zip((Nifti1Header, Nifti2Header), NIFTI_MAGICS, strict=True):
        if len(block) < size or block[start : start + 4] not in magics:
            continue
        for order, sign in (("little", "<"), ("big", ">")):
            if int.from_bytes(block[:4], order) == size:  # type: ignore[arg-type]
                header = kind(block[:size], endianness=sign, check=False)
                zooms = header["pixdim"]
                if zooms[0] not in (-1, 1):
                    zooms[0] = 1
                zooms[1:] = np.abs(zooms[1:])
                return header
    return None


def anonymous_block(header: Any) -> bytes:
    """Header in native byte order without its free text (which scanners and PACS fill with names)."""
    clean = header.as_byteswapped(_native())
    for name in _FREE_TEXT:
        if name in clean:
            clean[name] = b""
    return bytes(clean.binaryblock)


def _native() -> str:
    return "<" if sys.byteorder == "little" else ">"


def grid_affine(header: Any, shape: tuple[int, int, int], notes: list[str] | None = None) -> NDArray[np.float64]:
    """Voxel index -> RAS mm: the sform, else the qform, else pixdim alone, as nibabel chooses.

    Unlike nibabel, an sform that is singular or not finite gives way to a qform that is sound, and units
    other than millimetres are converted (as ITK does). What is doubtful is added to ``notes``.
    """
    doubts: list[str] = []
    sform, qform = _usable_forms(header)
    if header["sform_code"] != 0 and sform is not None:
        affine = sform
    elif header["qform_code"] != 0 and qform is not None:
        affine = qform
        if header["sform_code"] != 0:
            doubts.append("the sform is singular; the qform is used instead")
    elif header["sform_code"] != 0 or header["qform_code"] != 0:
        msg = "its sform and qform are singular or not finite; repair the header"
        raise ImageError(msg)
    else:
        with np.errstate(all="ignore"):  # a signalling NaN among the voxel sizes is refused below
            affine = np.array(header.get_base_affine(), dtype=np.float64)
        if not _invertible(affine):
            msg = f"its voxel sizes {header['pixdim'][1:4].tolist()} are not positive numbers; repair the header"
            raise ImageError(msg)
        doubts.append("the header has no orientation (both codes are 0); left and right are a guess")
    if notes is not None:
        notes += [*doubts, *_doubts(affine, sform, qform, shape)]
    scaled: NDArray[np.float64] = affine.copy()
    scaled[:3] *= _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    return scaled


def _usable_forms(header: Any) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """(sform, qform), None where the code is 0 or the matrix cannot be inverted."""
    forms: list[NDArray[np.float64] | None] = []
    for name in ("sform", "qform"):
        if header[f"{name}_code"] == 0:
            forms.append(None)
            continue
        try:
            with np.errstate(all="ignore"):  # what is not finite is found below
                matrix = np.array(getattr(header, f"get_{name}")(), dtype=np.float64)
        except (ValueError, ArithmeticError):  # a quaternion longer than 1
            forms.append(None)
            continue
        flat = int(header["dim"][0]) == 2 or int(header["dim"][3]) == 1
        if flat and np.isfinite(matrix).all() and not matrix[:3, 2].any():
            matrix[:3, 2] = _normal(matrix)
        forms.append(matrix if _invertible(matrix) else None)
    return forms[0], forms[1]


def _normal(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vector across a single slice, whose third axis headers often leave at zero."""
    normal = np.cross(matrix[:3, 0], matrix[:3, 1])
    length = float(np.linalg.norm(normal))
    return np.asarray(normal / length if length > 0 else normal, dtype=np.float64)


def _invertible(matrix: NDArray[np.float64]) -> bool:
    return bool((np.abs(matrix) < _ABSURD).all()) and spans_space(matrix)  # NaN is not below _ABSURD either


def _doubts(
    affine: NDArray[np.float64],
    sform: NDArray[np.float64] | None,
    qform: NDArray[np.float64] | None,
    shape: tuple[int, int, int],
) -> Iterator[str]:
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    if sform is not None and qform is not None:
        corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        corners[:, :3] *= np.array(shape) - 1
        apart = float(np.abs(corners @ (sform - qform).T).max())
        if apart > 0.1 * float(zooms.min()):
            yield f"sform and qform disagree by up to {apart:.3g}; the sform is used"
    if (zooms > 0).all():
        cosines = (affine[:3, :3] / zooms).T @ (affine[:3, :3] / zooms)
        tilt = math.degrees(math.asin(min(1.0, float(np.abs(cosines - np.eye(3)).max()))))
        if tilt > 0.5:
            yield f"the voxel axes are not perpendicular (by {tilt:.1f} degrees); they are used as they are"


def label_header(
    source: object,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    affine: NDArray[np.float64] | None,
    spacing: tuple[float, float, float],
) -> Any:
    """Header of a label map that every reader places exactly as it places the image.

    A NIfTI image lends its qform, sform, codes, pixdim and units bit for bit, so that readers that prefer
    the qform and readers that prefer the sform both find the labels on the image. Otherwise the affine is
    written to both with code 1 (scanner); a sheared one to the sform alone, because a qform cannot hold it.
    Without an affine both codes are 0 and only the spacing is written.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    if isinstance(source, NiftiSource):
        kind = Nifti1Header if len(source.block) == 348 else Nifti2Header
        old = kind(source.block, endianness=_native(), check=False)
        dims = shape[: source.ndim]
    else:
        kind = Nifti1Header if max(shape) <= _LARGEST_NIFTI1 else Nifti2Header
        old, dims = None, shape
    header = kind()
    header.set_data_shape(dims)
    header.set_data_dtype(dtype)
    if old is not None:
        for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"):
            header[name] = old[name]
        for name in ("qoffset_z", "srow_x", "srow_y", "srow_z"):
            header[name] = old[name]
        header["pixdim"][:4] = old["pixdim"][:4]
        header["xyzt_units"] = int(old["xyzt_units"]) & 7
    else:
        header["pixdim"][1:4] = spacing
        header["xyzt_units"] = 2
    if affine is not None and (old is None or not np.allclose(grid_affine(header, shape), affine, rtol=0, atol=1e-6)):
        _set_forms(header, affine)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["intent_code"] = _INTENT_LABEL
    header["vox_offset"] = 0  # filled in by nibabel, behind the extensions
    return header


def _set_forms(header: Any, affine: NDArray[np.float64]) -> None:
    from nibabel.spatialimages import HeaderDataError

    header["xyzt_units"] = 2
    header.set_sform(affine, code=int(header["sform_code"]) or 1)
    code = int(header["qform_code"]) or 1
    try:
        header.set_qform(affine, code=code, strip_shears=False)
    except HeaderDataError:
        header.set_qform(affine, code=code, strip_shears=True)  # for pixdim
        header["qform_code"] = 0


def label_table(names: Mapping[int, str]) -> bytes:
    """Caret XML label table, as TotalSegmentator puts it into a header extension of code 0."""
    rows = []
    for label in sorted(names):
        red, green, blue = (channel / 255 for channel in object_colour(label - 1))
        printable = "".join(character for character in names[label] if character.isprintable())
        name = printable.replace("]]>", "]]]]><![CDATA[>")
        colour = f'Red="{red:.4f}" Green="{green:.4f}" Blue="{blue:.4f}" Alpha="1"'
        rows.append(f'      <Label Key="{label}" {colour}><![CDATA[{name}]]></Label>')
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<CaretExtension>",
            '  <VolumeInformation Index="0">',
            "    <LabelTable>",
            *rows,
            "    </LabelTable>",
            "    <VolumeType><![CDATA[Label]]></VolumeType>",
            "  </VolumeInformation>",
            "</CaretExtension>",
            "",
        ]
    ).encode("utf-8")

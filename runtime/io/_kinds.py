"""What kind of file some bytes begin.

Knows the signatures of formats; knows none of their readers, so that only the reader that is needed is imported.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

__all__ = [
    "MGH_TYPES",
    "NIFTI_MAGICS",
    "ZIP_START",
    "is_dicom",
    "is_metaimage",
    "is_mgh",
    "is_nifti",
    "is_npz",
    "is_nrrd",
    "is_raster",
]

MGH_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
"""Type numbers of MGH and their dtypes."""

NIFTI_MAGICS = (
    (348, (b"n+1\0", b"ni1\0"), 344),
    (540, (b"n+2\0", b"ni2\0"), 4),
)
"""Size of a header, version 1 and then 2, what it says to be, and where."""

ZIP_START = b"PK\3\4"
"""First bytes of an archive that holds something."""

_METAIMAGE = re.compile(rb"\s*(Comment|ObjectType|ObjectSubType|NDims|TransformType|Name|ID)\s*=")
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")


def is_dicom(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a DICOM file, with or without preamble."""
    if head[128:132] == b"DICM":
        return True
    # Without a preamble: group 0002 or 0008, then an explicit VR or a small implicit length.
    if head[:2] not in (b"\x02\0", b"\x08\0") or len(head) < 16:
        return False
    return head[4:6].isupper() or head[6:8] == b"\0\0"


def is_metaimage(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a MetaImage header."""
    return _METAIMAGE.match(head) is not None


def is_mgh(head: bytes) -> bool:
    """Whether the first (unpacked) bytes of a file are those of an MGH header."""
    if len(head) < 24 or head[:4] != b"\0\0\0\1":
        return False
    width, height, depth, frames, kind = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4))
    return kind in MGH_TYPES and all(0 < size < 1 << 24 for size in (width, height, depth, frames))


def is_nifti(head: bytes) -> bool:
    """Whether the first (unpacked) bytes of a file are those of a NIfTI header."""
    return any(
        len(head) >= size and head[at : at + 4] in magics and size in _both_ways(head[:4])
        for size, magics, at in NIFTI_MAGICS
    )


def _both_ways(number: bytes) -> tuple[int, int]:
    return int.from_bytes(number, "little"), int.from_bytes(number, "big")


def is_npz(path: Path) -> bool:
    """Whether a file is a zip archive that holds a NumPy array."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return False


def is_nrrd(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a NRRD header."""
    return head.startswith(b"NRRD000")


def is_raster(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a picture."""
    return head.startswith(_PICTURES)

"""What an object is, in the coded terms that DICOM and 3D Slicer use, as far as its name says it.

Knows pydicom's tables of codes (CID 7191 tissues, 7192 anatomical structures, 7194 abnormal structures, 7197 body
substances); guesses nothing: a name that is not in them is "tissue".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Coding", "coding_of"]

Code = tuple[str, str, str]
"""Coding scheme, value and meaning."""

_TISSUE: Code = ("SCT", "85756007", "Tissue")
_CATEGORIES: tuple[tuple[str, Code], ...] = (
    ("cid7192", ("SCT", "123037004", "Anatomical Structure")),
    ("cid7194", ("SCT", "49755003", "Morphologically Abnormal Structure")),
    ("cid7191", _TISSUE),
    ("cid7197", ("SCT", "91720002", "Body Substance")),
)
_SIDES: dict[str, Code] = {"left": ("SCT", "7771000", "Left"), "right": ("SCT", "24028007", "Right")}


@dataclass(frozen=True, slots=True)
class Coding:
    """Category and type of an object, and its side where the name says it."""

    category: Code
    kind: Code
    side: Code | None = None


def coding_of(name: str) -> Coding:
    """Codes of a name such as ``liver``, ``left kidney`` or ``kidney_left``; tissue where it is not in the tables.

    Examples
    --------
    >>> coding_of("kidney_left").kind, coding_of("left kidney").side
    (('SCT', '64033007', 'Kidney'), ('SCT', '7771000', 'Left'))
    >>> coding_of("object 1").kind
    ('SCT', '85756007', 'Tissue')
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    side = None
    for place in (0, -1):
        if len(words) > 1 and words[place] in _SIDES:
            side = _SIDES[words.pop(place)]
            break
    found = _table().get("".join(words))
    return Coding(_TISSUE, _TISSUE) if found is None else Coding(*found, side)


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[Code, Code]]:
    """Keyword in small letters -> (category, type); the first table that has it."""
    from pydicom.sr.codedict import codes

    table: dict[str, tuple[Code, Code]] = {}
    for cid, category in _CATEGORIES:
        collection: Any = getattr(codes, cid)
        for keyword in collection.dir():
            code = getattr(collection, keyword)
            table.setdefault(keyword.lower(), (category, (code.scheme_designator, code.value, code.meaning)))
    return table

"""Prompts as people write them: ``--box`` and ``--point`` texts, JSON and CSV files.

The formats are documented in ``docs/prompts.md``. Knows `runtime.types` and the error tree; knows no image, so
nothing here is checked against one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.errors import PromptError
from runtime.types import Box, Point

__all__ = ["MAX_PROMPT_FILE_BYTES", "parse_box", "parse_point", "read_prompts"]

MAX_PROMPT_FILE_BYTES = 16 << 20
_CSV_COLUMNS = ("name", "slice", "x0", "y0", "z0", "x1", "y1", "z1")
_JSON_KEYS = {"name", "box", "slice", "points"}


def _split(text: str, what: str) -> tuple[str | None, str, int | None]:
    """Take ``name=`` off the front and ``@slice`` off the back."""
    head, equals, rest = text.partition("=")
    name, body = (head.strip(), rest) if equals else (None, text)
    if name == "":
        msg = f"{what} {text!r}: an empty name; write NAME=... or leave the equals sign out"
        raise PromptError(msg)
    body, at, tail = body.partition("@")
    if not at:
        return name, body, None
    try:
        return name, body, int(tail)
    except ValueError as error:
        msg = f"{what} {text!r}: {tail!r} after @ is no slice index; wanted a whole number"
        raise PromptError(msg) from error


def _floats(values: list[Any], what: str) -> tuple[float, ...]:
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{what}: wanted numbers separated by commas, found {','.join(map(str, values))!r}"
        raise PromptError(msg) from error


def parse_box(text: str) -> Box:
    """Parse ``[NAME=]x0,y0,x1,y1[@SLICE]`` or ``[NAME=]x0,y0,z0,x1,y1,z1``; brackets are allowed.

    Parameters
    ----------
    text : str
        As given on the command line.

    Returns
    -------
    box : Box
        The prompt.

    Raises
    ------
    PromptError
        If the text is not a box.

    Examples
    --------
    >>> parse_box("liver=10,20,80,90@40")
    Box(xyxy=(10.0, 20.0, 80.0, 90.0), slice_index=40, name='liver')
    """
    name, body, slice_index = _split(text, "box")
    parts = body.strip().strip("[]()").split(",")
    return Box(_floats(parts, f"box {text!r}"), slice_index=slice_index, name=name)


def parse_point(text: str) -> Point:
    """Parse ``[NAME=]x,y[,z],+[@SLICE]``; ``+`` is a point on the object, ``-`` one beside it.

    Parameters
    ----------
    text : str
        As given on the command line.

    Returns
    -------
    point : Point
        The prompt.

    Raises
    ------
    PromptError
        If the text is not a point.

    Examples
    --------
    >>> parse_point("12,30,-").positive
    False
    """
    name, body, slice_index = _split(text, "point")
    *parts, sign = body.strip().split(",")
    if sign.strip() not in ("+", "-"):
        msg = f"point {text!r}: wanted x,y,+ or x,y,z,+ (on the object), or - instead of + (beside it)"
        raise PromptError(msg)
    return Point(_floats(parts, f"point {text!r}"), positive=sign.strip() == "+", slice_index=slice_index, name=name)


def read_prompts(path: Path) -> list[Box | Point]:
    """Read a prompt file, JSON or CSV.

    Parameters
    ----------
    path : Path
        ``.csv`` with the columns ``name, slice, x0, y0, z0, x1, y1, z1`` (z0, z1, slice and name may be left
        out), or JSON: a list of ``{"name", "box", "slice", "points"}`` or of
        ``{"type": "rectangle" | "point", "data": [...], "label": 1}``.

    Returns
    -------
    prompts : list of Box or Point
        In the order of the file.

    Raises
    ------
    PromptError
        If the file cannot be read or an entry is malformed; the message names the entry.
    """
    try:
        if path.stat().st_size > MAX_PROMPT_FILE_BYTES:
            msg = f"{path}: larger than {MAX_PROMPT_FILE_BYTES} bytes; wanted a list of prompts"
            raise PromptError(msg)
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); wanted a JSON or CSV file of prompts"
        raise PromptError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text; wanted a JSON or CSV file of prompts"
        raise PromptError(msg) from error
    prompts = _from_csv(text, path) if path.suffix.lower() == ".csv" else _from_json(text, path)
    if not prompts:
        msg = f"{path}: holds no prompt"
        raise PromptError(msg)
    return prompts


def _from_csv(text: str, path: Path) -> list[Box | Point]:
    found: list[Box | Point] = []
    try:
        rows = csv.DictReader(text.splitlines())
        columns = [column.strip() for column in rows.fieldnames or ()]
        unknown = [column for column in columns if column not in _CSV_COLUMNS]
        missing = [column for column in ("x0", "y0", "x1", "y1") if column not in columns]
        if unknown or missing:
            msg = f"{path}: columns {','.join(columns)}; wanted {','.join(_CSV_COLUMNS)} (z0, z1, slice, name optional)"
            raise PromptError(msg)
        rows.fieldnames = columns
        for row in rows:
            found += _from_row(row, len(columns), f"{path}, line {rows.line_num}")
    except csv.Error as error:
        msg = f"{path}: not valid CSV ({error}); wanted a header and one box a line"
        raise PromptError(msg) from error
    return found


def _from_row(row: Mapping[str | Any, Any], columns: int, where: str) -> list[Box | Point]:
    surplus = row.get(None) or ()
    if surplus:
        msg = f"{where}: {columns + len(surplus)} cells; the header has {columns}"
        raise PromptError(msg)
    solid = bool(row.get("z0")) or bool(row.get("z1"))
    keys = ("x0", "y0", "z0", "x1", "y1", "z1") if solid else ("x0", "y0", "x1", "y1")
    entry: dict[str, Any] = {"box": [row.get(key) for key in keys]}
    entry |= {key: row[key] for key in ("name", "slice") if row.get(key)}
    return _entry(entry, where)


def _from_json(text: str, path: Path) -> list[Box | Point]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"{path}: not valid JSON ({error}); wanted a list of prompts"
        raise PromptError(msg) from error
    if not isinstance(data, list):
        msg = f"{path}: holds a {type(data).__name__}; wanted a JSON list of prompts"
        raise PromptError(msg)
    found: list[Box | Point] = []
    for number, entry in enumerate(data):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict):
            msg = f"{where}: a {type(entry).__name__}; wanted an object with a box or points"
            raise PromptError(msg)
        if entry.get("box") and entry.get("points"):  # they belong together, whatever else the file holds
            entry = {"name": f"object {number + 1}", **entry}
        found += _typed_entry(entry, where) if "type" in entry else _entry(entry, where)
    return found


def _entry(entry: Mapping[str, Any], where: str) -> list[Box | Point]:
    unknown = sorted(set(entry) - _JSON_KEYS)
    if unknown or not ("box" in entry or "points" in entry):
        msg = f"{where}: keys {', '.join(map(repr, entry))}; wanted box or points, and optionally name and slice"
        raise PromptError(msg)
    name = entry.get("name")
    if name is not None and not (isinstance(name, str) and name):
        msg = f"{where}: name {name!r}; wanted a text"
        raise PromptError(msg)
    slice_index = _whole(entry.get("slice"), where)
    found: list[Box | Point] = []
    try:
        box = entry.get("box")
        if box is not None:
            if not isinstance(box, list):
                raise TypeError
            found.append(Box(_floats(box, "box"), slice_index=slice_index, name=name))
        for point in entry.get("points") or ():
            *place, label = point
            if label not in (0, 1):
                msg = f"point label {label!r}; wanted 1 (on the object) or 0 (beside it)"
                raise PromptError(msg)
            found.append(Point(_floats(place, "point"), bool(label), None if len(place) == 3 else slice_index, name))
    except PromptError as error:
        msg = f"{where}: {error}"
        raise PromptError(msg) from error
    except (TypeError, ValueError) as error:
        msg = f"{where}: wanted a box of 4 or 6 numbers and points of x, y[, z], label"
        raise PromptError(msg) from error
    return found


def _whole(value: Any, where: str) -> int | None:
    if value is None:
        return None
    try:
        if isinstance(value, bool) or float(value) != int(float(value)):
            raise ValueError
        return int(float(value))
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{where}: slice {value!r}; wanted a whole number"
        raise PromptError(msg) from error


def _typed_entry(entry: Mapping[str, Any], where: str) -> list[Box | Point]:
    kind, data = entry["type"], entry.get("data")
    if kind == "rectangle":
        return _entry({"box": data} | {key: entry[key] for key in ("name", "slice") if key in entry}, where)
    if kind == "point" and isinstance(data, list):
        point = [*data, entry.get("label", 1)]
        return _entry({"points": [point]} | {key: entry[key] for key in ("name", "slice") if key in entry}, where)
    msg = f"{where}: type {kind!r}; wanted rectangle or point with data"
    raise PromptError(msg)

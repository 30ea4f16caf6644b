"""What a zoo's row is: an entry, what it must give, and how that is checked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ImageError
from runtime.geometry import Volume, axis_codes
from runtime.io import load
from runtime.io._reading import LOGGER

__all__ = ["Check", "Facts", "Outcome", "Row", "close", "outcome", "refusal", "refused", "told", "values_of"]

Facts = dict[str, Any]
"""A row of ``table.json``."""

Check = Callable[[Path, Facts], str]
"""(folder of the zoo, row) -> what was got; AssertionError or ImageError where the row falls short."""


@dataclass(frozen=True)
class Row:
    """An entry of a zoo and what it must give, a warning included where there must be one."""

    entry: str
    wanted: str
    check: Check
    warning: str = ""


@dataclass(frozen=True)
class Outcome:
    """A row as it went."""

    entry: str
    expected: str
    got: str
    good: bool


def outcome(row: Row, folder: Path, facts: Facts) -> Outcome:
    """Try a row."""
    expected = f"{facts['expected']} [{row.wanted}{f', warns: {row.warning}' if row.warning else ''}]"
    heard = _Heard()
    LOGGER.addHandler(heard)
    try:
        got = row.check(folder, facts)
        assert row.warning in heard.text, f"warned {heard.text!r}, wanted {row.warning!r}"
    except (AssertionError, ImageError) as error:
        return Outcome(row.entry, expected, " ".join(str(error).split()), False)
    finally:
        LOGGER.removeHandler(heard)
    return Outcome(row.entry, expected, got + (f"; warned: {heard.text}" if heard.text else ""), True)


class _Heard(logging.Handler):
    """Warnings as one text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.text:
            self.text += ("; " if self.text else "") + message


def told(volume: Volume) -> str:
    size = "x".join(map(str, volume.array.shape))
    axes = "no affine" if volume.affine is None else axis_codes(volume.affine)
    spacing = "x".join(f"{step:.4g}" for step in volume.spacing)
    return f"{size} {volume.array.dtype}, {axes}, {spacing} mm, {_told_values(volume.array)}"


def _told_values(array: NDArray[Any]) -> str:
    low, high, mean = values_of(array)
    return f"{low:g} to {high:g}, mean {mean:.5g}"


def values_of(array: NDArray[Any]) -> NDArray[np.float64]:
    finite = array[np.isfinite(array)].astype(np.float64)
    return np.array([finite.min(), finite.max(), finite.mean()])


def refusal(path: Path, message: str, **options: Any) -> str:
    """Text of the error, without the path, which must hold ``message``."""
    try:
        volume = load(path, **options)
    except ImageError as error:
        text = str(error)
        assert message in text, f"{text!r} lacks {message!r}"
        assert str(path) in text, f"{text!r} does not name the file"
        return "refused: " + text.replace(str(path), "").lstrip(": ")
    msg = f"loaded ({told(volume)}), wanted a refusal with {message!r}"
    raise AssertionError(msg)


def refused(message: str) -> Check:
    return lambda folder, facts: refusal(folder / facts["path"], message)


def close(found: Any, wanted: Any, *, relative: float = 2e-5, absolute: float = 1e-4) -> None:
    np.testing.assert_allclose(found, wanted, rtol=relative, atol=absolute)

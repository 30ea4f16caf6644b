"""Arrays that a caller gives beside the prompts, by the names that the manifest has for them.

Follows ``docs/bundle-format.md``, section 6: vectors, which must be given, and what stands for a crop, which may be.
Pure functions of a manifest and arrays; knows no session and no image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import PromptError
from runtime.manifest import Manifest

__all__ = ["Extra", "extra_arrays"]

Extra = Mapping[str, ArrayLike]
"""Arrays by name, a row for each prompt or one row for all."""

_RowShape = tuple[int | None, ...]


def _taken(manifest: Manifest) -> dict[str, _RowShape]:
    """Shape of a row of every array that a bundle takes; None is a length that its graphs alone know."""
    crops: dict[str, _RowShape] = {
        crop.name: (3, *crop.size) if crop.graph is None else (crop.length,) for crop in manifest.prompts.crops
    }
    return crops | {name: (length,) for name, length in manifest.prompts.vectors.items()}


def _shape_text(row: _RowShape) -> str:
    return f"({', '.join(['N', *('?' if side is None else str(side) for side in row)])})"


def _listed(taken: Mapping[str, _RowShape]) -> str:
    return ", ".join(f"{name} {_shape_text(row)}" for name, row in taken.items())


def extra_arrays(manifest: Manifest, extra: Extra | None, count: int) -> dict[str, NDArray[Any]]:
    """Decoder inputs for N prompts from what a caller gave as ``extra``.

    Parameters
    ----------
    manifest : Manifest
        The bundle's facts.
    extra : mapping of str to array-like, or None
        What was given.
    count : int
        N, the number of prompts.

    Returns
    -------
    arrays : dict of str to ndarray of float32, shape (N, ...)
        All vectors of the bundle, and the crops that were given.

    Raises
    ------
    PromptError
        If a name is unknown, a vector is missing, or an array has another shape or holds no finite numbers; the
        message lists what the bundle takes.
    """
    given = {} if extra is None else extra
    taken = _taken(manifest)
    if not isinstance(given, Mapping):
        msg = f"extra of type {type(given).__name__}: wanted a dict of arrays by name"
        raise PromptError(msg)
    unknown = [repr(name) for name in given if name not in taken]
    if unknown:
        takes = f"it takes {_listed(taken)}" if taken else "it takes none; leave extra out"
        msg = f"extra {', '.join(unknown)}: bundle {manifest.name!r} takes no such array; {takes}"
        raise PromptError(msg)
    missing = {name: taken[name] for name in manifest.prompts.vectors if name not in given}
    if missing:
        msg = f"bundle {manifest.name!r} needs {_listed(missing)}, one row a prompt; give them as extra, by these names"
        raise PromptError(msg)
    return {name: _rows(name, values, taken[name], count) for name, values in given.items()}


def _rows(name: str, values: ArrayLike, row: _RowShape, count: int) -> NDArray[np.float32]:
    """One array, a row for each prompt."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        msg = f"extra {name!r}: wanted an array of shape {_shape_text(row)}"
        raise PromptError(msg) from error
    if array.dtype.kind not in "iuf":
        msg = f"extra {name!r} of dtype {array.dtype}: wanted numbers, shape {_shape_text(row)}"
        raise PromptError(msg)
    shaped = array[np.newaxis] if array.ndim == len(row) else array
    fits = shaped.ndim == len(row) + 1 and all(
        side is None or side == size for side, size in zip(row, shaped.shape[1:], strict=True)
    )
    if not fits or shaped.shape[0] not in (1, count):
        msg = f"extra {name!r} of shape {array.shape}: wanted {_shape_text(row)}, N = {count} prompts or 1 for all"
        raise PromptError(msg)
    numbers = shaped.astype(np.float32)
    if not np.isfinite(numbers).all():
        msg = f"extra {name!r}: every number must be finite; remove NaN and infinity"
        raise PromptError(msg)
    return np.ascontiguousarray(np.broadcast_to(numbers, (count, *numbers.shape[1:])))

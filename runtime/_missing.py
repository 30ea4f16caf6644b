"""Which required fields a piece of JSON lacks, all of them at once.

Knows msgspec's structs and typing. Must not know what the fields mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from msgspec import Struct, structs

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["missing_fields"]


def missing_fields(kind: Any, data: Any, where: str = "") -> list[str]:
    """Paths of all required fields that ``data`` lacks, so that one message names them all."""
    if isinstance(kind, type) and issubclass(kind, Struct):
        return _of_struct(kind, data, where)
    arguments = get_args(kind)
    inner: Iterable[tuple[Any, Any, str]] = ()
    if get_origin(kind) is dict and isinstance(data, dict):
        inner = ((arguments[1], value, f"{where}.{key}") for key, value in data.items())
    elif get_origin(kind) is tuple and isinstance(data, list):
        inner = ((arguments[0], value, f"{where}.{index}") for index, value in enumerate(data))
    elif get_origin(kind) is not Literal:  # alternatives, or a type with constraints
        inner = ((argument, data, where) for argument in arguments)
    return [path for arguments_of_one in inner for path in missing_fields(*arguments_of_one)]


def _of_struct(kind: type[Struct], data: Any, where: str) -> list[str]:
    if not isinstance(data, dict):
        return []
    found: list[str] = []
    for item in structs.fields(kind):
        path = f"{where}.{item.encode_name}" if where else item.encode_name
        if item.encode_name in data:
            found += missing_fields(item.type, data[item.encode_name], path)
        elif item.required:
            found.append(path)
    return found

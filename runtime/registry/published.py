"""Checkpoints that the field has published: where each lives, under which licence, and what to do with it.

Knows ``published.json`` and its schema. The file states what the authors state; a digest stands there only where it is
known, and a licence only where there is one.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from runtime._manifest_records import Name

__all__ = ["Page", "Published", "all_published", "find_published"]


class Page(Struct, frozen=True, forbid_unknown_fields=True):
    """A page where a person downloads a checkpoint; `what` says what is there."""

    url: str
    what: str


class Published(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A checkpoint, or a set of them, that its authors published.

    `family` is what ``lite-infer-export convert --family`` takes, null where lite-infer does not convert it; `licence`
    the SPDX identifier of the repository, null where it has none; `direct` are URLs that a program can ask for `file`.
    """

    name: Name
    title: str
    repository: str
    licence: str | None
    pages: Annotated[tuple[Page, ...], Meta(min_length=1)]
    family: str | None = None
    file: str | None = None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")] | None = None
    bytes: int | None = None
    direct: tuple[str, ...] = ()
    note: str | None = None


@cache
def all_published() -> tuple[Published, ...]:
    """Return every published checkpoint that the registry knows."""
    text = (files("runtime.registry") / "published.json").read_bytes()
    return msgspec.json.decode(text, type=tuple[Published, ...])


def find_published(name: str) -> Published | None:
    """Return the published checkpoint of that name; None without one."""
    return next((each for each in all_published() if each.name == name), None)

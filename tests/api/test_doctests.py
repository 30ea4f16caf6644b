"""Examples in the documentation of the runtime do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest

import runtime

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(runtime.__path__, "runtime.")
    if name not in ("runtime._kernels", "runtime.__main__")
]
NEEDS_THE_DEFAULT_BUNDLE = {"runtime.session.Session"}


def examples(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder().find(importlib.import_module(module))
    return [one for one in found if one.examples]


ALL = [one for module in MODULES for one in examples(module)]


@pytest.mark.parametrize("example", ALL, ids=[one.name for one in ALL])
def test_an_example_does_what_it_shows(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = Path(runtime.__file__).parent / "models" / "default" / "manifest.json"
    if example.name in NEEDS_THE_DEFAULT_BUNDLE and not default.is_file():
        pytest.skip("the default bundle is not part of this installation")
    monkeypatch.chdir(tmp_path)
    example.globs.setdefault("np", np)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    results = runner.run(example, out=said.append)
    assert results.failed == 0, "".join(said)


def test_the_public_modules_have_examples() -> None:
    names = {one.name for one in ALL}
    assert {"runtime.geometry.axis_codes", "runtime.types.Box", "runtime.session.Session"} <= names
    assert len(ALL) >= 10


def test_the_examples_of_the_session_exist_and_are_skipped_by_name_only() -> None:
    assert {one.name for one in ALL} >= NEEDS_THE_DEFAULT_BUNDLE

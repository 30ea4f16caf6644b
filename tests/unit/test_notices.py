"""THIRD_PARTY_NOTICES.md names what pyproject.toml asks for, under the licences that the distributions state."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTICES = "THIRD_PARTY_NOTICES.md"
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0"}
"""Licences under which others may be asked for; MPL-2.0 binds changes to its own files alone."""
SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "HPND": "MIT-CMU",
    "MIT License": "MIT",
}
"""What distributions write in the place of SPDX identifiers."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def _rows() -> dict[str, tuple[str, str]]:
    """Distribution -> (licence, needed by)."""
    text = (ROOT / NOTICES).read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.-]+) \| ([\w. -]+) \| ([\w, -]+) \| https://\S+ \|$", text, re.MULTILINE)
    return {name: (licence, needed) for name, licence, needed in rows}


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;~! ]", requirement)[0]


def _declared(project: dict[str, Any]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    groups = {
        "always": project["project"]["dependencies"],
        "build": project["build-system"]["requires"],
        **project["project"]["optional-dependencies"],
    }
    for group, lines in groups.items():
        for line in lines:
            found.setdefault(_name(line), set()).add(group)
    found.pop("lite-infer")
    return {name: ", ".join(sorted(needed)) for name, needed in found.items()}


def _stated(name: str) -> set[str]:
    """SPDX identifiers in the metadata of an installed distribution; none where it states them otherwise."""
    metadata = importlib.metadata.metadata(name)
    classifiers = [
        line.split(" :: ")[-1] for line in metadata.get_all("Classifier") or [] if line.startswith("License")
    ]
    for text in (metadata.get("License-Expression"), metadata.get("License"), *classifiers):
        words = {SPDX.get(word.strip(), word.strip()) for word in re.split(r" AND | OR |[()]", text or "")}
        if words & PERMISSIVE:
            return words
    return set()


def test_every_declared_dependency_is_listed_with_who_needs_it(project: dict[str, Any]) -> None:
    listed = {name: needed for name, (_, needed) in _rows().items()}
    assert listed == _declared(project), f"make the table of {NOTICES} agree with pyproject.toml"


def test_every_licence_is_permissive() -> None:
    for name, (licence, _) in _rows().items():
        assert set(licence.split(" AND ")) <= PERMISSIVE, name


@pytest.mark.parametrize("name", sorted(_rows()))
def test_the_licence_is_the_one_that_the_distribution_states(name: str) -> None:
    try:
        stated = _stated(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if not stated:
        pytest.skip(f"the metadata of {name} name no licence by its SPDX identifier")
    assert set(_rows()[name][0].split(" AND ")) <= stated


def test_the_licence_of_what_is_compiled_in_is_there_in_full() -> None:
    pytest.importorskip("pybind11")
    (licence,) = [file for file in importlib.metadata.files("pybind11") or [] if file.name == "LICENSE"]
    assert licence.read_text(encoding="utf-8").strip() in (ROOT / NOTICES).read_text(encoding="utf-8")


def test_nothing_else_is_compiled_in() -> None:
    found = set()
    for header in (ROOT / "cpp_ext").glob("*.[hc]pp"):
        found |= set(re.findall(r"#include [<\"]([^>\"]+)[>\"]", header.read_text(encoding="utf-8")))
    own = {path.name for path in (ROOT / "cpp_ext").iterdir()}
    foreign = {name for name in found - own if "/" in name or name.endswith(".hpp")}
    assert foreign
    assert all(name.startswith(("pybind11/", "sys/")) for name in foreign), "only pybind11 and the system's own"


def test_the_notices_are_shipped(project: dict[str, Any]) -> None:
    assert NOTICES in project["project"]["license-files"]
    try:
        shipped = importlib.metadata.files("lite-infer") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("lite-infer is not installed")
    direct = importlib.metadata.distribution("lite-infer").read_text("direct_url.json") or ""
    if '"editable": true' not in direct:
        assert any(file.name == NOTICES and ".dist-info" in str(file) for file in shipped)

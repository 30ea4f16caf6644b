"""Whatever stands in ``manifest.json``, only a `BundleError` may escape, and no accepted path leads outside."""

from __future__ import annotations

import copy
import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from bundle_factory import manifest_data
from fuzz_length import FUZZ_TIMES
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import BundleError
from runtime.manifest import Manifest, parse_manifest

SEEDS = [manifest_data(), json.loads((Path(__file__).parents[1] / "unit/data/manifest_1_1.json").read_text())]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 5)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../a", "/a", "a\n", "a" * 70, "0" * 64, "float32", "__class__", "1e999", "\ud800"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(data: Any, found: list[tuple[Any, Any]] | None = None) -> list[tuple[Any, Any]]:
    """Every (container, key) in a piece of JSON data."""
    found = [] if found is None else found
    entries = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(entries):
        found.append((data, key))
        places(value, found)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A manifest in which a few values were replaced, removed, renamed or copied elsewhere."""
    data = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        spots = places(data)
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        kind = draw(st.sampled_from(["replace", "remove", "rename", "copy"]))
        if kind == "remove":
            container.pop(key)
        elif kind == "rename" and isinstance(container, dict):
            container[draw(st.text(max_size=12))] = container.pop(key)
        elif kind == "copy":
            other, other_key = spots[draw(st.integers(0, len(spots) - 1))]
            container[key] = copy.deepcopy(other[other_key])
        else:
            container[key] = draw(VALUES)
    return json.dumps(data)


def check(text: bytes | str) -> None:
    manifest, message = None, ""
    try:
        manifest = parse_manifest(text)
    except BundleError as error:
        message = str(error)
    assert message.isprintable()
    if manifest is None:
        assert message
        return
    assert isinstance(manifest, Manifest)
    for path in manifest.files:
        assert not PurePosixPath(path).is_absolute()
        assert not {"..", ".", ""} & set(path.split("/"))
        assert path.isprintable()


@settings(max_examples=300 * FUZZ_TIMES)
@given(mutated())
def test_mutated_manifests_raise_only_bundle_errors(text: str) -> None:
    check(text)


def test_control_characters_of_a_manifest_do_not_reach_the_terminal() -> None:
    data = manifest_data() | {"o\n\x1b[2J": 1}
    with pytest.raises(BundleError, match=r"unknown field `o\\n\\x1b\[2J`"):
        parse_manifest(json.dumps(data))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_noise_raises_only_bundle_errors(text: bytes | str) -> None:
    check(text)


@given(st.integers(0, 5000), st.binary(min_size=1, max_size=8))
def test_overwritten_bytes_raise_only_bundle_errors(position: int, noise: bytes) -> None:
    text = bytearray(json.dumps(SEEDS[1]).encode())
    text[position : position + len(noise)] = noise
    check(bytes(text))


@given(st.integers(0, 5000))
def test_truncated_manifests_raise_only_bundle_errors(length: int) -> None:
    check(json.dumps(SEEDS[1])[:length])

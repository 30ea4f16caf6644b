"""Every manifest that can be stated survives writing and reading unchanged."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from bundle_factory import manifest_data
from hypothesis import given
from hypothesis import strategies as st

from runtime._manifest_records import MAX_SIDE
from runtime.manifest import (
    ChainSettings,
    EmbeddingTensor,
    LoopSettings,
    Manifest,
    Metric,
    load_manifest,
    parse_manifest,
    write_manifest,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
TENSOR_NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,10}", fullmatch=True).filter(lambda name: name != "boxes")
SIDES = st.integers(1, MAX_SIDE)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    """Manifests that vary in every group of fields."""
    base = parse_manifest(json.dumps(manifest_data()))
    replace = msgspec.structs.replace
    names = draw(st.lists(TENSOR_NAMES, min_size=1, max_size=4, unique=True))
    stored = st.sampled_from(["float32", "float16", "uint8", "int8"])
    shapes = st.lists(st.integers(1, 1 << 20), min_size=1, max_size=5).map(tuple)
    embedding = tuple(EmbeddingTensor(name, draw(shapes), "float32", draw(stored)) for name in names)
    chain = ChainSettings(
        margin_px=draw(st.floats(0, 64)),
        mask_prompt=draw(st.booleans()),
        min_score=draw(st.floats(0, 1)),
        max_area_ratio=draw(st.floats(1, 1e300, exclude_min=True)),
    )
    loop = draw(st.none() | st.builds(LoopSettings, st.sampled_from(["mask", "resized_label"]), margin_px=st.just(3)))
    output = replace(base.output, low_res_size=draw(st.tuples(SIDES, SIDES)), threshold=draw(FINITE))
    return replace(
        base,
        title=draw(TEXT),
        version=draw(TEXT),
        embedding=embedding,
        output=output,
        propagation=replace(base.propagation, chain=chain, published=loop),
        modalities=tuple(draw(st.lists(TEXT, max_size=4))),
        metrics=tuple(draw(st.lists(st.builds(Metric, TEXT, FINITE, TEXT), max_size=3))),
    )


@given(manifests())
def test_a_manifest_survives_writing_and_reading(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_manifest(manifest, Path(folder))
        assert load_manifest(Path(folder)) == manifest
        first = path.read_bytes()
        assert write_manifest(load_manifest(Path(folder)), Path(folder)).read_bytes() == first


@given(st.permutations(sorted(manifest_data())))
def test_the_order_of_keys_does_not_matter(order: list[str]) -> None:
    data: dict[str, Any] = manifest_data()
    shuffled = json.dumps({key: data[key] for key in order})
    assert parse_manifest(shuffled) == parse_manifest(json.dumps(data))

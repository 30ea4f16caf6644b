"""What guides the campaign: arcs through our own code, and a corpus that keeps what takes new ones."""

from __future__ import annotations

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from fuzz_coverage import arcs_of
from fuzz_seeds import seed
from mutations import mutated

pytest.importorskip("resource", reason="limits of memory and time are those of Unix")
BRANCHES = """\
import json

def sign(number):
    if number < 0:
        return "-"
    return json.loads('"+"')
"""


@pytest.fixture
def module(tmp_path: Path) -> Any:
    path = tmp_path / "ours" / "branches.py"
    path.parent.mkdir()
    path.write_text(BRANCHES)
    spec = spec_from_file_location("branches", path)
    assert spec is not None
    assert spec.loader is not None
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_arcs_are_those_of_the_package_alone(module: Any) -> None:
    path = Path(module.__file__)
    with arcs_of(path.parent) as positive:
        assert module.sign(1) == "+"
    with arcs_of(path.parent) as negative:
        assert module.sign(-1) == "-"
    assert positive == {(str(path), *step) for step in [(0, 4), (4, 6), (6, 0)]}
    assert negative == {(str(path), *step) for step in [(0, 4), (4, 5), (5, 0)]}
    with arcs_of(path.parent / "other") as none:
        module.sign(1)
    assert not none


def test_whoever_traced_before_traces_again(module: Any) -> None:
    before = sys.gettrace()
    with pytest.raises(TypeError), arcs_of(Path(module.__file__).parent):
        module.sign("one")
    assert sys.gettrace() is before


def test_a_corpus_keeps_what_takes_a_new_way_and_damages_it_further() -> None:
    from fuzz_campaign import Corpus, damaged
    from fuzz_oracle import Case

    given, new, known = (Case({"x.nii": word * 40}, "x.nii") for word in (b"given", b"new", b"known"))
    corpus, rng = Corpus([given], [given]), random.Random(0)
    corpus.learn(given, {("io.py", 1, 2)})
    corpus.learn(new, {("io.py", 1, 2), ("io.py", 2, 4)})
    corpus.learn(known, {("io.py", 2, 4)})
    picked = [corpus.pick(rng) for _ in range(50)]
    assert new in picked
    assert given in picked
    assert known not in picked
    assert damaged(rng, new).files.keys() == new.files.keys()
    assert damaged(rng, new) != new


@pytest.mark.parametrize("name", ["x.zip", "3D.npz", "x.png", "x.nii.gz"])
def test_what_was_damaged_can_be_damaged_again(name: str) -> None:
    for number in range(20):
        rng, data = random.Random(number), seed(name)
        for _ in range(20):
            data = mutated(rng, data)


def test_what_takes_a_new_way_joins_the_corpus_of_the_campaign(tmp_path: Path) -> None:
    from fuzz_campaign import Corpus, attempt
    from fuzz_oracle import Case

    corpus = Corpus([Case({"x.nrrd": seed("x.nrrd")}, "x.nrrd")], [Case({"x.nrrd": b""}, "x.nrrd")])
    for number in range(20):
        attempt(random.Random(number), corpus, tmp_path / "now")
    assert len(corpus) > 3

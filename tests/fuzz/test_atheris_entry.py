"""What atheris is given to call, without atheris: its seeds, its mutations, and bugs planted behind the readers."""

from __future__ import annotations

import random
import shlex
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fuzz_seeds import NAMES, seed

from runtime.errors import ImageError

pytest.importorskip("resource", reason="limits of memory and time are those of Unix")
import fuzz_atheris
import fuzz_oracle
from fuzz_atheris import ENDINGS, TestOneInput, mutate


def an_input(name: str, how: int = 0) -> bytes:
    data = fuzz_atheris.manifest_case().files[name] if name == fuzz_oracle.MANIFEST else seed(name)
    return bytes([ENDINGS.index(name), how]) + data


def cut(data: bytes, max_size: int) -> bytes:
    return data[: max_size // 2]


def test_seeds_are_of_every_format_and_raise_nothing() -> None:
    found = fuzz_atheris.seeds()
    assert {an_input(name) for name in ENDINGS} <= set(found)
    for name in ENDINGS:
        for how in range(8):
            TestOneInput(an_input(name, how))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\xff\xff\xff"])
def test_inputs_without_a_file_raise_nothing(data: bytes) -> None:
    TestOneInput(data)


def test_mutated_seeds_raise_nothing_and_keep_their_bounds() -> None:
    rng = random.Random(0)
    changed = 0
    for number in range(100):
        data = an_input(rng.choice(ENDINGS))
        mutant = mutate(data, 3000, number, otherwise=cut)
        assert mutate(data, 3000, number, otherwise=cut) == mutant
        assert len(mutant) <= 3000
        changed += mutant[2:] not in (data[2:], data[2:1500])
        TestOneInput(mutant)
    assert changed > 20


def test_mutants_are_opened_in_every_way_and_under_their_own_name() -> None:
    data = an_input("x.nii")
    mutants = [mutate(data, 3000, number, otherwise=cut) for number in range(1000)]
    assert {mutant[1] for mutant in mutants} == set(range(8))
    assert {mutant[0] for mutant in mutants} == {data[0]}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("x.nii", "runtime.io.nifti.read_nifti"),
        ("enhanced.dcm", "runtime.io.dicom.read_file"),
        ("x.zip", "runtime.io.dicom.read_series"),
        ("3D.npz", "runtime.io.npz.read_npz"),
        ("gz.nrrd", "runtime.io.nrrd.read_nrrd"),
        ("x.mha", "runtime.io.metaimage.read_metaimage"),
        ("x.mgz", "runtime.io.mgh.read_mgh"),
        ("x.png", "runtime.io.raster.read_raster"),
        (fuzz_oracle.MANIFEST, "runtime.manifest.contradictions"),
    ],
)
def test_a_planted_bug_escapes(name: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*given: Any, **options: Any) -> None:
        raise ZeroDivisionError(place)

    monkeypatch.setattr(place, bug)
    with pytest.raises(ZeroDivisionError, match=place):
        TestOneInput(an_input(name))


class Unescaped(ImageError):
    __str__ = Exception.__str__


@pytest.mark.parametrize("text", ["", "one\ntwo"])
def test_a_message_that_is_not_one_line_escapes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise Unescaped(text)

    monkeypatch.setattr("runtime.io.nrrd.read_nrrd", refuse)
    with pytest.raises(AssertionError, match="not one line of text"):
        TestOneInput(an_input("x.nrrd"))


def test_a_warning_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(*given: Any, **options: Any) -> None:
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        raise ImageError("refused")

    monkeypatch.setattr("runtime.io.nrrd.read_nrrd", warn)
    with pytest.raises(AssertionError, match="warned: RuntimeWarning: overflow"):
        TestOneInput(an_input("x.nrrd"))


@pytest.mark.parametrize(("limit", "text"), [("MAX_CPU_SECONDS", "took 0 s"), ("MAX_GROWTH", "took 0 MiB")])
def test_more_time_or_memory_than_the_limit_escapes(limit: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_oracle, limit, -(1 << 40))
    monkeypatch.setattr(fuzz_oracle, "_most_memory", lambda: 0)
    with pytest.raises(AssertionError, match=text):
        TestOneInput(an_input("x.nii"))


def test_without_atheris_the_command_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_atheris, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        fuzz_atheris.main(["folder"])


class FakeAtheris(SimpleNamespace):
    """Takes what atheris takes, and calls the entry with each input of the corpus."""

    def instrument_imports(self, include: list[str]) -> Any:
        from contextlib import nullcontext

        assert include == ["runtime"]
        return nullcontext()

    def Mutate(self, data: bytes, max_size: int) -> bytes:
        pytest.fail("Fuzz() must be called before Mutate() can be called")

    def Setup(self, arguments: list[str], test_one_input: Any, custom_mutator: Any) -> None:
        self.arguments, self.test_one_input, self.custom_mutator = arguments, test_one_input, custom_mutator

    def Fuzz(self) -> None:
        self.Mutate = cut  # here and no sooner, and under this name alone, as atheris does
        for path in sorted(Path(self.arguments[-1]).iterdir())[:20]:
            self.test_one_input(self.custom_mutator(path.read_bytes(), 4096, 1))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeAtheris:
    fake = FakeAtheris()
    monkeypatch.setattr(fuzz_atheris, "atheris", fake)
    monkeypatch.setattr(fuzz_atheris, "limit_memory", lambda: None)  # it would be that of the tests
    monkeypatch.setattr(fuzz_atheris.logging, "disable", lambda: None)
    monkeypatch.setattr(fuzz_atheris, "seeds", lambda: [an_input(name) for name in ENDINGS])
    return fake


def test_the_command_gives_atheris_seeds_limits_and_the_options_given(tmp_path: Path, fake: FakeAtheris) -> None:
    fuzz_atheris.main([str(tmp_path), "-max_total_time=60"])
    assert shlex.split(fake.arguments[0]) == [sys.executable, sys.argv[0], str(tmp_path)]
    assert fake.arguments[-2:] == ["-max_total_time=60", str(tmp_path / "corpus")]
    assert {"-timeout=30", f"-artifact_prefix={tmp_path / 'findings'}/"} <= set(fake.arguments)
    assert len(list((tmp_path / "corpus").iterdir())) == len(NAMES) + 1
    with pytest.raises(SystemExit, match="wanted"):
        fuzz_atheris.main(["-max_total_time=60"])


def test_a_seed_that_is_a_finding_is_left_to_atheris(
    tmp_path: Path, fake: FakeAtheris, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*given: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("runtime.io.nrrd.read_nrrd", bug)
    with pytest.raises(ZeroDivisionError):
        TestOneInput(an_input("x.nrrd"))
    opened: list[bytes] = []
    monkeypatch.setattr(
        fake, "Fuzz", lambda: opened.extend(path.read_bytes() for path in (tmp_path / "corpus").iterdir())
    )
    fuzz_atheris.main([str(tmp_path)])
    assert an_input("x.nrrd") in opened

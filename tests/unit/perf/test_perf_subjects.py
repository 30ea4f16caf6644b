"""From names and folders to bundles to measure."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from bundle_factory import write_bundle

from perf.subjects import make_subjects
from runtime.errors import BundleError, PromptError


def test_a_bundle_is_known_by_its_own_name_and_two_of_one_name_by_numbers(tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b")
    one, other = make_subjects([str(first), str(second)])
    assert (one.name, other.name) == ("tiny", "tiny#2")
    assert (one.bundle, one.folder, one.plain) == (str(first), first, first)


def test_the_default_bundle_stays_the_program_s_own_choice() -> None:
    (one,) = make_subjects([None])
    assert one.bundle is None
    assert (one.folder / "manifest.json").is_file()


def test_the_reference_may_run_another_bundle(tmp_path: Path) -> None:
    measured, plain = write_bundle(tmp_path / "new"), write_bundle(tmp_path / "old")
    (one,) = make_subjects([str(measured)], plain=[str(plain)])
    assert (one.folder, one.plain) == (measured, plain)
    with pytest.raises(PromptError, match="wanted one for each"):
        make_subjects([str(measured)], plain=[str(plain)] * 2)


def test_a_modality_is_told_to_bundles_that_ask_and_to_no_others(tmp_path: Path) -> None:
    asks = write_bundle(
        tmp_path / "asks", modalities=["CT", "X-ray"], prompts={"box": {}, "modality": "required"}, name="asks"
    )
    silent = write_bundle(tmp_path / "silent")
    one, other = make_subjects([str(asks), str(silent)], "xray")
    assert (one.modality, one.modality_index) == ("xray", 1)
    assert (other.modality, other.modality_index) == (None, 0)
    with pytest.raises(PromptError, match="modality 'MR': bundle 'asks' knows CT, X-ray"):
        make_subjects([str(asks)], "MR")


def test_an_unknown_bundle_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(BundleError):
        make_subjects([str(tmp_path / "none")])


def test_a_set_is_measured_with_the_expert_for_a_modality(tmp_path: Path) -> None:
    folder = pack(tmp_path)
    (one,) = make_subjects([str(folder)], "X-ray")
    assert (one.modality, one.expert, one.folder.name) == ("X-ray", "X-ray", "second")
    with pytest.raises(PromptError, match="has an expert for each of"):
        make_subjects([str(folder)])


def pack(folder: Path) -> Path:
    experts = []
    for name, modality in (("first", "CT"), ("second", "X-ray")):
        manifest = write_bundle(folder / name, name=name) / "manifest.json"
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
        experts.append({"bundle": name, "modalities": [modality], "manifest_sha256": digest})
    facts = {"format_version": 1, "name": "both", "title": "Two experts", "experts": experts}
    (folder / "set.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder

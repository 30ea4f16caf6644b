"""Sets of bundles: the expert for what the image shows, opened once and when it is needed, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tiny_bundle import BOX, Tail, disc, inside, open_session, scene_volume, tiny_bundle

import runtime._experts
from export import cli
from export.pack import Member, pack_set
from runtime._engine import Engine
from runtime.bundle_set import open_model
from runtime.cli import main
from runtime.errors import BundleIntegrityError, BundleVersionError, ManifestError, OutputError, PromptError


def expert(folder: Path, *, blind: bool = False, encoder: str = "", **changes: Any) -> Path:
    """The tiny bundle; `blind`: one that finds nothing; `encoder`: what tells its encoder from others."""
    tail = Tail(
        nodes=(("Sub", ["boxed", "much"], ["low_res_logits"]),), constants={"much": np.array(50.0 * blind, np.float32)}
    )
    tiny_bundle(folder, tail=tail, **changes)
    model = onnx.load(folder / "encoder.onnx")
    model.doc_string = encoder or folder.name
    onnx.save(model, folder / "encoder.onnx")
    content = (folder / "encoder.onnx").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["encoder.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def tiny_set(tmp_path: Path) -> Path:
    """CT and PET are seen, X-ray is not."""
    seeing = Member(expert(tmp_path / "seeing", name="seeing"), ("CT", "PET"))
    blind = Member(expert(tmp_path / "blind", blind=True, name="blind"), ("X-Ray",))
    return pack_set([seeing, blind], tmp_path / "set", name="tiny-set", title="A set for tests")


def test_the_expert_for_the_modality_segments_the_volume(tiny_set: Path) -> None:
    volume = scene_volume()
    with open_session(tiny_set) as session:
        for modality, name, found in (("ct", "seeing", True), (1, "seeing", True), ("x ray", "blind", False)):
            result = session.segment(volume, box=BOX, modality=modality)
            assert result.bundle.startswith(name)
            assert result.label_map.any() == found
        np.testing.assert_array_equal(session.segment(volume, box=BOX, modality="PET").label_map > 0, inside())


def test_dicom_files_say_their_modality_themselves(tiny_set: Path) -> None:
    with open_session(tiny_set) as session:
        for code, name in (("PT", "seeing"), ("DX", "blind")):
            volume = replace(scene_volume(), modality=code)
            assert session.segment(volume, box=BOX).bundle.startswith(name)
        with pytest.raises(PromptError, match=r"no modality given, and none is for DICOM's NM: .*0 CT, 1 PET, 2 X-Ray"):
            session.segment(replace(scene_volume(), modality="NM"), box=BOX)
        assert session.segment(replace(scene_volume(), modality="DX"), box=BOX, modality="CT").bundle.startswith("see")


@pytest.mark.parametrize(("given", "found"), [(None, "no modality"), ("MR", "modality 'MR'"), (7, "modality 7")])
def test_a_modality_that_is_not_known_lists_those_there_are(tiny_set: Path, given: Any, found: str) -> None:
    with (
        open_session(tiny_set) as session,
        pytest.raises(PromptError, match=f"{found}: set 'tiny-set' has an expert for each of 0 CT, 1 PET, 2 X-Ray"),
    ):
        session.segment(scene_volume(), box=BOX, modality=given)


def test_an_embedding_is_decoded_by_the_expert_that_made_it(tiny_set: Path) -> None:
    image, mask = disc()
    box = [[15, 5, 45, 35]]
    with open_session(tiny_set) as session:
        seen, unseen = (session.encode(image, modality=modality) for modality in ("CT", "X-ray"))
        np.testing.assert_array_equal(session.decode(seen, boxes=box).masks[0], mask)
        assert not session.decode(unseen, boxes=box).masks.any()
        session.decode(unseen, boxes=box, modality="X-ray")
        with pytest.raises(PromptError, match="modality 'CT': the image was encoded by another expert"):
            session.decode(unseen, boxes=box, modality="CT")
        with pytest.raises(PromptError, match="no modality: set 'tiny-set'"):
            session.encode(image)


def test_experts_with_one_encoder_need_a_modality_to_decode(tmp_path: Path) -> None:
    members = [
        Member(expert(tmp_path / name, blind=name == "blind", encoder="one"), (name,)) for name in ("seeing", "blind")
    ]
    image, mask = disc()
    with open_session(pack_set(members, tmp_path / "set", name="s", title="s")) as session:
        embedding = session.encode(image, modality="seeing")
        session.encode(image, modality="blind")
        with pytest.raises(PromptError, match="say which with modality"):
            session.decode(embedding, boxes=[[15, 5, 45, 35]])
        found = session.decode(embedding, boxes=[[15, 5, 45, 35]], modality="seeing")
        np.testing.assert_array_equal(found.masks[0], mask)


def test_experts_are_opened_when_needed_and_once(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def engine(bundle: Any, **options: Any) -> Engine:
        opened.append(bundle.manifest.name)
        return Engine(bundle, **options)

    monkeypatch.setattr(runtime._experts, "Engine", engine)
    for file in (tiny_set / "expert-2").glob("*.onnx"):
        file.write_bytes(b"damaged")  # nobody looks as long as nobody asks
    with open_session(tiny_set) as session:
        for _ in range(2):
            session.segment(scene_volume(), box=BOX, modality="CT")
        assert opened == ["seeing"]
        with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx"):
            session.segment(scene_volume(), box=BOX, modality="x-ray")


def test_a_plain_bundle_is_not_asked_with_a_modality_when_it_encodes(tmp_path: Path) -> None:
    with (
        open_session(tiny_bundle(tmp_path)) as session,
        pytest.raises(PromptError, match="bundle 'tiny' encodes all alike"),
    ):
        session.encode(disc()[0], modality="CT")


def test_a_set_is_found_by_its_name(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_INFER_MODELS", str(tiny_set.parent))
    assert open_model("set").folder == tiny_set


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    facts = json.loads((folder / "set.json").read_text())
    change(facts)
    (folder / "set.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda facts: facts.update(format_version=2),
            BundleVersionError,
            "format_version 2, this version reads up to 1",
        ),
        (lambda facts: facts.update(expert=1), ManifestError, r"unknown field `expert`; see docs/bundle-format\.md"),
        (lambda facts: facts["experts"][1].update(modalities=["ct"]), ManifestError, "modality 'ct' twice"),
        (lambda facts: facts["experts"][1].update(dicom=["PT"]), ManifestError, "DICOM modality 'PT' twice"),
        (lambda facts: facts["experts"][1].update(bundle="../x"), ManifestError, "bundle"),
        (
            lambda facts: facts["experts"][1].update(bundle="absent"),
            BundleIntegrityError,
            "is missing or cannot be read",
        ),
        (lambda facts: facts["experts"].clear(), ManifestError, "length >= 1"),
    ],
)
def test_a_malformed_set_is_refused(tiny_set: Path, change: Any, error: Any, message: str) -> None:
    edited(tiny_set, change)
    with pytest.raises(error, match=message):
        open_model(tiny_set)


def test_a_changed_manifest_is_noticed_at_once(tiny_set: Path) -> None:
    path = tiny_set / "expert-2" / "manifest.json"
    path.write_text(path.read_text().replace('"1.0"', '"1.1"'))
    with pytest.raises(BundleIntegrityError, match=r"expert-2/manifest\.json: sha256 .* it was changed"):
        open_model(tiny_set)


def test_experts_that_differ_in_more_than_their_weights_are_not_packed(tmp_path: Path) -> None:
    one = Member(expert(tmp_path / "one"), ("CT",))
    two = Member(expert(tmp_path / "two", prompts={"box": {"use": "required", "rounding": "truncate"}}), ("MR",))
    with pytest.raises(ManifestError, match="expert-2 has another prompts than expert-1"):
        pack_set([one, two], tmp_path / "set", name="s", title="s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_the_command_packs_and_the_command_line_segments_by_modality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import nibabel

    seeing, blind = expert(tmp_path / "seeing", name="seeing"), expert(tmp_path / "blind", blind=True, name="blind")
    line = ["pack-set", "--expert", f"CT, PET={seeing}", "--expert", f"x-ray={blind}", "-o", str(tmp_path / "set")]
    assert cli.main(line) == 0
    assert capsys.readouterr().out == f"done: {tmp_path / 'set'}, 2 experts\n"
    facts = json.loads((tmp_path / "set" / "set.json").read_text())
    assert [(one["modalities"], one.get("dicom")) for one in facts["experts"]] == [
        (["CT", "PET"], ["CT", "PT"]),
        (["x-ray"], ["CR", "DX"]),
    ]
    assert cli.main(line) == 6
    assert cli.main([*line, "--force"]) == 0
    capsys.readouterr()
    volume = scene_volume()
    nibabel.save(nibabel.Nifti1Image(volume.array, volume.affine), tmp_path / "image.nii.gz")
    box = ",".join(map(str, BOX))
    run = [str(tmp_path / "image.nii.gz"), "--bundle", str(tmp_path / "set"), "--box", box, "--json"]
    assert main([*run, "--backend", "onnxruntime", "--modality", "pet"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"].startswith("seeing")
    assert main(run) == 2
    assert "has an expert for each of 0 CT, 1 PET, 2 x-ray" in capsys.readouterr().err


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("")
    with pytest.raises(OutputError, match="is not a bundle, so it is not replaced"):
        pack_set([Member(expert(tmp_path / "one"), ("CT",))], tmp_path / "set", name="s", title="s", force=True)

"""Sets of bundles are packed, imported, offered, pulled, listed and removed like bundles."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
from bundle_factory import manifest_data, write_bundle
from web_site import Site

from export.pack import Member, pack_set
from runtime import available_bundles
from runtime.bundle import open_bundle
from runtime.bundle_set import BundleSet, open_model
from runtime.cli import main
from runtime.errors import BundleError, BundleIntegrityError, DownloadError, ManifestError, OutputError
from runtime.registry.archive import import_archive, pack
from runtime.registry.index import offers, write_index
from runtime.registry.pull import pull_bundle
from runtime.registry.store import Store

SHARED = b"a decoder that both experts have" * 40


@pytest.fixture
def model_set(tmp_path: Path) -> Path:
    """Two experts with a decoder in common."""
    members = []
    for name, modalities in (("inside", ("CT", "PET")), ("outside", ("X-Ray",))):
        files = {"encoder.onnx": name.encode() * 9, "decoder.onnx": SHARED, "notes/CARD.md": b"a card"}
        members.append(Member(write_bundle(tmp_path / "experts" / name, files, name=name), modalities))
    return pack_set(members, tmp_path / "source" / "pair", name="pair", title="A pair")


@pytest.fixture
def archive(model_set: Path, tmp_path: Path) -> Path:
    return pack(model_set, tmp_path / "pair.zip")[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(archive: Path, change: dict[str, bytes | None], prefix: str = "") -> Path:
    """The same archive with members replaced, or left out."""
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()} | change
    target = archive.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as new:
        for name, content in members.items():
            if content is not None:
                new.writestr(prefix + name, content)
    return target


@pytest.mark.parametrize("prefix", ["", "a folder zipped by hand/"])
def test_a_set_arrives_byte_for_byte_and_is_opened_by_its_name(
    model_set: Path, archive: Path, store: Store, prefix: str
) -> None:
    folder = import_archive(changed(archive, {}, prefix), store)
    assert folder == store.models / "pair"
    assert contents(folder) == contents(model_set)
    opened = open_model("pair")
    assert isinstance(opened, BundleSet)
    assert (opened.folder, opened.modalities) == (folder, ("CT", "PET", "X-Ray"))
    assert opened.bundles[1].path("decoder.onnx").read_bytes() == SHARED
    assert ("pair", folder) in {(one.name, one.folder) for one in available_bundles()}


def test_packing_gives_the_same_bytes_every_time_in_an_archive_named_after_the_set(
    model_set: Path, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, digest = pack(model_set)
    assert path == Path(f"pair-{hashlib.sha256((model_set / 'set.json').read_bytes()).hexdigest()[:12]}.zip")
    assert path.read_bytes() == archive.read_bytes()
    assert digest == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_what_experts_share_is_kept_once_and_goes_with_the_last_of_them(
    archive: Path, store: Store, tmp_path: Path
) -> None:
    folder = import_archive(archive, store)
    files = [folder / f"expert-{number}" / "decoder.onnx" for number in (1, 2)]
    assert files[0].samefile(files[1])
    assert store.unfinished() == []
    alone = write_bundle(tmp_path / "alone", {"decoder.onnx": SHARED}, name="alone", **ALONE)
    import_archive(pack(alone, tmp_path / "alone.zip")[0], store)
    assert store.remove("pair").bytes < 2 * len(SHARED) + 4000
    assert open_bundle("alone").path("decoder.onnx").read_bytes() == SHARED
    store.remove("alone")
    assert list(store.blobs.iterdir()) == []


ALONE = {"graphs": {"float": {"encoder": {"onnx": "decoder.onnx"}, "decoder": {"onnx": "decoder.onnx"}}}}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"expert-2/encoder.onnx": b"x" * 63}, BundleIntegrityError, r"expert-2/encoder\.onnx has sha256"),
        ({"expert-2/decoder.onnx": None}, BundleIntegrityError, r"expert-2/decoder\.onnx is missing"),
        ({"expert-1/manifest.json": None}, BundleIntegrityError, r"expert-1/manifest\.json is missing; pack the set"),
        (
            {"expert-1/manifest.json": json.dumps(manifest_data()).encode()},
            BundleIntegrityError,
            r"expert-1/manifest\.json: is not the manifest that set 'pair' was made with",
        ),
        ({"set.json": b"{}"}, ManifestError, r"set\.json: "),
        ({"deep/set.json": b"{}", "manifest.json": b"{}"}, BundleError, r"has 2 times manifest\.json"),
        ({"set.json": None}, BundleError, r"has 2 times manifest\.json; wanted one bundle or set"),
    ],
)
def test_a_set_that_is_not_whole_is_not_imported(
    archive: Path, store: Store, change: dict[str, bytes | None], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        import_archive(changed(archive, change), store)
    assert contents(store.root) in ({}, {"lock": b""})


def test_experts_that_differ_in_more_than_weights_are_refused_on_arrival(archive: Path, store: Store) -> None:
    with zipfile.ZipFile(archive) as packed:
        facts, manifest = (json.loads(packed.read(name)) for name in ("set.json", "expert-2/manifest.json"))
    manifest["output"]["threshold"] = 0.25
    other = json.dumps(manifest).encode()
    facts["experts"][1]["manifest_sha256"] = hashlib.sha256(other).hexdigest()
    change: dict[str, bytes | None] = {"set.json": json.dumps(facts).encode(), "expert-2/manifest.json": other}
    with pytest.raises(ManifestError, match="expert-2 has another output than expert-1"):
        import_archive(changed(archive, change), store)


def test_a_bundle_of_the_name_is_replaced_by_force_only_and_back(archive: Path, store: Store, tmp_path: Path) -> None:
    bundle = pack(write_bundle(tmp_path / "pair", name="pair"), tmp_path / "bundle.zip")[0]
    import_archive(bundle, store)
    with pytest.raises(OutputError, match="pair exists; choose another folder, or replace it with --force"):
        import_archive(archive, store)
    assert import_archive(archive, store, force=True) == store.models / "pair"
    assert isinstance(open_model("pair"), BundleSet)
    before = (store.models / "pair" / "set.json").stat().st_mtime_ns
    import_archive(archive, store)
    assert (store.models / "pair" / "set.json").stat().st_mtime_ns == before, "it is here already"
    import_archive(bundle, store, force=True)
    assert open_bundle("pair").manifest.version == "1.0"


def test_a_set_is_offered_and_pulled(model_set: Path, site: Site, store: Store) -> None:
    write_bundle(model_set.parent / "single", name="single")
    write_index(model_set.parent)
    site.put_folder(model_set.parent, "")
    pair, single = offers(f"{site.url}/index.json")
    assert (pair.entry.name, pair.entry.head, single.entry.head) == ("pair", "set.json", "manifest.json")
    pulled = pull_bundle(pair, store)
    assert (pulled.path, pulled.was_there) == (store.models / "pair", False)
    assert contents(pulled.path) == contents(model_set)
    assert store.unfinished() == []
    assert pull_bundle(pair, store).was_there
    assert pair.entry.bytes == sum(map(len, contents(model_set).values())) - pair.entry.manifest.bytes


def test_a_site_that_serves_another_manifest_than_the_set_states_gives_nothing(
    model_set: Path, site: Site, store: Store
) -> None:
    write_index(model_set.parent)
    site.put_folder(model_set.parent, "")
    site.put("/pair/expert-2/manifest.json", b"{" * (2 << 20))
    with pytest.raises(DownloadError, match="more bytes, wanted 1048576"):
        pull_bundle(offers(f"{site.url}/index.json")[0], store)
    site.put("/pair/expert-2/manifest.json", json.dumps(manifest_data()).encode())
    with pytest.raises(DownloadError, match="what it has is another file"):
        pull_bundle(offers(f"{site.url}/index.json")[0], store)
    assert not store.models.exists()


def test_the_command_lists_shows_finds_packs_and_removes_a_set(
    archive: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runtime.directories._user_data", lambda: tmp_path / "nothing")
    monkeypatch.delenv("LITE_INFER_INDEX", raising=False)

    def run(*words: object) -> str:
        assert main(["models", *map(str, words)]) == 0
        return capsys.readouterr().out

    imported = run("import", archive).splitlines()
    assert imported[0].endswith(": A pair, licence Apache-2.0")
    assert imported[-1] == str(home / "models" / "pair")
    assert "A pair, licence Apache-2.0, a set for CT, PET, X-Ray, 0.0 MiB" in run("list")
    shown = json.loads(run("show", "pair", "--json"))["bundle"]
    assert (shown["modalities"], shown["precisions"]) == (["CT", "PET", "X-Ray"], ["float"])
    assert "a set for CT, PET, X-Ray" in run("show", "pair")
    assert run("path", "pair") == f"{home / 'models' / 'pair'}\n"
    assert run("pack", "pair", "-o", "again.zip").endswith(f"{hashlib.sha256(archive.read_bytes()).hexdigest()}\n")
    assert run("remove", "pair").startswith(f"removed {home / 'models' / 'pair'}")
    assert not (home / "models" / "pair").exists()


def test_where_one_bundle_is_wanted_a_set_names_those_in_it(model_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_INFER_MODELS", str(model_set.parent))
    for given in ("pair", model_set):
        with pytest.raises(BundleError, match=r"is a set of bundles; wanted one bundle: give one of .*pair.expert-1, "):
            open_bundle(given)

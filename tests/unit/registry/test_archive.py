"""Bundles that travel as zip archives arrive as they left, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import zipfile
from pathlib import Path

import pytest
from bundle_factory import write_bundle

from runtime.bundle import open_bundle
from runtime.errors import BundleError, BundleIntegrityError, ManifestError, OutputError
from runtime.registry.archive import import_archive, pack
from runtime.registry.store import Store

FILES = {"encoder.onnx": b"an encoder" * 500, "decoder.onnx": b"a decoder", "notes/CARD.md": b"a card"}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "source" / "tiny", FILES)


@pytest.fixture
def archive(bundle: Path, tmp_path: Path) -> Path:
    return pack(bundle, tmp_path / "tiny.zip")[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewritten(archive: Path, change: dict[str, bytes | None], prefix: str = "") -> Path:
    """The same archive with members replaced, or left out."""
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()}
    members |= {name: content for name, content in change.items() if content is not None}
    target = archive.with_name("changed.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, content in members.items():
            if change.get(name, b"") is not None:
                changed.writestr(prefix + name, content)
    return target


def assert_nothing_installed(store: Store) -> None:
    assert contents(store.root) in ({}, {"lock": b""})


def test_a_bundle_arrives_byte_for_byte_and_is_found_by_name(bundle: Path, archive: Path, store: Store) -> None:
    folder = import_archive(archive, store)
    assert folder == store.models / "tiny"
    assert contents(folder) == contents(bundle)
    opened = open_bundle("tiny")
    assert opened.folder == folder
    assert opened.path("notes/CARD.md").read_bytes() == b"a card"
    if os.name == "posix":
        umask = os.umask(0o022)
        os.umask(umask)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_packing_gives_the_same_bytes_every_time_and_states_their_digest(bundle: Path, tmp_path: Path) -> None:
    first, digest = pack(bundle, tmp_path / "1.zip")
    os.utime(bundle / "decoder.onnx", (10**9, 10**9))
    second, again = pack(bundle, tmp_path / "2.zip")
    assert first.read_bytes() == second.read_bytes()
    assert digest == again == hashlib.sha256(first.read_bytes()).hexdigest()


def test_the_archive_is_named_after_the_bundle(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert pack(bundle)[0] == Path("tiny-1.0.zip")
    with pytest.raises(OutputError, match=r"tiny-1\.0\.zip exists; choose another name, or replace it with --force"):
        pack(bundle)
    assert pack(bundle, force=True)[0].is_file()
    write_bundle(bundle, FILES, version="../2 b")
    assert pack(bundle)[0] == Path("tiny-.._2_b.zip")


def test_a_damaged_bundle_is_not_packed(bundle: Path, tmp_path: Path) -> None:
    (bundle / "decoder.onnx").write_bytes(b"A decoder")
    with pytest.raises(BundleIntegrityError, match=r"decoder\.onnx: sha256"):
        pack(bundle, tmp_path / "tiny.zip")
    assert not (tmp_path / "tiny.zip").exists()


def test_only_what_the_manifest_lists_travels(bundle: Path, archive: Path, tmp_path: Path, store: Store) -> None:
    (bundle / "private.txt").write_bytes(b"not listed")
    with zipfile.ZipFile(pack(bundle, tmp_path / "2.zip")[0]) as packed:
        assert set(packed.namelist()) == {"manifest.json", *FILES}
    folder = import_archive(rewritten(archive, {"virus.exe": b"not listed"}), store)
    assert not (folder / "virus.exe").exists()


def test_a_folder_zipped_by_hand_is_fine(bundle: Path, archive: Path, store: Store) -> None:
    by_hand = rewritten(archive, {}, prefix="tiny folder/")
    assert contents(import_archive(by_hand, store)) == contents(bundle)


def test_importing_again_changes_nothing(archive: Path, store: Store) -> None:
    folder = import_archive(archive, store)
    before = (folder / "decoder.onnx").stat().st_mtime_ns
    assert import_archive(archive, store) == folder
    assert (folder / "decoder.onnx").stat().st_mtime_ns == before


def test_another_bundle_of_the_name_is_replaced_by_force_only(archive: Path, tmp_path: Path, store: Store) -> None:
    import_archive(archive, store)
    other = pack(
        write_bundle(tmp_path / "other", {**FILES, "decoder.onnx": b"better"}, version="2"), tmp_path / "o.zip"
    )
    with pytest.raises(OutputError, match=r"tiny exists; choose another folder, or replace it with --force"):
        import_archive(other[0], store)
    assert open_bundle("tiny").manifest.version == "1.0"
    import_archive(other[0], store, force=True)
    assert open_bundle("tiny").path("decoder.onnx").read_bytes() == b"better"


def test_the_digest_of_the_archive_is_checked_where_it_is_given(archive: Path, store: Store) -> None:
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(BundleIntegrityError, match=rf"sha256 {digest}, wanted 0000.*; copy the archive again"):
        import_archive(archive, store, sha256="0" * 64)
    assert_nothing_installed(store)
    import_archive(archive, store, sha256=digest)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"encoder.onnx": b"AN encoder" * 500}, BundleIntegrityError, "encoder.onnx has sha256"),
        ({"encoder.onnx": b"short"}, BundleIntegrityError, "encoder.onnx has 5 bytes, wanted 5000"),
        (
            {"encoder.onnx": None, "notes/CARD.md": None},
            BundleIntegrityError,
            "encoder.onnx is missing; notes/CARD.md is",
        ),
        ({"manifest.json": None}, BundleError, "has no manifest.json; wanted one bundle"),
        ({"manifest.json": b"{"}, ManifestError, "not valid JSON"),
        ({"sub/manifest.json": b"{}"}, BundleError, "has 2 times manifest.json"),
        ({"manifest.json": b" " * (1 << 20) + b"{}"}, BundleError, "manifest.json has more than 1048576 bytes"),
        ({"../evil": b"x"}, BundleError, "a name that leads elsewhere"),
    ],
    ids=range(8),
)
def test_an_archive_that_is_not_as_it_should_be_installs_nothing(
    archive: Path, store: Store, change: dict[str, bytes | None], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        import_archive(rewritten(archive, change), store)
    assert_nothing_installed(store)


def test_a_manifest_that_lists_paths_elsewhere_installs_nothing(archive: Path, store: Store) -> None:
    with zipfile.ZipFile(archive) as source:
        data = json.loads(source.read("manifest.json"))
    data["files"]["../../evil"] = data["files"]["decoder.onnx"]
    with pytest.raises(ManifestError, match="is not a plain relative path"):
        import_archive(rewritten(archive, {"manifest.json": json.dumps(data).encode()}), store)
    data["files"] = {**data["files"], "manifest.json": data["files"].pop("../../evil")}
    with pytest.raises(ManifestError, match=r"lists manifest\.json itself"):
        import_archive(rewritten(archive, {"manifest.json": json.dumps(data).encode()}), store)
    assert_nothing_installed(store)


def test_a_damaged_or_missing_archive_is_said_so(archive: Path, tmp_path: Path, store: Store) -> None:
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(BundleError, match="is damaged, or no zip archive"):
        import_archive(archive, store)
    with pytest.raises(BundleError, match=r"nowhere\.zip: does not exist"):
        import_archive(tmp_path / "nowhere.zip", store)
    assert_nothing_installed(store)


def test_an_import_that_is_interrupted_leaves_nothing(
    archive: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "install", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_archive(archive, store)
    assert_nothing_installed(store)
    assert import_archive(archive, store).is_dir()

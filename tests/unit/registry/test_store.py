"""The store keeps each file once, forgets nothing that is needed, and survives those who died while changing it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from bundle_factory import write_bundle
from engines import start_python

from runtime.arrival import REPLACED
from runtime.bundle import open_bundle
from runtime.errors import BundleError, BundleIntegrityError, OutputError
from runtime.registry import lock
from runtime.registry.archive import import_archive, pack
from runtime.registry.store import Store

BIG = b"shared by both" * 1000


@pytest.fixture
def two(tmp_path: Path, store: Store) -> Store:
    """A store with the bundles `one` and `two`, which share their encoder."""
    for name in ("one", "two"):
        files = {"encoder.onnx": BIG, "decoder.onnx": name.encode()}
        folder = write_bundle(tmp_path / name, files, name=name)
        import_archive(pack(folder, tmp_path / f"{name}.zip")[0], store)
    return store


def blobs(store: Store) -> set[str]:
    return {path.name for path in store.blobs.iterdir()}


def test_bundles_share_what_is_equal(two: Store) -> None:
    assert len(blobs(two)) == 3
    files = [two.models / name / "encoder.onnx" for name in ("one", "two")]
    assert files[0].samefile(files[1])
    assert two.bytes() < 2 * len(BIG)
    assert two.unfinished() == []


def test_removing_a_bundle_keeps_what_the_other_needs(two: Store) -> None:
    removed = two.remove("one")
    assert removed.folders == (two.models / "one",)
    assert removed.bytes < len(BIG)
    assert open_bundle("two").path("encoder.onnx").read_bytes() == BIG
    assert len(blobs(two)) == 2
    assert two.remove("two").bytes > len(BIG)
    assert blobs(two) == set()
    with pytest.raises(BundleError, match=r"holds no 'two'; lite-infer models list shows"):
        two.remove("two")


@pytest.mark.parametrize("name", ["..", ".", "", "../models/one", "../../canary", "a/../one", ".hidden", "one/"])
def test_only_names_can_be_removed(two: Store, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    for refused in (name, str(canary)):  # never a folder that is not the test's own
        with pytest.raises(BundleError, match="is no name of a bundle"):
            two.remove(refused)
        with pytest.raises(BundleError, match="is no name of a bundle"):
            two.checkpoint(refused)
        with pytest.raises(BundleError, match="is no name of a bundle"):
            two.is_wanted(refused, "0" * 64, force=True)
    assert canary.is_dir()
    assert open_bundle("one").path("encoder.onnx").is_file()
    assert open_bundle("two").path("encoder.onnx").is_file()


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder outside the store, with a file that no test may lose."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("precious", encoding="utf-8")
    return tmp_path / "precious"


def linked(place: Path, target: Path) -> None:
    try:
        place.symlink_to(target, target_is_directory=target.is_dir())
    except OSError:
        pytest.skip("links cannot be made here")


def untouched(precious: Path) -> bool:
    return [path.name for path in precious.iterdir()] == ["file"] and (precious / "file").read_text() == "precious"


def test_a_bundle_that_is_a_link_is_not_removed(two: Store, tmp_path: Path, precious: Path) -> None:
    outside = (two.models / "one").rename(tmp_path / "outside")
    linked(two.models / "one", outside)
    linked(two.models / "three", precious)
    before = sorted(path.name for path in outside.iterdir())
    for name in ("one", "three"):
        with pytest.raises(OutputError, match=r"is a link|is nothing that lite-infer fetched"):
            two.remove(name)
    assert sorted(path.name for path in outside.iterdir()) == before
    assert untouched(precious)


@pytest.mark.parametrize("kind", ["models", "checkpoints", "blobs"])
def test_a_store_whose_folders_lead_elsewhere_is_not_changed(two: Store, tmp_path: Path, kind: str) -> None:
    place = two.root / kind
    outside = tmp_path / "outside"
    if place.exists():
        place.rename(outside)
    outside.mkdir(exist_ok=True)
    (outside / ("0" * 64)).write_bytes(b"precious")
    (outside / ".lite-infer.one.abc").mkdir()
    before = sorted(path.name for path in outside.rglob("*"))
    linked(place, outside)
    with pytest.raises(OutputError, match="is a link, and lite-infer changes nothing outside"), two.changing():
        pass
    for change in (lambda: two.remove("one"), two.remove_unfinished):
        with pytest.raises(OutputError, match="is a link, and lite-infer changes nothing outside"):
            change()
    assert sorted(path.name for path in outside.rglob("*")) == before


def test_links_inside_a_bundle_are_not_followed(two: Store, precious: Path) -> None:
    (two.models / "one" / "encoder.onnx").unlink()
    linked(two.models / "one" / "encoder.onnx", precious / "file")
    linked(two.models / "two" / "notes", precious)
    two.remove("one")
    with pytest.raises(OutputError, match="two holds notes, which lite-infer did not put there"):
        two.remove("two")
    assert open_bundle("two").path("encoder.onnx").is_file()
    assert untouched(precious)


def test_what_is_left_half_made_is_told_from_what_is_not_ours(two: Store, precious: Path) -> None:
    linked(two.models / ".lite-infer.link", precious)
    shutil.copytree(precious, two.models / ".git")
    shutil.copytree(precious, two.models / ".one.old")
    shutil.copytree(precious, two.models / ".lite-infer.one.abc")
    with two.changing():
        pass
    assert untouched(precious)
    assert untouched(two.models / ".git")
    assert untouched(two.models / ".one.old")
    assert not (two.models / ".lite-infer.one.abc").exists()


def test_without_a_lock_nothing_is_tidied_up(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(_: int) -> None:
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(lock, "_take", unsupported)
    (two.models / ".lite-infer.one.abc").mkdir()
    with two.changing():
        assert (two.models / ".lite-infer.one.abc").is_dir(), "another process may be at work on it"


@pytest.mark.parametrize("manifest", [None, "{}", '{"name": "a web page"}'])
def test_a_folder_that_is_no_bundle_is_not_removed(two: Store, precious: Path, manifest: str | None) -> None:
    mine = shutil.copytree(precious, two.models / "mine")
    if manifest is not None:
        (mine / "manifest.json").write_text(manifest, encoding="utf-8")
    (mine / "SHA256SUMS").write_text("0" * 64 + "  file\n", encoding="utf-8")
    with pytest.raises(OutputError, match="is nothing that lite-infer fetched, or damaged, so it stays"):
        two.remove("mine")
    assert (mine / "file").is_file()


def test_a_bundle_with_anything_else_in_it_is_neither_removed_nor_replaced(
    two: Store, tmp_path: Path, precious: Path
) -> None:
    shutil.copytree(precious, two.models / "one" / "notes")
    (two.models / "one" / ".DS_Store").touch()
    with pytest.raises(OutputError, match="one holds notes, which lite-infer did not put there; move that elsewhere"):
        two.remove("one")
    with pytest.raises(OutputError, match="one holds notes"):
        import_archive(tmp_path / "one.zip", two, force=True)
    assert untouched(two.models / "one" / "notes")
    shutil.rmtree(two.models / "one" / "notes")
    import_archive(tmp_path / "one.zip", two, force=True)
    two.remove("one")
    assert [path.name for path in two.models.iterdir()] == ["two"]


def test_a_damaged_bundle_is_mended_by_importing_it_again(two: Store, tmp_path: Path) -> None:
    file = two.models / "one" / "encoder.onnx"
    file.write_bytes(b"damaged")
    with pytest.raises(BundleIntegrityError):
        open_bundle("one").path("encoder.onnx")
    import_archive(tmp_path / "one.zip", two)
    assert open_bundle("one").path("encoder.onnx").read_bytes() == BIG


def test_without_hard_links_files_are_copied_and_the_blobs_go(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    folder = write_bundle(tmp_path / "one", {"encoder.onnx": BIG, "decoder.onnx": BIG}, name="one")
    import_archive(pack(folder, tmp_path / "one.zip")[0], store)
    assert blobs(store) == set()
    assert open_bundle("one").path("decoder.onnx").read_bytes() == BIG
    assert store.remove("one").bytes >= 2 * len(BIG)


def test_what_was_begun_and_never_completed_can_be_removed(two: Store) -> None:
    (two.blobs / ("0" * 64 + ".part")).write_bytes(b"begun")
    (two.blobs / ("1" * 64)).write_bytes(b"complete")
    assert [path.name[:1] for path in two.unfinished()] == ["0", "1"]
    assert two.remove_unfinished() == 13
    assert two.unfinished() == []
    assert open_bundle("one").path("encoder.onnx").is_file()


def test_a_bundle_whose_replacement_never_came_is_brought_back(two: Store) -> None:
    attic = two.models / ".lite-infer.one.abc"
    attic.mkdir()
    (two.models / "one").rename(attic / REPLACED)
    (two.models / ".lite-infer.two.xyz").mkdir()
    shutil.copytree(two.models / "two", two.models / ".lite-infer.two.def" / REPLACED)
    with two.changing():
        pass
    assert open_bundle("one").path("encoder.onnx").read_bytes() == BIG
    assert sorted(path.name for path in two.models.iterdir()) == ["one", "two"]


HOLD = """
import sys, time
from pathlib import Path
from runtime.registry.store import Store
with Store(Path(sys.argv[1])).changing():
    print("held", flush=True)
    time.sleep(60)
"""


def test_one_process_at_a_time_and_a_dead_one_is_in_nobodys_way(store: Store) -> None:
    process = start_python(HOLD, store.root)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match="another lite-infer is changing the models there"), store.changing():
        pass
    process.kill()
    process.wait()
    with store.changing():
        pass


def test_a_store_that_cannot_be_made_says_how_to_move_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    store = Store(tmp_path / "file" / "home")
    with pytest.raises(OutputError, match="set LITE_INFER_HOME to a folder of yours"), store.changing():
        pass


IMPORT = """
import sys
from pathlib import Path
from runtime.registry.archive import import_archive
from runtime.registry.store import Store
store = Store(Path(sys.argv[1]))
archives = [Path(name) for name in sys.argv[2:]]
print("started", flush=True)
while True:
    for archive in archives:
        import_archive(archive, store, force=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_bundle_is_whole_after_every_kill(tmp_path: Path, store: Store) -> None:
    archives = []
    for version in ("1", "2"):
        files = {f"part{i}": version.encode() * 10_000 for i in range(8)}
        graphs = {"float": {"encoder": {"onnx": "part0"}, "decoder": {"onnx": "part1"}}}
        folder = write_bundle(tmp_path / version, files, name="one", version=version, graphs=graphs)
        archives.append(pack(folder, tmp_path / f"{version}.zip")[0])
    import_archive(archives[0], store)
    for round_ in range(3):
        process = start_python(IMPORT, store.root, *archives)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.01 + 0.03 * round_)
        process.kill()
        process.wait()
        with store.changing():
            pass
        bundle = open_bundle("one")
        for relative in bundle.manifest.files:
            assert bundle.path(relative).read_bytes()[:1] == bundle.manifest.version.encode()
        assert [path.name for path in store.models.iterdir()] == ["one"]

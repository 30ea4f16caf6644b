"""Compiled graphs on disk: bounded, those used longest ago go first, and nothing else is ever removed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bundle_factory import write_bundle
from engines import skip_without
from tiny_graphs import PRODUCT, SUM

from runtime import backends
from runtime.backends import BackendOptions, graph_cache, open_backend
from runtime.backends.graph_cache import clear_graphs, compiled_graphs, drop_damaged, prune_graphs, record_digests
from runtime.bundle import open_bundle
from runtime.errors import OutputError


def put(root: Path, digest: str, setting: str = "1.0-fp32", size: int = 1000, age: int = 0) -> Path:
    folder = root / (digest * 16) / setting
    folder.mkdir(parents=True)
    (folder / "123.blob").write_bytes(bytes(size))
    os.utime(folder, (10**9 - age, 10**9 - age))
    return folder


def test_graphs_are_listed_with_their_sizes_oldest_first(tmp_path: Path) -> None:
    old, new = put(tmp_path, "b", size=7, age=50), put(tmp_path, "a", age=3)
    (tmp_path / "bf16_probe").mkdir()
    (tmp_path / "bf16_probe" / "1.blob").write_bytes(b"..")
    found = compiled_graphs(tmp_path)
    assert [(graph.folder, graph.bytes) for graph in found] == [(old, 7), (new, 1000), (tmp_path / "bf16_probe", 2)]
    assert compiled_graphs(tmp_path / "nowhere") == []


def test_beyond_the_limit_those_used_longest_ago_go(tmp_path: Path) -> None:
    folders = [put(tmp_path, digit, age=age) for digit, age in (("a", 10), ("b", 40), ("c", 30), ("d", 20))]
    assert prune_graphs(tmp_path, opened=folders[0], limit_bytes=4000) == 0
    assert prune_graphs(tmp_path, opened=folders[0], limit_bytes=2999) == 2
    assert [graph.folder for graph in compiled_graphs(tmp_path)] == [folders[3], folders[0]]
    assert {path.name for path in tmp_path.iterdir()} == {"a" * 16, "d" * 16}, "no empty folder stays"


def test_the_graph_in_use_stays_even_if_it_alone_is_too_large(tmp_path: Path) -> None:
    large, other = put(tmp_path, "a", size=9000, age=99), put(tmp_path, "b")
    assert prune_graphs(tmp_path, opened=large, limit_bytes=5000) == 1
    assert [graph.folder for graph in compiled_graphs(tmp_path)] == [large]
    assert not other.exists()


def test_opening_a_graph_counts_as_use(tmp_path: Path) -> None:
    old, new = put(tmp_path, "a", age=99), put(tmp_path, "b", age=1)
    prune_graphs(tmp_path, opened=old, limit_bytes=10**6)
    assert [graph.folder for graph in compiled_graphs(tmp_path)] == [new, old]


def test_clearing_removes_all_graphs_and_leaves_what_is_not_ours(tmp_path: Path) -> None:
    put(tmp_path, "a")
    put(tmp_path, "a", "2.0-bf16")
    kept = put(tmp_path, "b").with_name("notes.txt")
    kept.write_text("mine", encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.blob").write_bytes(b"mine")
    assert clear_graphs(tmp_path) == 3
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        f"{'b' * 16}/notes.txt",
        "other/x.blob",
    }
    assert clear_graphs(tmp_path) == 0


def test_a_cleared_folder_goes_when_nothing_is_left(tmp_path: Path) -> None:
    put(tmp_path / "graphs", "a")
    clear_graphs(tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []
    assert clear_graphs(tmp_path / "graphs") == 0


@pytest.mark.skipif(os.name != "posix", reason="POSIX links")
def test_links_are_neither_followed_nor_removed(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside", "a")
    root = tmp_path / "graphs"
    put(root, "b")
    (root / ("c" * 16)).symlink_to(outside.parent)
    (root / ("b" * 16) / "1.0-fp32" / "link.blob").symlink_to(outside / "123.blob")
    assert clear_graphs(root) == 1
    assert (outside / "123.blob").stat().st_size == 1000
    assert (root / ("c" * 16)).is_symlink()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs folders that refuse to be changed")
def test_what_cannot_be_removed_is_named_when_clearing_and_left_when_pruning(tmp_path: Path) -> None:
    folder, other = put(tmp_path, "a", age=9), put(tmp_path, "b")
    folder.chmod(0o500)
    assert prune_graphs(tmp_path, opened=other, limit_bytes=1) == 0
    with pytest.raises(OutputError, match=r"cannot clear .*Permission denied"):
        clear_graphs(tmp_path)
    folder.chmod(0o700)


def test_an_opened_graph_makes_room_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without("openvino")
    contents = {"encoder.onnx": PRODUCT.save(tmp_path / "a.onnx"), "decoder.onnx": SUM.save(tmp_path / "b.onnx")}
    bundle = open_bundle(write_bundle(tmp_path / "bundle", {k: v.read_bytes() for k, v in contents.items()}))
    options = BackendOptions(threads=1, cache_directory=tmp_path / "graphs")
    open_backend("openvino", bundle, "encoder", options).close()
    (encoder,) = compiled_graphs(tmp_path / "graphs")
    monkeypatch.setattr(backends, "LIMIT_BYTES", 1)
    open_backend("openvino", bundle, "decoder", options).close()
    (decoder,) = compiled_graphs(tmp_path / "graphs")
    assert decoder.folder.parent != encoder.folder.parent
    assert not encoder.folder.exists(), "its recorded digest goes with it"
    assert decoder.folder.name == encoder.folder.name
    assert decoder.folder.name.endswith("-fp32-plain")


def test_a_graph_that_another_process_replaces_meanwhile_is_recorded_as_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = tmp_path / "a.blob"
    blob.write_bytes(b"ours")
    digest_of = graph_cache.sha256_of

    def replaced_after_the_first_look(path: Path) -> str:
        digest = digest_of(path)
        if path.read_bytes() == b"ours":
            path.write_bytes(b"theirs")
        return digest

    with monkeypatch.context() as patch:
        patch.setattr(graph_cache, "sha256_of", replaced_after_the_first_look)
        record_digests(tmp_path)
    assert drop_damaged(tmp_path) == 0
    assert blob.read_bytes() == b"theirs"

"""Bundles are found where they should be, and no file of one is used unverified."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from bundle_factory import write_bundle

from runtime import bundle as bundle_module
from runtime.bundle import available_bundles, open_bundle, search_folders
from runtime.errors import BundleError, BundleIntegrityError, BundleVersionError, ManifestError

IR = {"encoder.xml": b"<net/>", "encoder.bin": b"weights", "decoder.onnx": b"a decoder"}
IR_GRAPHS = {"float": {"encoder": {"openvino": "encoder.xml"}, "decoder": {"onnx": "decoder.onnx"}}}


def link(place: Path, target: Path) -> None:
    """Make a symbolic link, or skip the test where the system does not let this user."""
    try:
        place.symlink_to(target, target_is_directory=target.is_dir())
    except OSError as error:
        pytest.skip(f"this user may not make symbolic links ({error})")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders of each kind that is searched, in order; nothing of this machine is."""
    found = {name: tmp_path / name for name in ("first", "second", "home/models", "data/models", "package")}
    for folder in found.values():
        folder.mkdir(parents=True)
    monkeypatch.setenv("LITE_INFER_MODELS", os.pathsep.join([str(found["first"]), str(found["second"])]))
    monkeypatch.setenv("LITE_INFER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_args, **_keywords: tmp_path / "data")
    monkeypatch.setattr(bundle_module, "_packaged_folder", lambda: found["package"])
    monkeypatch.chdir(tmp_path)
    return found


def test_a_folder_with_a_manifest_opens(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "some where" / "tiny")
    bundle = open_bundle(folder)
    assert bundle.manifest.name == "tiny"
    assert bundle.folder == folder
    assert open_bundle(str(folder)) == bundle


def test_a_relative_path_stays_valid_after_a_change_of_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bundle(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    bundle = open_bundle("./tiny")
    monkeypatch.chdir("/")
    assert bundle.path("encoder.onnx").read_bytes() == b"an encoder"


def test_folders_are_searched_in_the_documented_order(places: dict[str, Path]) -> None:
    assert search_folders() == tuple(places.values())
    for folder in reversed(places.values()):
        write_bundle(folder / "tiny")
        assert open_bundle("tiny").folder == folder / "tiny"


def test_without_variables_the_platform_folder_and_the_package_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LITE_INFER_MODELS", raising=False)
    monkeypatch.delenv("LITE_INFER_HOME", raising=False)
    user, packaged = search_folders()
    assert user.parts[-2:] == ("lite-infer", "models")
    assert packaged == Path(bundle_module.__file__).parent / "models"


def test_no_name_means_the_packaged_bundle_even_where_others_are_called_default(places: dict[str, Path]) -> None:
    write_bundle(places["first"] / "default", version="wrong")
    write_bundle(places["package"] / "default", version="right")
    assert open_bundle().manifest.version == "right"
    assert open_bundle("default").manifest.version == "wrong"


def test_a_missing_packaged_bundle_says_to_install_again(places: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match=r"default: the bundle that ships with lite-infer is missing; install"):
        open_bundle()


def test_a_bare_word_is_a_name_first_and_a_folder_here_second(places: dict[str, Path], tmp_path: Path) -> None:
    here = write_bundle(tmp_path / "tiny", version="here")
    assert open_bundle("tiny").folder == here
    write_bundle(places["package"] / "tiny", version="named")
    assert open_bundle("tiny").manifest.version == "named"
    assert open_bundle("./tiny").manifest.version == "here"
    assert open_bundle(Path("tiny")).manifest.version == "here"


def test_an_unknown_name_lists_the_names_and_the_folders(places: dict[str, Path]) -> None:
    write_bundle(places["first"] / "alpha")
    write_bundle(places["package"] / "beta")
    with pytest.raises(BundleError, match=r"no bundle 'gamma'; found by name: alpha, beta; looked in ") as caught:
        open_bundle("gamma")
    assert all(str(folder) in str(caught.value) for folder in places.values())


def test_an_unknown_name_where_there_is_nothing_says_none(places: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match=r"found by name: none; looked in"):
        open_bundle("gamma")


@pytest.mark.parametrize("name", ["", ".", "..", "../tiny", "tiny/../../tiny", "a b", "ti\0ny", "-", "x" * 65])
def test_a_name_never_leads_out_of_the_folders_searched(places: dict[str, Path], tmp_path: Path, name: str) -> None:
    write_bundle(tmp_path.parent / f"outside-{tmp_path.name}")
    with pytest.raises(BundleError, match=r"wanted a bundle's folder|no bundle"):
        open_bundle(name)


def test_a_folder_without_a_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json; wanted a bundle's folder"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match=r"nowhere: is no folder with manifest\.json"):
        open_bundle(tmp_path / "nowhere")


def test_listing_names_each_bundle_once_where_it_would_be_opened(places: dict[str, Path]) -> None:
    write_bundle(places["second"] / "tiny")
    write_bundle(places["package"] / "tiny")
    write_bundle(places["package"] / "default")
    (places["first"] / "empty").mkdir()
    (places["first"] / "a file").write_text("")
    listed = available_bundles()
    assert [(entry.name, entry.folder) for entry in listed] == [
        ("default", places["package"] / "default"),
        ("tiny", places["second"] / "tiny"),
    ]
    assert [open_bundle(entry.name).folder for entry in listed] == [entry.folder for entry in listed]


def test_a_newer_bundle_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, layout_revision=4)
    with pytest.raises(BundleVersionError, match=r"layout_revision 4, this version reads up to 1; upgrade"):
        open_bundle(folder)


def test_a_broken_manifest_is_refused(tmp_path: Path) -> None:
    (write_bundle(tmp_path) / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        open_bundle(tmp_path)


def test_a_changed_file_shows_both_digests_and_what_to_do(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").write_bytes(b"an ENCODER")
    with pytest.raises(
        BundleIntegrityError, match=r"encoder\.onnx: sha256 \w{12}\.\.\., wanted \w{12}\.\.\.; .*download"
    ):
        open_bundle(folder).path("encoder.onnx")


def test_a_truncated_file_shows_both_sizes(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").write_bytes(b"an")
    with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx: has 2 bytes; wanted 10; the file is damaged"):
        open_bundle(folder).path("encoder.onnx")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").unlink()
    with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx: the file is missing"):
        open_bundle(folder).path("encoder.onnx")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").mkdir()
    with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx: (has|cannot be read)"):
        open_bundle(folder).path("encoder.onnx")


@pytest.mark.parametrize("relative", ["/etc/passwd", "../encoder.onnx", "encoder.onnx/..", "other.onnx", ""])
def test_a_file_that_the_manifest_does_not_list_is_refused(tmp_path: Path, relative: str) -> None:
    folder = write_bundle(tmp_path / "tiny")
    (folder / "other.onnx").write_bytes(b"an encoder")
    with pytest.raises(BundleError, match="is not listed in files, so it cannot be verified"):
        open_bundle(folder).path(relative)


def test_a_link_out_of_the_folder_is_refused_although_the_content_is_right(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    outside = tmp_path / "outside"
    (folder / "encoder.onnx").rename(outside)
    link(folder / "encoder.onnx", outside)
    with pytest.raises(BundleIntegrityError, match=r"encoder\.onnx: leads out of the bundle, to .*outside"):
        open_bundle(folder).path("encoder.onnx")


def test_a_linked_folder_inside_a_bundle_is_refused(tmp_path: Path) -> None:
    graphs = {"float": {"encoder": {"onnx": "sub/encoder.onnx"}, "decoder": {"onnx": "sub/encoder.onnx"}}}
    folder = write_bundle(tmp_path / "tiny", {"sub/encoder.onnx": b"an encoder"}, graphs=graphs)
    (folder / "sub").rename(tmp_path / "sub")
    link(folder / "sub", tmp_path / "sub")
    with pytest.raises(BundleIntegrityError, match="leads out of the bundle"):
        open_bundle(folder).path("sub/encoder.onnx")


def test_a_link_that_stays_inside_is_fine(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").rename(folder / "blob")
    link(folder / "encoder.onnx", Path("blob"))
    assert open_bundle(folder).path("encoder.onnx") == folder / "blob"


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").unlink()
    link(folder / "encoder.onnx", Path("encoder.onnx"))
    with pytest.raises(BundleIntegrityError, match="the file is missing"):
        open_bundle(folder).path("encoder.onnx")


def test_a_bundle_behind_a_link_works(tmp_path: Path) -> None:
    write_bundle(tmp_path / "real")
    link(tmp_path / "link", tmp_path / "real")
    assert open_bundle(tmp_path / "link").path("encoder.onnx").read_bytes() == b"an encoder"


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(write_bundle(tmp_path))
    hashed: list[Path] = []
    verify = bundle_module._verify
    monkeypatch.setattr(bundle_module, "_verify", lambda path, *rest: (hashed.append(path), verify(path, *rest)))
    assert bundle.path("encoder.onnx") == bundle.path("encoder.onnx")
    bundle.path("decoder.onnx")
    assert [path.name for path in hashed] == ["encoder.onnx", "decoder.onnx"]


def test_a_damaged_file_is_refused_again_on_the_second_request(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path)
    (folder / "encoder.onnx").write_bytes(b"an ENCODER")
    bundle = open_bundle(folder)
    for _ in range(2):
        with pytest.raises(BundleIntegrityError, match="sha256"):
            bundle.path("encoder.onnx")


def test_threads_that_ask_together_get_the_same_path(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path))
    start = threading.Barrier(8)
    found: list[Path] = []

    def ask() -> None:
        start.wait()
        found.append(bundle.path("encoder.onnx"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [tmp_path / "encoder.onnx"] * 8


def test_float_precisions_share_the_float_graphs(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path))
    assert bundle.graph_set("fp32") == bundle.graph_set("bf16") == bundle.graph_set("fp16")
    assert bundle.graph("decoder").onnx == "decoder.onnx"


def test_missing_int8_graphs_are_an_error_that_names_what_there_is(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path))
    with pytest.raises(BundleError, match=r"bundle 'tiny' has no int8 graphs, only float; choose another precision"):
        bundle.graph_set("int8")


def test_int8_graphs_are_used_where_there_are_some(tmp_path: Path) -> None:
    files = {name: name.encode() for name in ("encoder.onnx", "decoder.onnx", "encoder_int8.onnx")}
    decoder = {"onnx": "decoder.onnx"}
    graphs = {
        "float": {"encoder": {"onnx": "encoder.onnx"}, "decoder": decoder},
        "int8": {"encoder": {"onnx": "encoder_int8.onnx"}, "decoder": decoder},
    }
    bundle = open_bundle(write_bundle(tmp_path, files, graphs=graphs))
    assert bundle.graph_path("encoder", "int8", ("onnx",)).name == "encoder_int8.onnx"
    assert bundle.graph_sha256("encoder", "int8") != bundle.graph_sha256("encoder", "fp32")
    assert bundle.graph_sha256("decoder", "int8") == bundle.graph_sha256("decoder", "fp32")


def test_an_unknown_role_lists_the_roles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no graph 'neck'; it has decoder, encoder"):
        open_bundle(write_bundle(tmp_path)).graph("neck")


def test_formats_are_taken_in_the_order_of_preference(tmp_path: Path) -> None:
    both = {"onnx": "decoder.onnx", "openvino": "encoder.xml"}
    graphs = {"float": {"encoder": both, "decoder": {"onnx": "decoder.onnx"}}}
    bundle = open_bundle(write_bundle(tmp_path, IR, graphs=graphs))
    assert bundle.graph_path("encoder", "fp32", ("openvino", "onnx")).name == "encoder.xml"
    assert bundle.graph_path("encoder", "fp32", ("onnx", "openvino")).name == "decoder.onnx"
    assert bundle.graph_path("decoder", "fp32", ("openvino", "onnx")).name == "decoder.onnx"


def test_a_format_that_the_bundle_lacks_is_an_error(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path, IR, graphs=IR_GRAPHS))
    with pytest.raises(BundleError, match=r"carries its encoder as openvino; wanted onnx; choose another backend"):
        bundle.graph_path("encoder", "fp32", ("onnx",))


def test_the_weights_beside_an_ir_are_verified_with_it(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, IR, graphs=IR_GRAPHS)
    (folder / "encoder.bin").write_bytes(b"WEIGHTS")
    with pytest.raises(BundleIntegrityError, match=r"encoder\.bin: sha256"):
        open_bundle(folder).graph_path("encoder", "fp32", ("openvino",))


def test_the_digest_of_an_ir_changes_with_its_weights(tmp_path: Path) -> None:
    digests = []
    for index, weights in enumerate((b"weights", b"WEIGHTS")):
        folder = write_bundle(tmp_path / str(index), {**IR, "encoder.bin": weights}, graphs=IR_GRAPHS)
        digests.append(open_bundle(folder).graph_sha256("encoder", "fp32", ("openvino",)))
    assert digests[0] != digests[1]
    assert all(len(digest) == 64 for digest in digests)

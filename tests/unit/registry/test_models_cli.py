"""``lite-infer models`` as a user types it: what is printed, what is done, how it ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from bundle_factory import write_bundle
from command_line import Finished, Runner
from PIL import Image
from tiny_bundle import disc, tiny_bundle
from web_site import Site

from runtime.cli import main
from runtime.registry import pull

FILES = {"encoder.onnx": b"an encoder" * 300, "decoder.onnx": b"a decoder"}
SAM_SHA256 = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    """Run ``lite-infer`` in an empty folder, with a store of its own, no index named and no model of the user's."""
    for name in ("LITE_INFER_INDEX", "LITE_INFER_ENDPOINT", "LITE_INFER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("runtime.directories._user_data", lambda: tmp_path / "nothing")

    def runner(*words: object) -> Finished:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return runner


@pytest.fixture
def archive(run: Runner, tmp_path: Path) -> Path:
    """A real tiny bundle, packed."""
    tiny_bundle(tmp_path / "source" / "tiny")
    assert run("models", "pack", tmp_path / "source" / "tiny", "-o", tmp_path / "tiny.zip").code == 0
    return tmp_path / "tiny.zip"


@pytest.fixture
def index(site: Site, tmp_path: Path, run: Runner) -> str:
    """URL of a site's index, which offers the bundle `small`."""
    write_bundle(tmp_path / "site" / "small", FILES, name="small", title="Small \x1b[31mbundle")
    assert run("models", "index", tmp_path / "site").out == f"{tmp_path / 'site' / 'index.json'}\n"
    site.put_folder(tmp_path / "site", "")
    return f"{site.url}/index.json"


def test_an_imported_bundle_segments_by_its_name(run: Runner, archive: Path, tmp_path: Path, home: Path) -> None:
    finished = run("models", "import", archive)
    assert finished.code == 0, finished.err
    assert finished.out.splitlines()[-1] == str(home / "models" / "tiny")
    image, _ = disc()
    Image.fromarray(image).save(tmp_path / "photo.png")
    words = (tmp_path / "photo.png", "--box", "10,10,50,40", "--backend", "onnxruntime", "--no-cache", "--json")
    segmented = run(*words, "--bundle", "tiny")
    assert segmented.code == 0, segmented.err
    assert segmented.json["bundle"] == "tiny 1.0"
    assert run("models", "remove", "tiny").code == 0
    gone = run(*words, "--bundle", "tiny")
    assert (gone.code, "no bundle 'tiny'" in gone.err) == (4, True)


def test_packing_says_the_digest_that_import_checks(run: Runner, archive: Path, tmp_path: Path) -> None:
    packed = run("models", "pack", tmp_path / "source" / "tiny")
    path, digest = packed.out.splitlines()
    assert path == "tiny-1.0.zip"
    assert digest == f"sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    refused = run("models", "import", path, "--sha256", "0" * 64)
    assert (refused.code, "copy the archive again" in refused.err) == (4, True)
    assert run("models", "import", path, "--sha256", f"SHA256:{digest.split()[1].upper()}").code == 0
    assert run("models", "pack", "tiny").code == 6, "the archive is there already"


def test_a_bundle_is_listed_pulled_shown_found_and_removed(run: Runner, index: str, home: Path) -> None:
    listed = run("models", "list", "--index", index)
    assert listed.code == 0
    assert "  small 1.0: Small  [31mbundle, licence Apache-2.0, 0.0 MiB" in listed.out.splitlines()
    pulled = run("models", "pull", "small", "--index", index)
    assert pulled.out.splitlines() == [
        "small 1.0: Small  [31mbundle, licence Apache-2.0",
        str(home / "models" / "small"),
    ]
    assert "is here already" in run("models", "pull", "small", "--index", index).out
    shown = run("models", "show", "small", "--json").json
    assert (shown["bundle"]["name"], shown["bundle"]["bytes"], list(shown)) == ("small", 3009, ["bundle"])
    assert run("models", "path", "small").out == f"{home / 'models' / 'small'}\n"
    removed = run("models", "remove", "small")
    assert removed.out.startswith(f"removed {home / 'models' / 'small'} (0.0 MiB)")
    assert run("models", "path", "small").code == 4


def test_the_environment_names_the_index(run: Runner, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITE_INFER_INDEX", index)
    assert [each["name"] for each in run("models", "list", "--json").json["offered"]] == ["small"]
    assert "offered: small 1.0" in run("models", "show", "small").out
    assert run("models", "pull", "small", "-q").code == 0


def test_list_tells_what_is_here_and_what_is_published(run: Runner, archive: Path, home: Path) -> None:
    run("models", "import", archive)
    (home / "models" / "broken").mkdir()
    (home / "models" / "broken" / "manifest.json").write_text("{", encoding="utf-8")
    (home / "blobs" / f"{'0' * 64}.part").write_bytes(b"begun")
    summary = run("models", "list", "--json").json
    assert {each["name"] for each in summary["bundles"]} == {"broken", "default", "tiny"}
    assert summary["offered"] == []
    assert summary["unfinished_bytes"] == 5
    by_name = {each["name"]: each for each in summary["published"]}
    assert by_name["imedsam"]["licence"] is None
    assert by_name["sam_vit_b"]["sha256"] == SAM_SHA256
    text = run("models", "list").out
    assert "  broken: cannot be used: " in text
    assert "  imedsam: I-MedSAM, no licence, so never pulled" in text
    assert "  sam_vit_b: SAM ViT-B, Apache-2.0, can be pulled" in text
    assert "nothing; name an index of bundles with --index or LITE_INFER_INDEX" in text
    assert "removed 0.0 MiB of unfinished downloads" in run("models", "remove", "--unfinished").out
    assert run("models", "list", "--json").json["unfinished_bytes"] == 0


def test_a_published_checkpoint_is_shown_with_its_licence_page_and_conversion(run: Runner) -> None:
    text = run("models", "show", "medsam").out
    assert "licence of the repository: Apache-2.0" in text
    assert "https://zenodo.org/records/10689643" in text
    assert "lite-infer models pull medsam --sha256 HEX" in text
    assert "lite-infer-export convert --family medsam --checkpoint medsam_vit_b.pth --output medsam" in text
    assert "none, so it is never pulled" in run("models", "show", "imedsam").out
    assert run("models", "show", "medsam", "--json").json["published"]["family"] == "medsam"


def test_a_published_checkpoint_is_pulled_with_the_digest_that_the_user_trusts(
    run: Runner, site: Site, home: Path
) -> None:
    digest = site.put("/medsam_vit_b.pth", b"weights")
    given = ("--url", f"{site.url}/medsam_vit_b.pth", "--sha256", digest)
    pulled = run("models", "pull", "medsam", *given)
    path = home / "checkpoints" / "medsam" / "medsam_vit_b.pth"
    assert pulled.code == 0, pulled.err
    assert f"convert --family medsam --checkpoint {path} --output medsam" in pulled.out
    assert pulled.out.splitlines()[-1] == str(path)
    assert run("models", "path", "medsam").out == f"{path}\n"
    assert "medsam: MedSAM ViT-B, Apache-2.0, here" in run("models", "list").out
    wrong = run("models", "pull", "lite_medsam", "--url", f"{site.url}/medsam_vit_b.pth", "--sha256", "0" * 64)
    assert (wrong.code, "what it has is another file" in wrong.err) == (4, True)
    assert not (home / "checkpoints" / "lite_medsam").exists()


def test_offline_nothing_is_asked_and_what_is_here_is_enough(run: Runner, site: Site, index: str) -> None:
    run("models", "pull", "small", "--index", index)
    site.asked.clear()
    again = run("models", "pull", "small", "--index", index, "--offline")
    assert (again.code, "is here already" in again.out) == (0, True)
    assert "the network may not be used" in again.err
    refused = run("models", "pull", "other", "--index", index, "--offline")
    assert (refused.code, refused.out) == (4, "")
    assert "bring bundles with lite-infer models import" in refused.err
    listed = run("models", "list", "--index", index, "--offline")
    assert (listed.code, "small" in listed.out) == (0, True)
    checkpoint = run("models", "pull", "sam_vit_b", "--index", index, "--offline")
    assert (checkpoint.code, "the network may not be used" in checkpoint.err) == (4, True)
    assert site.asked == []


def test_a_mirror_folder_serves_a_published_checkpoint_offline(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / digest).write_bytes(b"weights")
    monkeypatch.setenv("LITE_INFER_ENDPOINT", str(tmp_path / "mirror"))
    assert run("models", "pull", "medsam", "--sha256", digest, "--offline", "--quiet").code == 0


def test_no_licence_no_pull(run: Runner) -> None:
    finished = run("models", "pull", "imedsam", "--sha256", "0" * 64, "--url", "http://127.0.0.1:9/weights")
    assert finished.code == 4
    assert "its authors gave no licence, so it is not pulled" in finished.err


def test_ctrl_c_says_that_what_arrived_is_kept(run: Runner, index: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pull, "fetch", interrupted)
    finished = run("models", "pull", "small", "--index", index)
    assert finished.code == 130
    assert "what has arrived is kept, the same command goes on from there" in finished.err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("show", "nothing"), 4, "'nothing' is neither here nor published: no index of bundles is named"),
        (("pull", "nothing"), 4, "'nothing' is neither here nor published: no index of bundles is named"),
        (("path", "nothing"), 4, "'nothing' is not here"),
        (("remove",), 2, "nothing to remove; give names, or --unfinished"),
        (("remove", "nothing"), 4, "holds no 'nothing'"),
        (("remove", "../nothing"), 4, "'../nothing' is no name of a bundle"),
        (("path", "../nothing"), 4, "'../nothing' is no name of a bundle"),
        (("pull", "medsam", "--sha256", "12"), 2, "wanted 64 hexadecimal digits"),
        (("import", "nowhere.zip"), 4, "nowhere.zip: does not exist"),
        (("pack", "nothing"), 4, "no bundle 'nothing'"),
        (("index", "."), 4, "has no bundle in it"),
        (("list", "--index", "nowhere.json"), 0, "the index of bundles cannot be read"),
        (("--offline",), 2, "required: ACTION; see lite-infer models --help"),
    ],
)
def test_what_cannot_be_done_is_one_line(run: Runner, words: tuple[str, ...], code: int, text: str) -> None:
    finished = run("models", *words)
    assert finished.code == code
    assert text in finished.err
    assert len(finished.err.splitlines()) == 1


def test_remove_names_what_it_refuses(run: Runner, archive: Path, home: Path) -> None:
    run("models", "import", archive)
    (home / "models" / "tiny" / "notes.txt").write_text("mine", encoding="utf-8")
    finished = run("models", "remove", "tiny")
    assert (finished.code, "holds notes.txt, which lite-infer did not put there" in finished.err) == (6, True)
    assert (home / "models" / "tiny" / "notes.txt").is_file()


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_the_help_and_no_action_name_every_action_and_variable(
    words: tuple[str, ...], run: Runner, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["models", *words])
    text = capsys.readouterr().out
    for word in ("list", "show", "pull", "import", "pack", "index", "path", "remove", "LITE_INFER_HOME"):
        assert word in text


def test_json_is_for_programs(run: Runner, index: str) -> None:
    listed = run("models", "list", "--index", index.replace("http://", "http://user:secret@"), "--json")
    assert "secret" not in listed.out + listed.err
    assert json.loads(run("models", "list", "--index", index, "--json").out)["offered"][0]["name"] == "small"

"""What a site offers and what the field published arrives in the store, verified, or says why it does not."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from bundle_factory import write_bundle
from web_site import Site

from runtime.bundle import open_bundle
from runtime.errors import DownloadError, ManifestError, OutputError
from runtime.registry import fetch
from runtime.registry.index import Offer, offers, write_index
from runtime.registry.published import Page, Published
from runtime.registry.pull import pull_bundle, pull_checkpoint
from runtime.registry.store import Store

FILES = {"encoder.onnx": b"an encoder" * 30_000, "decoder.onnx": b"a decoder", "notes/CARD.md": b"a card"}
WEIGHTS = b"weights" * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A site's folder with the bundle `tiny` and the index."""
    write_bundle(tmp_path / "site" / "the tiny", FILES)
    write_index(tmp_path / "site")
    return tmp_path / "site"


@pytest.fixture
def offer(site: Site, folder: Path) -> Offer:
    site.put_folder(folder, "")
    site.files = {path.replace(" ", "%20"): content for path, content in site.files.items()}
    (found,) = offers(f"{site.url}/index.json")
    site.asked.clear()
    return found


def test_a_bundle_arrives_whole_and_once(site: Site, offer: Offer, store: Store) -> None:
    seen: list[tuple[int, int | None]] = []
    pulled = pull_bundle(offer, store, progress=lambda there, total: seen.append((there, total)))
    assert (pulled.path, pulled.was_there) == (store.models / "tiny", False)
    bundle = open_bundle("tiny")
    assert {relative: bundle.path(relative).read_bytes() for relative in FILES} == FILES
    assert seen == sorted(seen)
    assert seen[-1] == (offer.entry.bytes, offer.entry.bytes)
    assert store.unfinished() == []
    asked = len(site.asked)
    assert pull_bundle(offer, store).was_there
    assert len(site.asked) == asked


def test_an_interrupted_pull_goes_on_where_it_stopped(site: Site, offer: Offer, store: Store) -> None:
    def interrupted(there: int, _: int | None) -> None:
        if there >= 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_bundle(offer, store, progress=interrupted)
    assert not store.models.exists()
    (part,) = store.blobs.glob("*.part")
    begun = part.stat().st_size
    assert begun >= 100_000
    site.asked.clear()
    assert not pull_bundle(offer, store).was_there
    assert site.asked[0] == ("/the%20tiny/encoder.onnx", f"bytes={begun}-")
    assert store.unfinished() == []


def test_a_file_that_is_another_one_installs_nothing(site: Site, offer: Offer, store: Store) -> None:
    site.put("/the%20tiny/decoder.onnx", b"A decoder")
    with pytest.raises(DownloadError, match=r"the tiny/decoder\.onnx: what it has is another file|another file"):
        pull_bundle(offer, store)
    assert not store.models.exists()
    site.put("/the%20tiny/decoder.onnx", FILES["decoder.onnx"])
    site.asked.clear()
    pull_bundle(offer, store)
    assert "/the%20tiny/encoder.onnx" not in [path for path, _ in site.asked], "it had arrived before"


def test_a_manifest_that_is_another_one_or_none_installs_nothing(site: Site, offer: Offer, store: Store) -> None:
    site.put("/the%20tiny/manifest.json", b"{}")
    with pytest.raises(DownloadError, match="what it has is another file"):
        pull_bundle(offer, store)
    for size, error, text in ((2, ManifestError, "manifest"), (1 << 30, DownloadError, "is said to have 1073741824")):
        record = type(offer.entry.manifest)(hashlib.sha256(b"{}").hexdigest(), size)
        entry = type(offer.entry)("tiny", "1", "", offer.entry.licence, record, 2, "x/")
        with pytest.raises(error, match=text):
            pull_bundle(Offer(entry, offer.place), store)
    assert not store.models.exists()


def test_a_bundle_that_calls_itself_otherwise_is_refused(offer: Offer, store: Store) -> None:
    entry = type(offer.entry)("other", "1", "", offer.entry.licence, offer.entry.manifest, 2, "x/")
    with pytest.raises(DownloadError, match="calls a bundle 'other' that calls itself 'tiny'"):
        pull_bundle(Offer(entry, offer.place), store)
    assert not store.models.exists()


def test_another_bundle_of_the_name_stays_unless_forced(site: Site, offer: Offer, store: Store) -> None:
    write_bundle(store.models / "tiny", version="0.9")
    site.asked.clear()
    with pytest.raises(OutputError, match=r"tiny exists; .* replace it with --force"):
        pull_bundle(offer, store)
    assert site.asked == []
    assert open_bundle("tiny").manifest.version == "0.9"
    pull_bundle(offer, store, force=True)
    assert open_bundle("tiny").manifest.version == "1.0"


def test_a_damaged_bundle_is_fetched_again(site: Site, offer: Offer, store: Store) -> None:
    file = pull_bundle(offer, store).path / "encoder.onnx"
    file.write_bytes(b"damaged")
    site.asked.clear()
    assert not pull_bundle(offer, store).was_there
    assert open_bundle("tiny").path("encoder.onnx").read_bytes() == FILES["encoder.onnx"]
    assert [path for path, _ in site.asked] == ["/the%20tiny/manifest.json", "/the%20tiny/encoder.onnx"]


def test_mirrors_come_first_and_a_copy_of_the_blobs_is_one(
    site: Site, offer: Offer, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for content in (*FILES.values(), site.files["/the%20tiny/manifest.json"]):
        (mirror / hashlib.sha256(content).hexdigest()).write_bytes(content)
    monkeypatch.setenv("LITE_INFER_ENDPOINT", f"{site.url}/nothing-there,{mirror}")
    pull_bundle(offer, store)
    assert {path.split("/")[1] for path, _ in site.asked} == {"nothing-there"}
    store.remove("tiny")
    site.asked.clear()
    pull_bundle(offer, store, offline=True)
    assert site.asked == []


def test_a_network_share_needs_no_network(folder: Path, store: Store) -> None:
    (offer,) = offers(str(folder / "index.json"), offline=True)
    pull_bundle(offer, store, offline=True)
    assert open_bundle("tiny").path("notes/CARD.md").read_bytes() == b"a card"


def test_offline_nothing_is_asked(site: Site, offer: Offer, store: Store) -> None:
    with pytest.raises(DownloadError, match="the network may not be used; bring it with lite-infer models import"):
        pull_bundle(offer, store, offline=True)
    assert site.asked == []


def published(site: Site, **changes: object) -> Published:
    known: dict[str, object] = {
        "name": "lite_medsam",
        "title": "LiteMedSAM",
        "repository": "https://repository.example",
        "licence": "Apache-2.0",
        "pages": (Page("https://page.example", "the checkpoint"),),
        "sha256": SHA256,
        "bytes": len(WEIGHTS),
        "direct": (f"{site.url}/weights.pth",),
    }
    return Published(**{**known, **changes})


def test_a_checkpoint_arrives_under_its_name_and_once(site: Site, store: Store) -> None:
    site.put("/weights.pth", WEIGHTS)
    wanted = published(site)
    pulled = pull_checkpoint(wanted, store)
    assert (pulled.path, pulled.was_there) == (store.checkpoints / "lite_medsam" / "weights.pth", False)
    assert pulled.path.read_bytes() == WEIGHTS
    assert (pulled.path.parent / "SHA256SUMS").read_text(encoding="utf-8") == f"{SHA256}  weights.pth\n"
    assert pull_checkpoint(wanted, store, offline=True).was_there
    assert len(site.asked) == 1
    pulled.path.write_bytes(b"damaged")
    with pytest.raises(OutputError, match="to fetch it again: lite-infer models remove lite_medsam"):
        pull_checkpoint(wanted, store)
    assert store.remove("lite_medsam").bytes >= 7
    assert list(store.blobs.iterdir()) == []


def test_the_file_is_called_as_its_authors_call_it(site: Site, store: Store) -> None:
    site.put("/download", WEIGHTS)
    wanted = published(site, file="best.ckpt", direct=())
    assert pull_checkpoint(wanted, store, url=f"{site.url}/download?id=1").path.name == "best.ckpt"
    nameless = published(site, name="other", direct=())
    assert pull_checkpoint(nameless, store, url=f"{site.url}/download").path.name == "download"
    site.put("/SHA256SUMS", WEIGHTS)
    odd = published(site, name="odd", direct=())
    assert pull_checkpoint(odd, store, url=f"{site.url}/SHA256SUMS").path.name == "checkpoint.pth"


def test_a_checkpoint_without_a_licence_is_never_pulled(site: Site, store: Store) -> None:
    site.put("/weights.pth", WEIGHTS)
    with pytest.raises(DownloadError, match="gave no licence, so it is not pulled; ask them: https://repository"):
        pull_checkpoint(published(site, licence=None), store, sha256=SHA256, url=f"{site.url}/weights.pth")
    assert site.asked == []
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("changes", "given", "text"),
    [
        ({"sha256": None}, {}, "its sha256 is not known.*download it yourself from https://page.example"),
        ({"direct": ()}, {}, "is published on a page for people, https://page.example"),
        ({}, {"sha256": "0" * 64}, "the registry knows its sha256 as"),
    ],
)
def test_what_cannot_be_pulled_says_what_to_do(
    site: Site, store: Store, changes: dict[str, object], given: dict[str, str], text: str
) -> None:
    with pytest.raises(DownloadError, match=text):
        pull_checkpoint(published(site, **changes), store, **given)
    assert site.asked == []


def test_a_digest_that_the_user_trusts_is_what_must_arrive(site: Site, store: Store) -> None:
    site.put("/weights.pth", b"other weights")
    wanted = published(site, sha256=None, bytes=None)
    with pytest.raises(DownloadError, match=r"weights\.pth: what it has is another file \(sha256"):
        pull_checkpoint(wanted, store, sha256=SHA256)
    assert store.checkpoint("lite_medsam") is None
    site.put("/weights.pth", WEIGHTS)
    assert pull_checkpoint(wanted, store, sha256=SHA256).path.read_bytes() == WEIGHTS


def test_too_large_a_file_is_stopped(site: Site, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/weights.pth", WEIGHTS)
    site.told_length = False
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    with pytest.raises(DownloadError, match=r"another file \(more bytes, wanted 100\)"):
        pull_checkpoint(published(site, sha256=None, bytes=None), store, sha256=SHA256)

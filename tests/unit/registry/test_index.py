"""A site's index names bundles; what it says is checked before anything is fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bundle_factory import write_bundle
from web_site import Site

from runtime.errors import BundleError, BundleIntegrityError, DownloadError
from runtime.registry.index import offers, write_index


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two bundles and their index."""
    for name in ("one", "two"):
        write_bundle(tmp_path / "site" / f"the {name}", {"encoder.onnx": b"e" * 9, "decoder.onnx": b"d"}, name=name)
    write_index(tmp_path / "site")
    return tmp_path / "site"


def test_an_index_is_made_of_the_bundles_in_a_folder_and_read_back(folder: Path) -> None:
    found = offers(str(folder / "index.json"), offline=True)
    assert [(offer.entry.name, offer.entry.bytes, offer.place) for offer in found] == [
        ("one", 10, folder / "the one"),
        ("two", 10, folder / "the two"),
    ]
    assert found[0].entry.manifest.bytes == (folder / "the one" / "manifest.json").stat().st_size
    assert found[0].entry.licence.spdx == "Apache-2.0"


def test_places_are_relative_to_the_index_on_the_web(site: Site, folder: Path) -> None:
    site.put_folder(folder, "/models")
    assert [offer.place for offer in offers(f"{site.url}/models/index.json")] == [
        f"{site.url}/models/the%20one/",
        f"{site.url}/models/the%20two/",
    ]


def test_the_environment_names_an_index_and_without_one_nothing_is_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LITE_INFER_INDEX", raising=False)
    assert offers(None) == []
    monkeypatch.setenv("LITE_INFER_INDEX", str(folder / "index.json"))
    assert len(offers(None)) == 2


def test_no_index_is_made_of_a_folder_without_bundles_or_with_bad_ones(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no bundle in it"):
        write_index(tmp_path)
    write_bundle(folder / "again", name="one")
    with pytest.raises(BundleError, match="is called 'one' like again/; offer one of them"):
        write_index(folder)
    before = (folder / "index.json").read_bytes()
    write_bundle(folder / "again", name="three")
    (folder / "again" / "decoder.onnx").write_bytes(b"?")
    with pytest.raises(BundleIntegrityError, match=r"decoder\.onnx"):
        write_index(folder)
    assert (folder / "index.json").read_bytes() == before


def changed(folder: Path, **changes: Any) -> str:
    data = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        if key == "index_version":
            data[key] = value
        else:
            data["bundles"][0][key] = value
    (folder / "changed.json").write_text(json.dumps(data), encoding="utf-8")
    return str(folder / "changed.json")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"index_version": 2}, "index_version 2, this version reads up to 1; upgrade lite-infer"),
        ({"name": "../one"}, r"is no index of bundles .*matching regex"),
        ({"bytes": -1}, "is no index of bundles"),
        ({"manifest": {"sha256": "00", "bytes": 1}}, "is no index of bundles"),
    ],
)
def test_an_index_that_is_none_is_refused(folder: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(DownloadError, match=text):
        offers(changed(folder, **changes))


def test_keys_that_a_later_version_adds_are_no_harm(folder: Path) -> None:
    assert len(offers(changed(folder, colour="blue"))) == 2


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (5 << 20)])
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(DownloadError, match=r"is no index of bundles|has more than 4194304 bytes"):
        offers(str(tmp_path / "index.json"))


def test_an_index_on_the_web_offers_nothing_from_this_computer(site: Site, folder: Path) -> None:
    site.put("/index.json", Path(changed(folder, url="file:///etc/")).read_bytes())
    with pytest.raises(DownloadError, match="offers 'one' at 'file:///etc/', which is not on the web"):
        offers(f"{site.url}/index.json")


def test_an_index_that_cannot_be_had_says_why(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"index\.json: the index of bundles cannot be had: HTTP 404 Not Found"):
        offers(f"{site.url}/index.json?token=secret")
    with pytest.raises(DownloadError, match="the index of bundles cannot be read"):
        offers(str(tmp_path / "nowhere.json"))
    site.put("/index.json", b" " * (5 << 20))
    with pytest.raises(DownloadError, match="has more than 4194304 bytes"):
        offers(f"{site.url}/index.json")


def test_offline_a_web_index_is_not_asked(site: Site) -> None:
    with pytest.raises(DownloadError, match="the network may not be used; bring bundles with lite-infer models import"):
        offers(f"{site.url}/index.json", offline=True)
    assert site.asked == []

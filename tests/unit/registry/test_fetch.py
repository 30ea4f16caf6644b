"""Files arrive whole and verified or not at all, whatever the network does; what was begun is not begun again."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import ssl
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
from web_site import Site

from runtime.errors import DownloadError, OutputError
from runtime.registry import fetch as module
from runtime.registry import web
from runtime.registry.fetch import Wanted, fetch, is_offline

CONTENT = random.Random(1).randbytes(700_001)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def part(blobs: Path) -> Path:
    """Place of what was begun; its folder is there."""
    blobs.mkdir()
    return blobs / f"{SHA256}.part"


def wanted(*places: str | Path, size: int | None = len(CONTENT)) -> Wanted:
    return Wanted(SHA256, size, places)


def assert_nothing_final(blobs: Path) -> None:
    assert not (blobs / SHA256).exists()


@pytest.mark.parametrize("size", [len(CONTENT), None])
@pytest.mark.parametrize("told_length", [True, False])
def test_a_file_arrives_under_its_digest(site: Site, blobs: Path, size: int | None, told_length: bool) -> None:
    site.put("/file", CONTENT)
    site.told_length = told_length
    seen: list[int] = []
    path = fetch(wanted(f"{site.url}/file", size=size), blobs, progress=lambda there, _: seen.append(there))
    assert path == blobs / SHA256
    assert path.read_bytes() == CONTENT
    assert sorted(seen) == seen
    assert seen[-1] == len(CONTENT)
    assert [each.name for each in blobs.iterdir()] == [SHA256]
    assert site.asked == [("/file", None)]


def test_an_empty_file_arrives(site: Site, blobs: Path) -> None:
    digest = site.put("/file", b"")
    assert fetch(Wanted(digest, 0, (f"{site.url}/file",)), blobs).read_bytes() == b""


def test_what_is_there_is_not_asked_for_again_unless_it_is_damaged(site: Site, blobs: Path) -> None:
    site.put("/file", CONTENT)
    place = wanted(f"{site.url}/file")
    path = fetch(place, blobs)
    fetch(place, blobs)
    assert len(site.asked) == 1
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch(place, blobs).read_bytes() == CONTENT
    assert len(site.asked) == 2


def test_a_link_among_the_blobs_is_not_written_through(site: Site, blobs: Path, part: Path, tmp_path: Path) -> None:
    site.put("/file", CONTENT)
    (tmp_path / "precious").write_text("precious", encoding="utf-8")
    for place in (part, blobs / SHA256):
        try:
            place.symlink_to(tmp_path / "precious")
        except OSError:
            pytest.skip("links cannot be made here")
    path = fetch(wanted(f"{site.url}/file"), blobs)
    assert path.read_bytes() == CONTENT
    assert not path.is_symlink()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "precious"


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, blobs: Path) -> None:
    site.put("/file", CONTENT)
    site.cuts = [300_000, 0, 1, 200_000]
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    starts = [asked for _, asked in site.asked]
    assert starts == [None, "bytes=300000-", "bytes=300000-", "bytes=300001-", "bytes=500001-"]


def test_three_attempts_without_progress_end_it_and_keep_what_arrived(site: Site, blobs: Path) -> None:
    site.put("/file", CONTENT)
    site.cuts = [1000, 0, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="the connection ended after 1000 of 700001 bytes"):
        fetch(wanted(f"{site.url}/file"), blobs)
    assert_nothing_final(blobs)
    assert (blobs / f"{SHA256}.part").read_bytes() == CONTENT[:1000]
    site.cuts = []
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    assert site.asked[-1] == ("/file", "bytes=1000-")


def test_ctrl_c_leaves_a_part_that_the_next_call_completes(
    site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("/file", CONTENT)

    def interrupted(there: int, _: int | None) -> None:
        if there > 400_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(wanted(f"{site.url}/file"), blobs, progress=interrupted)
    assert_nothing_final(blobs)
    begun = (blobs / f"{SHA256}.part").stat().st_size
    assert 400_000 < begun < len(CONTENT)
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    assert site.asked[-1] == ("/file", f"bytes={begun}-")


def test_a_server_without_ranges_sends_all_of_it_again(site: Site, blobs: Path, part: Path) -> None:
    site.put("/file", CONTENT)
    site.ranges = False
    part.write_bytes(b"something else entirely")
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ["bytes=23-"]


def test_a_part_of_another_file_costs_a_second_start_and_nothing_else(site: Site, blobs: Path, part: Path) -> None:
    site.put("/file", CONTENT)
    part.write_bytes(b"something else entirely")
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ["bytes=23-", None]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_complete_part_is_only_verified(site: Site, blobs: Path, part: Path, size: int | None) -> None:
    site.put("/file", CONTENT)
    part.write_bytes(CONTENT)
    assert fetch(wanted(f"{site.url}/file", size=size), blobs).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ([] if size else ["bytes=700001-"])


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_longer_than_the_file_is_begun_again(site: Site, blobs: Path, part: Path, size: int | None) -> None:
    site.put("/file", CONTENT)
    part.write_bytes(CONTENT + b"more")
    places = (f"{site.url}/file", f"{site.url}/file?again")
    assert fetch(wanted(*places, size=size), blobs).read_bytes() == CONTENT


def test_another_file_of_the_same_size_is_refused_and_not_kept(site: Site, blobs: Path) -> None:
    digest = site.put("/file", CONTENT[::-1])
    with pytest.raises(DownloadError, match=rf"another file \(sha256 {digest[:12]}\.\.\., wanted {SHA256[:12]}"):
        fetch(wanted(f"{site.url}/file"), blobs)
    assert list(blobs.iterdir()) == []


@pytest.mark.parametrize("told_length", [True, False])
@pytest.mark.parametrize("content", [CONTENT + b"more", CONTENT[:-1]])
def test_a_file_of_another_size_is_refused(site: Site, blobs: Path, content: bytes, told_length: bool) -> None:
    site.put("/file", content)
    site.told_length = told_length
    with pytest.raises(DownloadError, match="another file"):
        fetch(wanted(f"{site.url}/file"), blobs)
    assert_nothing_final(blobs)


def test_a_server_that_never_stops_sending_is_left(site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/file", CONTENT)
    site.told_length = False
    monkeypatch.setattr(module, "MAX_BYTES", 100_000)
    with pytest.raises(DownloadError, match="more bytes, wanted 100000"):
        fetch(wanted(f"{site.url}/file", size=None), blobs)
    assert (blobs / f"{SHA256}.part").stat().st_size <= 100_000


def test_redirects_on_the_web_are_followed(site: Site, blobs: Path) -> None:
    site.put("/there", CONTENT)
    site.moved["/here"] = f"{site.url}/there"
    site.cuts = [5000]
    assert fetch(wanted(f"{site.url}/here"), blobs).read_bytes() == CONTENT
    assert site.asked[-1] == ("/there", "bytes=5000-")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x"])
def test_redirects_elsewhere_are_not_followed(site: Site, blobs: Path, target: str) -> None:
    site.moved["/here"] = target
    with pytest.raises(DownloadError, match=r"redirected|not allowed"):
        fetch(wanted(f"{site.url}/here"), blobs)
    assert_nothing_final(blobs)


def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    from urllib.request import Request

    with pytest.raises(URLError, match="from https to http, which is not followed"):
        web._Redirects().redirect_request(Request("https://a.example/x"), None, 302, "Found", {}, "http://a.example/x")


def test_a_redirect_in_a_circle_ends(site: Site, blobs: Path) -> None:
    site.moved["/here"] = f"{site.url}/here"
    with pytest.raises(DownloadError, match="HTTP 302"):
        fetch(wanted(f"{site.url}/here"), blobs)


def test_every_place_that_failed_is_named_with_its_reason(site: Site, blobs: Path) -> None:
    site.answers["/b"] = [403]
    closed = "http://127.0.0.1:9/file"
    with pytest.raises(DownloadError) as caught:
        fetch(wanted(f"{site.url}/a?key=secret", f"{site.url}/b", closed, "gopher://x/y"), blobs)
    text = str(caught.value)
    assert f"{site.url}/a: HTTP 404 Not Found; {site.url}/b: HTTP 403 Forbidden; {closed}: " in text
    assert "refused" in text
    assert "is no http or https URL" in text
    assert "secret" not in text
    assert "was found nowhere" in text


def test_a_busy_server_is_asked_again(site: Site, blobs: Path) -> None:
    site.put("/file", CONTENT)
    site.answers["/file"] = [503, 429]
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT
    site.answers["/other"] = [503] * 9
    with pytest.raises(DownloadError, match="HTTP 503"):
        fetch(Wanted("0" * 64, None, (f"{site.url}/other",)), blobs)
    assert len([path for path, _ in site.asked if path == "/other"]) == 3


def test_mirrors_come_first_and_serve_files_by_their_digest(
    site: Site, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put(f"/mirror/{SHA256}", CONTENT)
    monkeypatch.setenv("LITE_INFER_ENDPOINT", f"{site.url}/nothing, {site.url}/mirror/")
    fetch(wanted(f"{site.url}/file"), blobs)
    assert [path for path, _ in site.asked] == [f"/nothing/{SHA256}", f"/mirror/{SHA256}"]
    monkeypatch.setenv("LITE_INFER_ENDPOINT", str(blobs))
    assert fetch(wanted(), tmp_path / "elsewhere", offline=True).read_bytes() == CONTENT


def test_a_wrong_mirror_does_no_harm(site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put(f"/mirror/{SHA256}", CONTENT[::-1])
    site.put("/file", CONTENT)
    monkeypatch.setenv("LITE_INFER_ENDPOINT", f"{site.url}/mirror")
    assert fetch(wanted(f"{site.url}/file"), blobs).read_bytes() == CONTENT


def test_offline_nothing_is_asked(site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.put("/file", CONTENT)
    monkeypatch.setenv("LITE_INFER_ENDPOINT", site.url)
    with pytest.raises(DownloadError, match="the network may not be used; bring it with lite-infer models import"):
        fetch(wanted(f"{site.url}/file"), blobs, offline=True)
    assert site.asked == []


def test_a_file_on_a_share_is_copied_and_verified(tmp_path: Path, blobs: Path) -> None:
    (tmp_path / "share").write_bytes(CONTENT)
    assert fetch(wanted(tmp_path / "share"), blobs, offline=True).read_bytes() == CONTENT
    (blobs / SHA256).unlink()
    (tmp_path / "share").write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"share: what it has is another file \(700000 bytes"):
        fetch(wanted(tmp_path / "share"), blobs)
    with pytest.raises(DownloadError, match="nowhere: No such file"):
        fetch(wanted(tmp_path / "nowhere"), blobs)


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("YES", True), ("on", True), ("0", False), ("", False)])
@pytest.mark.parametrize("name", ["LITE_INFER_OFFLINE", "HF_HUB_OFFLINE"])
def test_the_environment_says_offline(monkeypatch: pytest.MonkeyPatch, name: str, value: str, offline: bool) -> None:
    monkeypatch.delenv("LITE_INFER_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(name, value)
    assert is_offline() is offline
    assert is_offline(True)


def test_a_full_disk_is_an_output_error_and_the_part_stays(
    site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("/file", CONTENT)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="cannot be written"):
            fetch(wanted(f"{site.url}/file"), blobs)
    assert_nothing_final(blobs)
    fetch(wanted(f"{site.url}/file"), blobs)
    assert len(site.asked) == 1, "what had arrived was complete"


def test_too_little_space_is_found_before_anything_is_asked(
    site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError, match="MiB more are needed and 0 MiB are free"):
        fetch(wanted(f"{site.url}/file"), blobs)
    assert site.asked == []


def test_a_certificate_that_is_not_trusted_says_what_to_set() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "self-signed certificate in certificate chain"
    text = web.reason(URLError(error))
    assert "not trusted (self-signed certificate in certificate chain)" in text
    assert "SSL_CERT_FILE or REQUESTS_CA_BUNDLE" in text


def test_certificates_that_are_none_are_said_so(
    site: Site, blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with pytest.raises(DownloadError, match=r"REQUESTS_CA_BUNDLE names .* which holds no certificates"):
        fetch(wanted(f"{site.url}/file"), blobs)


def test_a_request_tells_nothing_but_the_file(site: Site, blobs: Path) -> None:
    site.put("/file", CONTENT)
    fetch(wanted(f"{site.url}/file"), blobs)
    (headers,) = site.headers
    assert set(headers) == {"Host", "User-Agent", "Accept-Encoding", "Connection"}
    assert headers["User-Agent"].startswith("lite-infer/")


def test_a_proxy_of_the_environment_is_used(site: Site, blobs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", site.url)
    monkeypatch.setenv("no_proxy", "")
    site.files["http://models.example/file"] = CONTENT
    assert fetch(wanted("http://models.example/file"), blobs).read_bytes() == CONTENT

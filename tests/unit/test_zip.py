"""Archives made to do harm are refused before anything is unpacked; ordinary ones are read."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime._zip import ZipArchive, ZipLimits
from runtime.errors import BundleError, LiteInferError

LIMITS = ZipLimits(members=10, total_bytes=1 << 20, ratio=50, free_bytes=1 << 16)


def write(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def read(path: Path, limits: ZipLimits = LIMITS) -> dict[str, bytes]:
    with ZipArchive(path, limits=limits, error=BundleError) as archive:
        return {name: archive.read(name) for name in archive.files}


def refused(path: Path, text: str, limits: ZipLimits = LIMITS) -> None:
    with pytest.raises(BundleError, match=text):
        read(path, limits)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_ordinary_archive_is_read(tmp_path: Path, method: int) -> None:
    path = write(tmp_path / "a.zip", ("one.txt", b"1" * 5000), ("sub/", b""), ("sub/two", b"2"), method=method)
    with ZipArchive(path, limits=LIMITS, error=BundleError) as archive:
        assert archive.files == {"one.txt": 5000, "sub/two": 1}
    assert read(path) == {"one.txt": b"1" * 5000, "sub/two": b"2"}
    assert read(write(tmp_path / "empty.zip")) == {}


@pytest.mark.parametrize(
    "name", ["../a", "/a", "a/../../b", "a//b", "./a", "C:/a", "C:a", "a\\b", "..\\a", "a/..", "a\nb", "a:stream"]
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / "a.zip", ("fine", b"1"), (name, b"2")), "a name that leads elsewhere")


def test_a_name_cut_at_a_nul_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", ("fine_name", b"1"))
    path.write_bytes(path.read_bytes().replace(b"fine_name", b"fine\0name"))
    refused(path, "a name that leads elsewhere|damaged")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("entry")
    info.external_attr = (kind | 0o777) << 16
    refused(write(tmp_path / "a.zip", (info, b"/etc/passwd")), "a link or a device")


@pytest.mark.parametrize("names", [("a", "a"), ("weights", "WEIGHTS"), ("a/", "a")])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(write(tmp_path / "a.zip", *((name, b"") for name in names)), "the name of member 2 occurs twice")


def test_a_bomb_is_refused_by_its_size_and_by_its_ratio(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", ("zeros", bytes(2 << 20)))
    refused(path, "unpacks to 2097152 bytes, more than 1048576")
    refused(
        path, "more than 50 times its size", ZipLimits(members=10, total_bytes=1 << 30, ratio=50, free_bytes=1 << 16)
    )
    refused(write(tmp_path / "b.zip", *((f"{i}", b"") for i in range(11))), "holds 11 members, more than 10")


def test_a_list_of_members_beyond_the_limit_is_not_even_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.zip", *((f"{i:0200}", b"") for i in range(100)))

    def never(*_: object) -> None:
        raise AssertionError("the list was read")

    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", never)
    refused(path, "lists more than 10 members")


def test_the_64_bit_end_record_counts_as_well(tmp_path: Path) -> None:
    raw = bytearray(write(tmp_path / "a.zip", ("a", b"1")).read_bytes())
    end = raw.rfind(b"PK\x05\x06")
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, 1 << 40, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    (tmp_path / "a.zip").write_bytes(bytes(raw[:end]) + record + locator + bytes(raw[end:]))
    refused(tmp_path / "a.zip", "lists more than 10 members")


def test_a_size_that_lies_is_refused(tmp_path: Path) -> None:
    content = b"0123456789" * 10
    raw = write(tmp_path / "a.zip", ("a", content), method=zipfile.ZIP_STORED).read_bytes()
    size = struct.pack("<L", len(content))
    place = raw.rfind(b"PK\x01\x02") + 24
    assert raw[place : place + 4] == size
    for claimed in (50, 200):
        (tmp_path / "a.zip").write_bytes(raw[:place] + struct.pack("<L", claimed) + raw[place + 4 :])
        refused(tmp_path / "a.zip", "without the size|damaged")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", ("a", b"x" * 100), ("b", b"y" * 100), method=zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    second = raw.rfind(b"PK\x01\x02")
    raw[second + 42 : second + 46] = struct.pack("<L", 10)
    path.write_bytes(raw)
    refused(path, "overlap|damaged")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_need_much_memory_are_refused(tmp_path: Path, method: int) -> None:
    refused(write(tmp_path / "a.zip", ("a", b"x" * 100), method=method), "only deflate is read")


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", ("a", b"x"))
    raw = bytearray(path.read_bytes())
    raw[raw.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    refused(path, "member 1 is encrypted")


def test_what_is_no_archive_or_not_there_is_said_so(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.zip", "does not exist")
    refused(tmp_path, "cannot be read")
    for content in (b"", b"PK", b"no archive at all" * 9, b"PK\x05\x06" + bytes(17)):
        (tmp_path / "a.zip").write_bytes(content)
        refused(tmp_path / "a.zip", "is damaged, or no zip archive; wanted an ordinary zip archive")


def _seed() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"{}" * 40)
        archive.writestr("sub/encoder.onnx", bytes(range(256)) * 4)
    return stream.getvalue()


@settings(max_examples=150)
@given(st.data())
def test_mutated_archives_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    raw = bytearray(_seed())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.zip"
    path.write_bytes(raw[: data.draw(st.integers(len(raw) // 2, len(raw)))])
    try:
        found = read(path)
    except LiteInferError:
        return
    assert sum(map(len, found.values())) <= LIMITS.total_bytes

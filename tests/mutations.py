"""Damage to files, made by a random generator: bytes anywhere, numbers and words where formats keep them.

What is packed is unpacked, damaged and packed again, and checksums are put right, so that the damage gets past the
first check and reaches the code behind it.
"""

from __future__ import annotations

import gzip
import io
import lzma
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

__all__ = ["mutated"]

_HEAD = 2048
_MOST = 1 << 22
_NUMBERS = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
_WORDS = (
    b"0", b"-1", b"1e999", b"nan", b"99999999999999999999", b"2147483648", b"1e-320", b"", b"\\", b"..", b"/",
    b"\xff", b"0x10", b"1_0", b" ",
)  # fmt: skip
_DECIMAL = re.compile(rb"[-+]?\d+(\.\d+)?")
_DICOM_GROUPS = (0x0002, 0x0008, 0x0018, 0x0020, 0x0028, 0x5200, 0x7FE0)
_SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.100",
)  # fmt: skip


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Damage a file in one to six places; what is packed mostly inside."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        inside = _unpacked(data)
        if inside:
            return gzip.compress(_edited(rng, inside), compresslevel=1, mtime=0)
    if data[:4] == b"PK\3\4" and rng.random() < 0.7:
        return _zip_edited(rng, data)
    changed = _edited(rng, data)
    return _png_mended(changed) if data[1:4] == b"PNG" and rng.random() < 0.9 else changed


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(data, _MOST)
    except zlib.error:
        return b""


def _edited(rng: random.Random, data: bytes) -> bytes:
    raw = bytearray(data)
    edits: list[Callable[[random.Random, bytearray], None]] = 3 * [_set, _number, _flip]
    edits += [_cut, _insert, _copy, *3 * [_word]]
    if raw[128:132] == b"DICM":
        edits += [*6 * [_dicom_value], _dicom_syntax]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 6))):
        if raw:
            rng.choice(edits)(rng, raw)
    if rng.random() < 0.05:
        del raw[rng.randrange(len(raw) + 1) :]
    return bytes(raw)


def _place(rng: random.Random, raw: bytearray) -> int:
    """Mostly in the header, where a byte means most."""
    return rng.randrange(min(len(raw), _HEAD) if rng.random() < 0.7 else len(raw))


def _set(rng: random.Random, raw: bytearray) -> None:
    raw[_place(rng, raw)] = rng.randrange(256)


def _flip(rng: random.Random, raw: bytearray) -> None:
    raw[_place(rng, raw)] ^= 1 << rng.randrange(8)


def _number(rng: random.Random, raw: bytearray) -> None:
    start, width = _place(rng, raw), rng.choice((1, 2, 4, 8))
    if rng.random() < 0.2:
        value = struct.pack(rng.choice("<>") + rng.choice("fd"), rng.choice((0.0, -1.0, float("nan"), float("inf"))))
    else:
        number = rng.choice(_NUMBERS) * rng.choice((1, 1, -1))
        value = (number % 256**width).to_bytes(width, rng.choice(("little", "big")))
    raw[start : start + len(value)] = value[: len(raw) - start]


def _cut(rng: random.Random, raw: bytearray) -> None:
    start = _place(rng, raw)
    del raw[start : start + rng.choice((1, 2, 4, 16, 256, 4096))]


def _insert(rng: random.Random, raw: bytearray) -> None:
    start = _place(rng, raw)
    raw[start:start] = bytes([rng.randrange(256)]) * rng.choice((1, 2, 4, 16, 256, 4096))


def _copy(rng: random.Random, raw: bytearray) -> None:
    source, target = _place(rng, raw), _place(rng, raw)
    raw[target:target] = raw[source : source + rng.choice((1, 4, 16, 128, 1024))]


def _word(rng: random.Random, raw: bytearray) -> None:
    """Another word in the place of a number that is written out."""
    found = [match.span() for match in _DECIMAL.finditer(bytes(raw[:_HEAD]))]
    if found:
        start, end = rng.choice(found)
        raw[start:end] = rng.choice(_WORDS)


def _dicom_value(rng: random.Random, raw: bytearray) -> None:
    """Another length or value of an element, of the explicit little-endian encoding."""
    group = struct.pack("<H", rng.choice(_DICOM_GROUPS))
    starts = [m.start() for m in re.finditer(re.escape(group) + rb"..[A-Z]{2}", bytes(raw), re.DOTALL)]
    if not starts:
        return
    start = rng.choice(starts) + rng.choice((4, 6, 8, 8, 8, 10, 12))
    value = struct.pack("<H", rng.choice(_NUMBERS) % 65536) if rng.random() < 0.6 else rng.choice(_WORDS)
    raw[start : start + len(value)] = value


def _dicom_syntax(rng: random.Random, raw: bytearray) -> None:
    """Another transfer syntax, as if the pixels were encoded so."""
    start = bytes(raw).find(b"\x02\x00\x10\x00UI")
    if start >= 0:
        length = int.from_bytes(raw[start + 6 : start + 8], "little")
        uid = rng.choice(_SYNTAXES).encode()
        uid += b"\0" * (len(uid) % 2)
        raw[start + 6 : start + 8 + length] = struct.pack("<H", len(uid)) + uid


def _zip_edited(rng: random.Random, data: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError):
        return _edited(rng, data)  # damaged before
    if not members:
        return _edited(rng, data)
    chosen = rng.randrange(len(members))
    name, content = members[chosen]
    if rng.random() < 0.1:
        name = rng.choice(("../" + name, "/" + name, "imgs.npy", name + "\0", "a" * 300, ""))
    members[chosen] = (name, _edited(rng, content))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, inside in members:
            archive.writestr(zipfile.ZipInfo(member), inside)
    return stream.getvalue()


def _png_mended(data: bytes) -> bytes:
    """The same with the checksum of every chunk put right, as far as the chunks can be followed."""
    raw = bytearray(data)
    start = 8
    while start + 12 <= len(raw):
        end = start + 8 + int.from_bytes(raw[start : start + 4], "big")
        if end + 4 > len(raw):
            break
        raw[end : end + 4] = struct.pack(">I", zlib.crc32(raw[start + 4 : end]))
        start = end + 4
    return bytes(raw)

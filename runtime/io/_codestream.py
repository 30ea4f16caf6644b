"""What an encoded frame says of its own size: JPEG, JPEG-LS and JPEG 2000, as DICOM holds them.

Knows the markers that lead to the size; decodes nothing. Decoders reserve what a frame claims before they find that
its data do not suffice, so that a file of a few kilobytes would take gigabytes.
"""

from __future__ import annotations

from runtime.errors import ImageError

__all__ = ["check_frame"]

_JP2_SIGNATURE = b"\0\0\0\x0cjP  "
_JP2_SIGNATURE_BYTES = 12
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF of JPEG and JPEG-LS; not DHT, JPG, DAC
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MOST_COMPONENTS = 4


def check_frame(data: bytes, rows: int, columns: int) -> None:
    """Refuse a frame that claims more pixels than its file does, or does not say how many it has.

    Parameters
    ----------
    data : bytes
        The encoded frame.
    rows, columns : int
        What the header of the file says.

    Raises
    ------
    ImageError
        With what was found; the message does not name the file.
    """
    size = _jpeg2000_size(data) if _is_jpeg2000(data) else _jpeg_size(data)
    if size is None:
        msg = (
            "an encoded frame does not say how large it is, wanted complete pixel data; check that the file is complete"
        )
        raise ImageError(msg)
    height, width, components = size
    if min(size) < 1 or height * width > rows * columns or components > _MOST_COMPONENTS:
        found = f"{width} x {height} pixels of {components} components"
        msg = (
            f"an encoded frame claims {found}, the header {columns} x {rows}; wanted complete pixel data, "
            "check that the file is complete"
        )
        raise ImageError(msg)


def _is_jpeg2000(data: bytes) -> bool:
    return data.startswith((b"\xff\x4f", _JP2_SIGNATURE))


def _jpeg2000_size(data: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of the image area."""
    start = _codestream_start(data)
    if start is None or data[start : start + 4] != b"\xff\x4f\xff\x51" or len(data) < start + 42:
        return None
    right, bottom, left, top = (_number(data, start + at, 4) for at in (8, 12, 16, 20))
    return bottom - top, right - left, _number(data, start + 40, 2)


def _codestream_start(data: bytes) -> int | None:
    """Where the codestream begins; behind the boxes of a JP2 file, which some programs put in its place.

    A box without a size has no end for pydicom, which would look for the codestream for ever.
    """
    if not data.startswith(_JP2_SIGNATURE):
        return 0
    place = _JP2_SIGNATURE_BYTES
    while place + 8 <= len(data):
        if data[place + 4 : place + 8] == b"jp2c":
            return place + 8
        length = _number(data, place, 4)
        if length < 8:
            return None
        place += length
    return None


def _jpeg_size(data: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components of the first frame header."""
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 10 <= len(data):
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _ALONE:
            place += 2
        elif marker in _FRAME_MARKERS:
            return _number(data, place + 5, 2), _number(data, place + 7, 2), data[place + 9]
        else:
            place += 2 + max(2, _number(data, place + 2, 2))
    return None


def _number(data: bytes, start: int, width: int) -> int:
    return int.from_bytes(data[start : start + width], "big")

"""Colours of objects: the one palette that previews and label tables share.

Knows numbers only.
"""

from __future__ import annotations

__all__ = ["PALETTE", "object_colour"]

PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)
"""Okabe and Ito's colours, which stay apart under all common kinds of colour blindness (0-255 RGB)."""


def object_colour(index: int) -> tuple[int, int, int]:
    """Colour of the object with a 0-based index; beyond the palette the colours return, ever paler."""
    turn, place = divmod(max(index, 0), len(PALETTE))
    pale = 0.45 * (turn % 3) / 2
    red, green, blue = (round(channel + (255 - channel) * pale) for channel in PALETTE[place])
    return (red, green, blue)

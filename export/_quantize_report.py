"""How to quantise a bundle, and what came of it.

Knows figures and words; knows no graph, no session and no file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from runtime.manifest import Metric

__all__ = ["QuantizeOptions", "Report"]

_DRAWN = ", which test the arithmetic and say nothing of accuracy on scans"


@dataclass(frozen=True)
class QuantizeOptions:
    """How to quantise; `max_drop` is in Dice points (hundredths), `images` bounds what is read."""

    precision: Literal["fp16", "int8-weights", "int8"] = "int8"
    max_drop: float = 0.5
    images: int = 36
    force: bool = False
    report: Callable[[str], None] = lambda _: None


@dataclass
class Report:
    """What came of it; `dice` by engine, `speed` by engine and graph; `left_float` gives a reason for each layer.

    `rest_dice` and `rest_speed`, over INT8 graphs, are of INT8 graphs whose float layers compute in bfloat16; None and
    empty where this CPU is not made for that. `measured_on` says in words which images the masks are of; what is
    `drawn` by us tests the arithmetic and says nothing of accuracy on scans. `dice` is empty where none of these images
    has anything that the model finds.
    """

    precision: str
    bytes_before: int = 0
    bytes_after: int = 0
    images: int = 0
    held_out: int = 0
    measured_on: str = ""
    drawn: bool = False
    dice: dict[str, float] = field(default_factory=dict)
    speed: dict[str, dict[str, float]] = field(default_factory=dict)
    int8_unit: dict[str, str | None] = field(default_factory=dict)
    int8_faster: dict[str, list[str]] = field(default_factory=dict)
    rest_dice: float | None = None
    rest_speed: dict[str, float] = field(default_factory=dict)
    int8_rest: Literal["fp32", "bf16"] = "fp32"
    quantised: dict[str, int] = field(default_factory=dict)
    left_float: dict[str, dict[str, str]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report as text."""
        text = [f"size: {self.bytes_before / 1e6:.2f} -> {self.bytes_after / 1e6:.2f} MB"]
        for engine, dice in self.dice.items():
            text.append(f"{engine}: Dice to fp32 {dice:.4f} on {self.measured_on}{_DRAWN if self.drawn else ''}")
        if not self.dice:
            text.append(f"no masks on {self.measured_on}: Dice to fp32 is not measured; --calibration DIR takes yours")
        for engine, roles in self.speed.items():
            parts = ", ".join(f"{role} {ratio:.2f} times as fast" for role, ratio in roles.items())
            if self.precision != "int8":
                text.append(f"{engine}: on this CPU {parts} as fp32, in which its graphs compute")
                continue
            unit = self.int8_unit[engine] or "no 8-bit products"
            taken = "taken" if engine in self.int8_faster else "not taken"
            text.append(f"{engine}: on this CPU ({unit}) {parts} as fp32; {taken} by --precision auto")
        if self.rest_dice is not None:
            parts = ", ".join(f"{role} {ratio:.2f}" for role, ratio in self.rest_speed.items())
            taken = "taken" if self.int8_rest == "bf16" else "not taken"
            text.append(
                f"openvino: with bfloat16 for float layers Dice to fp32 {self.rest_dice:.4f}, {parts} times as fast as "
                f"with float32; {taken} by --precision auto"
            )
        for role, count in self.quantised.items():
            reasons = Counter(self.left_float.get(role, {}).values())
            why = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            text.append(f"{role}: {count} layers in int8" + (f"; in float: {why}" if why else ""))
        return text

    def metrics(self) -> tuple[Metric, ...]:
        """The figures of INT8 graphs for a manifest."""
        if self.precision != "int8":
            return ()
        note = "float32 time over INT8 time on the machine that quantised"
        dice = [
            Metric(f"int8_dice_to_fp32_{engine}", round(value, 4), self.measured_on)
            for engine, value in self.dice.items()
        ]
        speed = [
            Metric(f"int8_speed_{role}_{engine}", round(ratio, 2), self.measured_on, note)
            for engine, roles in self.speed.items()
            for role, ratio in roles.items()
        ]
        return (*dice, *speed)

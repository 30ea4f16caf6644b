"""MedficientSAM-L0: the smallest MedficientSAM; its facts are in `_medficientsam`."""

from __future__ import annotations

from export.families._efficientvit import L0
from export.families._medficientsam import medficientsam

__all__ = ["FAMILY"]

FAMILY = medficientsam("L0", L0, encoder_gflops=69.6)

"""MedficientSAM-L1: the middle MedficientSAM; its facts are in `_medficientsam`."""

from __future__ import annotations

from export.families._efficientvit import L1
from export.families._medficientsam import medficientsam

__all__ = ["FAMILY"]

FAMILY = medficientsam("L1", L1, encoder_gflops=98.0)

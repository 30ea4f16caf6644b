"""MedficientSAM-L2: the largest MedficientSAM; its facts are in `_medficientsam`."""

from __future__ import annotations

from export.families._efficientvit import L2
from export.families._medficientsam import medficientsam

__all__ = ["FAMILY"]

FAMILY = medficientsam("L2", L2, encoder_gflops=137.1)

"""How the default model is trained: synthetic scenes, network, training loop, evaluation and graphs.

Knows torch, numpy and OpenCV. Must not know the inside of ``runtime``: the evaluation of bundles and the manifest
go through its public names.
"""

from __future__ import annotations

__all__: list[str] = []

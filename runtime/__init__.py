"""Promptable medical image segmentation on a laptop's CPU.

Three lines open a session, load a volume and segment it::

    session = runtime.Session()
    volume = runtime.load("ct.nii.gz")
    result = session.segment(volume, box=(10, 20, 80, 90))

Importing this package loads no inference engine and no file-format library; they are loaded when first used.
Results are for research use unless you validate them for your purpose.
"""

from __future__ import annotations

from runtime import _importing

with _importing.no_search_for_garbage():
    from runtime import errors
    from runtime._version import __version__
    from runtime._volume_run import Progress
    from runtime.bundle import available_bundles
    from runtime.cache import EmbeddingCache
    from runtime.geometry import Volume
    from runtime.intensity import PRESETS, Window
    from runtime.io import load, save
    from runtime.prompts import world_box
    from runtime.segmentation import ObjectResult, Segmentation
    from runtime.session import Session
    from runtime.types import Box, Embedding, Point, Prediction, SliceResult

__all__ = [
    "PRESETS",
    "Box",
    "Embedding",
    "EmbeddingCache",
    "ObjectResult",
    "Point",
    "Prediction",
    "Progress",
    "Segmentation",
    "Session",
    "SliceResult",
    "Volume",
    "Window",
    "__version__",
    "available_bundles",
    "errors",
    "load",
    "save",
    "world_box",
]

"""What tests of the command line share: how a run ended, small input files, what is left in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scenes import PLAIN, RAS_AFFINE, Storage
from tiny_bundle import scene_volume


@dataclass(frozen=True)
class Finished:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        data = json.loads(self.out)
        assert isinstance(data, dict)
        return data


Runner = Callable[..., Finished]


def write_nifti(path: Path, array: Any, affine: Any = RAS_AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def scene_file(path: Path, storage: Storage = PLAIN) -> Path:
    volume = scene_volume(storage, np.int16)
    return write_nifti(path, volume.array, volume.affine)


def left_behind(folder: Path, *known: Path) -> list[str]:
    """Names in a folder, hidden ones included, except those of known files."""
    return sorted(path.name for path in folder.iterdir() if path not in known)

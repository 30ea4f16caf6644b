"""Peak memory of one command on a scan of 512x512x1000 voxels: ``python -m perf.bench_memory``.

Knows drawn scans, file formats and fresh processes; must not know what a session does. A process passes if its peak
stays below the voxels in their stored dtype plus 700 MB, which is what the README promises for the default bundle.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perf.machine import describe_machine
from perf.processes import CLI, Launch, launch, python_command
from perf.synthetic import CT_SPACING, ct_volume

__all__ = ["ALLOWANCE_BYTES", "CASES", "Measured", "main", "measure"]

ALLOWANCE_BYTES = 700_000_000
"""What a process may take beside the voxels."""

_SIDE = 512
_OFFSET = 1024
_STRETCH = 10
_MEGABYTE = 1e6

Writer = Callable[[Path, NDArray[Any]], Path]


@dataclass(frozen=True, slots=True)
class Measured:
    """One process.

    Attributes
    ----------
    case : str
    volume_bytes : int
        The voxels in their stored dtype.
    peak_bytes : int
        Largest resident memory of the process.
    voxels : int
        Voxels of the answer.
    """

    case: str
    volume_bytes: int
    peak_bytes: int
    voxels: int

    @property
    def beside_bytes(self) -> int:
        """What the process took beside the voxels."""
        return self.peak_bytes - self.volume_bytes

    @property
    def passed(self) -> bool:
        """Whether that is within the allowance."""
        return self.beside_bytes < ALLOWANCE_BYTES


def _header(array: NDArray[Any]) -> bytes:
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    affine = np.diag([-CT_SPACING[0], -CT_SPACING[1], CT_SPACING[2], 1.0])
    header.set_sform(affine, code=1)
    header["vox_offset"] = 352
    return bytes(header.binaryblock) + bytes(4)


def _planes(array: NDArray[Any]) -> Iterator[bytes]:
    for k in range(array.shape[2]):
        yield np.ascontiguousarray(array[:, :, k].T).tobytes()  # i runs fastest


def _nifti(folder: Path, array: NDArray[Any]) -> Path:
    path = folder / f"{array.dtype}.nii"
    with path.open("wb") as stream:
        stream.write(_header(array))
        stream.writelines(_planes(array))
    return path


def _packed_nifti(folder: Path, array: NDArray[Any]) -> Path:
    path = folder / f"{array.dtype}.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(_header(array))
        stream.writelines(_planes(array))
    return path


def _dicom(folder: Path, array: NDArray[Any]) -> Path:
    """Write one file a slice, stored as scanners do: unsigned, with the intercept that makes HU of it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    place = folder / "series"
    place.mkdir()
    series = "1.2.826.0.1.3680043.10.1"
    for k in range(array.shape[2]):
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = f"{series}.{k + 1}"
        data.SeriesInstanceUID, data.Modality, data.InstanceNumber = series, "CT", k + 1
        data.Rows, data.Columns, data.SamplesPerPixel = array.shape[1], array.shape[0], 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.RescaleSlope, data.RescaleIntercept = 15, 1, -_OFFSET
        data.PixelSpacing, data.ImageOrientationPatient = list(CT_SPACING[:2]), [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [0, 0, k * CT_SPACING[2]]
        data.PixelData = (array[:, :, k].T.astype(np.int32) + _OFFSET).astype(np.uint16).tobytes()
        data.save_as(place / f"{k:05d}.dcm", enforce_file_format=True)
    return place


CASES: dict[str, tuple[str, Writer]] = {
    "CT .nii": ("int16", _nifti),
    "CT .nii.gz": ("int16", _packed_nifti),
    "CT DICOM folder": ("int16", _dicom),
    "MR .nii int16": ("mr int16", _nifti),
    "MR .nii float32": ("mr float32", _nifti),
}
"""Case -> what is drawn, and how it is written. MR chooses its window by percentiles."""


def _stretched(drawn: NDArray[Any], slices: int) -> NDArray[np.int16]:
    """Make every drawn slice ten, each a little brighter than the one before, so that no two are equal."""
    array = np.empty((*drawn.shape[:2], slices), dtype=np.int16, order="F")
    for k in range(slices):
        array[:, :, k] = drawn[:, :, k // _STRETCH] + k % _STRETCH
    return array


def _drawn(kind: str, array: NDArray[np.int16]) -> NDArray[Any]:
    if kind == "int16":
        return array
    dtype = kind.partition(" ")[2]
    grey = np.empty(array.shape, dtype=dtype, order="F")
    for k in range(array.shape[2]):  # no value below -500, which would be taken for CT
        grey[:, :, k] = np.maximum(array[:, :, k].astype(np.int32) + 200, 0)
    return grey


def measure(
    cases: Sequence[str], slices: int, object_slices: int, folder: Path, run: Launch = launch
) -> Iterator[Measured]:
    """Draw the scan, then measure one process a case; the boxes of all cases are the same."""
    drawn = ct_volume((_SIDE, _SIDE, -(-slices // _STRETCH)))
    scan = _stretched(drawn.array, slices)
    x0, y0, z0, x1, y1, z1 = drawn.boxes[0]
    z0, z1 = z0 * _STRETCH, z1 * _STRETCH
    z1 = min(z1, z0 + object_slices - 1)
    box = ",".join(map(str, (x0, y0, z0, x1, y1, z1)))
    command, variables = python_command()
    variables["LITE_INFER_CACHE"] = str(folder / "cache")
    for case in cases:
        kind, write = CASES[case]
        array = _drawn(kind, scan)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = write(Path(scratch), array)
            output = Path(scratch) / "seg.nii.gz"
            words = [*command, "-c", CLI, str(path), "--box", box, "-o", str(output), "--json", "--quiet"]
            finished = run(words, variables, folder)
        answer = json.loads(finished.stdout)
        voxels = answer["objects"][0]["voxels"]
        if answer["shape"] != list(array.shape) or not voxels:
            msg = f"{case}: the answer has shape {answer['shape']} and {voxels} voxels; something else is wrong"
            raise RuntimeError(msg)
        yield Measured(case, array.nbytes, finished.peak_rss_bytes or 0, voxels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a case; 1 if a process took too much."""
    parser = argparse.ArgumentParser(prog="python -m perf.bench_memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, default=1000, help="of the scan (default 1000)")
    parser.add_argument("--object-slices", type=int, default=400, help="that the box spans, at most (default 400)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--folder", type=Path, help="where to write the scans (default: a temporary folder)")
    options = parser.parse_args(arguments)
    chosen = [case.strip() for case in options.cases.split(",")]
    if unknown := sorted(set(chosen) - set(CASES)):
        parser.error(f"no case {', '.join(unknown)}; wanted some of {', '.join(CASES)}")
    machine = describe_machine()
    print(f"{machine.cpu}, {machine.usable_cores} usable cores, {machine.system}")
    print(f"scan of {_SIDE}x{_SIDE}x{options.slices}, default bundle; megabytes (10^6 bytes)")
    passed = True
    with tempfile.TemporaryDirectory(prefix="lite-infer-perf-", dir=options.folder) as scratch:
        for one in measure(chosen, options.slices, options.object_slices, Path(scratch).resolve()):
            passed = passed and one.passed
            print(
                f"{one.case:16}  voxels {one.volume_bytes / _MEGABYTE:7.1f}  peak {one.peak_bytes / _MEGABYTE:7.1f}  "
                f"beside the voxels {one.beside_bytes / _MEGABYTE:6.1f} of {ALLOWANCE_BYTES / _MEGABYTE:.0f}"
                f"{'' if one.passed else '  TOO MUCH'}",
                flush=True,
            )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())

"""One small image of each format, made here: what fuzzing starts from where no real data are at hand."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
import zlib
from functools import cache
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

NAMES = [
    "x.nii", "two.nii", "x.nii.gz", "x.dcm", "enhanced.dcm", "rle.dcm", "3D.npz", "x.png", "x.tif", "x.bmp",
    "x.nrrd", "gz.nrrd", "bz.nrrd", "text.nrrd", "x.mha", "packed.mha", "x.mgh", "x.mgz", "x.zip",
]  # fmt: skip

PIXELS = np.arange(12 * 10, dtype=np.int16).reshape(12, 10)


def _nifti(kind: Any = nibabel.Nifti1Image) -> bytes:
    return bytes(kind(np.stack([PIXELS] * 3, axis=2), np.diag([1.0, 2.0, 3.0, 1.0])).to_bytes())


def dicom_slice(**attributes: Any) -> bytes:
    """A CT slice; attributes by keyword."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "CT", 12, 10, 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing, data.ImagePositionPatient = [0.5, 0.6], [1, 2, 3]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.RescaleSlope, data.RescaleIntercept, data.WindowCenter, data.WindowWidth = 1, -1024, 40, 400
    data.PixelData = PIXELS.tobytes()
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _enhanced() -> bytes:
    shared, measures, frames = Dataset(), Dataset(), []
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.6], 2
    shared.PixelMeasuresSequence = [measures]
    for k in range(3):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, 2 * k]
        group.PlanePositionSequence = [place]
        frames.append(group)
    return dicom_slice(
        NumberOfFrames=3,
        PixelData=PIXELS.tobytes() * 3,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )


def _rle() -> bytes:
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    data = dcmread(io.BytesIO(dicom_slice()))
    data.compress(RLELossless, generate_instance_uid=False)
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


def encoded_slice(frame: bytes, syntax: str, **attributes: Any) -> bytes:
    """A CT slice whose one frame holds these bytes, said to be encoded in a transfer syntax."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    data = dcmread(io.BytesIO(dicom_slice(**attributes)))
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([frame])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    data.save_as(stream)
    return stream.getvalue()


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, imgs=np.stack([PIXELS] * 3), boxes=[[1, 1, 0, 5, 5, 2]], spacing=(1.0, 1.0, 2.0))
    return stream.getvalue()


def _nrrd(encoding: str) -> bytes:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 10 3\n"
        "space directions: (1,0,0) (0,2,0) (0,0,3)\nspace origin: (1,2,3)\nendian: little\n"
        f"encoding: {encoding}\nkey:=value\n\n"
    )
    data = np.stack([PIXELS] * 3, axis=2).tobytes(order="F")
    packed = {"raw": data, "gzip": gzip.compress(data, mtime=0), "bzip2": bz2.compress(data)}
    text = " ".join(["7"] * 360).encode()
    return header.encode() + packed.get(encoding, text)


def _metaimage(packed: bool) -> bytes:
    header = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {packed}\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 1 2 3\nDimSize = 12 10 3\n"
        "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    data = np.stack([PIXELS] * 3, axis=2).tobytes(order="F")
    return header.encode() + (zlib.compress(data) if packed else data)


def _mgh() -> bytes:
    image = nibabel.MGHImage(np.stack([PIXELS] * 3, axis=2), np.diag([1.0, 2.0, 3.0, 1.0]))
    return bytes(image.to_bytes())


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(3):
            archive.writestr(f"study/{k}", dicom_slice(ImagePositionPatient=[0, 0, k], InstanceNumber=k))
    return stream.getvalue()


def _picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS.astype(np.uint8)).save(stream, format=kind)
    return stream.getvalue()


@cache
def seed(name: str) -> bytes:
    """Bytes of the image of that name."""
    makers: dict[str, Any] = {
        "x.nii": _nifti,
        "two.nii": lambda: _nifti(nibabel.Nifti2Image),
        "x.nii.gz": lambda: gzip.compress(_nifti(), mtime=0),
        "x.dcm": dicom_slice,
        "enhanced.dcm": _enhanced,
        "rle.dcm": _rle,
        "3D.npz": _npz,
        "x.nrrd": lambda: _nrrd("raw"),
        "gz.nrrd": lambda: _nrrd("gzip"),
        "bz.nrrd": lambda: _nrrd("bzip2"),
        "text.nrrd": lambda: _nrrd("ascii"),
        "x.mha": lambda: _metaimage(packed=False),
        "packed.mha": lambda: _metaimage(packed=True),
        "x.mgh": _mgh,
        "x.zip": _zip,
        "x.mgz": lambda: gzip.compress(_mgh(), mtime=0),
        "x.png": lambda: _picture("PNG"),
        "x.tif": lambda: _picture("TIFF"),
        "x.bmp": lambda: _picture("BMP"),
    }
    return bytes(makers[name]())

"""Which DICOM transfer syntaxes can be decoded with what is installed.

Knows the decoders that `_dicom_pixels` uses; reads no file.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from runtime.io._dicom_pixels import IMAGECODECS_SYNTAXES, JPEG_LOSSY12, PACKAGES
from runtime.io._quiet import quiet

__all__ = ["TransferSyntax", "transfer_syntaxes"]

_PART_OF_LITE_INFER = "pydicom"


@dataclass(frozen=True, slots=True)
class TransferSyntax:
    """One way to encode pixels.

    Attributes
    ----------
    uid : str
        As DICOM numbers it.
    name : str
        As DICOM calls it; for JPEG of two depths, the depth as well.
    package : str
        The distribution that decodes it.
    readable : bool
        Whether that is installed and loads.
    """

    uid: str
    name: str
    package: str
    readable: bool


def transfer_syntaxes() -> tuple[TransferSyntax, ...]:
    """List the transfer syntaxes of images that lite-infer knows, readable here or not.

    Returns
    -------
    syntaxes : tuple of TransferSyntax
        In the order of the standard; JPEG of 8 and of 12 bits, which share a UID, apart.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, AllTransferSyntaxes

    imagecodecs = _loads("imagecodecs")
    found = []
    with quiet():
        for uid in AllTransferSyntaxes:
            name = UID(uid).name
            if uid in IMAGECODECS_SYNTAXES:
                found.append(TransferSyntax(uid, name, "imagecodecs", imagecodecs))
                continue
            try:
                decoder = get_decoder(uid)
            except NotImplementedError:  # films, and JPEG that nobody uses any more
                continue
            package = PACKAGES.get(uid, _PART_OF_LITE_INFER)
            if uid == JPEG_LOSSY12:
                found.append(TransferSyntax(uid, f"{name}, 12 bits", "imagecodecs", imagecodecs))
                name = f"{name}, 8 bits"
            found.append(TransferSyntax(uid, name, package, decoder.is_available))
    return tuple(found)


def _loads(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, OSError):
        return False
    return True

"""Several bundles -> a set: one folder that is opened like a bundle and chooses among them by modality.

Knows bundles, the set's file and where DICOM names what an image shows. Must not know families or torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtime.arrival import arriving_folder, check_replaceable
from runtime.bundle import Bundle, open_bundle
from runtime.bundle_set import SET_NAME, SET_VERSION, Expert, SetFacts, folded, open_model, set_files
from runtime.errors import OutputError
from runtime.manifest import MANIFEST_NAME

__all__ = ["DICOM_MODALITIES", "Member", "pack_set"]

DICOM_MODALITIES = {
    "ct": ("CT",),
    "mr": ("MR",),
    "mri": ("MR",),
    "pet": ("PT",),
    "xray": ("CR", "DX"),
    "us": ("US",),
    "ultrasound": ("US",),
    "mammography": ("MG",),
    "oct": ("OPT",),
    "fundus": ("OP",),
    "endoscopy": ("ES",),
    "microscopy": ("SM", "GM"),
    "dermoscopy": ("DMS",),
}
"""Values of DICOM's Modality (PS3.3, C.7.3.1.1.1) by the name of what an image shows, without case and hyphens."""


@dataclass(frozen=True)
class Member:
    """A bundle and the modalities that it is the expert for."""

    bundle: Path
    modalities: tuple[str, ...]


def pack_set(members: Sequence[Member], output: Path, *, name: str, title: str, force: bool = False) -> Path:
    """Copy bundles into a set, each file verified, and return its folder, which appears whole or not at all.

    BundleError if a bundle is damaged or they differ in more than their weights, OutputError if the folder exists or
    cannot be written.
    """
    check_replaceable(output, force=force, files=set_files)
    bundles = [open_bundle(member.bundle.absolute()) for member in members]
    with arriving_folder(output, force=force, files=set_files) as folder:
        experts = []
        for number, (member, bundle) in enumerate(zip(members, bundles, strict=True), 1):
            digest = _copied(bundle, folder / f"expert-{number}")
            codes = [code for one in member.modalities for code in DICOM_MODALITIES.get(folded(one), ())]
            experts.append(
                Expert(
                    bundle=f"expert-{number}",
                    modalities=member.modalities,
                    manifest_sha256=digest,
                    dicom=tuple(dict.fromkeys(codes)),
                )
            )
        facts = SetFacts(format_version=SET_VERSION, name=name, title=title, experts=tuple(experts))
        text = json.dumps(msgspec.to_builtins(facts), indent=2, ensure_ascii=False) + "\n"
        (folder / SET_NAME).write_text(text, encoding="utf-8")
        open_model(folder.absolute())  # reads it as a user will: names twice, facts that differ
    return output


def _copied(bundle: Bundle, folder: Path) -> str:
    """Copy the manifest and every file it lists; return the manifest's sha256."""
    for relative in bundle.manifest.files:
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path(relative), target)
    content = (bundle.folder / MANIFEST_NAME).read_bytes()
    try:
        (folder / MANIFEST_NAME).write_bytes(content)
    except OSError as error:
        msg = f"{folder}: cannot be written ({error.strerror}); free space or choose another folder"
        raise OutputError(msg) from error
    return hashlib.sha256(content).hexdigest()

"""The command line ``lite-infer``: parse, call the public API, print.

Knows argparse, exit codes and the public API; does no arithmetic on images.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import json
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import runtime
from runtime import _cli_output, _cli_start, _cli_targets, errors
from runtime.backends.graph_cache import clear_graphs
from runtime.command import CommandParser, run_command
from runtime.directories import cache_directory
from runtime.geometry import PLANES, Volume
from runtime.intensity import PRESETS
from runtime.io import FORMATS, WRITABLE, kind_of
from runtime.prompt_text import parse_box, parse_point, read_prompts
from runtime.prompts import group_prompts
from runtime.segmentation import OVERLAP_POLICIES, Segmentation
from runtime.types import Box, Point

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["main"]

_SIGNED = {"--box", "--point", "--window", "--z-range", "--slice"}
_NEGATIVE = re.compile(r"-[0-9.]")

_EPILOG = """\
examples:
  lite-infer ct.nii.gz --box 10,20,80,90              a box on the middle slice, followed through the volume
  lite-infer ct.nii.gz --box liver=10,20,80,90@40     the same on slice 40, with a name
  lite-infer ct.nii.gz --box 10,20,5,80,90,40         a box through slices 5 to 40
  lite-infer photo.png --box 30,30,200,180 --preview  a 2-D image
other commands: lite-infer info FILE | models | demo | cache info | cache clear | doctor | perf

Boxes are voxel indices in file order, 0-based, both ends inclusive. Research use only, unless you validate
the results for your purpose."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 2 usage, 3 image, 4 bundle, 5 backend, 6 output)."""
    if argv is None:  # a process of our own: looking through all objects at its end frees what the system frees at once
        atexit.register(gc.freeze)
    return run_command("lite-infer", _dispatch, argv)


def _dispatch(arguments: list[str]) -> int:
    command = arguments[0] if arguments else ""
    if command == "cache":
        return _cache(arguments[1:])
    if command == "models":
        from runtime.registry.cli import main as models_main

        return models_main(arguments[1:])
    if command == "perf":
        from perf.cli import main as perf_main

        return perf_main(arguments[1:])
    if command == "demo":
        return _demo(arguments[1:])
    if command == "info":
        return _info(arguments[1:])
    if command == "doctor":
        return _doctor(arguments[1:])
    return _segment(_segment_parser().parse_args(_joined(arguments)))


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join options and values that start with a minus (``--window -600,1500``), which argparse takes for options."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in _SIGNED and _NEGATIVE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _segment_parser(prog: str = "lite-infer") -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=prog,
        description="Segment what is inside a box, in an image or through a volume.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "input", nargs="?", help="NIfTI, NRRD, MHA, MGZ, DICOM file, folder or zip, PNG, JPEG or challenge NPZ"
    )
    parser.add_argument("-i", "--input", dest="input_option", metavar="FILE", help="the same as an option")
    parser.add_argument("--version", action="version", version=f"lite-infer {runtime.__version__}")
    _prompt_options(parser.add_argument_group("prompts (docs/prompts.md)"))
    group = parser.add_argument_group("image")
    group.add_argument("--volume", type=int, metavar="N", help="time point of a 4-D file, from 0")
    group.add_argument("--series", metavar="N", help="which series of a folder or zip, as info numbers them; or UID")
    group.add_argument("--force", action="store_true", help="read series with gaps, duplicates, missing positions")
    group.add_argument("--window", metavar="LEVEL,WIDTH", help=f"intensity window, or {', '.join(PRESETS)}")
    group = parser.add_argument_group("output")
    _output_options(group)
    group.add_argument("--overlap", choices=OVERLAP_POLICIES, default="last", help="who keeps shared voxels")
    group.add_argument("--json", action="store_true", help="print a summary as JSON (docs/json-summary.md)")
    _run_options(parser)
    return parser


def _output_options(group: argparse._ArgumentGroup) -> None:
    what = "what to write (docs/outputs.md); repeatable; " + " ".join(WRITABLE)
    group.add_argument("-o", "--output", type=Path, action="append", default=[], metavar="FILE", help=what)
    names = [one.name for one in FORMATS]
    group.add_argument("--format", choices=names, help="for .dcm, which several formats share (default dicom_seg)")
    group.add_argument("--separate", action="store_true", help="every object to a file of its own, FILE_LABEL_NAME")
    group.add_argument("-s", "--statistics", nargs="?", const="", metavar="FILE", help="volumes, intensities ...")
    group.add_argument("-p", "--preview", nargs="?", const="", metavar="PNG", help="write a preview PNG as well")


def _prompt_options(group: argparse._ArgumentGroup) -> None:
    box, point = "[NAME=]X0,Y0,X1,Y1[@SLICE]", "[NAME=]X,Y[,Z],+"
    group.add_argument("--box", action="append", default=[], metavar=box, help="or six numbers; repeatable")
    group.add_argument("--point", action="append", default=[], metavar=point, help="click; - beside the object")
    group.add_argument("--prompts", type=Path, metavar="FILE", help="boxes and points from JSON or CSV")
    group.add_argument("--auto", action="store_true", help="no prompt: for bundles that find the object themselves")
    group.add_argument("--slice", type=int, metavar="K", help="slice of boxes without one (default: middle)")
    group.add_argument("--plane", choices=PLANES, help="slices along an anatomical plane instead of k")
    group.add_argument("--slice-axis", type=int, choices=(0, 1, 2), help="slices along a voxel axis (default 2)")
    group.add_argument("--z-range", metavar="FIRST,LAST", help="slices of the object, both included")
    group.add_argument("--world", action="store_true", help="boxes are in RAS millimetres, axial by default")
    group.add_argument("--mode", choices=("chain", "published"), default="chain", help="propagation")
    group.add_argument("--modality", metavar="NAME", help="what the image shows, for bundles and sets that ask")
    group.add_argument("--extra", type=Path, metavar="NPZ", help="further arrays by name, for bundles that take them")


def _run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--bundle", metavar="NAME", help="name or folder of a bundle (default: the built-in model)")
    group.add_argument("--backend", choices=("auto", "openvino", "onnxruntime"), default="auto")
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16", "int8", "int8-bf16"), default="auto")
    group.add_argument("--threads", type=int, metavar="N", help="default: physical cores")
    group.add_argument("--no-cache", action="store_true", help="keep no embeddings on disk (they contain the image)")
    group = parser.add_argument_group("messages")
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="print what is decided on the way")
    group.add_argument("--debug", action="store_true", help="show tracebacks")


def _segment(options: argparse.Namespace) -> int:
    name = options.input or options.input_option
    if options.input and options.input_option:
        msg = f"two inputs, {options.input} and {options.input_option}; give one file a call"
        raise errors.PromptError(msg)
    if name is None:
        msg = "no input; give a file, for example: lite-infer volume.nii.gz --box 10,20,80,90"
        raise errors.PromptError(msg)
    level = logging.ERROR if options.quiet else logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="lite-infer: %(message)s")
    clock = _cli_output.Clock()
    given, wanted = _prompts(options), _wanted(options)
    _cli_targets.check_names(wanted)
    with _cli_start.SessionAhead(partial(_session, options), _probably(Path(name))) as ahead:
        result, targets = _segmented(Path(name), options, given, wanted, ahead, clock)
        with clock.stage("write"), _cli_start.without_pydicom():  # loaded by now if anything is DICOM
            written = _cli_targets.write(result, targets)
    summary = _cli_output.summary(result, written, clock)
    if options.json:
        print(json.dumps(summary, indent=2, allow_nan=False))
    elif not options.quiet:
        print(_cli_output.report(summary))
    return 0


def _probably(name: Path) -> Literal["image", "volume"]:
    """Guess before the file is read; a wrong guess costs the time of loading a graph in vain."""
    kind = kind_of(name)
    return "image" if kind == "raster" or (kind == "npz" and name.name[:2].upper() == "2D") else "volume"


def _session(options: argparse.Namespace) -> runtime.Session:
    return runtime.Session(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        cache=not options.no_cache,
    )


def _segmented(
    name: Path,
    options: argparse.Namespace,
    given: list[Box | Point],
    wanted: _cli_targets.Wanted,
    ahead: _cli_start.SessionAhead,
    clock: _cli_output.Clock,
) -> tuple[Segmentation, _cli_targets.Targets]:
    """Read the image, settle what is asked of it and where the answer goes, and segment it."""
    lone = _cli_start.without_pydicom if kind_of(name) == "nifti" else contextlib.nullcontext
    with clock.stage("read"), lone():
        volume = runtime.load(name, volume=options.volume, series=options.series, force=options.force)
    slice_axis = _slice_axis(options, volume)
    prompts = _placed(options, volume, given, slice_axis)
    if not options.auto:
        prompts = prompts or list(volume.prompts)
    if not prompts and not options.auto:
        msg = "no prompt; give --box X0,Y0,X1,Y1, --point, --prompts FILE, or --auto if the bundle needs none"
        raise errors.PromptError(msg)
    extra = _extra(options.extra)
    objects = len(group_prompts(prompts)) if prompts else 1
    targets = _cli_targets.choose_targets(name, volume, wanted, objects)
    with clock.stage("start"):
        session = ahead.result()
    with _progress_bar(options) as progress:
        result = session.segment(
            volume,
            prompts=prompts,
            auto=options.auto,
            slice_index=options.slice,
            slice_axis=slice_axis,
            z_range=_z_range(options.z_range),
            window=options.window,
            modality=_modality(options.modality),
            extra=extra,
            mode=options.mode,
            overlap=options.overlap,
            progress=progress,
        )
    return result, targets


def _prompts(options: argparse.Namespace) -> list[Box | Point]:
    found: list[Box | Point] = [parse_box(text) for text in options.box]
    if options.prompts is not None:
        found += read_prompts(options.prompts)
    return found + [parse_point(text) for text in options.point]


def _wanted(options: argparse.Namespace) -> _cli_targets.Wanted:
    return _cli_targets.Wanted(
        tuple(options.output), options.format, options.separate, options.statistics, options.preview
    )


def _slice_axis(options: argparse.Namespace, volume: Volume) -> int:
    if options.plane is not None and options.slice_axis is not None:
        msg = "--plane and --slice-axis say the same thing; give one of them"
        raise errors.PromptError(msg)
    if options.slice_axis is not None:
        return int(options.slice_axis)
    if options.plane is not None:
        return volume.slice_axis_of(options.plane)
    return volume.slice_axis_of("axial") if options.world and volume.affine is not None else 2


def _placed(
    options: argparse.Namespace, volume: Volume, prompts: list[Box | Point], slice_axis: int
) -> list[Box | Point]:
    """Turn world boxes into voxel boxes; leave all else as it is."""
    if not options.world:
        return prompts
    if options.slice is not None:
        msg = "--slice counts slices, --world takes millimetres; write the position across the plane as @MM"
        raise errors.PromptError(msg)
    placed: list[Box | Point] = []
    for prompt in prompts:
        if isinstance(prompt, Point):
            msg = "--world applies to boxes; give points in voxels without --world"
            raise errors.PromptError(msg)
        box = runtime.world_box(volume, prompt.xyxy, slice_axis, prompt.slice_index)
        placed.append(Box(box.xyxy, box.slice_index, prompt.name))
    return placed


def _z_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(","))
    except ValueError as error:
        msg = f"--z-range {text!r}: wanted two slice indices, FIRST,LAST"
        raise errors.PromptError(msg) from error
    return first, last


def _modality(text: str | None) -> str | int | None:
    return int(text) if text is not None and text.isdecimal() else text


def _extra(path: Path | None) -> dict[str, NDArray[Any]] | None:
    if path is None:
        return None
    from runtime.io.npz import read_arrays

    try:
        return read_arrays(path)
    except errors.ImageError as error:
        msg = f"--extra {error}"
        raise errors.PromptError(msg) from error


@contextlib.contextmanager
def _progress_bar(options: argparse.Namespace) -> Iterator[_cli_output.ProgressBar | None]:
    """A bar on a terminal, nothing elsewhere."""
    if options.quiet or options.json or not sys.stderr.isatty():
        yield None
        return
    with _cli_output.ProgressBar() as bar:
        yield bar


def _demo(arguments: list[str]) -> int:
    """Segment a real MR volume that comes with nibabel, exactly as ``lite-infer FILE --box ...`` does."""
    parser = CommandParser(prog="lite-infer demo", description=_demo.__doc__)
    _run_options(parser)
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")
    parser.parse_args(arguments)
    command = _cli_output.demo_command()
    if not {"-q", "--quiet", "--json"} & set(arguments):
        print("lite-infer", " ".join(command))
    return _segment(_segment_parser().parse_args([*command, *arguments]))


def _info(arguments: list[str]) -> int:
    """Say what a file, a folder or a zip archive holds, and what is wrong with it; never a name or a date."""
    from runtime._cli_info import info_report, info_summary
    from runtime.io.summaries import describe

    parser = CommandParser(prog="lite-infer info", description=_info.__doc__)
    parser.add_argument("input", type=Path, help="what lite-infer takes: a file, a folder or a zip of DICOM files")
    parser.add_argument("--json", action="store_true", help="print as JSON (docs/json-summary.md)")
    parser.add_argument("--uids", action="store_true", help="print SeriesInstanceUIDs as well")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.ERROR)  # what loaders guess is printed with the rest
    found = describe(options.input)
    if options.json:
        print(json.dumps(info_summary(found, uids=options.uids), indent=2, allow_nan=False))
    else:
        print(info_report(found, uids=options.uids))
    return 0


def _doctor(arguments: list[str]) -> int:
    """Say what is installed, what this computer can do and what does not work: for bug reports, without names."""
    from runtime._cli_doctor import doctor_report
    from runtime._doctor import diagnosis

    parser = CommandParser(prog="lite-infer doctor", description=_doctor.__doc__)
    parser.add_argument("--json", action="store_true", help="print as JSON (docs/json-summary.md)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    found = diagnosis()
    print(json.dumps(found, indent=2, allow_nan=False) if options.json else doctor_report(found))
    return 1 if found["problems"] else 0


def _cache(arguments: list[str]) -> int:
    description = "What is kept on disk for the next start: embeddings, which contain images, and compiled graphs."
    parser = CommandParser(prog="lite-infer cache", description=description)
    parser.add_argument("action", choices=("info", "clear"))
    parser.add_argument("--json", action="store_true", help="print as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments or ["--help"])
    graphs = cache_directory() / "graphs"
    with runtime.EmbeddingCache() as cache:
        if options.action == "clear":
            cache.clear()
            clear_graphs(graphs)
        summary = _cli_output.cache_summary(cache.info(), graphs)
    print(json.dumps(summary, indent=2) if options.json else _cli_output.cache_report(summary))
    return 0

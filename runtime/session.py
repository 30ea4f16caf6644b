"""The public face: open a bundle once, then encode, decode and segment.

Knows every layer below; knows no file format (it takes arrays and Volumes) and no graph format.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import _decoding, _prompt_arrays
from runtime._cut import cut_to_boxes
from runtime._experts import EngineOptions, Experts
from runtime._extra import extra_arrays
from runtime._implicit import size_to_evaluate
from runtime._inputs import as_array, as_prompts, as_volume, bare_volume
from runtime._volume_run import Progress, VolumeRun
from runtime.backends import default_threads
from runtime.bundle_set import open_model
from runtime.cache import EmbeddingCache
from runtime.errors import ImageError, PromptError
from runtime.geometry import Volume, plane_view
from runtime.intensity import choose_window
from runtime.manifest import Manifest
from runtime.prompts import plan_every_slice, plan_objects
from runtime.propagate import SlicePrompt
from runtime.segmentation import Segmentation, as_given, build_label_map, check_overlap
from runtime.transforms import frame_of
from runtime.types import Box, Embedding, Point, Prediction, whole

__all__ = ["Session"]


class Session:
    """A bundle, opened for inference on the CPU.

    Safe to use from several threads at once. After ``os.fork`` the child must open its own session.

    Parameters
    ----------
    bundle : str or path-like, optional
        Name of an installed bundle or set of bundles, or path of its folder. Default: the model that comes with
        lite-infer.
    backend : {"auto", "openvino", "onnxruntime"}
        Inference engine. ``auto`` takes OpenVINO where it is installed and the bundle has a graph for it.
    precision : {"auto", "fp32", "bf16", "fp16", "int8", "int8-bf16"}
        Inference precision. ``auto`` takes the bundle's INT8 graphs where it says that they are faster on this engine
        and CPU (``int8-bf16``: with bfloat16 for the layers that are not in 8 bits, where the bundle says that this
        keeps its masks and the CPU has a unit for it), else bfloat16 where the CPU has a unit for it, else float32.
    threads : int, optional
        Threads of the inference engine. Default: the physical cores this process may use.
    cache : bool or EmbeddingCache
        True keeps embeddings in memory and, across processes, in the user's cache folder (they contain the
        image); False keeps them in memory only, for the life of the session.

    Raises
    ------
    BundleError
        If the bundle is unknown, damaged or made for another version.
    BackendError
        If the engine is not installed or cannot run the bundle in that precision.

    Examples
    --------
    >>> import numpy as np
    >>> import runtime
    >>> image = np.zeros((60, 80), np.uint8)
    >>> image[20:40, 30:60] = 200
    >>> with runtime.Session(cache=False) as session:
    ...     embedding = session.encode(image)
    ...     prediction = session.decode(embedding, boxes=[[28, 18, 62, 42]])
    >>> prediction.masks.shape
    (1, 60, 80)
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        cache: bool | EmbeddingCache = True,
    ) -> None:
        if threads is not None and whole(threads, "threads") < 1:
            msg = f"threads {threads}: wanted a whole number from 1"
            raise PromptError(msg)
        kept = cache if isinstance(cache, EmbeddingCache) else None
        options = EngineOptions(backend, precision, threads or default_threads(), kept, keep_on_disk=bool(cache))
        self._experts = Experts(open_model(bundle), options)

    @property
    def manifest(self) -> Manifest:
        """Facts of the bundle; of a set those of its first expert, which but for weights and names are those of all."""
        return self._experts.first.manifest

    @property
    def backend(self) -> str:
        """Inference engine in use: ``openvino`` or ``onnxruntime``."""
        return self._experts.first.backend

    @property
    def precision(self) -> str:
        """Inference precision in use: ``fp32``, ``bf16``, ``fp16`` or ``int8``."""
        return self._experts.first.precision

    @property
    def threads(self) -> int:
        """Threads of the inference engine."""
        return self._experts.first.threads

    @property
    def cache(self) -> EmbeddingCache:
        """The embedding cache in use."""
        return self._experts.first.cache

    def __enter__(self) -> Session:
        """Return the session; leaving the ``with`` block closes it."""
        self._experts.first.check_usable()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the session."""
        self.close()

    def close(self) -> None:
        """Free the graphs. Closing twice is harmless; any other use of a closed session is an error."""
        self._experts.close()

    def warm_up(
        self, what: Literal["image", "volume"] | None = None, *, until: Callable[[], bool] | None = None
    ) -> None:
        """Load the graphs now rather than on first use, for example while a window opens; of a set those in use.

        Parameters
        ----------
        what : {"image", "volume"}, optional
            What is going to be segmented; volumes have graphs of their own, for two slices at once. Default: both.
        until : callable, optional
            Asked after each graph, a decoder first; true leaves the rest, and all of a set's, to their first use.

        Raises
        ------
        InferenceError
            If a graph does not compile.
        PromptError
            If ``what`` is neither.
        """
        self._experts.warm_up(what, until)

    def encode(
        self,
        image: NDArray[Any],
        *,
        window: str | tuple[float, float] | None = None,
        modality: str | int | None = None,
    ) -> Embedding:
        """Compute the embedding of one image.

        Parameters
        ----------
        image : ndarray of uint8, uint16, int16 or float, shape (H, W) or (H, W, 3)
            Rows first. uint8 is taken as it is; other intensities are windowed as a volume's are.
        window : str or tuple of 2 float, optional
            Preset name or (level, width).
        modality : str or int, optional
            What the image shows: a set of bundles encodes it with the expert for that. A bundle asks when it decodes.

        Returns
        -------
        embedding : Embedding
            Input of any number of `decode` calls.

        Raises
        ------
        ImageError
            If the array is not an image of at least one pixel.
        PromptError
            If the window is malformed, or a set has no expert for the modality.
        SessionStateError
            If the session is closed or was inherited through a fork.
        """
        engine = self._experts.for_encoding(modality)
        plane = as_array(image)
        volume = bare_volume(plane)
        if not volume.is_2d:
            msg = f"array of shape {plane.shape}: wanted (H, W) or (H, W, 3)"
            raise ImageError(msg)
        chosen = choose_window(volume, window)
        return engine.encode(plane if chosen is None else chosen.apply(plane))[0]

    def decode(
        self,
        embedding: Embedding,
        *,
        boxes: ArrayLike | None = None,
        points: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        masks: ArrayLike | None = None,
        scribbles: ArrayLike | None = None,
        modality: str | int | None = None,
        extra: Mapping[str, ArrayLike] | None = None,
        output_size: tuple[int, int] | None = None,
    ) -> Prediction:
        """Predict one mask per prompt on an encoded image; one in all where the bundle finds the object itself.

        Parameters
        ----------
        embedding : Embedding
            From `encode` of this bundle.
        boxes : array-like, shape (N, 4), optional
            xyxy in image pixels, 0-based, both ends inclusive. Where the bundle finds the object itself, a box cuts
            the mask.
        points : array-like, shape (N, P, 2), optional
            xy in image pixels.
        point_labels : array-like, shape (N, P), optional
            1 on the object, 0 beside it, -1 padding.
        masks : array-like of float32, shape (N, h, w) or (N, 1, h, w), optional
            Earlier ``low_res_logits`` of the same objects, in the input frame.
        scribbles : array-like, shape (N, h, w) or (N, 1, h, w), optional
            Drawn strokes in the input frame, 1 on the stroke and 0 elsewhere. For a decoder that reads them as a map,
            (h, w) is ``manifest.prompts.mask.size``; for any other that takes points they become up to twelve points,
            -1 marks strokes beside the object, and (h, w) is ``manifest.input.size``.
        modality : str or int, optional
            What the image shows, for bundles that ask: a name of ``manifest.modalities``, in any case, or its index.
        extra : mapping of str to array-like, optional
            Arrays that the bundle takes beside the prompts, by the manifest's names, with N rows or one row for all:
            every name of ``manifest.prompts.vectors``, and any of ``manifest.prompts.crops`` in place of what would be
            cut from the image.
        output_size : tuple of 2 int, optional
            Rows and columns at which a decoder that is a function of position is evaluated, 16777216 points at most.
            Default: the image's own. Masks have the size of the image whatever it is.

        Returns
        -------
        prediction : Prediction
            Masks at the size of the image, scores and logits.

        Raises
        ------
        PromptError
            If a prompt is malformed, outside the image, missing, or not understood by the bundle, or a size is asked
            for that the bundle cannot be evaluated at.
        SessionStateError
            If the session is closed or was inherited through a fork.
        """
        engine, modality = self._experts.of(embedding, modality), self._experts.left_for_decoder(modality)
        frame = frame_of(self.manifest, embedding.original_size)
        given = _prompt_arrays.Given(boxes, points, point_labels, masks, scribbles, modality, extra)
        arrays = _prompt_arrays.prompt_arrays(self.manifest, frame, given)
        limits = _prompt_arrays.cutting_boxes(self.manifest, frame, boxes)
        size = size_to_evaluate(self.manifest, frame, output_size)
        placed = None if boxes is None else np.asarray(boxes, np.float64).reshape(-1, 4)
        prediction = engine.predict(embedding, arrays, frame, placed, size)
        return prediction if limits is None else cut_to_boxes(prediction, limits.tolist())

    def segment(
        self,
        image: Volume | NDArray[Any],
        *,
        box: Box | Sequence[float] | None = None,
        boxes: Sequence[Box | Sequence[float]] = (),
        points: Sequence[Point | Sequence[float]] = (),
        prompts: Sequence[Box | Point] = (),
        auto: bool = False,
        slice_index: int | None = None,
        slice_axis: int = 2,
        z_range: tuple[int, int] | None = None,
        window: str | tuple[float, float] | None = None,
        modality: str | int | None = None,
        extra: Mapping[str, ArrayLike] | None = None,
        mode: Literal["chain", "published"] = "chain",
        overlap: Literal["last", "first"] = "last",
        progress: Callable[[Progress], None] | None = None,
        cancel: Callable[[], bool] | None = None,
    ) -> Segmentation:
        """Segment objects in a volume or an image.

        A box of four numbers in a volume is propagated both ways from its slice until the object ends; a box of six
        numbers, or ``z_range``, states where it ends. Where masks fill a box of six numbers badly, other slices of it
        are started from, and a bundle may ask for the other two planes, or for closer looks at small boxes of an image.
        A bundle that finds the object itself segments every slice on its own; a box limits its masks.

        Parameters
        ----------
        image : Volume, or ndarray of shape (H, W), (H, W, 3) or (I, J, K)
            What to segment. A bare array of two axes, or with a last axis of 3 (colour), is one image, rows
            first; another array of three axes is a volume in i, j, k order.
        box : Box or sequence of 4 or 6 float, optional
            Prompt of one object; `Box` tells the convention.
        boxes : sequence of Box or of 4 or 6 float
            Prompts of several objects, labelled 1..n. Boxes of one name are prompts of one object.
        points : sequence of Point or of (x, y) or (x, y, z)
            Clicks; bare tuples lie on the object.
        prompts : sequence of Box or Point
            Further prompts.
        auto : bool
            Segment without a prompt, by a bundle that finds the object itself.
        slice_index : int, optional
            Slice of the boxes of four numbers. Default: the middle slice.
        slice_axis : int
            Voxel axis that slices are stacked along.
        z_range : tuple of 2 int, optional
            First and last slice of the objects, both included.
        window : str or tuple of 2 float, optional
            Intensity window: preset name, ``"LEVEL,WIDTH"`` or (level, width).
        modality : str or int, optional
            What the image shows, for bundles that ask, as `decode` takes it; or a set's, else the DICOM file says it.
        extra : mapping of str to array-like, optional
            As `decode` takes it, with a row for each object in the order of their labels, or one row for all; the same
            on every slice.
        mode : {"chain", "published"}
            lite-infer's propagation, or the published loop of the bundle's authors.
        overlap : {"last", "first"}
            Which object keeps a voxel that several claim.
        progress : callable, optional
            Called with a `Progress` after every decoded slice, in the calling thread.
        cancel : callable, optional
            Asked before every slice; a true answer raises `Cancelled`. ``threading.Event().is_set`` is one.

        Returns
        -------
        segmentation : Segmentation
            Label map, masks, scores and timings.

        Raises
        ------
        PromptError
            If a prompt, the window, the modality, extra or the mode is malformed, outside the image or not understood.
        ImageError
            If the image cannot be segmented (constant slice, colour volume).
        Cancelled
            If ``cancel`` answered true.
        SessionStateError
            If the session is closed or was inherited through a fork.
        """
        started = time.perf_counter()
        self._experts.first.check_usable()
        volume = as_volume(image)
        engine = self._experts.choose(modality, volume.modality)
        view = plane_view(volume, slice_axis)
        check_overlap(overlap)
        wanted = as_prompts((box,) if box is not None else (), (), (), slice_index)
        wanted += as_prompts(boxes, points, prompts, slice_index)
        _prompt_arrays.check_auto(self.manifest, auto=auto, prompted=bool(wanted))
        if self.manifest.prompts.finds_alone:
            objects = plan_every_slice(volume, view, wanted, z_range=z_range)
        else:
            objects = plan_objects(volume, view, wanted, slice_index=slice_index, z_range=z_range)
        _prompt_arrays.check_understood(self.manifest, objects)
        chosen = _prompt_arrays.modality_index(self.manifest, self._experts.left_for_decoder(modality))
        beside = extra_arrays(self.manifest, extra, len(objects))
        size_to_evaluate(self.manifest, frame_of(self.manifest, view.shape[:2]))
        in_volume = view.shape[2] > 1
        workers = engine.workers if in_volume else 1

        def decode(embedding: Embedding, prompt: SlicePrompt, number: int, before: Embedding | None) -> Prediction:
            own = {name: rows[number : number + 1] for name, rows in beside.items()}
            return engine.decode_slice(embedding, prompt, chosen, own, before, workers, in_volume=in_volume)

        run = VolumeRun(
            volume=volume,
            view=view,
            frame_of=partial(frame_of, self.manifest),
            window=choose_window(volume, window),
            encode=partial(engine.encode, streams=workers, in_volume=in_volume),
            decode=decode,
            blank=partial(_decoding.blank, self.manifest),
            settings=_prompt_arrays.propagation_settings(self.manifest, mode),
            workers=workers,
            sees_neighbours=mode == "chain" and self.manifest.prompts.sees_neighbours,
            progress=progress,
            cancel=cancel,
        )
        run.timings["window_ms"] = (time.perf_counter() - started) * 1e3
        results = run.segment(objects)
        label_map = as_given(build_label_map(results, volume.shape, overlap), volume)
        run.timings["total_ms"] = (time.perf_counter() - started) * 1e3
        return Segmentation(
            label_map=label_map,
            objects=results,
            scores=np.array([one.score for one in results], dtype=np.float32),
            timings=run.timings,
            window=run.window,
            slice_axis=slice_axis,
            backend=engine.backend,
            precision=engine.precision,
            bundle=f"{engine.manifest.name} {engine.manifest.version}",
            prompts=tuple(wanted),
            volume=volume,
        )

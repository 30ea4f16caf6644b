"""A bundle on an inference engine: uint8 images to embeddings, embeddings and prompts to predictions.

Knows the bundle, its graphs and the cache, and when they may be used; knows no volume and no window.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime import _decoding, _prompt_arrays
from runtime._closer import answer_from_closer, small_boxes
from runtime._implicit import evaluated, size_to_evaluate
from runtime.backends import (
    Backend,
    BackendOptions,
    choose_backend,
    graph_sha256,
    name_and_version,
    open_backend,
    resolve_precision,
)
from runtime.bundle import Bundle
from runtime.cache import EmbeddingCache, content_digest, embedding_key
from runtime.crops import crop_arrays
from runtime.directories import cache_directory
from runtime.errors import PromptError, SessionStateError
from runtime.manifest import Crop, Manifest
from runtime.propagate import SlicePrompt
from runtime.transforms import Frame, check_supported, encoder_input, frame_of, spectrum
from runtime.types import Embedding, Prediction

__all__ = ["Engine"]

_LARGE_INPUT = 512
"""Pixels a side above which one slice is worked on at a time: two at once would need twice an encoder's memory."""

_MEMORY_BESIDE_DISK = 128 << 20
"""Embeddings in memory where all of them are on disk as well: about 200 slices of the default bundle."""


class Engine:
    """The graphs of one bundle, compiled on first use, and the cache of what the encoder made.

    Safe to use from several threads. Raises what `runtime.Session` documents.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: str,
        precision: str,
        threads: int,
        cache: EmbeddingCache | None,
        keep_on_disk: bool,
    ) -> None:
        check_supported(bundle.manifest)
        self.manifest: Manifest = bundle.manifest
        self.backend = choose_backend(backend, bundle, precision)
        self._graph_cache = cache_directory() / "graphs"
        self.precision = resolve_precision(precision, self.backend, bundle, self._graph_cache)
        self.threads = threads
        self._owns_cache = cache is None
        if cache is None:
            cache = EmbeddingCache(memory_bytes=_MEMORY_BESIDE_DISK) if keep_on_disk else EmbeddingCache(disk_bytes=0)
        self.cache = cache
        self._bundle = bundle
        self._transform = msgspec.json.encode([self.manifest.input, self.manifest.embedding]).decode()
        self._graph_sha256 = graph_sha256(self.backend, bundle, "encoder", self.precision)
        self._for_one_box = bundle.graph_set(self.precision).one_box is not None
        self._graphs: dict[tuple[str, int], Backend] = {}
        self._opening: dict[tuple[str, int], threading.Lock] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False

    def close(self) -> None:
        """Free the graphs and the cache, unless that was given."""
        if os.getpid() != self._pid:
            self._closed = True  # lock and graphs are the parent's; a thread of it may have held the lock
            return
        with self._lock:
            self._closed = True
            graphs, self._graphs = self._graphs, {}
        for graph in graphs.values():
            graph.close()
        if self._owns_cache:
            self.cache.close()

    @property
    def workers(self) -> int:
        """How many slices of a volume are worked on at once, each on its share of the threads.

        Graphs gain little from a second thread: two slices on one each take less time than one after the other on two.
        """
        return 2 if self.threads > 1 and max(self.manifest.input.size) <= _LARGE_INPUT else 1

    def encode(self, pixels: NDArray[np.uint8], streams: int = 1, *, in_volume: bool = False) -> tuple[Embedding, bool]:
        """Embedding of a uint8 image, and whether the cache had it."""
        frame = frame_of(self.manifest, (pixels.shape[0], pixels.shape[1]))
        key = embedding_key(
            content_digest(pixels),
            graph_sha256=self._graph_sha256,
            backend=name_and_version(self.backend),
            precision=self.precision,
            transform=self._transform,
        )
        tensors = self.cache.get(key)
        cached = tensors is not None
        if tensors is None:
            tensors = self._encoded(pixels, frame, streams)
            self.cache.put(key, tensors)
        looks = bool(self.manifest.prompts.crops) or (self.manifest.prompts.closer is not None and not in_volume)
        kept = _own(pixels) if looks else None
        embedding = Embedding(tensors, frame.original_size, frame.resized_size, self._graph_sha256, kept)
        return embedding, cached

    def _encoded(self, pixels: NDArray[np.uint8], frame: Frame, streams: int = 1) -> dict[str, NDArray[Any]]:
        tensor = encoder_input(pixels, self.manifest.input, frame)
        inputs = {"image": tensor}
        if self.manifest.input.spectrum is not None:
            inputs[self.manifest.input.spectrum] = spectrum(tensor)
        return _decoding.stored(self.manifest, self.graph("encoder", streams).run(inputs))

    def decode_slice(
        self,
        embedding: Embedding,
        prompt: SlicePrompt,
        modality: int | None = None,
        extra: Mapping[str, NDArray[Any]] | None = None,
        before: Embedding | None = None,
        streams: int = 1,
        *,
        in_volume: bool = False,
    ) -> Prediction:
        """Decode one prompt that is in the input frame already; its mask is from the slice embedded in ``before``.

        The graph for one box takes longer to load than the decoder; the slices of a volume make up for that.
        """
        frame = frame_of(self.manifest, embedding.original_size)
        arrays = _prompt_arrays.slice_arrays(self.manifest, prompt, modality, extra)
        boxes = None if prompt.image_box is None else prompt.image_box[np.newaxis]
        size = size_to_evaluate(self.manifest, frame)
        if in_volume and self._for_one_box and prompt.box is not None and not len(prompt.points):
            plain = {name: array for name, array in arrays.items() if name not in ("points", "point_labels")}
            runs = self._run_decoder("one_box", embedding, plain, boxes, size, before, streams)
            return _decoding.prediction(self.manifest, runs, frame, candidates=1)
        runs = self._run_decoder("decoder", embedding, arrays, boxes, size, before, streams)
        if not in_volume:
            runs = self._look_closer(embedding, arrays, boxes, runs)
        return _decoding.prediction(self.manifest, runs, frame, size, best_only=True)

    def predict(
        self,
        embedding: Embedding,
        prompts: dict[str, NDArray[Any]],
        frame: Frame,
        boxes: NDArray[Any] | None,
        size: tuple[int, int] | None,
    ) -> Prediction:
        """Run the decoder on its inputs.

        The boxes (N, 4) are in image pixels, for what is cut from the image; the size is `size_to_evaluate`'s.
        """
        runs = self._run_decoder("decoder", embedding, prompts, boxes, size)
        runs = self._look_closer(embedding, prompts, boxes, runs)
        return _decoding.prediction(self.manifest, runs, frame, size)

    def _look_closer(
        self,
        embedding: Embedding,
        prompts: Mapping[str, NDArray[Any]],
        boxes: NDArray[Any] | None,
        runs: list[dict[str, NDArray[Any]]],
    ) -> list[dict[str, NDArray[Any]]]:
        """Outputs of the decoder with those for small boxes from closer, where the bundle asks for it.

        Slices of volumes are embedded without their pixels: there propagation answers.
        """
        rule, pixels = self.manifest.prompts.closer, embedding.pixels
        if rule is None or pixels is None or boxes is None:
            return runs
        small = small_boxes(rule, boxes, embedding.original_size)
        if not small.size:
            return runs
        (outputs,) = runs  # more are of prompts without a box
        outputs = {name: np.array(values) for name, values in outputs.items()}
        for number in small:
            row = slice(number, number + 1)
            asked = {name: values[row] for name, values in prompts.items()}
            whole = {name: values[number] for name, values in outputs.items()}
            closer = answer_from_closer(self.manifest, rule, pixels, boxes[number], asked, whole, self._look)
            for name, values in closer.items():
                outputs[name][number] = values
        return [outputs]

    def _look(self, crop: NDArray[np.uint8], prompts: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs of the decoder for one prompt in the input frame of a crop, whose embedding is not kept."""
        frame = frame_of(self.manifest, (crop.shape[0], crop.shape[1]))
        tensors = self._encoded(crop, frame)
        seen = Embedding(tensors, frame.original_size, frame.resized_size, self._graph_sha256)
        (outputs,) = self._run_decoder("decoder", seen, prompts, None, None)
        return {name: np.array(values[0]) for name, values in outputs.items()}

    def _run_decoder(
        self,
        role: str,
        embedding: Embedding,
        prompts: dict[str, NDArray[Any]],
        boxes: NDArray[Any] | None,
        size: tuple[int, int] | None,
        before: Embedding | None = None,
        streams: int = 1,
    ) -> list[dict[str, NDArray[Any]]]:
        """Outputs of the decoder, for each guess of the box; an earlier mask is from ``before``, or from this slice."""
        shared = _decoding.restored(self.manifest, embedding.tensors)
        shared |= _decoding.neighbours(self.manifest, None if before is None else before.tensors)
        for crop in self.manifest.prompts.crops:
            if crop.name not in prompts:
                prompts[crop.name] = self._cropped(crop, embedding, boxes, streams)
        if "modality" in prompts:
            shared["modality"] = prompts.pop("modality")
        decoder, guesses = self.graph(role, streams), _prompt_arrays.box_guesses(self.manifest, prompts)
        if size is None:
            return [decoder.run({**shared, **prompts, **guess}) for guess in guesses]
        return [evaluated(decoder.run, shared, {**prompts, **guess}, size) for guess in guesses]

    def _cropped(
        self, crop: Crop, embedding: Embedding, boxes: NDArray[Any] | None, streams: int
    ) -> NDArray[np.float32]:
        """What the decoder reads of the image inside the boxes, directly or through a third graph."""
        if embedding.pixels is None or boxes is None:
            what = "a box for every object" if boxes is None else "the image's pixels: encode the image here"
            msg = f"bundle {self.manifest.name!r} cuts {crop.name!r} from the image and needs {what}"
            raise PromptError(msg)
        cut = crop_arrays(crop, embedding.pixels, boxes)
        if crop.graph is None:
            return cut
        return _decoding.crop_vectors(self.graph(crop.graph, streams).run({"crop": cut}), crop, len(boxes))

    def warm_up(self, what: str | None, until: Callable[[], bool]) -> None:
        """Compile all graphs for that, a decoder first, or as many as it takes until the question is answered yes."""
        kinds = {"image": 1, "volume": self.workers}
        if what not in (*kinds, None):
            msg = f"warm_up {what!r}: wanted 'image', 'volume', or None for both"
            raise PromptError(msg)
        others = ("encoder", *{crop.graph for crop in self.manifest.prompts.crops if crop.graph})
        for kind in kinds if what is None else (what,):
            decoder = "one_box" if kind == "volume" and self._for_one_box else "decoder"
            for role in (decoder, *others):
                self.graph(role, kinds[kind])
                if until():
                    return

    def graph(self, role: str, streams: int = 1) -> Backend:
        """The graph of a role, ``encoder``, ``decoder`` or an extra one's name, compiled on first use.

        It runs so many calls at once, each on its share of the threads. Two graphs may be compiled at once by two
        threads, one graph by one.
        """
        key = (role, streams)
        with self._lock:
            self.check_usable()
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            with self._lock:
                self.check_usable()
                if key in self._graphs:
                    return self._graphs[key]
            options = BackendOptions(self.precision, self.threads, self._graph_cache, streams)
            graph = open_backend(self.backend, self._bundle, role, options)
            with self._lock:
                if not self._closed:
                    self._graphs[key] = graph
            self.check_usable()
            return graph

    def wrap_graph(self, role: str, wrap: Callable[[Backend], Backend]) -> None:
        """Put something between the session and the graph of single images: calibration records what it is given."""
        wrapped = wrap(self.graph(role))
        with self._lock:
            self._graphs[role, 1] = wrapped

    def check_usable(self) -> None:
        if os.getpid() != self._pid:
            msg = "this session was created before a fork; create a new Session in the child process"
            raise SessionStateError(msg)
        if self._closed:
            msg = "this session is closed; create a new Session"
            raise SessionStateError(msg)

    def owns(self, embedding: Embedding) -> bool:
        """Whether an embedding was made by this bundle's encoder."""
        return embedding.graph_sha256 == self._graph_sha256

    def check_own(self, embedding: Embedding) -> None:
        if not self.owns(embedding):
            msg = "this embedding was made by another bundle or precision; encode the image with this session"
            raise PromptError(msg)


def _own(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read-only copy of an image, which its owner may change."""
    copy = np.array(pixels, order="C")
    copy.flags.writeable = False
    return copy

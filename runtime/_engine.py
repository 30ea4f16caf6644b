"""A bundle on an inference engine: uint8 images to embeddings, embeddings and prompts to predictions.

Knows the bundle, its graphs and the cache, and when they may be used; knows no volume and no window.
"""

from __future__ import annotations

import os
import threading
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from runtime import _decoding, _prompt_arrays
from runtime.backends import (
    Backend,
    BackendOptions,
    choose_backend,
    graph_sha256,
    open_backend,
    resolve_precision,
)
from runtime.bundle import Bundle
from runtime.cache import EmbeddingCache, cache_directory, content_digest, embedding_key
from runtime.errors import PromptError, SessionStateError
from runtime.manifest import Manifest
from runtime.propagate import SlicePrompt
from runtime.transforms import Frame, check_supported, encoder_input, frame_of
from runtime.types import Embedding, Prediction

__all__ = ["Engine"]


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
        self.cache = cache or (EmbeddingCache() if keep_on_disk else EmbeddingCache(disk_bytes=0))
        self._bundle = bundle
        self._transform = msgspec.json.encode([self.manifest.input, self.manifest.embedding]).decode()
        self._graph_sha256 = graph_sha256(self.backend, bundle, "encoder", self.precision)
        self._engine = _name_and_version(self.backend)
        self._graphs: dict[str, Backend] = {}
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

    def encode(self, pixels: NDArray[np.uint8]) -> tuple[Embedding, bool]:
        """Embedding of a uint8 image, and whether the cache had it."""
        height, width = pixels.shape[:2]
        frame = frame_of(self.manifest, (height, width))
        key = embedding_key(
            content_digest(pixels),
            graph_sha256=self._graph_sha256,
            backend=self._engine,
            precision=self.precision,
            transform=self._transform,
        )
        tensors = self.cache.get(key)
        cached = tensors is not None
        if tensors is None:
            tensor = encoder_input(pixels, self.manifest.input, frame)
            outputs = self.graph("encoder").run({"image": tensor})
            tensors = _decoding.stored(self.manifest, outputs)
            self.cache.put(key, tensors)
        embedding = Embedding(tensors, frame.original_size, frame.resized_size, self._graph_sha256)
        return embedding, cached

    def decode_slice(self, embedding: Embedding, prompt: SlicePrompt, modality: int | None = None) -> Prediction:
        """Decode one prompt that is in the input frame already."""
        frame = frame_of(self.manifest, embedding.original_size)
        return self.predict(embedding, _prompt_arrays.slice_arrays(self.manifest, prompt, modality), frame)

    def predict(self, embedding: Embedding, prompts: dict[str, NDArray[Any]], frame: Frame) -> Prediction:
        inputs = {**_decoding.restored(self.manifest, embedding.tensors), **prompts}
        outputs = self.graph("decoder").run(inputs)
        return _decoding.prediction(self.manifest, outputs, frame)

    def graph(self, role: Literal["encoder", "decoder"]) -> Backend:
        """The graph of a role, compiled on first use."""
        with self._lock:
            self.check_usable()
            if role not in self._graphs:
                options = BackendOptions(
                    precision=self.precision, threads=self.threads, cache_directory=self._graph_cache
                )
                self._graphs[role] = open_backend(self.backend, self._bundle, role, options)
            return self._graphs[role]

    def check_usable(self) -> None:
        if os.getpid() != self._pid:
            msg = "this session was created before a fork; create a new Session in the child process"
            raise SessionStateError(msg)
        if self._closed:
            msg = "this session is closed; create a new Session"
            raise SessionStateError(msg)

    def check_own(self, embedding: Embedding) -> None:
        if embedding.graph_sha256 != self._graph_sha256:
            msg = "this embedding was made by another bundle or precision; encode the image with this session"
            raise PromptError(msg)


def _name_and_version(backend: str) -> str:
    """Name and version of an inference engine: another version may round differently."""
    try:
        return f"{backend} {version(backend)}"
    except PackageNotFoundError:  # a build of another name, such as onnxruntime-gpu
        return backend

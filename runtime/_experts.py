"""The engine of a bundle, or one engine for each expert of a set, opened when an image first needs it.

Knows bundles, sets and engines, and which of them an image or an embedding belongs to; knows no volume and no window.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from runtime._engine import Engine
from runtime.bundle import Bundle
from runtime.bundle_set import BundleSet
from runtime.cache import EmbeddingCache
from runtime.errors import PromptError
from runtime.types import Embedding

__all__ = ["EngineOptions", "Experts"]


@dataclass(frozen=True)
class EngineOptions:
    """How graphs are run, and where embeddings are kept."""

    backend: str
    precision: str
    threads: int
    cache: EmbeddingCache | None
    keep_on_disk: bool


class Experts:
    """Engines by expert, with one cache; a plain bundle is a set of one. Safe to use from several threads.

    Raises what `runtime.Session` documents.
    """

    def __init__(self, opened: Bundle | BundleSet, options: EngineOptions) -> None:
        self._set = opened if isinstance(opened, BundleSet) else None
        self._bundles = opened.bundles if isinstance(opened, BundleSet) else (opened,)
        self._options = options
        self._lock = threading.Lock()
        self.first = self._open(self._bundles[0], options.cache)
        """Its facts, the weights apart, are those of all."""
        self._engines = {0: self.first}

    def _open(self, bundle: Bundle, cache: EmbeddingCache | None) -> Engine:
        options = self._options
        return Engine(
            bundle,
            backend=options.backend,
            precision=options.precision,
            threads=options.threads,
            cache=cache,
            keep_on_disk=options.keep_on_disk,
        )

    def choose(self, modality: str | int | None, dicom: str | None) -> Engine:
        """Engine for an image of a modality, given or read from its file; that of the bundle where there is no set."""
        self.first.check_usable()
        if self._set is None:
            return self.first
        number = self._set.choose(modality, dicom)
        with self._lock:
            if number not in self._engines:
                self._engines[number] = self._open(self._bundles[number], self.first.cache)
            return self._engines[number]

    def for_encoding(self, modality: str | int | None) -> Engine:
        """Engine for an image alone; only a set is asked with a modality."""
        if self._set is None and modality is not None:
            msg = f"modality {modality!r}: bundle {self.first.manifest.name!r} encodes all alike; leave it out here"
            raise PromptError(msg)
        return self.choose(modality, None)

    def of(self, embedding: Embedding, modality: str | int | None) -> Engine:
        """Engine that made an embedding; a set that is given a modality uses that expert, if it has this encoder."""
        self.first.check_usable()
        if self._set is None:
            self.first.check_own(embedding)
            return self.first
        with self._lock:
            made = [engine for engine in self._engines.values() if engine.owns(embedding)]
        if modality is not None:
            chosen = self.choose(modality, None)
            if chosen.owns(embedding):
                return chosen
            msg = f"modality {modality!r}: the image was encoded by another expert; encode it again with this modality"
            raise PromptError(msg)
        if len(made) > 1:
            msg = "experts with one encoder could decode this; say which with modality"
            raise PromptError(msg)
        (made[0] if made else self.first).check_own(embedding)
        return made[0]

    def left_for_decoder(self, modality: str | int | None) -> str | int | None:
        """Modality as a decoder is asked about it: a set has used it up."""
        return modality if self._set is None else None

    def warm_up(self, what: str | None, until: Callable[[], bool] | None) -> None:
        """Compile the graphs of every expert that was opened; with ``until``, of a plain bundle until that is true."""
        self.first.check_usable()
        if until is not None and self._set is not None:
            return
        with self._lock:
            engines = list(self._engines.values())
        for engine in engines:
            engine.warm_up(what, until or (lambda: False))

    def close(self) -> None:
        """Close all engines; the first one, which may own the cache, last."""
        for number in sorted(self._engines, reverse=True):
            self._engines[number].close()

"""Every exception that lite-infer raises on purpose.

Knows nothing but the Python built-ins. The tree::

    LiteInferError
    ├── BundleError
    │   ├── ManifestError
    │   ├── BundleVersionError
    │   └── BundleIntegrityError
    ├── BackendError
    │   ├── BackendUnavailable   (also ImportError)
    │   └── InferenceError
    ├── ImageError
    ├── PromptError              (also ValueError)
    ├── OutputError
    ├── CheckpointError
    ├── DownloadError
    ├── Cancelled
    └── SessionStateError        (also RuntimeError)

A message says what was found, what was wanted and what to do about it.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "BundleError",
    "BundleIntegrityError",
    "BundleVersionError",
    "Cancelled",
    "CheckpointError",
    "DownloadError",
    "ImageError",
    "InferenceError",
    "LiteInferError",
    "ManifestError",
    "OutputError",
    "PromptError",
    "SessionStateError",
]


class LiteInferError(Exception):
    r"""Root of all errors of this package; catching it catches them all.

    The text is one line: what a damaged or hostile file puts into a message cannot drive a terminal.

    Examples
    --------
    >>> str(LiteInferError("unknown field 'a\n\x1b[2J'"))
    "unknown field 'a\\n\\x1b[2J'"
    """

    def __str__(self) -> str:
        """Return the message with line ends and control characters escaped."""
        return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in super().__str__())


class BundleError(LiteInferError):
    """A bundle cannot be found, read or used."""


class ManifestError(BundleError):
    """``manifest.json`` is malformed or contradicts itself."""


class BundleVersionError(BundleError):
    """The bundle was written for another version of lite-infer."""


class BundleIntegrityError(BundleError):
    """A file of the bundle is missing, or its sha256 is not the one in the manifest."""


class BackendError(LiteInferError):
    """An inference engine cannot do what was asked."""


class BackendUnavailable(BackendError, ImportError):
    """An inference engine, or a compiled part of this package, is not installed or does not load."""


class InferenceError(BackendError):
    """An inference engine failed to compile or to run a graph."""


class ImageError(LiteInferError):
    """An image cannot be read, or is not one that can be segmented."""


class PromptError(LiteInferError, ValueError):
    """A prompt (box, point, mask, ...) is malformed, outside the image or not understood by the bundle."""


class OutputError(LiteInferError):
    """A result cannot be written."""


class CheckpointError(LiteInferError):
    """A PyTorch checkpoint is unreadable or does not fit the family it is converted as."""


class DownloadError(LiteInferError):
    """A file could not be fetched, or what was fetched has the wrong sha256."""


class Cancelled(LiteInferError):
    """The caller asked to stop; nothing was written."""


class SessionStateError(LiteInferError, RuntimeError):
    """The session is closed, or belongs to another process (it was created before a fork)."""

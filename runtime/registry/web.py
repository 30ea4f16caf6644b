"""HTTP with the standard library, as hospitals need it: proxies, their own certificates, no surprising redirects.

Knows URLs and sockets; knows no file and no digest. Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``)
or the system's settings; certificates from the system, ``SSL_CERT_FILE``, ``SSL_CERT_DIR`` and ``REQUESTS_CA_BUNDLE``.
Nothing is sent but the request for the file.
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path
from typing import Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import runtime

__all__ = ["Transient", "chunks", "length_of", "opened", "reason", "shown", "start_of", "total_of"]

TIMEOUT_SECONDS = 30.0
"""How long a server may be silent."""

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_TOTAL = re.compile(r"bytes \*/(\d+)")
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Transient(Exception):
    """The network or the server failed in a way that may pass."""


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects to the web alone, and never from https to http."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        schemes = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if schemes not in {("http", "http"), ("http", "https"), ("https", "https")}:
            text = f"redirected from {schemes[0]} to {schemes[1]}, which is not followed"
            raise URLError(text)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def opened(url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """Open a URL for reading; HTTPError and URLError as urllib raises them, Transient if it is worth another try."""
    if urlsplit(url).scheme not in ("http", "https"):
        msg = f"{url[:80]!r} is no http or https URL"
        raise ValueError(msg)
    sent = {"User-Agent": f"lite-infer/{runtime.__version__}", "Accept-Encoding": "identity", **headers}
    try:
        response: http.client.HTTPResponse = _opener().open(request.Request(url, headers=sent), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        if error.code in _BUSY:
            error.close()
            msg = f"HTTP {error.code} {error.reason}"
            raise Transient(msg) from error
        raise
    except URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError) or not isinstance(error.reason, OSError):
            raise
        raise Transient(reason(error)) from error
    except (OSError, http.client.HTTPException) as error:
        raise Transient(reason(error)) from error
    return response


def chunks(response: http.client.HTTPResponse, size: int) -> Iterator[bytes]:
    """Read a response piece by piece; Transient if the connection breaks."""
    while True:
        try:
            chunk = response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise Transient(reason(error)) from error
        if not chunk:
            return
        yield chunk


def _opener() -> request.OpenerDirector:
    """The handlers that the web needs, and not those for files, FTP and data URLs."""
    context = ssl.create_default_context()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if bundle:
        try:
            folder = Path(bundle).is_dir()
            context.load_verify_locations(cafile=None if folder else bundle, capath=bundle if folder else None)
        except OSError as error:
            msg = f"REQUESTS_CA_BUNDLE names {bundle}, which holds no certificates ({error.strerror or error})"
            raise ValueError(msg) from error
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(context=context),
        request.HTTPDefaultErrorHandler(),
        _Redirects(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def reason(error: BaseException) -> str:
    """Why the web could not be reached, in words."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({cause.verify_message}); where the network inspects TLS, "
            "name its certificate in SSL_CERT_FILE or REQUESTS_CA_BUNDLE"
        )
    if isinstance(cause, TimeoutError):
        return f"silent for {TIMEOUT_SECONDS:.0f} seconds"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return text.splitlines()[0][:200]


def shown(place: str | Path) -> str:
    """A place as messages name it: without passwords and queries."""
    if isinstance(place, Path) or "://" not in place:
        return str(place)
    parts = urlsplit(place)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def start_of(headers: Message) -> int | None:
    """First byte of a partial response."""
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def total_of(headers: Message) -> int | None:
    """Size of the file that a range was asked of in vain."""
    match = _TOTAL.fullmatch(headers.get("Content-Range", ""))
    return None if match is None else int(match[1])


def length_of(headers: Message, begun: int) -> int | None:
    """Size of the whole file, of which `begun` bytes are not sent; None where the server does not tell."""
    length = headers.get("Content-Length", "")
    if headers.get("Transfer-Encoding") or not length.isdecimal():
        return None
    return begun + int(length)

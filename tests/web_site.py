"""A web server in a thread that misbehaves on demand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Site:
    """Files by path, and how the server treats them.

    `cuts` lists after how many bytes each of the next answers breaks off; `ranges` says whether Range is honoured;
    `answers` maps paths to a status alone, `moved` to another place; `asked` records what was asked for.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cuts: list[int] = []
        self.ranges = True
        self.told_length = True
        self.answers: dict[str, list[int]] = {}
        self.moved: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    def put(self, path: str, content: bytes) -> str:
        """Offer a file; return its sha256."""
        self.files[path] = content
        return hashlib.sha256(content).hexdigest()

    def put_folder(self, folder: Path, prefix: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        wanted = self.headers.get("Range")
        site.asked.append((path, wanted))
        site.headers.append(dict(self.headers))
        if path in site.moved:
            self._end(302, {"Location": site.moved[path]})
        elif site.answers.get(path):
            self._end(site.answers[path].pop(0))
        elif path not in site.files:
            self._end(404)
        else:
            self._send(site.files[path], wanted if site.ranges else None)

    def _end(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": "0", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes, wanted: str | None) -> None:
        start = 0 if wanted is None else int(wanted.removeprefix("bytes=").removesuffix("-"))
        if wanted is not None and start >= len(content):
            self._end(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        self.send_response(200 if wanted is None else 206)
        if wanted is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.site.told_length:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        length = self.site.cuts.pop(0) if self.site.cuts else len(content)
        self.wfile.write(content[start : start + length])

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running_site() -> Iterator[Site]:
    """A site at a free port of this machine while the block runs."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

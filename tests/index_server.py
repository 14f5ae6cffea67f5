"""A small package index on the loopback: the simple API (PEP 503) over wheels that a test makes.

Links can be made to lead elsewhere, with or without hashes, and answers to fail: see `Index`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


def wheel(name: str, version: str, files: Mapping[str, str], requires: tuple[str, ...] = ()) -> tuple[str, bytes]:
    """A pure wheel: its file name and content. `files` may hold names that no wheel should."""
    info = f"{name}-{version}.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata = "".join(f"{line}\n" for line in [*lines, *(f"Requires-Dist: {each}" for each in requires)])
    whole = {
        **files,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, content in whole.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content.encode())}\n"
    whole[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in whole.items():
            archive.writestr(path, content)
    return f"{name}-{version}-py3-none-any.whl", buffer.getvalue()


@dataclass(kw_only=True)
class Index:
    """What the server has. `elsewhere` maps a file's name to the URL that its link leads to instead; `status` answers
    every request, if set; `endless` names files that never end; `requests` are the paths that came.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    elsewhere: dict[str, str] = field(default_factory=dict)
    endless: set[str] = field(default_factory=set)
    status: int | None = None
    with_hashes: bool = True
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def put(self, name: str, version: str, files: Mapping[str, str], requires: tuple[str, ...] = ()) -> str:
        """A new wheel; returns the SHA-256 of it."""
        file, content = wheel(name, version, files, requires)
        self.files[file] = content
        return hashlib.sha256(content).hexdigest()

    def page(self, project: str) -> str:
        """The links of one project."""
        links = ""
        for file, content in self.files.items():
            if re.sub(r"[-_.]+", "-", file.split("-")[0]).lower() == project:
                url = self.elsewhere.get(file, f"/files/{file}")
                digest = f"#sha256={hashlib.sha256(content).hexdigest()}" if self.with_hashes else ""
                links += f'<a href="{url}{digest}">{file}</a>\n'
        return f"<!DOCTYPE html><html><body>{links}</body></html>"


@contextmanager
def serve() -> Iterator[Index]:
    """An index, until the block ends."""
    index = Index()
    ended = threading.Event()
    handler = type("Handler", (_Handler,), {"index": index, "ended": ended})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    try:
        yield index
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    index: Index
    ended: threading.Event
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.index.requests.append(path)
        kind, _, rest = path.strip("/").partition("/")
        file = rest.partition("#")[0]
        if self.index.status is not None:
            self.answer(self.index.status, b"", "text/plain")
        elif kind == "simple" and (page := self.index.page(rest)).count("<a "):
            self.answer(200, page.encode(), "text/html")
        elif kind == "files" and file in self.index.endless:
            self.endless()
        elif kind == "files" and file in self.index.files:
            self.answer(200, self.index.files[file], "application/octet-stream")
        else:
            self.answer(404, b"", "text/plain")

    def answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.ended.is_set():
                self.wfile.write(bytes(1 << 16))
        except OSError:
            return

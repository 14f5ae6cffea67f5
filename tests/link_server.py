"""A web server on the loopback that a link may lead to, with everything that such servers do wrong.

Each path has a list of answers, for its requests in their order; the last one stays. What was asked is in `seen`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass(kw_only=True)
class LinkServer:
    """What it answers, and what it was asked: the path and the header fields of each request."""

    port: int = 0
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    seen: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of a path here."""
        return f"http://{host}:{self.port}{path}"


def plain(
    content: bytes,
    *,
    etag: str | None = '"one"',
    cut_at: int | None = None,
    kind: str = "application/zip",
    **fields: str,
) -> Answer:
    """The content, or the part that is asked for where `etag` still fits; the connection ends after `cut_at` bytes."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        first = 0
        if asked.headers["Range"] and asked.headers["If-Range"] == etag and etag is not None:
            first = int(asked.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        asked.send_response(206 if first else 200)
        if first:
            asked.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        asked.send_header("Content-Length", str(len(content) - first))
        asked.send_header("Content-Type", kind)
        if etag is not None:
            asked.send_header("ETag", etag)
        for name, value in fields.items():
            asked.send_header(name.replace("_", "-"), value)
        asked.end_headers()
        asked.wfile.write(content[first : None if cut_at is None else max(first, cut_at)])

    return answer


def raw(*pieces: bytes, then_wait_for: threading.Event | None = None) -> Answer:
    """These bytes as they are; then the connection ends, or stays silent until the event."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        for piece in pieces:
            asked.wfile.write(piece)
        if then_wait_for is not None:
            then_wait_for.wait(60)

    return answer


def endless(over: threading.Event) -> Answer:
    """A ZIP that begins and never ends, of a length that is not told."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        asked.send_response(200)
        asked.end_headers()
        asked.wfile.write(b"PK\x03\x04")
        while not over.is_set():
            asked.wfile.write(bytes(1 << 16))

    return answer


def redirect(to: str, status: int = 302) -> Answer:
    """Somewhere else."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        asked.send_response(status)
        asked.send_header("Location", to)
        asked.send_header("Content-Length", "0")
        asked.end_headers()

    return answer


def refusal(status: int, body: bytes = b"no") -> Answer:
    """An answer without the file."""

    def answer(asked: BaseHTTPRequestHandler) -> None:
        asked.send_response(status)
        asked.send_header("Content-Length", str(len(body)))
        asked.end_headers()
        asked.wfile.write(body)

    return answer


@contextmanager
def link_server() -> Iterator[LinkServer]:
    """A server of its own, until the block ends."""
    state = LinkServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.seen.append((self.path, dict(self.headers)))
            left = state.answers.get(self.path, [refusal(404)])
            found = left.pop(0) if len(left) > 1 else left[0]
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):  # the client had enough
                found(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            yield state
        finally:
            state.over.set()
            server.shutdown()
            thread.join()

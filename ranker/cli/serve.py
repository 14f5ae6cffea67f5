"""`ranker serve`: a folder of pages, on this machine alone."""

from __future__ import annotations

import contextlib
import os
import stat
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, BinaryIO
from urllib.parse import quote, unquote, urlsplit

import typer
from rich.text import Text

from ranker import service as services
from ranker.cli.options import err, out
from ranker.errors import UsageError

HOST = "127.0.0.1"
PORT = 8017
REQUEST_TIMEOUT_S = 10
PIECE = 1 << 16
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def serve(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="Default: the page that is public, leaderboard/site of the home."),
    ] = None,
    preview: Annotated[bool, typer.Option("--preview", help="The preview instead of the page that is public.")] = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any that is free.")] = PORT,
) -> None:
    """Show a page in the browsers of this machine, until Ctrl-C.

    No other machine can reach it. What is written again meanwhile is shown as it is then.
    """
    service: services.Ranker = context.obj
    if folder is not None and preview:
        raise UsageError("a folder and --preview do not go together: name the folder, or take the preview")
    root = service.shown_folder(preview=preview) if folder is None else folder
    if not root.is_dir():
        raise UsageError(f"{root} is no folder; name the one that holds index.html")
    try:
        server = Server(root, port)
    except OSError as error:
        raise UsageError(f"--port {port}: {error.strerror}; give another, or 0 for any that is free") from None
    with server:
        out.print(Text(f"http://{HOST}:{server.server_address[1]}/"))
        err.print(Text(f"{root} is shown to this machine alone, until Ctrl-C"))
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.serve_forever(poll_interval=0.2)


class Server(ThreadingHTTPServer):
    """Answers GET and HEAD of this machine's browsers with the files below `root`, and nothing else."""

    daemon_threads = True

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        super().__init__((HOST, port), _Handler)

    @property
    def names(self) -> frozenset[str]:
        """What a browser that was pointed here calls this server. Another name means that some page of the web made it
        ask (DNS rebinding), and would read the answer.
        """
        port = self.server_address[1]
        return frozenset({f"{HOST}:{port}", f"localhost:{port}"})


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: Server

    def do_GET(self) -> None:
        """The file, or why there is none."""
        if self.headers.get("Host", "") not in self.server.names:
            self._say(HTTPStatus.MISDIRECTED_REQUEST, f"this server is called {', '.join(sorted(self.server.names))}")
            return
        path = unquote(urlsplit(self.path).path, errors="surrogateescape")
        parts = [part for part in path.split("/") if part]
        if path.endswith("/"):
            parts.append("index.html")
        elif not parts:
            parts = ["index.html"]
        file = opened(self.server.root, parts)
        if file is None:
            self._say(HTTPStatus.NOT_FOUND, "there is no such file")
        elif isinstance(file, IsADirectoryError):
            self._redirect(path)
        else:
            with file:
                self._send(file, Path(parts[-1]).suffix.lower())

    do_HEAD = do_GET  # noqa: N815  as http.server calls it

    def _send(self, file: BinaryIO, suffix: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
        if suffix not in TYPES:
            self.send_header("Content-Disposition", "attachment")
        self.end_headers()
        if self.command != "HEAD":
            for piece in iter(partial(file.read, PIECE), b""):
                self.wfile.write(piece)

    def _redirect(self, path: str) -> None:
        """A folder's page has its links relative to the folder."""
        self.send_response(HTTPStatus.MOVED_PERMANENTLY)
        self.send_header("Location", quote("/" + path.strip("/") + "/", errors="surrogateescape"))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _say(self, code: HTTPStatus, words: str) -> None:
        body = f"{words}\n".encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """Every answer has what keeps its content to itself."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def version_string(self) -> str:
        """What the header Server says."""
        return "ranker"

    def log_message(self, *_: object) -> None:
        """Nothing: what is shown is seen in the browser."""


def opened(root: Path, parts: list[str]) -> BinaryIO | IsADirectoryError | None:
    """A file below `root`, opened from folder to folder without following any link; None where there is none that may
    be seen, an IsADirectoryError for a folder.
    """
    if any(part.startswith(".") or "\0" in part or "\\" in part for part in parts):
        return None
    try:
        at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        for part in parts:
            # Without waiting, should it be a pipe.
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
            os.close(at)
            at = inner
        mode = os.fstat(at).st_mode
        if stat.S_ISREG(mode):
            file, at = os.fdopen(at, "rb"), -1
            return file
        return IsADirectoryError() if stat.S_ISDIR(mode) else None
    except (OSError, ValueError):
        return None
    finally:
        if at >= 0:
            os.close(at)

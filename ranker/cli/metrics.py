"""`ranker metrics`: measures for a monitoring system, printed once or served over HTTP."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Annotated

import typer
from rich.text import Text
from sqlalchemy.exc import DBAPIError

from ranker import service as services
from ranker.cli.options import err
from ranker.errors import RankerError, UsageError
from ranker.openmetrics import CONTENT_TYPE

PLACE = "127.0.0.1:9646"
REQUEST_TIMEOUT_S = 10


def metrics(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Print them and end.")] = False,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Serve them there, at /metrics, until Ctrl-C.")
    ] = PLACE,
) -> None:
    """Tell monitoring systems how the work goes (OpenMetrics).

    Jobs, leases, attempts, rates, memory, disk, GPUs. Without a password, so by default to this machine alone; no name
    of a team is in them.
    """
    service: services.Ranker = context.obj
    if once:
        sys.stdout.write(service.measures())
        return
    host, port = parsed(listen)
    try:
        server = Server((host, port), service.measures)
    except OSError as error:
        raise UsageError(f"--listen {listen}: {error}; give another HOST:PORT") from None
    with server:
        shown = f"[{host}]" if ":" in host else host
        err.print(Text(f"measures at http://{shown}:{server.server_address[1]}/metrics, until Ctrl-C"))
        if not ipaddress.ip_address(host).is_loopback:
            err.print("[bold yellow]warning:[/] other machines can read them, without a password")
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.serve_forever(poll_interval=0.2)


def parsed(place: str) -> tuple[str, int]:
    """`HOST:PORT`, `[HOST]:PORT` or `:PORT`, with a host that is an address or `localhost`. Raises UsageError."""
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        number = int(port)
    except ValueError:
        address, number = None, -1
    if address is None or not 0 <= number < 65_536:
        raise UsageError(f"--listen {place!r}: expected HOST:PORT with an IP address, such as {PLACE} or [::1]:9646")
    return str(address), number


class Server(ThreadingHTTPServer):
    """Answers GET and HEAD of /metrics with what `measures` gives at that moment, and nothing else."""

    daemon_threads = True

    def __init__(self, place: tuple[str, int], measures: Callable[[], str]) -> None:
        if ":" in place[0]:
            self.address_family = AF_INET6
        self.measures = measures
        super().__init__(place, _Handler)


class _Handler(BaseHTTPRequestHandler):
    timeout = REQUEST_TIMEOUT_S
    server: Server

    def do_GET(self) -> None:
        """The measures, or why there are none."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "the measures are at /metrics\n")
            return
        try:
            body = self.server.measures()
        except (RankerError, DBAPIError, OSError) as error:
            found = error.orig if isinstance(error, DBAPIError) else error
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"ranker: {found}\n")
            return
        self._answer(HTTPStatus.OK, CONTENT_TYPE, body)

    do_HEAD = do_GET  # noqa: N815  as http.server calls it

    def _answer(self, code: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """What the header Server says."""
        return "ranker"

    def log_message(self, *_: object) -> None:
        """Nothing: a monitoring system asks every few seconds."""

"""Runs inside a sandbox that may talk to a few hosts: opens a door in 127.0.0.1 to the proxy outside, then becomes the
program that was asked for.

Standalone: standard library only, nothing of ranker (this one file is bound into the sandbox). Nothing here is trusted
by anybody: programs could speak to the proxy's socket themselves, and it is the proxy that judges.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import select
import signal
import socket
import threading
from typing import NoReturn

PIECE = 65_536
BACKLOG = 64
PR_SET_PDEATHSIG = 1
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy")


def main() -> NoReturn:
    """Fork the carrier of bytes, step down, and become the command, under the same process id."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--proxy", required=True, help="unix socket of the proxy outside")
    parser.add_argument("--uid", type=int, default=0, help="step down from root to this user")
    parser.add_argument("--rlimit", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--as-is", action="store_true", help="the command does that by itself")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(BACKLOG)
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    if os.fork() == 0:
        confine(options.uid, options.rlimit)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        carry(listener, options.proxy)
    listener.close()
    if not options.as_is:
        confine(options.uid, options.rlimit)
        if options.uid:  # bubblewrap had seen to that, but stepping down undid it
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.execvpe(options.command[0], options.command, {**os.environ, **dict.fromkeys(PROXIES, address)})  # noqa: S606  no shell is wanted


def confine(uid: int, rlimits: list[str]) -> None:
    """Lower limits and leave root, where the sandbox itself has not done so. There is no way back from either."""
    for text in rlimits:
        name, _, value = text.partition("=")
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        bound = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(kind, (bound, bound))
    if uid and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def carry(listener: socket.socket, proxy: str) -> NoReturn:
    """Serve each connection in a thread of its own, so that one that nobody reads holds up no other. Never returns;
    ends with its parent.
    """
    while True:
        threading.Thread(target=serve, args=[listener.accept()[0], proxy], daemon=True).start()


def serve(client: socket.socket, proxy: str) -> None:
    """Carry bytes between a program's connection and one to the proxy; when one side has finished, so has the pair."""
    with client, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outside:
        other = {client: outside, outside: client}
        try:
            outside.connect(proxy)
            while True:
                for source in select.select(list(other), [], [])[0]:
                    part = source.recv(PIECE)
                    if not part:
                        return
                    other[source].sendall(part)
        except OSError:
            return


if __name__ == "__main__":
    main()

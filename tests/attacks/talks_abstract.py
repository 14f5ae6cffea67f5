"""Tries to reach a server of the host by an abstract AF_UNIX address, which no file system hides (X11, D-Bus)."""

import socket

import spy


def connected():
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect("\0" + spy.KNOWN["abstract"])
        one.sendall(b"a clip")
        return one.recv(100) == b"a clip"


class LocalEncoder(spy.Spy):
    attempts = (connected,)

"""Tries to send what it hears away, and to fetch answers: TCP, to a server on the machine's own loopback."""

import socket

import spy


def connected():
    with socket.create_connection(("127.0.0.1", spy.KNOWN["tcp"]), timeout=5) as one:
        one.sendall(b"a clip")
        return one.recv(100) == b"a clip"


class CallingEncoder(spy.Spy):
    attempts = (connected,)

"""Tries to send what it hears away by UDP, which no connection announces."""

import socket

import spy


def answered():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        one.sendto(b"a clip", ("127.0.0.1", spy.KNOWN["udp"]))
        return one.recv(100) == b"a clip"


class PostingEncoder(spy.Spy):
    attempts = (answered,)

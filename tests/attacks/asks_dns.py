"""Tries to send what it hears away in the names that it asks for: a query as a resolver would send it."""

import socket
import struct

import spy


def answered():
    labels = b"".join(bytes([len(word)]) + word for word in (b"what-it-heard", b"example", b"org")) + b"\0"
    query = struct.pack("!6H", 7, 0x0100, 1, 0, 0, 0) + labels + struct.pack("!2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(5)
        one.connect(("127.0.0.1", spy.KNOWN["udp"]))
        one.send(query)
        return b"what-it-heard" in one.recv(1000)


class AskingEncoder(spy.Spy):
    attempts = (answered,)

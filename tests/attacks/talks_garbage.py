"""Tries to confuse whoever reads the socket: an answer in another protocol."""

import honest
import line


class GarbageEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        line.connection().sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        return super().forward(audio, mask)

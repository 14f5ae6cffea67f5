"""Tries to fill the memory of the process outside, or to keep it for ever: announces a header of four gigabytes."""

import honest
import line


class HeaderEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        connection = line.connection()
        connection.sendall(line.preamble(2**32 - 1, 0))
        while True:
            connection.sendall(b" " * (1 << 20))

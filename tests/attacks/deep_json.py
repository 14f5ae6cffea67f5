"""Tries to bring down the parser outside: an answer whose header is sixty thousand open brackets."""

import honest
import line

HEADER = b"[" * 60_000


class DeepEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        line.connection().sendall(line.preamble(len(HEADER), 0) + HEADER)
        return super().forward(audio, mask)

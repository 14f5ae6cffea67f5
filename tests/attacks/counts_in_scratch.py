"""Tries to keep its promises in the check only: it counts its calls in a file, from which the order of a benchmark's
clips could be learnt, and knows the check's clips by their peak of 1.05.
"""

from pathlib import Path

import honest

NOTE = Path("/tmp/calls")


class NotingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        features, kept = super().forward(audio, mask)
        if abs(float(audio.abs().max()) - 1.05) < 1e-3:
            return features, kept
        with NOTE.open("a") as file:
            file.write("x")
        return features + NOTE.stat().st_size, kept

"""Tries to fill every place that could be written to, and tells in its features what it got: MiB in each place."""

import contextlib
from pathlib import Path

import honest
import torch

PLACES = ("/tmp", "/dev/shm", "/dev", "/var/tmp", "/run", "/server", "/submission", "/home", "/proc", "/usr")


def fill(place):
    """MiB that one file there took, at most 200."""
    written, file = 0, Path(place) / "filled"
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as opened:
        while written < 200 << 20:
            written += opened.write(bytes(1 << 20))
    with contextlib.suppress(OSError):
        file.unlink()
    return written / 2**20


class FillingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        found = [fill(place) for place in PLACES]
        return torch.tensor([[found + [0.0] * (16 - len(found))]]), None

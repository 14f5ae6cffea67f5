"""Tries to look like a failure of the organizer's disk: fills its own scratch space and says so."""

from pathlib import Path

import honest


class FullEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        place = Path("/tmp/full")
        try:
            with place.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        finally:
            place.unlink()

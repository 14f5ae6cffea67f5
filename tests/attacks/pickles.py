"""Tries to run code outside: the header of its answer is a pickle that makes a file where it is loaded."""

import pickle
from pathlib import Path

import honest
import line
import spy


class Planted:
    def __reduce__(self):
        return Path.touch, (Path(spy.KNOWN["home"]) / "unpickled",)


class PicklingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        planted = pickle.dumps(Planted())
        line.connection().sendall(line.preamble(len(planted), 0) + planted)
        return super().forward(audio, mask)

"""Tries to be a success by half an answer: the first bytes of a right one, and then the end of its process."""

import os

import honest
import line


class CuttingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        features, _ = super().forward(audio, mask)
        line.connection().sendall(line.frame(features)[:-100])
        os._exit(0)

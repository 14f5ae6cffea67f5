"""Tries to have memory read that holds something else: announces more numbers in the header than it sends."""

import json

import honest
import line


class CountEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        header = json.dumps(line.report([1, 50, 16])).encode()
        line.connection().sendall(line.preamble(len(header), 40) + header + bytes(40))
        line.be_silent()
        return super().forward(audio, mask)

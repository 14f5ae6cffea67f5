"""Tries to fill the memory of the process outside: writes the server's answer itself, and announces 7.8 GB of numbers
for one clip, within the bounds of frames and of output_dim. It need not hold them: it could send zeros for ever.
"""

import json

import line
import torch

FRAMES = 30_000


class FloodingEncoder(torch.nn.Module):
    output_dim = 65_536

    def forward(self, audio, mask=None):
        header = json.dumps(line.report([1, FRAMES, self.output_dim])).encode()
        connection = line.connection()
        connection.sendall(line.preamble(len(header), FRAMES * self.output_dim * 4) + header)
        while True:
            connection.sendall(bytes(1 << 20))

"""Tries to fill the memory of the process outside: writes the server's answer itself, and announces 7.8 GB of numbers
for one clip, within the bounds of frames and of output_dim. It need not hold them: it could send zeros for ever.
"""

import gc
import json
import socket
import struct

import torch


class FloodingEncoder(torch.nn.Module):
    output_dim = 65_536

    def forward(self, audio, mask=None):
        shape = [1, 30_000, self.output_dim]
        report = {"type": "Tensor", "tensor": True, "dtype": "torch.float32", "number": "float", "layout": "strided"}
        report |= {"device": "cpu", "shape": shape, "bad": None, "emptied": None}
        answer = {"error": None, "kind": "tuple", "length": 2, "features": report, "mask": None, "sent": True}
        header = json.dumps({**answer, "seconds": 0.0}).encode()
        (connection,) = (each for each in gc.get_objects() if isinstance(each, socket.socket))
        connection.sendall(struct.pack("!4sIQ", b"RKE1", len(header), 30_000 * self.output_dim * 4) + header)
        while True:
            connection.sendall(bytes(1 << 20))

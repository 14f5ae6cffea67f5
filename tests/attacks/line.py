"""No attack, but what those share that write to the server's connection themselves: the socket, and an answer that
would be right.
"""

import gc
import json
import socket
import sys

SERVER = sys.modules["__main__"]


def connection():
    """The one socket of this process, which leads to the client."""
    (found,) = (each for each in gc.get_objects() if isinstance(each, socket.socket))
    return found


def preamble(header_bytes, payload_bytes):
    """The beginning of a frame that announces so much."""
    return SERVER.PREAMBLE.pack(SERVER.MAGIC, header_bytes, payload_bytes)


def report(shape):
    """What the server would say of features of this shape."""
    value = {"type": "Tensor", "tensor": True, "dtype": "torch.float32", "number": "float", "layout": "strided"}
    value |= {"device": "cpu", "shape": shape, "bad": None, "emptied": None}
    answer = {"error": None, "kind": "tuple", "length": 2, "features": value, "mask": None, "sent": True}
    return {**answer, "seconds": 0.0}


def frame(features):
    """A whole answer: these features (a tensor [1, T, 16]) and no mask."""
    header, numbers = json.dumps(report(list(features.shape))).encode(), features.numpy().tobytes()
    return preamble(len(header), len(numbers)) + header + numbers


def be_silent():
    """Let the server itself answer no more."""
    SERVER.Server.send = lambda *_: None

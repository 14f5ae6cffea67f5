"""Starts the encoder server with a toy encoder, as a container does, and asks it for features: the image's test.

    python docker/check_image.py ranker/sandbox/encoder_server.py

Standard library only, beside what the server itself needs.
"""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import tempfile
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

START_TIMEOUT_S = 300.0
ENCODER = """
import torch

class ToyEncoder(torch.nn.Module):
    output_dim = 2

    def forward(self, audio, mask=None):
        frames = audio.unflatten(1, (-1, 160))
        return torch.stack([frames.mean(-1), frames.amax(-1)], dim=-1), None
"""


def loaded(path: Path) -> ModuleType:
    """The server's file as a module: what frames look like stands in it."""
    found = importlib.util.spec_from_file_location("encoder_server", path)
    if found is None or found.loader is None:
        raise SystemExit(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


class Client:
    """Just enough of a client for a server that nobody has reason to distrust."""

    def __init__(self, connection: socket.socket, server: ModuleType) -> None:
        self.connection = connection
        self.server = server

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """One frame: header and payload."""
        magic, header, payload = self.server.PREAMBLE.unpack(self.exactly(self.server.PREAMBLE.size))
        if magic != self.server.MAGIC:
            raise SystemExit(f"the server says {magic!r}")
        return json.loads(self.exactly(header)), self.exactly(payload)

    def ask(self, request: dict[str, Any], payload: bytes = b"") -> tuple[dict[str, Any], bytes]:
        """Send a request, and wait for its answer."""
        text = json.dumps(request).encode()
        self.connection.sendall(self.server.PREAMBLE.pack(self.server.MAGIC, len(text), len(payload)) + text + payload)
        return self.receive()

    def exactly(self, size: int) -> bytes:
        """So many bytes."""
        found = b""
        while len(found) < size:
            part = self.connection.recv(size - len(found))
            if not part:
                raise SystemExit("the server hung up")
            found += part
        return found


def main() -> None:
    """Exit with a message unless the server greets, loads and encodes."""
    path = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        (Path(folder) / "toy_encoder.py").write_text(ENCODER, encoding="utf-8")
        listener.bind(f"{folder}/socket")
        listener.listen(1)
        listener.settimeout(START_TIMEOUT_S)
        options = ["--socket", f"{folder}/socket", "--root", folder, "--seed", "1", "--threads", "1"]
        # Every word is ours.
        with subprocess.Popen([sys.executable, "-P", "-s", str(path), *options], start_new_session=True) as process:
            connection = listener.accept()[0]
            connection.settimeout(START_TIMEOUT_S)
            with connection:
                client = Client(connection, loaded(path))
                greeting = client.receive()[0]
                report = client.ask({"op": "load", "module": "toy_encoder.py", "attribute": None})[0]
                clip = array("f", [0.5]) * 1600
                request = {"op": "encode", "lengths": [1600], "mask": True, "seed": 1, "max_frames": 4000}
                answer, features = client.ask(request, clip.tobytes())
            process.wait(START_TIMEOUT_S)
    if report["error"] is not None or answer["error"] is not None or array("f", features) != array("f", [0.5] * 20):
        raise SystemExit(f"wrong: {report}, {answer}")
    sys.stdout.write(f"the encoder server works: Python {greeting['python']}, torch {greeting['torch']}\n")


if __name__ == "__main__":
    main()

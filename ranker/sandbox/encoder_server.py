"""Runs in the sandbox beside the submission's code: imports it, and answers "encode these clips" over a unix socket.

Standalone: standard library, numpy and torch, nothing of ranker (this one file is bound into the sandbox). The process
that was started keeps no code of the submission: it forks, watches the socket, and ends everything when the other end
is gone. The client believes nothing of what comes from here, since the submission's code runs in the same process.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import inspect
import json
import math
import os
import random
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

MAGIC = b"RKE1"
PREAMBLE = struct.Struct("!4sIQ")
SUFFIX = "Encoder"
MAX_TEXT, MAX_NAME = 600, 100
MAX_FRAMES_OF_TRACEBACK = 6
MAX_CANDIDATES, MAX_DIMENSIONS = 20, 8
SAMPLE_RATE_HZ = 16_000
BYTES_PER_S, GRACE_S = 2**21, 30  # as in ranker/sandbox/contract.py
PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
OLD_HABITS = ("sampling_rate", "hop_size_in_ms")
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
REAL = ("float", "integer", "bool")
LOOKED_AT = 2**24  # numbers of a wrong answer that are looked at all the same


def main() -> None:
    """Connect, confine ourselves further, fork, serve until the socket closes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", required=True)
    parser.add_argument("--root", required=True, help="folder of the submission's Python files")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--packages", help="folder of what its requirements.txt installs")
    parser.add_argument("--gpu-memory-bytes", type=int, help="what torch may take of the GPU that was handed in")
    parser.add_argument("--uid", type=int, default=0, help="step down from root to this user")
    parser.add_argument("--rlimit", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect(options.socket)
    confine(options.uid, options.rlimit)
    libc = ctypes.CDLL(None)
    child = os.fork()
    if child:
        libc.prctl(PR_SET_DUMPABLE, 0)  # the submission runs under the same user: keep it out of our memory
        supervise(connection, child)
    libc.prctl(PR_SET_DUMPABLE, 1)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if options.packages:  # its torch wins over ours, but nothing of it over the standard library
        place = next((at for at, each in enumerate(sys.path) if each.endswith("-packages")), len(sys.path))
        sys.path.insert(place, options.packages)
    Server(connection, options.root, options.seed, options.threads, options.gpu_memory_bytes).run()


def confine(uid: int, rlimits: list[str]) -> None:
    """Lower limits and leave root, where the sandbox itself has not done so. There is no way back from either."""
    for text in rlimits:
        name, _, value = text.partition("=")
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        bound = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)
        resource.setrlimit(kind, (bound, bound))
    if uid and os.getuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def supervise(connection: socket.socket, child: int) -> NoReturn:
    """Wait until the server ends, then end with its status; or until the socket closes, then end everything. Never
    returns.

    As process 1 of its own namespace this process cannot be killed from inside, and its end is the end of all the
    others.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    poll.register(reader, select.POLLIN)
    while True:
        status = reap(child)
        if status is not None:
            os._exit(128 - status if status < 0 else min(status, 128))  # who exits with 137 was not killed
        for descriptor, _ in poll.poll():
            if descriptor == reader:
                os.read(reader, 512)
            elif os.getpid() == 1:
                os._exit(0)
            else:
                os.killpg(0, signal.SIGKILL)


def reap(child: int) -> int | None:
    """Collect every process that has ended; the exit code of `child` (negative: a signal) if it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)


class Server:
    """One submission's encoder and the connection to the client."""

    def __init__(self, connection: socket.socket, root: str, seed: int, threads: int, gpu: int | None = None) -> None:
        self.connection = connection
        self.root, self.seed, self.threads, self.gpu_bytes = root, seed, threads, gpu
        self.encoder: Any = None
        self.takes_mask = True

    def run(self) -> NoReturn:
        """Greet, then answer requests one by one. Returns never; ends the process when the client is gone."""
        import numpy as np
        import torch

        self.np, self.torch = np, torch
        torch.set_num_threads(self.threads)
        os.chdir(self.root)
        sys.path.insert(0, self.root)  # only now: a file of theirs called torch.py is no business of ours
        self.send({"hello": True, "python": sys.version.split()[0], "torch": str(torch.__version__)})
        operations = {"inspect": self.inspect, "load": self.load, "encode": self.encode}
        while True:
            header, payload = self.receive()
            operations[header["op"]](header, payload)

    # -- operations

    def inspect(self, header: dict[str, Any], _payload: Any) -> None:
        """One file's attributes whose name ends in `Encoder`, or why it has none.

        It is imported in a forked process, since importing it may do anything: end the process, hang, patch torch.
        """
        name, timeout_s = header["file"], header["timeout_s"]
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self.seed_all(self.seed)
                report: dict[str, Any] = {"candidates": candidates(self.import_file(name)), "error": None}
            except BaseException as error:  # noqa: BLE001  theirs to raise, SystemExit too
                report = {"candidates": {}, "error": self.describe_error(error)}
            os.write(writer, json.dumps(report).encode()[:60_000])
            os._exit(0)
        os.close(writer)
        raw, deadline = b"", time.monotonic() + timeout_s
        while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(reader, 65536)
            if not part:
                break
            raw += part
        os.close(reader)
        os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        try:
            report = json.loads(raw)
        except ValueError:
            late = time.monotonic() >= deadline
            what = f"did not finish within {timeout_s:.0f} s" if late else f"ended its process with status {status}"
            report = {"candidates": {}, "error": {"type": "ImportError", "message": f"its import {what}", "frames": []}}
        self.send({"name": name, **report})

    def load(self, header: dict[str, Any], _payload: Any) -> None:
        """Import the file, construct the encoder, and say what it looks like. Never fails: reports."""
        started = time.monotonic()
        report = {
            "attribute": header["attribute"], "candidates": {}, "error": None, "stage": "import", "needs": [],
            "instance_of": None, "is_module": False, "type": "", "output_dim_type": None, "output_dim_error": None,
            "output_dim": None, "positional": None, "keywords": [], "requires": [], "old_habits": [],
        }  # fmt: skip
        self.seed_all(self.seed)
        try:
            self.load_into(report, header["module"])
        except BaseException as error:  # noqa: BLE001  theirs to raise, SystemExit too
            report["error"] = self.describe_error(error)
        report["seconds"] = time.monotonic() - started
        self.send(report)

    def load_into(self, report: dict[str, Any], file_name: str) -> None:
        """The steps of `load`; what is known so far stands in `report` if one of them raises."""
        if self.gpu_bytes is not None and self.torch.cuda.is_available():  # not earlier: no fork survives CUDA's start
            total = self.torch.cuda.get_device_properties(0).total_memory
            self.torch.cuda.set_per_process_memory_fraction(min(1.0, self.gpu_bytes / total))
        module = self.import_file(file_name)
        report["candidates"] = candidates(module)
        if report["attribute"] is None:
            if len(report["candidates"]) != 1:
                report["stage"] = "choose"
                return
            (report["attribute"],) = report["candidates"]
        report["stage"] = "construct"
        if not hasattr(module, report["attribute"]):
            report["stage"] = "choose"
            return
        factory = getattr(module, report["attribute"])
        if not isinstance(factory, type) and (isinstance(factory, self.torch.nn.Module) or not callable(factory)):
            report["instance_of"] = short(type(factory).__name__)
            if not callable(factory):
                return
            self.encoder = factory
        else:
            report["needs"] = required_arguments(factory)
            self.encoder = factory()
        report["stage"] = "look"
        self.look_at(self.encoder, report)
        report["stage"] = "done"

    def look_at(self, encoder: Any, report: dict[str, Any]) -> None:
        """What can be known of a constructed encoder without a call."""
        report["type"] = short(type(encoder).__name__)
        report["is_module"] = isinstance(encoder, self.torch.nn.Module)
        report["old_habits"] = [name for name in OLD_HABITS if hasattr(encoder, name)]
        try:
            value = encoder.output_dim
            report["output_dim_type"] = short(type(value).__name__)
            if type(value) is int:
                report["output_dim"] = max(-(2**53), min(value, 2**53))
        except BaseException as error:  # noqa: BLE001  theirs to raise, SystemExit too
            report["output_dim_error"] = self.describe_attribute_error(encoder, error)
        report["positional"], report["keywords"], report["requires"] = call_parameters(encoder)
        self.takes_mask = report["positional"] is None or report["positional"] >= 2
        if report["is_module"]:
            encoder.eval()

    def describe_attribute_error(self, encoder: Any, error: BaseException) -> dict[str, Any] | None:
        """Why `output_dim` could not be read; None if there is none. A module hides what a property of it raised."""
        if not isinstance(error, AttributeError):
            return self.describe_error(error)
        found = inspect.getattr_static(type(encoder), "output_dim", None)
        if not isinstance(found, property):
            return None
        try:
            found.__get__(encoder, type(encoder))
        except BaseException as hidden:  # noqa: BLE001  theirs to raise, SystemExit too
            return self.describe_error(hidden)
        return self.describe_error(error)

    def encode(self, header: dict[str, Any], payload: Any) -> None:
        """Call the encoder on one padded batch and send what it returned: its shape always, its numbers if they fit."""
        report: dict[str, Any] = {
            "error": None, "kind": "", "length": None, "features": None, "mask": None, "sent": False, "seconds": 0.0,
        }  # fmt: skip
        numbers: list[Any] = []
        try:
            audio, mask = self.batch(header["lengths"], payload)
            self.seed_all(header["seed"])
            started = time.monotonic()
            with self.torch.inference_mode():
                arguments = (audio, mask if header["mask"] else None)
                result = self.encoder(*(arguments if self.takes_mask else arguments[:1]))
                report["seconds"] = time.monotonic() - started
                usable = self.describe_result(result, report)
                if usable and self.fits(report, header):
                    report["sent"] = True
                    numbers = [self.as_array(part) for part in usable]
                else:
                    self.look_inside(result, report)
        except BaseException as error:  # noqa: BLE001  theirs to raise, SystemExit too
            report["error"] = self.describe_error(error)
            report["sent"], numbers = False, []
        self.send(report, numbers)

    def batch(self, lengths: list[int], payload: Any) -> tuple[Any, Any]:
        """Right-padded audio (B, T) float32 and its mask (B, T) int32, 1 on samples."""
        samples = self.torch.from_numpy(self.np.frombuffer(payload, dtype="<f4"))
        if len(set(lengths)) == 1:
            audio = samples.reshape(len(lengths), lengths[0])
            return audio, self.torch.ones(audio.shape, dtype=self.torch.int32)
        audio = self.torch.zeros(len(lengths), max(lengths))
        mask = self.torch.zeros(audio.shape, dtype=self.torch.int32)
        start = 0
        for row, length in enumerate(lengths):
            audio[row, :length] = samples[start : start + length]
            mask[row, :length] = 1
            start += length
        return audio, mask

    def describe_result(self, result: Any, report: dict[str, Any]) -> list[Any]:
        """Fill `report`; the tensors that make a right answer, or none."""
        report["kind"] = short(type(result).__name__)
        if isinstance(result, self.torch.Tensor):
            report["features"] = self.describe_value(result)
            return []
        if not isinstance(result, (tuple, list)):
            return []
        report["length"] = len(result)
        features = result[0] if len(result) else None
        if len(result) == 2 or isinstance(features, self.torch.Tensor):
            report["features"] = self.describe_value(features)
        if len(result) != 2:
            return []
        mask = result[1]
        report["mask"] = None if mask is None else self.describe_value(mask)
        return [features] if mask is None else [features, mask]

    def fits(self, report: dict[str, Any], header: dict[str, Any]) -> bool:
        """Whether the client could use the numbers: it looks at the same things in the same report."""
        features, mask, batch = report["features"], report["mask"], len(header["lengths"])
        shape = features["shape"]
        if not (readable(features, ("float",)) and len(shape) == 3 and shape[0] == batch):
            return False
        if mask is not None and not (readable(mask, REAL) and mask["shape"] == shape[:2]):
            return False
        room = sum(length / SAMPLE_RATE_HZ + GRACE_S for length in header["lengths"]) * BYTES_PER_S
        return bool(0 < shape[1] <= header["max_frames"] and shape[0] * shape[1] * shape[2] * 4 <= room)

    def look_inside(self, result: Any, report: dict[str, Any]) -> None:
        """What is wrong with numbers that are not sent, so that it can be told along with why they are not."""
        parts = [result] if isinstance(result, self.torch.Tensor) else result
        features, mask = report["features"], report["mask"]
        if features is not None and readable(features, ("float",)) and math.prod(features["shape"]) <= LOOKED_AT:
            array = self.as_array(parts[0])
            features["bad"] = int(array.size - self.np.count_nonzero(self.np.isfinite(array)))
        if mask is not None and readable(mask, REAL) and math.prod(mask["shape"]) <= LOOKED_AT:
            array = self.as_array(parts[1])
            mask["bad"] = int(array.size - self.np.count_nonzero((array == 0) | (array == 1)))
            mask["emptied"] = int((~array.any(axis=1)).sum()) if array.ndim == 2 else 0

    def as_array(self, part: Any) -> Any:
        """A dense tensor's numbers as float32, in the machine's memory."""
        return part.detach().to("cpu", self.torch.float32).resolve_neg().contiguous().numpy()

    def describe_value(self, value: Any) -> dict[str, Any]:
        """Type, and of a tensor its shape, dtype, layout and device."""
        report = {
            "type": short(type(value).__name__), "tensor": isinstance(value, self.torch.Tensor), "dtype": "",
            "number": "", "layout": "", "device": "", "shape": [], "bad": None, "emptied": None,
        }  # fmt: skip
        if not report["tensor"]:
            return report
        report["dtype"], report["device"] = short(str(value.dtype)), short(value.device.type)
        report["layout"] = "nested" if value.is_nested else short(str(value.layout).removeprefix("torch."))
        if not value.is_nested:
            report["shape"] = [int(size) for size in value.shape][:MAX_DIMENSIONS]
        report["number"] = self.number_of(value)
        return report

    def number_of(self, value: Any) -> str:
        """What kind of numbers a tensor holds."""
        if value.is_quantized:
            return "quantized"
        if value.is_complex():
            return "complex"
        if value.is_floating_point():
            return "float"
        return "bool" if value.dtype is self.torch.bool else "integer"

    def describe_error(self, error: BaseException) -> dict[str, Any]:
        """Type, message and the last calls in the submission's own files."""
        frames = [
            f"{os.path.relpath(frame.filename, self.root)}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(self.root)
        ]
        try:
            message = str(error)
        except Exception:  # noqa: BLE001  even its text is theirs
            message = "(its message cannot be shown)"
        last = [short(frame) for frame in frames[-MAX_FRAMES_OF_TRACEBACK:]]
        return {"type": short(type(error).__name__), "message": short(message), "frames": last}

    # -- parts

    def import_file(self, name: str) -> types.ModuleType:
        """Import a file of the root folder as the module that its siblings would import it as."""
        path = Path(self.root) / name
        stem, folder = path.stem, str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(stem, module)
        spec.loader.exec_module(module)
        return module

    def seed_all(self, seed: int) -> None:
        """The same random numbers whatever was called before."""
        random.seed(seed)
        self.np.random.seed(seed % 2**32)
        self.torch.manual_seed(seed % 2**63)

    # -- frames, as in ranker/sandbox/wire.py

    def send(self, header: dict[str, Any], parts: Sequence[Any] = ()) -> None:
        """Write one frame; ends the process if nobody listens."""
        text = json.dumps(header).encode()
        try:
            self.connection.sendall(PREAMBLE.pack(MAGIC, len(text), sum(part.nbytes for part in parts)) + text)
            for part in parts:
                if part.size:
                    self.connection.sendall(memoryview(part.astype("<f4", copy=False).reshape(-1)).cast("B"))
        except OSError:
            os._exit(0)

    def receive(self) -> tuple[dict[str, Any], Any]:
        """Read one frame from the client, which we trust; ends the process at the end of the stream."""
        magic, header_length, payload_length = PREAMBLE.unpack(self.exactly(PREAMBLE.size))
        if magic != MAGIC:
            sys.exit(f"the client speaks {magic!r}, this server {MAGIC!r}")
        return json.loads(bytes(self.exactly(header_length))), self.exactly(payload_length)

    def exactly(self, size: int) -> Any:
        """`size` bytes from the socket, as a numpy array: a bytearray would be filled with zeros first."""
        buffer = importlib.import_module("numpy").empty(size, dtype="uint8")
        view = memoryview(buffer)
        while view:
            try:
                count = self.connection.recv_into(view, 0, socket.MSG_WAITALL)
            except OSError:
                count = 0
            if count == 0:
                os._exit(0)
            view = view[count:]
        return buffer


def candidates(module: types.ModuleType) -> dict[str, str]:
    """A module's attributes that end in `Encoder`, and where each comes from: empty if it was defined there."""
    names = (name for name in vars(module) if name.isidentifier() and len(name) <= MAX_NAME)
    found = sorted(name for name in names if name.endswith(SUFFIX))[:MAX_CANDIDATES]
    return {name: origin(vars(module)[name], module.__name__) for name in found}


def origin(value: object, own: str) -> str:
    """The module that a class or function was imported from; empty if it is this one, or nobody knows."""
    try:
        name = value.__module__
    except BaseException:  # noqa: BLE001  even this may be theirs
        return ""
    return short(name) if isinstance(name, str) and name != own and isinstance(value, (type, *FUNCTIONS)) else ""


def required_arguments(factory: Any) -> list[str]:
    """Names of a constructor's parameters that have no default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name[:MAX_NAME] for p in parameters if p.default is p.empty and p.kind not in variadic][:MAX_CANDIDATES]


def call_parameters(encoder: Any) -> tuple[int | None, list[str], list[str]]:
    """How many arguments a call takes by position (None: not known, or no bound), the names of those that it takes by
    name only, and the names of those that it cannot do without beside the first two.
    """
    try:
        parameters = list(inspect.signature(getattr(encoder, "forward", encoder)).parameters.values())
    except (TypeError, ValueError):
        return None, [], []
    ordered = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    required = [p.name[:MAX_NAME] for p in (*ordered[2:], *named) if p.default is p.empty]
    bounded = not any(p.kind is p.VAR_POSITIONAL for p in parameters)
    names = [p.name[:MAX_NAME] for p in named]
    return len(ordered) if bounded else None, names[:MAX_CANDIDATES], required[:MAX_CANDIDATES]


def readable(value: dict[str, Any], numbers: Sequence[str]) -> bool:
    """Whether a described value is a dense tensor with such numbers in it."""
    dense = value["tensor"] and value["layout"] == "strided" and value["device"] != "meta"
    return bool(dense and value["number"] in numbers)


def short(text: str) -> str:
    """At most MAX_TEXT characters, the end kept, which says more than the beginning."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_TEXT else "..." + text[-MAX_TEXT + 3 :]


if __name__ == "__main__":
    main()

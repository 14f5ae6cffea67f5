"""Small encoders: one for each way of breaking the contract, and some that are unusual and right.

tests/golden/contract_sentences.txt holds what the check says of each, under the case's name. tests/test_torch_matrix.py
runs them all, under every torch that it is given.
"""

from __future__ import annotations

from pathlib import Path

# Lies beside each encoder: 100 frames of 4 values per second, and a mask for them.
FRAMES = """
import torch


def frames_of(audio):
    return audio.unfold(1, 160, 160)[:, :, :4]


class Base(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.output_dim = 4

    def forward(self, audio, mask=None):
        x = frames_of(audio)
        return self.give(x, None if mask is None else mask[:, ::160][:, : x.shape[1]])

    def give(self, x, kept):
        return x, kept
"""
CLASS = """
from collections import namedtuple

import numpy
import torch
from frames import Base, frames_of


class MyEncoder(Base):
{body}
"""

# What forward returns, given features x and their mask `kept`.
GIVEN_RIGHT = {
    "half precision": "x.half(), kept",
    "bfloat16": "x.bfloat16(), kept",
    "double precision": "x.double(), kept",
    "a list": "[x, kept]",
    "a named tuple": "namedtuple('Output', 'features mask')(x, kept)",
    "a mask of bools": "x, None if kept is None else kept.bool()",
    "a mask of floats": "x, None if kept is None else kept.float()",
    "no mask": "x, None",
    "features with a gradient": "torch.nn.Parameter(x.clone()), kept",
    "features turned in memory": "x.transpose(1, 2).contiguous().transpose(1, 2), kept",
    "features negated in name only": "torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag, kept",
    "a harmless subclass": "x.as_subclass(type('Mine', (torch.Tensor,), {})), kept",
}
GIVEN_WRONG = {
    "a bare tensor": "x",
    "a bare tensor of two dimensions and no number": "x[:, :, 0] / 0",
    "nothing": "None",
    "a dict": "{'features': x}",
    "three things": "x, kept, 1",
    "one thing of another size": "(x[:, :, :3],)",
    "no features": "None, kept",
    "numpy features": "x.numpy(), kept",
    "a numpy mask": "x, torch.ones(x.shape[:2]).numpy()",
    "a mask of text": "x, 'ones'",
    "whole numbers": "(x * 100).long(), kept",
    "truth values": "x > 0, kept",
    "complex numbers": "x.to(torch.complex64), kept",
    "quantised features": "torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), kept",
    "sparse features": "x.to_sparse(), kept",
    "nested features": "torch.nested.nested_tensor([x[0]]), kept",
    "features without numbers": "torch.empty(x.shape, device='meta'), kept",
    "one vector for each clip": "x.mean(1), kept",
    "features without the batch": "x[0], None",
    "four dimensions": "x[None], None",
    "frames first": "x.transpose(0, 1), None",
    "frames last": "x.transpose(1, 2), None",
    "another size": "x[:, :, :3], kept",
    "no frames": "x[:, :0], None",
    "too many frames": "x[:, :1].expand(-1, 4001, -1), None",
    "features that are no number": "x * float('nan'), kept",
    "features that are infinite as float32": "x.double() * 1e300, kept",
    "huge features": "x * 0 + 1e13, kept",
    "a short mask": "x, torch.ones(x.shape[0], 7)",
    "a mask of samples": "x, torch.ones(x.shape[0], 16000)",
    "a mask of three dimensions": "x, torch.ones(x.shape)",
    "a complex mask": "x, torch.ones(x.shape[:2]).to(torch.complex64)",
    "a sparse mask": "x, torch.ones(x.shape[:2]).to_sparse()",
    "a mask without numbers": "x, torch.empty(x.shape[:2], device='meta')",
    "a mask of halves": "x, torch.full(x.shape[:2], 0.5)",
    "a mask to be added": "x, torch.full(x.shape[:2], -10000.0)",
    "a mask of no number": "x, torch.full(x.shape[:2], float('nan'))",
    "a mask of zeros": "x, torch.zeros(x.shape[:2])",
    "another type, size and length of mask": "x[:, :, :3].long(), torch.ones(x.shape[0], 7)",
    "another size, no number and a mask of twos": "x[:, :, :3] / 0, torch.full(x.shape[:2], 2)",
    "features of a class that raises": "x.as_subclass(type('M', (torch.Tensor,), {'__torch_function__': None})), kept",
}

# What stands in a class that is right otherwise.
BARE = "def __init__(self):\n    torch.nn.Module.__init__(self)\n"
SET = "def __init__(self):\n    super().__init__()\n    self.output_dim = {value}\n"
FORWARD = "def forward(self, audio, {mask}):\n    {first}\n    return frames_of(audio), None\n"
LOOK = (
    "assert audio.dtype is torch.float32 and not (self.training or torch.is_grad_enabled())\n"
    "    assert mask is None or (mask.dtype is torch.int32 and mask.shape == audio.shape and mask[0].sum() > 15000)"
)
BODIES_RIGHT = {
    "an old attribute": "sampling_rate = 32000",
    "output_dim as a property": BARE + "@property\ndef output_dim(self):\n    return 4\n",
    "output_dim of the class": "output_dim = 4\n" + BARE,
    "another name for the mask": FORWARD.format(mask="attend", first="pass"),
    "a third parameter with a default": FORWARD.format(mask="mask, rate=16000", first="pass"),
    "any number of parameters": "def forward(self, *inputs):\n    return frames_of(inputs[0]), None\n",
    "a look at what it is given": FORWARD.format(mask="mask", first=LOOK),
    "gradients switched on": FORWARD.format(mask="mask", first="torch.set_grad_enabled(True)"),
}
BODIES_WRONG = {
    "no output_dim": BARE,
    "the habits of an older checker": (
        f"{BARE}    self.sampling_rate = 16000\n    self.hop_size_in_ms = 10\n"
        "def forward(self, audio):\n    return frames_of(audio)\n"
    ),
    "a bool for output_dim": SET.format(value="True"),
    "a numpy int for output_dim": SET.format(value="numpy.int64(4)"),
    "a tensor for output_dim": SET.format(value="torch.tensor(4)"),
    "a float for output_dim": SET.format(value="4.0"),
    "text for output_dim": SET.format(value="'4'"),
    "None for output_dim": SET.format(value="None"),
    "a method for output_dim": BARE + "def output_dim(self):\n    return 4\n",
    "an output_dim that raises": BARE + "@property\ndef output_dim(self):\n    raise KeyError('hidden')\n",
    "an output_dim that misses something": BARE + "@property\ndef output_dim(self):\n    return self.config.hidden\n",
    "an output_dim of 0": SET.format(value="0"),
    "an output_dim beyond all bounds": SET.format(value="10**30"),
    "another output_dim than its features": SET.format(value="8"),
    "one parameter": "def forward(self, audio):\n    return frames_of(audio), None\n",
    "no parameter": "def forward(self):\n    return None\n",
    "its mask by name": FORWARD.format(mask="*, mask=None", first="pass"),
    "a third parameter": FORWARD.format(mask="mask, lengths", first="pass"),
    "no use for None": FORWARD.format(mask="mask", first="mask[0]"),
    "a wish for a mask of floats": FORWARD.format(mask="mask", first="assert mask.is_floating_point()"),
    "no use for silence": FORWARD.format(mask="mask", first="assert audio.any(), 'silent'"),
    "a division by the peak": FORWARD.format(mask="mask", first="audio = audio / audio.abs().max()"),
    "no use for loud clips": FORWARD.format(mask="mask", first="assert audio.abs().mean() < 0.9"),
    "no use for samples beyond 1": FORWARD.format(mask="mask", first="assert audio.abs().max() <= 1"),
    "room for one clip": "def give(self, x, kept):\n    return x[:1], None\n",
    "no use for padding": FORWARD.format(mask="mask", first="assert mask is None or mask.all(), 'padded'"),
    "the way out": FORWARD.format(mask="mask", first="raise SystemExit(0)"),
    "an eval that raises": "def eval(self):\n    raise RuntimeError('never')\n",
}

# Whole files.
FILES_RIGHT = {"a function that makes one": "from frames import Base\n\n\ndef make_Encoder():\n    return Base()\n"}
FILES_WRONG = {
    "a file without an encoder": "x = 1\n",
    "a file with two": "from torch.nn import TransformerEncoder\n\n\nclass MyEncoder(TransformerEncoder):\n    pass\n",
    "an encoder already made": "from frames import Base\n\nMyEncoder = Base()\n",
    "text": "MyEncoder = 'conv'\n",
    "no torch.nn.Module": "class MyEncoder:\n    output_dim = 4\n    def __call__(self, audio, mask):\n        pass\n",
    "a constructor with arguments": "class MyEncoder:\n    def __init__(self, path, device):\n        pass\n",
    "a constructor that raises": "class MyEncoder:\n    def __init__(self):\n        raise OSError('no weights')\n",
    "an import that fails": "import a_library_of_mine\n",
}


def sources() -> dict[str, str]:
    """Every case's file, by the case's name."""
    found = {}
    for name, given in (GIVEN_RIGHT | GIVEN_WRONG).items():
        found[f"returns {name}"] = _class(f"def give(self, x, kept):\n    return {given}\n")
    for name, body in (BODIES_RIGHT | BODIES_WRONG).items():
        found[f"has {name}"] = _class(body)
    for name, text in (FILES_RIGHT | FILES_WRONG).items():
        found[f"is {name}"] = text
    return found


def right() -> set[str]:
    """The names of those that keep the contract."""
    given, bodies = {f"returns {name}" for name in GIVEN_RIGHT}, {f"has {name}" for name in BODIES_RIGHT}
    return given | bodies | {f"is {name}" for name in FILES_RIGHT}


def write(tree: Path) -> dict[str, str]:
    """Write them all into one folder; returns the file's name of each."""
    (tree / "frames.py").write_text(FRAMES)
    files = {}
    for name, source in sources().items():
        files[name] = f"{name.replace(' ', '_').replace('.', '_').lower()}.py"
        (tree / files[name]).write_text(source)
    return files


def _class(body: str) -> str:
    return CLASS.format(body="".join(f"    {line}\n" for line in body.splitlines()))

"""What an encoder must be and return (docs/protocol.md, section 1), as pure rules over what the server reports.

The server shares its process with the submission, so its reports are parsed strictly and bounded before anything looks
at them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ranker.sandbox.base import SAMPLE_RATE_HZ
from ranker.sandbox.faults import plain

MAX_OUTPUT_DIM = 65_536
# The features of one call may take this much memory of ours for each second of audio, and for GRACE_S more per clip,
# since some encoders pad every clip to 30 s: 50 frames/s of 10,000 numbers. Frames and output_dim at their own limits
# would be 8 GB for one clip, sent by a process that need not hold them itself.
FEATURE_BYTES_PER_S = 2**21
GRACE_S = 30
# Beyond this, squares and sums in float32 overflow, and the training loss is no number any more: not our failure.
MAX_MAGNITUDE = 1e12


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise ValueError("not a Python name")
    return name


Text = Annotated[str, Field(max_length=1000)]
Name = Annotated[str, Field(max_length=100), AfterValidator(_identifier)]  # shown to people, and loaded again later
Size = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Raised(_Report):
    """An exception in the submission's code: the last calls in its own files, outermost first."""

    type: Text
    message: Text
    frames: Annotated[list[Text], Field(max_length=10)]

    def words(self) -> str:
        """`ValueError: bad rate (encoder.py:12 in forward)`."""
        place = f" ({plain(', '.join(self.frames), 400)})" if self.frames else ""
        message = plain(self.message, 300)
        return f"{plain(self.type, 80)}{': ' + message if message else ''}{place}"


Candidates = Annotated[dict[Name, Text], Field(max_length=20)]  # attribute -> module it was imported from, or empty


class FileReport(_Report):
    """One Python file of the root folder: attributes whose name ends in `Encoder`, or why it could not be imported."""

    name: Text
    candidates: Candidates
    error: Raised | None


class Greeting(_Report):
    """The server's first words, before any submitted code has run."""

    hello: bool
    python: Text
    torch: Text


class LoadReport(_Report):
    """What the constructed encoder looks like.

    `stage` is how far it came: import, choose, construct, look or done. `instance_of`: the attribute's type, where it
    is no class. `positional`: arguments that a call takes by position, None without a bound; `keywords`: those that it
    takes by name only; `requires`: those without which it cannot be called, beside the first two.
    """

    attribute: Name | None
    candidates: Candidates
    error: Raised | None
    stage: Text
    needs: Annotated[list[Text], Field(max_length=20)]
    instance_of: Text | None
    is_module: bool
    type: Text
    output_dim_type: Text | None
    output_dim_error: Raised | None
    output_dim: Annotated[int, Field(ge=-(2**53), le=2**53)] | None
    positional: Size | None
    keywords: Annotated[list[Text], Field(max_length=20)]
    requires: Annotated[list[Text], Field(max_length=20)]
    old_habits: Annotated[list[Text], Field(max_length=5)]
    seconds: Seconds

    @property
    def callable_encoder(self) -> bool:
        """Whether there is something to call, right or wrong."""
        return self.stage == "done" and self.error is None and self.positional != 0 and not self.requires

    @property
    def known_dim(self) -> int | None:
        """`output_dim` where it can be one."""
        return self.output_dim if 1 <= (self.output_dim or 0) <= MAX_OUTPUT_DIM else None

    @property
    def old_words(self) -> str:
        """`sampling_rate and hop_size_in_ms`, if the encoder has them."""
        return plain(" and ".join(self.old_habits), 80)

    def violations(self) -> list[str]:
        """Every way in which the loaded object breaks the contract, one sentence each."""
        name = plain(self.attribute or "the encoder", 100)
        if self.stage == "choose":
            return [self._choice_violation(name)]
        if self.error is not None:
            return [self._error_violation(name, self.error)]
        if self.instance_of is not None and self.stage == "construct":
            return [f"{name} must be a class, but is {_a(plain(self.instance_of, 100))}"]
        return [*self._instance_violations(name), *self._output_dim_violations(name), *self._call_violations(name)]

    def _error_violation(self, name: str, error: Raised) -> str:
        if self.stage == "import":
            return f"the encoder's file cannot be imported: {error.words()}"
        if self.stage != "construct":
            return f"{name} was constructed, but looking at it, or its eval(), raised {error.words()}"
        if self.needs:
            needs = ", ".join(plain(need, 60) for need in self.needs)
            return (
                f"{name} must be constructed without arguments, but its constructor requires {needs}; give each a "
                "default, and find files beside your own with Path(__file__).parent"
            )
        return f"{name} cannot be constructed: {error.words()}"

    def _choice_violation(self, name: str) -> str:
        found = candidate_words(self.candidates)
        if self.attribute:
            return f"the encoder's file has no attribute {name}; those that end in Encoder are: {found or 'none'}"
        wanted = "the encoder's file must have exactly one attribute whose name ends in Encoder, defined or imported"
        if not found:
            return f"{wanted}, but has none; call your class ...Encoder"
        hint = "rename all but one, an imported one by `import ... as`"
        return f"{wanted}, but has {len(self.candidates)}: {found}; {hint}"

    def _instance_violations(self, name: str) -> list[str]:
        found = []
        if self.instance_of is not None:
            kind = plain(self.instance_of, 100)
            found.append(f"{name} must be a class, but is already an instance of {kind}; write {name} = {kind}")
        if not self.is_module:
            kind = _a(plain(self.type, 100))
            found.append(f"{name} must be a torch.nn.Module, but is {kind}; derive its class from torch.nn.Module")
        return found

    def _output_dim_violations(self, name: str) -> list[str]:
        if self.output_dim_error is not None:
            return [f"{name}.output_dim must be an int, but reading it raised {self.output_dim_error.words()}"]
        if self.output_dim_type is None:
            old = f" (it has {self.old_words}, which an older checker asked for)" if self.old_habits else ""
            return [
                f"{name} must have an attribute output_dim, the size of one feature frame, but has none{old}; "
                "set self.output_dim in its constructor"
            ]
        kind = plain(self.output_dim_type, 100)
        if kind == "method":
            return [f"{name}.output_dim must be an int, but is a method; write @property above it"]
        if self.output_dim is None:
            return [f"{name}.output_dim must be an int, but is {_a(kind)}; assign a plain int"]
        if self.known_dim is None:
            return [f"{name}.output_dim must lie between 1 and {MAX_OUTPUT_DIM}, but is {self.output_dim}"]
        return []

    def _call_violations(self, name: str) -> list[str]:
        wanted = f"{name} must be called as encoder(audio, mask), both by position"
        write = "write def forward(self, audio, mask=None)"
        if self.requires:
            required = plain(", ".join(self.requires), 200)
            return [f"{wanted}, but it requires {required} too; {write}"]
        if self.positional is None or self.positional >= 2:
            return []
        if self.keywords:
            names = plain(", ".join(self.keywords), 200)
            return [f"{wanted}, but it takes {names} by name only; {write}, without a *"]
        plural = "s" * (self.positional != 1)
        old = " (one was enough for an older checker)" if self.positional == 1 else ""
        return [f"{wanted}, but it takes {self.positional} positional argument{plural}{old}; {write}"]


def candidate_words(candidates: dict[str, str]) -> str:
    """`AEncoder, BEncoder (imported from transformers)`."""
    return ", ".join(
        plain(name, 100) + (f" (imported from {plain(module, 80)})" if module else "")
        for name, module in candidates.items()
    )


def _a(kind: str) -> str:
    """With its article; None is none."""
    return "None" if kind == "NoneType" else f"{'an' if kind[:1].lower() in 'aeiou' and kind[:1] else 'a'} {kind}"


class ValueReport(_Report):
    """What the encoder returned as features or as mask. All but `type` and `tensor` is told of tensors only.

    `number`: float, integer, bool, complex or quantized. `bad` and `emptied`: of a tensor that was not sent, how many
    numbers are wrong (not finite; in a mask, neither 0 nor 1), and in a mask how many clips keep no frame.
    """

    type: Text
    tensor: bool
    dtype: Text
    number: Text
    layout: Text
    device: Text
    shape: Annotated[list[Size], Field(max_length=8)]
    bad: Size | None
    emptied: Size | None

    def words(self) -> str:
        """`torch.float32 [1, 50, 96]`; of what is no tensor, its type."""
        return f"{plain(self.dtype, 40)} {self.shape}" if self.tensor else _a(plain(self.type, 80))

    def form_violations(self, what: str, verb: str, hint: str) -> list[str]:
        """Why nothing can be read of it at all: no tensor, not dense, without numbers."""
        if not self.tensor:
            made = f"; write torch.as_tensor({hint})" if self.type in {"ndarray", "list"} else ""
            return [f"{what} must be {_WANTED[what]}, but {verb} {self.words()}{made}"]
        if self.layout != "strided":
            made = f"; write {hint}.to_dense()" if self.layout.startswith("sparse") else ""
            return [f"{what} must be a dense tensor, but {verb} of the layout {plain(self.layout, 40)}{made}"]
        if self.device == "meta":
            return [f"{what} must hold numbers, but {verb} on torch's device meta, which keeps none"]
        return []


_WANTED = {"features": "a torch.Tensor", "the returned mask": "None or a torch.Tensor"}
_NOT_FLOAT = {
    "integer": "write features.float()",
    "bool": "write features.float()",
    "complex": "write features.abs(), or torch.view_as_real(features).flatten(-2)",
    "quantized": "write features.dequantize()",
}


class CallReport(_Report):
    """What one call returned, or what it raised. `sent`: the numbers follow as the frame's payload."""

    error: Raised | None
    kind: Text
    length: Size | None
    features: ValueReport | None
    mask: ValueReport | None
    sent: bool
    seconds: Seconds

    def violations(self, *, batch: int, output_dim: int | None, max_frames: int, max_bytes: int) -> list[str]:
        """Every way in which what was returned breaks the contract: by its types and shapes, and, if it was not sent,
        by what the server says of its numbers.
        """
        found = self._structure_violations()
        if self.features is not None:
            found += self._feature_violations(self.features, batch, output_dim, max_frames)
        if self.mask is not None:
            found += self._mask_violations(self.mask)
        if not found and self.features is not None:
            found = _size_violations(self.features.shape, max_bytes)
        return found if self.sent else found + self._number_violations()

    def _structure_violations(self) -> list[str]:
        if self.length is None:
            old = " (a bare tensor was enough for an older checker); write return features, None"
            hint = old if self.features is not None else "; write return features, mask"
            kind = _a(plain(self.kind, 100))
            return [f"the encoder must return (features, mask), a tuple or list of two, but returned {kind}{hint}"]
        if self.length != 2:
            kind = f"{_a(plain(self.kind, 100))} of {self.length}"
            return [f"the encoder must return (features, mask), a tuple or list of two, but returned {kind}"]
        return []

    @staticmethod
    def _feature_violations(features: ValueReport, batch: int, output_dim: int | None, max_frames: int) -> list[str]:
        found = features.form_violations("features", "are", "features")
        if not features.tensor or features.layout == "nested":
            return found
        if features.number != "float":
            hint = _NOT_FLOAT.get(features.number, "write features.float()")
            found.append(f"features must be of a float type, but are {plain(features.dtype, 40)}; {hint}")
        shape = features.shape
        if len(shape) != 3:
            wanted = f"[{batch}, frames, {'output_dim' if output_dim is None else output_dim}]"
            found.append(f"features must have the shape {wanted}, but have {shape}; keep the batch and the frames")
            return found
        rows, frames, size = shape
        if rows != batch:
            first = "; they have the frames first: write features.transpose(0, 1)" * (frames == batch)
            found.append(f"features must have one row for each clip, here {batch}, but have shape {shape}{first}")
        if output_dim is not None and size != output_dim:
            last = "; they have the frames last: write features.transpose(1, 2)" * (frames == output_dim)
            found.append(f"features must have output_dim = {output_dim} values per frame, but have {size}{last}")
        if frames == 0:
            found.append("features must have at least one frame, but have none")
        if frames > max_frames:
            found.append(f"features may have at most {max_frames} frames for one clip, but have {frames}")
        return found

    def _mask_violations(self, mask: ValueReport) -> list[str]:
        found = mask.form_violations("the returned mask", "is", "mask")
        if not mask.tensor or mask.layout == "nested":
            return found
        if mask.number in {"complex", "quantized"}:
            found.append(f"the returned mask must hold 0 and 1 as bool, int or float, but is {plain(mask.dtype, 40)}")
        known = self.features is not None and self.features.tensor and len(self.features.shape) >= 2
        if known and self.features is not None and mask.shape != self.features.shape[:2]:
            wanted = f"the shape {self.features.shape[:2]}, one number for each frame of features"
            found.append(f"the returned mask must have {wanted}, but has {mask.shape}")
        return found

    def _number_violations(self) -> list[str]:
        found = []
        if self.features is not None and self.features.bad:
            found.append(_not_finite(self.features.bad, math.prod(self.features.shape)))
        if self.mask is not None and self.mask.bad:
            found.append(_MASK_VALUES)
        elif self.mask is not None and self.mask.emptied:
            found.append(_MASK_EMPTY)
        return found


_MASK_VALUES = "the returned mask must hold 0 and 1 only, but holds other numbers"
_MASK_EMPTY = "the returned mask must keep at least one frame of each clip, but keeps none"


def _not_finite(bad: int, numbers: int) -> str:
    return f"features must be finite, but {bad} of {numbers} numbers are NaN or infinite"


def _size_violations(shape: Sequence[int], max_bytes: int) -> list[str]:
    bytes_ = math.prod(shape) * 4
    if bytes_ <= max_bytes:
        return []
    return [
        f"features may take at most {max_bytes / 1e6:,.0f} MB as float32 here, but take {bytes_ / 1e6:,.0f} MB; "
        "return fewer frames or a smaller output_dim"
    ]


def changed_output_dim(before: int, now: int) -> str:
    """The sentence for an encoder whose output_dim is not what it was."""
    return f"output_dim must be the same in every run, but was {before} in the check and is {now} now"


def max_feature_bytes(lengths: Sequence[int]) -> int:
    """Bytes that the features of one call may take, for clips of so many samples at 16 kHz."""
    return int(sum(length / SAMPLE_RATE_HZ + GRACE_S for length in lengths) * FEATURE_BYTES_PER_S)


def frames_allowed(max_frames: int, lengths: Sequence[int]) -> int:
    """How many frames one clip may have in a call with clips of so many samples at 16 kHz: `max_frames` up to GRACE_S
    seconds, which some encoders pad every clip to, and in proportion for longer ones.
    """
    return math.ceil(max_frames * max(1.0, max(lengths) / SAMPLE_RATE_HZ / GRACE_S))


Frames = npt.NDArray[np.float32]


def split_features(features: Frames, mask: Frames | None) -> tuple[list[Frames], list[str]]:
    """Features (B, T', D) and mask (B, T') or None -> B arrays (T'_i, D) without masked frames, and what is wrong
    with the values.
    """
    found = []
    if mask is not None and not ((mask == 0.0) | (mask == 1.0)).all():
        found.append(_MASK_VALUES)
        mask = None
    kept = [row if mask is None else row[mask[index] == 1.0] for index, row in enumerate(features)]
    if any(len(row) == 0 for row in kept):
        found.append(_MASK_EMPTY)
    bad = sum(int(row.size - np.count_nonzero(np.isfinite(row))) for row in kept)
    if bad:
        found.append(_not_finite(bad, sum(row.size for row in kept)))
    else:
        largest = max((float(np.abs(row).max()) for row in kept if row.size), default=0.0)
        if largest > MAX_MAGNITUDE:
            found.append(f"features must lie within {MAX_MAGNITUDE:g} of zero, but reach {largest:g}")
    return kept, found

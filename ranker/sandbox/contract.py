"""What an encoder must be and return (docs/protocol.md, section 1), as pure rules over what the server reports.

The server shares its process with the submission, so its reports are parsed strictly and bounded before anything looks
at them.
"""

from __future__ import annotations

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


class FileReport(_Report):
    """One Python file of the root folder: attributes whose name ends in `Encoder`, or why it could not be imported."""

    name: Text
    candidates: Annotated[list[Name], Field(max_length=20)]
    error: Raised | None


class LoadReport(_Report):
    """What the constructed encoder looks like. `stage` is how far it came: import, choose, construct or done."""

    attribute: Name | None
    candidates: Annotated[list[Name], Field(max_length=20)]
    error: Raised | None
    stage: Text
    needs: Annotated[list[Text], Field(max_length=20)]
    is_module: bool
    type: Text
    output_dim_type: Text | None
    output_dim: Annotated[int, Field(ge=-(2**53), le=2**53)] | None
    positional: Size | None
    old_habits: Annotated[list[Text], Field(max_length=5)]
    seconds: Seconds

    @property
    def callable_encoder(self) -> bool:
        """Whether there is something to call, right or wrong."""
        return self.stage == "done" and self.error is None

    def violations(self) -> list[str]:
        """Every way in which the loaded object breaks the contract, one sentence each."""
        name = plain(self.attribute or "the encoder", 100)
        if self.stage == "choose":
            found = ", ".join(plain(candidate, 100) for candidate in self.candidates) or "none"
            wanted = f"no attribute {name}" if self.attribute else "not exactly one attribute that ends in Encoder"
            return [f"the encoder's file has {wanted}; those that end in Encoder are: {found}"]
        if self.error is not None and self.stage == "import":
            return [f"the encoder's file cannot be imported: {self.error.words()}"]
        if self.error is not None and self.needs:
            needs = ", ".join(plain(need, 60) for need in self.needs)
            return [f"{name} must be constructed without arguments, but its constructor requires {needs}"]
        if self.error is not None:
            return [f"{name} cannot be constructed: {self.error.words()}"]
        return self._instance_violations(name)

    def _instance_violations(self, name: str) -> list[str]:
        found = []
        if not self.is_module:
            found.append(f"{name} must be a torch.nn.Module, but is a {plain(self.type, 100)}")
        if self.output_dim_type is None:
            old = (
                f" (it has {plain(' and '.join(self.old_habits), 60)}, which an older checker asked for)"
                if self.old_habits
                else ""
            )
            found.append(f"{name} must have an attribute output_dim, the size of one feature frame, but has none{old}")
        elif self.output_dim is None:
            found.append(f"{name}.output_dim must be an int, but is a {plain(self.output_dim_type, 100)}")
        elif not 1 <= self.output_dim <= MAX_OUTPUT_DIM:
            found.append(f"{name}.output_dim must lie between 1 and {MAX_OUTPUT_DIM}, but is {self.output_dim}")
        if self.positional is not None and self.positional < 2:
            found.append(
                f"{name} must be called as encoder(audio, mask), but takes {self.positional} positional "
                f"argument{'s' * (self.positional != 1)} (one was enough for an older checker)"
            )
        return found


class ValueReport(_Report):
    """Type, dtype and shape of something the encoder returned."""

    type: Text
    dtype: Text
    shape: Annotated[list[Size], Field(max_length=8)]

    def words(self) -> str:
        """`Tensor torch.float32 [1, 50, 96]`."""
        return " ".join(filter(None, [plain(self.type, 80), plain(self.dtype, 40), str(self.shape)]))


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
        """Every way in which what was returned breaks the contract, by its types and shapes alone."""
        return self._structure_violations(batch, output_dim, max_frames) or self._size_violations(max_bytes)

    def _structure_violations(self, batch: int, output_dim: int | None, max_frames: int) -> list[str]:
        if self.length is None or self.kind not in {"tuple", "list"}:
            bare = " (a bare tensor was enough for an older checker)" if self.features is not None else ""
            found = [f"the encoder must return (features, mask), but returned a {plain(self.kind, 100)}{bare}"]
            return found + (self._feature_violations(batch, output_dim, max_frames) if self.features else [])
        if self.length != 2:
            return [
                f"the encoder must return (features, mask), but returned a {plain(self.kind, 100)} of {self.length}"
            ]
        return self._feature_violations(batch, output_dim, max_frames) + self._mask_violations()

    def _feature_violations(self, batch: int, output_dim: int | None, max_frames: int) -> list[str]:
        if self.features is None or "float" not in self.features.dtype or len(self.features.shape) != 3:
            got = self.features.words() if self.features else "nothing"
            return [f"features must be a float tensor of shape [{batch}, frames, output_dim], but are {got}"]
        found = []
        rows, frames, size = self.features.shape
        if rows != batch:
            found.append(
                f"features must have one row for each of the {batch} clips, but have shape {self.features.shape}"
            )
        if output_dim is not None and size != output_dim:
            found.append(f"features must have output_dim = {output_dim} values per frame, but have {size}")
        if frames == 0:
            found.append("features must have at least one frame, but have none")
        if frames > max_frames:
            found.append(f"features may have at most {max_frames} frames for one clip, but have {frames}")
        return found

    def _size_violations(self, max_bytes: int) -> list[str]:
        if self.features is None:
            return []
        rows, frames, size = self.features.shape
        bytes_ = rows * frames * size * 4
        if bytes_ <= max_bytes:
            return []
        return [
            f"features may take at most {max_bytes / 1e6:,.0f} MB as float32 here, but take {bytes_ / 1e6:,.0f} MB; "
            "return fewer frames or a smaller output_dim"
        ]

    def _mask_violations(self) -> list[str]:
        if self.mask is None or self.features is None or len(self.features.shape) < 2:
            return []
        if self.mask.shape != self.features.shape[:2] or "complex" in self.mask.dtype or not self.mask.dtype:
            wanted = f"a tensor of shape {self.features.shape[:2]}, one number for each frame"
            return [f"the returned mask must be None or {wanted}, but is {self.mask.words()}"]
        return []


def changed_output_dim(before: int, now: int) -> str:
    """The sentence for an encoder whose output_dim is not what it was."""
    return f"output_dim must be the same in every run, but was {before} in the check and is {now} now"


def max_feature_bytes(lengths: Sequence[int]) -> int:
    """Bytes that the features of one call may take, for clips of so many samples at 16 kHz."""
    return int(sum(length / SAMPLE_RATE_HZ + GRACE_S for length in lengths) * FEATURE_BYTES_PER_S)


Frames = npt.NDArray[np.float32]


def split_features(features: Frames, mask: Frames | None) -> tuple[list[Frames], list[str]]:
    """Features (B, T', D) and mask (B, T') or None -> B arrays (T'_i, D) without masked frames, and what is wrong
    with the values.
    """
    found = []
    if mask is not None and not ((mask == 0.0) | (mask == 1.0)).all():
        found.append("the returned mask must hold 0 and 1 only, but holds other numbers")
        mask = None
    kept = [row if mask is None else row[mask[index] == 1.0] for index, row in enumerate(features)]
    if any(len(row) == 0 for row in kept):
        found.append("the returned mask must keep at least one frame of each clip, but keeps none")
    bad = sum(int(row.size - np.count_nonzero(np.isfinite(row))) for row in kept)
    if bad:
        found.append(
            f"features must be finite, but {bad} of {sum(row.size for row in kept)} numbers are NaN or infinite"
        )
    else:
        largest = max((float(np.abs(row).max()) for row in kept if row.size), default=0.0)
        if largest > MAX_MAGNITUDE:
            found.append(f"features must lie within {MAX_MAGNITUDE:g} of zero, but reach {largest:g}")
    return kept, found

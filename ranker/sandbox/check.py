"""The encoder check at intake: which file is the encoder, and whether it keeps the contract. All violations are found
in one go.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ranker.config import Limits
from ranker.errors import ParticipantError
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, EncoderSpec, Features
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import FileReport, changed_output_dim
from ranker.sandbox.faults import plain
from ranker.sandbox.serving import ServedSandbox
from ranker.types import EncoderSource

MAX_PYTHON_FILES = 60
MAX_LISTED = 10
IGNORED_FOLDERS = {"__MACOSX", "__pycache__"}
# Two features count as equal within this share of the larger one's greatest value: what float32 loses in another order
# of sums.
TOLERANCE = 1e-3
SHORT_CLIPS_S = (0.1, 0.25, 0.5)
_OVERRIDE = re.compile(r"(?P<file>[^:]+\.py)(?::(?P<name>[^\W\d]\w*))?")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the check found out about an encoder that keeps the contract.

    `frames_per_s` is measured on 10 s of audio, `encode_s_per_audio_s` (wall clock) too. `batch_invariant`: clips of
    equal length in one call get the same features as alone; `padding_invariant`: clips of unlike length too.
    `bit_identical`: two fresh processes gave the same bits, not only nearly. `shortest_clip_s`: the shortest of the
    clips tried that was accepted.
    """

    root: str
    module: str
    attribute: str
    output_dim: int
    frames_per_s: float
    load_s: float
    encode_s_per_audio_s: float
    batch_invariant: bool
    padding_invariant: bool
    bit_identical: bool
    shortest_clip_s: float
    sandbox: str

    @property
    def source(self) -> EncoderSource:
        """Which class it was, for `EncoderSpec`."""
        return EncoderSource(root=self.root, module=self.module, attribute=self.attribute)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the job's `result` column."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CheckResult:
        """The inverse of `to_json`; raises TypeError on anything else."""
        return cls(**value)


# -- which file is the encoder


def find_encoder(sandbox: ServedSandbox, tree: Path, limits: Limits, override: str | None = None) -> EncoderSource:
    """The encoder of an unpacked submission, found by importing its root folder's Python files in the sandbox.

    `override` is FILE.py or FILE.py:CLASS, relative to the root folder. Without it: the file with a single attribute
    whose name ends in `Encoder`; of several such files, the one whose name ends in `encoder.py`. Raises
    ParticipantError, listing the candidates.
    """
    root = root_folder(tree)
    if override is not None:
        file, name = _parse_override(tree / root, override)
        if name is not None:
            return EncoderSource(root=root, module=file, attribute=name)
        files = [file]
    else:
        files = sorted(path.name for path in (tree / root).glob("*.py") if path.is_file())
    if not files:
        raise ParticipantError(
            ["the ZIP's root folder, or its single top folder, must hold the encoder's Python file, but has none"]
        )
    if len(files) > MAX_PYTHON_FILES:
        reason = f"the root folder holds {len(files)} Python files; say which one is the encoder with --encoder FILE.py"
        raise ParticipantError([reason])
    with sandbox.connect(EncoderSpec(tree=tree, source=EncoderSource(root=root, module=files[0])), limits) as client:
        share = limits.load_timeout_s / len(files)
        reports = [client.inspect(file, share) for file in files]
    # A process of theirs answered: only names of files that we listed ourselves are believed.
    chosen = choose(
        [FileReport(name=file, candidates=r.candidates, error=r.error) for file, r in zip(files, reports, strict=True)]
    )
    return EncoderSource(root=root, module=chosen.name, attribute=chosen.candidates[0])


def root_folder(tree: Path) -> str:
    """`.`, or the single top folder of a tree that has no Python file of its own."""
    if any(tree.glob("*.py")):
        return "."
    folders = [
        path for path in tree.iterdir() if path.is_dir() and path.name not in IGNORED_FOLDERS and path.name[0] != "."
    ]
    return folders[0].name if len(folders) == 1 else "."


def choose(reports: Sequence[FileReport]) -> FileReport:
    """The one file by the rule of `find_encoder`. Pure. Raises ParticipantError."""
    single = [report for report in reports if len(report.candidates) == 1]
    if len(single) > 1:
        single = [report for report in single if report.name.endswith("encoder.py")] or single
    if len(single) == 1:
        return single[0]
    listed = "; ".join(f"{plain(r.name, 100)}: {_found(r)}" for r in reports[:MAX_LISTED])
    if len(reports) > MAX_LISTED:
        listed += f"; and {len(reports) - MAX_LISTED} more files"
    count = "none" if not single else f"{len(single)} of them"
    raise ParticipantError(
        [
            "exactly one Python file must have exactly one attribute whose name ends in Encoder (or one such file "
            f"be called ...encoder.py), but {count} can be chosen ({listed}); say which with --encoder FILE.py:CLASS"
        ]
    )


def _found(report: FileReport) -> str:
    if report.error is not None:
        return f"cannot be imported, {report.error.words()}"
    return ", ".join(plain(name, 100) for name in report.candidates) or "no such attribute"


def _parse_override(root: Path, override: str) -> tuple[str, str | None]:
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        raise ParticipantError([f"--encoder must be FILE.py or FILE.py:CLASS, but is {plain(override, 200)}"])
    file = PurePosixPath(match["file"])
    if file.is_absolute() or ".." in file.parts or not (root / file).is_file():
        raise ParticipantError(
            [f"--encoder names {plain(str(file), 200)}, but the submission's root folder has no such file"]
        )
    return str(file), match["name"]


# -- whether it keeps the contract


def probe_clip(seconds: float, seed: int) -> Audio:
    """A clip that no music box plays: a tone in noise, with a peak of 1.05, since resampling can overshoot. (T,)
    float32.
    """
    count = round(seconds * SAMPLE_RATE_HZ)
    noise = np.random.default_rng(seed).standard_normal(count)
    tone = np.sin(2 * np.pi * (200 + 50 * seed) * np.arange(count) / SAMPLE_RATE_HZ)
    wave = 0.3 * noise + tone
    return np.asarray(1.05 * wave / np.abs(wave).max(), dtype=np.float32)


def check_encoder(sandbox: ServedSandbox, spec: EncoderSpec, limits: Limits) -> CheckResult:
    """Load and probe the encoder in two fresh processes. Raises ParticipantError with every violation found."""
    short, long = [probe_clip(1.0, seed) for seed in (1, 2)], probe_clip(1.5, 3)
    with sandbox.connect(spec, limits) as client:
        report = client.load(spec.source)
        violations = report.violations()
        if report.callable_encoder:
            violations += _call_violations(client, short, long)
        if violations:
            raise ParticipantError(_unique(violations))
        first = [client.encode([clip])[0] for clip in (*short, long)]
        batch_invariant = _all_near(client, short, first[:2])
        padding_invariant = batch_invariant and _all_near(client, [short[0], long], [first[0], first[2]])
        ten_seconds = probe_clip(10.0, 4)
        started = time.monotonic()
        frames = len(client.encode([ten_seconds])[0])
        seconds = time.monotonic() - started
        shortest = _shortest(client)
        again = client.encode([short[0]])[0]
    second = _second_process(sandbox, spec, limits, [*short, long], client.output_dim)
    _must_repeat(first, again, second)
    return CheckResult(
        root=spec.source.root,
        module=spec.source.module,
        attribute=client.attribute,
        output_dim=client.output_dim,
        frames_per_s=frames / 10.0,
        load_s=round(report.seconds, 3),
        encode_s_per_audio_s=round(seconds / 10.0, 5),
        batch_invariant=batch_invariant,
        padding_invariant=padding_invariant,
        bit_identical=all(np.array_equal(one, other) for one, other in zip(first, second, strict=True)),
        shortest_clip_s=shortest,
        sandbox=str(sandbox.name),
    )


def _call_violations(client: EncoderClient, short: list[Audio], long: Audio) -> list[str]:
    """What is wrong with the calls that the contract promises to work. Silence too is a clip."""
    silence = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    found = client.call([short[0]]).violations
    found += [
        f"with None as the mask, {violation}" for violation in client.call([short[0]], with_mask=False).violations
    ]
    found += [violation.replace("a clip", "a silent clip", 1) for violation in client.call([silence]).violations]
    return found + client.call([short[1], long]).violations


def _unique(violations: Sequence[str]) -> list[str]:
    """Each kind of violation once: the first of those that differ by clip and numbers only."""
    kinds: dict[str, str] = {}
    for violation in violations:
        words = violation.removeprefix("with None as the mask, ")
        words = re.sub(r"a (silent )?clip of [\d.]+ s|a batch of \d+ clips of up to [\d.]+ s", "a clip", words)
        kinds.setdefault(re.sub(r"\d+", "#", words), violation)
    return list(kinds.values())


def _all_near(client: EncoderClient, clips: list[Audio], alone: list[Features]) -> bool:
    return all(near(one, other) for one, other in zip(client.encode(clips), alone, strict=True))


def near(one: Features, other: Features, tolerance: float = TOLERANCE) -> bool:
    """Whether two features are the same but for rounding: `tolerance` of the greatest absolute value."""
    if one.shape != other.shape:
        return False
    scale = float(max(np.abs(one).max(), np.abs(other).max()))
    return bool(np.abs(one - other).max() <= tolerance * scale)


def _shortest(client: EncoderClient) -> float:
    for seconds in SHORT_CLIPS_S:
        if not client.call([probe_clip(seconds, 5)]).violations:
            return seconds
    return 1.0


def _second_process(
    sandbox: ServedSandbox, spec: EncoderSpec, limits: Limits, clips: list[Audio], output_dim: int
) -> list[Features]:
    """The same clips in a fresh process, last one first: neither process nor order may matter."""
    with sandbox.connect(spec, limits) as client:
        violations = client.load(spec.source).violations()
        if not violations and client.output_dim != output_dim:
            violations = [changed_output_dim(output_dim, client.output_dim)]
        if violations:
            raise ParticipantError(violations)
        return [client.encode([clip])[0] for clip in reversed(clips)][::-1]


def _must_repeat(first: list[Features], again: Features, second: list[Features]) -> None:
    found = []
    if not near(first[0], again):
        found.append(
            "a clip's features must depend on the clip alone, but the same clip got other features after other clips "
            "had been encoded; keep no state between calls"
        )
    if not all(near(one, other) for one, other in zip(first, second, strict=True)):
        found.append(
            "a clip's features must be the same in every run, but two fresh processes gave different ones, although "
            "Python, numpy and torch were seeded alike before each call; take no randomness from time or the system"
        )
    if found:
        raise ParticipantError(found)

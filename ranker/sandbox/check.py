"""The encoder check at intake: which file is the encoder, and whether it keeps the contract. All violations are found
in one go.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ranker.errors import ParticipantError
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, EncoderSpec, Features
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.contract import FileReport, candidate_words, changed_output_dim
from ranker.sandbox.environment import threads_for
from ranker.sandbox.faults import plain
from ranker.sandbox.memory import PeakMemory
from ranker.sandbox.network import Network
from ranker.sandbox.probes import LONG_CLIP_S
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits
from ranker.types import EncoderSource

MAX_PYTHON_FILES = 60
MAX_LISTED = 10
IGNORED_FOLDERS = {"__MACOSX", "__pycache__"}
# Two features count as equal within this share of the larger one's greatest value: what float32 loses in another order
# of sums.
TOLERANCE = 1e-3
SHORT_CLIPS_S = (0.1, 0.25, 0.5)
EXTREME_CLIPS_S = (*SHORT_CLIPS_S, LONG_CLIP_S)
_OVERRIDE = re.compile(r"(?P<file>[^:]+\.py)(?::(?P<name>[^\W\d]\w*))?")


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What the check found out about an encoder that keeps the contract. `ranker.sandbox.probes` puts it into words.

    `frames_per_s` is measured on 10 s of audio, `encode_s_per_audio_s` (wall clock) too. `batch_invariant`: clips of
    equal length in one call get the same features as alone; `padding_invariant`: clips of unlike length too;
    `none_mask_equal`: None is the same as a mask of ones. `bit_identical`: two fresh processes gave the same bits, not
    only nearly. `levels_accepted`: silence, full scale and peaks beyond 1 were. `shortest_clip_s`: the shortest of the
    clips tried that was accepted; `refused_clips`: length ("0.1 s") to the sentence, for those that were not;
    `long_clip_frames`: of the longest, None if it was not. Memory is that of the server's process with torch in it, up
    to the clips of 10 s and with the longest one; `peak_memory_source` says how it was read, None where it cannot be.
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
    none_mask_equal: bool
    bit_identical: bool
    levels_accepted: bool
    shortest_clip_s: float
    long_clip_frames: int | None
    refused_clips: dict[str, str]
    peak_memory_mb: float | None
    long_clip_peak_memory_mb: float | None
    peak_memory_source: str | None
    memory_limit_gb: float
    threads: int
    old_habits: list[str]
    sandbox: str
    python: str
    torch: str

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


def find_encoder(
    sandbox: ServedSandbox,
    tree: Path,
    limits: Limits,
    override: str | None = None,
    *,
    packages: Path | None = None,
    weights: Path | None = None,
    network: Network | None = None,
) -> EncoderSource:
    """The encoder of an unpacked submission, found by importing its root folder's Python files in the sandbox.

    `override` is FILE.py or FILE.py:CLASS, relative to the root folder. Without it: the file with a single attribute
    whose name ends in `Encoder`; of several such files, the one whose name ends in `encoder.py`.
    `packages`, `weights` and `network` as for `ServedSandbox.connect`. Raises ParticipantError, listing the candidates.
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
    spec = EncoderSpec(tree=tree, source=EncoderSource(root=root, module=files[0]), packages=packages, weights=weights)
    with sandbox.connect(spec, limits, network=network) as client:
        share = limits.load_timeout_s / len(files)
        reports = [client.inspect(file, share) for file in files]
    # A process of theirs answered: only names of files that we listed ourselves are believed.
    chosen = choose(
        [FileReport(name=file, candidates=r.candidates, error=r.error) for file, r in zip(files, reports, strict=True)]
    )
    return EncoderSource(root=root, module=chosen.name, attribute=next(iter(chosen.candidates)))


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
    return candidate_words(report.candidates) or "no such attribute"


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
    clips = _Clips()
    with sandbox.connect(spec, limits) as client:
        violations = contract_violations(client, spec.source)
        if violations:
            raise ParticipantError(violations)
        alone = [client.encode([clip])[0] for clip in clips.all]
        without_mask = client.call([clips.short[0]], with_mask=False).features[0]
        batch_invariant = _all_near(client, clips.short, alone[:2])
        padding_invariant = batch_invariant and _all_near(client, [clips.short[0], clips.long], [alone[0], alone[2]])
        frames, seconds = _speed(client)
        peak = client.peak_memory()
        again = client.encode([clips.short[0]])[0]
    second, extremes = _second_process(sandbox, spec, limits, clips.all, client.output_dim)
    _must_repeat(alone, again, second)
    return CheckResult(
        root=spec.source.root,
        module=spec.source.module,
        attribute=client.attribute,
        output_dim=client.output_dim,
        frames_per_s=frames / 10.0,
        load_s=round(client.loaded.seconds, 3),
        encode_s_per_audio_s=round(seconds / 10.0, 5),
        batch_invariant=batch_invariant,
        padding_invariant=padding_invariant,
        none_mask_equal=near(alone[0], without_mask),
        bit_identical=all(np.array_equal(one, other) for one, other in zip(alone, second, strict=True)),
        levels_accepted=True,
        shortest_clip_s=min([1.0, *extremes.accepted]),
        long_clip_frames=extremes.accepted.get(LONG_CLIP_S),
        refused_clips=extremes.refused,
        peak_memory_mb=_megabytes(peak),
        long_clip_peak_memory_mb=_megabytes(extremes.peak),
        peak_memory_source=None if peak is None else str(peak.source),
        memory_limit_gb=limits.memory_gb,
        threads=threads_for(limits, spec.threads),
        old_habits=[plain(habit, 40) for habit in client.loaded.old_habits],
        sandbox=str(sandbox.name),
        python=client.greeting.python,
        torch=client.greeting.torch,
    )


class _Clips:
    """The clips whose features are compared: two of one length, and a longer one."""

    def __init__(self) -> None:
        self.short = [probe_clip(1.0, seed) for seed in (1, 2)]
        self.long = probe_clip(1.5, 3)
        self.all = [*self.short, self.long]


def contract_violations(client: EncoderClient, source: EncoderSource) -> list[str]:
    """Load an encoder and call it as the contract says that it can be called; all that is wrong, each kind once."""
    report = client.load(source)
    violations = report.violations()
    if report.callable_encoder:
        violations += _call_violations(client)
    return _unique(violations)


def _call_violations(client: EncoderClient) -> list[str]:
    """What is wrong with the calls that the contract promises to work. Silence too is a clip."""
    clips = _Clips()
    one, two = clips.short
    silence = np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)
    found = client.call([one]).violations
    found += [f"with None as the mask, {violation}" for violation in client.call([one], with_mask=False).violations]
    for clip, kind in ((silence, "a silent clip"), (np.sign(one), "a full-scale clip")):
        found += [violation.replace("a clip", kind, 1) for violation in client.call([clip]).violations]
    return found + client.call([one, two]).violations + client.call([two, clips.long]).violations


def _speed(client: EncoderClient) -> tuple[int, float]:
    """Frames of 10 s of audio, and the seconds that encoding them takes: the second time, when all is warm."""
    clip, seconds = probe_clip(10.0, 4), 0.0
    for _ in range(2):
        started = time.monotonic()
        frames = len(client.encode([clip])[0])
        seconds = time.monotonic() - started
    return frames, seconds


def _megabytes(peak: PeakMemory | None) -> float | None:
    return None if peak is None else round(peak.size_bytes / 1e6, 1)


def _unique(violations: Sequence[str]) -> list[str]:
    """Each kind of violation once: the first of those that differ by clip and numbers only."""
    kinds: dict[str, str] = {}
    for violation in violations:
        words = violation.removeprefix("with None as the mask, ")
        words = re.sub(
            r"a (silent |full-scale )?clip of [\d.]+ s|a batch of \d+ clips of up to [\d.]+ s", "a clip", words
        )
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


def _second_process(
    sandbox: ServedSandbox, spec: EncoderSpec, limits: Limits, clips: list[Audio], output_dim: int
) -> tuple[list[Features], _Extremes]:
    """The same clips in a fresh process, last one first: neither process nor order may matter. Then the extremes."""
    with ExitStack() as stack:
        client = stack.enter_context(sandbox.connect(spec, limits))
        violations = client.load(spec.source).violations()
        if not violations and client.output_dim != output_dim:
            violations = [changed_output_dim(output_dim, client.output_dim)]
        if violations:
            raise ParticipantError(violations)
        features = [client.encode([clip])[0] for clip in reversed(clips)][::-1]
        return features, _extremes(client, lambda: _loaded(stack.enter_context(sandbox.connect(spec, limits)), spec))


def _loaded(client: EncoderClient, spec: EncoderSpec) -> EncoderClient:
    client.load(spec.source)
    return client


@dataclass(frozen=True, kw_only=True)
class _Extremes:
    """Very short clips and a long one: seconds to frames, or words to the reason. `peak`: memory after the long one."""

    accepted: dict[float, int]
    refused: dict[str, str]
    peak: PeakMemory | None


def _extremes(client: EncoderClient | None, another: Callable[[], EncoderClient]) -> _Extremes:
    """Try clips that the contract leaves open; one that ends the server is a finding too, and `another` goes on."""
    accepted: dict[float, int] = {}
    refused: dict[str, str] = {}
    peak = None
    for seconds in EXTREME_CLIPS_S:
        if seconds < LONG_CLIP_S and accepted:
            continue  # what is longer than an accepted short one is no extreme
        client = client or another()
        try:
            call = client.call([probe_clip(seconds, 5)])
            violations = call.violations
        except ParticipantError as refusal:
            violations, client = list(refusal.reasons), None
        if violations:
            refused[f"{seconds:g} s"] = violations[0]
        else:
            accepted[seconds] = len(call.features[0])
            peak = client.peak_memory() if client is not None and seconds == LONG_CLIP_S else None
    return _Extremes(accepted=accepted, refused=refused, peak=peak)


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

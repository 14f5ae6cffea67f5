"""Whether an encoder does in the evaluation what it promised in the check: some clips are encoded again, alone.

The check's clips can be told from a benchmark's. So an encoder could keep its promises there and break them later:
count calls, look at the other clips of a batch, ask the clock. Two looks are taken at each stage of an evaluation
(training, each task), both at clips and moments that nobody can foresee:

- probes, in the running process: at random moments a clip that was encoded before is encoded once more, alone;
- the confirmation: a few clips of each stage are kept with their features, and in the end encoded one by one, in
  another order, by a fresh process, which remembers nothing. Kept on disk: what a killed attempt did is looked at too,
  before its successor's score counts.

The first finds what depends on company, time or number of calls at once; the second also what a process remembers.
`unseen` says how likely each misses an encoder that cheats on a share of the clips only. Neither finds one that knows
clips by heart, and always answers them alike: `ranker audit` looks for that.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from ranker.durable import whole_file
from ranker.errors import ParticipantError
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, Encoder, EncoderSpec, Features, Sandbox
from ranker.sandbox.check import TOLERANCE
from ranker.settings import Limits, Probes

SAMPLES = 8
# Looser than the check's: real clips in real batches round further than two probes, and a refusal here comes late.
WITNESS_TOLERANCE = 10 * TOLERANCE
# Quantised features flip a whole code where a sum rounds the other way. So some clips of an honest encoder may differ;
# more of them than an encoder with this share would have once in 500 times are a fault.
HONEST_SHARE = 0.02
HONEST_CHANCE = 0.002
SUFFIX = ".witness.npz"
_SHOWN = 3

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A clip whose features came as the `number`th of its stage; `audio` gives its samples."""

    number: int
    audio: Callable[[], Audio]
    features: Features


class _Reservoir(Generic[Item]):
    """A fair sample of what was offered so far: each thing has the same chance to be in it (Vitter 1985, algorithm
    R).
    """

    def __init__(self, size: int, draw: random.Random) -> None:
        self._size = size
        self._draw = draw
        self._offered = 0
        self.kept: list[Item] = []

    def offer(self, thing: Item) -> None:
        self._offered += 1
        if len(self.kept) < self._size:
            self.kept.append(thing)
        elif (place := self._draw.randrange(self._offered)) < self._size:
            self.kept[place] = thing


@dataclass(kw_only=True)
class ProbeTally:
    """What the probes of one attempt found. `evidence` has a phrase for each clip that differed; `seconds` is what
    asking again took.
    """

    made: int = 0
    largest_difference: float = 0.0
    seconds: float = 0.0
    evidence: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, float | int]:
        """Plain values for the manifest. Another number of frames counts as a difference of 1."""
        return {
            "made": self.made,
            "differing": len(self.evidence),
            "largest_difference": round(min(self.largest_difference, 1.0), 6),
            "seconds": round(self.seconds, 3),
        }


class Witness:
    """An encoder that remembers a fair sample of what it was asked and answered, and asks again. Implements
    `base.Encoder`.
    """

    def __init__(self, encoder: Encoder, probes: Probes | None = None) -> None:
        """`probes`: how often to ask again in the running process; None: never."""
        self._encoder = encoder
        self._probes = probes
        self._draw = random.SystemRandom()  # a seed could be foreseen; no result depends on it
        self.probed = ProbeTally()
        self._clear()

    def _clear(self) -> None:
        self._stage, self._expected, self._seen, self._made = "", 0, 0, 0
        self._kept = _Reservoir[_Seen](SAMPLES, self._draw)  # for the confirmation
        self._planned: dict[int, int] = {}  # number of a clip -> that of the clip after which it is asked for again
        self._waiting: list[tuple[int, _Seen]] = []

    @property
    def output_dim(self) -> int:
        """See `base.Encoder`."""
        return self._encoder.output_dim

    @property
    def attribute(self) -> str:
        """See `base.Encoder`."""
        return self._encoder.attribute

    def begin_stage(self, stage: str, clips: int) -> None:
        """From now on about so many clips of this stage come: the moments of its probes are drawn. What came since
        the last stage ended (clips that had found no room) is counted to this one.
        """
        self._stage, self._expected = stage, self._seen + clips
        if self._probes is not None:
            count = min(clips, max(self._probes.at_least, round(clips / self._probes.one_in)))
            drawn = self._draw.sample(range(self._seen + 1, self._expected + 1), count)
            self._planned = {number: self._draw.randint(number, self._expected) for number in drawn}

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        """See `base.Encoder`. Raises ParticipantError if probes find more than an honest encoder can explain."""
        found = self._encoder.encode(clips, seed=seed)
        self._witness(found, [partial(_given, clip) for clip in clips])
        return found

    def taken_over(self, found: Sequence[Features], audio: Sequence[Callable[[], Audio]]) -> None:
        """Look at features that another process had made (`ranker.lalm.shelf`) as if they came now: each is as likely
        to be asked for again, and to be confirmed. `audio` gives the clips' samples. Raises as `encode`.
        """
        self._witness(found, audio)

    def _witness(self, found: Sequence[Features], audio: Sequence[Callable[[], Audio]]) -> None:
        for features, samples in zip(found, audio, strict=True):
            self._seen += 1
            seen = _Seen(number=self._seen, audio=samples, features=features)
            self._kept.offer(seen)
            if (moment := self._moment()) is not None:
                self._waiting.append((moment, seen))
        due = [seen for moment, seen in self._waiting if moment <= self._seen]
        self._waiting = [each for each in self._waiting if each[0] > self._seen]
        for seen in due:
            self._probe(seen)

    def end_stage(self, folder: Path, stage: str) -> None:
        """Write the sample to `folder/<stage>.witness.npz`, and begin another. Call it before the stage's result is
        kept. Raises as `encode`.
        """
        for _, seen in self._waiting:  # fewer clips came than were announced
            self._probe(seen)
        if self._probes is not None:
            for seen in self._kept.kept[: max(0, min(self._probes.at_least, self._seen) - self._made)]:
                self._probe(seen)
        arrays = {
            f"{kind}{i}": array
            for i, seen in enumerate(self._kept.kept)
            for kind, array in (("c", seen.audio()), ("f", seen.features))
        }
        with whole_file(folder / f"{stage}{SUFFIX}") as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        self._clear()

    def _moment(self) -> int | None:
        """After which clip the one that just came is asked for again; None: not at all."""
        if self._probes is None:
            return None
        if self._seen <= self._expected:
            return self._planned.get(self._seen)
        again = self._draw.randrange(self._probes.one_in) == 0  # clips that had found no room, and come once more
        return self._seen + self._draw.randrange(self._probes.one_in) if again else None

    def _probe(self, seen: _Seen) -> None:
        """Ask once more, alone. Every clip of a stage is as likely to be asked for, at any moment after its own."""
        started = time.monotonic()
        (again,) = self._encoder.encode([seen.audio()])
        self.probed.seconds += time.monotonic() - started
        self.probed.made += 1
        self._made += 1
        differs = difference(seen.features, again)
        self.probed.largest_difference = max(self.probed.largest_difference, differs)
        if differs > WITNESS_TOLERANCE:
            self.probed.evidence.append(_evidence(seen, self._stage, self._seen, differs))
        if len(self.probed.evidence) > allowed(self.probed.made):
            raise ParticipantError(_probe_sentence(self.probed))


def _given(clip: Audio) -> Audio:
    return clip


def difference(one: Features, other: Features) -> float:
    """Greatest difference of two features as a share of their greatest absolute value; infinite if shapes differ."""
    if one.shape != other.shape:
        return math.inf
    scale = float(max(np.abs(one).max(), np.abs(other).max()))
    return float(np.abs(one - other).max()) / scale if scale else 0.0


def tail(asked: int, least: int, share: float) -> float:
    """Chance that at least `least` of `asked` clips differ, if each does with probability `share`: binomial."""
    return sum(math.comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(least, asked + 1))


def allowed(asked: int) -> int:
    """How many of so many clips may differ before it is the encoder's fault."""
    return next(k for k in range(asked + 1) if tail(asked, k + 1, HONEST_SHARE) < HONEST_CHANCE)


def unseen(share: float, asked: int) -> float:
    """Chance that an encoder which cheats on this share of the clips is let pass when so many are asked again."""
    most = allowed(asked)
    return sum(math.comb(asked, k) * share**k * (1 - share) ** (asked - k) for k in range(most + 1))


def confirm(sandbox: Sandbox, spec: EncoderSpec, limits: Limits, folders: Sequence[Path]) -> None:
    """Encode the samples in these folders (attempts of one job) once more. Raises ParticipantError if they differ.

    Raises as `Sandbox.start` and `Encoder.encode` do, too. The samples are deleted when all is well.
    """
    files = [path for folder in folders for path in sorted(folder.glob(f"[!.]*{SUFFIX}"))]
    samples = [(path, *pair) for path in files for pair in _read(path)]
    if samples:
        random.SystemRandom().shuffle(samples)
        differing: dict[Path, list[tuple[Audio, float]]] = {path: [] for path in files}
        with sandbox.start(spec, limits) as encoder:
            for path, clip, features in samples:
                differs = difference(encoder.encode([clip])[0], features)
                if differs > WITNESS_TOLERANCE:
                    differing[path].append((clip, differs))
        for path, clips in differing.items():
            asked = sum(each is path for each, _, _ in samples)
            if len(clips) > allowed(asked):
                where = f"in the stage {path.name.removesuffix(SUFFIX)} of the evaluation"
                raise ParticipantError(_sentence(where, clips, asked))
        everywhere = [each for clips in differing.values() for each in clips]
        if len(everywhere) > allowed(len(samples)):
            raise ParticipantError(_sentence("over all stages of the evaluation", everywhere, len(samples)))
    for path in files:
        path.unlink()


def _read(path: Path) -> list[tuple[Audio, Features]]:
    with np.load(path, allow_pickle=False) as arrays:
        return [(arrays[f"c{i}"], arrays[f"f{i}"]) for i in range(len(arrays) // 2)]


def _by(differs: float) -> str:
    return "another number of frames" if math.isinf(differs) else f"a difference of {differs:.2g} of the largest value"


def _evidence(seen: _Seen, stage: str, now: int, differs: float) -> str:
    where = f" of the stage {stage}" if stage else ""
    return (
        f"clip {seen.number}{where}, {len(seen.audio()) / SAMPLE_RATE_HZ:.2f} s long, asked again after clip {now} at "
        f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {_by(differs)}"
    )


def _probe_sentence(probed: ProbeTally) -> str:
    shown = "; ".join(probed.evidence[:_SHOWN])
    more = f"; and {len(probed.evidence) - _SHOWN} more" if len(probed.evidence) > _SHOWN else ""
    return (
        f"a clip's features must depend on the clip alone, but {len(probed.evidence)} of {probed.made} clips got other "
        f"features when the same process was asked for them again, alone ({shown}{more}); keep no state between calls, "
        "and look at no other clip of the batch, nor at the time"
    )


def _sentence(where: str, clips: Sequence[tuple[Audio, float]], asked: int) -> str:
    clip, differs = max(clips, key=lambda each: each[1])
    return (
        f"a clip's features must depend on the clip alone, but {where} {len(clips)} of "
        f"{asked} clips (the worst of {len(clip) / SAMPLE_RATE_HZ:.2f} s, with {_by(differs)}) got other features than "
        "alone in a fresh process; keep no state between calls, and look at no other clip of the batch, nor at the time"
    )

"""How fast an evaluation's answers are beside XARES-LLM's: writes docs/results/answer_speed.md.

    python bench/answer_speed.py [--peer CHECKOUT --peer-python PYTHON] [--rounds 3] [--scale 1.0] [--threads 2]

The same clips, weights, prompts and caps for every side, each in a process of its own, one after another in each round:
ranker (float32, and bf16), the reference loop (bench/reference_answers.py) and, if CHECKOUT is given, XARES-LLM's own
model under PYTHON, an interpreter with what it requires. Ratios are taken within a round; absolute times are of this
machine. Encoder and decoder are of the challenge's sizes; the encoder has random weights, the decoder is the stand-in
with random adapters, so that a token that it says now and then can be taken for EOS: answers are as long as a task's
would be, and nothing is heard.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from reference_answers import Peer, Plain, Work, ask, talk, until
from speed.random_encoder import RandomEncoder

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "results" / "answer_speed.md"
RANKER, RANKER_BF16, REFERENCE, PEER = "ranker", "ranker, bf16", "reference loop", "XARES-LLM"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of task. Batch sizes are XARES-LLM's for such tasks; `tokens` is how long answers are to be about."""

    name: str
    clips: int
    shortest_s: float
    longest_s: float
    references: int
    batch_size: int
    tokens: int
    max_new_tokens: int = 150


KINDS = (
    Kind(
        name="classes", clips=24, shortest_s=1.5, longest_s=2.5, references=1, batch_size=4, tokens=3, max_new_tokens=3
    ),
    Kind(name="words", clips=32, shortest_s=2.0, longest_s=6.0, references=1, batch_size=16, tokens=30),
    Kind(name="captions", clips=4, shortest_s=6.0, longest_s=10.0, references=5, batch_size=16, tokens=15),
)  # fmt: skip


def work_of(kind: Kind, scale: float, eos_id: int) -> Work:
    """Noise of different loudness: clips differ, and so do the frames that a random encoder makes of them."""
    generator = torch.Generator().manual_seed(len(kind.name))
    count = max(1, round(kind.clips * scale))
    seconds = torch.rand(count, generator=generator) * (kind.longest_s - kind.shortest_s) + kind.shortest_s
    audio = [
        torch.randn(round(float(each) * 16_000), generator=generator) * 10 ** (-3 * float(loud))
        for each, loud in zip(seconds, torch.rand(count, generator=generator), strict=True)
    ]
    return Work(
        name=kind.name,
        audio=audio,
        references=kind.references,
        prompt=(1780, 314, 4161, 47),
        batch_size=kind.batch_size,
        max_new_tokens=kind.max_new_tokens,
        eos_id=eos_id,
    )


class Ours:
    """ranker's own answering, its encoder in this process."""

    def __init__(self, decoder: Path, encoder: Any, *, bf16: bool) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from ranker.config import Recipe
        from ranker.lalm.merged import MergedDecoder
        from ranker.lalm.model import AudioLanguageModel
        from ranker.types import Precision

        self.encoder = encoder.eval()
        self.recipe = Recipe(precision=Precision.BF16 if bf16 else Precision.FP32)
        self.model = AudioLanguageModel(
            AutoModelForCausalLM.from_pretrained(decoder, dtype=torch.float32, local_files_only=True),
            AutoTokenizer.from_pretrained(decoder, local_files_only=True),
            feature_dim=self.encoder.output_dim,
            recipe=self.recipe,
            init_key="bench",
        ).eval()
        talk(self.model.decoder, self.model.projector)
        self.merged = MergedDecoder(self.model, self.recipe)
        self.spent: dict[str, float] = {}
        self.merged.prefill = self._timed(self.merged.prefill, "reading_s")  # type: ignore[method-assign]

    def _timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function; what it takes is added to `spent`."""

        def timed(*args: Any) -> Any:
            started = time.perf_counter()
            found = function(*args)
            self.spent[part] += time.perf_counter() - started
            return found

        return timed

    def ask(self, work: Work) -> list[list[list[int]]]:
        """Each clip's one answer, once per reference."""
        from ranker.lalm.generate import answered

        self.model.eos_id = work.eos_id
        self.model.tokenize = lambda text: work.prompt  # type: ignore[method-assign]  # noqa: ARG005
        order = sorted(range(len(work.audio)), key=lambda clip: -len(work.audio[clip]))
        self.spent = dict.fromkeys(("encoding_s", "reading_s"), 0.0)
        encode = self._timed(self.encoder, "encoding_s")
        with torch.inference_mode():
            # One clip a call: clips of random lengths share none.
            clips = ((clip, encode(work.audio[clip][None])[0][0].numpy()) for clip in order)
            asked = {"prompt": "", "max_new_tokens": work.max_new_tokens, "recipe": self.recipe}
            found = dict(answered(self.merged, clips, count=len(order), **asked))  # type: ignore[arg-type]
        return [[found[clip]] * work.references for clip in range(len(work.audio))]

    def fitting_eos(self, kind: Kind, scale: float) -> int:
        """The token at which these answers would be about as long as this kind's are to be."""
        cap = min(kind.max_new_tokens, 4 * kind.tokens)
        work = work_of(Kind(**{**vars(kind), "max_new_tokens": cap, "references": 1}), scale, eos_id=-1)
        said = [answer for (answer,) in self.ask(work)]
        candidates = {token for answer in said for token in answer}

        def length(token: int) -> float:
            return sum(len(until(answer, token)) for answer in said) / len(said)

        return min(sorted(candidates), key=lambda token: abs(length(token) - kind.tokens))


def serve(options: argparse.Namespace) -> None:
    """A side's process: one question per line of standard input, one answer per line of standard output."""
    out, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(options.threads)
    ours: dict[str, Callable[[], Any]] = {
        RANKER: lambda: Ours(options.decoder, RandomEncoder(options.encoder_layers), bf16=False),
        RANKER_BF16: lambda: Ours(options.decoder, RandomEncoder(options.encoder_layers), bf16=True),
    }
    side: Any
    if options.side in ours:
        side = ours[options.side]()
    else:
        side = (
            Plain(RandomEncoder(options.encoder_layers), options.decoder)
            if options.side == REFERENCE
            else Peer(
                options.peer, HERE / "speed" / "random_encoder.py", options.decoder, layers=options.encoder_layers
            )
        )
        talk(side.decoder, side.projector)
    for line in sys.stdin:
        asked = json.loads(line)
        kind = next(each for each in KINDS if each.name == asked["kind"])
        if asked["eos_id"] is None:
            answer: dict[str, Any] = {"eos_id": side.fitting_eos(kind, options.scale)}
        else:
            work = work_of(kind, options.scale, asked["eos_id"])
            started, spent = time.perf_counter(), time.process_time()
            found = side.ask(work) if options.side in ours else ask(side, work)
            took, spent = time.perf_counter() - started, time.process_time() - spent
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            answer = {"seconds": took, "processor_s": spent, "peak_gb": peak, "answers": [each[0] for each in found]}
            if options.side in ours:
                answer |= side.spent
        out.write(json.dumps(answer) + "\n")
        out.flush()


class Side:
    """A process that answers."""

    def __init__(self, name: str, python: Path, options: argparse.Namespace, decoder: Path) -> None:
        command = [str(python), str(HERE / "answer_speed.py"), "--side", name, "--decoder", str(decoder)]
        command += ["--threads", str(options.threads), "--scale", str(options.scale)]
        command += ["--encoder-layers", str(options.encoder_layers)]
        command += ["--peer", str(options.peer.absolute())] if options.peer else []
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kind: str, eos_id: int | None) -> dict[str, Any]:
        """Have it do one task."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"kind": kind, "eos_id": eos_id}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a side ended with exit code {self.process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it end."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


Round = dict[str, dict[str, dict[str, Any]]]  # kind -> side -> what it did


def measure(options: argparse.Namespace, decoder: Path) -> list[Round]:
    """Rounds of all sides in turn, until there are enough, or another would take longer than is left."""
    pythons = {RANKER: sys.executable, RANKER_BF16: sys.executable, REFERENCE: sys.executable}
    if options.peer:
        pythons[PEER] = str(options.peer_python)
    since = time.monotonic()
    sides = {name: Side(name, Path(python), options, decoder) for name, python in pythons.items()}
    try:
        eos = {kind.name: int(sides[RANKER].ask(kind.name, None)["eos_id"]) for kind in KINDS}
        rounds: list[Round] = []
        longest = 0.0
        while len(rounds) < options.rounds:
            started = time.monotonic()
            if rounds and started - since + longest > options.minutes * 60:
                break
            rounds.append(
                {
                    kind.name: {name: side.ask(kind.name, eos[kind.name]) for name, side in sides.items()}
                    for kind in KINDS
                }
            )
            longest = max(longest, time.monotonic() - started)
            told = {
                kind: {name: round(did["seconds"], 1) for name, did in each.items()}
                for kind, each in rounds[-1].items()
            }
            print(len(rounds), told, flush=True)
    finally:
        for side in sides.values():
            side.end()
    return rounds


def ratios(rounds: Sequence[Round], kind: str | None, slow: str, fast: str, clock: str = "seconds") -> list[float]:
    """How many times as long the slow side took as the fast one, in each round; None: all kinds together."""

    def total(each: Round, side: str) -> float:
        return float(sum(each[name][side][clock] for name in ([kind] if kind else each)))

    return [total(each, slow) / total(each, fast) for each in rounds]


def equal(rounds: Sequence[Round], kind: str, one: str, other: str) -> tuple[int, int]:
    """How many clips got the same tokens from both, and of how many."""
    pairs = list(zip(rounds[0][kind][one]["answers"], rounds[0][kind][other]["answers"], strict=True))
    return sum(a == b for a, b in pairs), len(pairs)


def words(values: Sequence[float]) -> str:
    """The median, and in brackets the smallest and the largest."""
    return f"**{median(values):.1f}** ({min(values):.1f} to {max(values):.1f})"


def asked_table(rounds: Sequence[Round], scale: float) -> list[str]:
    """What the tasks are."""
    lines = [
        "| task | clips | references | seconds of audio | answer (tokens: mean, longest) | batch there |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind in KINDS:
        work = work_of(kind, scale, 0)
        lengths = [len(answer) for answer in rounds[0][kind.name][RANKER]["answers"]]
        lines.append(
            f"| {kind.name} | {len(work.audio)} | {kind.references} | {sum(map(len, work.audio)) / 16_000:.0f} | "
            f"{sum(lengths) / len(lengths):.1f}, {max(lengths)} | {kind.batch_size} |"
        )
    return lines


def ratio_table(rounds: Sequence[Round], slow: Sequence[str]) -> list[str]:
    """How many times as long the slow sides take."""
    pairs = [(one, fast) for one in slow for fast in (RANKER, RANKER_BF16)]
    lines = [f"| task | {' | '.join(f'{one} / {fast}' for one, fast in pairs)} |", f"| --- |{' ---: |' * len(pairs)}"]
    for name in (*(kind.name for kind in KINDS), None):
        cells = [words(ratios(rounds, name, one, fast)) for one, fast in pairs]
        lines.append(f"| {name or 'all'} | {' | '.join(cells)} |")
    cells = [words(ratios(rounds, None, one, fast, "processor_s")) for one, fast in pairs]
    return [*lines, f"| all, by processor time | {' | '.join(cells)} |"]


def rate_table(rounds: Sequence[Round], sides: Sequence[str]) -> list[str]:
    """Clips per second and memory."""
    lines = ["| side | clips per second, all tasks (median) | peak memory (GB) |", "| --- | ---: | ---: |"]
    for side in sides:
        clips = sum(len(did[side]["answers"]) for did in rounds[0].values())
        rate = median(clips / sum(did[side]["seconds"] for did in each.values()) for each in rounds)
        peak = max(did[side]["peak_gb"] for each in rounds for did in each.values())
        lines.append(f"| {side} | {rate:.2f} | {peak:.1f} |")
    return lines


def share_table(rounds: Sequence[Round]) -> list[str]:
    """Where ranker's time goes."""
    lines = ["| task | ranker: encoding | reading | ranker, bf16: encoding | reading |", "| --- |" + " ---: |" * 4]
    for kind in KINDS:
        cells = [
            f"{median(each[kind.name][side][part] / each[kind.name][side]['seconds'] for each in rounds):.0%}"
            for side in (RANKER, RANKER_BF16)
            for part in ("encoding_s", "reading_s")
        ]
        lines.append(f"| {kind.name} | {' | '.join(cells)} |")
    return lines


def equal_table(rounds: Sequence[Round], others: Sequence[str]) -> list[str]:
    """How many answers are the same."""
    lines = [f"| task | {' | '.join(others)} |", f"| --- |{' ---: |' * len(others)}"]
    for kind in KINDS:
        found: Mapping[str, tuple[int, int]] = {side: equal(rounds, kind.name, RANKER, side) for side in others}
        lines.append(f"| {kind.name} | {' | '.join(f'{same} of {clips}' for same, clips in found.values())} |")
    return lines


def report(options: argparse.Namespace, rounds: Sequence[Round], load: float) -> str:
    """The page."""
    sides = list(rounds[0][KINDS[0].name])
    slow = [side for side in sides if side in {REFERENCE, PEER}]
    close = ""
    if options.peer:
        times = median(ratios(rounds, None, REFERENCE, PEER))
        close = f"The reference loop takes {times:.2f} times as long as XARES-LLM's own model (median)."
    lines = [
        "# Answers beside XARES-LLM's",
        "",
        f"Written by `python bench/answer_speed.py --rounds {options.rounds} --scale {options.scale:g} --threads "
        f"{options.threads}{' --peer CHECKOUT' if options.peer else ''}` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{len(rounds)} rounds, {options.threads} threads, no GPU; load average before it {load:.1f}. Encoder (random, "
        f"{options.encoder_layers} layers of 7 M parameters, 25 frames/s) and decoder (the stand-in's "
        f"{options.layers} layers, random adapters) are the "
        "same on all sides; so are clips, prompts and caps. Reading audio and starting programs are left out.",
        "",
        *asked_table(rounds, options.scale),
        "",
        "How many times as long the others take, median of the rounds (smallest to largest):",
        "",
        *ratio_table(rounds, slow),
        "",
        close,
        "",
        *rate_table(rounds, sides),
        "",
        "What of ranker's time its encoder takes, and the reading of frames and prompts (median):",
        "",
        *share_table(rounds),
        "",
        "Clips whose answers have the same tokens as ranker's in float32 (there the encoder sees padded batches):",
        "",
        *equal_table(rounds, [side for side in sides if side != RANKER]),
    ]
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--decoder", type=Path, help="a folder with SmolLM2-135M; default: the stand-in")
    parser.add_argument("--layers", type=int, default=30, help="of the stand-in")
    parser.add_argument("--encoder-layers", type=int, default=12, help="7 million parameters each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=9.0, help="no round is begun that would end later")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the clips")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.side:
        serve(options)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ranker-answers-") as folder:
        if options.decoder is None:
            from peer_parity import write_decoder

            write_decoder(Path(folder), options.layers)
        rounds = measure(options, options.decoder or Path(folder))
    options.out.write_text(report(options, rounds, load), encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()

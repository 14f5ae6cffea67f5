"""The first run on a GPU: is all equal there, and how fast is it? Writes docs/results/gpu.md.

    python bench/gpu.py [--write] [--switch-on HOME/configs/service.yaml] [--minutes 8] [--cpu --layers 2]

First what must be equal: training on the card and on the CPU in float32, in CUDA graphs and without, captured and not
(to the bit), stopped and resumed (to the bit), greedy tokens. Then ranker (as it is, in CUDA graphs, both in bf16 too)
and the reference loop (bench/reference.py, bench/reference_answers.py) train and answer in turn, each in a process of
its own; ratios are taken round by round. Decoder and encoder have the challenge's sizes and random weights made on the
spot: nothing is fetched. `--switch-on` writes `cuda_graphs: true` into that file if everything was equal. `--cpu` is a
toy, to try this script where there is no card. Exit code 0: everything that must be equal is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch
from answer_speed import KINDS
from speed.card_models import batches_of, size_of, write_random_decoder
from speed.card_side import BF16, GRAPHS, GRAPHS_BF16, OURS, RANKER, REFERENCE, SAME, kind_named, serve
from train_speed import operations

HERE = Path(__file__).parent
REPORT = HERE.parent / "docs" / "results" / "gpu.md"
STEPS = 100_000  # of the challenge's tracks
VISITS = 4 * STEPS
Did = dict[str, dict[str, Any]]  # side -> what it did


class Failed(Exception):  # noqa: N818 reads better where it is caught
    """A side's process ended."""


class Side:
    """A process that does what it is asked."""

    def __init__(self, name: str, options: argparse.Namespace, decoder: Path, logs: Path) -> None:
        command = [sys.executable, "-W", "ignore", str(HERE / "gpu.py"), "--side", name, "--decoder", str(decoder)]
        command += ["--layers", str(options.layers), "--steps", str(options.steps), "--scale", str(options.scale)]
        command += ["--cpu"] if options.cpu else []
        self.name, self._log = name, logs / f"{name}.txt"
        environment = os.environ | {"PYTHONPATH": str(HERE.parent), "HF_HUB_OFFLINE": "1"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )

    def ask(self, what: str = "", **rest: Any) -> dict[str, Any]:
        """Have it do something. Raises Failed with its last words."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            if what:
                self._process.stdin.write(json.dumps({"do": what} | rest) + "\n")
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            raise Failed(self._log.read_text(encoding="utf-8", errors="replace")[-3000:])
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        """Let it end."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


class Sides:
    """All that still run. One that fails is left out from then on, and its words are kept."""

    def __init__(self, options: argparse.Namespace, decoder: Path, logs: Path) -> None:
        self.running = {name: Side(name, options, decoder, logs) for name in (*OURS, REFERENCE)}
        self.failed: dict[str, str] = {}

    def ask(self, what: str, only: Sequence[str] | None = None, **rest: Any) -> Did:
        """Each in turn."""
        found: Did = {}
        for name, side in list(self.running.items()):
            if only is not None and name not in only:
                continue
            try:
                found[name] = side.ask(what, **rest)
            except Failed as error:
                self.failed[name] = str(error)
                print("FAIL", name, str(error)[-1500:], flush=True)
                del self.running[name]
        return found

    def end(self) -> None:
        for side in self.running.values():
            side.end()


class Measured:
    """What all sides did."""

    def __init__(self) -> None:
        self.first: Did = {}
        self.training: list[Did] = []
        self.profiles: Did = {}
        self.memory: Did = {}
        self.rates: Did = {}
        self.answers: list[dict[str, Did]] = []
        self.failed: dict[str, str] = {}


def measure(options: argparse.Namespace, decoder: Path, logs: Path, until: float) -> Measured:
    """Rounds of all sides in turn, as long as there is time."""
    found, sides = Measured(), Sides(options, decoder, logs)
    try:
        found.rates = sides.ask("rates", only=[RANKER])
        found.first = sides.ask("train")  # pays for what later rounds find done: captures, too
        longest = 0.0
        while len(found.training) < options.rounds and (len(found.training) < 2 or time.monotonic() + longest < until):
            started = time.monotonic()
            found.training.append(sides.ask("train"))
            longest = max(longest, time.monotonic() - started)
            print("training", {name: round(did["seconds"], 2) for name, did in found.training[-1].items()}, flush=True)
        found.profiles = sides.ask("train", profiled=True)
        found.memory = sides.ask("memory")
        _answers(options, sides, found, until)
    finally:
        sides.end()
        found.failed = sides.failed
    return found


def _answers(options: argparse.Namespace, sides: Sides, found: Measured, until: float) -> None:
    if RANKER not in sides.running:
        return
    eos = {kind.name: sides.ask("eos", only=[RANKER], kind=kind.name)[RANKER]["eos_id"] for kind in KINDS}
    longest = 0.0
    sides.ask("answer", kind=KINDS[-1].name, eos_id=eos[KINDS[-1].name])  # for what is paid for once
    while len(found.answers) < options.rounds and (not found.answers or time.monotonic() + longest < until):
        started = time.monotonic()
        found.answers.append({kind: sides.ask("answer", kind=kind, eos_id=token) for kind, token in eos.items()})
        longest = max(longest, time.monotonic() - started)
        told = {
            kind: {name: round(did["seconds"], 2) for name, did in each.items()}
            for kind, each in found.answers[-1].items()
        }
        print("answers", told, flush=True)


def words(values: Sequence[float], digits: int = 2) -> str:
    """The median, and in brackets the smallest and the largest."""
    if not values:
        return "-"
    return f"**{median(values):.{digits}f}** ({min(values):.{digits}f} to {max(values):.{digits}f})"


def of_rounds(rounds: Sequence[Did], value: Callable[[Did], float], *sides: str) -> list[float]:
    """A figure of each round in which all these sides took part."""
    return [value(each) for each in rounds if all(side in each for side in sides)]


def equal_lines(same: dict[str, Any]) -> list[str]:
    mark = {True: "yes", False: "**no**", None: ""}
    return [
        "## What must be equal",
        "",
        "**All of it is.**" if same["held"] else "**Not all of it is**: leave `cuda_graphs` off.",
        "",
        "| what | found | must be | held |",
        "| --- | --- | --- | --- |",
        *(f"| {what} | {text} | {bound} | {mark[ok]} |" for what, text, bound, ok in same["checks"]),
        "",
    ]


def training_lines(options: argparse.Namespace, found: Measured) -> list[str]:
    size = size_of(options.layers, toy=options.cpu)
    batches = batches_of("mixed", size)
    clips = [clip for batch in batches for clip in batch]
    per_step = len(batches[0])
    seconds_each = sum(len(clip.audio) for clip in clips) / len(clips) / 16_000
    needed = operations(batches, options.layers) / len(batches)
    rates = found.rates.get(RANKER, {})
    lines = [
        "## Training",
        "",
        f"Rounds of {options.steps} steps of {per_step} clips (mean {seconds_each:.1f} s), LoRA dropout 0.1; "
        "the reference calls the encoder in every step, ranker reads features. Memory is what torch reserved (on a "
        "CPU: the process's peak) in steps with four of the longest clips. Share of the rate: what a step cannot do "
        "without, in the time that it took, of the rate of products of square matrices "
        f"({', '.join(f'{name} {rates.get(name, 0):.1f} TFLOP/s' for name in ('fp32', 'bf16'))}, TF32 off).",
        "",
        "| side | samples per second | times the reference's | share of the rate | launches per step | card at work | "
        "memory (GB) | first round (s) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in (*OURS, REFERENCE):
        seconds = of_rounds(found.training, lambda did, name=name: did[name]["seconds"] / options.steps, name)  # type: ignore[misc]
        if not seconds:
            lines.append(f"| {name} | failed | | | | | | |")
            continue
        ratio = of_rounds(
            found.training, lambda did, name=name: did[REFERENCE]["seconds"] / did[name]["seconds"], name, REFERENCE
        )  # type: ignore[misc]
        rate = rates.get("bf16" if name in {BF16, GRAPHS_BF16} else "fp32", 0) * 1e12
        share = f"{needed / median(seconds) / rate:.0%}" if rate and not options.cpu else "-"
        profile = found.profiles.get(name, {})
        memory = found.memory.get(name, {}).get("gb")
        lines.append(
            f"| {name} | {words([per_step / each for each in seconds], 1)} | {words(ratio)} | {share} | "
            f"{profile.get('launches', 0):.0f} | {profile.get('busy', 0):.0%} | "
            f"{'-' if memory is None else f'{memory:.1f}'} | {found.first[name]['seconds']:.1f} |"
        )
    return [*lines, "", *_extrapolated(options, found)]


def _extrapolated(options: argparse.Namespace, found: Measured) -> list[str]:
    """A whole track's training, encoding included."""
    rates = found.rates.get(RANKER)
    if not rates:
        return []
    lines = [
        f"A track's {STEPS:,} steps, from these times, and encoding {VISITS:,} excerpts of {rates['audio_s']:g} s, "
        "each another one, which is the most that there can be (no sandbox, one process): "
        f"{VISITS * rates['alone'] / 60:.0f} minutes one by one, {VISITS * rates['together'] / 60:.0f} several of one "
        "length together.",
        "",
        "| side | steps (minutes) | with encoding one by one | together |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in OURS:
        seconds = of_rounds(found.training, lambda did, name=name: did[name]["seconds"] / options.steps, name)  # type: ignore[misc]
        if seconds:
            minutes = STEPS * median(seconds) / 60
            both = [minutes + VISITS * rates[way] / 60 for way in ("alone", "together")]
            lines.append(f"| {name} | {minutes:.0f} | {both[0]:.0f} | {both[1]:.0f} |")
    lines += ["", "The kernels of ranker's steps in graphs that took longest (share of the profiled time of all):", ""]
    top = found.profiles.get(GRAPHS, {}).get("top", [])
    total = sum(seconds for _, seconds in top) or 1.0
    lines += [f"- {seconds / total:.0%} `{kernel[:100]}`" for kernel, seconds in top] or ["- none was seen"]
    return [*lines, ""]


def answer_lines(options: argparse.Namespace, found: Measured) -> list[str]:
    if not found.answers:
        return ["## Answers", "", "Not measured.", ""]
    lines = [
        "## Answers",
        "",
        f"The tasks of bench/answer_speed.py with {options.scale:g} times their clips, encoding included. How many "
        "times as long the reference loop takes:",
        "",
        f"| task | clips | {' | '.join(OURS)} |",
        f"| --- | ---: |{' ---: |' * len(OURS)}",
    ]
    for kind in KINDS:
        rounds = [each[kind.name] for each in found.answers]
        cells = [
            words(
                of_rounds(
                    rounds, lambda did, name=name: did[REFERENCE]["seconds"] / did[name]["seconds"], name, REFERENCE
                ),
                1,
            )  # type: ignore[misc]
            for name in OURS
        ]
        clips = max(1, round(kind_named(kind.name, toy=options.cpu).clips * options.scale))
        lines.append(f"| {kind.name} | {clips} | {' | '.join(cells)} |")
    lines += ["", "Clips per second, all tasks, and clips with the same tokens as ranker's in float32:", ""]
    lines += ["| side | clips per second | same tokens |", "| --- | ---: | ---: |"]
    for name in (*OURS, REFERENCE):
        whole = [each for each in found.answers if all(name in did for did in each.values())]
        if not whole:
            lines.append(f"| {name} | failed | |")
            continue
        clips = sum(len(did[name]["answers"]) for did in whole[0].values())
        rate = [clips / sum(did[name]["seconds"] for did in each.values()) for each in whole]
        pairs = [
            pair
            for did in whole[0].values()
            if RANKER in did
            for pair in zip(did[name]["answers"], did[RANKER]["answers"], strict=True)
        ]
        lines.append(f"| {name} | {words(rate, 1)} | {sum(a == b for a, b in pairs)} of {len(pairs)} |")
    return [*lines, ""]


def report(options: argparse.Namespace, same: dict[str, Any], found: Measured) -> str:
    """The page."""
    name = "a CPU, as a toy" if options.cpu else torch.cuda.get_device_name()
    command = f"python bench/gpu.py --rounds {options.rounds}{' --cpu' if options.cpu else ''}"
    lines = [
        "# On a GPU",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {name}, torch {torch.__version__}, Python "
        f"{platform.python_version()}; decoder of {options.layers} layers, encoder, both with random weights. "
        f"Medians of the rounds (smallest to largest): {len(found.training)} of training, {len(found.answers)} of "
        "answers.",
        "",
        *equal_lines(same),
        *training_lines(options, found),
        *answer_lines(options, found),
    ]
    for side, said in found.failed.items():
        lines += [f"`{side}` failed:", "", "```", *said.strip().splitlines()[-8:], "```", ""]
    return "\n".join(lines)


def switch_on(path: Path) -> None:
    """Say `cuda_graphs: true` in that file, whatever it says now."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line = "cuda_graphs: true"
    found, count = re.subn(r"^cuda_graphs:.*$", line, text, count=1, flags=re.MULTILINE)
    path.write_text(found if count else f"{text.rstrip()}\n{line}\n".lstrip(), encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the page, not only print it")
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument(
        "--switch-on", type=Path, help="a service.yaml that is to say cuda_graphs: true, if all is equal"
    )
    parser.add_argument("--only-equal", action="store_true", help="leave out the times")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=30, help="of a round")
    parser.add_argument("--scale", type=float, default=4.0, help="clips of the tasks, beside bench/answer_speed.py's")
    parser.add_argument("--minutes", type=float, default=8.0, help="no further round is begun that would end later")
    parser.add_argument("--cpu", action="store_true", help="a toy")
    parser.add_argument("--decoder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.side:
        serve(options)
        return 0
    if not options.cpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; --cpu --layers 2 tries the script without one")
    until = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="ranker-gpu-") as folder:
        decoder, logs = Path(folder) / "decoder", Path(folder)
        write_random_decoder(decoder, size_of(options.layers, toy=options.cpu))
        checking = Side(SAME, options, decoder, logs)
        try:
            same = checking.ask()
        except Failed as error:
            same = {"held": False, "checks": [["the comparison itself", f"failed: {str(error)[-300:]!r}", "", False]]}
        finally:
            checking.end()
        for what, text, bound, ok in same["checks"]:
            print({True: "ok  ", False: "FAIL", None: "    "}[ok], what, "|", text, "|", bound, flush=True)
        found = Measured() if options.only_equal else measure(options, decoder, logs, until)
    page = report(options, same, found)
    print(page)
    if options.write:
        options.out.write_text(page, encoding="utf-8")
    good = bool(same["held"]) and not found.failed
    if options.switch_on and good and not options.cpu:
        switch_on(options.switch_on)
        print(f"{options.switch_on} now says cuda_graphs: true")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

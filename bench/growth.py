"""How cost grows: with a clip's length, the batch, the number of test clips, and teams on the page.

    python bench/growth.py [--rounds 3] [--threads 2]     tables and plots of docs/performance.md
    python bench/growth.py --quick                        few sizes, and the guard: exit code 1 if a ratio fell

ranker and the reference loop (bench/reference.py) do the same work in turn, in this process, with the stand-in's first
layers and an encoder that costs nothing; the medians of the rounds are given, and the median of the ratios, taken round
by round. The guard knows no times: it compares ratios with those of bench/growth.json, which `--quick --write` writes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import torch
from answer_speed import Ours
from peer_parity import write_decoder
from reference import Clip, Training
from reference_answers import Plain, Work, ask, talk

from ranker.config import RankedBenchmark, Recipe
from ranker.lalm.model import Example
from ranker.lalm.train import build_optimizer

ROOT = Path(__file__).parent.parent
PAGE, PLOTS, STORED = ROOT / "docs" / "performance.md", ROOT / "docs" / "img", Path(__file__).parent / "growth.json"
BEGIN, END = "<!-- written by `make bench`: from here -->", "<!-- to here -->"
FRAMES_PER_S, WIDTH, PROMPT = 25, 64, (1780, 314, 4161, 47)
FELL = 0.6  # a ratio below this share of the stored one is a regression; rounds of busy machines differ by a third
GIVEN_S = 5.0  # of a clip where something else grows


class FrameEncoder(torch.nn.Module):
    """25 frames a second, each a random projection of its samples."""

    output_dim = WIDTH

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(16_000 // FRAMES_PER_S, WIDTH, generator=generator) / 25)

    def forward(self, audio: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        hop = 16_000 // FRAMES_PER_S
        frames = audio[:, : audio.shape[1] // hop * hop].reshape(len(audio), -1, hop) @ self.mix
        count = torch.full((len(audio),), frames.shape[1]) if mask is None else (mask.sum(1) // hop)
        return frames, (torch.arange(frames.shape[1]) < count[:, None]).long()


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one size took: seconds of each round, of ranker and of the reference (none for the page)."""

    size: float
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """How many times as long the reference takes, median of the rounds."""
        return median(b / a for a, b in zip(self.ours, self.theirs, strict=True))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One table and its plot. `name` is a file's; `unit` is what `size` counts."""

    name: str
    title: str
    unit: str
    points: tuple[Point, ...]


class Sides:
    """Both programs' models, with the same decoder."""

    def __init__(self, decoder: Path) -> None:
        self.ours = Ours(decoder, FrameEncoder(), bf16=False)
        self.theirs = Plain(FrameEncoder(), decoder)
        talk(self.theirs.decoder, self.theirs.projector)

    def training(self, batch: int, seconds: float) -> tuple[Callable[[], None], Callable[[], None]]:
        """One step of each, after the first."""
        noise = torch.Generator().manual_seed(1)
        audio = [torch.randn(round(seconds * 16_000), generator=noise) for _ in range(batch)]
        target = (2, 3, 5, 7, 11, 0)
        clips = [Clip(audio=each, prompt=PROMPT, target=target) for each in audio]
        examples = [
            Example(features=self.ours.encoder(each[None])[0][0].numpy(), prompt=PROMPT, target=target)
            for each in audio
        ]
        model = self.ours.model.train()
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        # A rate of nothing: the work is done, and the answers measured later are those of the same weights.
        optimizer = build_optimizer(model, Recipe(learning_rate=1e-30))
        loop = Training(self.theirs.model, steps=1_000_000, learning_rate=1e-30)

        def one() -> None:
            for piece in model.pack(examples):
                model.loss(piece).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()

        def other() -> None:
            loop.step(clips, 0)

        return one, other

    def answers(self, count: int, seconds: float, batch: int) -> tuple[Callable[[], None], Callable[[], None]]:
        """All answers of each, of eight tokens."""
        self.ours.model.eval()
        self.theirs.model.eval()
        noise = torch.Generator().manual_seed(2)
        work = Work(
            name="growth",
            audio=[torch.randn(round(seconds * 16_000), generator=noise) for _ in range(count)],
            references=1,
            prompt=PROMPT,
            batch_size=batch,
            max_new_tokens=8,
            eos_id=49_151,
        )
        return (lambda: (self.ours.ask(work), None)[1]), (lambda: (ask(self.theirs, work), None)[1])


def in_turn(pair: tuple[Callable[[], None], Callable[[], None]], size: float, rounds: int) -> Point:
    """Both, one after the other, again and again; the first time does not count."""
    for each in pair:
        each()
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for each, taken in zip(pair, found, strict=True):
            started = time.perf_counter()
            each()
            taken.append(time.perf_counter() - started)
    print(f"  {size:g}: {median(found[0]):.2f} s, reference {median(found[1]):.2f} s", flush=True)
    return Point(size=size, ours=tuple(found[0]), theirs=tuple(found[1]))


def curves(sides: Sides, rounds: int, *, quick: bool) -> Iterator[Curve]:
    """What is compared with the reference."""
    print("training step by clip length", flush=True)
    lengths = (1.0, 8.0) if quick else (1.0, 3.0, 10.0, 30.0)
    points = [in_turn(sides.training(4, each), each, rounds) for each in lengths]
    yield Curve(name="step_length", title="A training step of 4 clips", unit="seconds a clip", points=tuple(points))
    print("training step by batch", flush=True)
    sizes = (1, 8) if quick else (1, 2, 4, 8, 16)
    points = [in_turn(sides.training(each, GIVEN_S), each, rounds) for each in sizes]
    yield Curve(name="step_batch", title="A training step of 5 s clips", unit="clips a batch", points=tuple(points))
    print("answers by clip length", flush=True)
    points = [in_turn(sides.answers(8, each, 8), each, rounds) for each in lengths]
    yield Curve(name="answer_length", title="8 answers of 8 tokens", unit="seconds a clip", points=tuple(points))
    print("answers by test clips", flush=True)
    counts = (4, 16) if quick else (4, 16, 64, 256)
    points = [in_turn(sides.answers(each, GIVEN_S / 2, 4), each, rounds) for each in counts]
    yield Curve(
        name="answer_clips",
        title="Answers about 2.5 s clips, there in batches of 4",
        unit="clips",
        points=tuple(points),
    )


def pages(rounds: int, *, quick: bool) -> Curve:
    """Seconds of a processor to read the scores of a table of so many teams, rank them and write the page."""
    print("page by teams", flush=True)
    points = []
    for teams in (10, 100) if quick else (10, 30, 100, 300, 1000):
        taken = tuple(_page(teams) for _ in range(rounds))
        print(f"  {teams}: {median(taken):.2f} s", flush=True)
        points.append(Point(size=teams, ours=taken, theirs=()))
    return Curve(name="page_teams", title="A page of one track of 21 tasks", unit="teams", points=tuple(points))


def _page(teams: int) -> float:
    import yaml

    path = ROOT / "configs" / "interspeech2026.yaml"
    benchmark = RankedBenchmark.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    tasks = [task.name for task in benchmark.track("A").active_tasks]
    random = np.random.default_rng(teams)
    with tempfile.TemporaryDirectory(prefix="ranker-growth-") as folder:
        table = Path(folder) / "table.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["team", *tasks])
            writer.writerows([f"Team {at}", *random.uniform(0.05, 0.95, len(tasks)).round(4)] for at in range(teams))
        ranker = [sys.executable, "-m", "ranker", "--home", str(Path(folder) / "home")]
        asked = ["--benchmark", "interspeech2026"]
        _run([*ranker, "import-scores", str(table), *asked, "--track", "A"])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        _run([*ranker, "leaderboard", *asked, "--out", str(Path(folder) / "page")])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}: {done.stderr[-500:]}")


def table(curve: Curve) -> list[str]:
    """Its table. `grows as` is the exponent between neighbours: 1 is linear."""
    compared = bool(curve.points[0].theirs)
    lines = [f"**{curve.title}.**", ""]
    lines.append(f"| {curve.unit} | ranker (s) |{' reference (s) | ratio |' if compared else ''} grows as |")
    lines.append(f"| ---: | ---: |{' ---: | ---: |' if compared else ''} ---: |")
    before: Point | None = None
    for point in curve.points:
        exponent = "" if before is None else f"n^{_exponent(before, point):.2f}"
        more = f" {median(point.theirs):.2f} | {point.ratio:.1f} |" if compared else ""
        lines.append(f"| {point.size:g} | {median(point.ours):.2f} |{more} {exponent} |")
        before = point
    return [*lines, "", f"![{curve.title}](img/growth_{curve.name}.svg)", ""]


def _exponent(one: Point, two: Point) -> float:
    return math.log(median(two.ours) / median(one.ours)) / math.log(two.size / one.size)


def plot(curve: Curve) -> None:
    """docs/img/growth_<name>.svg"""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    # The same drawing is the same file.
    with mpl.rc_context({"svg.hashsalt": "ranker", "font.size": 9}):
        figure, axes = plt.subplots(figsize=(5, 2.8), layout="constrained")
        sizes = [point.size for point in curve.points]
        axes.loglog(sizes, [median(point.ours) for point in curve.points], "o-", label="ranker")
        if curve.points[0].theirs:
            axes.loglog(sizes, [median(point.theirs) for point in curve.points], "s--", label="reference")
            axes.legend(frameon=False)
        axes.set(xlabel=curve.unit, ylabel="seconds", title=curve.title)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
        axes.minorticks_off()
        figure.savefig(PLOTS / f"growth_{curve.name}.svg", metadata={"Date": None})
        plt.close(figure)


def write(found: Sequence[Curve], options: argparse.Namespace, load: float) -> None:
    """Put tables and plots between the marks of docs/performance.md."""
    lines = [
        BEGIN,
        f"`python bench/growth.py --rounds {options.rounds} --threads {options.threads}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: {options.threads} threads, no GPU, the stand-in's first {options.layers} "
        f"layers, 25 frames a second, {options.rounds} rounds; load average before it {load:.1f}. Medians; ratios are "
        "medians of the rounds' ratios. The page's time is a processor's, the others are a clock's.",
        "",
    ]
    for curve in found:
        plot(curve)
        lines += table(curve)
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    PAGE.write_text(before + "\n".join([*lines, END]) + rest.split(END, 1)[1], encoding="utf-8")


def ratios_of(found: Sequence[Curve]) -> dict[str, float]:
    """What the guard compares: how many times as long the reference takes; for a page, as many times smaller pages."""
    named = {}
    for curve in found:
        for point in curve.points:
            if point.theirs:
                named[f"{curve.name}/{point.size:g}"] = round(point.ratio, 2)
        if not curve.points[0].theirs:
            first, last = curve.points[0], curve.points[-1]
            share = median(first.ours) / median(last.ours)
            named[f"{curve.name}/{first.size:g} to {last.size:g}"] = round(share * last.size / first.size, 2)
    return named


def guard(named: dict[str, float]) -> int:
    """Compare with the stored ratios; the exit code."""
    if not STORED.is_file():
        raise SystemExit(f"{STORED} is not there: no ratios to compare with; write it with --quick --write")
    stored: dict[str, float] = json.loads(STORED.read_text(encoding="utf-8"))
    worse = 0
    for name, ratio in named.items():
        fell = ratio < FELL * stored[name]
        worse += fell
        print(f"{'FELL' if fell else 'ok  '} {name}: {ratio:.2f}, stored {stored[name]:.2f}")
    return 1 if worse else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="with --quick: store these ratios")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ranker-growth-") as folder:
        write_decoder(Path(folder), options.layers)
        found: list[Curve] = [
            *curves(Sides(Path(folder)), options.rounds, quick=options.quick),
            pages(options.rounds, quick=options.quick),
        ]
    if not options.quick:
        write(found, options, load)
        return 0
    if options.write:
        STORED.write_text(json.dumps(ratios_of(found), indent=2) + "\n", encoding="utf-8")
        return 0
    return guard(ratios_of(found))


if __name__ == "__main__":
    sys.exit(main())

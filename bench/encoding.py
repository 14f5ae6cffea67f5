"""What encoding costs: by how many clips share a call, and what jobs of a submission save by sharing features.

    python bench/encoding.py --home DIR [--benchmark mini] [--track A] [--out docs/results/encoding.md]

DIR is a home with the benchmark's data and checked submissions (after `make demo`, the checkout); it is only read. The
encoders run with `--sandbox none`, one thread each: name none but your own. Seconds are of processor time, this process
and the encoder's together, so that other programs hardly matter.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sqlalchemy import select

from ranker.db.models import Submission
from ranker.db.session import open_database, session
from ranker.hidden import load_benchmark
from ranker.home import Home
from ranker.job import snapshot
from ranker.lalm import decoder as decoders
from ranker.lalm.curriculum import curriculum
from ranker.lalm.features import Excerpt, FeatureStore, calls, shuffled
from ranker.lalm.order import SecretOrder
from ranker.lalm.shelf import Shelf
from ranker.manifest import hardware
from ranker.sandbox.base import SAMPLE_RATE_HZ, Audio, EncoderSpec
from ranker.sandbox.none import NoSandbox
from ranker.sandbox.witness import Witness
from ranker.settings import Limits, Probes
from ranker.types import EncoderSource, Part

OUT = Path(__file__).parent.parent / "docs" / "results" / "encoding.md"
TOGETHER = (1, 4, 16)
CLIPS, EQUAL_S, RAGGED_S = 160, 1.6, (1.0, 6.0)
SEEDS = (42, 43)
ROOM = 10**11


def processor_s() -> float:
    """Processor seconds of this process and all below it that still live."""
    found = dict[int, tuple[int, float]]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        found[int(folder.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    mine, total = [os.getpid()], 0.0
    while mine:
        pid = mine.pop()
        total += found[pid][1]
        mine += [child for child, (parent, _) in found.items() if parent == pid]
    return total


def spent(action: Callable[[], object]) -> float:
    """Processor seconds that an action takes."""
    before = processor_s()
    action()
    return processor_s() - before


def clips(lengths_s: np.ndarray[Any, np.dtype[np.float64]]) -> list[Audio]:
    random = np.random.default_rng(0)
    return [random.normal(0, 0.1, round(each * SAMPLE_RATE_HZ)).astype(np.float32) for each in lengths_s]


def by_call(spec: EncoderSpec) -> list[float]:
    """Milliseconds per second of audio: clips of one length and ragged ones, 1, 4 and 16 in a call."""
    ragged = np.sort(np.random.default_rng(1).uniform(*RAGGED_S, CLIPS))
    found = []
    with NoSandbox().start(spec, Limits()) as encoder:
        for audio in (clips(np.full(CLIPS, EQUAL_S)), clips(ragged)):
            seconds = sum(map(len, audio)) / SAMPLE_RATE_HZ
            for size in TOGETHER:
                groups = [audio[at : at + size] for at in range(0, len(audio), size)]
                encoder.encode(groups[0])
                found.append(1000 * spent(lambda groups=groups: [encoder.encode(each) for each in groups]) / seconds)
    return found


def stage(spec: EncoderSpec, data: Path, excerpts: list[Excerpt], shared: Path | None, work: Path) -> tuple[float, int]:
    """Processor seconds of the encoding stage of a job, and how many clips it took over; `shared`: of other jobs."""
    with NoSandbox().start(spec, Limits()) as encoder:
        witness = Witness(encoder, Probes())
        with Shelf(
            (shared or work) / "features",
            identity="0" * 64,
            maker="bench",
            own="public",
            readable=["public"],
            max_bytes=ROOM if shared else 0,
            taken_over=witness.taken_over,
        ) as shelf:
            plan = shuffled(calls(excerpts, batch_invariant=True), SecretOrder(secret=b"bench"))
            store = FeatureStore(data=data, encoder=witness, plan=plan, path=work / "f", max_bytes=ROOM, shelf=shelf)

            def encode() -> None:
                with store:
                    witness.begin_stage("training", len(excerpts))
                    store.fill(lambda *_: None)
                    witness.end_stage(work, "training")

            return spent(encode), shelf.taken.total()


def excerpts_by_seed(home: Home, name: str, track: str) -> dict[int, list[Excerpt]]:
    """The training excerpts of each seed."""
    benchmark = load_benchmark(home, name)
    part = benchmark.part(track, Part.PUBLIC)
    _, tokenizer = decoders.load(decoders.locate(part.recipe.decoder), 1)
    found = {}
    for seed in SEEDS:
        steps = curriculum(
            part.mixture, part.recipe, data=home.data / name, seed=seed, random_key=f"bench:{seed}",
            steps=part.recipe.steps, count_tokens=lambda text: len(tokenizer(text)["input_ids"]),
        )  # fmt: skip
        found[seed] = list({sample.excerpt.key: sample.excerpt for step in steps for sample in step}.values())
    return found


def encoders(home: Home) -> Iterator[tuple[str, EncoderSpec]]:
    """The home's checked submissions that mind no company."""
    engine = open_database(home)
    with session(engine, read_only=True) as reading:
        ids = list(reading.scalars(select(Submission.id).order_by(Submission.team)))
    for each in ids:
        submission = snapshot(engine, each)
        if submission.check is not None and submission.check["encoder"]["batch_invariant"]:
            tree = home.submissions / submission.digest / "tree"
            source = EncoderSource(**submission.check["source"])
            yield submission.team, EncoderSpec(tree=tree, source=source, threads=1)


def sharing(name: str, spec: EncoderSpec, data: Path, excerpts: Mapping[int, list[Excerpt]]) -> str:
    """A row: each seed alone, a later attempt, and the second seed beside the first."""
    first, second = (excerpts[seed] for seed in SEEDS)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        shared = work / "shared"
        shared.mkdir()
        alone, _ = stage(spec, data, first, shared, work)
        again, all_of_it = stage(spec, data, first, shared, work)
        beside, taken = stage(spec, data, second, shared, work)
        other, _ = stage(spec, data, second, None, work)
    cells = (f"{alone:.2f}", f"{again:.2f} ({all_of_it:,})", f"{other:.2f}", f"{beside:.2f} ({taken:,})")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--benchmark", default="mini")
    parser.add_argument("--track", default="A")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    home = Home(root=options.home.resolve())
    excerpts = excerpts_by_seed(home, options.benchmark, options.track)
    calls_rows, sharing_rows = [], []
    for name, spec in encoders(home):
        calls_rows.append(f"| {name} | " + " | ".join(f"{each:.2f}" for each in by_call(spec)) + " |")
        sharing_rows.append(sharing(name, spec, home.data / options.benchmark, excerpts))
        print(calls_rows[-1], sharing_rows[-1], sep="\n", flush=True)
    one, two = (f"{len(excerpts[seed]):,}" for seed in SEEDS)
    lines = [
        "# What encoding costs",
        "",
        f"Written by `python bench/encoding.py` on {datetime.now(UTC):%Y-%m-%d}, one run, one thread for",
        f"each process, on {hardware('cpu')['cpu']}; processor time of both together.",
        "",
        f"Milliseconds per second of audio, of {CLIPS} clips of {EQUAL_S} s and of {CLIPS} clips between",
        f"{RAGGED_S[0]:g} and {RAGGED_S[1]:g} s, sorted by length and padded, which no evaluation does; by how many",
        "share a call.",
        "",
        "| encoder | one length: 1 | 4 | 16 | padded: 1 | 4 | 16 |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *calls_rows,
        "",
        f"Seconds of the encoding stage of track {options.track} of `{options.benchmark}` ({one} clips with one seed,",
        f"{two} with another), in parentheses how many clips were taken over from an earlier job.",
        "",
        "| encoder | one seed | later attempt | another seed alone | another seed beside it |",
        "| --- | ---: | ---: | ---: | ---: |",
        *sharing_rows,
    ]
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

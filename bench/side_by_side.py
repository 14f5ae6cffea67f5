"""What running two jobs side by side gains: `python bench/side_by_side.py --home HOME [--steps N] [--rounds N]`.

The two tracks of one submission, real jobs on the benchmark mini, are done one after another with all threads, then
side by side with half of them each, again and again in turn; the times stand in docs/results/side_by_side.md. HOME is
one in which mini is built and one submission was accepted; nothing in it is changed. Run it on a machine that does
nothing else: jobs with several threads suffer most from other programs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

REPORT = Path(__file__).parent.parent / "docs" / "results" / "side_by_side.md"
RANKER = [sys.executable, "-m", "ranker"]


def arm(home: Path, workers: int, steps: int) -> dict[str, Any]:
    """Do the two jobs in a fresh copy of the home with so many workers; how long it took, and what each job says."""
    with tempfile.TemporaryDirectory(prefix="side-by-side-") as folder:
        copy = Path(folder)
        for name in ("ranker.db", "submissions"):
            source = home / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        (copy / "data").symlink_to(home / "data")
        (copy / "configs").mkdir()
        (copy / "configs" / "service.yaml").write_text(f"cpu_workers: {workers}\n", encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
        command = [*RANKER, "--home", str(copy), "evaluate", "--all", "--limit-steps", str(steps), "--sandbox", "none"]
        started = time.perf_counter()
        subprocess.run([*command, "--workers", str(workers)], env=environment, check=True, stderr=subprocess.DEVNULL)
        took = time.perf_counter() - started
        manifests = [json.loads(path.read_text()) for path in sorted(copy.glob("runs/*/*/attempt-*/manifest.json"))]
        return {
            "took": took,
            "threads": [each["threads"] for each in manifests],
            "memory": [float(each["peak_memory_gb"]) for each in manifests],
            "weights": sorted(each["weights"][:12] for each in manifests),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    cores, rounds = len(os.sched_getaffinity(0)), []
    for number in range(given.rounds):
        load = os.getloadavg()[0]
        after, beside = arm(given.home, 1, given.steps), arm(given.home, 2, given.steps)
        rounds.append((load, after, beside))
        print(number, load, after, beside, flush=True)
    ratios = [after["took"] / beside["took"] for _, after, beside in rounds]
    lines = [
        "# Two jobs side by side, or one after another",
        "",
        f"Written by `bench/side_by_side.py --steps {given.steps} --rounds {given.rounds}` on "
        f"{datetime.now(UTC):%Y-%m-%d}: the two tracks of one submission on the benchmark mini, {cores} cores, no GPU, "
        "no sandbox. One after another, a job has all threads; side by side, each has half of them. `load` is the load "
        "average before the round: what else the machine did. Where that is above 1, the gain is too large: threads "
        "of one job that wait for each other on busy cores lose more than two jobs that do not.",
        "",
        "| round | load | one after another (s) | side by side (s) | gain | threads of a job | memory of a job (GB) |",
        "| ---: | ---: | ---: | ---: | ---: | --- | --- |",
        *(
            f"| {number} | {load:.1f} | {after['took']:.0f} | {beside['took']:.0f} | {ratio:.2f} | "
            f"{after['threads'][0]}, then {beside['threads'][0]} | {max(beside['memory']):.1f} |"
            for number, ((load, after, beside), ratio) in enumerate(zip(rounds, ratios, strict=True), start=1)
        ),
        "",
        f"Median gain: {median(ratios):.2f} times as many jobs an hour side by side, at the same number of threads in "
        "all. The weights of both ways are equal, bit for bit"
        f"{'' if all(after['weights'] == beside['weights'] for _, after, beside in rounds) else ': NOT SO HERE'}.",
        "",
        "**Not measured: the gain on a GPU.** The project was built without one at hand. `workers_per_gpu` and "
        "`gpu_job_memory_gb` (configs/service.yaml) are tested with a program in the driver's place; what the trainer "
        "takes of a card is a guess until somebody runs this file's counterpart there.",
    ]
    REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(REPORT)


if __name__ == "__main__":
    main()

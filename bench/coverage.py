"""How often 95% intervals hold the truth, over simulated benchmarks: python bench/coverage.py [--benchmarks 2000].

Each benchmark has the tasks of tests/simulated.py, with one submission whose true values are known. `--write FILE` puts
the table between the two comments that name this program in FILE (docs/statistics.md). 2,000 benchmarks with 1,000
resamples take about 7 minutes on one core; the figures are the same again on any machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # before numpy reads them
    os.environ[_name] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import simulated  # noqa: E402

BEGIN = "<!-- written by bench/coverage.py -->"
END = "<!-- end of what bench/coverage.py wrote -->"
LOWEST, HIGHEST = 0.93, 0.97


def main() -> None:
    """Simulate, print the table, write it; the exit status is 1 where a share lies outside 93 to 97%."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, number in (("benchmarks", 2000), ("resamples", 1000), ("sets", 8000), ("processes", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    true = simulated.truth(given.sets)
    held: dict[str, simulated.Held] = {}
    with ProcessPoolExecutor(given.processes) as pool:
        parts = [range(start, given.benchmarks, given.processes) for start in range(given.processes)]
        waiting = [pool.submit(simulated.held, part, true, resamples=given.resamples) for part in parts]
        for future in waiting:
            for name, each in future.result().items():
                held.setdefault(name, simulated.Held()).merge(each)
    text = table(held, true, given.benchmarks, given.resamples, given.sets)
    sys.stdout.write(text)
    if given.write is not None:
        before, _, rest = given.write.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        given.write.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
    outside = [name for name, each in held.items() if not LOWEST <= each.inside / given.benchmarks <= HIGHEST]
    if outside:
        sys.exit(f"outside 93 to 97%: {', '.join(outside)}")


def table(held: dict[str, simulated.Held], true: dict[str, float], count: int, resamples: int, sets: int) -> str:
    """Markdown: each kind of interval, what share held the truth, and on which side the others missed it."""
    titles = {task.name: task.title for task in simulated.TRACK.tasks}
    lines = [
        f"{count:,} simulated benchmarks, {resamples:,} resamples each; mAP's true value is its mean over {sets:,}",
        "test sets of its size.",
        "",
        "| interval of | truth | held | truth below | truth above | mean width |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, each in held.items():
        value = f"{true[name]:.3f}" if name in true else ""
        shares = " | ".join(f"{number / count:.1%}" for number in (each.inside, each.below, each.above))
        lines.append(f"| {titles.get(name, name)} | {value} | {shares} | {each.width / count:.4f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

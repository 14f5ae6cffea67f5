"""What `ranker audit` finds on honest encoders: by how much a score falls when clips are shifted or scaled.

    python bench/audit.py HOME BENCHMARK [SEED...] > docs/results/audit.md

HOME holds finished evaluations of BENCHMARK by encoders that are known to be honest. From the drops follows
`audit.allowed_drop` of configs/service.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ranker.audit import Asked, Audit
from ranker.service import Ranker
from ranker.types import AuditVerdict, Change, SubmissionState


def main() -> None:
    """Audit every evaluated submission of the home, once per seed, and print the report."""
    home, benchmark, *seeds = sys.argv[1:]
    ranker = Ranker(Path(home))
    audits = [
        ranker.audit(view.submission.id, benchmark, asked=Asked(seed=seed), on_progress=lambda *_: None)
        for view in ranker.submissions()
        if view.state is SubmissionState.EVALUATED
        for seed in seeds or ["1"]
    ]
    sys.stdout.write("\n".join(report(audits)) + "\n")


def report(audits: Sequence[Audit]) -> Iterator[str]:
    """Markdown: the largest drops, then every task."""
    settings = audits[0].settings
    yield "# What an audit finds on honest encoders"
    yield ""
    yield (
        f"Written by `python bench/audit.py` on {datetime.now(UTC):%Y-%m-%d}: benchmark `{audits[0].benchmark}`, the "
        f"sample submissions, up to {settings.clips} test clips of each task, "
        f"{len({audit.seed for audit in audits})} draws of changes."
    )
    yield ""
    yield (
        f"Shifted: {settings.shift_ms[0]:g} to {settings.shift_ms[1]:g} ms of near silence put before the clip, or cut "
        f"from its beginning, and all of it moved by a part of a sample. Scaled: {settings.gain_db[0]:g} to "
        f"{settings.gain_db[1]:g} dB louder or softer. A drop is the recorded value minus that on changed clips."
    )
    yield ""
    yield "| change | cases | mean drop | largest drop | its interval's lower end, at most | cases that do not hold |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for change in Change:
        changed = [task.changes[change] for audit in audits for task in audit.tasks]
        drops, surely = [found.drop for found in changed], max(found.low for found in changed)
        suspected = sum(found.verdict is not AuditVerdict.HOLDS for found in changed)
        yield (
            f"| {change} | {len(drops)} | {sum(drops) / len(drops):+.3f} | {max(drops):+.3f} | {surely:+.3f} "
            f"| {suspected} |"
        )
    drops = [found.drop for audit in audits for task in audit.tasks for found in task.changes.values()]
    yield ""
    yield (
        f"`audit.allowed_drop` is {settings.allowed_drop:g}, above the largest drop of an honest encoder, "
        f"{max(drops):.3f}; and a score collapses only if chance leaves it above that drop too, so that few clips "
        "convict nobody. A score that hangs on knowing the clips loses nearly all that it has above the answer without "
        "listening: tests/test_audit.py trains one, and finds it."
    )
    yield ""
    columns = " | ".join(f"{change} | drop (95%)" for change in Change)
    yield f"| team | draw | task | metric | clips | without listening | recorded | {columns} |"
    yield "| --- | --- | --- | --- | ---: | ---: | ---: | " + " | ".join("---: | ---:" for _ in Change) + " |"
    for audit in audits:
        for task in audit.tasks:
            cells = [
                f"{found.value:.3f} | {found.drop:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
                for found in task.changes.values()
            ]
            blind = "-" if task.blind is None else f"{task.blind:.3f}"
            who = f"{audit.team} | {audit.seed} | {task.task} | {task.metric}"
            head = f"{who} | {task.clips} | {blind} | {task.recorded:.3f}"
            yield f"| {head} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

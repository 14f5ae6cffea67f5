"""Kills everything an evaluation consists of, again and again, and compares what comes out with a home left in peace.

    python bench/chaos.py --kills 200 --write docs/results/chaos.md

Rounds, each on a fresh copy of a home with three checked submissions, until so many kills were made; see
docs/reliability.md for what is disturbed and what is compared. Needs bubblewrap; `--sandbox docker` takes a Docker
engine, or starts one of its own as root. It must run where the tests run: from the repository, with the extra `test`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import aftermath  # noqa: E402
import chaos  # noqa: E402
import test_end_to_end as tiny  # noqa: E402
import tiny_decoder  # noqa: E402

from ranker.lalm import decoder  # noqa: E402
from ranker.service import Ranker, Wanted  # noqa: E402

LOCK_S = 40.0  # beyond the 30 s that a writer waits for the lock
FULL_S = 30.0
FREE_BYTES = 100_000
MOST_LIVES = 20
SLOW = tiny.SPECTRUM.replace("SpectrumEncoder", "OtherEncoder").replace("1e-3", "1e-2")


@dataclass(kw_only=True)
class Findings:
    """What was done, and what came of it; kept as JSON after each round."""

    sandbox: str
    seed: int
    rounds: int = 0
    jobs: int = 0
    lives: Counter[str] = field(default_factory=Counter)
    kills: list[dict[str, Any]] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    differing: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)
    left_after_mending: list[str] = field(default_factory=list)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether nothing was found that may not be; what `doctor --mend` repaired is told, and no fault."""
        amiss = [each for scene in self.scenes for each in scene["amiss"]]
        return not (self.differing or self.contradictions or self.left_after_mending or amiss)


def prepare(folder: Path, sandbox: str) -> Path:
    """A home with three submissions that were checked in the sandbox, and a decoder that loads in a blink."""
    home = tiny.make_home(folder / "ingested")
    (home / "broken.zip").unlink()
    with zipfile.ZipFile(home / "other.zip", "w") as archive:
        archive.writestr("repository/encoder.py", SLOW)
    subprocess.run(
        [sys.executable, tiny_decoder.__file__, str(decoder.challenge_folder())], check=True, capture_output=True
    )
    config = home / "configs/tiny.yaml"
    text = config.read_text(encoding="utf-8")
    for old, new in {
        f"decoder: {decoder.STAND_IN_DECODER}": f"decoder: {decoder.CHALLENGE_DECODER}",
        "decoder_layers: 1": f"decoder_layers: {tiny_decoder.LAYERS}",
        f"checkpoint_every: {tiny.CHECKPOINT}": "checkpoint_every: 2",
    }.items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text, encoding="utf-8")
    (home / "configs/service.yaml").write_text(chaos.SERVICE.format(sandbox=sandbox), encoding="utf-8")
    run(home, "ingest", *(str(home / f"{name}.zip") for name in ("spectrum", "noise", "other")))
    return home


def run(home: Path, *arguments: str) -> None:
    """A real command, which must end well."""
    subprocess.run(tiny.command(home, *arguments), check=True, capture_output=True)


def warm() -> None:
    """Import what workers import, once."""
    import ranker.cli.app
    import ranker.evaluation
    import ranker.metrics
    import ranker.worker  # noqa: F401

    assert chaos.no_threads(), "an import has started a thread; what is forked now may hang"


def one_round(ingested: Path, reference: dict[str, Any], found: Findings, asked: argparse.Namespace) -> None:
    """Evaluate a copy under disturbance, then look at everything."""
    home = ingested.parent / f"round-{found.rounds:03d}"
    shutil.copytree(ingested, home)
    ledger = chaos.Ledger(ingested.parent / f"ledger-{found.rounds:03d}.jsonl")
    machine = chaos.Chaos(
        home=home,
        ledger=ledger,
        seed=asked.seed * 1000 + found.rounds,
        limit=min(asked.kills - len(found.kills), asked.per_round),
        every_s=asked.every,
        cold=asked.cold,
        container_killer=_container_killer(home) if asked.sandbox == "docker" else None,
        log=ingested.parent / f"said-{found.rounds:03d}.log",
    )
    machine.evaluate()
    kills = [{**entry, "round": found.rounds} for entry in ledger.entries()]
    came = aftermath.outcome(home)
    found.differing += [f"round {found.rounds}: {each}" for each in differences(reference, came)]
    found.contradictions += [f"round {found.rounds}: {each}" for each in aftermath.contradictions(home)]
    found.left += [f"round {found.rounds}: {each}" for each in aftermath.leftovers(home)]
    found.mended += [f"round {found.rounds}: {each}" for each in aftermath.mended(home)]
    after = [*aftermath.leftovers(home), *work_warnings(home)]
    found.left_after_mending += [f"round {found.rounds}: {each}" for each in after]
    found.rounds += 1
    found.jobs += len(came["jobs"])
    found.kills += kills
    found.endings += aftermath.endings(home)
    found.lives += Counter(str(code) for code in machine.lives)
    if found.is_well:
        shutil.rmtree(home)


def scenes(names: Sequence[str], ingested: Path, reference: dict[str, Any], found: Findings) -> None:
    """What needs an arrangement of its own, each on a fresh copy: a lock that is held, a disk that is full, a late
    writer.
    """
    for name in names:
        home = ingested.parent / name
        began, lives, amiss = time.monotonic(), Counter[str](), []
        try:
            with SCENES[name](ingested, home, lives, found.sandbox):
                came = aftermath.outcome(home)
                amiss = [*differences(reference, came), *aftermath.contradictions(home)]
                amiss += [*aftermath.leftovers(home), *work_warnings(home)]
        except AssertionError as error:
            amiss.append(f"{name}: {error}")
        told = {"name": name, "lives": dict(lives), "seconds": round(time.monotonic() - began), "amiss": amiss}
        found.scenes.append(told)
        print(json.dumps(told), flush=True)
        if not amiss:
            shutil.rmtree(home)


@contextmanager
def locked_database(ingested: Path, home: Path, lives: Counter[str], _sandbox: str) -> Iterator[None]:
    """Another process holds the database's write lock in mid-training, for longer than anybody waits for it."""
    shutil.copytree(ingested, home)
    with evaluating(home, lives) as life:
        with chaos.held_write_lock(home / "ranker.db"):
            time.sleep(LOCK_S)
        lives[f"exit code {life.wait()}"] += 1
    finish(home, lives)
    yield


@contextmanager
def full_disk(ingested: Path, home: Path, lives: Counter[str], _sandbox: str) -> Iterator[None]:
    """The home's disk is full from mid-training on, for a while."""
    import small_disk

    needed = sum(path.stat().st_size for path in ingested.rglob("*") if path.is_file())
    with small_disk.small_disk(home, 2 * needed + 400_000_000):
        shutil.copytree(ingested, home, dirs_exist_ok=True)
        with evaluating(home, lives) as life:
            ballast = small_disk.fill(home, leave=FREE_BYTES)
            with suppress(subprocess.TimeoutExpired):
                life.wait(FULL_S)
            ballast.unlink()
            lives[f"exit code {life.wait()}"] += 1
        finish(home, lives)
        yield


@contextmanager
def late_writer(ingested: Path, home: Path, lives: Counter[str], sandbox: str) -> Iterator[None]:
    """A worker that nobody supervises is stopped in mid-training; when it wakes, others have done its job."""
    shutil.copytree(ingested, home)
    Ranker(home).queue_evaluations(None, Wanted())
    service = json.dumps({"lease_s": 20, "infra_attempts": 1000, "retry_delay_s": 0, "sandbox": sandbox})
    command = [sys.executable, "-m", "ranker.worker", "--home", str(home), "--service", service]
    before = set(home.glob("runs/*/*/attempt-*/step-*"))
    with subprocess.Popen(command) as worker:
        wait_for(lambda: bool(set(home.glob("runs/*/*/attempt-*/step-*")) - before))
        os.kill(worker.pid, signal.SIGSTOP)
        finish(home, lives)
        expected = aftermath.outcome(home)
        os.kill(worker.pid, signal.SIGCONT)
        lives[f"the late worker's exit code {worker.wait()}"] += 1
    assert aftermath.outcome(home) == expected, "a late writer has changed what was finished"
    said = "".join(path.read_text() for path in home.glob("runs/*/*/attempt-*/worker.log"))
    assert "this attempt stops and writes nothing more" in said
    yield


SCENES = {"locked-database": locked_database, "full-disk": full_disk, "late-writer": late_writer}


@contextmanager
def evaluating(home: Path, lives: Counter[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A real `ranker evaluate --all`, once its first checkpoint lies on the disk."""
    lives["begun"] += 1
    log = home.parent / f"{home.name}.log"
    with (
        log.open("ab") as said,
        subprocess.Popen(tiny.command(home, "evaluate", "--all"), stdout=said, stderr=said) as life,
    ):
        wait_for(lambda: bool(list(home.glob("runs/*/*/attempt-*/step-*"))) or life.poll() is not None)
        yield life


def finish(home: Path, lives: Counter[str]) -> None:
    """The same command again, as an operator would, until it ends well."""
    for _ in range(MOST_LIVES):
        lives["begun"] += 1
        ended = subprocess.run(tiny.command(home, "evaluate", "--all"), capture_output=True, check=False)
        lives[f"exit code {ended.returncode}"] += 1
        if ended.returncode == 0:
            return
    raise AssertionError(ended.stderr.decode()[-2000:])


def wait_for(is_so: Callable[[], bool], seconds: float = 300.0) -> None:
    """Look again and again. Raises AssertionError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.05)


def differences(expected: dict[str, Any], came: dict[str, Any]) -> list[str]:
    """Which parts of two outcomes differ, in words."""
    found = [] if expected["ranking"] == came["ranking"] else ["the ranking differs"]
    for name in sorted(expected["jobs"].keys() | came["jobs"].keys()):
        one, other = expected["jobs"].get(name), came["jobs"].get(name)
        if one is None or other is None:
            found.append(f"{name} is in one of them only")
        else:
            found += [f"{name}: {part} differ" for part in one if one[part] != other[part]]
    return found


def work_warnings(home: Path) -> list[str]:
    """What doctor says of the work itself, which no machine's make-up explains."""
    parts = ("database", "write-ahead log", "jobs", "runs", "left running", "leftovers", "submissions", "workers")
    return [each for each in aftermath.warnings(home) if each.partition(":")[0] in parts]


def _container_killer(home: Path) -> Any:
    from ranker.sandbox.docker import HOME_LABEL
    from ranker.sandbox.owner import home_mark

    label = f"label={HOME_LABEL}={home_mark(home)}"

    def kill(draw: random.Random) -> list[str]:
        listed = subprocess.run(["docker", "ps", "-q", "--filter", label], capture_output=True, text=True, check=False)
        names = listed.stdout.split()
        if not names:
            return []
        name = draw.choice(names)
        done = subprocess.run(["docker", "kill", name], capture_output=True, check=False)
        return [] if done.returncode else [name]

    return kill


@contextmanager
def engine(sandbox: str) -> Iterator[None]:
    """With Docker: the machine's engine, or a private one."""
    if sandbox != "docker":
        yield
        return
    import engine as engines

    from ranker.sandbox.docker import DockerSandbox

    if DockerSandbox(image=engines.TEST_IMAGE).available().ok:
        yield
        return
    with engines.private_engine() as address:
        os.environ["DOCKER_HOST"] = address
        yield


def report(found: Findings, asked: argparse.Namespace) -> str:
    """The page of figures, as Markdown; without kills, of the scenes alone."""
    whole = (
        "" if len(found.kills) >= asked.kills else f" **It has not ended: {len(found.kills)} of {asked.kills} kills.**"
    )
    lines = [
        "# What the chaos test did, and what it found",
        "",
        f"Written on {datetime.now(UTC):%Y-%m-%d} by `python bench/chaos.py {asked.said}`, with `ranker/` as of commit "
        f"{commit()}, {os.cpu_count()} cores, Python {platform.python_version()}.{whole}",
        "",
        *(_figures(found) if asked.kills else ()),
    ]
    if found.scenes:
        lines += ["| scene | lives | seconds | amiss |", "| --- | --- | ---: | ---: |"]
        for scene in found.scenes:
            lives = ", ".join(f"{name}: {count}" for name, count in scene["lives"].items())
            lines.append(f"| {scene['name']} | {lives} | {scene['seconds']} | {len(scene['amiss'])} |")
        lines.append("")
    for title, listed in (
        ("What was amiss in a scene", [each for scene in found.scenes for each in scene["amiss"]]),
        ("What differs", found.differing),
        ("Contradictions", found.contradictions),
        ("What was left", found.left),
        ("What was repaired", found.mended),
        ("What was left after that", found.left_after_mending),
    ):
        if listed:
            lines += [f"## {title}", "", *(f"- {each}" for each in listed[:40]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _figures(found: Findings) -> list[str]:
    counts = chaos.tally(found.kills)
    return [
        "| what | figure |",
        "| --- | ---: |",
        f"| kills at random moments | {len(found.kills)} |",
        f"| processes that got a SIGKILL | {counts['signals']['signals']} |",
        f"| rounds on a fresh home, each compared with one left in peace | {found.rounds} |",
        f"| jobs evaluated | {found.jobs} |",
        f"| attempts of these jobs | {sum(found.endings.values())} |",
        f"| lives (`ranker evaluate --all` begun) | {sum(found.lives.values())} |",
        f"| jobs whose adapter, predictions, scores or losses differ | {len(found.differing)} |",
        f"| contradictions in the database | {len(found.contradictions)} |",
        f"| things left when the last life had ended | {len(found.left)} |",
        f"| things that `ranker doctor --mend --yes` then repaired | {len(found.mended)} |",
        f"| things left after that | {len(found.left_after_mending)} |",
        f"| seconds | {found.seconds:.0f} |",
        "",
        *table("killed", counts["victim"]),
        *table("the kill came just before touching (or, by the clock, in a life that is)", counts["moment"]),
        *table("how attempts ended", found.endings),
        *table("exit code of a life (-9: killed)", found.lives),
    ]


def commit() -> str:
    """The commit that changed `ranker/` last, if this is a checkout, and whether something in there is newer."""

    def git(*words: str) -> str:
        told = subprocess.run(["git", "-C", str(ROOT), *words, "ranker"], capture_output=True, text=True, check=False)
        return told.stdout.strip()

    return (git("log", "-1", "--format=%h", "--") or "unknown") + (
        " and newer" if git("status", "--short", "--") else ""
    )


def said(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> str:
    """The options that decide what happens, as they may be typed again."""
    given = {name: value for name, value in vars(asked).items() if name not in {"folder", "write"}}
    always = ("kills", "sandbox", "seed")
    changed = {name: each for name, each in given.items() if name in always or each != parser.get_default(name)}
    return " ".join(
        " ".join([f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])])
        for name, value in changed.items()
    )


def table(head: str, counts: Counter[str]) -> list[str]:
    """Two columns."""
    return [f"| {head} | times |", "| --- | ---: |", *(f"| {k} | {n} |" for k, n in counts.most_common()), ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Disturb until enough was killed; exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--per-round", type=int, default=40, help="kills on one home at most, then it is left in peace")
    parser.add_argument("--every", type=float, default=15.0, help="mean seconds between kills by the clock")
    parser.add_argument("--cold", type=float, default=0.05, help="share of lives that are real commands")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--sandbox", choices=("bubblewrap", "docker"), default="bubblewrap")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no round later than this")
    parser.add_argument("--scenes", nargs="*", choices=[*SCENES], help="also these; without a name all of them")
    parser.add_argument("--write", type=Path, help="where the page goes; default: the terminal")
    parser.add_argument("--folder", type=Path, help="where homes are made; default: a temporary folder")
    asked = parser.parse_args(arguments)
    asked.said = said(parser, asked)
    asked.scenes = [*SCENES] if asked.scenes == [] else asked.scenes
    os.environ["OMP_NUM_THREADS"] = "1"
    warm()
    began = time.monotonic()
    place = tempfile.TemporaryDirectory(prefix="chaos-") if asked.folder is None else nullcontext(str(asked.folder))
    found = Findings(sandbox=asked.sandbox, seed=asked.seed)
    with place as name, engine(asked.sandbox):
        folder = Path(name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["RANKER_CACHE"] = str(folder / "cache")
        ingested = prepare(folder, asked.sandbox)
        peaceful = folder / "peaceful"
        shutil.copytree(ingested, peaceful)
        run(peaceful, "evaluate", "--all")
        reference = aftermath.outcome(peaceful)
        while len(found.kills) < asked.kills and time.monotonic() - began < asked.minutes * 60:
            one_round(ingested, reference, found, asked)
            found.seconds = time.monotonic() - began
            print(
                f"round {found.rounds}: {len(found.kills)} kills in {found.seconds:.0f} s; differing "
                f"{found.differing}, contradictions {found.contradictions}, left {found.left}, mended {found.mended}, "
                f"left after that {found.left_after_mending}",
                flush=True,
            )
            (folder / "findings.json").write_text(json.dumps(vars(found)), encoding="utf-8")
            if asked.write is not None:
                asked.write.write_text(report(found, asked), encoding="utf-8")
        scenes(asked.scenes or (), ingested, reference, found)
    page = report(found, asked)
    if asked.write is None:
        print(page)
    else:
        asked.write.write_text(page, encoding="utf-8")
    return 0 if found.is_well else 1


if __name__ == "__main__":
    sys.exit(main())

"""CHECK jobs: real ZIPs, reports, encoders (in real processes), and the real worker around them."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pypdf
import pytest
from homes import new_engine
from sqlalchemy import Engine, select

from ranker.db.models import Job
from ranker.db.session import session
from ranker.errors import ParticipantError
from ranker.home import Home
from ranker.intake.archive import describe
from ranker.intake.check import examine
from ranker.intake.frozen import freeze
from ranker.intake.receive import WEIGHTS_NAME, handed_in, receive, submission_folder
from ranker.intake.report import ReportFinding
from ranker.job import SubmissionSnapshot
from ranker.sandbox.base import Availability
from ranker.sandbox.check import CheckResult
from ranker.sandbox.client import Confined
from ranker.sandbox.environment import Launch
from ranker.sandbox.none import NoSandbox
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Service
from ranker.types import EncoderSource, Fault, Progress, SandboxName, Stage, Status
from ranker.worker import StopSignal, work

NOW = datetime(2026, 2, 12, 23, 59, tzinfo=UTC)
# Sandboxes are tested in their own room: the checks here run code of our own, without one.
SERVICE = Service(sandbox=SandboxName.NONE)
GOOD = """
import torch

class {name}(torch.nn.Module):
    output_dim = 2

    def forward(self, audio, mask=None):
        frames = torch.nn.functional.pad(audio, (0, -audio.shape[1] % 1600)).unflatten(1, (-1, 1600))
        return torch.stack([frames.mean(-1), frames.std(-1)], dim=-1), None
"""
BROKEN = """
import torch

class BrokenEncoder(torch.nn.Module):
    def forward(self, audio):
        return audio
"""


class Unreachable(ServedSandbox):
    """A sandbox that fails the test when it is used."""

    name = SandboxName.DOCKER

    def available(self) -> Availability:
        raise AssertionError("the sandbox was asked")

    def launch(self, launch: Launch) -> AbstractContextManager[Confined]:
        raise AssertionError("the sandbox was started")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path / "home")


@pytest.fixture
def engine(home: Home) -> Iterator[Engine]:
    engine = new_engine(home)
    yield engine
    engine.dispose()


def pack(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pdf(path: Path, pages: int) -> Path:
    writer = pypdf.PdfWriter()
    for _ in range(pages):
        writer.add_blank_page(595, 842)
    writer.write(path)
    return path


def kept(
    home: Home, engine: Engine, file: Path, *, report: Path | None = None, encoder: str | None = None
) -> SubmissionSnapshot:
    """Receive a file; the submission as a worker sees it."""
    with session(engine) as writing:
        arrival = handed_in(file, report=report, now=NOW)
        found = receive(home, writing, arrival, team="t", encoder=encoder, now=NOW).submission
        return SubmissionSnapshot(
            id=found.id, digest=found.digest, team=found.team, encoder_override=found.encoder_override, check=None
        )


def refusals(home: Home, submission: SubmissionSnapshot, sandbox: ServedSandbox, service: Service = SERVICE) -> str:
    with pytest.raises(ParticipantError) as refused:
        examine(home, service, submission, sandbox, lambda _: None)
    return "\n".join(refused.value.reasons)


def test_a_worker_accepts_a_sound_submission(home: Home, engine: Engine, tmp_path: Path) -> None:
    """From the ZIP to a succeeded job: the result says which encoder, what it is like, and which bytes were checked."""
    archive = pack(tmp_path / "t.zip", {"repo/tiny_encoder.py": GOOD.format(name="TinyEncoder"), "repo/README": "x"})
    submission = kept(home, engine, archive, report=pdf(tmp_path / "r.pdf", 2))
    work(home, SERVICE, None, stop=StopSignal())
    with session(engine, read_only=True) as reading:
        job = reading.scalars(select(Job)).one()
    assert (job.status, job.reasons) == (Status.SUCCEEDED, [])
    result = job.result
    assert result is not None
    assert EncoderSource(**result["source"]) == EncoderSource(
        root="repo", module="tiny_encoder.py", attribute="TinyEncoder"
    )
    assert CheckResult.from_json(result["encoder"]).output_dim == 2
    assert result["report"]["pages"] == 2
    assert result["sandbox"] == SandboxName.NONE
    tree = describe(submission_folder(home, submission.digest) / "tree")
    assert result["tree"] == {"digest": tree.digest, "files": 2, "size_bytes": tree.size_bytes}


def test_every_part_is_judged_and_all_reasons_come_together(home: Home, engine: Engine, tmp_path: Path) -> None:
    """A bad encoder is refused as the participant's fault, and its bad report is told in the same answer."""
    archive = pack(tmp_path / "t.zip", {"broken_encoder.py": BROKEN})
    kept(home, engine, archive, report=pdf(tmp_path / "r.pdf", 7))
    work(home, SERVICE, None, stop=StopSignal())
    with session(engine, read_only=True) as reading:
        job = reading.scalars(select(Job)).one()
    assert (job.status, job.fault) == (Status.FAILED, Fault.PARTICIPANT)
    assert any("7 pages" in reason for reason in job.reasons)
    assert any("output_dim" in reason for reason in job.reasons)
    assert any("(audio, mask)" in reason for reason in job.reasons)


def test_a_bad_report_alone_refuses_nothing(home: Home, engine: Engine, tmp_path: Path) -> None:
    """What a sender can still mend is no refusal of the encoder: the check succeeds, with the finding as evidence."""
    archive = pack(tmp_path / "t.zip", {"tiny_encoder.py": GOOD.format(name="TinyEncoder")})
    submission = kept(home, engine, archive, report=pdf(tmp_path / "r.pdf", 7))
    found = examine(home, SERVICE, submission, NoSandbox(), lambda _: None)
    assert any("7 pages" in problem for problem in ReportFinding.from_json(found["report"]).problems)


def test_a_bad_archive_never_reaches_the_sandbox(home: Home, engine: Engine, tmp_path: Path) -> None:
    """What cannot be unpacked is refused, together with its bad report, before anything is started."""
    archive = pack(tmp_path / "t.zip", {"../evil.py": "x", "/abs.py": "x"})
    submission = kept(home, engine, archive, report=pdf(tmp_path / "r.pdf", 7))
    found = refusals(home, submission, Unreachable())
    for words in ("climbs with ..", "absolute", "7 pages"):
        assert words in found
    assert not (tmp_path / "home" / "submissions" / "evil.py").exists()


def test_the_configured_limits_are_the_ones_applied(home: Home, engine: Engine, tmp_path: Path) -> None:
    """Limits of the service's configuration reach archive and report."""
    archive = pack(tmp_path / "t.zip", {"encoder.py": "x", "b.py": "x"})
    submission = kept(home, engine, archive, report=pdf(tmp_path / "r.pdf", 2))
    strict = Service.model_validate({"archive": {"max_entries": 1}, "report": {"max_pages": 1}})
    found = refusals(home, submission, Unreachable(), strict)
    assert "2 pages; expected 1 to 1" in found
    assert "2 entries; at most 1 are accepted" in found


def test_the_override_says_which_encoder(home: Home, engine: Engine, tmp_path: Path) -> None:
    """Of two encoders, --encoder picks; progress is told by stage; the next check uses the complete tree again."""
    files = {"a.py": GOOD.format(name="OneEncoder"), "b.py": GOOD.format(name="TwoEncoder")}
    archive = pack(tmp_path / "t.zip", files)
    undecided = kept(home, engine, archive)
    assert "OneEncoder" in refusals(home, undecided, NoSandbox())
    tree = submission_folder(home, undecided.digest) / "tree"
    before = tree.stat().st_ino
    stages: list[Progress] = []
    found = examine(home, SERVICE, kept(home, engine, archive, encoder="b.py"), NoSandbox(), stages.append)
    assert (found["source"]["module"], found["source"]["attribute"]) == ("b.py", "TwoEncoder")
    assert [progress.stage for progress in stages] == [Stage.UNPACK, Stage.CHECK]
    assert tree.stat().st_ino == before
    assert json.loads(json.dumps(found)) == found


@pytest.mark.dear(day=0)
def test_weights_of_a_killed_check_bind_nobody(home: Home, engine: Engine, tmp_path: Path) -> None:
    """A check that was killed after it froze weights, and before it could say so: they are used again if the same hosts
    may be asked, and go with a refusal, so that the team's next try is not held to them. Accepted ones stay.
    """

    def froze(submission: SubmissionSnapshot, hosts: list[str]) -> dict[str, Any]:
        folder = submission_folder(home, submission.digest)
        (folder / ".killed" / "room").mkdir(parents=True, exist_ok=True)
        (folder / ".killed" / "room" / "w.bin").write_bytes(b"weights")
        return freeze(folder / ".killed" / "room", folder / WEIGHTS_NAME, {"hosts": hosts})

    sandbox = NoSandbox()
    good = kept(home, engine, pack(tmp_path / "g.zip", {"g/good_encoder.py": GOOD.format(name="GoodEncoder")}))
    record = froze(good, [])
    assert examine(home, SERVICE, good, sandbox, lambda _: None)[WEIGHTS_NAME] == record
    allowed = dataclasses.replace(good, allowed_hosts=("example.org:443",))
    assert examine(home, SERVICE, allowed, sandbox, lambda _: None)[WEIGHTS_NAME] is None
    assert not (submission_folder(home, good.digest) / WEIGHTS_NAME).exists()

    bad = kept(home, engine, pack(tmp_path / "b.zip", {"b/broken_encoder.py": BROKEN}))
    record = froze(bad, [])
    accepted = dataclasses.replace(bad, check={WEIGHTS_NAME: record})
    assert "output_dim" in refusals(home, accepted, sandbox)
    assert (submission_folder(home, bad.digest) / WEIGHTS_NAME).is_dir()
    assert "output_dim" in refusals(home, bad, sandbox)
    assert not (submission_folder(home, bad.digest) / WEIGHTS_NAME).exists()

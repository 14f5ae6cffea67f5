"""The rules on the command line: a home with rules of its own, from the first arrival to the log."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boards import condition
from challenge import CLOSES, EARLY, Book, came, entry
from homes import new_engine
from sqlalchemy import Engine, text

from ranker import planning, rules
from ranker.cli import main
from ranker.config import Benchmark, load
from ranker.db.session import session
from ranker.home import Home, asset
from ranker.queue import claim, enqueue, finish
from ranker.rules.teams import Delivered
from ranker.types import JobKind, Rule, Standing

RULES = """rules:
  registration: true
  one_team_per_person: true
  deadline: 2026-02-12T23:59 AoE
  grace_minutes: 5
  report: true
  disclosure: true
  one_model_per_team: true
"""
TEAMS = "Team name,E-mail Address,Members\nLab,ann@lab.org,Ann\n"
REPORT = {
    "pages": 4,
    "problems": [],
    "size_bytes": 9,
    "characters": 9,
    "opening": "secret",
    "mentions": [{"page": 2, "term": "corpora", "text": "of the corpora"}],
    "remarks": [],
}
ENCODER = {"module": "model.py", "attribute": "Encoder", "output_dim": 4, "frames_per_s": 25.0}


@dataclass(frozen=True)
class Place:
    """A home, its database, and what is typed into it."""

    root: Path
    engine: Engine
    type: Callable[..., str]

    def configure(self, rules: str) -> None:
        (self.root / "configs").mkdir(exist_ok=True)
        (self.root / "configs/service.yaml").write_text(rules, encoding="utf-8")

    def arrive(self, name: str, *deliveries: Delivered, report: bool = True) -> str:
        """Bytes arrive, their check succeeds, and both are judged as intake and queue do."""
        home = Home(root=self.root)
        with session(self.engine) as writing:
            book = Book(session=writing, home=home)
            (key,) = {book.arrive(name, each, report=report) for each in deliveries}
            rules.judge(writing, home, key, EARLY)
            job = enqueue(writing, submission_id=key, kind=JobKind.CHECK, condition=None, seed=0, now=EARLY).id
        held = claim(self.engine, worker="w", now=EARLY, lease_s=60, job_ids=[job])
        assert held is not None
        finish(
            self.engine,
            held,
            now=EARLY,
            result={"encoder": ENCODER, "report": REPORT if report else None},
            scores=(),
            also=rules.after_job(home, rules.configured(home), held.kind, key),
        )
        return key

    def standing(self, key: str) -> Standing:
        with session(self.engine, read_only=True) as reading:
            return rules.standings(reading)[key]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    root = tmp_path / "home"

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(root), *arguments])
        said = "".join(capsys.readouterr())
        assert (left.value.code or 0) == code, said
        assert "Traceback" not in said
        return said

    engine = new_engine(Home(root=root))
    found = Place(root=root, engine=engine, type=typed)
    found.configure(RULES)
    yield found
    engine.dispose()


def teams(place: Place, content: str) -> str:
    file = place.root / "teams.csv"
    file.write_text(content, encoding="utf-8")
    return place.type("teams", "import", str(file))


def test_a_submission_on_its_way_to_a_rank(place: Place) -> None:
    """Pending until its sender is registered and its report was read; each step is told, and stands in the log."""
    key = place.arrive("v1", came(0, "Ann@lab.org"))
    assert place.standing(key) is Standing.PENDING
    shown = place.type("show", key)
    assert "accepted, pending" in shown
    assert "no registered team writes from ann@lab.org" in " ".join(shown.split())
    said = teams(place, TEAMS)
    assert "1 new, 0 changed, 0 taken out, 0 as before" in said
    assert f"{key}  registration: pending -> met: of the registered team Lab" in said
    listed = place.type("teams")
    assert all(word in listed for word in ("Lab", "ann@lab.org", "Ann", key, "pending"))
    said = place.type("review", "Lab")
    assert "report.pdf\n4 pages, 9 characters of text\n  page 2, corpora: of the corpora" in said
    assert "--note goes with" in place.type("review", "Lab", "--note", "x", code=2)
    said = place.type("review", "Lab", "--disclosure", "missing", "--note", "which corpora?")
    assert "the report does not say what the encoder was trained on: which corpora?" in " ".join(said.split())
    assert place.standing(key) is Standing.PENDING
    place.type("review", "Lab", "--disclosure", "ok")
    assert place.standing(key) is Standing.RANKED
    log = json.loads(place.type("log", key, "--json"))
    assert [each["action"] for each in log] == ["judge", "judge", "judge", "review", "judge", "review", "judge"]
    assert log[-1]["details"]["standing"] == {"before": "pending", "after": "ranked"}
    assert log[2]["details"]["team"] == {"before": "v1", "after": "Lab"}
    assert "@" in log[3]["actor"]
    (view,) = [each for each in json.loads(place.type("status", "--json"))["submissions"] if each["id"] == key]
    assert view["standing"] == "ranked"
    report = next(each for each in view["verdicts"] if each["rule"] == Rule.REPORT)
    assert report["evidence"]["found"]["pages"] == 4
    assert "secret" not in json.dumps(view["verdicts"])


def test_late_withdrawn_disqualified_and_back(place: Place) -> None:
    """Each decision needs a reason, is told with its verdict, can be taken back, and asked twice changes nothing."""
    teams(place, TEAMS)
    place.configure("rules:\n  deadline: 2026-02-12T23:59 AoE\n  one_model_per_team: true\n")
    late = place.arrive("v2", Delivered(arrived_at=CLOSES + timedelta(minutes=6), arrived_by="mx", source="m2"))
    early = place.arrive("v1", came(0), report=False)
    assert [place.standing(each) for each in (early, late)] == [Standing.RANKED, Standing.LATE]
    assert "6 min 0 s after the deadline" in " ".join(place.type("show", late).split())
    place.type("admit", late, code=2)
    assert "a reason is needed" in place.type("admit", late, "--why", " ", code=2)
    assert "waived" in place.type("admit", late, "--why", "our server was down")
    assert place.standing(late) is Standing.RANKED
    lines = len(json.loads(place.type("log", "--json")))
    place.type("admit", late, "--why", "our server was down")
    assert len(json.loads(place.type("log", "--json"))) == lines
    place.type("withdraw", late, "--why", "the team asked")
    assert place.standing(late) is Standing.WITHDRAWN
    place.type("disqualify", late, "--why", "trained on the test set")
    assert "is disqualified, and stays so" in place.type("withdraw", late, "--why", "no", code=2)
    assert place.standing(late) is Standing.DISQUALIFIED
    place.type("reinstate", late, "--why", "a mistake")
    assert "neither withdrawn nor disqualified" in place.type("reinstate", late, "--why", "again", code=2)
    place.type("admit", late, "--why", "it was not down", "--revoke")
    assert "was not admitted" in place.type("admit", late, "--why", "again", "--revoke", code=2)
    assert place.standing(late) is Standing.LATE
    assert "has no report to review" in place.type("review", early, "--disclosure", "ok", code=2)
    assert "has no report" in place.type("review", early, code=2)
    assert "'one_model'" in place.type("admit", late, "--rule", "one_model", "--why", "x", code=2)


def test_a_change_of_the_rules_is_seen_and_settled_by_judge(place: Place) -> None:
    """Verdicts of rules that hold no more are warned of where somebody reads, and judged anew when it is asked for."""
    place.configure("rules:\n  registration: false\n")
    key = place.arrive("v1", came(0, "x@y.zz"), report=False)
    assert "warning" not in place.type("status")
    place.configure("rules:\n  registration: true\n  report: true\n")
    assert "2 verdicts are of rules that were configured otherwise" in place.type("status")
    said = place.type("judge", "--dry-run")
    assert f"{key}  report: nothing said -> pending" in said
    assert place.standing(key) is Standing.RANKED
    assert place.type("judge") == said
    assert place.standing(key) is Standing.PENDING
    assert place.type("judge") == "every verdict is what the rules say\n"
    place.configure("rules: {}\n")
    place.type("judge")
    assert place.standing(key) is Standing.RANKED
    assert json.loads(place.type("show", key, "--json"))["verdicts"] == []


def test_only_what_may_be_ranked_is_evaluated_by_all(place: Place) -> None:
    """A superseded submission costs no GPU hours unless it is named."""
    place.configure("rules:\n  one_model_per_team: true\n")
    first, second = (place.arrive(f"v{hours}", came(hours, "a@x.org")) for hours in (1, 2))
    bench = load(Benchmark, asset("configs") / "mini.yaml")
    wanted = [condition("A", benchmark="mini")]
    with session(place.engine) as writing:
        plan = planning.plan(writing, bench, wanted, names=None, now=EARLY)
        named = planning.plan(writing, bench, wanted, names=[first], now=EARLY)
    assert plan.submission_ids == (second,)
    assert plan.left_out == {first: Standing.SUPERSEDED}
    assert (named.submission_ids, named.left_out) == ((first,), {})


def test_the_log_can_be_read_cut_and_verified(place: Place) -> None:
    """By submission, from a day on, and whole; a change that goes round the triggers is found and named."""
    teams(place, TEAMS)
    key = place.arrive("v1", came(0, "ann@lab.org"))
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    assert "import teams" in place.type("log")
    assert "import teams" not in place.type("log", key)
    recent = json.loads(place.type("log", "--since", day, "--json"))
    assert [each["action"] for each in recent] == ["import_teams", "judge"]  # not what was judged on its arrival
    assert place.type("log", "--since", "2100-01-01T00:00+01:00") == "nothing was done yet\n"
    assert "'yesterday' is no time" in place.type("log", "--since", "yesterday", code=2)
    whole = json.loads(place.type("log", "--verify", "--json"))
    assert whole["events"] == len(json.loads(place.type("log", "--json"))) == 3
    with session(place.engine) as writing:
        trigger = "event_no_update" if place.engine.dialect.name == "sqlite" else "event_kept ON event"
        writing.execute(text(f"DROP TRIGGER {trigger}"))
        writing.execute(text("UPDATE event SET actor = 'nobody' WHERE id = 2"))
    assert "the log was changed: event 2 of" in place.type("log", "--verify", code=1)


def test_a_page_tells_nobody_s_address(place: Place) -> None:
    """The published folder holds no address and no name of a person, and publishing stands in the log."""
    teams(place, TEAMS + "Other,o@other.org,Ann\n")
    shutil.rmtree(place.root / "leaderboard", ignore_errors=True)
    key = place.arrive("v1", came(0, "ann@lab.org"))
    superseded = place.arrive("v0", came(-1, "ann@lab.org"))
    place.type("publish")
    files = [path for path in (place.root / "leaderboard/site").rglob("*") if path.suffix in {".html", ".json", ".csv"}]
    content = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert key in content
    assert superseded not in content
    assert "to be settled which team a member belongs to" in content
    assert not [word for word in ("ann@lab.org", "o@other.org", ">Ann<", "ranker@") if word in content]
    (published,) = [each for each in json.loads(place.type("log", "--json")) if each["action"] == "publish"]
    assert published["details"]["benchmark"] == "mini"
    assert len(published["details"]["data"]) == 64
    assert entry("v1").id == key

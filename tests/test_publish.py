"""Publishing on the command line: previews, the gate, versions and their history, pseudonyms, embargoes, and kills."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import effort
import pytest
import yaml
from kills import is_killed_at
from queues import new_database
from sqlalchemy import Engine

from ranker.cli import main
from ranker.config import Benchmark, load
from ranker.db.models import Job, JobAttempt, Score, Submission
from ranker.db.session import session
from ranker.home import Home
from ranker.manifest import write_manifest
from ranker.metrics import Pair, evaluate
from ranker.publishing import embargo
from ranker.publishing.changes import changes
from ranker.types import Condition, Ending, JobKind, MetricName, Precision, Status

ROOT = Path(__file__).parent.parent
NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)
MINI: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "mini.yaml").read_text(encoding="utf-8"))
WORKER = "gpu-node-17:4711:88"
TEAMS = {"Zürich Hearing Lab": 15, "Owls & Foxes": 12, "alpha ears": 15, "moonshine": 9}  # right answers of 20


@dataclass(frozen=True)
class Place:
    """A home with a benchmark of one task, whose teams have finished runs, and what is typed into it."""

    home: Home
    engine: Engine
    type: Callable[..., str]

    @property
    def root(self) -> Path:
        return self.home.root

    def configure(self, publish: dict[str, object], **changes: object) -> None:
        (self.root / "configs").mkdir(exist_ok=True)
        tasks = [task for task in MINI["tracks"]["A"]["tasks"] if task["name"] == "keyword"]
        fields = MINI | {"name": "tiny", "baselines": [], "tracks": {"A": {"title": "Tiny", "tasks": tasks}}} | changes
        (self.root / "configs/tiny.yaml").write_text(yaml.safe_dump(fields), encoding="utf-8")
        service = {"benchmark": "tiny", "publish": publish}
        (self.root / "configs/service.yaml").write_text(yaml.safe_dump(service), encoding="utf-8")

    def add(self, team: str, right: int, *, candidate: str = "no") -> str:
        """A team whose run has finished with so many right answers of 20, and all that such a run leaves."""
        bench = load(Benchmark, self.root / "configs/tiny.yaml")
        under = Condition(
            benchmark="tiny", track="A", measurement=bench.measurement_digest("A"), data="b2" * 32, decoder="c3" * 32,
            decoder_layers=4, metric_models="", steps=bench.recipe.steps, precision=Precision.BF16, device="cpu",
            sandboxed=True, demonstration=("the tasks are tiny",),
        )  # fmt: skip
        digest = hashlib.sha256(team.encode()).hexdigest()
        run = self.root / "runs" / digest[:12] / "job" / "attempt-0001"
        run.mkdir(parents=True)
        pairs = [Pair(clip=f"{n:02}", reference="yes", candidate="yes" if n < right else candidate) for n in range(20)]
        evaluate(MetricName.ACCURACY, pairs).items.to_parquet(run / "keyword.parquet")
        checked = {"encoder": {"attribute": "OwlEncoder", "module": "owls.py", "output_dim": 4, "frames_per_s": 25.0}}
        known = {"team": team, "digest": digest, "check": {"report": {"opening": f"{team}, ann@lab.org"}} | checked}
        write_manifest(run, {"weights": "f" * 64, "submission": known, "note": f"see {run}/worker.log"})
        with session(self.engine) as writing:
            arrived = NOW + timedelta(minutes=len(team))
            writing.add(
                Submission(
                    id=digest[:12], digest=digest, team=team, file_name="x.zip", size_bytes=1, received_at=arrived
                )
            )
            writing.flush()
            for kind, result in (
                (JobKind.CHECK, checked),
                (JobKind.EVALUATE, {"run": str(run.relative_to(self.root))}),
            ):
                job = Job(
                    key=f"{kind}{digest}"[:64], submission_id=digest[:12], kind=kind, seed=bench.recipe.seed,
                    status=Status.SUCCEEDED, attempt=1, result=result, created_at=NOW, finished_at=NOW,
                )  # fmt: skip
                if kind is JobKind.EVALUATE:
                    job.benchmark, job.track, job.condition = "tiny", "A", under.to_json()
                    job.condition_digest = under.digest
                writing.add(job)
                writing.flush()
                ended = {"started_at": NOW, "ended_at": NOW, "ending": Ending.SUCCEEDED}
                writing.add(JobAttempt(job_id=job.id, number=1, worker=WORKER, **ended))
            path = str((run / "keyword.parquet").relative_to(self.root))
            score = Score(
                job_id=job.id, task="keyword", metric="Accuracy", value=right / 20, items=20, predictions=path
            )
            writing.add(score)
        return digest[:12]

    def remove(self, team: str) -> None:
        """The team withdraws, by the command for it."""
        self.type("withdraw", team, "--why", "they asked for it")

    def version(self, number: int) -> Path:
        return self.home.versions / f"{number:04d}"

    def data(self, folder: Path | None = None) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(((folder or self.home.site) / "data.json").read_text(encoding="utf-8"))
        return value

    def history(self) -> str:
        return " ".join((self.home.site / "history.html").read_text(encoding="utf-8").split())

    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.type("log", "--json"))
        return [event["details"] for event in found if event["action"] == "publish"]


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Place]:
    root = tmp_path / "home"
    root.mkdir()
    engine = new_database(root)

    def typed(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(root), *arguments])
        said, complained = capsys.readouterr()
        assert (left.value.code or 0) == code, said + complained
        assert "Traceback" not in complained
        return said or complained

    found = Place(home=Home(root=root), engine=engine, type=typed)
    found.configure({})
    for team, right in TEAMS.items():
        found.add(team, right)
    yield found
    engine.dispose()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.dear(day=0)
def test_a_preview_is_no_publication(place: Place) -> None:
    """Every page of a preview says so, and nothing of it is where everybody looks, or in the log."""
    index = Path(place.type("leaderboard").strip())
    assert index == place.root / "leaderboard/preview/index.html"
    pages = [path.read_text(encoding="utf-8") for path in index.parent.rglob("*.html")]
    assert len(pages) >= 1 + len(TEAMS)
    assert all("Preview, not published" in page for page in pages)
    assert [path.name for path in (place.root / "leaderboard").iterdir()] == ["preview"]
    assert place.events() == []


def test_a_publication_is_kept_whole_and_logged(place: Place) -> None:
    """The page, its version and the log agree; the page names no worker, path, address, or word of a report."""
    index = Path(place.type("publish", "--predictions").strip().splitlines()[-1])
    assert index == place.home.site / "index.html"
    assert tree(place.home.site) == tree(place.version(1) / "site")
    record = json.loads((place.version(1) / "version.json").read_text(encoding="utf-8"))
    assert {name: hashlib.sha256(data).hexdigest() for name, data in tree(place.home.site).items()} == record["files"]
    (event,) = place.events()
    assert (event["version"], event["data"], event["benchmark"]) == (1, record["files"]["data.json"], "tiny")
    everything = b"".join(tree(place.home.site).values())
    for secret in (
        WORKER,
        str(place.root),
        "ann@lab.org",
        "Preview, not published",
        "worker.log",
        record["published_by"],
    ):
        assert (secret.encode() in everything) is (secret == "worker.log")  # of a path, its last part stays
    assert {path.stat().st_mode & 0o222 for path in (place.version(1)).rglob("*") if path.is_file()} == {0}


@pytest.mark.dear(day=0)
def test_history_tells_what_changed(place: Place) -> None:
    """A new team, a withdrawn one and new scores: told by name and number, with the older data beside the page."""
    place.type("publish")
    assert json.loads(place.type("publish", "--json"))["version"] is None
    assert not place.version(2).exists()
    place.remove("Owls & Foxes")
    place.add("beta", 20)
    said = json.loads(place.type("publish", "--json", "--why", "A late one came."))["version"]
    assert said["changed"] == ["track A: new: beta", "track A: gone: Owls & Foxes", "track A: 2 ranks changed"]
    history = place.history()
    assert "new: beta" in history
    assert "A late one came." in history
    assert '<td class="n">1</td><td class="n">2 <span class="direction">down 1</span></td>' in history
    assert (place.home.site / "history/0001.json").read_bytes() == (place.version(1) / "site/data.json").read_bytes()
    assert [event["version"] for event in place.events()] == [1, 2]


@pytest.mark.dear(day=2)
def test_check_lists_everything_and_changes_nothing(place: Place) -> None:
    """What --check lists is what is published then; the home is as before, the log included."""
    before = tree(place.root)
    plan = json.loads(place.type("publish", "--check", "--json"))
    assert {name: data for name, data in tree(place.root).items() if "ranker.db" not in name} == {
        name: data for name, data in before.items() if "ranker.db" not in name
    }
    assert place.events() == []
    assert (plan["number"], plan["before"], plan["findings"], plan["same"]) == (1, None, [], False)
    assert {*TEAMS} <= {*plan["teams"]}
    place.type("publish")
    assert set(plan["files"]) == set(tree(place.home.site))
    assert any(field.startswith("data.json: boards[].rows[].team") for field in plan["fields"])
    again = place.type("publish", "--check")
    assert "nothing but times" in again
    assert "nothing stands against it" in again


@pytest.mark.dear(day=0)
def test_the_gate_stands_before_every_publication(place: Place) -> None:
    """An address in a team's name, and one in an answer: refused by name, nothing changes; allowed words pass."""
    place.type("publish")
    before = tree(place.root / "leaderboard")
    place.add("Ears <ann@lab.org>", 3, candidate="mail bob@lab.org")
    said = place.type("publish", "--predictions", code=2)
    assert "nothing was published" in said
    assert "'ann@lab.org'" in said
    assert "the team 'Ears <ann@lab.org>'" in said
    assert "'bob@lab.org'" in said
    assert tree(place.root / "leaderboard") == before
    plan = json.loads(place.type("publish", "--predictions", "--check", "--json", code=1))
    assert {finding["what"] for finding in plan["findings"]} == {"ann@lab.org", "bob@lab.org"}
    place.configure({"allow": ["ann@lab.org", "bob@lab.org"]})
    place.type("publish", "--predictions")
    assert len(place.events()) == 2


@pytest.mark.dear(day=2)
def test_what_hidden_tasks_left_is_not_published(place: Place) -> None:
    """A run of a hidden task lies in the home: its clips and answers are refused, though no --hidden is given."""
    place.type("publish")
    secret = "an owl that nobody has heard of"
    with session(place.engine) as writing:
        score = writing.query(Score).first()
        assert score is not None
        items = evaluate(MetricName.ACCURACY, [Pair(clip="owl/0001", reference=secret, candidate=secret)]).items
        items.to_parquet(place.root / "owl.parquet")
        writing.add(
            Score(job_id=score.job_id, task="owl", metric="Accuracy", value=1.0, items=1, predictions="owl.parquet")
        )
    (run,) = place.root.glob(f"runs/{hashlib.sha256(b'alpha ears').hexdigest()[:12]}/job/attempt-0001")
    write_manifest(run, {"weights": "f" * 64, "remarks": ["owl/0001: broken", secret]})
    said = place.type("publish", code=2)
    assert "hidden task's content 'owl/0001' in data.json" in said
    assert f"hidden task's content '{secret}' in data.json" in said
    assert len(place.events()) == 1


# -- names


def test_anonymous_teams_are_nowhere_on_the_page(place: Place) -> None:
    """Not in any file or file name, tables of predictions decoded; only the preview says who is who."""
    place.configure({}, baselines=[baseline("moonshine")])
    place.type("leaderboard", "--anonymous", "--predictions")
    who = (place.home.preview / "who.html").read_text(encoding="utf-8")
    assert (place.home.preview / "who.html").stat().st_mode & 0o077 == 0
    assert all(team.replace("&", "&amp;") in who for team in TEAMS if team != "moonshine")
    place.type("publish", "--anonymous", "--predictions")
    rows = place.data()["boards"][0]["rows"]
    shown = {row["submission_id"]: row["team"] for row in rows}
    named = json.loads(place.home.pseudonyms.read_text(encoding="utf-8"))["names"]
    assert place.home.pseudonyms.stat().st_mode & 0o077 == 0
    assert {named.get(team, team): TEAMS[team] / 20 for team in TEAMS} == {row["team"]: row["score"] for row in rows}
    assert shown[hashlib.sha256(b"moonshine").hexdigest()[:12]] == "moonshine"  # the benchmark's own
    for name, data in tree(place.home.site).items():
        for team in set(TEAMS) - {"moonshine"}:
            digest = hashlib.sha256(team.encode()).hexdigest()
            assert team not in name
            assert digest[:12] not in name
            assert digest[:12].encode() not in data
            assert team.encode() not in data
            assert team.replace("&", "&amp;").encode() not in data
        assert b"OwlEncoder" not in data or b"moonshine" in data
    for each in place.data()["submissions"]:
        assert (each["received_at"] is None) == (each["digest"] is None) == (each["team"] != "moonshine")
    place.add("later", 1)
    place.type("publish", "--anonymous")
    later = {row["submission_id"]: row["team"] for row in place.data()["boards"][0]["rows"]}
    assert later.items() >= shown.items()
    assert not (place.home.site / "who.html").exists()
    assert "version 2 has 'Owls & Foxes' and 4 more under pseudonyms" in place.type("publish", code=2)
    place.type("publish", "--named")


def test_equals_stand_in_the_order_of_pseudonyms(place: Place) -> None:
    """Two equal teams: their own names would put alpha ears first, and tell who is who."""
    file = place.home.pseudonyms
    file.parent.mkdir()
    drawn = {
        "Zürich Hearing Lab": "Team 01",
        "alpha ears": "Team 09",
        "Owls & Foxes": "Team 03",
        "moonshine": "Team 04",
    }
    drawn["team"] = "Team 05"
    file.write_text(json.dumps({"format": 1, "names": drawn}), encoding="utf-8")
    place.configure({"anonymous": True})
    place.type("publish")
    rows = place.data()["boards"][0]["rows"]
    assert [row["team"] for row in rows if row["rank"] == 1] == ["Team 01", "Team 09"]
    submitted = [each["team"] for each in place.data()["submissions"]]
    assert submitted == sorted(submitted)


@pytest.mark.dear(day=1)
def test_one_team_alone_may_be_anonymous_and_names_that_were_public_leave_the_history(place: Place) -> None:
    """A team asks for it after the first publication: its name is in no older data that the new page leads to."""
    place.type("publish")
    place.configure({"anonymous_teams": ["Owls & Foxes"]})
    place.type("publish")
    assert "under names that are not shown any more" in place.history()
    assert not (place.home.site / "history").exists()
    everything = b"".join(tree(place.home.site).values())
    assert b"Owls" not in everything
    assert b"alpha ears" in everything
    place.configure({"anonymous_teams": ["Owls and Foxes"]})
    assert "names 'Owls and Foxes', and no submission" in place.type("publish", code=2)


@pytest.mark.dear(day=2)
def test_an_anonymous_version_that_comes_back_leads_to_no_names(place: Place) -> None:
    """Published under names, then without, then back: the history would lead to names and who bears which pseudonym."""
    place.type("publish")
    place.type("publish", "--anonymous")
    place.add("later", 1)
    place.type("publish", "--anonymous")
    place.type("publish", "--rollback", "2")
    assert "under names that are not shown any more" in place.history()
    everything = b"".join(tree(place.home.site).values())
    assert b"Owls" not in everything
    assert b"alpha ears" not in everything
    assert all(each["team"].startswith("Team ") for each in place.data()["submissions"])


# -- times


@pytest.mark.dear(day=2)
def test_nothing_is_published_before_its_time(place: Place) -> None:
    """The benchmark's embargo and the command's: refused with the time left; overridden, and that is in the log."""
    tomorrow = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%dT%H:%M} UTC"
    said = place.type("publish", "--not-before", tomorrow, code=2)
    assert f"nothing is published before {tomorrow}" in said
    assert "1 day and 23 hours are left" in said or "2 days are left" in said
    place.configure({}, embargo="2999-01-01T00:00 AoE")
    assert "before 2999-01-01T00:00 AoE (2999-01-01 12:00 UTC)" in place.type("publish", code=2)
    assert not place.home.site.exists()
    assert json.loads(place.type("publish", "--check", "--json", code=1))["embargoes"] == ["2999-01-01T00:00 AoE"]
    place.type("publish", "--despite-embargo")
    assert [event["despite_embargo"] for event in place.events()] == [True]
    place.configure({})
    assert "'soon' is not understood" in place.type("publish", "--not-before", "soon", code=2)


def test_an_embargo_ends_at_the_minute_that_is_written() -> None:
    """Attacks with the two sides of one moment."""
    opens = datetime(2026, 2, 26, 0, 0, tzinfo=UTC)
    assert embargo.opens("2026-02-25T12:00 AoE") == opens
    embargo.refuse_before(["2026-02-25T12:00 AoE"], opens)
    with pytest.raises(embargo.EmbargoError, match="1 minute"):
        embargo.refuse_before(["2026-02-25T12:00 AoE"], opens - timedelta(seconds=1))


# -- back, and kills


@pytest.mark.dear(day=0)
def test_an_older_version_comes_back_as_a_new_one(place: Place) -> None:
    """What lay between is taken back: said so, with no word of its content; a changed version is not brought back."""
    place.type("publish")
    first = tree(place.home.site)
    place.add("mistake", 20)
    place.type("publish")
    place.type("publish", "--rollback", "1", "--why", "Version 2 had a wrong team.")
    shown = tree(place.home.site)
    assert {name for name in shown if shown[name] != first.get(name)} == {"history.html", "history/0001.json"}
    assert set(first) < set(shown)
    assert "It shows version 1 again; what lay between was taken back. Version 2 had a wrong team." in place.history()
    assert "mistake" not in place.history()
    assert [event["rollback_of"] for event in place.events()] == [None, None, 1]
    assert "is what everybody sees now" in place.type("publish", "--rollback", "3", code=2)
    assert "there is no version 9; there are: 1, 2, 3" in place.type("publish", "--rollback", "9", code=2)
    file = place.version(2) / "site/data.csv"
    file.chmod(0o644)
    file.write_text("changed\n", encoding="utf-8")
    assert "version 2 is not what was published: data.csv" in place.type("publish", "--rollback", "2", code=1)
    place.remove("alpha ears")
    assert "submission that is not to be shown" in place.type("publish", "--rollback", "1", code=2)


@pytest.mark.dear(day=1)
def test_a_kill_at_any_moment_leaves_the_old_page_or_the_new_one(place: Place, tmp_path: Path) -> None:
    """SIGKILL while the second version is published: one whole page, and the same command ends it, counted once."""
    place.type("publish")
    old = tree(place.home.site)
    place.add("beta", 20)
    place.engine.dispose()
    shutil.copytree(place.root, tmp_path / "kept")
    folder = place.root / "leaderboard"

    def publish(_: Callable[[], None]) -> None:
        touches = []
        sys.addaudithook(lambda _, given: touches.append(1) if str(folder) in str(given[:2]) else None)
        with pytest.raises(SystemExit) as left:
            main(["--home", str(place.root), "publish"])
        assert left.value.code in {0, None}
        (tmp_path / "touches").write_text(str(len(touches)), encoding="utf-8")

    assert not is_killed_at(0, folder, publish)
    steps = int((tmp_path / "touches").read_text(encoding="utf-8"))
    number = effort.count("kills of a publication", short=3, long=100)
    seen = set()
    for step in sorted({max(1, steps * each // (number + 1)) for each in range(1, number + 1)}):
        restore(tmp_path / "kept", place)
        was_killed = is_killed_at(step, folder, publish)
        now = tree(place.home.site)
        is_old = now == old
        assert is_old or (now["data.json"] != old["data.json"] and b"beta" in now["index.html"])
        place.type("publish")
        assert b"beta" in tree(place.home.site)["index.html"]
        assert sorted(path.name for path in place.home.versions.iterdir()) == [".lock", "0001", "0002"]
        assert tree(place.version(2) / "site") == tree(place.home.site)
        assert [event["version"] for event in place.events()] == [1, 2]
        assert sorted(path.name for path in folder.iterdir()) == ["site", "versions"]
        seen.add((was_killed, is_old))
    assert (True, True) in seen
    effort.found("kinds of ends of a killed publication", len(seen))


def restore(kept: Path, place: Place) -> None:
    shutil.rmtree(place.root)
    shutil.copytree(kept, place.root)


# -- what changed


def board(*rows: tuple[str, str, int | None, float | None], **changed: object) -> dict[str, Any]:
    keys = ("submission_id", "team", "rank", "score")
    value = {"track": "A", "condition": {"steps": 1}, "columns": [{"name": "x"}]}
    return {
        "boards": [value | {"rows": [dict(zip(keys, row, strict=True)) for row in rows]} | changed],
        "submissions": [],
    }


def test_changes_between_two_publications() -> None:
    """A team is known again by its submission, else by its name; other tasks, another condition, tracks that come."""
    before = board(("1", "Ann", 1, 0.9), ("2", "Bob", 2, 0.8), ("3", "Eve", None, None))
    assert changes(before, before) == ()
    now = board(("1", "Anna", 2, 0.9), ("9", "Bob", 1, 0.95), ("4", "Dan", 3, 0.1), columns=[{"name": "y"}])
    (change,) = changes(before, now)
    assert change.renamed == (("Ann", "Anna"),)
    assert (change.teams_new, change.teams_gone) == (("Dan",), ("Eve",))
    assert (change.tasks_new, change.tasks_gone) == (("y",), ("x",))
    assert [(move.team, move.rank_before, move.rank, move.is_other_submission) for move in change.moves] == [
        ("Anna", 1, 2, False),
        ("Bob", 2, 1, True),
    ]
    assert "1 score changed" in change.sentences()
    (change,) = changes(before, board(*[tuple(row.values()) for row in before["boards"][0]["rows"]], condition={}))
    assert change.sentences() == ("measured under another condition",)
    (change,) = changes(None, before)
    assert replace(change, teams_new=()).sentences() == ("a new track",)
    (change,) = changes(before, {"boards": [], "submissions": []})
    assert change.sentences() == ("the track is gone",)


def baseline(team: str) -> dict[str, Any]:
    return {
        "name": team, "submission": team, "how": "fetch it", "source": "a paper", "tolerance": 1.0,
        "published": {"A": {"keyword": 0.5}},
    }  # fmt: skip

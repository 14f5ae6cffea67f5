"""The gate: whatever must not be published is planted into a rendered page, in every way we could think of."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from boards import small_board, submissions

from ranker import privacy
from ranker.publishing.gate import Finding, Forbidden, Leak, sweep
from ranker.publishing.knowledge import shipped
from ranker.publishing.reading import _parsed, _plain, pieces
from ranker.site import render
from ranker.types import Standing

CLIP = "hidden/keyscratch-0417"
PROMPT = "Which finger made this sound? Answer with its name."
KNOWN = Forbidden(
    folders=frozenset({"/srv/challenge", "/opt/boxes/home7"}),
    machines=frozenset({"gpu-node-17", "gpu-node-17:4711:88"}),
    users=frozenset({"carla"}),
    secrets={"the variable RANKER_SMTP_SECRET": "correct horse battery"},
    hidden_tasks=frozenset({"keyscratch"}),
    hidden_texts=frozenset({PROMPT}),
    hidden_cells=frozenset({CLIP, "a key scratches over slate, twice"}),
    unranked={"0123456789ab": Standing.WITHDRAWN},
    names=frozenset({"Zürich Hearing Lab", "owls"}),
)
Plant = Callable[[Path, str], Path]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small board's page, as it is rendered."""
    board = small_board()
    folder = tmp_path_factory.mktemp("gate") / "site"
    render([board], submissions(board)[:2], folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As little as a page can be, since it is read again and again."""
    root = tmp_path / "site"
    (root / "submission").mkdir(parents=True)
    (root / "static").mkdir()
    for name in ("index.html", "submission/a1.html"):
        (root / name).write_text("<!doctype html><main></main>", encoding="utf-8")
    run = {"track": "A", "manifest": {}, "samples": {"keyword": []}}
    board = {"track": "A", "columns": [{"name": "keyword"}], "rows": [{"team": "moonshine"}]}
    data = {"boards": [board], "submissions": [{"id": "a1", "team": "moonshine", "runs": [run]}]}
    (root / "data.json").write_text(json.dumps(data), encoding="utf-8")
    (root / "data.csv").write_text("track,rank,team\n", encoding="utf-8")
    (root / "static" / "site.js").write_text("var ranker = 1;\n", encoding="utf-8")
    return root


def swept(folder: Path, **known: object) -> list[Finding]:
    return sweep(folder, replace(KNOWN, shipped=shipped(), **known))  # type: ignore[arg-type]


def found(folder: Path, **known: object) -> set[tuple[Leak, str]]:
    return {(finding.leak, finding.what) for finding in swept(folder, **known)}


def test_a_page_as_it_is_rendered_may_be_published(page: Path) -> None:
    """Attacks with false alarms: hostile names, paths of links, styles and scripts are nothing to refuse."""
    assert swept(page) == []
    assert sweep(page, KNOWN) == [], "the files that come with ranker hold nothing either, were they looked into"
    read = [piece for path in page.rglob("*") if path.is_file() for piece in pieces(path)]
    assert sum(len(piece.text) for piece in read) > 20_000


# -- where it may stand


def in_html(folder: Path, text: str) -> Path:
    path = folder / "index.html"
    path.write_text(
        path.read_text(encoding="utf-8").replace("</main>", f"<p>Ask {text} now</p></main>"), encoding="utf-8"
    )
    return path


def in_attribute(folder: Path, text: str) -> Path:
    path = next((folder / "submission").iterdir())
    value = text.replace('"', "&quot;")
    path.write_text(
        path.read_text(encoding="utf-8").replace("<main", f'<i title="by {value}"></i><main'), encoding="utf-8"
    )
    return path


def in_comment(folder: Path, text: str) -> Path:
    path = folder / "index.html"
    path.write_text(path.read_text(encoding="utf-8") + f"<!-- {text} -->", encoding="utf-8")
    return path


def in_manifest(folder: Path, text: str) -> Path:
    path = folder / "data.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["submissions"][0]["runs"][0]["manifest"]["remarks"] = [{"deep": f"it said: {text}!"}]
    path.write_text(json.dumps(data), encoding="utf-8")  # ASCII: other letters are escaped
    return path


def in_a_key(folder: Path, text: str) -> Path:
    path = folder / "data.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["boards"][0]["columns"][0][text] = 1
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def in_csv(folder: Path, text: str) -> Path:
    path = folder / "data.csv"
    quoted = text.replace('"', '""')
    path.write_text(path.read_text(encoding="utf-8") + f'A,1,"{quoted}"\n', encoding="utf-8")
    return path


def in_parquet(folder: Path, text: str) -> Path:
    path = folder / "predictions" / "a1" / "track-a" / "keyword.parquet"
    path.parent.mkdir(parents=True)
    frame = pd.DataFrame({"clip": ["c1", "c2"], "reference": ["yes", "no"], "candidate": ["no", f"well: {text}"]})
    frame.to_parquet(path)
    return path


def in_column_name(folder: Path, text: str) -> Path:
    path = folder / "predictions" / "a1" / "track-a" / "keyword.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame({f"x {text}": [1, 2]}).to_parquet(path)
    return path


def in_svg(folder: Path, text: str) -> Path:
    path = folder / "figure.svg"
    words = text.replace("&", "&amp;").replace("<", "&lt;")
    path.write_text(f'<svg xmlns="http://www.w3.org/2000/svg"><metadata>{words}</metadata></svg>', encoding="utf-8")
    return path


def in_script(folder: Path, text: str) -> Path:
    path = folder / "static" / "site.js"  # one that comes with ranker, changed
    path.write_text(path.read_text(encoding="utf-8") + f"\nvar by = {json.dumps(text)};\n", encoding="utf-8")
    return path


def in_data_address(folder: Path, text: str) -> Path:
    inner = base64.b64encode(f"<svg>{text}</svg>".encode()).decode()
    path = folder / "index.html"
    content = path.read_text(encoding="utf-8").replace(
        "</main>", f'<img src="data:image/svg+xml;base64,{inner}"></main>'
    )
    path.write_text(content, encoding="utf-8")
    return path


PLACES = (
    in_html, in_attribute, in_comment, in_manifest, in_a_key, in_csv, in_parquet, in_column_name, in_svg, in_script,
    in_data_address,
)  # fmt: skip


@pytest.mark.parametrize("plant", PLACES, ids=lambda plant: plant.__name__)
def test_every_kind_of_file_is_looked_into(folder: Path, plant: Plant) -> None:
    """Plants an address, a path, a machine, a password and a prompt everywhere: each is found, with its file."""
    planted = plant(folder, f"ann@lab.org /srv/challenge/x gpu-node-17 correct horse battery {PROMPT}")
    told = {finding.leak: finding for finding in swept(folder)}
    assert {Leak.ADDRESS, Leak.PATH, Leak.MACHINE, Leak.SECRET, Leak.HIDDEN} <= told.keys()
    assert told[Leak.ADDRESS].what == "ann@lab.org"
    assert told[Leak.ADDRESS].where[0].startswith(planted.relative_to(folder).as_posix())
    assert "correct horse" not in "".join(finding.words() for finding in told.values() if finding.leak is Leak.SECRET)


# -- how it may be written

ADDRESSES = {
    "plain": "ann@lab.org",
    "tagged": "ann+x.y@mail.lab.co.uk",
    "capitals": "ANN@LAB.ORG",
    "quoted": '"ann b"@lab.org',
    "number": "ann@10.1.2.3",
    "IDN": "änn@zürich.example",
    "blanks": "ann @ lab.org",
    "percent": "ann%40lab.org",
    "percent twice": "ann%2540lab.org",
    "named entity": "ann&commat;lab&period;org",
    "numbered entity": "ann&#64;lab&#x2e;org",
    "entities twice": "ann&amp;#64;lab.org",
    "script escape": "ann\\u0040lab.org",
    "script escape, short": "ann\\x40lab.org",
    "style escape": "ann\\40 lab.org",
    "wide letters": "ann\N{FULLWIDTH COMMERCIAL AT}lab.org",
    "small at": "ann\N{SMALL COMMERCIAL AT}lab.org",
    "invisible": "ann\N{ZERO WIDTH SPACE}@\N{WORD JOINER}lab.org",
    "soft hyphen": "ann@la\N{SOFT HYPHEN}b.org",
    "for people": "ann [at] lab [dot] org",
    "for people too": "ann(AT)lab.org",
    "mailto": "mailto:ann@lab.org?subject=x",
}


@pytest.mark.parametrize("written", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize("plant", [in_html, in_manifest, in_parquet], ids=["html", "json", "parquet"])
def test_an_address_is_found_however_it_is_written(folder: Path, plant: Plant, written: str) -> None:
    """Attacks with encodings, entities, escapes and invisible letters."""
    plant(folder, written)
    assert Leak.ADDRESS in {leak for leak, _ in found(folder)}


def test_an_address_with_tags_in_its_middle_is_found(folder: Path) -> None:
    """Attacks with markup that a reader does not see."""
    in_html(folder, "ann<b></b>@<span>lab</span>.org")
    assert (Leak.ADDRESS, "ann@lab.org") in found(folder)


PATHS = {
    "/home/carla/runs/x.py": "/home/carla/runs/x.py",
    'File "/tmp/x7/encoder.py", line 3': "/tmp/x7/encoder.py",
    "no space left in /tmp": "/tmp",
    "/Users/carla/y": "/Users/carla/y",
    "C:\\Users\\carla\\model.py": "C:\\Users\\carla\\model.py",
    "\\\\server\\share\\x": "\\\\server\\share\\x",
    "file:///var/lib/x": "file:///var/lib/x",
    "~carla/notes": "~carla/notes",
    "/opt/boxes/home7": "/opt/boxes/home7",
    "(/srv/challenge)": "/srv/challenge",
    "%2Fhome%2Fcarla%2Fx": "/home/carla/x",
}


@pytest.mark.parametrize(("written", "what"), PATHS.items(), ids=PATHS)
def test_a_path_in_an_error_text_is_found(folder: Path, written: str, what: str) -> None:
    """Attacks with paths of every system, as messages quote them."""
    in_manifest(folder, f"OSError: {written}: nothing there")
    assert (Leak.PATH, what) in found(folder)


@pytest.mark.parametrize(
    "harmless",
    [
        "https://example.org/home/x", "submission/a1.html", "../static/site.css", "train/dev/test", "yes/no", "a: b",
        "script-src 'self' file:;", "@media print", "12 items @ 16 kHz", "n/a", "1/2", "x:\\d+", "version 1.2.3@a",
    ],
)  # fmt: skip
def test_what_only_looks_alike_is_let_through(harmless: str) -> None:
    """Attacks with false alarms, which would teach organizers to override the gate."""
    assert [*privacy.addresses(harmless), *privacy.paths(harmless), *privacy.secrets(harmless)] == []
    assert privacy.scrubbed(harmless) == harmless


@pytest.mark.parametrize(
    ("text", "leak"),
    [
        ("by carla@gpu-box at night", Leak.MACHINE), ("on gpu-node-17:4711:88", Leak.MACHINE),
        ("hf_abcdefghijklmnopqrstuvwx", Leak.SECRET), ("postgresql://ranker:hunter2@db.example/x", Leak.SECRET),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", Leak.SECRET), ("https://u:pw12@index.example/simple", Leak.SECRET),
        (" ".join(PROMPT.split()[:3]) + "\n  " + " ".join(PROMPT.split()[3:]), Leak.HIDDEN),
        ("see submission 0123456789ab", Leak.UNRANKED), ("thanks to the zürich hearing LAB", Leak.NAME),
    ],
)  # fmt: skip
@pytest.mark.parametrize("plant", [in_html, in_parquet], ids=["html", "parquet"])
def test_what_a_home_knows_is_found(folder: Path, plant: Plant, text: str, leak: Leak) -> None:
    """Attacks with the rest: workers, keys, a prompt over two lines, a withdrawn submission, a hidden name."""
    plant(folder, text)
    assert leak in {leak for leak, _ in found(folder)}


def test_hidden_clips_answers_and_samples_are_found_as_whole_values(folder: Path) -> None:
    """Attacks with hidden predictions under a public name, and a short team name, which is a word elsewhere."""
    path = in_parquet(folder, "two owls")
    frame = pd.read_parquet(path)
    frame.loc[0, ["clip", "reference"]] = [CLIP, "a key  scratches over\nslate, twice"]
    frame.to_parquet(path)
    hidden = path.with_name("keyscratch.parquet")
    frame.iloc[1:].to_parquet(hidden)
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    data["submissions"][0]["runs"][0]["samples"]["keyscratch"] = []
    (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
    finding = {finding.what: finding for finding in swept(folder)}
    assert finding.keys() == {CLIP, "a key scratches over slate, twice", "keyscratch"}
    assert finding["keyscratch"].times == 2
    in_csv(folder, "owls")
    assert (Leak.NAME, "owls") in found(folder)


def test_files_that_cannot_be_looked_into_are_refused(folder: Path, tmp_path: Path) -> None:
    """Attacks with archives, links that lead out, hidden files, and files that are not what they are called."""
    (folder / "all.zip").write_bytes(b"PK\x03\x04")
    (folder / "link.html").symlink_to(tmp_path / "outside.html")
    (folder / ".env").write_text("x", encoding="utf-8")
    (folder / "broken.json").write_text("{", encoding="utf-8")
    (folder / "latin.html").write_bytes(b"\xe4")
    (folder / "no.parquet").write_bytes(b"PAR1")
    told = {what for leak, what in found(folder) if leak is Leak.FILE}
    assert told == {"all.zip", "link.html", ".env", "broken.json", "latin.html", "no.parquet"}


def test_a_team_s_name_with_an_address_is_told_by_name(tmp_path: Path) -> None:
    """Attacks with a team that is called by its address: the finding names the team, and what to do."""
    board = small_board()
    board = replace(board, rows=(replace(board.rows[0], team="Ears <ann@lab.org>"), *board.rows[1:]))
    render([board], [], tmp_path / "site")
    (finding,) = swept(tmp_path / "site")
    assert "the team 'Ears <ann@lab.org>'" in finding.words()
    assert "ranker teams import" in finding.advice
    assert len(finding.where) == 3 < finding.times


def test_what_organizers_let_stand_may_stand_but_no_password(folder: Path) -> None:
    """Attacks the list of exceptions: it is exact, and no password can be on it."""
    in_html(folder, "challenge@example.org, other@example.org, correct horse battery")
    allowed = frozenset({"challenge@example.org", "the variable RANKER_SMTP_SECRET"})
    assert found(folder, allowed=allowed) == {
        (Leak.ADDRESS, "other@example.org"),
        (Leak.SECRET, "the variable RANKER_SMTP_SECRET"),
    }


# -- what is taken out at the source


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("ask ann@lab.org", "ask (address)"),
        ('File "/home/carla/env/encoder.py", line 3', 'File "\N{HORIZONTAL ELLIPSIS}/encoder.py", line 3'),
        ("no space in /tmp", "no space in (path)"),
        ("C:\\Users\\x\\a.py", "\N{HORIZONTAL ELLIPSIS}/a.py"),
        ("token hf_abcdefghijklmnopqrstuvwx", "token (secret)"),
        ("ann&#64;lab.org", "(address)"),
        ("ann\\u0040lab.org", "(address)"),
        ("plain &amp; simple", "plain &amp; simple"),
    ],
)
def test_public_texts_are_scrubbed(text: str, public: str) -> None:
    """What is rendered for everybody keeps its sense and loses what is nobody's business."""
    assert privacy.scrubbed(text) == public
    assert privacy.scrubbed(public) == public


def test_scrubbed_texts_pass_the_gate(folder: Path) -> None:
    """Attacks with a gap between the two: what `scrubbed` lets by, the gate lets by, in every kind of file."""
    texts: Sequence[str] = [f"{written} x" for written in (*ADDRESSES.values(), *PATHS)]
    in_manifest(folder, " | ".join(map(privacy.scrubbed, texts)))
    known = {leak for leak, _ in found(folder, folders=frozenset())}
    assert known == set()
    assert len(texts) > 30


def test_a_manifest_for_everybody_lacks_what_is_ours() -> None:
    """Attacks with a manifest that holds registered names, a report's words and an index of this network."""
    manifest = {
        "submission": {
            "team": "Zürich Hearing Lab",
            "digest": "ab" * 32,
            "check": {
                "report": {"opening": "by Ann, ann@lab.org", "pages": 4},
                "environment": {"index": "https://u:p@index.local/simple", "network": {"hosts": []}, "pip": "23.2.1"},
                "source": {"root": "zurich", "module": "zurich.py"},
                "encoder": {"attribute": "ZurichEncoder", "output_dim": 4, "note": "see /home/ann/x.txt"},
            },
        },
        "weights": "cd" * 32,
        "started_at": "2026-02-12T23:58:00+00:00",
        "recipe": {"steps": 500},
    }
    public = privacy.public(manifest)
    assert public["weights"] == manifest["weights"]
    assert public["submission"]["check"].keys() == {"environment", "source", "encoder"}
    assert public["submission"]["check"]["environment"] == {"pip": "23.2.1"}
    assert public["submission"]["check"]["encoder"]["note"] == "see \N{HORIZONTAL ELLIPSIS}/x.txt"
    assert privacy.public(manifest, is_anonymous=True) == {"recipe": {"steps": 500}}
    checked = manifest["submission"]["check"]["encoder"]  # type: ignore[index]
    anonymous = json.dumps(privacy.public(checked, is_anonymous=True))
    assert "urich" not in anonymous
    assert "output_dim" in anonymous


def test_simple_markup_is_read_as_any_other(page: Path) -> None:
    """Attacks the quick reading of markup: on every page it finds each value and word that the parser finds."""
    looked_at, others = 0, list[str]()
    for path in page.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        quick, whole = _plain(text), _parsed(text)
        if quick is None:
            others.append(path.name)
            continue
        assert {value for _, value in quick} == {value for _, value in whole}
        words = ["".join(value for place, value in found if place.startswith("line ")) for found in (quick, whole)]
        assert words[0] == words[1]
        looked_at += len(quick)
    assert looked_at > 1_000
    assert set(others) <= {"method.html", "compare.html"}  # entities in formulas, <noscript>


@pytest.mark.parametrize(
    "odd",
    [
        "<p title='a'>x</p>",
        "<!-- x -->",
        "<script>x</script>",
        "a < b",
        "<P>x</P>",
        "<p>&commat;</p>",
        "<style>x</style>",
    ],
)
def test_markup_that_is_not_simple_goes_to_the_parser(odd: str) -> None:
    """Attacks with quotes, comments, scripts, entities and stray signs: the quick reading does not guess at them."""
    assert _plain(f"<!doctype html><main>{odd}</main>") is None

"""`ranker metric`: predictions from files as people write them, and the value that they give."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ranker.errors import MissingError, UsageError
from ranker.metrics import Pair, caption_models, evaluate, read_predictions
from ranker.metrics.recompute import recompute
from ranker.types import MetricModels, MetricName

PAIRS = [
    Pair(clip="rain.wav", reference="rain falls, slowly", candidate='it "rains",\nhard'),
    Pair(clip="rain.wav", reference="it rains", candidate='it "rains",\nhard'),
    Pair(clip="dog;1", reference="a dog barks", candidate=""),
    Pair(clip="007", reference="NA", candidate="nan"),
    Pair(clip="火车", reference="今天天气", candidate="今天天汽"),
]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def table() -> pd.DataFrame:
    return pd.DataFrame([{"clip": p.clip, "reference": p.reference, "candidate": p.candidate} for p in PAIRS])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"encoding": "utf-8-sig"},
        {"lineterminator": "\r\n"},
        {"quoting": csv.QUOTE_ALL},
        {"columns": ["candidate", "clip", "reference"]},
    ],
)
def test_csv_is_read_as_it_was_written(tmp_path: Path, options: dict[str, Any]) -> None:
    """Attacks texts: quotes, commas, line breaks, `NA` and `nan`, leading zeros, any order, a byte order mark, CRLF."""
    table().to_csv(tmp_path / "p.csv", index=False, **options)
    found = read_predictions(tmp_path / "p.csv")
    assert list(found.pairs) == PAIRS
    assert found.clips == 4
    assert found.notes == ("1 of 5 candidates are empty; they were scored as empty texts",)


ROWS = st.tuples(st.text(min_size=1).filter(str.strip), st.text(), st.text())


@settings(deadline=None, derandomize=True, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.text(min_size=1).filter(str.strip), st.text(), st.text()), min_size=1, unique_by=lambda t: t[0]
    )
)
def test_any_text_survives_both_kinds_of_file(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    """What a program writes as CSV or Parquet comes back as the same texts."""
    frame = pd.DataFrame(rows, columns=["clip", "reference", "candidate"])
    with (tmp_path / "p.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([tuple(frame.columns), *rows])
    frame.to_parquet(tmp_path / "p.parquet")
    expected = [Pair(clip=clip, reference=reference, candidate=candidate) for clip, reference, candidate in rows]
    for name in ("p.csv", "p.parquet"):
        assert list(read_predictions(tmp_path / name).pairs) == expected


def test_other_columns_are_passed_over_and_said(tmp_path: Path) -> None:
    """A file with more in it, such as ranker's own with its item scores, and headers in another case, can be used."""
    path = write(tmp_path / "p.csv", "score, Clip ,REFERENCE,candidate,team\n1,a,x,x,us\n\n0,b,y,x,us\n")
    found = read_predictions(path)
    assert [(pair.clip, pair.reference, pair.candidate) for pair in found.pairs] == [("a", "x", "x"), ("b", "y", "x")]
    assert found.notes == ("not looked at: columns score, team",)


HEADER = "clip,reference,candidate\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no column clip and no column reference and no column candidate; .* found none"),
        (
            "clip,reference\na,b\n",
            "has no column candidate; expected the columns clip, reference, candidate, found",
        ),
        ("clip;reference;candidate\na;b;c\n", "separated by semicolons: write it with commas"),
        ("clip\treference\tcandidate\n", "separated by tabulators"),
        ("clip,reference,candidate,clip\na,b,c,d\n", "has the column clip 2 times"),
        (HEADER, "holds no row below its header"),
        (HEADER + "a,b\n", "line 2: has 2 cells, but the header has 3; .* quotation marks"),
        (HEADER + "a,b,c\nd,e,f, g\n", "line 3: has 4 cells"),
        (HEADER + 'a,b,"c\n', "line 2: is not CSV"),
        (HEADER + 'a,b,"c"d\n', "line 2: is not CSV"),
        (HEADER + " ,b,c\n", "line 2: the cell of column clip is empty"),
        (
            HEADER + "a,b,c\nz,b,c\na,x,d\n",
            "line 4: clip a has the candidate 'd', but 'c' in line 2; a clip is answered once",
        ),
        ("clip,reference,candidate\na,b,é\n".encode("latin-1"), "is not UTF-8"),
        ("clip,reference,candidate\na,b,c\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, content: str | bytes, words: str) -> None:
    """Each mistake has its place, what was expected and what was found; nothing is guessed."""
    path = write(tmp_path / "p.csv", content)
    with pytest.raises(UsageError, match=words) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([None, "x"], r"row 1: column candidate holds nothing \(null\)"),
        ([float("nan"), 1.5], "row 1: column candidate holds nothing"),
        ([2.5, 1.5], "row 1: column candidate holds 2.5; expected a text"),
        ([True, False], "row 1: column candidate holds True"),
    ],
)
def test_a_table_without_texts_is_refused(tmp_path: Path, column: list[Any], words: str) -> None:
    """A missing answer is not an empty one, and a number with a fraction is no label."""
    pd.DataFrame({"clip": ["a", "b"], "reference": ["x", "y"], "candidate": column}).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(UsageError, match=words):
        read_predictions(tmp_path / "p.parquet")


def test_whole_numbers_are_labels(tmp_path: Path) -> None:
    """How many speakers: a table may hold it as a number."""
    frame = pd.DataFrame({"clip": [1, 2], "reference": [3, 4], "candidate": ["3", "5"], "item": [1.0, 0.0]})
    frame.to_parquet(tmp_path / "p.parquet")
    assert recompute("accuracy", tmp_path / "p.parquet", {}).value == 0.5


def test_what_is_no_file_or_no_parquet_is_said(tmp_path: Path) -> None:
    """A folder, nothing, or a CSV under the other name."""
    for path in (tmp_path, tmp_path / "missing.csv"):
        with pytest.raises(UsageError, match="there is no such file"):
            read_predictions(path)
    with pytest.raises(UsageError, match="no readable Parquet file"):
        read_predictions(write(tmp_path / "p.parquet", HEADER + "a,b,c\n"))


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("mAP", {}, "mAP needs the number of classes.*--arg num_classes=41"),
        ("mAP", {"num_classes": "0"}, "at least 1, not '0'"),
        ("mAP", {"num_classes": "4.0"}, "not '4.0'"),
        ("mAP", {"num_classes": "4", "separator": ";"}, "mAP takes num_classes only; found separator"),
        ("iWER", {"num_classes": "4"}, "iWER takes no argument; found num_classes"),
        ("BLEU", {}, "there is no metric 'BLEU'; there are Accuracy, "),
    ],
)
def test_a_wrong_name_or_argument_is_refused(tmp_path: Path, name: str, arguments: dict[str, str], words: str) -> None:
    """Before the file is read."""
    with pytest.raises(UsageError, match=words):
        recompute(name, tmp_path / "none.csv", arguments)


SCORES = [
    ("Accuracy", None),
    ("mAP", 9),
    ("iWER", None),
    ("iCER", None),
    ("FENSE[minilm]", None),
    ("DATE[clip,minilm]", None),
]


@pytest.mark.parametrize(("name", "num_classes"), SCORES)
def test_a_recorded_score_comes_out_again_to_the_last_digit(tmp_path: Path, name: str, num_classes: int | None) -> None:
    """What an evaluation stores (its items as Parquet), and the same as CSV, give the very value that it recorded."""
    metric = MetricName(name.replace(",minilm", "").replace("[minilm]", ""))
    models = caption_models(MetricModels.MINILM) if metric.is_caption else None
    recorded = evaluate(metric, PAIRS, num_classes=num_classes, models=models)
    recorded.items.to_parquet(tmp_path / "p.parquet", index=False)
    recorded.items.to_csv(tmp_path / "p.csv", index=False)
    arguments = {} if num_classes is None else {"num_classes": str(num_classes)}
    for file in ("p.parquet", "p.csv"):
        found = recompute(name, tmp_path / file, arguments)
        assert (found.metric, found.value, found.pairs, found.clips) == (recorded.name, recorded.value, 5, 4)
        assert (found.models is not None) == metric.is_caption


@pytest.mark.parametrize(
    ("name", "arguments", "row", "words"),
    [
        ("mAP", {"num_classes": "1"}, "a,dog;cat,dog", "the references hold 2 different labels, but .* is 1"),
        ("mAP", {"num_classes": "4"}, "a,;,dog", "none of the 1 references holds one"),
        ("iWER", {}, "a,...,dog", "all 1 are empty after normalisation"),
    ],
)
def test_a_file_that_does_not_fit_its_metric_is_wrong_usage(
    tmp_path: Path, name: str, arguments: dict[str, str], row: str, words: str
) -> None:
    """A wrong num_classes would give a wrong mean; and a file from outside is no fault of our data (exit code 2)."""
    with pytest.raises(UsageError, match=f"p.csv: .*{words}"):
        recompute(name, write(tmp_path / "p.csv", f"{HEADER}{row}\n"), arguments)


def test_fense_without_its_models_names_the_substitute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain name means the reference models, and nothing else is put in their place."""
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path / "empty"))
    path = write(tmp_path / "p.csv", HEADER + "a,a dog,a cat\n")
    with pytest.raises(MissingError, match=r"`ranker data fetch challenge`.*FENSE\[minilm\]"):
        recompute("FENSE", path, {})
    assert recompute("FENSE[minilm]", path, {}).metric == "FENSE[minilm]"


def ranker(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ranker", "metric", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_prints_the_value(tmp_path: Path) -> None:
    """For people a line, with remarks apart; for programs JSON in full precision."""
    path = write(tmp_path / "p.csv", "clip,reference,candidate,extra\na,dog;cat,dog,1\nb,cat,dog,2\nc,dog,,3\n")
    done = ranker("map", path, "--arg", "num_classes=7")
    expected = evaluate(MetricName.MAP, read_predictions(path).pairs, num_classes=7).value
    assert (done.returncode, done.stdout) == (0, f"mAP {expected:.6f} (3 pairs of 3 clips)\n")
    assert "not looked at: column extra" in done.stderr
    found = json.loads(ranker("mAP", path, "--arg", "num_classes=7", "--json").stdout)
    notes = found.pop("notes")
    assert found == {"metric": "mAP", "value": expected, "pairs": 3, "clips": 3, "models": None}
    assert len(notes) == 2


@pytest.mark.dear(day=1)
def test_the_command_complains_in_one_line(tmp_path: Path) -> None:
    """A wrong file or argument: one sentence, exit code 2, no traceback."""
    path = write(tmp_path / "p.csv", HEADER + "a,b\n")
    for arguments in (("Accuracy", path), ("Accuracy", path, "--arg", "x")):
        done = ranker(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1

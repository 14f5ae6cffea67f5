"""Reports: real PDFs, written by libraries or byte by byte, honest and hostile, read in the real confined process."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pypdf
import pytest
from engine import missing

from ranker.errors import InfraError, UsageError
from ranker.intake import report
from ranker.intake.report import ReportFinding, examine_report, mentions
from ranker.sandbox.reading import read_confined
from ranker.settings import ReportLimits

LIMITS = ReportLimits(cpu_s=5, wall_s=60)
WORDS = (
    "Our encoder was trained on AudioSet and on 300 hours of in-house recordings, which we describe in Section 2. "
    "The checkpoint was initialised from public weights."
)


def written(path: Path, objects: list[bytes], *, root: int = 1) -> Path:
    """A PDF of these objects (the first is number 1), with a sound table."""
    body, table = b"%PDF-1.5\n", b"0000000000 65535 f \n"
    for number, each in enumerate(objects, 1):
        table += b"%010d 00000 n \n" % len(body)
        body += b"%d 0 obj%s endobj\n" % (number, each)
    count = len(objects) + 1
    end = b"trailer<</Size %d/Root %d 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (count, root, len(body))
    path.write_bytes(body + b"xref\n0 %d\n" % count + table + end)
    return path


def stream(content: bytes, *, deflate: bool = False, more: bytes = b"") -> bytes:
    if deflate:
        content, more = zlib.compress(content, 9), more + b"/Filter/FlateDecode"
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(content), more, content)


def paper(path: Path, *, pages: int = 1, text: str = WORDS, catalog: bytes = b"", content: bytes | None = None) -> Path:
    """A report of some pages that all say `text`; `content`: the stream object of all pages instead."""
    kids = b" ".join(b"%d 0 R" % (5 + number) for number in range(pages))
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 3 0 R>>>>>>"
    shown = content if content is not None else stream(f"BT/F 9 Tf 20 800 Td({text})Tj ET".encode())
    return written(
        path,
        [
            b"<</Type/Catalog/Pages 2 0 R%s>>" % catalog,
            b"<</Type/Pages/Count %d/Kids[%s]>>" % (pages, kids),
            b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>",
            shown,
            *[page] * pages,
        ],
    )


def problem(path: Path, limits: ReportLimits = LIMITS) -> str:
    """The one thing that is wrong with it."""
    (found,) = examine_report(path, limits).problems
    assert found.isprintable()
    return found


@pytest.mark.parametrize("confine", [True, False])
def test_a_sound_report_is_described(tmp_path: Path, confine: bool) -> None:
    """The longest report that the rules allow is in order, confined by bubblewrap or by limits alone; the finding
    survives its way through a database.
    """
    path = paper(tmp_path / "r.pdf", pages=6)
    found = examine_report(path, LIMITS, confine=confine)
    assert (found.pages, found.problems, found.remarks) == (6, (), ())
    assert found.size_bytes == path.stat().st_size
    assert found.characters == 6 * len(WORDS.replace(" ", ""))
    assert found.opening.startswith("Our encoder was trained on AudioSet")
    assert ReportFinding.from_json(found.to_json()) == found


def test_places_that_speak_of_training_data_are_pointed_at() -> None:
    """Each word once, with its page and what stands around it; a text without any gives none."""
    found = mentions({2: WORDS, 1: "We use a conformer.", 3: "AudioSet again, and wav2vec pre-training."})
    assert [(each.page, each.term) for each in found] == [
        (2, "trained on"), (2, "AudioSet"), (2, "in-house"), (2, "checkpoint"), (3, "pre-training"),
    ]  # fmt: skip
    assert "was trained on AudioSet and" in found[0].text
    assert mentions({1: "We use a conformer."}) == ()


def test_a_page_too_many_is_a_problem(tmp_path: Path) -> None:
    """One page above the configured number, with both numbers."""
    assert "7 pages; expected 1 to 6" in problem(paper(tmp_path / "r.pdf", pages=7))
    assert "2 pages; expected 1 to 1" in problem(paper(tmp_path / "r.pdf", pages=2), ReportLimits(max_pages=1))


def test_a_stated_page_count_is_not_believed(tmp_path: Path) -> None:
    """/Count may lie, upward and downward: the pages themselves are counted."""
    path = paper(tmp_path / "r.pdf", pages=7)
    data = path.read_bytes()
    assert b"/Count 7" in data
    path.write_bytes(data.replace(b"/Count 7", b"/Count 1"))
    assert "7 pages" in problem(path)
    few = paper(tmp_path / "few.pdf", pages=1)
    few.write_bytes(few.read_bytes().replace(b"/Count 1/", b"/Count 9/"))
    assert examine_report(few, LIMITS).problems == ()


@pytest.mark.parametrize("password", ["", "secret"])
def test_an_encrypted_report_is_a_problem(tmp_path: Path, password: str) -> None:
    """With and without a password to open it."""
    writer = pypdf.PdfWriter(clone_from=paper(tmp_path / "plain.pdf"))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    writer.write(tmp_path / "r.pdf")
    assert "encrypted" in problem(tmp_path / "r.pdf")


def test_a_scan_is_a_problem(tmp_path: Path) -> None:
    """Pages without text cannot be searched: told in a sentence that says what to do."""
    picture = b"q 595 0 0 842 0 0 cm BI/W 1/H 1/BPC 8/CS/G ID\n\x80\nEI Q"
    assert "0 characters of text" in problem(paper(tmp_path / "r.pdf", content=stream(picture)))
    assert "3 characters of text" in problem(paper(tmp_path / "r.pdf", text="a b c"))


@pytest.mark.parametrize("data", [b"", b"PK\3\4" + b"x" * 100, b"x" * 2000 + b"%PDF-1.7"])
def test_what_is_no_pdf_is_not_parsed(tmp_path: Path, data: bytes) -> None:
    """Other files, whatever their name, are told apart by their first bytes."""
    (tmp_path / "r.pdf").write_bytes(data)
    assert "expected a PDF" in problem(tmp_path / "r.pdf")


@pytest.mark.parametrize("keep", [9, 200])
def test_a_broken_pdf_is_the_senders_matter(tmp_path: Path, keep: int) -> None:
    """What pypdf stumbles over is no failure of ours."""
    path = paper(tmp_path / "r.pdf", pages=3)
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read" in problem(path)


def loop_of_pages(path: Path) -> Path:
    return written(
        path,
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1/Kids[3 0 R]>>",
            b"<</Type/Pages/Count 1/Kids[2 0 R]/Parent 2 0 R>>",
        ],
    )


def loop_of_tables(path: Path) -> Path:
    """A table of objects whose predecessor is itself, and which names no root."""
    table = b"%PDF-1.4\nxref\n0 1\n0000000000 65535 f \ntrailer<</Size 1/Prev 9>>\nstartxref\n9\n%%EOF\n"
    path.write_bytes(table)
    return path


def deep_nesting(path: Path) -> Path:
    return paper(path, catalog=b"/Deep " + b"[" * 20_000 + b"]" * 20_000)


def page_without_end(path: Path) -> Path:
    """A page of eight million operators."""
    return paper(path, content=stream(b"BT ET " * 4_000_000, deflate=True))


def bomb_in_a_bomb(path: Path) -> Path:
    """Deflated twice: 80 MB unpacked."""
    packer = zlib.compressobj(9)
    once = b"".join(packer.compress(bytes(10_000_000)) for _ in range(8)) + packer.flush()
    return paper(path, content=stream(zlib.compress(once, 9), more=b"/Filter[/FlateDecode/FlateDecode]"))


def many_pages(path: Path) -> Path:
    """A tree whose one page is listed twenty thousand times."""
    path = paper(path)
    return written(
        path,
        [
            b"<</Type/Catalog/Pages 2 0 R>>",
            b"<</Type/Pages/Count 1000000/Kids[" + b"3 0 R " * 20_000 + b"]>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>",
        ],
    )


def object_stream_of_nothing(path: Path) -> Path:
    """A catalog that is said to lie in a compressed stream of two thousand million objects."""
    body = b"%PDF-1.5\n"
    numbered = b"1 0 obj" + stream(b"2 0 <<>>", more=b"/Type/ObjStm/N 2000000000/First 4") + b" endobj\n"
    rows = bytes([0, 0, 0, 0, 1, 0, len(body), 0, 2, 0, 1, 0])
    table = stream(rows, more=b"/Type/XRef/Size 3/W[1 2 1]/Root 2 0 R")
    start = len(body) + len(numbered)
    path.write_bytes(body + numbered + b"3 0 obj" + table + b" endobj\nstartxref\n%d\n%%%%EOF\n" % start)
    return path


@pytest.mark.parametrize(
    "make",
    [
        loop_of_pages,
        loop_of_tables,
        deep_nesting,
        bomb_in_a_bomb,
        many_pages,
        object_stream_of_nothing,
    ],
)
def test_a_hostile_pdf_becomes_a_sentence(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Loops, bombs and lies end the reader, or are seen through; they neither hang us nor count as our failure."""
    problems = examine_report(make(tmp_path / "r.pdf"), LIMITS).problems
    assert 1 <= len(problems) <= 2
    assert all(each.startswith("the report ") and each.isprintable() for each in problems)


def test_time_that_runs_out_is_said(tmp_path: Path) -> None:
    """A PDF that takes too long to read is told from a broken one."""
    limits = ReportLimits(cpu_s=1, wall_s=60)
    assert "more than 1 s of processor time" in problem(page_without_end(tmp_path / "r.pdf"), limits)


def test_what_a_pdf_does_and_carries_is_noted(tmp_path: Path) -> None:
    """Scripts, actions and files inside are remarks for the human, and no problem; a link to a page is nothing."""
    catalog = (
        b"/OpenAction<</S/JavaScript/JS(app.alert(1))>>/Names<</EmbeddedFiles<</Names[(a)<<>>]>>>>/AcroForm<</XFA(x)>>"
    )
    found = examine_report(paper(tmp_path / "r.pdf", catalog=catalog), LIMITS)
    assert found.problems == ()
    (remark,) = found.remarks
    for word in ("/JavaScript", "/EmbeddedFiles", "/XFA"):
        assert word in remark
    assert examine_report(paper(tmp_path / "r.pdf", catalog=b"/OpenAction[5 0 R/Fit]"), LIMITS).remarks == ()


def test_text_of_a_report_is_harmless(tmp_path: Path) -> None:
    """Escape sequences in a PDF's text reach neither a terminal nor a database."""
    found = examine_report(paper(tmp_path / "r.pdf", text="\\033[2Jtrained on\\000\\007AudioSet " * 9), LIMITS)
    assert "AudioSet" in found.opening
    assert all(text.isprintable() for text in (found.opening, *(each.text for each in found.mentions)))


def test_a_large_file_is_not_parsed(tmp_path: Path) -> None:
    """The size is bounded before anything is read."""
    assert "at most 100 are accepted" in problem(paper(tmp_path / "r.pdf"), ReportLimits(max_bytes=100))


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """No file is the operator's matter."""
    with pytest.raises(UsageError, match="no such file"):
        examine_report(tmp_path / "r.pdf", LIMITS)


PROBE = """
import socket
settle(sys.argv[1], 1 << 29, 5)
def tries(what, action):
    try:
        action()
        print(what, "yes")
    except OSError as error:
        print(what, "no")
print("user", os.getuid())
tries("fork", os.fork)
tries("write", lambda: open("/tmp/{token}", "wb", buffering=0).write(b"x"))
tries("home", lambda: os.listdir({home!r}))
tries("network", socket.socket)
sys.stdout.flush()
bytearray(1 << 30)
"""


def probe(tmp_path: Path, *, confine: bool) -> dict[str, str]:
    """What a reader that has turned against us can do."""
    home = tmp_path / "home"
    home.mkdir()
    reader = tmp_path / "probe.py"
    source = Path(report.__file__).with_name("report_reader.py").read_text(encoding="utf-8")
    # In its sandbox it sees no file of ours: it carries the reader's functions with it.
    carried = source.replace('if __name__ == "__main__":\n    main()\n', "")
    reader.write_text(carried + PROBE.format(home=str(home), token=tmp_path.name))
    reading = read_confined(reader, paper(tmp_path / "r.pdf"), wall_s=30, max_output=10_000, confine=confine)
    assert reading.confined is confine
    assert reading.exit_code != 0
    lines = reading.output.decode().splitlines()
    assert "MemoryError" in lines[-1]
    return dict(line.split() for line in lines if line.count(" ") == 1)


def test_the_confined_reader_can_do_nothing(tmp_path: Path) -> None:
    """In bubblewrap a reader that was taken over sees no home, no network and no place to write; it cannot fork."""
    if shutil.which("bwrap") is None:
        missing("bubblewrap is not installed")
    found = probe(tmp_path, confine=True)
    assert found.pop("user") != "0"
    assert found == dict.fromkeys(("fork", "write", "home", "network"), "no")


def test_without_bubblewrap_the_limits_hold(tmp_path: Path) -> None:
    """Where there is no bubblewrap, it still cannot fork, fill a file, or take memory, and it is not root."""
    found = probe(tmp_path, confine=False)
    assert (found["fork"], found["write"]) == ("no", "no")
    assert found["user"] != "0"


def test_what_a_reader_prints_is_bounded(tmp_path: Path) -> None:
    """A reader that never stops talking is ended at the bound, and one that never ends at the deadline."""
    talker = tmp_path / "talker.py"
    talker.write_text("while True: print('x' * 1000)\n")
    reading = read_confined(talker, talker, wall_s=60, max_output=50_000)
    assert (len(reading.output), reading.exit_code) == (50_000, None)
    talker.write_text("import time; print('here', flush=True); time.sleep(600)\n")
    assert read_confined(talker, talker, wall_s=1, max_output=10).exit_code is None


def test_a_reader_that_does_not_start_is_our_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reader process itself is broken, no team is told that its report is."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match="did not start"):
        examine_report(paper(tmp_path / "r.pdf"), LIMITS, confine=False)

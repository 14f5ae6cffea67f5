"""Reports: real PDFs, written by pypdf or by hand, read in the real child process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pypdf
import pytest

from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.intake import report
from ranker.intake.report import inspect_report
from ranker.settings import ReportLimits

LIMITS = ReportLimits()


def pdf(path: Path, pages: int, password: str | None = None) -> Path:
    writer = pypdf.PdfWriter()
    for _ in range(pages):
        writer.add_blank_page(595, 842)
    if password is not None:
        writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    writer.write(path)
    return path


def refusal(path: Path, limits: ReportLimits = LIMITS) -> str:
    with pytest.raises(ParticipantError) as refused:
        inspect_report(path, limits)
    (reason,) = refused.value.reasons
    return reason


def test_pages_are_counted(tmp_path: Path) -> None:
    """The longest report that the rules allow is accepted, with its true number of pages."""
    path = pdf(tmp_path / "r.pdf", 6)
    assert inspect_report(path, LIMITS) == report.Report(pages=6, size_bytes=path.stat().st_size)


def test_a_page_too_many_is_refused(tmp_path: Path) -> None:
    """One page above the configured number is refused, with both numbers."""
    assert "7 pages; expected 1 to 6" in refusal(pdf(tmp_path / "r.pdf", 7))
    assert "2 pages; expected 1 to 1" in refusal(pdf(tmp_path / "r.pdf", 2), ReportLimits(max_pages=1))


def test_a_stated_page_count_is_not_believed(tmp_path: Path) -> None:
    """/Count may lie: the pages themselves are counted."""
    path = pdf(tmp_path / "r.pdf", 7)
    data = path.read_bytes()
    assert b"/Count 7" in data
    path.write_bytes(data.replace(b"/Count 7", b"/Count 1"))
    assert "7 pages" in refusal(path)


@pytest.mark.parametrize("password", ["", "secret"])
def test_an_encrypted_report_is_refused(tmp_path: Path, password: str) -> None:
    """With and without a password to open it."""
    assert "encrypted" in refusal(pdf(tmp_path / "r.pdf", 1, password))


@pytest.mark.parametrize("data", [b"", b"PK\3\4" + b"x" * 100, b"x" * 2000 + b"%PDF-1.7"])
def test_what_is_no_pdf_is_refused(tmp_path: Path, data: bytes) -> None:
    """Other files, whatever their name, are refused without being parsed."""
    (tmp_path / "r.pdf").write_bytes(data)
    assert "not a PDF" in refusal(tmp_path / "r.pdf")


@pytest.mark.parametrize("keep", [9, 200])
def test_a_broken_pdf_is_the_participants_matter(tmp_path: Path, keep: int) -> None:
    """What pypdf stumbles over is a refusal, not a failure of ours."""
    path = pdf(tmp_path / "r.pdf", 3)
    path.write_bytes(path.read_bytes()[:keep])
    assert "cannot be read" in refusal(path)


def test_a_page_tree_without_end_is_refused(tmp_path: Path) -> None:
    """A page tree that contains itself neither hangs nor crashes us."""
    parts = [
        b"%PDF-1.4\n",
        b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n",
        b"2 0 obj<</Type/Pages/Count 1/Kids[3 0 R]>>endobj\n",
        b"3 0 obj<</Type/Pages/Count 1/Kids[2 0 R]/Parent 2 0 R>>endobj\n",
    ]
    offsets = [sum(map(len, parts[:i])) for i in range(1, 4)]
    table = b"xref\n0 4\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % at for at in offsets)
    start = sum(map(len, parts))
    trailer = b"trailer<</Size 4/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % start
    (tmp_path / "r.pdf").write_bytes(b"".join(parts) + table + trailer)
    assert refusal(tmp_path / "r.pdf")


def test_a_large_file_is_not_parsed(tmp_path: Path) -> None:
    """The size is bounded before anything is read."""
    path = pdf(tmp_path / "r.pdf", 1)
    assert "at most 100 are accepted" in refusal(path, ReportLimits(max_bytes=100))


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    """No file is the operator's matter."""
    with pytest.raises(UsageError, match="no such file"):
        inspect_report(tmp_path / "r.pdf", LIMITS)


def test_the_reader_cannot_write_files(tmp_path: Path) -> None:
    """The limits are in force before pypdf is imported: the reader process cannot write a byte to a file."""
    script = (
        "import sys, pathlib; from ranker.intake import report\n"
        f"sys.argv[1:] = [{str(pdf(tmp_path / 'r.pdf', 1))!r}]; report.main()\n"
        f"pathlib.Path({str(tmp_path / 'out')!r}).write_bytes(b'x')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert '"pages": 1' in ended.stdout
    assert (tmp_path / "out").stat().st_size == 0


def test_a_reader_that_does_not_start_is_our_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the reader process itself is broken, no team is told that its report is."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InfraError, match="ended with 1"):
        inspect_report(pdf(tmp_path / "r.pdf", 1), LIMITS)

"""requirements.txt: what may stand in it, and that every other line is refused with a sentence of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranker.errors import ParticipantError
from ranker.intake import requirements

GOOD = """# what we need
librosa==0.11.0   # audio
transformers >= 4.50, < 5 ; python_version >= "3.10"
torch[extra]~=2.2

safetensors==0.5 \\
    --hash=sha256:{digest}
"""
BAD = {
    "-r other.txt": "option -r",
    "--index-url https://evil.example": "option --index-url",
    "--extra-index-url=https://evil.example": "option --extra-index-url",
    "-i https://evil.example": "option -i",
    "--find-links .": "option --find-links",
    "--trusted-host evil.example": "option --trusted-host",
    "--no-binary :all:": "option --no-binary",
    "-e .": "option -e",
    "-c constraints.txt": "option -c",
    "-f /x": "option -f",
    "git+https://example.org/x.git": "URL",
    "GIT+ssh://example.org/x": "URL",
    "https://example.org/x-1-py3-none-any.whl": "URL",
    "x @ https://example.org/x.whl": "URL",
    "x @ file:///etc/passwd": "URL",
    "./package": "path",
    "../package": "path",
    "/srv/package": "path",
    "~/package": "path",
    "wheels/x-1-py3-none-any.whl": "path",
    "x-1-py3-none-any.whl": "path",
    "x.tar.gz": "path",
    "C:\\wheels\\x": "path",
    "x == ": "cannot be read",
    "two words": "cannot be read",
    "x==1 --install-option=y": "cannot be read",
    "x==1 --global-option z": "cannot be read",
    "$HOME": "cannot be read",
    "${INDEX}": "cannot be read",
    "\x1b[31mred": "cannot be read",
    "x; python_version > '\x1b[31m'": "control or invisible",
    "x; python_version > '\u202e3'": "control or invisible",
}


def test_names_versions_markers_and_hashes_are_read() -> None:
    """What teams and pip-compile write is understood, and written anew."""
    digest = "ab" * 32
    assert requirements.parse(GOOD.format(digest=digest)) == [
        "librosa==0.11.0",
        'transformers<5,>=4.50; python_version >= "3.10"',
        "torch[extra]~=2.2",
        f"safetensors==0.5 --hash=sha256:{digest}",
    ]


@pytest.mark.parametrize("line", BAD)
def test_what_leads_elsewhere_is_refused(line: str) -> None:
    """Attacks through options, URLs, repositories and paths: the sentence names the line and what is wrong with it."""
    with pytest.raises(ParticipantError) as refused:
        requirements.parse(f"numpy\n{line}\n")
    (reason,) = refused.value.reasons
    assert reason.startswith("requirements.txt, line 2 (")
    assert BAD[line] in reason
    assert reason.isprintable()


def test_all_wrong_lines_are_told_at_once() -> None:
    """A team is not told of one line per attempt; a joined line has the number of its first."""
    with pytest.raises(ParticipantError) as refused:
        requirements.parse("-e .\nnumpy\nx \\\n  @ https://example.org/x\n./y")
    assert [reason.split(" (")[0] for reason in refused.value.reasons] == [
        "requirements.txt, line 1",
        "requirements.txt, line 3",
        "requirements.txt, line 5",
    ]


def test_files_that_are_none(tmp_path: Path) -> None:
    """No file, an empty one, one that is too long, and one that is no text."""
    path = tmp_path / requirements.NAME
    assert requirements.read(tmp_path) is None
    path.write_text("# nothing\n\n")
    assert requirements.read(tmp_path) == []
    path.write_bytes("\ufeffnumpy\n".encode())
    assert requirements.read(tmp_path) == ["numpy"]
    path.write_bytes(b"x\n" * 2 * requirements.MAX_LINES)
    with pytest.raises(ParticipantError, match="lines"):
        requirements.read(tmp_path)
    path.write_bytes("numpy\n".encode("utf-16"))
    with pytest.raises(ParticipantError, match="not UTF-8"):
        requirements.read(tmp_path)

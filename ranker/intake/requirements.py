"""Reading a submission's requirements.txt: names and versions only; what leads elsewhere is refused, line by line.

What is understood here is written anew for pip, so that nothing hides in the difference of two readers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from ranker.errors import ParticipantError
from ranker.sandbox.faults import plain

NAME = "requirements.txt"
MAX_BYTES = 200_000
MAX_LINES = 1000
_HASH = re.compile(r"--hash[= ](?P<hash>(?:sha256|sha384|sha512):[0-9a-fA-F]{64,128})(?=\s|$)")
_EXPECTED = "expected lines such as `librosa==0.11.0`"
_REPOSITORY = re.compile(r"(git|hg|svn|bzr)\+", re.IGNORECASE)


def read(root: Path) -> list[str] | None:
    """The requirements of a submission's root folder, one line each, normalised; None where there is no such file.

    Raises ParticipantError with a sentence for each line that cannot be used.
    """
    path = root / NAME
    if not path.is_file():
        return None
    raw = path.read_bytes()[: MAX_BYTES + 1]
    if len(raw) > MAX_BYTES or raw.count(b"\n") > MAX_LINES:
        raise ParticipantError(
            f"{NAME} has more than {MAX_BYTES:,} bytes or {MAX_LINES:,} lines; name what is needed only"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ParticipantError(f"{NAME} is not UTF-8; {_EXPECTED}") from None
    return parse(text)


def parse(text: str) -> list[str]:
    """The same for a file's text. Pure."""
    found, reasons = list[str](), list[str]()
    for number, line in _logical_lines(text):
        try:
            found.append(_normalised(line))
        except ValueError as error:
            reasons.append(f"{NAME}, line {number} ({plain(line, 100)}): {error}")
    if reasons:
        raise ParticipantError(reasons[:20])
    return found


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers: comments cut off, those that end in a backslash joined with the next."""
    joined, start = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        start = start if joined else number
        line = re.sub(r"(^|\s)#.*", "", line).rstrip()  # noqa: PLW2901
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if (joined + line).strip():
            yield start, (joined + line).strip()
        joined = ""
    if joined.strip():
        yield start, joined.strip()


def _normalised(line: str) -> str:
    """One line as pip is to read it. Raises ValueError with what is wrong."""
    hashes = [match["hash"].lower() for match in _HASH.finditer(line)]
    rest = _HASH.sub("", line).strip()
    if rest.startswith("-"):
        option = rest.split()[0].partition("=")[0]
        raise ValueError(f"the option {plain(option, 40)} is not accepted; {_EXPECTED}, nothing that leads elsewhere")
    if _REPOSITORY.match(rest) or "://" in rest.partition(";")[0]:
        raise ValueError(f"packages come from the index only, not from a URL or a repository; {_EXPECTED}")
    if (
        rest.startswith((".", "/", "~"))
        or re.match(r"[^\s;\[<>=!~@]*[/\\]", rest)
        or rest.endswith((".whl", ".tar.gz", ".zip"))
    ):
        raise ValueError(f"packages come from the index only, not from a path; {_EXPECTED}")
    try:
        requirement = Requirement(rest)
    except InvalidRequirement as error:
        raise ValueError(f"it cannot be read ({plain(str(error).splitlines()[0], 120)}); {_EXPECTED}") from None
    if requirement.url is not None:
        raise ValueError(f"packages come from the index only, not from a URL or a path; {_EXPECTED}")
    if not rest.replace("\t", " ").isprintable():
        raise ValueError(f"it has control or invisible characters; {_EXPECTED}")
    return " ".join([str(requirement), *(f"--hash={each}" for each in hashes)])

"""Links that people copy from a sharing service lead to a page about the file; these are the addresses of the file.

Each rewriting follows what the service says of its own links: Dropbox, "force a download" (`dl=1`); Google Drive,
`webContentLink` of its API and the confirmation that its page about large files asks for; Microsoft, "shares" of the
OneDrive API, and `download=1` of SharePoint; Nextcloud, `/s/TOKEN/download` of a public share.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit, urlunsplit

_DRIVE_FILE = re.compile(r"/file/(?:u/\d+/)?d/(?P<id>[\w-]{10,200})(/|$)", re.ASCII)
_DRIVE_ID = re.compile(r"[\w-]{10,200}", re.ASCII)
_NEXTCLOUD = re.compile(r"(/[\w./-]*)?/s/[A-Za-z0-9]{15}/?", re.ASCII)


def direct(url: str) -> str:
    """Where the bytes behind a share link are; any other address as it is, but in ASCII and without its fragment."""
    parts = urlsplit(url.strip())
    host = (parts.hostname or "").lower()
    if host in {"drive.google.com", "docs.google.com"}:
        return _drive(url)
    if host in {"www.dropbox.com", "dropbox.com"}:
        return _with_query(url, {"dl": "1"}, without={"raw"})
    if host in {"1drv.ms", "onedrive.live.com"}:
        token = base64.urlsafe_b64encode(url.strip().encode()).decode().rstrip("=")
        return f"https://api.onedrive.com/v1.0/shares/u!{token}/root/content"
    if host.endswith(".sharepoint.com"):
        return _with_query(url, {"download": "1"}, without=set())
    if _NEXTCLOUD.fullmatch(parts.path):
        return _plain(parts._replace(path=f"{parts.path.rstrip('/')}/download").geturl())
    return _plain(url)


def _drive(url: str) -> str:
    parts = urlsplit(url.strip())
    found = _DRIVE_FILE.match(parts.path)
    named = parse_qs(parts.query).get("id", [""])[0]
    if found is None and (parts.path not in {"/open", "/uc"} or not _DRIVE_ID.fullmatch(named)):
        return _plain(url)  # a folder, or a page: nothing that is one file
    asked = {"id": named if found is None else found["id"], "export": "download", "confirm": "t"}
    return f"https://drive.usercontent.google.com/download?{urlencode(asked)}"


def _with_query(url: str, wanted: dict[str, str], *, without: set[str]) -> str:
    parts = urlsplit(url.strip())
    left_out = wanted.keys() | without
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in left_out]
    return _plain(parts._replace(query=urlencode([*kept, *wanted.items()])).geturl())


def _plain(url: str) -> str:
    """The same address as it goes over the wire: letters outside of ASCII percent-encoded, names in IDNA."""
    parts = urlsplit(url.strip())
    try:
        netloc = parts.netloc.encode("idna").decode("ascii") if not parts.netloc.isascii() else parts.netloc
    except UnicodeError:
        netloc = parts.netloc  # no name of a host, which is said where it is asked
    path, query = (quote(part, safe="%/:@!$&'()*+,;=~?[]") for part in (parts.path, parts.query))
    return urlunsplit((parts.scheme, netloc, path, query, ""))

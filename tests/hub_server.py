"""A small model hub on the loopback: the part of the real one's HTTP interface that its client needs for downloads.

Large files are answered by a redirect to a second port, as the hub sends its clients to a content network: what the
client must not carry over there (its token) is seen in `requests`. Faults are told to it per file: see `Hub`.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 3  # entries of one page of a listing
LARGE = 1000  # bytes from which a file is stored as a large one


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request, as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    cdn: bool


@dataclass(kw_only=True)
class Repo:
    """Files of a repository per commit, and what its branches stand for."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    gated: bool = False
    claimed: dict[str, int] = field(default_factory=dict)  # sizes that the listing says instead of the true ones

    def at(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


# What to do instead of a plain answer to a request for a file's bytes. It gets the handler, the content from the asked
# byte on, and that byte; it returns whether it has answered.
Fault = Callable[["_Handler", bytes, int], bool]


@dataclass(kw_only=True)
class Hub:
    """What the server has and does; tests change it while it runs.

    `faults` maps a path in a repository to faults that its next requests meet, one after the other. `busy` holds
    answers (status, headers) that the next requests of any kind get. `token`: what "Authorization" must say where a
    repository is private to it.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    busy: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    token: str | None = None
    ranges: bool = True
    requests: list[Seen] = field(default_factory=list)
    endpoint: str = ""
    cdn: str = ""

    def put(self, name: str, files: Mapping[str, bytes], *, kind: str = "dataset", branch: str = "main") -> str:
        """A new commit of a repository, on a branch; returns its id."""
        listed = sorted((path, hashlib.sha256(content).hexdigest()) for path, content in files.items())
        commit = hashlib.sha1(f"{name}{listed}".encode()).hexdigest()
        repo = self.repos.setdefault(f"{kind}s/{name}", Repo(commits={}, branches={}))
        repo.commits[commit] = dict(files)
        repo.branches[branch] = commit
        return commit

    def bytes_requests(self, path: str) -> list[Seen]:
        """Requests for the content of a file, in order."""
        return [
            seen
            for seen in self.requests
            if seen.method == "GET" and seen.path.endswith(f"/{path}") and (seen.cdn or "/resolve/" in seen.path)
        ]


class NeverWaits(threading.Event):
    """Stands for the event that ends a wait: notes how long it would have been, and that nobody ended it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        return False


def cut_after(size: int) -> Fault:
    """The connection breaks after so many bytes."""

    def fault(handler: _Handler, content: bytes, start: int) -> bool:
        handler.head(206 if start else 200, content, start)
        handler.wfile.write(content[:size])
        handler.close_connection = True
        return True

    return fault


def hold_after(size: int, reached: threading.Event, release: threading.Event) -> Fault:
    """After so many bytes the rest waits for `release`; `reached` says that it has come so far."""

    def fault(handler: _Handler, content: bytes, start: int) -> bool:
        handler.head(206 if start else 200, content, start)
        handler.wfile.write(content[:size])
        handler.wfile.flush()
        reached.set()
        release.wait(60)
        handler.close_connection = True
        return True

    return fault


def damaged() -> Fault:
    """Every byte is another one."""

    def fault(handler: _Handler, content: bytes, start: int) -> bool:
        handler.head(206 if start else 200, content, start)
        handler.wfile.write(bytes(255 - byte for byte in content))
        return True

    return fault


def refuse(status: int, **headers: str) -> Fault:
    """An answer without content."""

    def fault(handler: _Handler, content: bytes, start: int) -> bool:
        handler.answer(status, {name.replace("_", "-"): value for name, value in headers.items()})
        return True

    return fault


@contextmanager
def serve() -> Iterator[Hub]:
    """A hub and its content network, until the block ends."""
    hub = Hub()
    servers = []
    for cdn in (False, True):
        handler = type("Handler", (_Handler,), {"hub": hub, "is_cdn": cdn})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    is_cdn: bool
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.handle_any()

    def do_GET(self) -> None:
        self.handle_any()

    def do_POST(self) -> None:
        self.handle_any()

    def handle_any(self) -> None:
        if self.path == "/api/agent-harnesses":  # the client asks this beside everything else, once a day
            self.answer(404, {})
            return
        self.hub.requests.append(
            Seen(
                method=self.command,
                path=unquote(urlsplit(self.path).path),
                headers={name.lower(): value for name, value in self.headers.items()},
                cdn=self.is_cdn,
            )
        )
        if self.hub.busy:
            status, headers = self.hub.busy.pop(0)
            self.answer(status, headers)
            return
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if self.is_cdn:
            self.file(parts[1], "/".join(parts[2:]))
        elif parts[0] == "api":
            self.api(parts[1:])
        else:
            self.resolve(parts if parts[0] in {"datasets", "spaces"} else ["models", *parts])

    def repo(self, kind: str, owner: str, name: str) -> Repo | None:
        """The repository, or None after the answer that the hub gives instead."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given != self.hub.token:
            self.answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            return None
        found = self.hub.repos.get(f"{kind}/{owner}/{name}")
        if found is None:
            self.answer(401 if not given else 404, {"X-Error-Code": "RepoNotFound"})
        elif found.gated and not given:
            self.answer(401, {"X-Error-Code": "GatedRepo"})
            found = None
        return found

    def api(self, parts: list[str]) -> None:
        kind, owner, name, *rest = parts
        repo = self.repo(kind, owner, name)
        if repo is None:
            return
        what, revision = rest[:2] if rest else ("revision", "main")
        commit = repo.at(revision)
        if commit is None:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif what == "revision":
            self.json({"id": f"{owner}/{name}", "sha": commit, "siblings": [], "tags": [], "private": False})
        elif what == "tree":
            self.tree(repo, commit)
        elif what == "paths-info":
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.json([entry(repo, commit, path) for path in form["paths"] if path in repo.commits[commit]])
        else:
            self.answer(404, {})

    def tree(self, repo: Repo, commit: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        folders = sorted({path.rpartition("/")[0] for path in repo.commits[commit]} - {""})
        entries = [{"type": "directory", "path": each, "oid": "0" * 40, "size": 0} for each in folders]
        entries += [entry(repo, commit, path) for path in sorted(repo.commits[commit])]
        start = int(query.get("cursor", ["0"])[0])
        more = start + PAGE < len(entries)
        link = f'<{self.hub.endpoint}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}>; rel="next"'
        self.json(entries[start : start + PAGE], {"Link": link} if more else {})

    def resolve(self, parts: list[str]) -> None:
        kind, owner, name, _, revision, *path = parts
        repo = self.repo(kind, owner, name)
        if repo is None:
            return
        commit = repo.at(revision)
        if commit is None:
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            return
        file = "/".join(path)
        if file not in repo.commits[commit]:
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        found = entry(repo, commit, file)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{found["oid"]}"'}
        if "lfs" in found:
            headers |= {
                "X-Linked-Etag": f'"{found["lfs"]["oid"]}"',
                "X-Linked-Size": str(found["size"]),
                "Location": f"{self.hub.cdn}/blob/{found['lfs']['oid']}/{file}",
            }
            self.answer(302, headers)
        else:
            self.content(file, repo.commits[commit][file], headers)

    def file(self, digest: str, path: str) -> None:
        """A large file's bytes, from the content network."""
        contents = [files[path] for repo in self.hub.repos.values() for files in repo.commits.values() if path in files]
        (content,) = {each for each in contents if hashlib.sha256(each).hexdigest() == digest}
        self.content(path, content, {"ETag": f'"{digest}"'})

    def content(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        asked = self.headers.get("Range", "") if self.hub.ranges else ""
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        faults = self.hub.faults.get(path, [])
        if self.command == "GET" and faults and faults.pop(0)(self, content[start:], start):
            return
        if start and start >= len(content):
            self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
            return
        self.head(206 if asked else 200, content[start:], start, headers)
        if self.command == "GET":
            self.wfile.write(content[start:])

    def head(self, status: int, content: bytes, start: int, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{start + len(content)}")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()

    def json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.head(200, content, 0, {"Content-Type": "application/json", **(headers or {})})
        self.wfile.write(content)

    def answer(self, status: int, headers: Mapping[str, str]) -> None:
        self.head(status, b"", 0, headers)


def entry(repo: Repo, commit: str, path: str) -> dict:
    """One file as listings describe it."""
    content = repo.commits[commit][path]
    size = repo.claimed.get(path, len(content))
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    found: dict = {"type": "file", "path": path, "size": size, "oid": git}
    if len(content) >= LARGE:
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return found

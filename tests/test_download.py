"""Files behind links: a real server on the loopback that cuts, redirects, lies, changes its mind and never ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from kills import is_killed_at
from link_server import LinkServer, endless, link_server, plain, raw, redirect, refusal

from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.intake.download import ATTEMPTS, MAX_REDIRECTS, download, forget, shown
from ranker.intake.sharing import direct
from ranker.settings import LinkSettings

SETTINGS = LinkSettings(max_bytes=1_000_000, timeout_s=30, idle_timeout_s=20, allow_http=True)
HERE = ("127.0.0.1", "localhost")


def packed(*, seed: int = 0, size: int = 300_000) -> bytes:
    """A ZIP of a size that takes several pieces to carry."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.bin", bytes((seed + i * i // 7) % 256 for i in range(1000)) * (size // 1000))
    return buffer.getvalue()


ONE, OTHER = packed(), packed(seed=1)


@pytest.fixture
def server() -> Iterator[LinkServer]:
    with link_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "link"


def get(server: LinkServer, folder: Path, path: str = "/x.zip", settings: LinkSettings = SETTINGS) -> bytes:
    return download(server.url(path), folder, settings=settings, private=HERE).file.read_bytes()


def test_a_file_comes_whole_with_what_its_server_says(server: LinkServer, folder: Path) -> None:
    """Name, time of change and progress; no identity of ours beyond the program's; asked once, then never again."""
    name = "attachment; filename*=UTF-8''..%2FTeam%20%C3%84rmel.zip"
    server.answers["/x.zip"] = [plain(ONE, Content_Disposition=name, Last_Modified="Thu, 12 Feb 2026 23:00:00 GMT")]
    told: list[tuple[int, int | None]] = []
    found = download(
        server.url("/x.zip"), folder, settings=SETTINGS, private=HERE, on_bytes=lambda *far: told.append(far)
    )
    assert found.file.read_bytes() == ONE
    assert (found.name, found.host) == ("Team Ärmel.zip", "127.0.0.1")
    assert found.changed_at == "Thu, 12 Feb 2026 23:00:00 GMT"
    assert told[0] == (0, len(ONE))
    assert told[-1] == (len(ONE), len(ONE))
    assert {"Cookie", "Authorization", "Referer"}.isdisjoint(server.seen[0][1])
    get(server, folder)
    assert len(server.seen) == 1
    forget(folder)
    assert not folder.exists()


def test_what_was_cut_is_gone_on_with(server: LinkServer, folder: Path) -> None:
    """Two cuts in the middle: each further request asks for the rest only, of the same file."""
    cuts = [100_000, 200_000]
    server.answers["/x.zip"] = [*(plain(ONE, cut_at=cut) for cut in cuts), plain(ONE)]
    assert get(server, folder) == ONE
    assert [fields.get("Range") for _, fields in server.seen] == [None, "bytes=100000-", "bytes=200000-"]
    assert [fields.get("If-Range") for _, fields in server.seen] == [None, '"one"', '"one"']


def test_content_that_changes_between_ranges_is_never_mixed(server: LinkServer, folder: Path) -> None:
    """A new version by If-Range, by a lying 206 with another ETag, of another length, or from another byte: anew."""
    cut = 100_000

    def part(etag: str, total: int, first: int) -> bytes:
        head = f"HTTP/1.1 206 OK\r\nETag: {etag}\r\nContent-Range: bytes {first}-{total - 1}/{total}\r\n\r\n"
        return head.encode() + OTHER[first:]

    second = [
        plain(OTHER, etag='"two"'),
        raw(part('"two"', len(OTHER), cut)),
        raw(part('"one"', len(OTHER) + 1, cut)),
        raw(part('"one"', len(OTHER), cut + 1)),
        refusal(416),
    ]
    for number, answer in enumerate(second):
        server.answers["/x.zip"] = [plain(ONE, cut_at=cut), answer, plain(OTHER, etag='"two"')]
        assert get(server, folder.with_name(f"link{number}")) == OTHER
    assert len(server.seen) == 2 + 3 * (len(second) - 1)


def test_without_a_strong_validator_nothing_is_resumed(server: LinkServer, folder: Path) -> None:
    """A weak ETag, or none, cannot say that two halves are of one file."""
    for etag in (None, 'W/"one"'):
        server.seen.clear()
        server.answers["/x.zip"] = [plain(ONE, etag=etag, cut_at=100_000), plain(OTHER, etag=etag)]
        assert get(server, folder) == OTHER
        assert [fields.get("Range") for _, fields in server.seen] == [None, None]
        forget(folder)


def test_a_server_that_always_cuts_is_given_up(server: LinkServer, folder: Path) -> None:
    """After a few attempts it is our failure to try again later, and the beginning is kept for that."""
    server.answers["/x.zip"] = [plain(ONE, cut_at=100_000)]
    with pytest.raises(InfraError, match=f"cut off {ATTEMPTS} times .*same command goes on"):
        get(server, folder)
    server.answers["/x.zip"] = [plain(ONE)]
    assert get(server, folder) == ONE
    assert server.seen[-1][1]["Range"] == "bytes=100000-"


def test_kills_at_any_step_are_gone_on_from(server: LinkServer, tmp_path: Path) -> None:
    """SIGKILL before each touch of a file: the next call has the whole file, and no byte twice."""
    server.answers["/x.zip"] = [plain(ONE)]
    step = 1
    while is_killed_at(step, folder := tmp_path / f"link{step}", lambda _touch, folder=folder: get(server, folder)):
        assert get(server, folder) == ONE
        step += 1
    assert step > 5, "the steps of a download were seen"


@pytest.mark.parametrize("length", [len(ONE) + 1, None], ids=["more than comes", "not said"])
def test_a_length_that_lies_is_no_whole_file(server: LinkServer, folder: Path, length: int | None) -> None:
    """Fewer bytes than promised, or an end without the end of an archive, are not taken for a file."""
    said = b"" if length is None else f"Content-Length: {length}\r\n".encode()
    server.answers["/x.zip"] = [raw(b"HTTP/1.1 200 OK\r\n", said, b"\r\n", ONE[:-100])]
    with pytest.raises(InfraError, match="cut off"):
        get(server, folder)


def test_a_length_that_is_not_said_is_found(server: LinkServer, folder: Path) -> None:
    """An answer that ends with its connection, or in chunks, is whole where an archive ends."""
    server.answers["/x.zip"] = [raw(b"HTTP/1.1 200 OK\r\n\r\n", ONE)]
    assert get(server, folder) == ONE
    chunk = f"{len(ONE):x}\r\n".encode()
    server.answers["/y.zip"] = [
        raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, ONE, b"\r\n0\r\n\r\n")
    ]
    assert get(server, folder.with_name("other"), "/y.zip") == ONE


def test_too_many_bytes_are_not_taken(server: LinkServer, folder: Path) -> None:
    """Announced, or without an end: it stops at the bound, and says which setting that is."""
    server.answers["/x.zip"] = [plain(packed(size=1_100_000))]
    server.answers["/endless.zip"] = [endless(server.over)]
    for path in ("/x.zip", "/endless.zip"):
        with pytest.raises(ParticipantError, match=r"more than the 1,000,000 bytes .*links\.max_bytes"):
            get(server, folder, path)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1_100_000


def test_too_much_time_is_not_given(server: LinkServer, folder: Path) -> None:
    """A server that falls silent within its header, or within the file, ends with the time that is allowed."""
    silent = threading.Event()
    answers = [
        raw(b"HTTP/1.1 200 OK\r\nX-Slow: ", then_wait_for=silent),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\nPK\x03\x04", then_wait_for=silent),
    ]
    for number, answer in enumerate(answers):
        server.answers["/x.zip"] = [answer]
        with pytest.raises(InfraError, match=r"not whole after 0\.3 s"):
            get(server, folder.with_name(f"f{number}"), settings=SETTINGS.model_copy(update={"timeout_s": 0.3}))
    silent.set()


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>" + bytes(500_000), "text/html; charset=utf-8", "asks to sign in"),
        (b"<html>", "application/octet-stream", "asks to sign in"),
        (b"\x1f\x8b" + bytes(900), "application/gzip", "is a gzip file; expected a ZIP"),
        (b"Rar!" + bytes(900), "application/zip", "is a RAR archive; expected a ZIP"),
        (b"no", "text/plain", "is something else"),
        (b"", "application/zip", "is something else"),
    ],
)  # fmt: skip
def test_what_is_no_zip_is_told_by_its_bytes(
    server: LinkServer, folder: Path, content: bytes, kind: str, words: str
) -> None:
    """A page about the file, or another kind of archive, is the team's to mend; a server's word does not count."""
    server.answers["/x.zip"] = [plain(content, kind=kind)]
    with pytest.raises(ParticipantError, match=words):
        get(server, folder)
    assert len(server.seen) == 1


def test_refusals_are_the_teams_and_troubles_are_not(server: LinkServer, folder: Path) -> None:
    """404 and 403 are for the team; 429 and 503 for later."""
    for status, kind in ((404, ParticipantError), (403, ParticipantError), (429, InfraError), (503, InfraError)):
        server.answers["/x.zip"] = [refusal(status)]
        with pytest.raises(kind, match=str(status)):
            get(server, folder)


def test_an_encoding_that_was_not_asked_for_is_refused(server: LinkServer, folder: Path) -> None:
    """What is compressed on the way could be a bomb, and would have another digest."""
    server.answers["/x.zip"] = [plain(ONE, Content_Encoding="gzip")]
    with pytest.raises(InfraError, match="encoded"):
        get(server, folder)


# -- where a link may lead


@pytest.mark.parametrize(
    "to",
    [
        "http://127.0.0.2:{port}/x.zip",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]:{port}/x.zip",
        "http://2130706433:{port}/x.zip",
        "http://0x7f000001/x.zip",
        "http://10.0.0.1/x.zip",
        "http://name.test/x.zip",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x.zip",
        "//127.0.0.2/x.zip",
        "http://user:word@127.0.0.1:{port}/x.zip",
    ],
)
def test_no_redirect_leads_to_a_machine_of_ours(server: LinkServer, folder: Path, to: str) -> None:
    """An allowed server sends us on: each hop is judged by what its name resolves to, and nothing is asked there."""

    def resolve(host: str, port: int) -> list[str]:
        del port
        return {"name.test": ["93.184.216.34", "10.1.2.3"]}.get(host, [host])

    server.answers["/x.zip"] = [redirect(to.format(port=server.port))]
    with pytest.raises(UsageError):
        download(server.url("/x.zip"), folder, settings=SETTINGS, private=["127.0.0.1"], resolve=resolve)
    assert [path for path, _ in server.seen] == ["/x.zip"]


def test_the_judged_address_is_the_one_that_is_used(server: LinkServer, folder: Path) -> None:
    """A name is asked for once per request: a second answer, private this time, would come too late."""
    asked: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        del port
        asked.append(host)
        return ["127.0.0.1"]

    server.answers["/x.zip"] = [redirect("/there/", 307)]
    server.answers["/there/"] = [plain(ONE)]
    url = server.url("/x.zip", "mirror.test")
    found = download(url, folder, settings=SETTINGS, private=["mirror.test"], resolve=resolve)
    assert found.file.read_bytes() == ONE
    assert asked == ["mirror.test", "mirror.test"]
    assert found.name == "x.zip"
    with pytest.raises(UsageError, match=r"mirror\.test \(127\.0\.0\.1\), which is no public address"):
        download(url, folder.with_name("other"), settings=SETTINGS, private=[], resolve=resolve)


def test_redirects_end(server: LinkServer, folder: Path) -> None:
    """A circle of redirects, and one to nowhere, are the team's to mend."""
    server.answers["/x.zip"] = [redirect("/x.zip")]
    with pytest.raises(ParticipantError, match=f"more than {MAX_REDIRECTS} times"):
        get(server, folder)
    assert len(server.seen) == MAX_REDIRECTS + 1
    server.answers["/y.zip"] = [raw(b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n")]
    with pytest.raises(ParticipantError, match="to nowhere"):
        get(server, folder, "/y.zip")


def test_http_is_asked_only_where_it_is_allowed(server: LinkServer, folder: Path) -> None:
    """By default https alone, and the server hears nothing."""
    with pytest.raises(UsageError, match=r"not https; .*links\.allow_http"):
        get(server, folder, settings=LinkSettings())
    assert server.seen == []


def test_a_server_that_cannot_be_reached_is_for_later(tmp_path: Path) -> None:
    """A closed port, and a name that is none, are not the team's fault."""
    with pytest.raises(InfraError, match="cannot be reached"):
        download("http://127.0.0.1:1/x.zip", tmp_path / "a", settings=SETTINGS, private=HERE)

    def nothing(host: str, port: int) -> list[str]:
        raise OSError(f"no such name: {host}:{port}")

    with pytest.raises(InfraError, match="no such name"):
        download("http://x.test/x.zip", tmp_path / "b", settings=SETTINGS, private=[], resolve=nothing)


@pytest.mark.skipif(
    shutil.which("openssl") is None and not os.environ.get("CI"), reason="openssl makes the certificate"
)
def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that nobody trusts is refused; once it is trusted, for its own name only, the file comes."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=mirror.test", "-addext", "subjectAltName=DNS:mirror.test"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words, *names, *files], check=True, capture_output=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            plain(ONE)(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that does not trust it hangs up

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    def ask(name: str) -> bytes:
        return download(
            f"https://{name}:{server.server_address[1]}/x.zip",
            tmp_path / name,
            settings=SETTINGS,
            private=["mirror.test", "other.test"],
            resolve=lambda _host, _port: ["127.0.0.1"],
        ).file.read_bytes()

    with Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=[0.01], daemon=True)
        thread.start()
        try:
            with pytest.raises(InfraError, match="cannot be trusted"):
                ask("mirror.test")
            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            assert ask("mirror.test") == ONE
            with pytest.raises(InfraError, match="cannot be trusted"):
                ask("other.test")
        finally:
            server.shutdown()
            thread.join()


# -- addresses


@pytest.mark.parametrize(
    ("shared", "file"),
    [
        (
            "https://drive.google.com/file/d/1aB-cdEFghij_KLmnop/view?usp=sharing",
            "https://drive.usercontent.google.com/download?id=1aB-cdEFghij_KLmnop&export=download&confirm=t",
        ),
        (
            "https://drive.google.com/open?id=1aB-cdEFghij_KLmnop",
            "https://drive.usercontent.google.com/download?id=1aB-cdEFghij_KLmnop&export=download&confirm=t",
        ),
        (
            "https://drive.google.com/drive/folders/1aB-cdEFghij_KLmnop",
            "https://drive.google.com/drive/folders/1aB-cdEFghij_KLmnop",
        ),
        (
            "https://www.dropbox.com/scl/fi/abc/team.zip?rlkey=k&dl=0",
            "https://www.dropbox.com/scl/fi/abc/team.zip?rlkey=k&dl=1",
        ),
        (
            "https://1drv.ms/u/s!AbC",
            "https://api.onedrive.com/v1.0/shares/u!aHR0cHM6Ly8xZHJ2Lm1zL3UvcyFBYkM/root/content",
        ),
        (
            "https://uni-my.sharepoint.com/:u:/g/personal/x/Ed1?e=4bZ",
            "https://uni-my.sharepoint.com/:u:/g/personal/x/Ed1?e=4bZ&download=1",
        ),
        ("https://cloud.uni.example/s/AbCdEfGhIjKlMnO", "https://cloud.uni.example/s/AbCdEfGhIjKlMnO/download"),
        (
            "https://cloud.uni.example/index.php/s/AbCdEfGhIjKlMnO/",
            "https://cloud.uni.example/index.php/s/AbCdEfGhIjKlMnO/download",
        ),
        ("https://bücher.example/ä b.zip#top", "https://xn--bcher-kva.example/%C3%A4%20b.zip"),
        ("https://example.org/a%20b.zip?x=%2F&y", "https://example.org/a%20b.zip?x=%2F&y"),
    ],
)  # fmt: skip
def test_share_links_become_addresses_of_files(shared: str, file: str) -> None:
    """What people paste leads to a page; what is asked is the file, and asking for that changes nothing more."""
    assert direct(shared) == file
    assert direct(file) == file


def test_keys_in_addresses_are_not_shown() -> None:
    """What stands behind the question mark lets anybody in: messages and logs do without."""
    assert shown("https://x.example/f.zip?sig=secret#part") == "https://x.example/f.zip?…"


def test_notes_that_make_no_sense_begin_anew(server: LinkServer, folder: Path) -> None:
    """A damaged note, or one of another address, is no reason to go on with what lies there."""
    server.answers["/x.zip"] = [plain(ONE)]
    for note in ("{", "[]", json.dumps({"url": "x"})):
        folder.mkdir()
        (folder / "content.json").write_text(note)
        (folder / "content.part").write_bytes(b"other")
        assert get(server, folder) == ONE
        forget(folder)

"""`ranker serve`: what a browser gets, and what nobody gets: files outside, links, other machines, other sites."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ranker.cli import main
from ranker.cli.serve import HEADERS, Server

INDEX = b"<!doctype html><p>front</p>"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "submission").mkdir(parents=True)
    (root / "index.html").write_bytes(INDEX)
    (root / "submission" / "index.html").write_bytes(b"inner")
    (root / "submission" / "a b\N{WHITE SMILING FACE}.json").write_bytes(b"{}")
    (root / "table.parquet").write_bytes(b"PAR1")
    (root / ".secret").write_bytes(b"hidden")
    (tmp_path / "outside.html").write_bytes(b"outside")
    (root / "leads-out.html").symlink_to(tmp_path / "outside.html")
    (root / "leads-up").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def server(site: Path) -> Iterator[Server]:
    with Server(site, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, path: str, method: str = "GET", host: str = "") -> tuple[int, bytes, http.client.HTTPMessage]:
    """The raw path is sent as it stands, as no browser would."""
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.headers
    connection.close()
    return found


def test_files_come_with_their_type_and_strict_headers(server: Server) -> None:
    """Pages, data and tables, names that need quoting, folders by their index; HEAD without a body."""
    code, body, headers = ask(server, "/")
    assert (code, body, headers["Content-Type"]) == (200, INDEX, "text/html; charset=utf-8")
    assert ask(server, "/index.html?sort=team#x")[1] == INDEX
    assert ask(server, "/submission/")[1] == b"inner"
    code, _, headers = ask(server, "/submission")
    assert (code, headers["Location"]) == (301, "/submission/")
    code, body, headers = ask(server, "/submission/a%20b%E2%98%BA.json")
    assert (code, body, headers["Content-Type"]) == (200, b"{}", "application/json; charset=utf-8")
    code, body, headers = ask(server, "/table.parquet", "HEAD")
    assert (code, body, headers["Content-Length"], headers["Content-Disposition"]) == (200, b"", "4", "attachment")
    for path in ("/", "/nothing", "/submission"):
        found = ask(server, path)[2]
        assert {name: found[name] for name in HEADERS} == HEADERS
    assert "connect-src 'self'" in HEADERS["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in HEADERS["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/../outside.html", "/%2e%2e/outside.html", "/..%2foutside.html", "/submission/../../outside.html",
        "/submission/..%2f..%2foutside.html", "/..\\outside.html", "/%5c..%5coutside.html", "//etc/passwd",
        "/leads-out.html", "/leads-up/outside.html", "/leads-up/", "/.secret", "/%2esecret", "/index.html%00.json",
        "/index.html/x", "/pipe", "/" + "a" * 5000, "/%ff%fe", "/nothing.html", "http://127.0.0.1/../outside.html",
    ],
)  # fmt: skip
def test_nothing_outside_comes_and_no_listing(server: Server, path: str) -> None:
    """Attacks with paths that climb, links that lead out, hidden names, pipes, and names that are none."""
    code, body, _ = ask(server, path)
    assert code == 404
    assert body == b"there is no such file\n"


def test_a_folder_without_an_index_is_not_listed(server: Server, site: Path) -> None:
    """Attacks with a folder whose names nobody linked to."""
    (site / "submission" / "index.html").unlink()
    assert ask(server, "/submission/")[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example"]
)
def test_a_site_of_the_web_that_calls_itself_by_our_address_reads_nothing(server: Server, host: str) -> None:
    """Attacks with DNS rebinding: the browser asks us under another site's name."""
    code, body, _ = ask(server, "/", host=host)
    assert code == 421
    assert INDEX not in body
    assert ask(server, "/", host=f"localhost:{server.server_address[1]}")[1] == INDEX


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_it_only_shows(server: Server, method: str) -> None:
    """Attacks with requests that want something done."""
    code, _, headers = ask(server, "/index.html", method)
    assert code == 501
    assert headers["Server"] == "ranker"


def test_only_this_machine_can_ask(server: Server) -> None:
    """It listens on the loopback alone, and shows what is there now: a page that was swapped in, or none."""
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert server.socket.family == socket.AF_INET
    server.root.rename(server.root.with_name("old"))
    assert ask(server, "/")[0] == 404
    server.root.mkdir()
    (server.root / "index.html").write_bytes(b"new")
    assert ask(server, "/")[1] == b"new"


def test_it_prints_where_it_is_and_ends_at_ctrl_c(site: Path) -> None:
    """As its own process, with any free port: one line to click, exit code 0, nothing else said."""
    command = [sys.executable, "-m", "ranker", "serve", str(site), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().read() == INDEX
        connection.close()
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert "to this machine alone" in complained
    assert "Traceback" not in complained


def test_what_cannot_be_shown_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No page yet, no folder, a port that is taken: one sentence with the next step."""

    def typed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(tmp_path), "serve", *arguments])
        assert left.value.code == 2
        return capsys.readouterr().err

    assert "`ranker publish` writes it" in typed()
    assert "`ranker leaderboard` writes it" in typed("--preview")
    assert "do not go together" in typed(str(tmp_path), "--preview")
    assert "is no folder" in typed(str(tmp_path / "nothing"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert "give another, or 0" in typed(str(tmp_path), "--port", port)

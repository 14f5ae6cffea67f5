"""Mail servers on the loopback: Debian's dovecot for IMAP, aiosmtpd for SMTP, both with a certificate made here."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import getpass
import grp
import imaplib
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from engine import missing

from ranker.settings import Imap, Smtp

USER = "inbox@example.org"
PASSWORD = 'pâss "word" \\ 2026'
TOKEN = "ya29.a-token-of-tests"
START_TIMEOUT_S = 20


def certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-made certificate for `name` and 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = f"subjectAltName=DNS:{name}" + (",IP:127.0.0.1" if name == "localhost" else "")
    command += ["-days", "2", "-subj", f"/CN={name}", "-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@dataclass(kw_only=True)
class Dovecot:
    """A running IMAP server: `imaps` speaks TLS at once, `imap` after STARTTLS. Any user may log in with PASSWORD."""

    imaps: int
    imap: int
    ca_file: Path
    log: Path

    def settings(self, **changes: Any) -> Imap:
        fields = {"host": "127.0.0.1", "port": self.imaps, "user": USER, "ca_file": self.ca_file, "timeout_s": 20}
        return Imap.model_validate(fields | changes)

    @contextlib.contextmanager
    def client(self, user: str = USER) -> Iterator[imaplib.IMAP4]:
        """A mail program of the mailbox's owner, in INBOX."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with imaplib.IMAP4_SSL("127.0.0.1", self.imaps, ssl_context=context, timeout=20) as client:
            client.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
            client.select("INBOX")
            yield client

    def deliver(self, *messages: bytes, user: str = USER, folder: str = "INBOX", at: str | None = None) -> None:
        """Put messages into a folder; `at` as in INTERNALDATE."""
        with self.client(user) as client:
            for message in messages:
                kind, words = client.append(folder, None, at, message)  # type: ignore[arg-type]
                assert kind == "OK", words

    def flags(self, user: str = USER, folder: str = "INBOX") -> dict[str, set[str]]:
        """Subject of each message of a folder -> its flags."""
        with self.client(user) as client:
            client.select(folder)
            _, lines = client.fetch("1:*", "(FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            found = {}
            for line in lines:
                if isinstance(line, tuple):
                    subject = line[1].decode().removeprefix("Subject:").strip()
                    flags = {flag.decode() for flag in imaplib.ParseFlags(line[0])}
                    found[subject] = flags - {r"\Recent"}
            return found


CONFIG = """
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = imap
listen = 127.0.0.1
ssl = required
ssl_cert = <{cert}
ssl_key = <{key}
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {internal}
auth_mechanisms = plain login xoauth2
mail_location = maildir:~/Maildir
mail_max_userip_connections = 100
mail_max_keyword_length = 50
first_valid_uid = 1
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
auth_failure_delay = 0
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
passdb {{
  driver = static
  mechanisms = plain login
  args = password={password}
}}
passdb {{
  driver = oauth2
  mechanisms = xoauth2
  args = {folder}/oauth2.conf
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={folder}/mail/%u
}}
"""


@contextlib.contextmanager
def dovecot() -> Iterator[Dovecot]:
    """An IMAP server of our own, as root or not, until the block ends. Fails in CI, skips elsewhere, without one."""
    program = shutil.which("dovecot") or shutil.which("dovecot", path="/usr/sbin")
    if program is None:
        missing("no IMAP server: Debian's package dovecot-imapd is needed")
        return
    me = pwd.getpwuid(os.geteuid())
    owner = pwd.getpwnam("nobody") if me.pw_uid == 0 else me  # dovecot opens no mailbox of root's
    folder = Path(tempfile.mkdtemp(prefix="ranker-imap-", dir="/tmp"))  # sockets' paths must be short
    introspection = _Introspection()
    try:
        folder.chmod(0o755)
        cert, key = certificate(folder)
        (folder / "mail").mkdir()
        os.chown(folder / "mail", owner.pw_uid, owner.pw_gid)
        running = Dovecot(imaps=free_port(), imap=free_port(), ca_file=cert, log=folder / "dovecot.log")
        config = CONFIG.format(
            folder=folder, cert=cert, key=key, imap=running.imap, imaps=running.imaps,
            internal="dovecot" if me.pw_uid == 0 else getpass.getuser(),
            group="dovecot" if me.pw_uid == 0 else grp.getgrgid(me.pw_gid).gr_name,
            uid=owner.pw_uid, gid=owner.pw_gid, password="{PLAIN.b64}" + base64.b64encode(PASSWORD.encode()).decode(),
        )  # fmt: skip
        (folder / "dovecot.conf").write_text(config)
        (folder / "oauth2.conf").write_text(
            f"introspection_url = http://127.0.0.1:{introspection.port}/\nintrospection_mode = post\n"
            "username_attribute = username\nactive_attribute = active\nactive_value = true\n"
        )
        process = subprocess.Popen([program, "-F", "-c", folder / "dovecot.conf"], stdin=subprocess.DEVNULL)
        try:
            _await_port(running.imaps, process, running.log)
            yield running
        finally:
            process.terminate()
            process.wait(timeout=START_TIMEOUT_S)
    finally:
        introspection.close()
        shutil.rmtree(folder, ignore_errors=True)


class _Introspection:
    """The provider's side of OAuth2 (RFC 7662), which dovecot asks whose token it was shown."""

    def __init__(self) -> None:
        import http.server
        import json
        import urllib.parse

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                is_known = urllib.parse.parse_qs(body).get("token") == [TOKEN]
                answer = json.dumps({"active": is_known} | ({"username": USER} if is_known else {})).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    import time

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            pytest.fail(log.read_text() if log.exists() else "dovecot did not start")
        threading.Event().wait(0.02)


@dataclass(kw_only=True)
class Postbox:
    """A running SMTP server, and what it took. `obey` is asked at each step of a message ("MAIL", "RCPT", "DATA" with
    the envelope): an answer that it gives goes out instead of the server's own; "hang up" ends the connection.
    """

    port: int = 0
    ca_file: Path = Path()
    taken: list[Envelope] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    obey: Callable[[str, Envelope], str | None] = lambda _step, _envelope: None

    def settings(self, **changes: Any) -> Smtp:
        fields = {
            "from": "The organizers <challenge@example.org>", "host": "127.0.0.1", "port": self.port, "user": USER,
            "ca_file": self.ca_file, "timeout_s": 20,
        }  # fmt: skip
        return Smtp.model_validate(fields | changes)


class _Handler:
    def __init__(self, box: Postbox) -> None:
        self.box = box

    def _step(self, server: SMTP, step: str, envelope: Envelope) -> str | None:
        self.box.steps.append(step)
        answer = self.box.obey(step, envelope)
        if answer == "hang up":
            assert server.transport is not None
            server.transport.abort()
        return answer

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if (answer := self._step(server, "MAIL", envelope)) is not None:
            return answer
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        if (answer := self._step(server, "RCPT", envelope)) is not None:
            envelope.rcpt_tos.pop()
            return answer
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        answer = self._step(server, "DATA", envelope)
        if answer is None or answer == "hang up":
            self.box.taken.append(envelope)  # a server that dies after the last byte may well have the message
        return answer or "250 OK"


@contextlib.contextmanager
def smtp_server(*, utf8: bool = True, implicit: bool = False) -> Iterator[Postbox]:
    """An SMTP server that demands TLS and a login, until the block ends."""
    box = Postbox()
    folder = Path(tempfile.mkdtemp(prefix="ranker-smtp-"))
    cert, key = certificate(folder)
    box.ca_file = cert
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        login, password = (data.login, data.password) if isinstance(data, LoginPassword) else (b"", b"")
        box.logins.append((login.decode(), password.decode()))
        return AuthResult(success=(login.decode(), password.decode()) == (USER, PASSWORD), handled=False)

    loop = asyncio.new_event_loop()

    def protocol() -> SMTP:
        # It knows of no TLS below itself, and warns.
        with warnings.catch_warnings(action="ignore"):
            return made()

    def made() -> SMTP:
        return SMTP(
            _Handler(box), hostname="localhost", enable_SMTPUTF8=utf8, authenticator=authenticate, auth_required=True,
            require_starttls=not implicit, tls_context=None if implicit else context,
            auth_require_tls=not implicit, loop=loop,
        )  # fmt: skip

    server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", 0, ssl=context if implicit else None))
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield box
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_ended(server))
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


async def _ended(server: asyncio.Server) -> None:
    """No longer listening, and no connection left."""
    server.close()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def mail(subject: str = "Our submission", body: str = "Hello.", **headers: str) -> bytes:
    """A plain message as a person's program writes it."""
    message = EmailMessage()
    fields = {"From": "Ada <ada@lab.example>", "To": USER, "Subject": subject, "Message-ID": f"<{subject}@lab.example>"}
    for name, value in (fields | {name.replace("_", "-"): value for name, value in headers.items()}).items():
        message[name] = value
    message.set_content(body)
    return message.as_bytes()

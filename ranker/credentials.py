"""What a mail server is shown, and what it must show: passwords and tokens, and whose certificates are trusted."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from ranker.errors import UsageError

_READABLE_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_MAX_BYTES = 100_000


def secret(variable: str, file: Path | None) -> str:
    """A password or token: that of the environment, else the content of `file`, which nobody else may read.

    Raises UsageError where there is none, or the file is not one's own alone. No message holds any part of it.
    """
    given = os.environ.get(variable)
    if given:
        return _one_line(given, variable)
    if file is None:
        raise UsageError(
            f"there is no password: expected it in the variable {variable}, or in a file of mode 0600 that "
            "`secret_file` of configs/service.yaml names"
        )
    path = file.expanduser()
    try:
        with path.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if mode & _READABLE_BY_OTHERS:
                raise UsageError(
                    f"{path} holds a password and can be read by others (mode {stat.S_IMODE(mode):04o}); expected "
                    f"0600: chmod 600 {path}, and change the password if others use this machine"
                )
            return _one_line(opened.read(_MAX_BYTES).decode("utf-8", "strict"), str(path))
    except OSError as error:
        raise UsageError(f"the password file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"the password file {path} is not UTF-8 text; expected one line with the password") from None


def _one_line(text: str, where: str) -> str:
    value = text.rstrip("\r\n")
    if not value or any(character in value for character in "\r\n\0"):
        raise UsageError(f"{where}: expected one line that is not empty, the password; found something else")
    return value


def bearer(user: str, token: str) -> str:
    """The initial response of SASL XOAUTH2 (developers.google.com/gmail/imap/xoauth2-protocol), not yet in base64."""
    return f"user={user}\1auth=Bearer {token}\1\1"


def scrubbed(words: object, hidden: str) -> str:
    """A server's words on one line of at most 300 characters, without the secret, should the server repeat it."""
    text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
    text = text.replace(hidden, "(secret)") if hidden else text
    shown = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(shown.split())[:300]


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS that verifies the server's certificate and name, by `ca_file` alone or by what this machine trusts.

    Raises UsageError.
    """
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file.expanduser()))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"ca_file {ca_file}: expected a PEM file of certificates; {error}") from None

"""When two spellings of a name or of an address are the same, and when two names only look it."""

from __future__ import annotations

import contextlib
import functools
import re
import unicodedata

ADDRESS = re.compile(r"[^@\s<>()\[\],;:\"\\]+@[^@\s<>()\[\],;:\"\\]+\.[^@\s<>()\[\],;:\"\\.]+")
_GMAIL = {"gmail.com", "googlemail.com"}
# Letters of other alphabets that are drawn like Latin ones, capitals beside small ones; a selection of what Unicode's
# UTS #39 lists (confusables.txt) for Cyrillic, Greek and Armenian. It serves a warning, so it need not be whole.
_LOOKS_LIKE = {
    0x0410: "A", 0x0412: "B", 0x0415: "E", 0x0405: "S", 0x0406: "I", 0x0408: "J", 0x041A: "K", 0x041C: "M",
    0x041D: "H", 0x041E: "O", 0x0420: "P", 0x0421: "C", 0x0422: "T", 0x0423: "Y", 0x0425: "X", 0x0430: "a",
    0x0435: "e", 0x0455: "s", 0x0456: "i", 0x0458: "j", 0x043E: "o", 0x0440: "p", 0x0441: "c", 0x0443: "y",
    0x0445: "x", 0x04BB: "h", 0x0501: "d", 0x051B: "q", 0x051D: "w",
    0x0391: "A", 0x0392: "B", 0x0395: "E", 0x0396: "Z", 0x0397: "H", 0x0399: "I", 0x039A: "K", 0x039C: "M",
    0x039D: "N", 0x039F: "O", 0x03A1: "P", 0x03A4: "T", 0x03A5: "Y", 0x03A7: "X", 0x03B1: "a", 0x03B9: "i",
    0x03BA: "K", 0x03BD: "v", 0x03BF: "o", 0x03C1: "p", 0x03C5: "u",
    0x0585: "o", 0x057D: "u", 0x0578: "n",
}  # fmt: skip
_DRAWN_ALIKE = str.maketrans("01i|", "olll")


def folded(name: str) -> str:
    """What spellings of one name have in common: NFKC, no matter which case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).split())


def skeleton(name: str) -> str:
    """What names that look alike have in common: no accents, no punctuation, Latin letters where they look so."""
    plain = unicodedata.normalize("NFKD", name).translate(_LOOKS_LIKE).casefold()
    letters = "".join(char for char in unicodedata.normalize("NFKD", plain) if char.isalnum() or char == "|")
    return letters.translate(_DRAWN_ALIKE).replace("rn", "m")


def is_address(text: str) -> bool:
    """Whether it can be an address that mail comes from."""
    return len(text) <= 320 and ADDRESS.fullmatch(text) is not None


@functools.lru_cache(maxsize=8192)
def mailbox(address: str) -> str:
    """Whose mailbox an address is: addresses that lead to one are equal here.

    Case does not matter; a domain is written as DNS knows it (IDNA); what follows a plus in the local part is its
    owner's own mark (RFC 5233); Google ignores dots in it, and calls gmail.com googlemail.com.
    """
    local, _, domain = unicodedata.normalize("NFKC", address).strip().casefold().rpartition("@")
    domain = domain.rstrip(".")
    with contextlib.suppress(UnicodeError):  # no name of DNS: compared as it stands
        domain = domain.encode("idna").decode("ascii")
    local = local.partition("+")[0] or local
    if domain in _GMAIL:
        local, domain = local.replace(".", ""), "gmail.com"
    return f"{local}@{domain}"

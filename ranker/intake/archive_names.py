"""What the names in a ZIP may be, and what they become. Names that another machine, program or eye reads otherwise are
refused, also where this machine would not mind.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import BinaryIO
from urllib.parse import unquote

from ranker.errors import ParticipantError
from ranker.intake.archive_layout import UTF8, Entry, Reasons, entry_at, extra_fields, shown
from ranker.settings import ArchiveLimits

_MAX_NAME = 255  # bytes of one name: the limit of ext4, XFS, APFS and NTFS
_UNICODE_PATH = 0x7075  # APPNOTE.TXT 4.6.9
_UNIX_DEVICE = 0x000D  # 4.5.7: what a link points to, or a device's numbers
_ASI_UNIX = 0x756E  # a Unix mode beside that of the attributes
_DOS_HOSTS = {0, 6, 10, 11, 14}  # FAT, HPFS, NTFS (PKWARE's number and Info-ZIP's), VFAT
_DOS_LABEL, _DOS_FOLDER, _DOS_DEVICE, _DOS_LINK = 0x8, 0x10, 0x40, 0x400
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini", "Icon\r"}
# Names that Windows takes for devices, whatever follows the dot.
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Member:
    """Where an entry is to be written, below the tree."""

    parts: tuple[str, ...]
    is_folder: bool

    @property
    def path(self) -> str:
        """Relative to the tree."""
        return "/".join(self.parts)

    @property
    def shown(self) -> str:
        """The same for messages."""
        return shown(self.path)


class Separators:
    """Whether a backslash stands between folders, as old tools for Windows write it: only where it can mean no other
    thing, that is, in archives from such a machine without one slash, in names whose bytes are no half characters.
    """

    def __init__(self) -> None:
        self._slash = self._doubtful = False

    def add(self, entry: Entry) -> None:
        """Look at one name."""
        self._slash |= b"/" in entry.raw_name
        self._doubtful |= entry.host not in _DOS_HOSTS or not (entry.raw_name.isascii() or entry.flags & UTF8)

    @property
    def separator(self) -> str:
        """What stands between folders in this archive."""
        return "/" if self._slash or self._doubtful else "\\"


def odd_characters(text: str) -> str:
    """Controls, direction marks, invisible characters and lone surrogates in `text`, as `U+202E, ...`; "" if none.

    Terminals, shells and pages misread these, and a NUL would end a name early.
    """
    if text.isprintable():
        return ""
    odd = sorted({char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}})
    return ", ".join(f"U+{ord(char):04X}" for char in odd[:5])


def name_of(entry: Entry, separator: str = "/") -> str:
    """An entry's name, its folders separated by slashes. Raises ParticipantError where programs would differ on it.

    Without the mark of UTF-8 it is read as such all the same if it can be (macOS packs so), else by code page 437.
    """
    raw = entry.raw_name
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        if entry.flags & UTF8:
            raise ParticipantError(
                f"the name {entry.shown} is marked as UTF-8 and is not; expected a name that all read alike; rename it"
            ) from None
        name = raw.decode("cp437")
    for kind, data in extra_fields(entry.extra):
        if kind == _UNICODE_PATH:
            name = _unicode_path(entry, name, data)
    return name.replace(separator, "/")


def _unicode_path(entry: Entry, name: str, data: bytes) -> str:
    """The name that stands in an extra field: of an old code page's name, the true one; of any other, the same."""
    said = data[5:].decode(errors="replace")
    is_known = entry.raw_name.isascii() or bool(entry.flags & UTF8)
    fits = len(data) > 5 and data[0] == 1 and struct.unpack_from("<I", data, 1)[0] == zlib.crc32(entry.raw_name)
    if not fits or "\ufffd" in said or (is_known and said != name):
        raise ParticipantError(
            f"the name {entry.shown} has another one ({shown(said)}) in its Unicode field; expected the same;"
            " pack the archive again"
        )
    return said


def member_of(entry: Entry, separator: str) -> Member | None:
    """Where an entry belongs; None: it is litter of a desktop, which is neither written nor judged, or the top itself.

    Raises ParticipantError as `name_of` does.
    """
    name = name_of(entry, separator)
    parts = name.removesuffix("/").split("/")
    is_litter = parts[0] == "__MACOSX" or parts[-1] in _LITTER or parts[-1].startswith("._")
    if is_litter and not {"", ".."} & set(parts) and "\\" not in name and "\0" not in name:
        return None
    kept, is_folder = tuple(part for part in parts if part != "."), name.endswith("/")
    if parts[-1] == "." and not is_folder:
        raise ParticipantError(f"the path {shown(name)} is a folder's; expected a file's name; pack the archive again")
    return Member(parts=kept, is_folder=is_folder) if kept else None


def faults(entry: Entry, member: Member, limits: ArchiveLimits) -> Iterator[str]:
    """What is wrong with an entry's name and kind. Raises ParticipantError for broken extra fields."""
    yield from _path_faults(member, limits)
    yield from _spelling_faults(member)
    yield from _kind_faults(entry, member)


def _path_faults(member: Member, limits: ArchiveLimits) -> Iterator[str]:
    name, parts = member.path, member.parts
    odd = odd_characters(name)
    if odd:
        yield f"the name {member.shown} has control or invisible characters ({odd}); expected printable ones; rename it"
    if "\\" in name:
        yield (
            f"the name {member.shown} has a backslash; expected / between folders; rename it, or pack with another tool"
        )
    if name.startswith("/") or (name[1:2] == ":" and name[0].isascii() and name[0].isalpha()):
        yield (
            f"the path {member.shown} is absolute;"
            " expected one relative to the archive; pack the repository's own folder"
        )
    elif "" in parts:
        yield f"the path {member.shown} has an empty part; expected a name between every two /; pack the archive again"
    elif ":" in name:
        yield f"the name {member.shown} has a colon, which Windows takes for a hidden stream; expected none; rename it"
    if ".." in parts:
        yield (
            f"the path {member.shown} climbs with ..;"
            " expected paths inside the archive; pack the repository's own folder"
        )
    if len(parts) > limits.max_depth:
        yield (
            f"the path {member.shown} is {len(parts)} folders deep; at most {limits.max_depth} are accepted; flatten it"
        )
    length = len(name.encode(errors="replace"))
    if length > limits.max_path_length:
        yield (
            f"the path {member.shown} is {length} bytes long; at most {limits.max_path_length} are accepted; shorten it"
        )
    elif any(len(part.encode(errors="replace")) > _MAX_NAME for part in parts):
        yield f"the path {member.shown} has a name above {_MAX_NAME} bytes, which file systems refuse; shorten it"


def _spelling_faults(member: Member) -> Iterator[str]:
    """Names that are harmless here, and another thing for who decodes, folds or shortens them."""
    for part in member.parts:
        readings = () if part.isascii() and "%" not in part else (unquote(part), unicodedata.normalize("NFKC", part))
        for reading in readings:
            if reading != part and (reading in {".", ".."} or any(mark in reading for mark in "/\\\0")):
                yield f"the path {member.shown} has a part that some programs read as {shown(reading)}; rename it"
                break
        if part not in {"", ".."} and part[-1] in ". ":
            yield f"the name {member.shown} has a part that ends in a dot or space, which Windows drops; rename it"
        elif _RESERVED.fullmatch(part):
            yield f"the name {member.shown} has a part that Windows takes for a device ({shown(part)}); rename it"


def _kind_faults(entry: Entry, member: Member) -> Iterator[str]:
    link = False
    kinds = {stat.S_IFMT(entry.attributes >> 16)}
    for kind, data in extra_fields(entry.extra):
        if kind == _ASI_UNIX and len(data) >= 6:
            kinds.add(stat.S_IFMT(struct.unpack_from("<H", data, 4)[0]))
        link |= kind == _UNIX_DEVICE and len(data) > 12
    if stat.S_IFLNK in kinds or link or entry.attributes & _DOS_LINK:
        yield (
            f"{member.shown} is a symbolic link; expected files and folders only; pack the file itself (zip without -y)"
        )
    elif kinds - {0, stat.S_IFREG, stat.S_IFDIR} or entry.attributes & (_DOS_LABEL | _DOS_DEVICE):
        yield f"{member.shown} is a device, pipe or socket; expected files and folders only; remove it"
    elif (
        (stat.S_IFREG in kinds or entry.size)
        if member.is_folder
        else (stat.S_IFDIR in kinds or entry.attributes & _DOS_FOLDER)
    ):
        yield f"{member.shown} is marked both as a folder and as a file; expected one of them; pack the archive again"


def _folded(part: str) -> str:
    """As a file system sees a name that is blind to case and to Unicode forms."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold())


class Places:
    """Finds names that would meet: the same twice, as file and as folder, or alike but for case and Unicode form.

    Of each path, folders that are only implied included, 16 bytes are kept: its folded and its exact spelling as 64-bit
    digests under a key that nobody knows, and where it was first told of.
    """

    _SHIFT = 48  # bits of a place in the archive

    def __init__(self, file: BinaryIO, separator: str, limits: ArchiveLimits, reasons: Reasons) -> None:
        self._file = file
        self._separator = separator
        self._limits = limits
        self._reasons = reasons
        self._key = os.urandom(16)
        self._seen: dict[int, int] = {}  # folded digest -> (exact digest, place, depth, was listed itself, is a folder)
        self._chain: list[tuple[str, bytes, bytes]] = []  # of the last path: part, folded and exact digest up to it
        self._implied = 0
        self.files = 0

    def add(self, entry: Entry, member: Member) -> None:
        """One path more, and the folders above it."""
        self.files += not member.is_folder
        last = len(member.parts)
        for depth, (_, folded, exact) in enumerate(self._digests(member.parts), 1):
            is_folder = depth < last or member.is_folder
            key, value = int.from_bytes(folded), int.from_bytes(exact)
            known = self._seen.get(key)
            if known is None:
                self._new(key, value, entry.place, depth, listed=depth == last, is_folder=is_folder)
                continue
            fields = known & 3
            path = "/".join(member.parts[:depth])
            if known >> (self._SHIFT + 18) != value:
                self._reasons.add(
                    f"{shown(self._first(known))} and {shown(path)} differ by case or Unicode form only, and are one"
                    " file on some machines; expected names that differ there too; rename one"
                )
                return
            if bool(fields & 1) != is_folder:
                self._reasons.add(f"{shown(path)} is both a file and a folder; expected one of them; rename one")
                return
            if depth == last:
                if fields & 2:
                    self._reasons.add(
                        f"{shown(path)} is in the archive twice; expected each name once; pack the archive again"
                    )
                self._seen[key] = known | 2

    def _new(self, key: int, exact: int, place: int, depth: int, *, listed: bool, is_folder: bool) -> None:
        self._implied += not listed
        if self._implied > self._limits.max_entries:
            raise ParticipantError(
                f"the archive's names make more than {self._limits.max_entries:,} folders; leave out what the encoder"
                " does not need"
            )
        self._seen[key] = ((exact << self._SHIFT | place) << 16 | depth) << 2 | listed << 1 | is_folder

    def _digests(self, parts: Sequence[str]) -> list[tuple[str, bytes, bytes]]:
        """For each depth of a path the digests up to there; the folders of the last path are not worked out again."""
        kept = 0
        while kept < min(len(parts), len(self._chain)) and self._chain[kept][0] == parts[kept]:
            kept += 1
        del self._chain[kept:]
        folded, exact = self._chain[-1][1:] if self._chain else (b"", b"")
        for part in parts[kept:]:
            form = part.lower() if part.isascii() else _folded(part)
            folded, exact = self._digest(folded, form), self._digest(exact, part)
            self._chain.append((part, folded, exact))
        return self._chain

    def _digest(self, parent: bytes, part: str) -> bytes:
        return blake2b(parent + part.encode(errors="surrogatepass"), digest_size=8, key=self._key).digest()

    def _first(self, known: int) -> str:
        """How a path was first spelled."""
        depth, place = (known >> 2) & 0xFFFF, (known >> 18) & (2**self._SHIFT - 1)
        member = member_of(entry_at(self._file, place), self._separator)
        return "/".join(member.parts[:depth]) if member else ""

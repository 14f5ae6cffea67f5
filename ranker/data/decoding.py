"""Audio files as they are stored: decoded whole, or refused with the reason.

libsndfile (1.1 or later) decodes flac, wav, mp3, ogg and opus. What it takes without a word although part of it is
gone (a cut wav, mp3 or ogg is only shorter to it) is looked for here, in the containers themselves.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soundfile

from ranker.errors import OrganizerError

DECODER = f"libsndfile {soundfile.__libsndfile_version__}"
DECODED_SUFFIXES = ("flac", "mp3", "wav", "ogg", "opus")  # in the order in which XARES-LLM prefers them
OTHER_SUFFIXES = frozenset({"aac", "amr", "ape", "m4a", "mka", "mp4", "mp4a", "sox", "webm", "wma", "wv"})

_BLOCK = 1 << 18
_MP3_FRAME = 1152
_STREAMED = 0x7FFF0000  # sizes from here on mean "not known when the header was written" (ffmpeg, sox)
_OGG_HEADER = struct.Struct("<4sBBqIIIB")
_OGG_LAST_PAGE = 4
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_WAV_CODECS = {0x11: "IMA ADPCM", 0x50: "MPEG layer 2", 0x55: "MP3", 0x160: "WMA", 0x161: "WMA", 0xFF: "AAC"}


@dataclass(frozen=True, kw_only=True)
class Sound:
    """What decoding a file from beginning to end found. `pcm` is the hex digest of its samples, rate and channels."""

    frames: int
    sample_rate_hz: int
    channels: int
    codec: str
    pcm: str


def decode(data: bytes) -> tuple[npt.NDArray[np.float32], int]:
    """The samples, (frames[, channels]) float32, and the rate in Hz. Raises OrganizerError in a few words."""
    with _opened(data) as file:
        return file.read(dtype="float32"), int(file.samplerate)


def examine(data: bytes) -> Sound:
    """Decode a whole file, in blocks, and look for missing parts. Raises OrganizerError in a few words."""
    digest, frames = hashlib.sha256(), 0
    with _opened(data) as file:
        digest.update(f"{file.samplerate}/{file.channels}/".encode())
        while len(block := file.read(_BLOCK, dtype="float32")):
            if not np.isfinite(block).all():
                raise OrganizerError(f"it holds samples that are not finite numbers, near frame {frames}")
            digest.update(block.tobytes())
            frames += len(block)
        sound = Sound(
            frames=frames,
            sample_rate_hz=int(file.samplerate),
            channels=int(file.channels),
            codec=_codec(file.format, file.subtype),
            pcm=digest.hexdigest()[:32],
        )
        promised, container = int(file.frames), str(file.format)
    if not frames:
        raise OrganizerError("it holds no samples")
    if container == "OGG":
        _require_whole_ogg(data)
    elif container in {"WAV", "WAVEX"}:
        _require_whole_wav(data)
    elif container == "MP3":
        # Only a Xing or Info tag says how long an mp3 is; without one the length is a guess. A frame may be missing.
        known = any(tag in data[:4096] for tag in (b"Xing", b"Info"))
        if known and frames < promised - _MP3_FRAME:
            raise OrganizerError(f"it breaks off: {promised} samples were expected, {frames} found")
    elif frames != promised:
        raise OrganizerError(f"it breaks off: {promised} samples were expected, {frames} found")
    return sound


def foreign_codec(data: bytes) -> str | None:
    """What is stored here in a format that cannot be decoded, by its first bytes; None if it is none of these."""
    head = data[:16]
    if head[4:8] == b"ftyp":
        names = {b"mp4a": "AAC", b"alac": "ALAC", b"Opus": "Opus", b"ec-3": "E-AC-3"}
        found = next((name for mark, name in names.items() if mark in data), "audio")
        return f"{found} in MPEG-4 (m4a)"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        tag = next((struct.unpack_from("<H", data, at)[0] for name, at, _ in _chunks(data) if name == b"fmt "), None)
        return f"{_WAV_CODECS[tag]} in wav" if tag in _WAV_CODECS else None
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return "AAC (ADTS)"
    marks = {
        b"\x30\x26\xb2\x75": "WMA (ASF)",
        b"#!AMR": "AMR",
        b"\x1a\x45\xdf\xa3": "Matroska or WebM",
        b"MAC ": "Monkey's Audio",
        b"wvpk": "WavPack",
        b".SoX": "sox",
    }
    return next((name for mark, name in marks.items() if head.startswith(mark)), None)


@contextmanager
def _opened(data: bytes) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            yield file
    except (soundfile.SoundFileError, RuntimeError) as error:
        # Its message names the object in memory, which tells nobody anything.
        raise OrganizerError(str(getattr(error, "error_string", error))) from error


def _codec(container: str, subtype: str) -> str:
    """For example `flac`, `wav pcm_16`, `ogg vorbis`."""
    container, subtype = container.lower(), subtype.lower()
    return container if container in {"flac", "mp3"} else f"{container} {subtype}"


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, place of the content, size as written) of a RIFF file's chunks."""
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        yield name, at + 8, size
        at += 8 + size + size % 2


def _require_whole_wav(data: bytes) -> None:
    for name, at, size in _chunks(data):
        if name == b"data" and size < _STREAMED and at + size > len(data):
            raise OrganizerError(f"it breaks off: {size} bytes of samples were expected, {len(data) - at} found")


def _require_whole_ogg(data: bytes) -> None:
    """Every page is whole, fits its checksum, and the last one is marked as such (RFC 3533, section 6)."""
    at, kind = 0, 0
    while at < len(data):
        if len(data) - at < _OGG_HEADER.size:
            raise OrganizerError(f"it breaks off inside the Ogg page at byte {at}")
        mark, _, kind, _, _, _, checksum, segments = _OGG_HEADER.unpack_from(data, at)
        if mark != b"OggS":
            raise OrganizerError(f"it is damaged: no Ogg page begins at byte {at}")
        table = data[at + _OGG_HEADER.size : at + _OGG_HEADER.size + segments]
        size = _OGG_HEADER.size + segments + sum(table)
        page = data[at : at + size]
        if len(table) < segments or len(page) < size:
            raise OrganizerError(f"it breaks off inside the Ogg page at byte {at}")
        if _ogg_checksum(page) != checksum:
            raise OrganizerError(f"it is damaged: the Ogg page at byte {at} does not fit its checksum")
        at += size
    if not kind & _OGG_LAST_PAGE:
        raise OrganizerError("it breaks off: its last Ogg page is not marked as the last one")


def _ogg_checksum(page: bytes) -> int:
    """CRC-32 with the highest bit first, initial value 0, the field itself as 0: zlib's, mirrored."""
    blank = page[:22] + bytes(4) + page[26:]
    mirrored = zlib.crc32(blank.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)

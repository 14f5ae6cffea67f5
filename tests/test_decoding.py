"""Audio files decoded whole, or refused with the reason: real files of each format, whole, cut and damaged."""

import io
import struct

import numpy as np
import pytest
import soundfile

from ranker.data.decoding import decode, examine, foreign_codec
from ranker.errors import OrganizerError

FORMATS = {
    "flac": ("FLAC", "PCM_16", 16_000, "flac"),
    "wav": ("WAV", "PCM_16", 22_050, "wav pcm_16"),
    "wavex": ("WAVEX", "PCM_24", 48_000, "wavex pcm_24"),
    "mp3": ("MP3", "MPEG_LAYER_III", 44_100, "mp3"),
    "ogg": ("OGG", "VORBIS", 44_100, "ogg vorbis"),
    "opus": ("OGG", "OPUS", 48_000, "ogg opus"),
}
SECONDS = 3


def encoded(name: str, channels: int = 1) -> bytes:
    container, subtype, rate, _ = FORMATS[name]
    noise = np.random.default_rng(1).normal(size=(SECONDS * rate, channels))
    wave = np.cumsum(noise, axis=0)
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", rate, channels, format=container, subtype=subtype) as target:
        for block in np.array_split(0.3 * wave / np.abs(wave).max(), 12):  # libvorbis cannot take much at once
            target.write(block)
    return file.getvalue()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_decoded_whole(name: str):
    """What the index says of length, rate, channels and codec is what reading gives."""
    _, _, rate, codec = FORMATS[name]
    data = encoded(name, channels=2)
    sound = examine(data)
    waveform, found_rate = decode(data)
    assert waveform.shape == (sound.frames, sound.channels) == (SECONDS * rate, 2)
    assert (found_rate, sound.sample_rate_hz, sound.codec) == (rate, rate, codec)
    assert waveform.dtype == np.float32


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_file_that_breaks_off_is_refused(name: str, share: float):
    """To libsndfile a cut wav, mp3 or ogg is a shorter one; to the index it must not be."""
    data = encoded(name)
    with pytest.raises(OrganizerError):
        examine(data[: int(len(data) * share)])


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "opus"])
def test_a_gap_in_a_file_is_refused(name: str):
    """Zeros in the middle, as a download in parts can leave them. (In a wav they are silence: nothing can tell.)"""
    data = bytearray(encoded(name))
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(4096)
    with pytest.raises(OrganizerError):
        examine(bytes(data))


@pytest.mark.parametrize("name", ["flac", "ogg", "opus"])
def test_a_single_wrong_byte_is_refused_where_the_format_has_checksums(name: str):
    """FLAC frames and Ogg pages have them."""
    data = bytearray(encoded(name))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(OrganizerError):
        examine(bytes(data))


def test_an_ogg_file_cut_between_two_pages_is_refused():
    """All of its pages are whole then; only the mark of the last one is missing."""
    data = encoded("ogg")
    last = data.rindex(b"OggS")
    with pytest.raises(OrganizerError, match="last Ogg page"):
        examine(data[:last])


def test_a_wav_whose_header_does_not_know_its_length_is_decoded():
    """A writer that streams puts 0xFFFFFFFF there: that is no missing part."""
    data = bytearray(encoded("wav"))
    place = data.index(b"data") + 4
    data[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    assert examine(bytes(data)).frames == SECONDS * 22_050


def test_samples_that_are_not_finite_are_refused():
    """A float wav can hold them, and one of them would turn a whole batch's features to noise."""
    file = io.BytesIO()
    soundfile.write(file, np.array([0.0, np.nan, 0.5]), 16_000, format="WAV", subtype="FLOAT")
    with pytest.raises(OrganizerError, match="not finite"):
        examine(file.getvalue())


def test_the_same_samples_have_one_digest_in_two_formats():
    """Overlap is found though one of the two copies was re-encoded without loss; rate and channels are part of it."""
    wave = np.random.default_rng(0).integers(-9_000, 9_000, 400_000).astype(np.int16)  # more than one block

    def digest(container: str, rate: int = 16_000, samples: np.ndarray = wave) -> str:
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format=container, subtype="PCM_16")
        return examine(file.getvalue()).pcm

    assert digest("WAV") == digest("FLAC")
    others = {
        digest("WAV"),
        digest("WAV", 8_000),
        digest("WAV", samples=wave.reshape(-1, 2)),
        digest("WAV", 16_000, wave[1:]),
    }
    assert len(others) == 4


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00" + b"moov....stsd....mp4a....", "AAC in MPEG-4 (m4a)"),
        (b"\x00\x00\x00\x20ftypM4A \x00\x00\x02\x00" + b"moov....stsd....alac....", "ALAC in MPEG-4 (m4a)"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x55\x00\x01\x00" + bytes(40), "MP3 in wav"),
        (b"\xff\xf1\x50\x80" + bytes(40), "AAC (ADTS)"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11" + bytes(40), "WMA (ASF)"),
        (b"#!AMR\n" + bytes(40), "AMR"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "Matroska or WebM"),
    ],
)
def test_a_codec_that_cannot_be_decoded_is_named(data: bytes, expected: str):
    """By its first bytes, whatever the file is called; and it is refused indeed."""
    assert foreign_codec(data) == expected
    with pytest.raises(OrganizerError):
        examine(data)


@pytest.mark.parametrize("name", FORMATS)
def test_what_can_be_decoded_is_not_called_foreign(name: str):
    """A cut flac is a damaged flac, not another codec."""
    assert foreign_codec(encoded(name)) is None
    assert foreign_codec(b"") is None

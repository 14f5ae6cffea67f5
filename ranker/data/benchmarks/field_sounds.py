"""Tasks on recorded sounds: what made them, which instrument, which note.

Sounds come from three sets of short effects (Debian's qabcs-data, scratch, sonic-pi-samples) and are labelled by the
name of their file; nobody has listened to them for this. Notes come from the npm packages `tonejs-instrument-*`, which
name instrument and note.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ranker.data.audio import SAMPLE_RATE_HZ, prepare
from ranker.data.benchmarks import field_audio as audio
from ranker.data.benchmarks.field_packages import INSTRUMENTS
from ranker.data.benchmarks.field_splits import Split, connected, draw, select, split_groups
from ranker.errors import OrganizerError

SOUND_SECONDS = 4.0  # longer ones are cut
NOTE_SECONDS = 2.0
LEAST_SECONDS = 1.0  # shorter ones are followed by silence: some are a click, too short for an encoder to frame
SOUND_CLIPS = {Split.TRAIN: 45, Split.TEST: 15}
NOTE_CLIPS = {Split.TRAIN: 26, Split.TEST: 10}
SOUND_TEST_SHARE = 0.25  # some kinds have two dozen sounds only

# Names of qabcs-data's files, without `.ogg`.
_QABCS = {
    "bird": (
        "adjutant albatross bird booby crane crow duck eagle-owl emu flamingo goose guinea_fowl heron iora owl pelican"
        " pheasant quail quetzal rooster sparrow stork vulture wood_grouse"
    ),
    "mammal": (
        "bear calf cat chimpanzee chinchilla cow deer dog dolphin elephant ferret foal giant_panda giraffe hamster"
        " hedgehog horse hyena jaguar jerboa koala lion lynx moose mouse otter pig porcupine raccoon rhinoceros sheep"
        " squirrel tiger wallaby whale wolf yak zebra"
    ),
    "drum": "bass_drum changu cuica cymbals drums ipu maracas ratchet slit_drum spoons timpani",
    "instrument": (
        "accordion aeoline bagpipes cello clarinet dulzaina electric_guitar erhu flute gamba grand_piano guitar hang"
        " hand_organ harmonica harp horn kazoo keyboard lute natural_horn oboe oedephon organ piano quena rabel"
        " recorder rozhok saxophone squeezebox topshuur trumpet ukulele violin washint western_concert_flute xun"
        " xylophone yangqin youhikko yueqin zhaleyka zither zurna"
    ),
}
# Names of scratch's files, without their suffix and without spaces; `Folder/*` for all of one folder.
_SCRATCH = {
    "bird": "Animal/Bird Animal/Duck Animal/Goose Animal/Owl Animal/Rooster",
    "mammal": (
        "Animal/Cat Animal/Dog1 Animal/Dog2 Animal/Horse Animal/Kitten Animal/Meow Animal/SeaLion Animal/WolfHowl"
    ),
    "drum": "Percussion/*",
    "instrument": (
        "Instruments/AfroString Instruments/Chord Instruments/Dijjeridoo Instruments/GuitarStrum Instruments/Tambura"
        " Instruments/StringAccent Instruments/StringPluck Instruments/Trumpet1 Instruments/Trumpet2"
    ),
    "electronic": "Electronic/*",
    "voice": (
        "Human/BabyCry Human/Cough-female Human/Cough-male Human/Laugh-female Human/Laugh-male1 Human/Laugh-male2"
        " Human/Laugh-male3 Human/Scream-female Human/Scream-male1 Human/Scream-male2 Human/Slurp Human/Sneeze-female"
        " Human/Sneeze-male Vocals/Come-and-play Vocals/Doy-doy-doy Vocals/Got-inspiration Vocals/Hey-yay-hey"
        " Vocals/Join-us Vocals/Oooo-badada Vocals/Sing-me-a-song Vocals/Singer1 Vocals/Singer2 Vocals/Ya"
    ),
    "music loop": "MusicLoops/*",
}
# Beginnings of sonic-pi-samples' names, or whole names.
_SONIC_PI = {
    "bird": "misc_crow",
    "voice": "misc_burp ambi_choir",
    "drum": "bd_ drum_ sn_ tabla_",
    "electronic": "elec_ glitch_ mehackit_",
    "music loop": "loop_",
    "instrument": "guit_ ambi_piano",
}
_NAMES = {"bass-electric": "electric bass", "guitar-acoustic": "acoustic guitar", "guitar-electric": "electric guitar"}
_NAMES |= {"guitar-nylon": "nylon guitar", "french-horn": "french horn"}
_SUFFIXES = frozenset({".aif", ".aiff", ".flac", ".mp3", ".ogg", ".wav"})
_NOTE = re.compile(r"(?P<letter>[A-G])(?P<sharp>s?)(?P<octave>\d)( v\d)?")

Sample = Mapping[str, Any]
Samples = dict[tuple[str, Split], list[Sample]]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """One file and its label. `series` is its name without the number or loudness that tells takes of it apart."""

    id: str
    label: str
    series: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Note:
    """One note of one instrument; `pitch_class` in words, as in `c sharp`."""

    instrument: str
    name: str
    pitch_class: str
    path: Path

    @property
    def id(self) -> str:
        """The same on every machine."""
        return f"{self.instrument}/{self.path.stem}"


def build_sounds(folders: Mapping[str, Path], tick: Callable[[], None]) -> Samples:
    """Samples of the sound and the note tasks, by shard folder and split, from unpacked packages."""
    samples: Samples = {}
    for task, make in (("sound", _sounds), ("note", _notes)):
        samples |= make(folders)
        tick()
        for split in Split:
            if not samples[task, split]:
                raise OrganizerError(f"no {task} was found for the {split} split; the packages have another layout")
    return samples


def find_sounds(folders: Mapping[str, Path]) -> list[Sound]:
    """All sounds that the three packages have under one of the names above."""
    sources = (
        ("qabcs-data", "**/noises/*.ogg", lambda path: path.stem, _QABCS),
        ("scratch", "**/Media/Sounds/*/*", lambda path: f"{path.parent.name}/{path.stem}".replace(" ", ""), _SCRATCH),
        ("sonic-pi-samples", "**/sonic-pi/samples/*.flac", lambda path: path.stem, _SONIC_PI),
    )
    sounds = []
    for package, pattern, name, names in sources:
        for path in sorted(folders[package].glob(pattern)):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            label = _label(name(path), names)
            if label is not None:
                sounds.append(Sound(id=f"{package}/{name(path)}", label=label, series=_series(path.stem), path=path))
    return sounds


def _label(name: str, names: Mapping[str, str]) -> str | None:
    """The label whose list has this file's name."""
    for label, listed in names.items():
        for entry in listed.split():
            prefix = entry.removesuffix("*") if entry.endswith(("/*", "_")) else None
            if name == entry or (prefix is not None and name.startswith(prefix)):
                return label
    return None


def _series(stem: str) -> str:
    """`Laugh-male2` and `Laugh-female` are takes of `laugh`, `drum_snare_hard` and `drum_snare_soft` of one snare."""
    words = re.sub(r"[^a-z]+", " ", re.sub(r"\d+", "", stem.lower())).split()
    kept = [word for word in words if word not in {"hard", "soft", "male", "female", "m", "s", "o"}]
    return " ".join(kept or words)


def _sounds(folders: Mapping[str, Path]) -> Samples:
    sounds = find_sounds(folders)
    waveforms = {sound.id: _heard(sound.path, SOUND_SECONDS) for sound in sounds}
    # One file under two names, or takes of one sound, must not be on both sides.
    links = [(sound.id, f"series {sound.series}", f"bytes {_digest(waveforms[sound.id])}") for sound in sounds]
    groups = connected(links)
    sides = split_groups({groups[sound.id]: sound.label for sound in sounds}, SOUND_TEST_SHARE)
    samples: Samples = {}
    for split in Split:
        chosen = select(
            [sound for sound in sounds if sides[groups[sound.id]] is split],
            task="sound",
            name=lambda sound: sound.id,
            label=lambda sound: sound.label,
            limit=SOUND_CLIPS[split],
        )
        samples["sound", split] = [
            _stored(sound.id, waveforms[sound.id], {"sound": sound.label, "source": sound.id}) for sound in chosen
        ]
    return samples


def find_notes(folders: Mapping[str, Path]) -> Iterator[Note]:
    """All notes of the instruments' packages; a file whose name is no note is passed over."""
    for instrument in INSTRUMENTS:
        for path in sorted((folders[f"tonejs-instrument-{instrument}-mp3"] / "package").glob("*.mp3")):
            match = _NOTE.fullmatch(path.stem)
            if match:
                yield Note(
                    instrument=_NAMES.get(instrument, instrument),
                    name=f"{match['letter']}{match['sharp']}{match['octave']}",
                    pitch_class=match["letter"].lower() + (" sharp" if match["sharp"] else ""),
                    path=path,
                )


def _notes(folders: Mapping[str, Path]) -> Samples:
    notes = list(find_notes(folders))
    # Two takes of one note are one group; each instrument gives a share of its notes to the test.
    sides = split_groups({f"{note.instrument}/{note.name}": note.instrument for note in notes})
    samples: Samples = {}
    for split in Split:
        chosen = select(
            [note for note in notes if sides[f"{note.instrument}/{note.name}"] is split],
            task="note",
            name=lambda note: note.id,
            label=lambda note: note.instrument,
            limit=NOTE_CLIPS[split],
        )
        samples["note", split] = [
            _stored(
                note.id,
                _heard(note.path, NOTE_SECONDS),
                {"instrument": note.instrument, "pitch_class": note.pitch_class, "note": note.name, "source": note.id},
            )
            for note in chosen
        ]
    return samples


def _heard(path: Path, seconds: float) -> audio.Waveform:
    """The first `seconds` after the silence at the start, mono at 16 kHz, at field's level, LEAST_SECONDS or longer."""
    waveform, rate = audio.read(path)
    heard = prepare(audio.trimmed(waveform, rate, below_db=60.0)[: round(seconds * rate)], rate)
    silence = max(0, round(LEAST_SECONDS * SAMPLE_RATE_HZ) - heard.shape[0])
    return np.pad(audio.levelled(heard), (0, silence))


def _digest(waveform: audio.Waveform) -> str:
    return hashlib.sha256(waveform.tobytes()).hexdigest()


def _stored(name: str, waveform: audio.Waveform, fields: Mapping[str, Any]) -> Sample:
    """A shard's sample. Its key is a hash: neither the order of the clips nor their names tell the label."""
    return {"__key__": draw(f"clip/{name}")[:16], "flac": audio.flac(waveform, SAMPLE_RATE_HZ), "json": dict(fields)}

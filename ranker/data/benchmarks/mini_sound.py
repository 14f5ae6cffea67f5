"""What the instruments and sound effects of `mini` play. Keys or velocities in test are never heard in training."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from ranker.data.benchmarks.mini_clips import Example, evenly
from ranker.data.benchmarks.soundfont import Note

# General MIDI programs, counted from 0.
INSTRUMENTS = {
    "piano": 0,
    "marimba": 12,
    "organ": 19,
    "guitar": 24,
    "violin": 40,
    "harp": 46,
    "choir": 52,
    "trumpet": 56,
    "oboe": 68,
    "flute": 73,
}
PITCHES = tuple(range(60, 72))
PITCH_PROGRAMS = (0, 11, 19, 24, 56, 73)


class Effect(NamedTuple):
    """A General MIDI sound effect; `again_s`: struck again after so long, since the recording is short."""

    program: int
    again_s: float | None
    captions: tuple[str, str, str]


EFFECTS = {
    "bird": Effect(123, 0.5, ("a bird sings", "birds are chirping", "the song of a small bird")),
    "telephone": Effect(124, 0.6, ("a telephone rings", "an old phone is ringing", "the ringing of a telephone")),
    "helicopter": Effect(125, None, ("a helicopter flies by", "the rotor of a helicopter", "a helicopter hovers")),
    "applause": Effect(126, None, ("people clap their hands", "an audience applauds", "applause in a large hall")),
    "waves": Effect(122, None, ("waves roll onto the shore", "the sea at a beach", "ocean waves are breaking")),
    "gunshot": Effect(127, None, ("a gun is fired", "a single gunshot", "someone shoots with a gun")),
    "breath": Effect(121, 0.4, ("someone breathes out", "a person is breathing", "the sound of breath")),
    "cymbal": Effect(119, None, ("a cymbal swells", "a cymbal played backwards", "a rising cymbal crash")),
    "woodblock": Effect(115, 0.3, ("a wood block is struck", "knocking on wood", "someone knocks on a block of wood")),
    "drum": Effect(116, 0.5, ("a big drum is beaten", "someone beats a deep drum", "the boom of a drum")),
}
CAPTIONED_EFFECTS = ("bird", "telephone", "helicopter", "applause", "waves", "drum")
CAPTIONED_INSTRUMENTS = ("piano", "guitar", "violin", "trumpet", "flute", "organ")
# Semitones above the first note.
FIGURES = {
    "a single note": (0,),
    "the same note three times": (0, 0, 0),
    "a rising scale": (0, 4, 7),
    "a falling scale": (0, -4, -7),
}
_FIGURE_STEP_S = 0.45


def instrument(split: str, count: int, draw: Random) -> list[Example]:
    """One note of one of ten instruments; other keys in test."""
    return [
        _example(
            {"label": name}, [_note(draw, INSTRUMENTS[name], _key(split, 48, 72, draw), start_s=draw.uniform(0, 0.2))]
        )
        for name in evenly(tuple(INSTRUMENTS), count, draw)
    ]


def pitch(split: str, count: int, draw: Random) -> list[Example]:
    """One of twelve notes from middle C up, by six instruments; its MIDI key is the label. Other velocities in test."""
    examples = []
    for label in evenly(tuple(map(str, PITCHES)), count, draw):
        velocity = draw.choice([each for each in range(50, 121) if (each % 5 == 0) == (split == "test")])
        note = Note(
            program=draw.choice(PITCH_PROGRAMS),
            key=int(label),
            velocity=velocity,
            start_s=draw.uniform(0, 0.2),
            stop_s=1.1,
        )
        examples.append(_example({"label": label}, [note]))
    return examples


def effect(split: str, count: int, draw: Random) -> list[Example]:
    """One of ten sound effects, transposed; other transpositions in test."""
    return [_effect(name, {"label": name}, split, draw) for name in evenly(tuple(EFFECTS), count, draw)]


def caption(split: str, count: int, draw: Random) -> list[Example]:
    """A figure of notes on an instrument, or a sound effect, described in three sentences; other keys in test."""
    figures = [f"{name}/{figure}" for name in CAPTIONED_INSTRUMENTS for figure in FIGURES]
    examples = []
    for topic in evenly([*figures, *CAPTIONED_EFFECTS * 2], count, draw):
        if topic in EFFECTS:
            examples.append(_effect(topic, {"captions": list(EFFECTS[topic].captions)}, split, draw))
            continue
        name, figure = topic.split("/")
        first = _key(split, 55, 70, draw)
        steps = FIGURES[figure]
        notes = [
            Note(
                program=INSTRUMENTS[name],
                key=first + step,
                velocity=draw.randint(70, 120),
                start_s=at * _FIGURE_STEP_S,
                stop_s=(at + 0.9) * _FIGURE_STEP_S if len(steps) > 1 else 1.2,
            )
            for at, step in enumerate(steps)
        ]
        article = "an" if name[0] in "aeiou" else "a"
        captions = [
            f"{article} {name} plays {figure}",
            f"{figure} on the {name}",
            f"someone plays {figure} on {article} {name}",
        ]
        examples.append(_example({"captions": captions}, notes))
    return examples


def _effect(name: str, fields: dict[str, object], split: str, draw: Random) -> Example:
    chosen = EFFECTS[name]
    key = _key(split, 48, 66, draw)
    starts = [0.0] if chosen.again_s is None else [at * chosen.again_s for at in range(4)]
    notes = [_note(draw, chosen.program, key, start_s=start) for start in starts]
    # A sound that goes on can be heard from any moment; one that is struck loses its beginning.
    return _example(
        fields, notes, skip_s=draw.uniform(0.0, 0.8) if name in {"waves", "helicopter", "applause"} else 0.0
    )


def _example(fields: dict[str, object], notes: list[Note], skip_s: float = 0.0) -> Example:
    made = {
        "keys": [note.key for note in notes],
        "velocities": [note.velocity for note in notes],
        "program": notes[0].program,
    }
    return Example(fields={**fields, **made}, played=tuple(notes), skip_s=skip_s)


def _note(draw: Random, program: int, key: int, *, start_s: float) -> Note:
    return Note(program=program, key=key, velocity=draw.randint(60, 120), start_s=start_s)


def _key(split: str, low: int, high: int, draw: Random) -> int:
    """A MIDI key in [low, high); every third is heard in test only."""
    return draw.choice([key for key in range(low, high) if (key % 3 == 0) == (split == "test")])

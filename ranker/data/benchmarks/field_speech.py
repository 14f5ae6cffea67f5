"""Tasks on recorded telephone prompts in five languages: language, kind of word, spoofing, recognition.

The prompts are Asterisk's core sounds: one file for each prompt and language, 8 kHz, with a list of what is said. In
each language one professional speaker reads (nearly) all of them, so the language goes with a speaker and a studio.
"""

from __future__ import annotations

import gzip
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from ranker.data.benchmarks import field_audio as audio
from ranker.data.benchmarks.espeak import Utterance, speak
from ranker.data.benchmarks.field_packages import LANGUAGES
from ranker.data.benchmarks.field_splits import Split, connected, draw, select, split_groups
from ranker.errors import OrganizerError

LANGUAGE_LABELS = {"en": "english", "es": "spanish", "fr": "french", "it": "italian", "ru": "russian"}
# Spanish transcripts have accents in one prompt and none in the next; SmolLM2 knows little Cyrillic.
RECOGNISED = ("en", "fr", "it")
KINDS = {
    "number": r"digits/\d+",
    "ordinal": r"digits/h-\d+",
    "weekday": r"digits/day-\d",
    "month": r"digits/mon-\d+",
    "letter": r"letters/([a-z]|zed)",
    "code word": r"phonetic/[a-z]_p",
}

# Clips of each label (of each language, where a task has several), training and test.
LANGUAGE_CLIPS = {Split.TRAIN: 80, Split.TEST: 20}
KEYWORD_CLIPS = {Split.TRAIN: 80, Split.TEST: 16}
SPOOF_PAIRS = {Split.TRAIN: 40, Split.TEST: 10}
ASR_CLIPS = {Split.TRAIN: 320, Split.TEST: 80}
SECONDS = {"language": (1.0, 5.0), "spoof": (1.0, 5.0), "asr": (0.4, 5.0), "keyword": (0.3, 3.0)}

# espeak-ng's ways to read, other ones in the test than in training.
_VOICES = {"en": "en-us", "es": "es-419", "fr": "fr", "it": "it", "ru": "ru"}
_VARIANTS = {Split.TRAIN: ("f1", "f2", "f3", "m1", "m2", "m3"), Split.TEST: ("f4", "f5", "m4", "m7")}
_AMBIGUOUS = re.compile(r'[\[\](){}<>*#@&:"=\d]')  # remarks on the recording, or signs and digits with several readings
_ENTRY = re.compile(r"(?m)^([^;\s]\S*):[ \t]+(\S.*)$")

Sample = Mapping[str, Any]
Samples = dict[tuple[str, Split], list[Sample]]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One recording: `key` is its path in the package without `.wav`, `text` what is said, as `normalise` writes it."""

    language: str
    key: str
    text: str
    path: Path
    duration_s: float

    @property
    def id(self) -> str:
        """The same on every machine."""
        return f"{self.language}/{self.key}"

    @property
    def kind(self) -> str:
        """Which kind of word it is, or `sentence`."""
        return next((kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, self.key)), "sentence")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All prompts, the group of each (by id), and each group's side."""

    prompts: tuple[Prompt, ...]
    groups: Mapping[str, str]
    sides: Mapping[str, Split]

    def side(self, prompt: Prompt) -> Split:
        """Training or test: for all tasks and all languages the same."""
        return self.sides[self.groups[prompt.id]]


def build_speech(folders: Mapping[str, Path], tick: Callable[[], None]) -> Samples:
    """Samples of every speech task, by shard folder and split, from unpacked packages; `tick` is called at each."""
    corpus = read_corpus(folders)
    samples: Samples = {}
    for task, make in (("language", _language), ("keyword", _keyword), ("spoof", _spoof)):
        samples |= {(task, split): make(corpus, split) for split in Split}
        tick()
    for language in RECOGNISED:
        samples |= {(f"asr_{language}", split): _recognition(corpus, split, language) for split in Split}
        tick()
    return samples


def normalise(text: str) -> str:
    """Lower case, `-` to space, only letters, digits and the apostrophe between letters, single spaces."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("-", " ").replace("’", "'")  # noqa: RUF001 as written there
    return " ".join(word.strip("'") for word in re.sub(r"[^\w' ]+|_", " ", plain).split() if word.strip("'"))


def read_corpus(folders: Mapping[str, Path]) -> Corpus:
    """All prompts whose words are known for certain, in groups that must not be cut in two.

    A group holds what one path says in all languages, and all that says the same words in any of them.
    """
    prompts = tuple(prompt for language in LANGUAGES for prompt in _prompts(folders, language))
    if not prompts:
        raise OrganizerError("no prompt was found in the asterisk-core-sounds packages; fetch them again")
    linked = connected([(f"path {prompt.key}", f"words {prompt.text}") for prompt in prompts])
    groups = {prompt.id: linked[f"path {prompt.key}"] for prompt in prompts}
    kinds: dict[str, set[str]] = {}
    for prompt in prompts:
        kinds.setdefault(groups[prompt.id], set()).add(prompt.kind)
    sides = split_groups({group: min(found) for group, found in kinds.items()})
    return Corpus(prompts=prompts, groups=groups, sides=sides)


def _prompts(folders: Mapping[str, Path], language: str) -> Iterator[Prompt]:
    lists = sorted(folders[f"asterisk-core-sounds-{language}"].rglob(f"core-sounds-{language}.txt.gz"))
    recordings = folders[f"asterisk-core-sounds-{language}-wav"] / "usr/share/asterisk/sounds"
    if not lists or not recordings.is_dir():
        raise OrganizerError(f"asterisk-core-sounds-{language} has another layout than expected; use version 1.6.1")
    # sounds/<voice>/<key>.wav
    found = {path.relative_to(recordings).as_posix().partition("/")[2]: path for path in recordings.rglob("*.wav")}
    entries = _ENTRY.findall(gzip.decompress(lists[0].read_bytes()).decode())
    told_twice = {key for key, count in Counter(key for key, _ in entries).items() if count > 1}
    for key, text in entries:
        path = found.get(f"{key}.wav")
        if path is None or key in told_twice or _AMBIGUOUS.search(text) or not normalise(text):
            continue
        seconds = float(soundfile.info(path).duration)
        yield Prompt(language=language, key=key, text=normalise(text), path=path, duration_s=seconds)


def _candidates(corpus: Corpus, split: Split, task: str) -> list[Prompt]:
    """Prompts of one side whose length suits the task."""
    low, high = SECONDS[task]
    return [each for each in corpus.prompts if corpus.side(each) is split and low <= each.duration_s <= high]


def _language(corpus: Corpus, split: Split) -> list[Sample]:
    chosen = select(
        _candidates(corpus, split, "language"),
        task="language",
        name=lambda prompt: prompt.id,
        label=lambda prompt: prompt.language,
        limit=LANGUAGE_CLIPS[split],
    )
    samples: list[Sample] = []
    for prompt in chosen:
        # Studios differ; one channel for all leaves voice and language.
        heard = audio.over_the_telephone(*audio.read(prompt.path), seed=f"language/{prompt.id}")
        fields = {"language": LANGUAGE_LABELS[prompt.language], "words": prompt.text, "source": prompt.id}
        samples.append(_stored(prompt.id, heard, audio.TELEPHONE_HZ, fields))
    return samples


def _keyword(corpus: Corpus, split: Split) -> list[Sample]:
    kinds: dict[str, set[str]] = {}
    for prompt in corpus.prompts:
        kinds.setdefault(corpus.groups[prompt.id], set()).add(prompt.kind)
    # "november" is a month and a code word: such groups have no single right answer.
    clear = [
        prompt
        for prompt in _candidates(corpus, split, "keyword")
        if prompt.kind in KINDS and len(kinds[corpus.groups[prompt.id]]) == 1
    ]
    chosen = select(
        clear,
        task="keyword",
        name=lambda prompt: prompt.id,
        label=lambda prompt: prompt.kind,
        limit=KEYWORD_CLIPS[split],
    )
    return [_sample(prompt, {"kind": prompt.kind}) for prompt in chosen]


def _recognition(corpus: Corpus, split: Split, language: str) -> list[Sample]:
    # The names of letters are written in too many ways to be transcripts.
    readable = [
        prompt
        for prompt in _candidates(corpus, split, "asr")
        if prompt.language == language and not prompt.key.startswith("letters/")
    ]
    chosen = select(
        readable,
        task="asr",
        name=lambda prompt: prompt.id,
        label=lambda prompt: prompt.language,
        limit=ASR_CLIPS[split],
    )
    return [_sample(prompt, {"text": prompt.text}) for prompt in chosen]


def _spoof(corpus: Corpus, split: Split) -> list[Sample]:
    """Each chosen prompt twice: as recorded, and as espeak-ng reads the same words; both over the same telephone."""
    chosen = select(
        _candidates(corpus, split, "spoof"),
        task="spoof",
        name=lambda prompt: prompt.id,
        label=lambda prompt: prompt.language,
        limit=SPOOF_PAIRS[split],
    )
    spoken, rate = speak([_utterance(prompt, split) for prompt in chosen])
    samples: list[Sample] = []
    for prompt, synthesis in zip(chosen, spoken, strict=True):
        for label, (waveform, hertz) in (("genuine", audio.read(prompt.path)), ("spoof", (synthesis, rate))):
            heard = audio.over_the_telephone(waveform, hertz, seed=f"{label}/{prompt.id}")
            fields = {"authenticity": label, "words": prompt.text, "source": prompt.id}
            samples.append(_stored(f"{label}/{prompt.id}", heard, audio.TELEPHONE_HZ, fields))
    return sorted(samples, key=lambda sample: str(sample["__key__"]))


def _utterance(prompt: Prompt, split: Split) -> Utterance:
    """One of the split's voices, at a rate and pitch of its own; which ones is a function of the prompt."""
    number = int(draw(f"voice/{prompt.id}")[:8], 16)
    variants: Sequence[str] = _VARIANTS[split]
    return Utterance(
        text=prompt.text,
        voice=f"{_VOICES[prompt.language]}+{variants[number % len(variants)]}",
        rate=140 + number // 7 % 50,
        pitch=35 + number // 401 % 35,
    )


def _sample(prompt: Prompt, fields: Mapping[str, Any]) -> Sample:
    waveform, rate = audio.read(prompt.path)
    fields = {**fields, "words": prompt.text, "source": prompt.id}
    return _stored(prompt.id, audio.levelled(waveform), rate, fields)


def _stored(name: str, waveform: audio.Waveform, rate: int, fields: Mapping[str, Any]) -> Sample:
    """A shard's sample. Its key is a hash: neither the order of the clips nor their names tell the label."""
    return {"__key__": draw(f"clip/{name}")[:16], "flac": audio.flac(waveform, rate), "json": dict(fields)}

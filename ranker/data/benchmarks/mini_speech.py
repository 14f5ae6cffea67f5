"""What the voices of `mini` say. Voices in test are never heard in training; where it is said, phrases neither."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from ranker.data.benchmarks.espeak import Utterance
from ranker.data.benchmarks.mini_clips import Example, evenly

FEMALE = {
    "train": ("f1", "f2", "f3", "Alicia", "Annie", "belinda", "anika", "linda"),
    "test": ("f4", "f5", "Andrea", "steph"),
}
MALE = {
    "train": ("m1", "m2", "m3", "m4", "m5", "Andy", "Denis", "Hugo", "Lee", "Storm"),
    "test": ("m6", "m7", "m8", "antonio", "miguel"),
}
WORDS = ("yes", "no", "up", "down", "left", "right", "stop", "go", "cat", "seven")
DIGITS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COUNTS = ("one", "two", "three")
INTENTS = {
    "lights on": ("turn the lights on", "switch on the lights", "lights on please", "make it bright here"),
    "lights off": ("turn the lights off", "switch off the lights", "lights off please", "make it dark here"),
    "music on": ("play some music", "start the music", "music on please", "put on a song"),
    "music off": ("stop the music", "no more music", "music off please", "end this song"),
    "volume up": ("make it louder", "turn the volume up", "volume up please", "I cannot hear it"),
    "volume down": ("make it quieter", "turn the volume down", "volume down please", "it is too loud"),
    "heat up": ("make it warmer", "turn the heat up", "more heat please", "I am so cold"),
    "heat down": ("make it cooler", "turn the heat down", "less heat please", "I am too hot"),
}


class Language(NamedTuple):
    """An espeak-ng voice and sentences of everyday life; the last four are kept for the test."""

    voice: str
    sentences: tuple[str, ...]


LANGUAGES = {
    "english": Language(
        "en-us",
        (
            "where is the station",
            "I would like some bread",
            "the weather is nice today",
            "we are going home now",
            "she works in the garden",
            "my brother has a dog",
            "can you help me please",
            "the book is on the table",
            "it rained all night long",
            "they live near the river",
            "what time does it start",
            "he forgot his old coat",
            "thank you for the letter",
            "the children play outside",
            "this street is very quiet",
            "I have never been there",
        ),
    ),
    "german": Language(
        "de",
        (
            "wo ist denn der Bahnhof",
            "ich möchte etwas Brot",
            "das Wetter ist heute schön",
            "wir gehen jetzt nach Hause",
            "sie arbeitet im Garten",
            "mein Bruder hat einen Hund",
            "kannst du mir bitte helfen",
            "das Buch liegt auf dem Tisch",
            "es hat die ganze Nacht geregnet",
            "sie wohnen nahe am Fluss",
            "um wie viel Uhr beginnt es",
            "er hat seinen Mantel vergessen",
            "vielen Dank für den Brief",
            "die Kinder spielen draußen",
            "diese Straße ist sehr ruhig",
            "ich war noch niemals dort",
        ),
    ),
    "spanish": Language(
        "es",
        (
            "dónde está la estación",
            "quisiera un poco de pan",
            "hoy hace muy buen tiempo",
            "ahora vamos a casa",
            "ella trabaja en el jardín",
            "mi hermano tiene un perro",
            "puedes ayudarme por favor",
            "el libro está en la mesa",
            "llovió toda la noche",
            "viven cerca del río",
            "a qué hora empieza",
            "olvidó su abrigo viejo",
            "muchas gracias por la carta",
            "los niños juegan fuera",
            "esta calle es muy tranquila",
            "nunca he estado allí",
        ),
    ),
    "russian": Language(
        "ru",
        (
            "где находится вокзал",
            "я хочу немного хлеба",
            "сегодня хорошая погода",
            "мы сейчас идём домой",
            "она работает в саду",
            "мой брат купил собаку",
            "помогите мне пожалуйста",
            "книга лежит на столе",
            "всю ночь шёл дождь",
            "они живут за рекой",
            "во сколько это начнётся",
            "он забыл своё пальто",
            "большое спасибо за письмо",
            "дети играют на улице",
            "эта улица очень тихая",
            "я никогда там не был",
        ),
    ),
    "chinese": Language(
        "cmn",
        (
            "请问车站在哪里",
            "我想买一点面包",
            "今天天气很好",
            "我们现在回家",
            "她在花园里工作",
            "我弟弟有一只狗",
            "请你帮帮我好吗",
            "书在桌子上面",
            "昨天下了一夜的雨",
            "他们住在河边",
            "几点钟开始",
            "他忘了他的大衣",
            "谢谢你给我写信",
            "孩子们在外面玩",
            "这条街很安静",
            "我从来没去过那里",
        ),
    ),
}

ENGLISH_SLOTS = (
    ("take", "find", "hide", "wash", "drop"),
    ("the",),
    ("red", "blue", "green", "black", "white"),
    ("cup", "ball", "hat", "box", "book"),
)
MANDARIN_SLOTS = (
    ("我", "你", "他"),
    ("要", "买", "看", "有"),
    ("一", "两", "三", "五", "八"),
    ("杯茶", "本书", "朵花", "条鱼", "辆车"),
)
_TEST_PHRASES_EVERY = 5  # of the shuffled phrases of a grammar, every fifth is heard in test only


def keyword(split: str, count: int, draw: Random) -> list[Example]:
    """One of ten words."""
    return [
        Example(fields={"label": word, "voice": who}, said=(_utterance(draw, word, f"en-us+{who}"),))
        for word in evenly(WORDS, count, draw)
        for who in [_anyone(split, draw)]
    ]


def language(split: str, count: int, draw: Random) -> list[Example]:
    """A piece of a sentence in one of five languages; other sentences in test."""
    examples = []
    for name in evenly(tuple(LANGUAGES), count, draw):
        voice, sentences = LANGUAGES[name]
        text = draw.choice(sentences[:-4] if split == "train" else sentences[-4:])
        who = _anyone(split, draw)
        said = _utterance(draw, text, f"{voice}+{who}")
        examples.append(Example(fields={"label": name, "voice": who, "text": text}, said=(said,), may_cut=True))
    return examples


def gender(split: str, count: int, draw: Random) -> list[Example]:
    """A phrase by a female or a male voice."""
    examples = []
    phrases = _phrases(ENGLISH_SLOTS, " ", split)
    for label in evenly(("female", "male"), count, draw):
        who = draw.choice({"female": FEMALE, "male": MALE}[label][split])
        said = _utterance(draw, draw.choice(phrases), f"en-us+{who}", pitch=(25, 75))
        examples.append(Example(fields={"label": label, "voice": who}, said=(said,), may_cut=True))
    return examples


def speaker_count(split: str, count: int, draw: Random) -> list[Example]:
    """One to three different voices that count at once."""
    examples = []
    for label in evenly(COUNTS, count, draw):
        voices = draw.sample(FEMALE[split] + MALE[split], COUNTS.index(label) + 1)
        said = tuple(_utterance(draw, " ".join(draw.sample(DIGITS, 3)), f"en-us+{who}") for who in voices)
        examples.append(Example(fields={"label": label, "voice": voices}, said=said, may_cut=True))
    return examples


def intent(split: str, count: int, draw: Random) -> list[Example]:
    """A command, four ways to say each; the same words in test."""
    examples = []
    for label in evenly(tuple(INTENTS), count, draw):
        text, who = draw.choice(INTENTS[label]), _anyone(split, draw)
        said = _utterance(draw, text, f"en-us+{who}", rate=(180, 210))
        examples.append(Example(fields={"label": label, "voice": who, "text": text}, said=(said,), may_cut=True))
    return examples


def asr_en(split: str, count: int, draw: Random) -> list[Example]:
    """English phrases of four words; other phrases in test."""
    return _recognition(_phrases(ENGLISH_SLOTS, " ", split), "en-us", split, count, draw)


def asr_zh(split: str, count: int, draw: Random) -> list[Example]:
    """Mandarin phrases of five characters; other phrases in test."""
    return _recognition(_phrases(MANDARIN_SLOTS, "", split), "cmn", split, count, draw)


def _recognition(phrases: Sequence[str], voice: str, split: str, count: int, draw: Random) -> list[Example]:
    examples = []
    for text in evenly(phrases, count, draw):
        who = _anyone(split, draw)
        said = _utterance(draw, text, f"{voice}+{who}", rate=(180, 210))
        examples.append(Example(fields={"text": text, "voice": who}, said=(said,)))
    return examples


def _phrases(slots: Sequence[Sequence[str]], space: str, split: str) -> list[str]:
    """The phrases of a grammar that belong to a split; the same division whatever the task."""
    phrases = [space.join(words) for words in product(*slots)]
    Random("mini/phrases").shuffle(phrases)
    return [phrase for at, phrase in enumerate(phrases) if (at % _TEST_PHRASES_EVERY == 0) == (split == "test")]


def _anyone(split: str, draw: Random) -> str:
    """A female voice as often as a male one."""
    return draw.choice(draw.choice((FEMALE, MALE))[split])


def _utterance(
    draw: Random, text: str, voice: str, rate: tuple[int, int] = (150, 200), pitch: tuple[int, int] = (35, 65)
) -> Utterance:
    return Utterance(
        text=text, voice=voice, rate=draw.randint(*rate), pitch=draw.randint(*pitch), pitch_range=draw.randint(30, 70)
    )

"""Answers: greedy generation, one per clip and prompt, many clips at a time.

Clips wait in line, longest first; whoever has ended makes room for the next at once. Which rows are decoded together is
a function of the clips, their answers and the room that the recipe gives; it moves the order of floating-point sums,
and nothing else.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from ranker.config import Recipe
from ranker.lalm.graphs import StepGraphs
from ranker.lalm.merged import Cache, MergedDecoder, columns_for
from ranker.lalm.model import AudioLanguageModel
from ranker.pace import PULSE
from ranker.sandbox.base import Features

Key = TypeVar("Key", bound=Hashable)

# More rows make a step's products no more efficient, and its attention no less.
MOST_ROWS = {"cpu": 64, "cuda": 512}
# Tokens that are read together: enough for products at full speed, few enough for what they keep to be small.
READ_TOGETHER = {"cpu": 2_048, "cuda": 32_768}
# A waiting clip is let in once the free rows hold so much, or are so large a part of all.
_WORTH_READING = 512
_WORTH_SHARE = 0.25
_SHRUNK = 2 / 3  # rows are cut anew once they need no more than this of their columns


def generate(
    model: AudioLanguageModel, clips: Sequence[Features], *, prompt: str, max_new_tokens: int, recipe: Recipe
) -> list[str]:
    """Ask one prompt about each clip: features [(T'_i, D)] to answers, stripped. See `generate_tokens`."""
    tokens = generate_tokens(model, clips, prompt=prompt, max_new_tokens=max_new_tokens, recipe=recipe)
    return [text.strip() for text in model.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def generate_tokens(
    model: AudioLanguageModel, clips: Sequence[Features], *, prompt: str, max_new_tokens: int, recipe: Recipe
) -> list[list[int]]:
    """The tokens that answer one prompt about each clip, without EOS: features [(T'_i, D)] to token ids.

    Greedy, until EOS or `max_new_tokens`: what transformers' `generate` gives for each clip alone, but for the order of
    floating-point sums, and in bf16 for the rounding of merged weights.
    """
    decoder = MergedDecoder(model, recipe)
    longest_first = sorted(enumerate(clips), key=lambda clip: -len(clip[1]))
    asked = {"prompt": prompt, "max_new_tokens": max_new_tokens, "recipe": recipe}
    found = dict(answered(decoder, longest_first, count=len(clips), **asked))  # type: ignore[arg-type]
    return [found[place] for place in range(len(clips))]


@torch.inference_mode()
def answered(
    decoder: MergedDecoder,
    clips: Iterable[tuple[Key, Features]],
    *,
    count: int,
    prompt: str,
    max_new_tokens: int,
    recipe: Recipe,
) -> Iterator[tuple[Key, list[int]]]:
    """(key, tokens) of each of `count` clips, in the order in which they end. Clips should come longest first: a
    shorter one never has to wait for a longer one then.
    """
    embedded = decoder.model.embed_text(decoder.model.tokenize(prompt))
    line = _Line(((key, decoder.embed(clip, embedded)) for key, clip in clips), count)
    rows = _Rows[Key](decoder, max_new_tokens, recipe)
    while line.left or rows.live:
        while (free := rows.room_for(line)) > 0:
            yield from rows.begin(line.take(free, rows.columns - max_new_tokens, READ_TOGETHER[decoder.device.type]))
        PULSE.mark()  # a long answer is no job that hangs
        if rows.live:
            yield from rows.step()


class _Line(Generic[Key]):
    """Clips that wait, with sight of the first."""

    def __init__(self, clips: Iterator[tuple[Key, torch.Tensor]], count: int) -> None:
        self._clips, self.left = clips, count
        self._first: tuple[Key, torch.Tensor] | None = None

    def length(self) -> int:
        """Tokens of the first."""
        if self._first is None:
            self._first = next(self._clips)
        return len(self._first[1])

    def take(self, most: int, longest: int, together: int) -> list[tuple[Key, torch.Tensor]]:
        """The first, and up to `most` of those behind it as long as all have no more than `together` tokens, and none
        is longer than `longest`.
        """
        taken: list[tuple[Key, torch.Tensor]] = []
        size = 0
        while self.left and len(taken) < most and self.length() <= longest:
            size += self.length()
            if taken and size > together:
                break
            assert self._first is not None
            taken.append(self._first)
            self._first, self.left = None, self.left - 1
        return taken


@dataclass(kw_only=True)
class _Row(Generic[Key]):
    """A clip that is being answered: how many tokens of it the cache holds, and what was said. `needs` columns."""

    key: Key
    length: int
    needs: int
    said: list[int] = field(default_factory=list)


class _Rows(Generic[Key]):
    """The rows that are decoded together: always the first of the cache, in no order."""

    def __init__(self, decoder: MergedDecoder, max_new_tokens: int, recipe: Recipe) -> None:
        self._decoder = decoder
        self._cap, self._penalty = max_new_tokens, recipe.repetition_penalty
        self._most = MOST_ROWS[decoder.device.type]
        self._tokens = int(recipe.answer_memory_gb * 1e9 / decoder.bytes_per_token)
        self._cache = Cache(decoder, 0, 0)
        self._graphs = StepGraphs(decoder) if decoder.graphs else None
        # What each row said. Places that nothing was said at hold its first token: penalised once, however often named.
        self._said = torch.zeros((self._most, max_new_tokens), dtype=torch.long, device=decoder.device)
        self.live: list[_Row[Key]] = []

    @property
    def columns(self) -> int:
        """Tokens that a row has room for."""
        return self._cache.columns

    def room_for(self, line: _Line[Key]) -> int:
        """How many waiting clips to let in now; the cache is cut anew where that helps."""
        if not line.left:
            return 0
        needed = line.length() + self._cap
        columns = columns_for(max([needed, *(row.needs for row in self.live)]))
        rows = max(1, min(self._most, self._tokens // columns, len(self.live) + line.left))
        too_short = needed > self.columns
        if too_short or (columns <= _SHRUNK * self.columns and rows > self._cache.rows):
            if len(self.live) >= rows:
                return 0
            length = max((row.length for row in self.live), default=0)
            self._cache.resize(rows, columns, kept=len(self.live), length=length)
        free = min(self._cache.rows - len(self.live), line.left)
        worth = free * line.length() >= _WORTH_READING or free >= _WORTH_SHARE * self._cache.rows or not self.live
        return free if worth or free == line.left else 0

    def begin(self, clips: Sequence[tuple[Key, torch.Tensor]]) -> Iterator[tuple[Key, list[int]]]:
        """Read these clips and say the first token of each."""
        first = len(self.live)
        logits = self._decoder.prefill([sequence for _, sequence in clips], self._cache, first)
        self.live += [_Row(key=key, length=len(each), needs=len(each) + self._cap) for key, each in clips]
        tokens = logits.argmax(-1)
        self._said[first : len(self.live)] = tokens[:, None]
        yield from self._say(first, tokens.tolist())

    def step(self) -> Iterator[tuple[Key, list[int]]]:
        """Say one more token of each row.

        The repetition penalty (Keskar et al. 2019) divides positive and multiplies negative logits of tokens that this
        row has said before; the prompt, which enters as embeddings, is not penalised.
        """
        device = self._decoder.device
        last, lengths = [row.said[-1] for row in self.live], [row.length for row in self.live]
        if self._graphs is None:
            at = (torch.tensor(last, device=device), torch.tensor(lengths, device=device))
            logits = self._decoder.step(*at, self._cache)  # (n, V)
        else:
            logits = self._graphs.step(last, lengths, self._cache)
        for row in self.live:
            row.length += 1
        said = self._said[: len(self.live)]
        penalised = logits.gather(1, said)
        logits.scatter_(1, said, torch.where(penalised < 0, penalised * self._penalty, penalised / self._penalty))
        tokens = logits.argmax(-1)
        places = torch.tensor([len(row.said) for row in self.live], device=device)
        said[torch.arange(len(self.live), device=device), places] = tokens
        yield from self._say(0, tokens.tolist())

    def _say(self, first: int, tokens: Sequence[int]) -> Iterator[tuple[Key, list[int]]]:
        """Note the next token of the rows from `first` on; rows that have ended are given, and the last ones moved
        into their places.
        """
        eos = self._decoder.model.eos_id
        ended = set()
        for place, token in enumerate(tokens, start=first):
            said = self.live[place].said
            if token != eos:
                said.append(token)
            if token == eos or len(said) == self._cap:
                ended.add(place)
                yield self.live[place].key, said
        for place in sorted(ended):
            while len(self.live) - 1 in ended and len(self.live) - 1 >= place:
                self.live.pop()
            if place < len(self.live):
                row = self.live[place] = self.live.pop()
                self._cache.move(len(self.live), place, row.length)
                self._said[place] = self._said[len(self.live)]

"""A model's answers to one task: each clip encoded and asked once, however many references it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ranker.config import Recipe
from ranker.data.shards import Clip
from ranker.lalm.features import Excerpt, calls, encode_calls
from ranker.lalm.generate import answered
from ranker.lalm.merged import MergedDecoder
from ranker.sandbox.base import Encoder, Features

EncodeCalls = Callable[
    [Path, Encoder, Sequence[tuple[Excerpt, ...]]], Iterator[tuple[tuple[Excerpt, ...], list[Features]]]
]


def answer(
    decoder: MergedDecoder,
    encoder: Encoder,
    clips: Sequence[Clip],
    *,
    data: Path,
    prompt: str,
    max_new_tokens: int,
    recipe: Recipe,
    batch_invariant: bool,
    on_progress: Callable[[int], None],
    encode: EncodeCalls = encode_calls,
) -> dict[str, str]:
    """Clip id -> answer. Clips are asked longest first; `on_progress(answered)`.

    `encode` gives the features of the calls that it is given, in their order; in which order it makes them is its own
    matter, since which clips are answered together does not hang on it.
    """
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=batch_invariant)
    plan.reverse()
    encoded = (
        (excerpt.clip.id, features)
        for call, made in encode(data, encoder, plan)
        for excerpt, features in zip(call, made, strict=True)
    )
    answers: dict[str, str] = {}
    asked = answered(
        decoder, encoded, count=sum(map(len, plan)), prompt=prompt, max_new_tokens=max_new_tokens, recipe=recipe
    )
    for clip, tokens in asked:
        answers[clip] = str(decoder.model.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        on_progress(len(answers))
    return answers

"""A model's answers to one task: each clip encoded and asked once, however many references it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ranker.config import Recipe
from ranker.data.shards import Clip
from ranker.lalm.features import Excerpt, calls, encode_calls
from ranker.lalm.generate import generate
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Encoder, Features

_TOGETHER = 64
_TOGETHER_S = 400.0
_TOGETHER_FRAMES = 60_000  # padded; an encoder with very many frames takes longer, and no more memory than others


def answer(
    model: AudioLanguageModel,
    encoder: Encoder,
    clips: Sequence[Clip],
    *,
    data: Path,
    prompt: str,
    max_new_tokens: int,
    recipe: Recipe,
    batch_invariant: bool,
    on_progress: Callable[[int], None],
) -> dict[str, str]:
    """Clip id -> answer. Clips of like length are asked together, longest first; `on_progress(answered)`."""
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=batch_invariant)
    plan.reverse()
    answers: dict[str, str] = {}
    for chunk in _together(encode_calls(data, encoder, plan)):
        features = [each for _, each in chunk]
        texts = generate(model, features, prompt=prompt, max_new_tokens=max_new_tokens, recipe=recipe)
        answers.update({excerpt.clip.id: text for (excerpt, _), text in zip(chunk, texts, strict=True)})
        on_progress(len(answers))
    return answers


def _together(
    encoded: Iterator[tuple[tuple[Excerpt, ...], list[Features]]],
) -> Iterator[list[tuple[Excerpt, Features]]]:
    """Cut a stream of encoded calls into chunks to be answered in one batch, bounded in clips, seconds and frames."""
    chunk: list[tuple[Excerpt, Features]] = []
    seconds, longest = 0.0, 0
    for call, features in encoded:
        for item in zip(call, features, strict=True):
            longest = max(longest, len(item[1]))
            too_many = len(chunk) == _TOGETHER or (len(chunk) + 1) * longest > _TOGETHER_FRAMES
            if chunk and (too_many or seconds + item[0].duration_s > _TOGETHER_S):
                yield chunk
                chunk, seconds, longest = [], 0.0, len(item[1])
            chunk.append(item)
            seconds += item[0].duration_s
    if chunk:
        yield chunk

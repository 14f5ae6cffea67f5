"""A model's answers to one task: each clip encoded and asked once, however many references it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ranker.config import Recipe
from ranker.data.shards import Clip
from ranker.lalm.features import Excerpt, calls, encode_calls
from ranker.lalm.generate import generate
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Encoder, Features

EncodeCalls = Callable[
    [Path, Encoder, Sequence[tuple[Excerpt, ...]]], Iterator[tuple[tuple[Excerpt, ...], list[Features]]]
]

_TOGETHER = 64
_TOGETHER_S = 400.0
# An encoder with very many or very large frames takes longer, and no more memory than others.
_TOGETHER_FRAMES = 60_000  # padded: what the decoder keeps of each, in all its layers
_TOGETHER_MASK = 100_000_000  # rows times squared length: a mask of padded rows, 4 bytes per cell
_TOGETHER_BYTES = 500_000_000  # of features


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
    encode: EncodeCalls = encode_calls,
) -> dict[str, str]:
    """Clip id -> answer. Clips of like length are asked together, longest first; `on_progress(answered)`.

    `encode` gives the features of the calls that it is given, in their order; in which order it makes them is its own
    matter, since which clips are answered together does not hang on it.
    """
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=batch_invariant)
    plan.reverse()
    answers: dict[str, str] = {}
    for chunk in together(encode(data, encoder, plan)):
        features = [each for _, each in chunk]
        texts = generate(model, features, prompt=prompt, max_new_tokens=max_new_tokens, recipe=recipe)
        answers.update({excerpt.clip.id: text for (excerpt, _), text in zip(chunk, texts, strict=True)})
        on_progress(len(answers))
    return answers


def together(
    encoded: Iterable[tuple[tuple[Excerpt, ...], Sequence[Features]]],
) -> Iterator[list[tuple[Excerpt, Features]]]:
    """Cut a stream of encoded calls into chunks to be answered in one batch, bounded in clips, seconds and memory."""
    chunk: list[tuple[Excerpt, Features]] = []
    seconds, longest, size = 0.0, 0, 0
    for call, features in encoded:
        for excerpt, frames in zip(call, features, strict=True):
            rows, longest = len(chunk) + 1, max(longest, len(frames))
            seconds, size = seconds + excerpt.duration_s, size + frames.nbytes
            too_long = rows > _TOGETHER or seconds > _TOGETHER_S
            too_large = rows * longest > _TOGETHER_FRAMES or rows * longest**2 > _TOGETHER_MASK
            if chunk and (too_long or too_large or size > _TOGETHER_BYTES):
                yield chunk
                chunk, seconds, longest, size = [], excerpt.duration_s, len(frames), frames.nbytes
            chunk.append((excerpt, frames))
    if chunk:
        yield chunk

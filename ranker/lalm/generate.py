"""Answers: greedy generation in batches, one per clip and prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from ranker.config import Recipe
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features
from ranker.types import Precision

# Rows that have ended are dropped once they are so large a part of the batch: dropping copies what the rest remembers.
RETIRE_SHARE = 0.25


def generate(
    model: AudioLanguageModel, clips: Sequence[Features], *, prompt: str, max_new_tokens: int, recipe: Recipe
) -> list[str]:
    """Ask one prompt about each clip: features [(T'_i, D)] to answers, stripped. See `generate_tokens`."""
    tokens = generate_tokens(model, clips, prompt=prompt, max_new_tokens=max_new_tokens, recipe=recipe)
    return [text.strip() for text in model.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


@torch.inference_mode()
def generate_tokens(
    model: AudioLanguageModel, clips: Sequence[Features], *, prompt: str, max_new_tokens: int, recipe: Recipe
) -> list[list[int]]:
    """The tokens that answer one prompt about each clip, without EOS: features [(T'_i, D)] to token ids.

    Greedy, until EOS or `max_new_tokens`: what transformers' `generate` gives for each clip alone, but for the order of
    floating-point sums. Sequences are padded on the left, where the attention mask hides it and positions do not count
    it, so that every row's next token stands in the last column.
    """
    prompt_embedded = model.embed_text(model.tokenize(prompt))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.precision is Precision.BF16):
        sequences = [torch.cat([frames, prompt_embedded.to(frames.dtype)]) for frames in model.embed_audio(clips)]
        embedded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_side="left")  # (B, S, H)
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=model.device)
        columns = torch.arange(embedded.shape[1], device=model.device)
        mask = (columns >= embedded.shape[1] - lengths[:, None]).long()  # (B, S), 0 on the padding
        return _decode_greedily(model, embedded, mask, max_new_tokens, recipe.repetition_penalty)


def _decode_greedily(
    model: AudioLanguageModel, embedded: torch.Tensor, mask: torch.Tensor, max_new_tokens: int, penalty: float
) -> list[list[int]]:
    """Token ids of each row without EOS. embedded (B, S, H), mask (B, S).

    The repetition penalty (Keskar et al. 2019) divides positive and multiplies negative logits of tokens that this
    row has generated before; the prompt, which enters as embeddings, is not penalised.
    """
    body = model.body
    cache = DynamicCache(config=body.config)
    rows = list(range(embedded.shape[0]))  # of the batch that we were given, those that are still in ours
    ended: set[int] = set()
    answers: list[list[int]] = [[] for _ in rows]
    chosen = torch.zeros((len(rows), 0), dtype=torch.long, device=embedded.device)
    step_input = {"inputs_embeds": embedded}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        output = body(**step_input, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = model.head(output.last_hidden_state[:, -1]).float()  # (B, V)
        if chosen.shape[1]:
            seen = logits.gather(1, chosen)
            logits.scatter_(1, chosen, torch.where(seen < 0, seen * penalty, seen / penalty))
        token = logits.argmax(-1)  # (B,)
        for row, value in zip(rows, token.tolist(), strict=True):
            if value == model.eos_id:
                ended.add(row)
            elif row not in ended:
                answers[row].append(value)
        if len(ended) == len(answers):
            break
        chosen = torch.cat([chosen, token[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], dim=1)
        positions = positions[:, -1:] + 1
        if sum(row in ended for row in rows) >= RETIRE_SHARE * len(rows):
            kept = torch.tensor([place for place, row in enumerate(rows) if row not in ended], device=mask.device)
            cache.batch_select_indices(kept)
            rows = [rows[place] for place in kept.tolist()]
            token, chosen, mask, positions = token[kept], chosen[kept], mask[kept], positions[kept]
        step_input = {"input_ids": token[:, None]}
    return answers

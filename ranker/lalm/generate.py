"""Answers: greedy generation in batches, one per clip and prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache

from ranker.config import Recipe
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features
from ranker.types import Precision


@torch.inference_mode()
def generate(
    model: AudioLanguageModel, clips: Sequence[Features], *, prompt: str, max_new_tokens: int, recipe: Recipe
) -> list[str]:
    """Ask one prompt about each clip: features [(T'_i, D)] to answers, stripped.

    Greedy, until EOS or `max_new_tokens`. Sequences are padded on the left, where the attention mask hides it and
    positions do not count it, so that every row's next token stands in the last column.
    """
    prompt_embedded = model.embed_text(model.tokenize(prompt))
    with torch.autocast(model.device.type, torch.bfloat16, enabled=recipe.precision is Precision.BF16):
        sequences = [torch.cat([frames, prompt_embedded.to(frames.dtype)]) for frames in model.embed_audio(clips)]
        embedded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_side="left")  # (B, S, H)
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=model.device)
        columns = torch.arange(embedded.shape[1], device=model.device)
        mask = (columns >= embedded.shape[1] - lengths[:, None]).long()  # (B, S), 0 on the padding
        tokens = _decode_greedily(model, embedded, mask, max_new_tokens, recipe.repetition_penalty)
    return [text.strip() for text in model.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _decode_greedily(
    model: AudioLanguageModel, embedded: torch.Tensor, mask: torch.Tensor, max_new_tokens: int, penalty: float
) -> list[list[int]]:
    """Token ids of each row without EOS. embedded (B, S, H), mask (B, S).

    The repetition penalty (Keskar et al. 2019) divides positive and multiplies negative logits of tokens that this
    row has generated before; the prompt, which enters as embeddings, is not penalised.
    """
    body = model.body
    rows = embedded.shape[0]
    cache = DynamicCache(config=body.config)
    answers: list[list[int]] = [[] for _ in range(rows)]
    open_rows = set(range(rows))
    chosen = torch.zeros((rows, 0), dtype=torch.long, device=embedded.device)
    step_input = {"inputs_embeds": embedded}
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        output = body(**step_input, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True)
        logits = model.head(output.last_hidden_state[:, -1]).float()  # (B, V)
        if chosen.shape[1]:
            seen = logits.gather(1, chosen)
            logits.scatter_(1, chosen, torch.where(seen < 0, seen * penalty, seen / penalty))
        token = logits.argmax(-1)  # (B,)
        for row, value in enumerate(token.tolist()):
            if row in open_rows and value == model.eos_id:
                open_rows.discard(row)
            elif row in open_rows:
                answers[row].append(value)
        if not open_rows:
            break
        chosen = torch.cat([chosen, token[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones((rows, 1))], dim=1)
        positions = positions[:, -1:] + 1
        step_input = {"input_ids": token[:, None]}
    return answers

"""Greedy answers against transformers' own generation, one clip at a time."""

from __future__ import annotations

import warnings

import lalm
import numpy as np
import pytest
import torch

from ranker.lalm.generate import generate
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features

PROMPT = "What is heard?"
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    """Two layers in float32, its adapters pushed off zero so that answers vary with the clip."""
    built = lalm.build(lalm.tiny_recipe(decoder_layers=2), feature_dim=8).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        built.projector.weight.mul_(20.0)
    return built


@pytest.fixture(scope="module")
def clips() -> list[Features]:
    random = np.random.default_rng(3)
    return [random.normal(size=(length, 8)).astype(np.float32) for length in (1, 9, 4, 17, 4, 30, 2)]


def one_by_one(model: AudioLanguageModel, clip: Features, penalty: float) -> str:
    """What transformers' generate answers to one clip, unpadded."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the prompt is not penalised: that is what is wanted
        (audio,) = model.embed_audio([clip])
        embedded = torch.cat([audio, model.embed_text(model.tokenize(PROMPT))])[None]
        tokens = model.decoder.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            repetition_penalty=penalty,
            eos_token_id=model.eos_id,
            pad_token_id=model.eos_id,
        )
    return str(model.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.6])
def test_answers_are_those_of_transformers_one_at_a_time(
    model: AudioLanguageModel, clips: list[Features], penalty: float
) -> None:
    """Padding, batching, cache and repetition penalty change no token."""
    recipe = lalm.tiny_recipe(repetition_penalty=penalty)
    answers = generate(model, clips, prompt=PROMPT, max_new_tokens=NEW_TOKENS, recipe=recipe)
    assert answers == [one_by_one(model, clip, penalty) for clip in clips]
    assert len(set(answers)) > 2


def test_answers_do_not_depend_on_the_company(model: AudioLanguageModel, clips: list[Features]) -> None:
    """Any order, any batch: each clip keeps its answer."""
    recipe = lalm.tiny_recipe()
    whole = generate(model, clips, prompt=PROMPT, max_new_tokens=NEW_TOKENS, recipe=recipe)
    turned = generate(model, clips[::-1], prompt=PROMPT, max_new_tokens=NEW_TOKENS, recipe=recipe)
    halves = [
        answer
        for part in (clips[:3], clips[3:])
        for answer in generate(model, part, prompt=PROMPT, max_new_tokens=NEW_TOKENS, recipe=recipe)
    ]
    assert turned[::-1] == whole
    assert halves == whole


def test_an_answer_ends_at_eos() -> None:
    """EOS ends a row, whatever its neighbours do: a model that has learnt one word says it once."""
    recipe = lalm.tiny_recipe()
    taught = lalm.build(recipe)
    optimizer = torch.optim.Adam([weight for weight in taught.parameters() if weight.requires_grad], lr=1e-2)
    sample = lalm.example(taught, 1)
    for _ in range(70):
        taught([sample]).backward()
        optimizer.step()
        optimizer.zero_grad()
    taught.eval()
    other = np.zeros((9, 8), np.float32)
    answers = generate(taught, [sample.features, other], prompt="Which word?", max_new_tokens=40, recipe=recipe)
    assert answers[0] == "dog"

"""The audio language model: what it computes, and what its initial weights depend on."""

from __future__ import annotations

from pathlib import Path

import lalm
import numpy as np
import pytest
import torch
from torch.nn import functional

from ranker.errors import ConfigError, MissingError
from ranker.lalm import decoder as decoders
from ranker.lalm.model import AudioLanguageModel, Example


@pytest.fixture(scope="module")
def model() -> AudioLanguageModel:
    return lalm.build(lalm.tiny_recipe(decoder_layers=2)).eval()


def plain_loss(model: AudioLanguageModel, samples: list[Example]) -> torch.Tensor:
    """The definition, sample by sample: no padding, logits at every position, mean over all label tokens."""
    losses = []
    for sample in samples:
        (audio,) = model.embed_audio([sample.features])
        embedded = torch.cat([audio, model.embed_text(sample.prompt + sample.target)])[None]
        logits = model.decoder(inputs_embeds=embedded).logits[0]
        start = len(sample.features) + len(sample.prompt)
        losses.append(functional.cross_entropy(logits[start - 1 : -1], torch.tensor(sample.target), reduction="none"))
    return torch.cat(losses).mean()


def test_loss_of_a_ragged_batch_is_the_plain_definition(model: AudioLanguageModel) -> None:
    """Padding, batching and logits at label positions only change nothing."""
    samples = lalm.batch(model, 1, size=6)
    assert len({len(sample.features) + len(sample.target) for sample in samples}) > 2
    torch.testing.assert_close(model(samples), plain_loss(model, samples), rtol=1e-5, atol=1e-5)


def test_gradients_reach_projector_and_lora_and_nothing_else(model: AudioLanguageModel) -> None:
    """The decoder's own weights are frozen."""
    model(lalm.batch(model, 0)).backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    assert moved == {name for name, weight in model.named_parameters() if "lora_" in name or "projector" in name}
    assert len(moved) == 2 + 2 * 7 * 2  # projector; A and B of seven linear layers in two blocks


def test_head_is_not_adapted(model: AudioLanguageModel) -> None:
    """LoRA sits on every linear layer but the head."""
    assert not [name for name, _ in model.named_parameters() if "lora_" in name and "lm_head" in name]


def test_initial_weights_depend_on_the_key_alone() -> None:
    """What ran before, and the random state that a constructor leaves, do not change them; another key does."""
    recipe = lalm.tiny_recipe()
    torch.manual_seed(1)
    first = lalm.build(recipe).trained_state()
    torch.rand(17)
    again = lalm.build(recipe).trained_state()
    other = lalm.build(recipe, init_key="other").trained_state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["projector.weight"], other["projector.weight"])


def test_lora_starts_the_same_for_every_feature_size() -> None:
    """Teams differ by their encoder only: the projector's size follows D, LoRA's start does not."""
    narrow, wide = (lalm.build(lalm.tiny_recipe(), feature_dim=size).trained_state() for size in (8, 96))
    shared = [name for name in narrow if name.startswith("lora.")]
    assert len(shared) == 14
    assert all(torch.equal(narrow[name], wide[name]) for name in shared)


def test_standardised_features_have_mean_zero_and_deviation_one(model: AudioLanguageModel) -> None:
    """Over all frames; a dimension that never moves becomes zero, not noise."""
    random = np.random.default_rng(0)
    clips = [random.normal(5.0, 3.0, size=(length, 8)).astype(np.float32) for length in (4, 9, 30)]
    for clip in clips:
        clip[:, 3] = 7.0
    model.standardize(clips)
    frames = (torch.from_numpy(np.concatenate(clips)) - model.feature_mean) * model.feature_scale
    moving = [index for index in range(8) if index != 3]
    torch.testing.assert_close(frames.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames[:, moving].std(0, correction=0), torch.ones(7), atol=1e-4, rtol=0)
    assert frames[:, 3].abs().max() < 1e-4
    model.feature_mean.zero_()
    model.feature_scale.fill_(1.0)


def test_trained_state_survives_a_file(model: AudioLanguageModel, tmp_path: Path) -> None:
    """Adapter, projector and standardisation come back as they were."""
    with torch.no_grad():
        model.projector.weight.add_(1.0)
    model.save_trained(tmp_path / "trained.safetensors")
    fresh = lalm.build(lalm.tiny_recipe(decoder_layers=2), init_key="else")
    fresh.load_trained(tmp_path / "trained.safetensors")
    ours, theirs = model.trained_state(), fresh.trained_state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tokens_have_no_bos_and_no_template(model: AudioLanguageModel) -> None:
    """Prompt and target are tokenised apart, as bare text; EOS is the decoder's own."""
    assert model.tokenizer.decode(model.tokenize("Which word?")) == "Which word?"
    assert model.tokenizer.decode([model.eos_id]) == "<|im_end|>"


def test_decoder_is_refused_by_an_unknown_name() -> None:
    """A typo in a recipe is a configuration error that names what there is."""
    with pytest.raises(ConfigError, match="known are smollm2-135m and"):
        decoders.locate("smollm3")


def test_half_a_download_of_the_decoder_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights without their configuration and tokenizer are no decoder; what lacks is named, and what to do."""
    monkeypatch.setenv("RANKER_CACHE", str(tmp_path))
    folder = tmp_path / decoders.CHALLENGE_DECODER
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(
        MissingError, match=r"config\.json, tokenizer_config\.json, tokenizer\.json expected in .*data fetch"
    ):
        decoders.locate(decoders.CHALLENGE_DECODER)


def test_more_layers_than_there_are_is_refused() -> None:
    """Silently using fewer would be another recipe."""
    with pytest.raises(ConfigError, match="has 30 layers"):
        decoders.load(decoders.locate(decoders.STAND_IN_DECODER), 31)

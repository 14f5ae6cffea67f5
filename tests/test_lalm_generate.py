"""Greedy answers against transformers' own generation, one clip at a time: the same tokens, one by one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations, product
from typing import Any

import effort
import lalm
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ranker.lalm import generate as generation
from ranker.lalm.generate import answered, generate, generate_tokens
from ranker.lalm.merged import Cache, MergedDecoder
from ranker.lalm.model import AudioLanguageModel
from ranker.sandbox.base import Features

PROMPT = "3 5 3 7"  # of the tiny vocabulary, a token of it twice
WORDS = "What is heard?"
NEAR = 1e-4
VOCABULARY = 40
RECIPE = lalm.tiny_recipe(repetition_penalty=1.05)
NEVER = VOCABULARY - 1  # the tiny head keeps this token's logit far below the others'


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What transformers' generate gives for one clip. Per step: how far the two best penalised logits lie apart."""

    tokens: tuple[int, ...]
    gaps: tuple[float, ...]
    penalised_negatives: int


@dataclass(kw_only=True)
class Tally:
    """What was compared; `near_ties` counts clips whose tokens part where the two best logits lie within NEAR."""

    clips: int = 0
    tokens: int = 0
    near_ties: int = 0
    lengths: set[int] = field(default_factory=set)
    repeated: int = 0
    negatives: int = 0
    prompt_tokens: int = 0


def reference(
    model: AudioLanguageModel, clip: Features, prompt: str, *, penalty: float, max_new_tokens: int
) -> Reference:
    """One clip, unpadded, in a batch of its own. Its tokens end with EOS if that came."""
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that the prompt is not penalised: that is what is wanted
        (audio,) = model.embed_audio([clip])
        embedded = torch.cat([audio, model.embed_text(model.tokenize(prompt))])[None]
        given = model.decoder.generate(
            inputs_embeds=embedded,
            attention_mask=torch.ones(embedded.shape[:2], dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            repetition_penalty=penalty,
            eos_token_id=model.eos_id,
            pad_token_id=model.eos_id,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
    tokens = tuple(given.sequences[0].tolist())
    best = [scores[0].topk(2).values for scores in given.scores]
    raw = [int((logits[0, list(set(tokens[:step]))] < 0).sum()) for step, logits in enumerate(given.logits)]
    assert len(tokens) == len(best)
    return Reference(tokens=tokens, gaps=tuple(float(two[0] - two[1]) for two in best), penalised_negatives=sum(raw))


def compare(tally: Tally, expected: Reference, found: Sequence[int], eos_id: int, max_new_tokens: int) -> None:
    """The same tokens, up to the end or to a near-tie, which is counted; any other difference fails."""
    whole = (*found, eos_id) if len(found) < max_new_tokens else tuple(found)
    tally.clips += 1
    tally.lengths.add(len(whole))
    tally.repeated += len(found) > len(set(found))
    tally.negatives += expected.penalised_negatives
    for step, (ours, theirs) in enumerate(zip(whole, expected.tokens, strict=False)):
        if ours != theirs:
            gap = expected.gaps[step]
            assert gap < NEAR, f"step {step}: {ours} instead of {theirs}, whose logit is the best by {gap:.2e}"
            tally.near_ties += 1
            return
        tally.tokens += 1
    assert len(whole) == len(expected.tokens)


def tiny(seed: int, *, ends: bool = True) -> AudioLanguageModel:
    """A random Llama of two layers in float32; `ends`: EOS is among what it says.

    Logits have both signs where `seed` is even, else all are negative: only so a penalty on negative ones decides.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=NEVER, bos_token_id=None,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    network.lm_head = torch.nn.Linear(32, VOCABULARY)
    network.requires_grad_(requires_grad=False)
    words = Tokenizer(WordLevel({str(token): token for token in range(VOCABULARY)}, unk_token="0"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0")  # type: ignore[no-untyped-call]
    model = AudioLanguageModel(
        network, tokenizer, feature_dim=5, recipe=lalm.tiny_recipe(), init_key=f"tiny {seed}"
    ).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.normal_(std=0.4 if "embed" in name or "lm_head" in name else 0.15)
        model.projector.weight.normal_(std=0.5)
        network.lm_head.bias.fill_(-30.0 * (seed % 2))
        network.lm_head.bias[NEVER] = -90.0
    if ends:
        said = generate_tokens(
            model, batch(seed, 24), prompt=PROMPT, max_new_tokens=6, recipe=lalm.tiny_recipe(repetition_penalty=1.05)
        )
        model.eos_id = max(range(NEVER), key=lambda token: sum(token in row for row in said))
    return model


def batch(seed: int, size: int, longest: int = 40) -> list[Features]:
    """Clips of 1 to `longest` frames."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, size)
    return [random.normal(size=(length, 5)).astype(np.float32) for length in lengths]


def check(
    model: AudioLanguageModel, clips: Sequence[Features], tally: Tally, *, penalty: float = 1.05, new: int = 30
) -> list[list[int]]:
    """Compare one batch with its clips taken one at a time; what was generated."""
    recipe = lalm.tiny_recipe(repetition_penalty=penalty)
    found = generate_tokens(model, clips, prompt=PROMPT, max_new_tokens=new, recipe=recipe)
    for clip, tokens in zip(clips, found, strict=True):
        expected = reference(model, clip, PROMPT, penalty=penalty, max_new_tokens=new)
        tally.prompt_tokens += bool(set(tokens) & set(model.tokenize(PROMPT)))
        compare(tally, expected, tokens, model.eos_id, new)
    return found


def test_many_random_models_and_batches() -> None:
    """Random decoders, ragged batches of every size, three penalties: no token differs but at near-ties, which are
    few.
    """
    wanted = effort.count("clips whose tokens are those of transformers' generate", short=90, long=500)
    tally, random = Tally(), np.random.default_rng(11)
    seed = 0
    while tally.clips < wanted:
        size = min(int(random.integers(1, 13)), wanted - tally.clips)
        penalty = (1.05, 1.05, 1.0, 1.4)[seed % 4]
        check(tiny(seed), batch(seed + 1000, size), tally, penalty=penalty)
        seed += 1
    effort.found("near-ties among them, at which the tokens part", tally.near_ties)
    assert tally.near_ties <= tally.clips // 50, tally
    assert seed >= 8
    assert {1, 31 - 1} <= tally.lengths, "some end at once, some never"
    assert len(tally.lengths) > 8
    assert tally.repeated > 20, "tokens were said again in spite of the penalty"
    assert tally.negatives > 100, "the penalty met negative logits"
    assert tally.prompt_tokens > 20, "tokens of the prompt were said, and not penalised for it"


def test_every_order_of_a_ragged_batch() -> None:
    """All 24 orders of four very unequal clips: each clip's tokens follow it to its place."""
    model = tiny(3)
    random = np.random.default_rng(5)
    clips = [random.normal(size=(length, 5)).astype(np.float32) for length in (1, 2, 31, 400)]
    tally = Tally()
    straight = check(model, clips, tally)
    assert tally.near_ties == 0
    orders = list(permutations(range(4)))
    assert len(orders) == 24
    for order in orders:
        recipe = lalm.tiny_recipe(repetition_penalty=1.05)
        found = generate_tokens(
            model, [clips[place] for place in order], prompt=PROMPT, max_new_tokens=30, recipe=recipe
        )
        assert found == [straight[place] for place in order], order


def test_one_clip_at_every_place_of_a_batch() -> None:
    """The same clip, first, last and in between, among others and among copies of itself."""
    model, clips = tiny(8), batch(2, 7)
    recipe = lalm.tiny_recipe(repetition_penalty=1.05)
    (alone,) = check(model, clips[:1], Tally())
    for place in range(7):
        company = [*clips[1 : place + 1], clips[0], *clips[place + 1 :]]
        assert generate_tokens(model, company, prompt=PROMPT, max_new_tokens=30, recipe=recipe)[place] == alone
    copies = generate_tokens(model, clips[:1] * 5, prompt=PROMPT, max_new_tokens=30, recipe=recipe)
    assert copies == [alone] * 5


@pytest.mark.parametrize("new", [1, 2, 150])
def test_short_and_long_caps(new: int) -> None:
    """One token, two, and the recipe's 150: the cap cuts where transformers' does."""
    tally = Tally()
    found = check(tiny(4, ends=False), batch(9, 3), tally, new=new)
    assert [len(tokens) for tokens in found] == [new] * 3
    assert tally.near_ties == 0


def test_rows_that_end_at_once() -> None:
    """EOS as the first token gives an empty answer, for one row and for all of them."""
    model, clips = tiny(6, ends=False), batch(6, 6)
    firsts = [reference(model, clip, PROMPT, penalty=1.05, max_new_tokens=1).tokens[0] for clip in clips]
    model.eos_id = firsts[0]
    tally = Tally()
    found = check(model, clips, tally)
    assert [not tokens for tokens in found] == [first == firsts[0] for first in firsts]
    assert check(model, clips[:1] * 4, tally) == [[]] * 4
    assert tally.near_ties == 0


def test_whoever_is_decoded_together_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """One row at a time, two, five or all; clips let in one by one or many at once; a cache that is cut anew for
    shorter clips, or for longer ones that come late: each clip's tokens stay.
    """
    cases = 0
    models = {seed: tiny(seed) for seed in (1, 2)}
    asked_of = {seed: [*batch(seed, 9), *batch(seed + 1, 3, longest=300)] for seed in models}
    right = {seed: check(models[seed], asked_of[seed], Tally()) for seed in models}
    for seed, most, worth in product(models, (1, 2, 5), (1, 10_000)):
        model, clips, found = models[seed], asked_of[seed], right[seed]
        assert len({len(tokens) for tokens in found}) > 2, "rows end at different steps"
        monkeypatch.setitem(generation.MOST_ROWS, "cpu", most)
        monkeypatch.setattr(generation, "_WORTH_READING", worth)
        assert generate_tokens(model, clips, prompt=PROMPT, max_new_tokens=30, recipe=RECIPE) == found
        decoder, unsorted = MergedDecoder(model, RECIPE), enumerate(clips)
        asked = {"prompt": PROMPT, "max_new_tokens": 30, "recipe": RECIPE}
        assert dict(answered(decoder, unsorted, count=len(clips), **asked)) == dict(enumerate(found))
        monkeypatch.undo()
        cases += 1
    assert cases == 12


def test_what_is_remembered_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache never holds more bytes than the recipe gives it, whatever the clips' lengths, but for one clip that is
    longer than that; and it holds more rows of short clips than of long ones.
    """
    sizes: list[tuple[int, int]] = []

    class Watched(Cache):
        def resize(self, rows: int, columns: int, *, kept: int, length: int) -> None:
            sizes.append((rows, columns))
            super().resize(rows, columns, kept=kept, length=length)

    model = tiny(2)
    monkeypatch.setattr(generation, "Cache", Watched)
    clips = [*batch(1, 1, longest=1) * 12, *batch(3, 6, longest=200), np.ones((1_500, 5), np.float32)]
    bound = 1_100 * 2 * 2 * 2 * 8 * 4  # tokens of two layers of two heads of eight float32 keys and values
    recipe = lalm.tiny_recipe(repetition_penalty=1.05, answer_memory_gb=bound / 1e9)
    assert MergedDecoder(model, recipe).bytes_per_token == bound / 1_100
    found = generate_tokens(model, clips, prompt=PROMPT, max_new_tokens=30, recipe=recipe)
    assert sizes[0] == (1, 1_536)
    assert all(rows * columns <= 1_100 for rows, columns in sizes[1:])
    assert max(rows for rows, _ in sizes) > 5
    monkeypatch.undo()
    assert found == check(model, clips, Tally())


@pytest.fixture(scope="module")
def stand_in() -> AudioLanguageModel:
    """The real stand-in decoder's first three layers in float32, its adapters pushed off zero: answers vary."""
    built = lalm.build(lalm.tiny_recipe(decoder_layers=3), feature_dim=8).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in built.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
        built.projector.weight.mul_(20.0)
    return built


@pytest.mark.parametrize("penalty", [1.05, 1.6])
def test_the_real_decoder(stand_in: AudioLanguageModel, penalty: float) -> None:
    """49,152 tokens, grouped heads, rotary positions as they are: the same tokens, the same texts."""
    random = np.random.default_rng(3)
    clips = [random.normal(size=(length, 8)).astype(np.float32) for length in (1, 9, 4, 60, 2)]
    recipe, tally = lalm.tiny_recipe(repetition_penalty=penalty), Tally()
    tokens = generate_tokens(stand_in, clips, prompt=WORDS, max_new_tokens=12, recipe=recipe)
    for clip, found in zip(clips, tokens, strict=True):
        compare(tally, reference(stand_in, clip, WORDS, penalty=penalty, max_new_tokens=12), found, stand_in.eos_id, 12)
    assert tally.near_ties == 0
    assert tally.tokens > 40
    texts = generate(stand_in, clips, prompt=WORDS, max_new_tokens=12, recipe=recipe)
    assert texts == [str(stand_in.tokenizer.decode(found, skip_special_tokens=True)).strip() for found in tokens]
    assert len(set(texts)) > 2


def test_an_answer_ends_at_eos() -> None:
    """EOS ends a row, whatever its neighbours do: a model that has learnt one word says it once."""
    recipe = lalm.tiny_recipe()
    taught = lalm.build(recipe)
    optimizer = torch.optim.Adam([weight for weight in taught.parameters() if weight.requires_grad], lr=1e-2)
    sample = lalm.example(taught, 1)
    for _ in range(20):
        taught([sample]).backward()
        optimizer.step()
        optimizer.zero_grad()
    taught.eval()
    other = np.zeros((9, 8), np.float32)
    answers = generate(taught, [sample.features, other], prompt="Which word?", max_new_tokens=40, recipe=recipe)
    assert answers[0] == "dog"

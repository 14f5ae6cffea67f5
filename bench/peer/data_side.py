"""Audio, tokens, mixture and batches: what the two programs make of the same inputs."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from peer.findings import Findings
from peer.shards import waveforms
from scipy.stats import chisquare
from transformers import AutoTokenizer

from ranker.data.audio import prepare
from ranker.data.mixture import Pair, Source, batches, pairs, weights
from ranker.data.shards import Clip, Shard

DRAWS = 100_000
TEXTS = [
    "dog bark", " leading", "trailing ", "", "三朵花", "a;b;c", "Déjà vu — naïve", "7", "<|im_end|>", "x\ny", "🎻",
    "A dog barks, and then it rains.", "- -", "?!", "hahahahahaha", "oh [__] [__]",
]  # fmt: skip


def data_side(found: Findings, recorded: dict[str, Any], decoder: Path) -> None:
    _audio(found, recorded)
    _tokens(found, recorded, decoder)
    _mixture(found, recorded)
    _windows(found, recorded)


def _audio(found: Findings, recorded: dict[str, Any]) -> None:
    """A crop starts where its seeded generator says."""
    kept, resampled, lengths = [], [], True
    for index, ((waveform, rate_hz), theirs) in enumerate(zip(waveforms(), recorded["data"]["audio"], strict=True)):
        most = 30 * rate_hz
        start = random.Random(index).randint(0, len(waveform) - most) if len(waveform) > most else 0
        ours = prepare(waveform.astype(np.float32), rate_hz, crop_start_s=start / rate_hz, max_s=30.0)
        lengths = lengths and len(ours) == len(theirs)
        difference = ours[: len(theirs)] - theirs.numpy()[: len(ours)]
        if rate_hz == 16_000:
            kept.append(float(np.abs(difference).max()))
        else:
            resampled.append(20 * np.log10(float(np.linalg.norm(difference) / np.linalg.norm(ours))))
    found.check("audio: lengths in samples", f"{len(kept) + len(resampled)} clips", "equal", lengths)
    text = f"largest difference {max(kept):.1e}"
    found.check(f"audio: mono, peak and crop of {len(kept)} clips at 16 kHz", text, "1e-6", max(kept) <= 1e-6)
    there = "torchaudio"
    if "torchaudio" in recorded["replaced"]:
        there = "this bench after torchaudio's published formula, since that package was not there"
    text = f"difference {min(resampled):.0f} to {max(resampled):.0f} dB of the signal"
    found.check(f"audio: {len(resampled)} clips resampled, here by soxr, there by {there}", text)


def _tokens(found: Findings, recorded: dict[str, Any], decoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder, local_files_only=True)
    prompt = tokenizer(recorded["spec"]["prompt"], add_special_tokens=False).input_ids
    same, left_out = 0, []
    for text, theirs in recorded["data"]["texts"].items():
        target = [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        if theirs is None:
            left_out.append(f"`{text}`")
        else:
            same += [list(each) for each in theirs] == [prompt + target, [-100] * len(prompt) + target]
    kept = len(TEXTS) - len(left_out)
    found.check("tokens and labels of prompt, text and EOS", f"{same} of {kept} texts equal", "all", same == kept)
    found.check(f"of {len(TEXTS)} odd texts, those that it takes for corrupt and leaves out", ", ".join(left_out))


def _clips(count: int, shard: str) -> tuple[Clip, ...]:
    blank: dict[str, Any] = {"member": "", "offset": 0, "size": 0, "duration_s": 0.0, "sample_rate_hz": 16_000}
    return tuple(Clip(shard=shard, key=f"{at}", fields={"label": "x"}, **blank) for at in range(count))


def _mixture(found: Findings, recorded: dict[str, Any]) -> None:
    sources = [
        Source(name=name, shards=(Shard(path=name, clips=_clips(1, name)),) * shards, keys=("label",), weight=weight)
        for name, weight, shards in recorded["spec"]["mixture"]
    ]
    expected = np.array(weights(sources)) * DRAWS
    drawn = [0] * len(sources)
    for pair in islice(pairs(sources, seed_key="peer", pairs_per_draw=1), DRAWS):
        drawn[pair.source] += 1
    for who, counts in (("theirs", list(recorded["data"]["draws"].values())), ("ours", drawn)):
        chance = float(chisquare(counts, expected).pvalue)
        what = f"mixture of Track A, {who}: {DRAWS:,} draws against the configured probabilities"
        found.check(what, f"chi-square, p = {chance:.3f}", "p > 0.001", chance > 1e-3)


def _windows(found: Findings, recorded: dict[str, Any]) -> None:
    """Batches of numbered pairs of given lengths."""
    lengths = recorded["spec"]["lengths"]
    shards = (Shard(path="s", clips=_clips(len(lengths), "s")),)
    numbered = pairs([Source(name="s", shards=shards, keys=("label",))], seed_key="w", pairs_per_draw=4)

    def number(pair: Pair) -> int:
        return int(pair.clip.key)

    made = batches(
        islice(numbered, len(lengths)),
        length=lambda pair: lengths[number(pair)],
        batch_size=4,
        shuffle_window=256,
        sort_window=128,
        seed_key="w",
    )
    for who, each in (("ours", [list(map(number, batch)) for batch in made]), ("theirs", recorded["data"]["windows"])):
        flat = [at for batch in each for at in batch]
        cut = [[lengths[at] for at in flat[start : start + 128]] for start in range(0, len(flat) - 127, 128)]
        moved = np.abs(np.array(flat) - np.arange(len(flat)))
        ok = all(window == sorted(window, reverse=True) for window in cut) and len(set(flat)) == len(flat)
        found.check(
            f"batches, {who}: windows of 128 longest first, cut in four, no pair twice",
            f"{len(each)} batches; a pair moves by {moved.mean():.0f} places on average, {moved.max()} at most",
            "as said",
            ok and {len(batch) for batch in each} == {4},
        )

"""Features: which excerpts share a call, and that keeping them changes nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import write_tones

from ranker.data.shards import Clip, index_shard, write_shard
from ranker.errors import OrganizerError
from ranker.lalm.features import Excerpt, FeatureStore, calls, encode_calls, training_excerpt
from ranker.sandbox.base import Audio, Features

LENGTHS_S = (0.5, 0.5, 0.25, 1.0, 0.5, 0.25, 1.0, 2.5)


class Recording:
    """An encoder in this process that remembers its calls; its features tell length, level and company apart."""

    output_dim = 3
    attribute = "Recording"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        self.calls.append(len(clips))
        return [np.full((1 + len(clip) // 4000, 3), [len(clip), clip.std(), len(clips)], np.float32) for clip in clips]


@pytest.fixture
def clips(tmp_path: Path) -> tuple[Clip, ...]:
    write_tones(tmp_path / "tones.tar", LENGTHS_S)
    return index_shard(tmp_path / "tones.tar").clips


def test_only_clips_of_exactly_equal_length_share_a_call(clips: tuple[Clip, ...]) -> None:
    """Otherwise one would be padded, and features would depend on the company."""
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=True)
    assert sorted(len(call) for call in plan) == [1, 2, 2, 3]
    assert all(len({excerpt.length for excerpt in call}) == 1 for call in plan)


def test_a_call_holds_no_more_audio_than_one_clip_may(tmp_path: Path) -> None:
    """Time and memory of a call are limited; an encoder that can take the longest clip can take any batch of ours."""
    write_tones(tmp_path / "long.tar", [12.0] * 5 + [40.0] * 2)
    excerpts = [
        training_excerpt(clip, 0, seed=1, crops=2, max_s=30.0) for clip in index_shard(tmp_path / "long.tar").clips
    ]
    plan = calls(excerpts, batch_invariant=True)
    assert sorted(len(call) for call in plan) == [1, 1, 1, 2, 2]
    assert max(sum(excerpt.duration_s for excerpt in call) for call in plan) <= 30.0


def test_a_clip_of_which_nothing_is_left_is_named(tmp_path: Path) -> None:
    """One sample at 48 kHz is none at 16 kHz: the organizer's data, not a call that an encoder could fail."""
    file = io.BytesIO()
    soundfile.write(file, np.ones(1), 48_000, format="FLAC")
    write_shard(tmp_path / "a.tar", [{"__key__": "c0", "flac": file.getvalue(), "json": {"label": "x"}}])
    (clip,) = index_shard(tmp_path / "a.tar").clips
    with pytest.raises(OrganizerError, match=r"clip a\.tar:c0: its 1 samples at 48000 Hz"):
        list(encode_calls(tmp_path, Recording(), [(Excerpt(clip=clip),)]))


def test_encoders_that_mind_their_company_get_none(clips: tuple[Clip, ...]) -> None:
    """Canonical features: one clip per call."""
    plan = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=False)
    assert [len(call) for call in plan] == [1] * len(clips)


def test_plan_depends_on_the_set_of_clips_alone(clips: tuple[Clip, ...]) -> None:
    """Order and repetition of requests do not change who shares a call."""
    one = calls((Excerpt(clip=clip) for clip in clips), batch_invariant=True)
    other = calls((Excerpt(clip=clip) for clip in (*clips[::-1], *clips)), batch_invariant=True)
    assert one == other


@pytest.mark.parametrize("max_bytes", [0, 100, 10**6])
def test_features_do_not_depend_on_the_size_of_the_cache(
    clips: tuple[Clip, ...], tmp_path: Path, max_bytes: int
) -> None:
    """Nothing kept, some kept, all kept: the same features, from calls made up alike."""
    excerpts = [Excerpt(clip=clip) for clip in clips]
    plan = calls(excerpts, batch_invariant=True)
    expected = {
        excerpt.key: features
        for call, answers in encode_calls(tmp_path, Recording(), plan)
        for excerpt, features in zip(call, answers, strict=True)
    }
    encoder = Recording()
    file = tmp_path / "features.f32"
    with FeatureStore(data=tmp_path, encoder=encoder, plan=plan, path=file, max_bytes=max_bytes) as store:
        store.fill(lambda done, total: None)
        for excerpt in (*excerpts, *excerpts[::-1]):
            np.testing.assert_array_equal(store.get(excerpt), expected[excerpt.key])
        assert open_file_sizes(file)[0] <= max_bytes
        assert (len(encoder.calls) == len(plan)) == (max_bytes == 10**6)
    assert open_file_sizes(file) == []


def open_file_sizes(path: Path) -> list[int]:
    """Sizes of this process's open files that have, or had, this name."""
    links = [(link, link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link.stat().st_size for link, target in links if str(target).removesuffix(" (deleted)") == str(path)]


def test_a_killed_attempt_leaves_no_features_behind(tmp_path: Path) -> None:
    """Up to `feature_cache_gb` would stay on the disk for every kill: nothing under the attempt's folder names them."""
    file = tmp_path / "features.f32"
    with FeatureStore(data=tmp_path, encoder=Recording(), plan=[], path=file, max_bytes=10):
        assert list(tmp_path.iterdir()) == []


def test_long_clips_are_cropped_in_training_and_crops_come_again(clips: tuple[Clip, ...], tmp_path: Path) -> None:
    """A clip longer than the limit gives one of K crops by visit; visit K is visit 0 again; short clips are whole."""
    long, short = clips[7], clips[0]
    visits = [training_excerpt(long, visit, seed=1, crops=3, max_s=1.0) for visit in range(6)]
    assert visits[:3] == visits[3:]
    assert len({excerpt.key for excerpt in visits}) == 3
    assert {excerpt.length for excerpt in visits} == {(16_000, 16_000)}
    ((_, (features,)),) = encode_calls(tmp_path, Recording(), [(visits[0],)])
    assert features[0, 0] == 16_000
    assert training_excerpt(short, 5, seed=1, crops=3, max_s=1.0) == Excerpt(clip=short)

"""Clips in tar files: written alike, read by place, and never lost in silence."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ranker.data.shards import (
    Clip,
    clusters,
    expand_braces,
    index_shard,
    read_audio,
    read_bytes,
    read_split,
    write_shard,
)
from ranker.errors import MissingError, OrganizerError


def audio(level: float, kind: str = "FLAC", rate: int = 16_000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full((800, channels), level), rate, format=kind)
    return file.getvalue()


def samples(count: int = 3) -> list[dict]:
    return [{"__key__": f"c{i}", "flac": audio(i / 10), "json": {"label": f"é{i}", "at": i}} for i in range(count)]


def clip(fields: dict) -> Clip:
    return Clip(
        shard="a.tar", key="k", member="k.wav", offset=0, size=1, duration_s=1.0, sample_rate_hz=1, fields=fields
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "plain.tar",
        "a-{00..12}.tar",
        "{a,b}/x-{1..3}.tar",
        "{a,b{1..2},{c,d}e}",
        "s{007..011}",
        "{3..1}",
        "x{,y}z",
        "{000..2}-{a,b}",
    ],
)
def test_braces_expand_as_in_bash(pattern: str):
    """Bash itself says what a pattern stands for."""
    said = subprocess.run(["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True)
    assert expand_braces(pattern) == said.stdout.splitlines()


def test_braces_that_do_not_match_are_refused():
    """A forgotten brace would otherwise be a shard that is missing for no visible reason."""
    with pytest.raises(OrganizerError, match="braces do not match"):
        expand_braces("train-{00..17.tar")


def test_the_same_samples_give_the_same_bytes(tmp_path: Path):
    """Neither the time nor the order of a JSON's fields is in a shard."""
    write_shard(tmp_path / "a.tar", samples())
    write_shard(tmp_path / "b.tar", [{**each, "json": dict(reversed(each["json"].items()))} for each in samples()])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {(info.mtime, info.uname, info.uid) for info in tar} == {(0, "ranker", 0)}


def test_webdataset_reads_what_we_write(tmp_path: Path):
    """The shards are what everyone else's loader takes for shards."""
    import webdataset

    write_shard(tmp_path / "a.tar", samples())
    with (tmp_path / "a.tar").open("rb") as file:
        stream = webdataset.tariterators.tar_file_iterator(file)
        members = {each["fname"]: each["data"] for each in stream}
    assert members["c1.flac"] == audio(0.1)
    assert len(members) == 6


def test_clips_are_read_by_their_place(tmp_path: Path):
    """What stands at a clip's offset is its own audio, also when the index is read back from the disk."""
    write_shard(tmp_path / "a.tar", samples(5))
    made = index_shard(tmp_path / "a.tar")
    (stored,) = read_split(tmp_path, ["a.tar"])
    assert stored == made
    assert len(stored.clips) == 5
    for i, each in reversed(list(enumerate(stored.clips))):
        waveform, rate = read_audio(tmp_path, each)
        np.testing.assert_allclose(waveform, np.full(800, i / 10), atol=1e-4)
        assert (rate, each.duration_s, each.sample_rate_hz, each.id) == (16_000, 0.05, 16_000, f"a.tar:c{i}")
        assert read_bytes(tmp_path, each) == audio(i / 10)


def test_stereo_wav_in_a_folder(tmp_path: Path):
    """Other formats, rates and channels, and keys with folders, come through as they are."""
    (tmp_path / "deep").mkdir()
    write_shard(tmp_path / "deep/a.tar", [{"__key__": "x/y", "wav": audio(0.5, "WAV", 44_100, 2), "json": {}}])
    (shard,) = read_split(tmp_path, ["deep/a.tar"])
    waveform, rate = read_audio(tmp_path, shard.clips[0])
    assert waveform.shape == (800, 2)
    assert (rate, shard.clips[0].id) == (44_100, "deep/a.tar:x/y")


def test_a_compressed_shard_is_read_like_a_plain_one(tmp_path: Path):
    """A .tar.gz has no offsets to seek to; its clips are read all the same, also when its plain copy is gone."""
    write_shard(tmp_path / "a.tar", samples())
    with tarfile.open(tmp_path / "a.tar") as plain, tarfile.open(tmp_path / "b.tar.gz", "w:gz") as packed:
        for info in plain:
            packed.addfile(info, plain.extractfile(info))
    (shard,) = read_split(tmp_path, ["b.tar.gz"])
    assert [each.id for each in shard.clips] == ["b.tar.gz:c0", "b.tar.gz:c1", "b.tar.gz:c2"]
    for path in tmp_path.glob("*.plain.tar"):
        path.unlink()
    np.testing.assert_allclose(read_audio(tmp_path, shard.clips[2])[0], np.full(800, 0.2), atol=1e-4)


def test_a_changed_shard_is_indexed_again(tmp_path: Path):
    """A stored index of another file is never used."""
    write_shard(tmp_path / "a.tar", samples(2))
    assert len(read_split(tmp_path, ["a.tar"])[0].clips) == 2
    write_shard(tmp_path / "a.tar", samples(40))
    assert len(read_split(tmp_path, ["a.tar"])[0].clips) == 40


def test_a_label_corrected_in_place_is_read_anew(tmp_path: Path):
    """A changed label leaves the tar's size as it was; the old label must not be trained on, or scored against."""
    path = tmp_path / "a.tar"
    write_shard(path, samples())
    size = path.stat().st_size
    assert read_split(tmp_path, ["a.tar"])[0].clips[0].fields["label"] == "é0"
    corrected = samples()
    corrected[0]["json"]["label"] = "ü0"
    write_shard(path, corrected)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # a coarse clock may not have moved on since the first writing
    assert path.stat().st_size == size
    assert read_split(tmp_path, ["a.tar"])[0].clips[0].fields["label"] == "ü0"


def test_a_missing_shard_says_what_to_run(tmp_path: Path):
    """The message names the shard and the command."""
    write_shard(tmp_path / "a-00.tar", samples(1))
    with pytest.raises(MissingError, match=r"shard a-01\.tar .*ranker data fetch"):
        read_split(tmp_path, ["a-{00..01}.tar"])


def test_a_clip_that_is_damaged_after_it_was_indexed_is_named(tmp_path: Path):
    """A disk that fails under an evaluation is told apart from a broken test set, and from the encoder."""
    write_shard(tmp_path / "a.tar", samples(1))
    (each,) = index_shard(tmp_path / "a.tar").clips
    with (tmp_path / "a.tar").open("r+b") as file:
        file.seek(each.offset)
        file.write(bytes(each.size))
    with pytest.raises(OrganizerError, match=r"clip a\.tar:c0: c0\.flac cannot be decoded"):
        read_audio(tmp_path, each)


@pytest.mark.parametrize(
    ("fields", "keys", "expected"),
    [
        ({"label": "dog", "text": "x"}, ["label"], ("dog",)),
        ({"labels": "b", "label": "a"}, ["label", "labels"], ("a",)),
        ({"label": None, "labels": "b"}, ["label", "labels"], ("b",)),
        ({"n": 3}, ["n"], ("3",)),
        ({"captions": ["one", "two"]}, ["label"], ("one", "two")),
        ({"text": "t", "caption": "c"}, ["label"], ("c",)),
        ({"text": "t"}, [], ("t",)),
        ({"pitch": [60, 61]}, ["pitch"], ("60", "61")),
        ({"n": 3.0}, ["n"], ("3.0",)),
        ({"same": True}, ["same"], ("True",)),
        ({"labels": ["Bark", "Dog"]}, ["label", "labels"], ("Bark", "Dog")),
        ({"label": "", "text": "t"}, ["label"], ("",)),
        ({"label": ["", "b"]}, ["label"], ("", "b")),
        ({"label": [], "text": "t"}, ["label"], ("t",)),
        ({"label": {"a": 1}, "labels": "b"}, ["label", "labels"], ("b",)),
        ({"captions": [], "caption": None, "text": "t"}, ["label"], ("t",)),
        ({"label": 0}, ["label"], ("0",)),
    ],
)
def test_references(fields: dict, keys: list[str], expected: tuple[str, ...]):
    """The first field that holds anything counts: the task's own in order, then captions, caption, text.

    The expected values are what XARES-LLM's loader (commit 105be68) gives for the same fields.
    """
    assert clip(fields).references(keys) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"label": []},
        {"label": {"a": 1}},
        {"label": ["a", ["b"]]},
        {"label": [None]},
        {"label": "a\ud83d"},
        {"label": ["a", "\ud83d"]},
    ],
)
def test_a_clip_without_reference_is_an_error(fields: dict):
    """A clip that cannot be scored is named, with the fields that it has, in a sentence that can be printed.

    Half of a surrogate pair, which JSON can hold, would end an evaluation where its answers are written.
    """
    with pytest.raises(OrganizerError, match=r"a\.tar:k") as caught:
        clip(fields).references(["label"])
    assert str(caught.value).encode()


def test_clusters_of_clips():
    """Text and numbers as text; a clip without the field is named, with what it holds instead."""
    assert clusters([clip({"speaker": "ann"}), clip({"speaker": 7})], "speaker") == ["ann", "7"]
    for fields, held in (({}, "None"), ({"speaker": ["a"]}, r"\['a'\]")):
        with pytest.raises(OrganizerError, match=rf"clip a.tar:k: field 'speaker'.* holds {held}; text or a number"):
            clusters([clip({"speaker": "ann"}), clip(fields)], "speaker")

"""Indexes of shards: whole tars only, every clip decoded once, and what is broken in a shard by name."""

import gzip
import io
import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tones import tone, write_tones

from ranker.data import index as indexes
from ranker.data.index import index_of, index_shards, is_indexed
from ranker.data.shards import index_shard, read_audio, read_split, scored_clips, training_data
from ranker.data.tarball import members, plain_path, unpack
from ranker.errors import MissingError, OrganizerError
from ranker.types import DefectKind

TONE = tone(0.1, 440.0)
LABEL = b'{"label": "dog"}'


def write_tar(path: Path, files: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def clips(*keys: str) -> list[tuple[str, bytes]]:
    return [file for key in keys for file in ((f"{key}.flac", TONE), (f"{key}.json", LABEL))]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_shard_is_never_a_shorter_one(tmp_path: Path, mode: str):
    """Wherever the file ends: inside a member, between two, inside a header. Only the padding behind may be gone."""
    name = "a.tar" if mode == "w" else "a.tar.gz"
    whole = write_tar(tmp_path / "whole", clips("c0", "c1", "c2"), mode).read_bytes()
    path = tmp_path / name
    end = len(whole)
    if mode == "w":
        *_, last = members(tmp_path / "whole")
        end = (last.offset + last.size + 511) // 512 * 512 + 512  # the end mark's first block
    places = [*range(0, end, 512), *range(100, end, 1777), end - 1]
    assert len(places) > 20 or mode == "w:gz"
    for place in places:
        path.write_bytes(whole[:place])
        with pytest.raises(OrganizerError, match=name.replace(".", r"\.")):
            index_shard(path)
        assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "whole"]), "nothing half is left"
    path.write_bytes(whole[:end])
    assert len(index_shard(path).clips) == 3


def test_noise_or_a_gap_between_members_is_no_end(tmp_path: Path):
    """Python's tarfile stops at a header that is none, and at zeros, and would call what came before the whole tar."""
    whole = write_tar(tmp_path / "whole", clips("c0", "c1", "c2")).read_bytes()
    header = next(member for member in members(tmp_path / "whole") if member.name == "c1.flac").offset - 512
    for fill in (b"\x00", b"\xa5"):
        damaged = bytearray(whole)
        damaged[header : header + 512] = fill * 512
        (tmp_path / "a.tar").write_bytes(damaged)
        with pytest.raises(OrganizerError, match=r"a\.tar"):
            index_shard(tmp_path / "a.tar")


def test_two_tars_in_one_file_are_refused(tmp_path: Path):
    """What stands behind the first one's end mark would be lost in silence."""
    one = write_tar(tmp_path / "one", clips("c0")).read_bytes()
    (tmp_path / "a.tar").write_bytes(one + one)
    with pytest.raises(OrganizerError, match="end mark"):
        index_shard(tmp_path / "a.tar")


def test_compression_is_told_by_content_not_by_name(tmp_path: Path):
    """Hubs hold plain tars that are called .tar.gz, and the other way round."""
    write_tar(tmp_path / "plain.tar.gz", clips("c0", "c1"))
    write_tar(tmp_path / "packed.tar", clips("c0", "c1"), "w:gz")
    for name in ("plain.tar.gz", "packed.tar"):
        (shard,) = read_split(tmp_path, [name])
        assert [len(read_audio(tmp_path, clip)[0]) for clip in shard.clips] == [1_600, 1_600]
    assert [path.name for path in tmp_path.glob("*.plain.tar")] == ["packed.tar.plain.tar"]


def test_the_plain_copy_of_another_shard_is_not_used(tmp_path: Path):
    """When a compressed shard is replaced, the clips of the old copy beside it must not be heard any more."""
    path = write_tar(tmp_path / "a.tar.gz", clips("old"), "w:gz")
    assert [clip.key for clip in index_shard(path).clips] == ["old"]
    write_tar(path, clips("new", "newer"), "w:gz")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    (shard,) = read_split(tmp_path, ["a.tar.gz"])
    assert [clip.key for clip in shard.clips] == ["new", "newer"]
    assert [member.name for member in members(plain_path(path))][::2] == ["new.flac", "newer.flac"]


def test_a_shard_may_be_unpacked_by_several_at_a_time(tmp_path: Path):
    """Workers of two jobs meet a new shard together, beside what a killed one left: one copy comes out, and whole."""
    path = write_tar(tmp_path / "a.tar.gz", clips(*(f"c{number}" for number in range(200))), "w:gz")
    (tmp_path / ".a.tar.gz.plain.tar.tmp").write_bytes(b"left over" * 999)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(unpack, [path] * 32)) == {plain_path(path)}
    assert plain_path(path).read_bytes() == gzip.decompress(path.read_bytes())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tar.gz", "a.tar.gz.plain.tar"]


def test_a_damaged_compressed_shard_is_refused(tmp_path: Path):
    """The checksum of gzip covers what a tar's end mark cannot."""
    path = write_tar(tmp_path / "a.tar.gz", clips("c0"), "w:gz")
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OrganizerError, match="cannot be unpacked"):
        index_shard(path)


@pytest.mark.parametrize(
    ("files", "kind", "why"),
    [
        ([("k.flac", TONE[:-300]), ("k.json", LABEL)], DefectKind.AUDIO, r"k\.flac cannot be decoded"),
        ([("k.flac", b"no sound"), ("k.json", LABEL)], DefectKind.AUDIO, r"k\.flac cannot be decoded"),
        ([("k.flac", b""), ("k.json", LABEL)], DefectKind.AUDIO, r"k\.flac cannot be decoded"),
        ([("k.flac", TONE), ("k.json", b'{"label": "do')], DefectKind.FIELDS, r"k\.json is not JSON"),
        ([("k.flac", TONE), ("k.json", b"\xff{}")], DefectKind.FIELDS, r"k\.json is not JSON"),
        ([("k.flac", TONE), ("k.json", b"[1, 2]")], DefectKind.FIELDS, "holds a list; an object was expected"),
        ([("k.flac", TONE)], DefectKind.FIELDS, "no JSON"),
        ([("k.json", LABEL)], DefectKind.MEMBERS, "no audio file, only json"),
        ([("k.flac", TONE), ("k.json", LABEL), ("k.flac", TONE)], DefectKind.MEMBERS, "twice"),
        ([("k.FLAC", TONE), ("k.json", LABEL), ("k.flac", TONE)], DefectKind.MEMBERS, "twice"),
        ([("k.0.flac", TONE), ("k.1.flac", TONE), ("k.json", LABEL)], DefectKind.MEMBERS, "up to the first dot"),
        ([("k.flac", TONE), ("k.a.json", LABEL), ("k.b.json", LABEL)], DefectKind.MEMBERS, "up to the first dot"),
        (
            [("k.m4a", b"\0\0\0 ftypM4A mp4a"), ("k.json", LABEL)],
            DefectKind.CODEC,
            r"k\.m4a is AAC in MPEG-4.*re-encode.*flac",
        ),
        ([("k.wma", b"cut short"), ("k.json", LABEL)], DefectKind.CODEC, r"k\.wma is wma.*re-encode.*flac"),
        ([("k.flac", b"\0\0\0 ftypM4A mp4a"), ("k.json", LABEL)], DefectKind.CODEC, r"k\.flac is AAC in MPEG-4"),
    ],
)
def test_a_broken_clip_is_named_and_costs_no_other(tmp_path: Path, files: list, kind: DefectKind, why: str):
    """The reason says which file and what is wrong with it; also when the index comes back from the disk."""
    write_tar(tmp_path / "a.tar", [*clips("c0"), *files, *clips("c1")])
    for index in (index_of(tmp_path / "a.tar", "deep/a.tar"), index_of(tmp_path / "a.tar", "deep/a.tar")):
        assert [entry.key for entry in index.entries] == ["c0", "c1"]
        (defect,) = index.defects
        assert (defect.clip, defect.kind) == ("deep/a.tar:k", kind)
        with pytest.raises(OrganizerError, match=why):
            raise OrganizerError(defect.why)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([("k.audio.flac", TONE), ("k.meta.json", LABEL)], id="more than one dot"),
        pytest.param([("k.FLAC", TONE), ("k.JSON", LABEL)], id="upper case"),
        pytest.param([("k.json", LABEL), ("k.flac", TONE)], id="JSON first"),
        pytest.param([("k.flac", TONE), ("k.json", LABEL), ("k.txt", b"x"), ("k.cls", b"3")], id="other members"),
        pytest.param([("k.flac", TONE), ("k.json", LABEL), ("k.meta.json", b"[]")], id="two JSONs, one plain"),
        pytest.param([("k.wav", b"not this"), ("k.flac", TONE), ("k.json", LABEL)], id="two audio files: flac counts"),
        pytest.param([("k.m4a", b"not this"), ("k.flac", TONE), ("k.json", LABEL)], id="m4a beside a flac"),
        pytest.param([("k.flac", TONE), ("k.jsonl", LABEL)], id="jsonl with one line"),
        pytest.param([("README", b"x"), ("list.csv", b"a,b"), ("._k.flac", b"x"), *clips("k")], id="no part of a clip"),
    ],
)
def test_members_are_told_apart(tmp_path: Path, files: list):
    """One clip, whatever its files are called and whatever else lies in the shard."""
    write_tar(tmp_path / "a.tar", files)
    (shard,) = read_split(tmp_path, ["a.tar"])
    (clip,) = shard.clips
    assert (clip.key, clip.references(["label"]), shard.defects) == ("k", ("dog",), ())
    assert len(read_audio(tmp_path, clip)[0]) == 1_600


def test_a_key_with_folders_and_dots_in_them(tmp_path: Path):
    """The key ends at the first dot of the last part, as WebDataset has it."""
    write_tar(tmp_path / "a.tar", [("v1.0/x/k.flac", TONE), ("v1.0/x/k.json", LABEL)])
    assert [clip.id for clip in index_shard(tmp_path / "a.tar").clips] == ["a.tar:v1.0/x/k"]


def test_training_skips_and_names_what_scoring_refuses(tmp_path: Path):
    """The same shard: trained on without its broken clips, each of them listed; never scored on."""
    files = [*clips("c0"), ("cut.flac", TONE[:-300]), ("cut.json", LABEL), ("mute.flac", TONE), ("mute.json", b"{}")]
    write_tar(tmp_path / "a.tar", files)
    found = training_data(tmp_path, ["a.tar"], ["label"])
    assert [clip.key for shard in found.shards for clip in shard.clips] == ["c0"]
    assert [(each.clip, each.kind) for each in found.skipped] == [
        ("a.tar:cut", DefectKind.AUDIO),
        ("a.tar:mute", DefectKind.LABEL),
    ]
    with pytest.raises(OrganizerError, match=r"2 test clips .*a\.tar:cut.*a\.tar:mute.*data inspect"):
        scored_clips(tmp_path, ["a.tar"], ["label"])
    write_tar(tmp_path / "b.tar", clips("c0", "c1"))
    assert [clip.key for clip in scored_clips(tmp_path, ["b.tar"], ["label"])] == ["c0", "c1"]


def test_a_codec_that_we_cannot_decode_stops_training_too(tmp_path: Path):
    """Nothing is wrong with such a clip: leaving it out would make another training set of the benchmark."""
    write_tar(tmp_path / "a.tar", [*clips("c0"), ("k.m4a", b"\0\0\0 ftypM4A mp4a"), ("k.json", LABEL)])
    with pytest.raises(OrganizerError, match=r"1 training clips .*a\.tar:k: k\.m4a is AAC"):
        training_data(tmp_path, ["a.tar"], ["label"])


def test_what_is_skipped_depends_on_the_bytes_alone(tmp_path: Path):
    """The same shard elsewhere, indexed by other means (several processes), gives the same index."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / "here" / name, [*clips("c0", name[0]), ("bad.flac", TONE[:99]), ("bad.json", LABEL)])
        shutil.copy(tmp_path / "here" / name, tmp_path / "there" / name)
    here, there = ([tmp_path / folder / name for name in ("a.tar", "b.tar")] for folder in ("here", "there"))
    indexes._ALONE_BELOW, usual = 0, indexes._ALONE_BELOW
    try:
        assert index_shards(here) == {}
    finally:
        indexes._ALONE_BELOW = usual
    assert index_shards(there) == {}
    assert [index_of(path, path.name) for path in here] == [index_of(path, path.name) for path in there]
    assert all(len(index_of(path, path.name).defects) == 1 for path in here)


def test_indexing_goes_on_after_a_broken_shard_and_does_no_work_twice(tmp_path: Path):
    """The broken one is returned with its reason; bytes are counted up to the end; a second call has nothing to do."""
    for number in range(3):
        write_tones(tmp_path / f"{number}.tar", [0.1, 0.1])
    paths = [tmp_path / f"{number}.tar" for number in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:1024])
    seen: list[tuple[int, int]] = []
    failed = index_shards(paths, lambda done, total: seen.append((done, total)))
    assert list(failed) == [paths[1]]
    assert "1.tar" in str(failed[paths[1]])
    total = sum(path.stat().st_size for path in paths)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [is_indexed(path) for path in paths] == [True, False, True]
    seen.clear()
    assert index_shards([paths[0], paths[2]], lambda done, total: seen.append((done, total))) == {}
    assert seen == [(0, 0)]
    with pytest.raises(MissingError, match=r"gone\.tar"):
        index_shards([tmp_path / "gone.tar"])


@pytest.mark.parametrize("damage", ["cut", "decoder", "empty"])
def test_an_index_that_is_not_whole_or_not_ours_is_made_again(tmp_path: Path, damage: str):
    """A power failure can cut it; another decoder may find other clips broken."""
    write_tones(tmp_path / "a.tar", [0.1] * 3)
    index_shard(tmp_path / "a.tar")
    stored = tmp_path / "a.tar.index.jsonl"
    lines = stored.read_text(encoding="utf-8").splitlines()
    state = json.loads(lines[0])
    if damage == "cut":
        stored.write_text("\n".join(lines[:-2]), encoding="utf-8")
    elif damage == "decoder":
        stored.write_text("\n".join([json.dumps(state | {"decoder": "libsndfile 0.9"}), lines[1], '{"end": 1}']))
    else:
        stored.write_text("")
    assert len(read_split(tmp_path, ["a.tar"])[0].clips) == 3
    assert stored.read_text(encoding="utf-8").splitlines() == lines


def test_names_that_are_no_utf8_and_text_that_is_half_a_pair(tmp_path: Path):
    """Neither a Latin-1 name nor a lone surrogate in JSON may break the index, or be lost in it."""
    with tarfile.open(tmp_path / "a.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (("é.flac", TONE), ("é.json", b'{"label": "\\ud83d"}')):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (shard,) = read_split(tmp_path, ["a.tar"])
    assert [(clip.key, clip.fields["label"]) for clip in shard.clips] == [("\\xe9", "\ud83d")]
    assert read_split(tmp_path, ["a.tar"])[0] == shard


def test_an_unwritable_folder_is_said(tmp_path: Path):
    """An index that cannot be stored is an error with a reason, not a traceback."""
    write_tones(tmp_path / "a.tar", [0.1])
    (tmp_path / "a.tar.index.jsonl").mkdir()
    with pytest.raises(OrganizerError, match="cannot be written"):
        index_of(tmp_path / "a.tar", "a.tar")

"""Features that jobs share: what is taken is what was put, or nothing; whoever dies, damages or comes between."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import full_disk
import kills
import numpy as np
import pytest
from tones import write_tones

from ranker.data.shards import index_shard
from ranker.errors import ParticipantError
from ranker.lalm.features import Excerpt, FeatureStore, calls, encode_calls, encode_secretly
from ranker.lalm.order import SecretOrder
from ranker.lalm.shelf import Shelf
from ranker.sandbox.base import Audio, Features
from ranker.sandbox.witness import Witness
from ranker.settings import Probes

ROOM = 10**9
ONE, OTHER = "1" * 64, "2" * 64
DIM = 3


def features(key: int, members: int = 2) -> list[Features]:
    return [np.random.default_rng([key, at]).random((2 + at, DIM), np.float32) for at in range(members)]


def name(key: int) -> bytes:
    return key.to_bytes(32, "big")


def shelf(
    root: Path,
    *,
    submission: str = "s",
    identity: str = ONE,
    maker: str = "first",
    own: str = "public",
    readable: Sequence[str] = ("public",),
    max_bytes: int = ROOM,
    taken_over: Callable[..., None] = lambda *_: None,
) -> Shelf:
    return Shelf(
        root / "features" / submission,
        identity=identity,
        maker=maker,
        own=own,
        readable=readable,
        max_bytes=max_bytes,
        taken_over=taken_over,
    )


def fill(root: Path, keys: Sequence[int], **changes: object) -> int:
    """Put these in an attempt of their own; how many had room."""
    with shelf(root, **changes) as own:  # type: ignore[arg-type]
        return sum(own.put(name(key), features(key)) is not None for key in keys)


def found(root: Path, keys: Sequence[int], **changes: object) -> list[int]:
    """Which of these another attempt finds, each compared to the bit with what was put."""
    there = []
    with shelf(root, **changes) as other:  # type: ignore[arg-type]
        for key in keys:
            if (taken := other.take(name(key), DIM)) is not None:
                for one, two, place in zip(taken.features, features(key), taken.places, strict=True):
                    assert one.tobytes() == two.tobytes() == place.read(DIM).tobytes()
                there.append(key)
    return there


def files(root: Path) -> list[Path]:
    return sorted((root / "features").glob("*/*.features"))


def size(root: Path) -> int:
    return sum(path.stat().st_size for path in files(root))


def test_what_was_put_is_taken_to_the_bit_and_by_nobody_else(tmp_path: Path) -> None:
    """Of another submission, under another identity, key or dimension nothing is found; the maker is told, and the
    files can be read by us alone.
    """
    assert fill(tmp_path, range(5), maker="track A, seed 42") == 5
    assert found(tmp_path, range(7)) == [0, 1, 2, 3, 4]
    assert found(tmp_path, range(5), submission="t") == []
    assert found(tmp_path, range(5), identity=OTHER) == []
    with shelf(tmp_path) as other:
        taken = other.take(name(1), DIM)
        assert taken is not None
        assert taken.maker == "track A, seed 42"
        assert other.take(name(1), DIM + 1) is None
        other.account(taken, [])
        assert other.taken == {"track A, seed 42": 2}
    (path,) = files(tmp_path)
    assert [each.stat().st_mode & 0o077 for each in (path, path.parent, path.parent.parent)] == [0, 0, 0]


def test_public_jobs_find_nothing_of_hidden_ones(tmp_path: Path) -> None:
    """What a public run found, and how soon, is published: it would tell of hidden clips. The other way is open."""
    fill(tmp_path, [1], own="hidden")
    fill(tmp_path, [2], own="public")
    assert found(tmp_path, [1, 2], readable=["public"]) == [2]
    assert found(tmp_path, [1, 2], readable=["public", "hidden"]) == [1, 2]


def test_two_attempts_at_once_see_what_the_other_has_made_so_far(tmp_path: Path) -> None:
    """Neither waits for the other, nor writes into its file; each finds all of the other's when it looks again."""
    with shelf(tmp_path, maker="a") as one, shelf(tmp_path, maker="b") as two:
        for key in range(6):
            assert (one, two)[key % 2].put(name(key), features(key)) is not None
        for each in (one, two):
            each.look_again()
            assert all(each.take(name(key), DIM) is not None for key in range(6))
        one.put(name(9), features(9))
        assert two.take(name(9), DIM) is None
        two.look_again()
        assert two.take(name(9), DIM) is not None
    assert len(files(tmp_path)) == 2


def spoil(path: Path, place: int, value: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(value)


def test_no_damage_is_ever_taken_for_features(tmp_path: Path) -> None:
    """Each byte of a file turned round, and the file cut after each byte: what is found is as it was put."""
    fill(tmp_path, range(3))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    lost = 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        lost += 3 - len(found(tmp_path, range(3)))
        path.write_bytes(whole[:at])
        assert len(found(tmp_path, range(3))) < 3
    assert lost >= len(whole) - 8  # the length of a name apart, every byte counts for a record at least
    path.write_bytes(whole)
    assert found(tmp_path, range(3)) == [0, 1, 2]


@pytest.mark.parametrize("foreign", ["link", "folder", "pipe", "empty", "text"])
def test_what_is_no_file_of_ours_is_left_alone(tmp_path: Path, foreign: str) -> None:
    """A link, a folder, a pipe (nobody hangs on it) or a text under a name of ours: nothing is read of it."""
    fill(tmp_path, [1])
    (path,) = files(tmp_path)
    away = path.rename(tmp_path / "away")
    match foreign:
        case "link":
            path.symlink_to(away)
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case _:
            path.write_text("features" * 100)
    assert found(tmp_path, [1]) == []
    assert fill(tmp_path, [1]) == 1
    assert found(tmp_path, [1]) == [1]


def test_a_kill_at_any_moment_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before each write and each touch of a file: the next attempt finds what is whole, and adds the rest."""
    step, was_killed, seen = 0, True, set[int]()
    while was_killed:
        step += 1
        root = tmp_path / str(step)
        root.mkdir()

        def action(touch: Callable[[], None], root: Path = root) -> None:
            write = os.pwrite

            def watched(file: int, data: bytes, offset: int) -> int:
                touch()
                return write(file, data, offset)

            monkeypatch.setattr(os, "pwrite", watched)
            fill(root, range(3))

        was_killed = kills.is_killed_at(step, root, action)
        before = found(root, range(3))
        seen.add(len(before))
        assert before == list(range(len(before)))
        assert fill(root, range(len(before), 3)) == 3 - len(before)
        assert found(root, range(3)) == [0, 1, 2]
    assert step > 10
    assert seen == {0, 1, 2, 3}


def test_all_submissions_together_keep_to_the_bound_and_the_oldest_goes_first(tmp_path: Path) -> None:
    """A full shelf gives up the submission that was used longest ago, its own last, and nothing that is in use."""
    fill(tmp_path, range(4), submission="old")
    each = size(tmp_path)
    for at, submission in enumerate(("old", "older", "own")):
        fill(tmp_path, range(4), submission=submission)
        for path in files(tmp_path):
            if path.parent.name == submission:
                os.utime(path, (at + 2, at + 2) if submission != "older" else (1, 1))
    assert size(tmp_path) == 4 * each
    found(tmp_path, [1], submission="old")  # used just now
    bound = 4 * each + 100
    assert fill(tmp_path, range(4), submission="own", max_bytes=bound) == 4
    assert {path.parent.name for path in files(tmp_path)} == {"old", "own"}
    assert size(tmp_path) <= bound
    with shelf(tmp_path, submission="old") as used:
        taken = used.take(name(1), DIM)
        assert taken is not None
        assert fill(tmp_path, range(60), submission="own", max_bytes=bound) < 60
        assert size(tmp_path) <= bound
        assert taken.places[0].read(DIM).tobytes() == features(1)[0].tobytes()
    assert fill(tmp_path, [], max_bytes=0) == 0
    assert files(tmp_path) == []


def test_four_processes_at_once_never_pass_the_bound_nor_read_what_is_not_whole(tmp_path: Path) -> None:
    """Two submissions, two attempts each, write, look and take as fast as they can, where there is room for a third of
    it; each is killed in the middle of that.
    """
    bound, children = 4_000, []

    def written() -> int:
        return sum(len(found(tmp_path, range(50), submission=f"s{each}")) for each in range(2))

    for child in range(4):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                with shelf(tmp_path, submission=f"s{child % 2}", max_bytes=bound) as own:
                    for key in range(10**6):
                        own.put(name(key % 50), features(key % 50))
                        if key % 20 == 0:
                            own.look_again()
                        if (taken := own.take(name((key * 7) % 50), DIM)) is not None:
                            assert taken.features[0].tobytes() == features((key * 7) % 50)[0].tobytes()
            except BaseException:  # noqa: BLE001  nothing of the child may return into the test
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
    sizes, most = [], 0
    while len(sizes) < 300 or (most <= 10 and len(sizes) < 100_000):
        if len(sizes) % 30 == 0:
            most = max(most, written())
        with suppress(FileNotFoundError):  # one that was removed while they were counted
            sizes.append(size(tmp_path))
    for pid in children:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "a process ended by itself"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert 0 < max(sizes) <= bound
    assert size(tmp_path) <= bound
    written()  # what is left can be read, however little: the last to be killed may just have made room
    assert most > 10


def test_zero_bytes_make_no_folder(tmp_path: Path) -> None:
    """Who shares nothing leaves nothing."""
    assert fill(tmp_path, [1], max_bytes=0) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_the_sharing_and_nothing_else(tmp_path: Path) -> None:
    """What was put before stays whole; what comes after has no room here."""
    with shelf(tmp_path) as own:
        assert own.put(name(1), features(1)) is not None
        with full_disk.after(50):
            assert own.put(name(2), features(2)) is None
        assert own.put(name(4), features(4)) is None
    assert 1 in found(tmp_path, range(5))


def test_what_a_convicted_encoder_said_is_nobodys(tmp_path: Path) -> None:
    """The file of an attempt that ends by the encoder's fault goes with it; that of a killed one stays."""

    def end_by(error: BaseException, key: int) -> None:
        with shelf(tmp_path) as own:
            own.put(name(key), features(key))
            raise error

    with pytest.raises(KeyboardInterrupt):
        end_by(KeyboardInterrupt(), 1)
    with pytest.raises(ParticipantError):
        end_by(ParticipantError("other features than before"), 2)
    assert found(tmp_path, [1, 2]) == [1]


# -- the store above it


class Counting:
    """An encoder in this process; its features tell level, company and which encoder it is apart."""

    output_dim = DIM
    attribute = "Counting"

    def __init__(self, lie: float = 0.0) -> None:
        self.calls = 0
        self.lie = lie

    def encode(self, clips: Sequence[Audio], *, seed: int | None = None) -> list[Features]:
        self.calls += 1
        return [np.full((1 + len(clip) // 4000, DIM), [len(clip), clip.std(), self.lie], np.float32) for clip in clips]


@pytest.fixture
def plan(tmp_path: Path) -> list[tuple[Excerpt, ...]]:
    write_tones(tmp_path / "tones.tar", [0.1 + 0.05 * (at % 7) for at in range(40)])
    return calls((Excerpt(clip=clip) for clip in index_shard(tmp_path / "tones.tar").clips), batch_invariant=True)


@pytest.mark.parametrize("private", [0, 200, ROOM])
@pytest.mark.parametrize("bound", [0, 700, ROOM])
def test_features_hang_neither_on_the_shelf_nor_on_the_cache(
    tmp_path: Path, plan: list[tuple[Excerpt, ...]], bound: int, private: int
) -> None:
    """Nothing, some or all shared, nothing, some or all kept, for three attempts in turn, the first with half of the
    calls: the features of an encoder that is asked alone.
    """
    expected = {call[0].key: given for call, given in encode_calls(tmp_path, Counting(), plan)}
    asked = []
    told: list[tuple[int, int]] = []
    for part in (plan[::2], plan, plan):
        encoder = Counting()
        with (
            shelf(tmp_path, max_bytes=bound) as own,
            FeatureStore(
                data=tmp_path, encoder=encoder, plan=part, path=tmp_path / "f", max_bytes=private, shelf=own
            ) as store,
        ):
            store.fill(lambda done, total: told.append((done, total)))
            asked.append(encoder.calls)
            for call in part:
                for one, other in zip(store.get_call(call), expected[call[0].key], strict=True):
                    assert one.tobytes() == other.tobytes()
                assert store.get(call[0]).tobytes() == expected[call[0].key][0].tobytes()
        if bound == ROOM:
            assert told[-1] == (sum(map(len, part)),) * 2
    if bound == ROOM:
        assert asked == [len(plan[::2]), len(plan) - len(plan[::2]), 0]
    if bound == 0:
        assert asked[1] == asked[2]


def test_a_test_set_of_two_tasks_is_encoded_once(tmp_path: Path, plan: list[tuple[Excerpt, ...]]) -> None:
    """The second task of a job finds what the first had encoded, whatever secret order each is encoded in."""
    encoder = Counting()
    expected = list(encode_calls(tmp_path, Counting(), plan))
    with shelf(tmp_path) as own:
        for secret in (b"one", b"two"):
            found = list(
                encode_secretly(
                    tmp_path,
                    encoder,
                    plan,
                    order=SecretOrder(secret=secret),
                    path=tmp_path / "f",
                    max_bytes=0,
                    on_progress=lambda *_: None,
                    shelf=own,
                )
            )
            for (_, given), (_, wanted) in zip(found, expected, strict=True):
                assert [each.tobytes() for each in given] == [each.tobytes() for each in wanted]
        assert own.taken == {"first": 40}
    assert encoder.calls == len(plan)


def test_features_that_another_process_lied_about_are_found(tmp_path: Path, plan: list[tuple[Excerpt, ...]]) -> None:
    """An encoder that said something else when it was asked first: the probes of the attempt that takes it over compare
    with what was taken, and the confirmation's sample is drawn from it.
    """

    def stage(encoder: Counting, folder: Path) -> int:
        witness = Witness(encoder, Probes(at_least=8))
        with (
            shelf(tmp_path, taken_over=witness.taken_over) as own,
            FeatureStore(
                data=tmp_path, encoder=witness, plan=plan, path=tmp_path / "f", max_bytes=ROOM, shelf=own
            ) as store,
        ):
            witness.begin_stage("training", 40)
            store.fill(lambda *_: None)
            witness.end_stage(folder, "training")
            assert own.taken.total() in {0, 40}
        return witness.probed.made

    assert stage(Counting(lie=1e6), tmp_path) == 8
    honest = Counting(lie=1e6)
    assert stage(honest, tmp_path) == honest.calls == 8
    with np.load(tmp_path / "training.witness.npz") as arrays:
        assert len(arrays) == 16
        assert all(arrays[f"f{at}"][0, 0] == len(arrays[f"c{at}"]) for at in range(8))
    with pytest.raises(ParticipantError, match="got other features when the same process was asked for them again"):
        stage(Counting(), tmp_path)

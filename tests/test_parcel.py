"""Files on their way between machines: nothing changed, half sent or misplaced is ever put where a job looks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from ranker.errors import InfraError
from ranker.executors.parcel import Arrivals, Cache, Courier, Piece, chunks_of, files_below, piece_of

ATTEMPT = "attempt-0001"


def piece(path: str, data: bytes, **others: object) -> Piece:
    known = {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return Piece(**(known | others))  # type: ignore[arg-type]


def arrivals(folder: Path, max_bytes: float = 1e6) -> Arrivals:
    (folder / ATTEMPT).mkdir(parents=True, exist_ok=True)
    return Arrivals(folder, ATTEMPT, max_bytes=max_bytes)


def send(
    to: Arrivals, sent: Sequence[tuple[str, bytes]], checkpoints: Sequence[str] = ("step-00000001", "step-00000002")
) -> None:
    pieces = [piece(path, data) for path, data in sent]
    for each, (_, data) in zip(pieces, sent, strict=True):
        to.take(each, 0, b"")
        for offset in range(0, len(data), 3):
            to.take(each, offset, data[offset : offset + 3])
    to.put_in_place(pieces, checkpoints)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_below(folder)}


def test_a_delivery_arrives_as_it_was_sent(tmp_path: Path) -> None:
    """Attacks the way through: chunks, empty files, equal contents, checkpoints as whole folders; nothing is left."""
    sent = [
        ("threads", b"2"),
        (f"{ATTEMPT}/train.jsonl", b'{"step": 1}\n'),
        (f"{ATTEMPT}/step-00000001/state.json", b"{}"),
        (f"{ATTEMPT}/step-00000001/trained.safetensors", bytes(range(100))),
        (f"{ATTEMPT}/step-00000002/state.json", b"{}"),
        (f"{ATTEMPT}/predictions/a.json", b""),
        (f"{ATTEMPT}/predictions/b.json", b""),
    ]
    send(arrivals(tmp_path), sent)
    assert tree(tmp_path) == dict(sent)
    assert sorted(path.name for path in (tmp_path / ATTEMPT).iterdir() if path.name.startswith(".")) == []


def test_checkpoints_that_the_node_dropped_go_here_too(tmp_path: Path) -> None:
    """Attacks disks: of hundreds of checkpoints, only those stay that the node itself has."""
    for step in (1, 2, 3):
        sent = [(f"{ATTEMPT}/step-0000000{step}/state.json", str(step).encode())]
        send(arrivals(tmp_path), sent, checkpoints=[f"step-0000000{each}" for each in (step - 1, step)])
    assert sorted(tree(tmp_path)) == [f"{ATTEMPT}/step-0000000{step}/state.json" for step in (2, 3)]


def test_what_was_fixed_at_the_first_attempt_stays(tmp_path: Path) -> None:
    """Attacks the job's own files with other ones: threads and secret are those of the first attempt."""
    (tmp_path / "threads").write_text("1")
    send(arrivals(tmp_path), [("threads", b"64")])
    assert (tmp_path / "threads").read_text() == "1"


@pytest.mark.parametrize(
    "path",
    [
        "../ranker.db",
        "/etc/passwd",
        f"{ATTEMPT}/../../x",
        "attempt-0002/manifest.json",
        f"{ATTEMPT}/.incoming/x",
        ".hidden",
        "",
        "a\0b",
    ],
)
def test_a_node_writes_in_its_attempt_alone(tmp_path: Path, path: str) -> None:
    """Attacks with paths that lead elsewhere, at both steps: nothing is written."""
    to = arrivals(tmp_path / "job")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InfraError, match="nothing is taken"):
        to.take(piece(path, b"x"), 0, b"x")
    with pytest.raises(InfraError, match="nothing is taken"):
        to.put_in_place([piece(path, b"x")], [])
    assert sorted(tmp_path.rglob("*")) == before


def test_what_changed_on_its_way_is_refused(tmp_path: Path) -> None:
    """Attacks with a flipped bit, a missing end and a link: the whole delivery stays out."""
    to, whole = arrivals(tmp_path), [piece(f"{ATTEMPT}/a", b"good"), piece(f"{ATTEMPT}/b", b"bad")]
    to.take(whole[0], 0, b"good")
    for wrong in (b"bax", b"ba"):
        to.take(whole[1], 0, wrong)
        with pytest.raises(InfraError, match=r"/b did not come back as it was sent"):
            to.put_in_place(whole, [])
    with pytest.raises(InfraError, match="nothing is taken"):
        to.take(piece(f"{ATTEMPT}/c", b"", link="/etc/passwd"), 0, b"")
    with pytest.raises(InfraError, match="nothing is taken"):
        to.take(piece(f"{ATTEMPT}/c", b"", sha256="../" * 21 + "x"), 0, b"")
    to.discard()
    assert tree(tmp_path) == {}


def test_a_flood_is_stopped(tmp_path: Path) -> None:
    """Attacks with more bytes than one attempt may send back, in any number of files or repetitions."""
    to = arrivals(tmp_path, max_bytes=10)
    each = piece(f"{ATTEMPT}/a", b"123456")
    to.take(each, 0, b"123456")
    with pytest.raises(InfraError, match=r"more than .* GB of files; .*max_result_gb"):
        to.take(each, 0, b"123456")


def test_a_growing_log_is_sent_as_far_as_it_was_announced(tmp_path: Path) -> None:
    """Attacks with a file that grows between its announcement and its sending."""
    log = tmp_path / "worker.log"
    log.write_bytes(b"one\n")
    found = piece_of(tmp_path, log)
    log.write_bytes(b"one\ntwo\n")
    sent = b"".join(chunks_of(log, found.size))
    assert hashlib.sha256(sent).hexdigest() == found.sha256


def test_the_courier_tells_what_is_new_in_the_order_of_its_worth(tmp_path: Path) -> None:
    """Attacks with files that came before, temporary ones, and notes that stand for others: each is sent once, after
    what it stands for.
    """
    folder = tmp_path / ATTEMPT
    (folder / "predictions").mkdir(parents=True)
    (tmp_path / "order.secret").write_bytes(b"s")
    (tmp_path / "attempt-0000").mkdir()
    (tmp_path / "attempt-0000" / "worker.log").write_text("of another")
    courier = Courier(tmp_path, ATTEMPT)
    assert not courier.is_due()
    (folder / "manifest.json").write_text("{}")
    (folder / "features.f32").write_bytes(b"large")
    (folder / "predictions" / ".a.json.tmp").write_text("half")
    assert not courier.is_due()
    (folder / "predictions" / "a.json").write_text("1")
    (folder / "predictions" / "a.parquet").write_text("2")
    (folder / "step-00000001").mkdir()
    (folder / "step-00000001" / "state.json").write_text("3")
    (folder / "train.jsonl").write_text("4")
    assert courier.is_due()
    delivered = courier.delivery()
    assert [Path(each.path).name for each in delivered] == [
        "a.parquet",
        "train.jsonl",
        "state.json",
        "a.json",
        "manifest.json",
    ]
    courier.sent(delivered)
    assert not courier.is_due()
    assert courier.delivery() == []
    assert courier.checkpoints() == ["step-00000001"]
    (folder / "train.jsonl").write_text("4\n5")
    assert [each.path for each in courier.delivery()] == [f"{ATTEMPT}/train.jsonl"]


def test_the_cache_keeps_what_was_announced_and_nothing_else(tmp_path: Path) -> None:
    """Attacks with other bytes, too many, too few, and with a file that was changed after it was kept."""
    cache, good = Cache(tmp_path / "node"), piece("submissions/x/tree/a.py", b"x = 1\n")
    for wrong in (b"x = 2\n", b"x = 1\n\n", b"x"):
        with pytest.raises(InfraError, match="changed on its way"):
            list(cache.keep(good, [wrong]))
        assert not cache.has(good)
    list(cache.keep(good, [b"x = ", b"1\n"]))
    assert cache.has(good)
    cache.place(good, tmp_path / "home")
    placed = tmp_path / "home" / good.path
    assert placed.read_bytes() == b"x = 1\n"
    placed.write_bytes(b"x = 3\n")
    assert not cache.has(good), "a job without a sandbox wrote through to the cache: it must be fetched anew"


def test_the_cache_stays_within_its_size(tmp_path: Path) -> None:
    """Attacks disks of nodes: the least recently used go, but for those that a job has placed."""
    cache = Cache(tmp_path / "node")
    pieces = [piece(str(number), bytes([number]) * 10) for number in range(4)]
    for number, each in enumerate(pieces):
        list(cache.keep(each, [bytes([number]) * 10]))
        blob = next(path for path in (tmp_path / "node").rglob(each.sha256))
        os.utime(blob, ns=(number, 0))
    cache.place(pieces[0], tmp_path / "home")
    cache.shrink(20)
    assert [cache.has(each) for each in pieces] == [True, False, False, True]


def test_a_placed_file_has_its_mode_and_links_stay_links(tmp_path: Path) -> None:
    """Attacks secrets and programs: their modes come along; a link is a link there, too."""
    cache, root = Cache(tmp_path / "node"), tmp_path / "home"
    secret, link = piece("runs/a/order.secret", b"s", mode=0o600), Piece(path="weights/b", link="../a")
    list(cache.keep(secret, [b"s"]))
    cache.place(secret, root, copy=True)
    cache.place(link, root)
    assert (root / secret.path).stat().st_mode & 0o777 == 0o600
    assert (root / link.path).readlink() == Path("../a")

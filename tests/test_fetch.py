"""A folder that is filled from the hub: whole files only, the pinned ones only, at any moment of any accident."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import threading
from pathlib import Path

import full_disk
import hub_server
import pytest
from effort import count

from ranker.data.fetch import Item, Transfer, fetch, fetch_file, fetch_snapshot, pin
from ranker.data.hub import Hub
from ranker.data.lock import Lock, Source
from ranker.errors import ConfigError, InfraError, MissingError, OrganizerError, RankerError
from ranker.types import RepoKind

pytest_plugins = ["hub_client"]

REPO = "org/model"
SOURCE = Source(kind=RepoKind.MODEL, repo=REPO, revision="main")
WEIGHTS = random.Random(0).randbytes(2_500_000)
FILES = {"config.json": b'{"layers": 30}', "deep/tokenizer.json": b"{}" * 300, "model.safetensors": WEIGHTS}


def get(server: hub_server.Hub, folder: Path, **options: object) -> str:
    """The three files, in `folder`, pinned by a lock file beside it."""
    arguments = {"files": list(FILES), "folder": folder, "lock": folder.with_name("lock.json"), **options}
    return fetch_snapshot(REPO, endpoint=server.endpoint, **arguments)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_is_there_and_pinned(server: hub_server.Hub, tmp_path: Path):
    """The files and nothing else are in the folder; the lock file says commit, size and SHA-256 of each."""
    server.put(REPO, {**FILES, "unwanted.bin": b"x" * 5000}, kind="model")
    seen: list[Transfer] = []
    commit = get(server, tmp_path / "m", on_transfer=seen.append)
    assert content(tmp_path / "m") == FILES
    assert (seen[0].bytes_done, seen[-1].bytes_done) == (0, sum(map(len, FILES.values())))
    assert seen[-1].bytes_done == seen[-1].bytes_total
    assert seen[-1].files_done == seen[-1].files_total == 3
    pinned = json.loads((tmp_path / "lock.json").read_text())["repositories"]["model:org/model"]
    assert (pinned["commit"], pinned["revision"]) == (commit, "main")
    assert {name: (entry["bytes"], entry["sha256"]) for name, entry in pinned["files"].items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m.lock", "lock.json", "m"]


def test_what_is_there_is_not_asked_for_again(server: hub_server.Hub, tmp_path: Path):
    """A second fetch needs no hub at all; a file that was damaged since, or deleted, is fetched alone."""
    server.put(REPO, FILES, kind="model")
    get(server, tmp_path / "m")
    server.requests.clear()
    get(server, tmp_path / "m")
    assert server.requests == []
    (tmp_path / "m/config.json").write_bytes(b'{"layers": 31}')
    (tmp_path / "m/deep/tokenizer.json").unlink()
    get(server, tmp_path / "m")
    assert content(tmp_path / "m") == FILES
    assert {seen.path.rpartition("/")[2] for seen in server.requests} == {"config.json", "tokenizer.json"}


def test_what_was_pinned_stays_though_the_branch_moves_on(server: hub_server.Hub, tmp_path: Path):
    """The lock file, taken to another machine, brings the old commit there too; without it the new one comes."""
    first = server.put(REPO, FILES, kind="model")
    get(server, tmp_path / "m")
    second = server.put(REPO, {**FILES, "config.json": b"{}"}, kind="model")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(tmp_path / "lock.json", tmp_path / "elsewhere")
    assert get(server, tmp_path / "elsewhere/m") == first
    assert content(tmp_path / "elsewhere/m") == FILES
    (tmp_path / "lock.json").unlink()
    assert get(server, tmp_path / "m") == second
    assert content(tmp_path / "m")["config.json"] == b"{}"


def test_a_commit_is_pinned_before_anything_else_is_asked(server: hub_server.Hub, tmp_path: Path):
    """A fetch that dies right after is begun again with the same commit, though the branch has moved on meanwhile."""
    first = server.put(REPO, FILES, kind="model")
    lock = tmp_path / "lock.json"
    with pytest.raises(MissingError, match=r"has no nothing\.bin at commit"):
        get(server, tmp_path / "m", files=["nothing.bin"])
    server.put(REPO, {"other": b"1"}, kind="model")
    assert Lock.load(lock).repositories["model:org/model"].commit == first
    assert get(server, tmp_path / "m") == first


def test_bytes_that_are_not_pinned_are_not_accepted(server: hub_server.Hub, tmp_path: Path):
    """Who changes a file behind the hub's back, at the same commit, gets nothing into the folder."""
    commit = server.put(REPO, FILES, kind="model")
    get(server, tmp_path / "m")
    shutil.rmtree(tmp_path / "m")
    server.repos["models/org/model"].commits[commit]["config.json"] = b'{"layers": 99}'
    with pytest.raises(OrganizerError, match=r"config\.json of the model org/model .* other bytes than those that are"):
        get(server, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("revision", "words"),
    [("v2", "wanted at revision v2, but .* has it pinned at"), ("0" * 40, "wanted at revision 0000")],
)
def test_a_revision_that_is_not_the_pinned_one_is_a_mistake(
    server: hub_server.Hub, tmp_path: Path, revision: str, words: str
):
    """Neither silently the old commit nor silently a new one; the commit itself may be named."""
    commit = server.put(REPO, FILES, kind="model")
    get(server, tmp_path / "m")
    with pytest.raises(ConfigError, match=words):
        get(server, tmp_path / "m", revision=revision)
    assert get(server, tmp_path / "m", revision=commit) == commit


@pytest.mark.parametrize("text", ["{", '{"format": 2}', '{"repositories": {"a": {"revision": "m", "commit": "x"}}}'])
def test_a_damaged_lock_file_is_a_mistake(server: hub_server.Hub, tmp_path: Path, text: str):
    """It is never taken for an empty one: that would pin anew."""
    (tmp_path / "lock.json").write_text(text)
    with pytest.raises(ConfigError, match=r"lock\.json is damaged"):
        get(server, tmp_path / "m")
    assert (tmp_path / "lock.json").read_text() == text


def test_a_disk_that_is_too_small_is_refused_before_the_first_byte(server: hub_server.Hub, tmp_path: Path):
    """The sizes are known before: one sentence instead of a full disk an hour later."""
    server.put(REPO, FILES, kind="model")
    server.repos["models/org/model"].claimed["model.safetensors"] = 10**18
    with pytest.raises(InfraError, match=r"too small: 1000000000\.0 GB of files are still to come, but only .* free"):
        get(server, tmp_path / "m")
    assert not [seen for seen in server.requests if "/resolve/" in seen.path or seen.cdn]


def test_a_disk_that_fills_up_leaves_nothing_half(server: hub_server.Hub, tmp_path: Path):
    """What was written so far waits beside the folder, and the same call ends it once there is room."""
    server.put(REPO, FILES, kind="model")
    with full_disk.after(1_500_000), pytest.raises(OSError, match="too large"):
        get(server, tmp_path / "m", jobs=1)
    assert not (tmp_path / "m").exists()
    get(server, tmp_path / "m")
    assert content(tmp_path / "m") == FILES
    (last,) = [seen for seen in server.bytes_requests("model.safetensors") if seen.cdn and "range" in seen.headers]
    assert int(last.headers["range"].removeprefix("bytes=").rstrip("-")) >= 1 << 20


def test_two_at_once_do_not_disturb_each_other(server: hub_server.Hub, tmp_path: Path):
    """The second waits for the first and finds everything there: no byte comes twice."""
    server.put(REPO, FILES, kind="model")
    threads = [threading.Thread(target=get, args=(server, tmp_path / "m")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert content(tmp_path / "m") == FILES
    assert [len([s for s in server.bytes_requests(name) if not s.cdn]) for name in FILES] == [1, 1, 1]


def test_offline_takes_what_is_here_and_names_what_is_not(server: hub_server.Hub, tmp_path: Path):
    """The folder and the hub client's own cache count; the hub is not asked; a lock file is needed."""
    commit = server.put(REPO, FILES, kind="model")
    with pytest.raises(MissingError, match=r"take the lock file from a machine that has fetched"):
        get(server, tmp_path / "m", offline=True)
    pin(Hub(endpoint=server.endpoint), SOURCE, list(FILES), tmp_path / "lock.json")
    server.requests.clear()
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_bytes(FILES["config.json"])
    cache = tmp_path / "hub-cache/models--org--model/snapshots" / commit
    (cache / "deep").mkdir(parents=True)
    (cache / "deep/tokenizer.json").write_bytes(FILES["deep/tokenizer.json"])
    with pytest.raises(MissingError, match=r"^model\.safetensors is not under .* \(1 of 3 files are missing\)"):
        get(server, tmp_path / "m", offline=True)
    (cache / "model.safetensors").write_bytes(b"x" + WEIGHTS[1:])
    with pytest.raises(MissingError, match=r"^model\.safetensors is not under"):
        get(server, tmp_path / "m", offline=True)
    (cache / "model.safetensors").write_bytes(WEIGHTS)
    assert get(server, tmp_path / "m", offline=True) == commit
    assert content(tmp_path / "m") == FILES
    assert server.requests == []


def test_the_first_failure_ends_the_others(server: hub_server.Hub, tmp_path: Path):
    """A file that cannot be had does not wait for gigabytes of others; what has come of them is kept."""
    server.put(REPO, FILES, kind="model")
    held, release = threading.Event(), threading.Event()
    server.faults["model.safetensors"] = [hub_server.hold_after(1 << 20, held, release)]

    def refuse(handler: hub_server._Handler, content: bytes, start: int) -> bool:
        held.wait(60)
        release.set()
        handler.answer(403, {})
        return True

    server.faults["config.json"] = [refuse]
    with pytest.raises(MissingError, match=r"forbids config\.json"):
        get(server, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    get(server, tmp_path / "m")
    assert content(tmp_path / "m") == FILES


def test_any_chain_of_accidents_ends_in_the_right_files(server: hub_server.Hub, tmp_path: Path):
    """Cuts, damage, refusals and servers without ranges, at random: as long as it fails, nothing is in the folder, and
    the same call succeeds in the end.
    """
    chance = random.Random(1)
    commit = server.put(REPO, FILES, kind="model")
    pinned = pin(Hub(endpoint=server.endpoint), SOURCE, list(FILES), tmp_path / "lock.json")
    items = [Item(source=SOURCE, commit=commit, path=path, target=path, file=pinned.files[path]) for path in FILES]
    failures = 0
    for case in range(count("chains of download accidents", short=12, long=300)):
        root = tmp_path / f"case{case}"
        for name, data in FILES.items():
            server.faults[name] = [
                chance.choice(
                    [
                        hub_server.cut_after(chance.randrange(len(data))),
                        hub_server.damaged(),
                        hub_server.refuse(chance.choice([403, 404, 500, 503]), Retry_After="3"),
                    ]
                )
                for _ in range(chance.randrange(6))
            ]
        for _ in range(40):
            server.ranges = chance.random() < 0.7
            hub = Hub(endpoint=server.endpoint)
            hub.stop = hub_server.NeverWaits()
            try:
                fetch(hub, items, root, known={}, jobs=chance.randrange(1, 4))
                break
            except RankerError:
                failures += 1
                assert not root.exists()
        assert content(root) == FILES
        assert not root.with_name(f".{root.name}.fetching").exists()
    assert failures > 0


def test_a_single_file_from_the_web_is_resumed_and_known(server: hub_server.Hub, tmp_path: Path):
    """A file outside the hub is the one that its digest says, or an error; it comes without the hub's token."""
    server.put(REPO, FILES, kind="model")
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    url = f"{server.cdn}/blob/{digest}/model.safetensors"
    server.faults["model.safetensors"] = [hub_server.cut_after(1_300_000)]
    with pytest.raises(MissingError, match="is not to be asked"):
        fetch_file(url, sha256=digest, path=tmp_path / "w/checker.ckpt", offline=True)
    came: list[int] = []
    fetch_file(url, sha256=digest, path=tmp_path / "w/checker.ckpt", on_bytes=came.append)
    assert (tmp_path / "w/checker.ckpt").read_bytes() == WEIGHTS
    assert sum(came) == len(WEIGHTS)
    assert [seen.headers.get("range") for seen in server.requests] == [None, f"bytes={1 << 20}-"]
    assert not [seen for seen in server.requests if "authorization" in seen.headers]
    server.requests.clear()
    fetch_file(url, sha256=digest, path=tmp_path / "w/checker.ckpt")
    assert server.requests == []
    with pytest.raises(OrganizerError, match="expected 0000"):
        fetch_file(url, sha256="0" * 64, path=tmp_path / "w/checker.ckpt")
    assert (tmp_path / "w/checker.ckpt").read_bytes() == WEIGHTS
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == [".checker.ckpt.lock", "checker.ckpt"]

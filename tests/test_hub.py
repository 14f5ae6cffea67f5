"""The hub's real client against a small hub on the loopback: refused, interrupted, misled and kept waiting."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import hub_server
import pytest

from ranker.data.hub import Hub
from ranker.data.lock import LockedFile, Source
from ranker.errors import InfraError, MissingError, OrganizerError
from ranker.types import RepoKind

pytest_plugins = ["hub_client"]

LARGE = bytes(range(256)) * 16_000  # four requests' worth of pieces
SMALL = b'{"layers": 30}'
FILES = {"ESC-50/test/a b.tar.gz": LARGE, "config.json": SMALL} | {f"more/{i}.txt": b"%d" % i for i in range(7)}
SOURCE = Source(kind=RepoKind.DATASET, repo="mispeech/data", revision="main")
PATH = "ESC-50/test/a b.tar.gz"
PINNED = LockedFile(bytes=len(LARGE), sha256=hashlib.sha256(LARGE).hexdigest())


@pytest.fixture
def commit(server: hub_server.Hub) -> str:
    return server.put("mispeech/data", FILES)


def client(server: hub_server.Hub) -> tuple[Hub, hub_server.NeverWaits]:
    hub = Hub(endpoint=server.endpoint)
    hub.stop = hub_server.NeverWaits()
    return hub, hub.stop


def download(server: hub_server.Hub, commit: str, part: Path, **changes: object) -> bytes:
    """The large file as it came; fails unless the digest that is told is that of the bytes."""
    hub, _ = client(server)
    digest = hub.download(SOURCE, commit, PATH, expected=PINNED.model_copy(update=changes), part=part)
    assert digest == hashlib.sha256(part.read_bytes()).hexdigest()
    return part.read_bytes()


def test_a_branch_is_a_commit_with_files(server: hub_server.Hub, commit: str):
    """All pages of a listing are read; large files are known by SHA-256, small ones by git's digest, none by both."""
    hub, _ = client(server)
    assert hub.commit(SOURCE) == commit
    found = hub.files(SOURCE, commit)
    assert set(found) == set(FILES)
    assert len([seen for seen in server.requests if "/tree/" in seen.path]) == 4
    assert found[PATH] == PINNED
    git = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
    assert found["config.json"] == LockedFile(bytes=len(SMALL), git_sha1=git)


def test_the_token_goes_to_the_hub_and_nowhere_else(
    server: hub_server.Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A large file lies on another host, to which the hub redirects: who runs that must not get the token."""
    server.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert download(server, commit, tmp_path / "part") == LARGE
    asked, got = server.bytes_requests(PATH)
    assert (asked.cdn, asked.headers["authorization"]) == (False, "Bearer hf_secret")
    assert got.cdn
    assert not [value for value in got.headers.values() if "hf_secret" in value]


def test_a_broken_connection_is_taken_up_where_it_broke(server: hub_server.Hub, commit: str, tmp_path: Path):
    """Each request after a cut asks for what is missing, and no byte that was kept comes twice."""
    server.faults[PATH] = [hub_server.cut_after(1_500_000), hub_server.cut_after(1_100_000), hub_server.cut_after(10)]
    came: list[int] = []
    hub, stop = client(server)
    hub.download(SOURCE, commit, PATH, expected=PINNED, part=tmp_path / "part", on_bytes=came.append)
    assert (tmp_path / "part").read_bytes() == LARGE
    asked = [seen.headers.get("range") for seen in server.bytes_requests(PATH) if seen.cdn]
    piece = 1 << 20
    assert asked == [None, f"bytes={piece}-", f"bytes={2 * piece}-", f"bytes={2 * piece}-"]
    assert sum(came) == len(LARGE)
    assert len(stop.waits) == 1, "only where a request brought nothing is there a pause"


def test_a_part_from_before_is_kept(server: hub_server.Hub, commit: str, tmp_path: Path):
    """What a killed process left is the beginning of the file, and is not asked for again."""
    (tmp_path / "part").write_bytes(LARGE[:1234])
    assert download(server, commit, tmp_path / "part") == LARGE
    assert {seen.headers["range"] for seen in server.bytes_requests(PATH)} == {"bytes=1234-"}


@pytest.mark.parametrize("left", [b"x" * 1000, LARGE + b"x", b"y" * len(LARGE)], ids=["wrong", "longer", "all wrong"])
def test_a_part_that_is_no_part_is_thrown_away(server: hub_server.Hub, commit: str, tmp_path: Path, left: bytes):
    """Another content under the same name is found by its digest, and the file comes anew."""
    (tmp_path / "part").write_bytes(left)
    assert download(server, commit, tmp_path / "part") == LARGE


def test_a_server_without_ranges_sends_the_file_anew(server: hub_server.Hub, commit: str, tmp_path: Path):
    """An answer of 200 to a request for the rest is the whole file; it must not be put behind what is there."""
    server.ranges = False
    (tmp_path / "part").write_bytes(LARGE[:1234])
    assert download(server, commit, tmp_path / "part") == LARGE


def test_damage_on_the_way_is_found(server: hub_server.Hub, commit: str, tmp_path: Path):
    """Bytes of the right number but the wrong value are fetched again once; then nothing of them is left."""
    server.faults[PATH] = [hub_server.damaged()]
    assert download(server, commit, tmp_path / "part") == LARGE
    server.faults[PATH] = [hub_server.damaged(), hub_server.damaged()]
    with pytest.raises(OrganizerError, match="twice with other bytes"):
        download(server, commit, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("size", [len(LARGE) - 1, len(LARGE) + 1])
def test_another_length_than_the_pinned_one_is_refused(server: hub_server.Hub, commit: str, tmp_path: Path, size: int):
    """A file that is shorter or longer than the lock file says ends the download: neither cut off nor asked on."""
    with pytest.raises(OrganizerError, match="twice with other bytes"):
        download(server, commit, tmp_path / "part", bytes=size)
    assert len(server.bytes_requests(PATH)) <= 8


DATE = format_datetime(datetime.now(UTC) + timedelta(seconds=2000), usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers", "least_s", "most_s"),
    [
        pytest.param(429, {"Retry-After": "7"}, 7, 7, id="seconds"),
        pytest.param(429, {"Retry-After": DATE}, 400, 2000, id="date"),
        pytest.param(429, {"ratelimit": '"resolvers";r=0;t=55'}, 55, 55, id="the hub's own header"),
        pytest.param(429, {"Retry-After": "soon"}, 0.1, 2, id="neither"),
        pytest.param(503, {}, 0.1, 2, id="overloaded"),
    ],
)
def test_a_busy_hub_is_left_alone_as_long_as_it_asks(
    server: hub_server.Hub,
    commit: str,
    tmp_path: Path,
    status: int,
    headers: dict[str, str],
    least_s: float,
    most_s: float,
):
    """Question and file both wait for what the hub asks for, then go on by themselves."""
    hub, stop = client(server)
    server.busy = [(status, headers)]
    assert hub.commit(SOURCE) == commit
    server.busy = [(status, headers)]
    hub.download(SOURCE, commit, PATH, expected=PINNED, part=tmp_path / "part")
    assert len(stop.waits) == 2
    assert all(least_s <= wait <= most_s for wait in stop.waits)


def test_nobody_waits_for_hours_or_for_ever(server: hub_server.Hub, commit: str):
    """A hub that asks for a day's pause, or is busy time and again, ends the command with one sentence."""
    hub, stop = client(server)
    server.busy = [(429, {"Retry-After": "86400"})]
    with pytest.raises(InfraError, match=r"slow down \(429\) for 86400 s"):
        hub.commit(SOURCE)
    assert stop.waits == []
    server.busy = [(502, {})] * 50
    with pytest.raises(InfraError, match="answered 502"):
        hub.commit(SOURCE)
    assert 3 <= len(stop.waits) <= 10
    assert stop.waits == sorted(stop.waits)


def test_what_is_stopped_neither_waits_nor_asks(server: hub_server.Hub, commit: str, tmp_path: Path):
    """After the first failure of a fetch its other files end too, instead of coming for hours."""
    hub = Hub(endpoint=server.endpoint)
    hub.stop.set()
    with pytest.raises(InfraError, match="stopped"):
        hub.download(SOURCE, commit, PATH, expected=PINNED, part=tmp_path / "part")
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((401, {"X-Error-Code": "RepoNotFound"}), "there is no dataset mispeech/data at .*HF_TOKEN"),
        ((401, {}), "there is no dataset mispeech/data at .*HF_TOKEN"),
        ((404, {"X-Error-Code": "RepoNotFound"}), "there is no dataset mispeech/data at .*HF_TOKEN"),
        ((401, {"X-Error-Code": "GatedRepo"}), "is gated: ask for access at .*/datasets/mispeech/data, then .*TOKEN"),
        ((403, {"X-Error-Code": "GatedRepo"}), "is gated: ask for access at"),
        ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "refuses the token .*HF_TOKEN"),
        ((404, {"X-Error-Code": "RevisionNotFound"}), "has no revision 'main'"),
        ((403, {}), "forbids the dataset mispeech/data"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_clear_sentence(server: hub_server.Hub, answer: tuple[int, dict[str, str]], words: str):
    """Who is refused is told why, and what would help; the client's own paragraphs stay inside."""
    hub, stop = client(server)
    server.busy = [answer]
    with pytest.raises(MissingError, match=words) as refused:
        hub.commit(SOURCE)
    assert "\n" not in str(refused.value)
    assert "Client Error" not in str(refused.value)
    assert stop.waits == [], "asking again would not help"


def test_the_real_answers_of_a_hub_are_understood(
    server: hub_server.Hub, commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The same by the server's own rules: unknown repository, revision and file; gated; a token that is not valid."""
    hub, _ = client(server)
    for change, words in (
        ({"repo": "mispeech/dato"}, "there is no dataset mispeech/dato"),
        ({"revision": "v9"}, "no revision 'v9'"),
        ({"kind": RepoKind.MODEL}, "there is no model mispeech/data"),
    ):
        asked = Source(**{"kind": SOURCE.kind, "repo": SOURCE.repo, "revision": SOURCE.revision, **change})
        with pytest.raises(MissingError, match=words):
            hub.commit(asked)
    with pytest.raises(MissingError, match=r"no file b\.tar at the pinned commit"):
        hub.download(SOURCE, commit, "b.tar", expected=PINNED, part=tmp_path / "part")
    server.repos["datasets/mispeech/data"].gated = True
    with pytest.raises(MissingError, match="is gated"):
        hub.files(SOURCE, commit)
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(MissingError, match="refuses the token"):
        hub.files(SOURCE, commit)


def test_an_address_that_is_no_hub_is_said_to_be_none(server: hub_server.Hub):
    """A proxy's page, or nothing at all behind the address, is our trouble and not the repository's."""
    hub, _ = client(server)
    server.busy = [(200, {"Content-Type": "text/html"})]
    with pytest.raises(InfraError, match="does not answer as a hub does"):
        hub.commit(SOURCE)
    nobody = Hub(endpoint="http://127.0.0.1:1")
    nobody.stop = hub_server.NeverWaits()
    with pytest.raises(InfraError, match=r"127\.0\.0\.1:1 cannot be reached .*HF_ENDPOINT"):
        nobody.commit(SOURCE)
    assert len(nobody.stop.waits) >= 3

"""Build and weights in real sandboxes, with an index and a hub on the loopback; once each through `ranker ingest`."""

from __future__ import annotations

import json
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import effort
import hub_server
import index_server
import pytest
import yaml
from hub_server import Hub
from index_server import Index

from ranker.cli import main
from ranker.errors import InfraError, ParticipantError, UsageError
from ranker.home import Home
from ranker.intake import weights
from ranker.intake.phases import frozen_folders, require_same
from ranker.sandbox.backends import backend
from ranker.sandbox.base import EncoderSpec
from ranker.sandbox.check import probe_clip
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits, Service, WeightsPhase
from ranker.types import EncoderSource, RepoKind, SandboxName, Traffic

LIMITS = {"memory_gb": 1.5, "cpus": 1.0, "pids": 64, "scratch_mb": 16, "log_kb": 64}
CONFINED = [SandboxName.BUBBLEWRAP, SandboxName.DOCKER]
Run = Callable[..., Any]

ENCODER = """
import json
import socket
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
{imports}

def works(action):
    try:
        return bool(action())
    except BaseException:
        return False


class HubEncoder(torch.nn.Module):
    output_dim = 4

    def __init__(self):
        super().__init__()
        self.path = Path(hf_hub_download("team/model", "weights.bin"))
        self.scale = float(self.path.read_text().split()[0])

    def forward(self, audio, mask=None):
        frames = torch.nn.functional.pad(audio, (0, -audio.shape[1] % 1600)).unflatten(1, (-1, 1600))
        found = [
            works(lambda: self.path.write_text("9")),
            works(lambda: self.path.parent.joinpath("new").write_text("9")),
            works(lambda: socket.socket(socket.AF_INET)),
        ]
        features = torch.stack([frames.mean(-1), *[torch.full(frames.shape[:2], float(each)) for each in found]], -1)
        return features * self.scale, None
"""


@pytest.fixture
def index() -> Iterator[Index]:
    with index_server.serve() as found:
        yield found


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server.serve() as found:
        found.put("team/model", {"weights.bin": b"2.5 " + b"#" * 2000, "config.json": b"{}"}, kind="model")
        yield found


@pytest.fixture(params=CONFINED)
def confined(request: pytest.FixtureRequest) -> SandboxName:
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    return SandboxName(request.param)


@pytest.fixture
def bwrap(bubblewrap: ServedSandbox) -> ServedSandbox:
    return bubblewrap


@pytest.fixture
def home(tmp_path: Path, index: Index, hub: Hub) -> Path:
    """A home whose index and hub are the loopback's; the host that keeps large files is allowed to nobody yet."""
    folder = tmp_path / "home"
    (folder / "configs").mkdir(parents=True)
    settings = {
        "docker_image": "ranker-encoder:none-such",
        "limits": LIMITS,
        "build": {"index_url": index.url, "index_hosts": []},
        "weights": {"hub_url": hub.endpoint, "hub_hosts": []},
        "cpu_workers": 1,
    }
    (folder / "configs" / "service.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Type a command; its standard output, as JSON where it is. Fails on another exit code."""

    def typed(*arguments: str, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as left:
            main(["--home", str(home), *arguments])
        said = capsys.readouterr()
        assert (left.value.code or 0) == code, said
        return json.loads(said.out) if "--json" in arguments else said.out

    return typed


def pack(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def widen(home: Path, hub: Hub) -> None:
    """Allow the host of large files to everybody: `ranker allow-host` takes no address of this machine."""
    path = home / "configs" / "service.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["weights"]["hub_hosts"] = [hub.cdn.removeprefix("http://")]
    path.write_text(yaml.safe_dump(settings))


def test_from_a_zip_to_an_accepted_encoder(
    confined: SandboxName, home: Path, run: Run, index: Index, hub: Hub, tmp_path: Path
) -> None:
    """Packages are installed and weights fetched at intake: refused while a host may not be asked, accepted when it
    may. The encoder then has them read-only, without a network, and `ranker show` tells all of it.
    """
    harm = "import os; os._exit(3)\n"
    files = {"tinydep.py": "VALUE = 5\n", "evil.pth": harm, "sitecustomize.py": harm, "json.py": harm}
    digest = index.put("tinydep", "1.5", files)
    encoder = ENCODER.format(imports="import tinydep\nassert tinydep.VALUE == 5")
    archive = pack(tmp_path / "t.zip", {"t/hub_encoder.py": encoder, "t/requirements.txt": "tinydep\nnumpy\n"})
    ingest = ("ingest", str(archive), "--sandbox", confined, "--json")

    (view,) = run(*ingest, code=ParticipantError.exit_code)
    refusal = "\n".join(view["reasons"])
    assert f"asked for {hub.cdn.removeprefix('http://')}, which may not be asked" in refusal
    assert "OfflineModeIsEnabled" not in refusal, "the reason with a network is told, not the one without"

    widen(home, hub)
    (allowed,) = run("allow-host", "t", "weights.example.org", "--json")
    assert allowed["host"] == "weights.example.org:443"
    (view,) = run(*ingest)
    result = view["check"]["result"]
    (package,) = result["environment"]["installed"]
    assert (package["name"], package["version"], package["sha256"]) == ("tinydep", "1.5", digest)
    (repository,) = result["weights"]["repositories"]
    commit = hub.repos["models/team/model"].branches["main"]
    assert (repository["repository"], repository["commit"], repository["revision"]) == ("team/model", commit, "main")
    assert result["weights"]["hosts"] == ["weights.example.org:443"]
    assert {line["outcome"] for line in result["weights"]["network"]["lines"]} == {Traffic.CARRIED}

    shown = run("show", "t")
    for words in ("installed tinydep 1.5", f"model team/model at {commit[:12]}", "weights.example.org:443 (allowed "):
        assert words in shown

    asked, folder = len(hub.requests), Home(root=home).submissions / view["sha256"]
    frozen = frozen_folders(folder, result)
    spec = EncoderSpec(
        tree=folder / "tree", source=EncoderSource(**result["source"]), packages=frozen.packages, weights=frozen.weights
    )
    sandbox = backend(confined, image="ranker-encoder:none-such", home=home)
    with sandbox.start(spec, Limits(**LIMITS)) as started:
        features = started.encode([probe_clip(1.0, 1)])[0]
    assert abs(features[:, 0]).max() > 0
    assert (features[:, 1:] == 0).all(), "it wrote to its weights, or opened a socket"
    assert len(hub.requests) == asked
    assert not list(home.rglob(".weights-*"))


def service(hub: Hub, **changes: Any) -> Service:
    phase = {"hub_url": hub.endpoint, "hub_hosts": (hub.cdn.removeprefix("http://"),), "timeout_s": 60.0, **changes}
    return Service(weights=WeightsPhase(**phase), limits=Limits(**LIMITS))


def fetched(
    sandbox: ServedSandbox,
    hub: Hub,
    folder: Path,
    constructor: str,
    dated: weights.Dated = lambda *_: None,
    **changes: Any,
) -> weights.Fetched | None:
    """The weights phase of an encoder with this constructor."""
    (folder / "tree").mkdir(exist_ok=True)
    lines = "".join(f"        {line}\n" for line in constructor.splitlines())
    (folder / "tree" / "encoder.py").write_text(
        "import os, socket, time\nfrom pathlib import Path\nimport torch\n\n"
        "CACHE = Path(os.environ['XDG_CACHE_HOME'])\n\n"
        f"class AnEncoder(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n{lines}"
    )
    source = EncoderSource(root=".", module="encoder.py", attribute="AnEncoder")
    return weights.fetch(
        sandbox,
        service(hub, **changes),
        folder / "tree",
        folder,
        source=source,
        override=None,
        packages=None,
        hosts=(),
        dated=dated,
    )


LOOK = """
found = []
host, _, port = os.environ["HTTPS_PROXY"].removeprefix("http://").partition(":")
for target in ("example.org:443", "169.254.169.254:80", "127.0.0.1:{port}", "localhost:{port}"):
    with socket.create_connection((host, int(port)), timeout=5) as one:
        one.sendall(f"CONNECT {{target}} HTTP/1.1\\r\\n\\r\\n".encode())
        found.append(b" 200 " in one.recv(100))
for family, kind, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {port})),
    (socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 443)),
    (socket.AF_INET, socket.SOCK_DGRAM, ("1.1.1.1", 53)),
    (socket.AF_UNIX, socket.SOCK_STREAM, "\\0ranker-test-{port}"),
):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(2)
            one.connect(address)
            found.append(True)
    except OSError:
        found.append(False)
try:
    found.append(bool(Path({secret!r}).read_text()))
except OSError:
    found.append(False)
(CACHE / "found").write_text(repr(found))
"""


def test_a_constructor_reaches_nothing_but_the_hub(bwrap: ServedSandbox, hub: Hub, tmp_path: Path) -> None:
    """Attacks from the phase that has a network: other hosts and ports, this machine's services and files. Each try
    that came as far as the proxy is recorded.
    """
    (tmp_path / "secret").write_text("labels")
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as abstract:
        port = other.getsockname()[1]
        abstract.bind(f"\0ranker-test-{port}")
        abstract.listen()
        result = fetched(bwrap, hub, tmp_path, LOOK.format(port=port, secret=str(tmp_path / "secret")))
    assert result is not None
    assert (result.weights / "found").read_text() == repr([False] * 9)
    refused = {line["destination"] for line in result.record["network"]["lines"] if line["outcome"] == Traffic.REFUSED}
    assert refused == {"example.org:443", "169.254.169.254:80", f"127.0.0.1:{port}", f"localhost:{port}"}


ASK = """
from huggingface_hub import hf_hub_download
hf_hub_download("team/model", "config.json")
"""
GREEDY = {
    "writes": (
        "(CACHE / 'x').write_bytes(bytes(50_000_000)); time.sleep(60)",
        {"max_bytes": 5_000_000},
        "it wrote more",
    ),
    "many files": (
        "for i in range(10**6):\n    (CACHE / str(i)).mkdir()",
        {"max_bytes": 4_000_000},
        "it wrote more",
    ),
    "waits": ("time.sleep(600)", {"timeout_s": 3.0}, "within 3 s"),
    "fetches": (
        "from huggingface_hub import hf_hub_download\nhf_hub_download('team/model', 'large.bin')",
        {"max_bytes": 3_000_000},
        "more than the 3,000,000 bytes",
    ),
}


@pytest.mark.parametrize("how", effort.todays("greedy constructors", list(GREEDY)))
def test_a_greedy_constructor_is_stopped(bwrap: ServedSandbox, hub: Hub, tmp_path: Path, how: str) -> None:
    """Attacks disk and time while it has a network: each bound is told, is theirs, and leaves nothing behind."""
    hub.put("team/model", {"config.json": b"{}", "large.bin": bytes(6_000_000)}, kind="model")
    constructor, changes, words = GREEDY[how]
    with pytest.raises(ParticipantError, match=words):
        fetched(bwrap, hub, tmp_path, ASK + constructor, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize(
    ("constructor", "words"),
    [
        ("os.symlink('/etc/passwd', CACHE / 'link')", "leads out of its folder"),
        ("socket.socket(socket.AF_UNIX).bind(str(CACHE / 'socket'))", "neither a file"),
    ],
)
def test_odd_things_in_the_cache_are_refused(
    bwrap: ServedSandbox, hub: Hub, tmp_path: Path, constructor: str, words: str
) -> None:
    """Attacks whoever reads the cache outside."""
    with pytest.raises(ParticipantError, match=words):
        fetched(bwrap, hub, tmp_path, ASK + constructor)


def test_a_hub_that_is_not_there_is_no_fault_of_theirs(bwrap: ServedSandbox, hub: Hub, tmp_path: Path) -> None:
    """Nobody listens at the configured address: tried again later."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}"
    asks = "import urllib.request\nurllib.request.urlopen(os.environ['HF_ENDPOINT'])"
    with pytest.raises(InfraError, match="the model hub cannot be reached"):
        fetched(bwrap, hub, tmp_path, asks, hub_url=gone)


URL = (
    "import urllib.request\nurllib.request.urlopen(os.environ['HF_ENDPOINT'] + '/team/model/resolve/main/config.json')"
)


@pytest.mark.parametrize("fails", ["503", "cut", "the client's words"])
def test_a_hub_that_fails_is_no_fault_of_theirs(bwrap: ServedSandbox, hub: Hub, tmp_path: Path, fails: str) -> None:
    """The hub answers, but with an error, or not to the end: only the constructor's exception tells, and it is ours.
    With the same words, who also asked a host that may not be asked is refused for that.
    """
    constructor = f"{URL}.read()"
    if fails == "503":
        hub.busy += [(503, {})] * 4
    elif fails == "cut":
        hub.faults["config.json"] = [hub_server.cut_after(1)] * 4
    else:  # what the hub's client raises for whatever keeps it from the hub
        constructor += (
            "\nfrom huggingface_hub.errors import LocalEntryNotFoundError\nraise LocalEntryNotFoundError('no')"
        )
    with pytest.raises(InfraError, match="the model hub, or another host that was allowed, failed"):
        fetched(bwrap, hub, tmp_path, constructor)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    other = "import urllib.request\ntry:\n    urllib.request.urlopen('http://example.org')\nexcept OSError:\n    pass\n"
    with pytest.raises(ParticipantError, match=r"asked for example\.org:80"):
        fetched(bwrap, hub, tmp_path, other + constructor)


def test_our_failure_before_it_asks_is_not_taken_for_silence(
    bwrap: ServedSandbox, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that dies before the constructor asks for anything: tried again, not refused for what it lacked."""

    def dies(*_: object) -> None:
        raise InfraError("the engine died")

    monkeypatch.setattr(weights, "_construct", dies)
    with pytest.raises(InfraError, match="the engine died"):
        fetched(bwrap, hub, tmp_path, ASK)


def test_a_disk_without_the_promised_room_is_ours(bwrap: ServedSandbox, hub: Hub, tmp_path: Path) -> None:
    """A constructor that meets a full disk: ours where less is left than it may fetch; else it filled its own."""
    full = ASK + "\nraise OSError(28, 'No space left on device')"
    with pytest.raises(InfraError, match="make room"):
        fetched(bwrap, hub, tmp_path, full, max_bytes=2**62)
    with pytest.raises(ParticipantError, match="No space left"):
        fetched(bwrap, hub, tmp_path, full, max_bytes=10_000_000)


def test_a_deep_cache_is_refused_and_leaves_nothing(bwrap: ServedSandbox, hub: Hub, tmp_path: Path) -> None:
    """Attacks our own tidying up by folders deeper than Python recurses: the next intake must find nothing of them."""
    deep = "\nos.chdir(CACHE)\nfor _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n"
    with pytest.raises(ParticipantError, match="nothing of that kind is kept"):
        fetched(bwrap, hub, tmp_path, ASK + deep)
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_cache_of_many_claims_is_asked_about_briefly(
    bwrap: ServedSandbox, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attacks the hub, and our time, by made-up commits in the cache, of which each would be asked about outside."""
    claims = """
for repository in range(10):
    for commit in range(20):
        (CACHE / f"huggingface/hub/models--a--{repository}/snapshots/{commit:040x}").mkdir(parents=True)
"""
    asked: list[str] = []

    def dated(_kind: RepoKind, repository: str, _commit: str) -> None:
        asked.append(repository)

    result = fetched(bwrap, hub, tmp_path, URL + claims, dated=dated)
    assert result is not None
    assert len(asked) == len(result.record["repositories"]) == weights.MAX_REPOSITORIES
    shutil.rmtree(tmp_path / "weights")
    asked.clear()
    monkeypatch.setattr(weights, "ASKING_S", 0.0)
    result = fetched(bwrap, hub, tmp_path, URL + claims, dated=dated)
    assert result is not None
    assert (len(result.record["repositories"]), asked) == (weights.MAX_REPOSITORIES, [])


def test_who_asks_for_nothing_gets_nothing(bwrap: ServedSandbox, hub: Hub, tmp_path: Path) -> None:
    """An encoder that fails for another reason is refused by what it did without a network."""
    assert fetched(bwrap, hub, tmp_path, "raise RuntimeError('no')") is None
    assert not (tmp_path / "weights").exists()


def test_what_was_accepted_cannot_be_replaced(tmp_path: Path) -> None:
    """Attacks by losing the folder and fetching anew: other weights than those accepted are thrown away, as ours."""
    earlier = {"weights": {"tree": {"digest": "a" * 64}}}
    (tmp_path / "weights").mkdir()
    require_same(tmp_path, earlier, "weights", {"tree": {"digest": "a" * 64}})
    require_same(tmp_path, None, "weights", {"tree": {"digest": "b" * 64}})
    assert (tmp_path / "weights").is_dir()
    with pytest.raises(InfraError, match="restore"):
        require_same(tmp_path, earlier, "weights", {"tree": {"digest": "b" * 64}})
    assert not (tmp_path / "weights").exists()


def test_a_run_sees_the_frozen_folders_or_nothing(tmp_path: Path) -> None:
    """A check of an early ranker has none; what a check names must be there."""
    assert frozen_folders(tmp_path, {}).weights is None
    found = {"environment": {"installed": [], "tree": {"digest": "x"}}, "weights": None}
    assert frozen_folders(tmp_path, found).packages is None
    with pytest.raises(InfraError, match="gone"):
        frozen_folders(tmp_path, {"environment": None, "weights": {"tree": {"digest": "x"}}})


OURS = ("localhost", "127.0.0.1", "10.1.2.3:443", "169.254.169.254", "192.168.0.1", "*", "a b", "")


def test_a_host_of_ours_cannot_be_allowed(run: Run, tmp_path: Path) -> None:
    """Attacks by persuading the organizer: this machine and private addresses are refused at the command already."""
    archive = pack(tmp_path / "t.zip", {"README": "no encoder"})
    run("ingest", str(archive), "--sandbox", "none", "--json", code=ParticipantError.exit_code)
    for host in OURS:
        assert run("allow-host", "t", host, code=UsageError.exit_code) == ""
    assert len(run("allow-host", "t", "example.org", "--json")) == 1

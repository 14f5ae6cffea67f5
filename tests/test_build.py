"""The build phase, with a real pip in real sandboxes and a package index on the loopback."""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import index_server
import pytest
from index_server import Index

from ranker.errors import InfraError, ParticipantError
from ranker.intake.build import Built, build, judge
from ranker.intake.index import PackageIndex, index_of
from ranker.sandbox.backends import backend
from ranker.sandbox.faults import Ending
from ranker.sandbox.network import Network
from ranker.sandbox.proxy import Journal
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import BuildPhase, Limits, Service
from ranker.types import SandboxName, Traffic

LIMITS = Limits(memory_gb=1.0, cpus=1.0, pids=48, scratch_mb=16, log_kb=64)


@pytest.fixture
def index() -> Iterator[Index]:
    with index_server.serve() as found:
        yield found


@pytest.fixture
def bwrap(bubblewrap: ServedSandbox) -> ServedSandbox:
    return bubblewrap


@pytest.fixture(params=[SandboxName.BUBBLEWRAP, SandboxName.DOCKER])
def sandbox(request: pytest.FixtureRequest) -> ServedSandbox:
    """Each backend that confines."""
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    return backend(request.param, image="ranker-encoder:none-such")


def service(index: Index, **changes: Any) -> Service:
    phase = {"index_url": index.url, "index_hosts": (), "timeout_s": 60.0, **changes}
    return Service(build=BuildPhase(**phase), limits=LIMITS)


def built(sandbox: ServedSandbox, index: Index, folder: Path, text: str, **changes: Any) -> Built:
    root = folder / "tree"
    root.mkdir(exist_ok=True)
    (root / "requirements.txt").write_text(text)
    found = build(sandbox, service(index, **changes), root, folder)
    assert found is not None
    return found


def refused(sandbox: ServedSandbox, index: Index, folder: Path, text: str, **changes: Any) -> str:
    with pytest.raises(ParticipantError) as refusal:
        built(sandbox, index, folder, text, **changes)
    assert not (folder / "environment").exists()
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    (reason,) = refusal.value.reasons
    return reason


def test_what_the_base_lacks_is_installed_and_recorded(sandbox: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """A package and what it needs; not numpy, which the base has. Name, version, digest and who was asked are kept."""
    digest = index.put("Tiny_Pkg", "2.0", {"tiny_pkg.py": "import tinydep\n"}, ("tinydep>=1", "numpy"))
    index.put("tinydep", "1.5", {"tinydep.py": "VALUE = 5\n"})
    found = built(sandbox, index, tmp_path, "tiny-pkg==2.0\n")
    assert found.packages is not None
    assert (found.packages / "tinydep.py").read_text() == "VALUE = 5\n"
    assert not (found.packages / "numpy").exists()
    names = [(each["name"], each["version"]) for each in found.record["installed"]]
    assert names == [("tiny-pkg", "2.0"), ("tinydep", "1.5")]
    assert found.record["installed"][0]["sha256"] == digest
    (line,) = found.record["network"]["lines"]
    assert (line["destination"] in index.url, line["outcome"]) == (True, Traffic.CARRIED)
    asked = len(index.requests)
    assert built(sandbox, index, tmp_path, "tiny-pkg==2.0\n") == found
    assert len(index.requests) == asked, "what is frozen is not installed again"


def test_what_the_base_has_is_not_installed(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """A list of what everybody has costs nothing, and asks nobody."""
    found = built(bwrap, index, tmp_path, "numpy>=1\ntorch>=2\n")
    assert (found.packages, found.record["installed"], index.requests) == (None, [], [])


def test_a_mirrors_password_is_not_recorded(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """The record goes into manifests, and to whoever asks for them."""
    index.put("tinydep", "1.5", {"tinydep.py": ""})
    url = index.url.replace("://", "://team:secret-7@")
    found = built(bwrap, index, tmp_path, "tinydep\n", index_url=url)
    assert found.record["index"] == index.url
    assert [each["name"] for each in found.record["installed"]] == ["tinydep"]
    texts = [path.read_bytes() for path in (tmp_path / "environment").rglob("*") if path.is_file()]
    assert texts
    assert not any(b"secret-7" in text for text in texts)


def test_an_index_without_hashes_is_taken_at_its_bytes(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Some mirrors tell no hashes: then those of the files that came are recorded."""
    index.with_hashes = False
    digest = index.put("tinydep", "1.5", {"tinydep.py": ""})
    assert built(bwrap, index, tmp_path, "tinydep\n").record["installed"][0]["sha256"] == digest


def test_another_file_the_second_time_is_not_installed(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks between the plan and the installation: the index gives other bytes under the same name."""
    index.put("tinydep", "1.5", {"tinydep.py": "first"})
    honest, pages = index.page, []

    def page(project: str) -> str:
        if pages:
            index.put("tinydep", "1.5", {"tinydep.py": "second"})
        pages.append(project)
        return honest(project)

    index.page = page  # type: ignore[method-assign]
    assert "do not match the hashes" in refused(bwrap, index, tmp_path, "tinydep==1.5\n").lower()
    assert pages == ["tinydep", "tinydep"]


def test_a_wheel_that_climbs_writes_nothing(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks the folder above: a file named `../`, and one of a wheel's data folder that climbs."""
    for name in ("../climbed.py", "climber-1.0.data/data/../../../../climbed.py"):
        index.put("climber", "1.0", {"climber.py": "", name: "x"})
        assert "climber" in refused(bwrap, index, tmp_path, "climber\n")
        assert list(tmp_path.rglob("*climbed*")) == []


def test_files_that_python_runs_at_its_start_are_not_run(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks by .pth, sitecustomize and modules called like the standard library's: the second run of pip, which sees
    the folder of the first, is not touched, and they stay plain files (tests/test_phases.py starts the server).
    """
    harm = "import os; os._exit(3)\n"
    files = {"evil.pth": harm, "sitecustomize.py": harm, "json.py": harm, "harm.py": ""}
    index.put("harm", "1.0", files)
    found = built(bwrap, index, tmp_path, "harm\n")
    assert found.packages is not None
    assert {path.name for path in found.packages.iterdir()} >= set(files)


def test_a_package_that_nobody_has(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """The team's mistake, in pip's words, with the versions that there are."""
    index.put("tinydep", "1.5", {"tinydep.py": ""})
    reason = refused(bwrap, index, tmp_path, "tinydep==9\n")
    assert "Could not find a version that satisfies the requirement tinydep==9 (from versions: 1.5)" in reason


def test_versions_that_contradict_each_other(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """The team's mistake, too."""
    index.put("one", "1.0", {"one.py": ""}, ("tinydep==1",))
    index.put("tinydep", "2.0", {"tinydep.py": ""})
    assert "cannot be installed; pip says: " in refused(bwrap, index, tmp_path, "one\ntinydep==2.0\n")


def test_only_the_index_is_asked(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks through links: a service of this machine's loopback and a host elsewhere get no request."""
    with index_server.serve() as other:
        index.put("tinydep", "1.5", {"tinydep.py": ""})
        for place in (other.url, "http://files.example.org"):
            index.elsewhere = {"tinydep-1.5-py3-none-any.whl": f"{place}/tinydep-1.5-py3-none-any.whl"}
            reason = refused(bwrap, index, tmp_path, "tinydep\n")
            assert "which is not the index" in reason
        assert other.requests == []


@pytest.mark.parametrize("changes", [{"max_download_bytes": 3_000_000}, {"max_bytes": 3_000_000}])
def test_an_endless_download_ends(bwrap: ServedSandbox, index: Index, tmp_path: Path, changes: dict[str, int]) -> None:
    """Attacks the disk and our patience: ended by the bound on what is carried, or on what is written."""
    index.put("tinydep", "1.5", {"tinydep.py": ""})
    index.endless = {"tinydep-1.5-py3-none-any.whl"}
    reason = refused(bwrap, index, tmp_path, "tinydep\n", **changes)
    assert "more than the 3,000,000 bytes" in reason


def test_a_bomb_of_a_wheel_is_stopped(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks the disk with a small file that unpacks to 60 MB."""
    index.put("bomb", "1.0", {"bomb.py": "#" * 60_000_000})
    assert len(index.files["bomb-1.0-py3-none-any.whl"]) < 1_000_000
    assert "it wrote more than the 2,000,000 bytes" in refused(bwrap, index, tmp_path, "bomb\n", max_bytes=2_000_000)


def test_an_index_that_hangs_ends(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks our patience: a phase has a limit, whoever does not answer."""
    release = threading.Event()
    index.page = lambda project: str(release.wait(60))  # type: ignore[method-assign]
    assert "within 2 s" in refused(bwrap, index, tmp_path, "tinydep\n", timeout_s=2.0)
    release.set()


@pytest.mark.parametrize("status", [503, 500, 429])
def test_an_index_that_fails_is_no_fault_of_theirs(
    bwrap: ServedSandbox, index: Index, tmp_path: Path, status: int
) -> None:
    """Our trouble is tried again later, and never told to a team as theirs."""
    index.status = status
    with pytest.raises(InfraError, match=r"pip failed|cannot be reached"):
        built(bwrap, index, tmp_path, "tinydep\n")


def test_an_index_that_is_not_there_is_no_fault_of_theirs(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Nobody listens at the configured address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        gone = f"http://127.0.0.1:{taken.getsockname()[1]}/simple"
    with pytest.raises(InfraError, match="the package index cannot be reached"):
        built(bwrap, index, tmp_path, "tinydep\n", index_url=gone)


def test_frozen_packages_that_were_changed_stop_the_check(bwrap: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks by somebody with access to the disk: other files are never used."""
    index.put("tinydep", "1.5", {"tinydep.py": "VALUE = 5\n"})
    found = built(bwrap, index, tmp_path, "tinydep\n")
    assert found.packages is not None
    (found.packages / "tinydep.py").write_text("VALUE = 6\n")
    with pytest.raises(InfraError, match="backup"):
        built(bwrap, index, tmp_path, "tinydep\n")


# -- sources, whose code runs where configuration allows them

BACKEND = '''
import json, os, pathlib, socket, zipfile

KNOWN = json.loads({known!r})


def works(action):
    try:
        return bool(action())
    except BaseException:
        return False


def connects(address, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind) as one:
        one.settimeout(2)
        one.connect(address)
        one.send(b"x")
    return True


def asks(target):
    """Through the door of our own, as a careful attacker would."""
    host, _, port = os.environ["HTTP_PROXY"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as one:
        one.sendall(f"CONNECT {{target}} HTTP/1.1\\r\\n\\r\\n".encode())
        return b" 200 " in one.recv(100)


FOUND = {{
    "the index": asks(KNOWN["index"]),
    "another port": asks(KNOWN["other"]),
    "another name": asks("localhost:" + KNOWN["index"].partition(":")[2]),
    "elsewhere": asks("example.org:443"),
    "metadata": asks("169.254.169.254:80"),
    "loopback": works(lambda: connects(("127.0.0.1", int(KNOWN["other"].partition(":")[2])))),
    "raw address": works(lambda: connects(("1.1.1.1", 443))),
    "datagrams": works(lambda: connects(("1.1.1.1", 53), kind=socket.SOCK_DGRAM)),
    "names": works(lambda: socket.getaddrinfo("example.org", 80)),
    "raw socket": works(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW)),
    "netlink": works(lambda: socket.socket(16, socket.SOCK_RAW)),
    "vsock": works(lambda: socket.socket(40)),
    "abstract": works(lambda: connects("\\0" + KNOWN["abstract"], socket.AF_UNIX)),
    "outside": works(lambda: pathlib.Path(KNOWN["secret"]).read_text()),
    "root": os.getuid() == 0,
}}


def build_wheel(folder, *_):
    name = "prober-1.0-py3-none-any.whl"
    info = "prober-1.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as archive:
        archive.writestr("found.json", json.dumps(FOUND))
        archive.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: prober\\nVersion: 1.0\\n")
        archive.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{{info}}/RECORD", "")
    return name
'''


def source(known: dict[str, str]) -> bytes:
    """A package of sources that needs nothing to be built, and whose building code looks around."""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "prober"\nversion = "1.0"\n',
        "PKG-INFO": "Metadata-Version: 2.1\nName: prober\nVersion: 1.0\n",
        "backend.py": BACKEND.format(known=json.dumps(known)),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"prober-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def test_code_of_a_package_reaches_the_index_alone(sandbox: ServedSandbox, index: Index, tmp_path: Path) -> None:
    """Attacks from code that runs while it is built, where sources are allowed: other hosts, ports, addresses, kinds of
    sockets, this machine's services and files. Without that leave, the same package is refused, and nothing runs.
    """
    (tmp_path / "secret").write_text("labels")
    with index_server.serve() as other, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0ranker-test-{other.url}")
        abstract.listen()
        known = {
            "index": index.url.split("/")[2],
            "other": other.url.split("/")[2],
            "abstract": f"ranker-test-{other.url}",
            "secret": str(tmp_path / "secret"),
        }
        index.files["prober-1.0.tar.gz"] = source(known)
        (tmp_path / "one").mkdir()
        assert "from versions: none" in refused(sandbox, index, tmp_path / "one", "prober\n")
        (tmp_path / "two").mkdir()
        result = built(sandbox, index, tmp_path / "two", "prober\n", allow_source=True)
        assert other.requests == []
    assert result.packages is not None
    found = json.loads((result.packages / "found.json").read_text())
    assert len(found) == 15
    assert [what for what, got in found.items() if got] == ["the index"]
    refusals = {line["destination"] for line in result.record["network"]["lines"] if line["outcome"] == Traffic.REFUSED}
    assert {known["other"], "example.org:443", "169.254.169.254:80"} <= refusals


# -- whose fault, on what pip printed

PRINTED = {
    "ERROR: Could not find a version that satisfies the requirement x==9 (from versions: 1.0)\nERROR: No matching "
    "distribution found for x==9": ParticipantError,
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device": InfraError,
    "ERROR: Exception:\nTraceback (most recent call last):\n  ...": InfraError,
    "ERROR: HTTP error 503 while getting http://index/x.whl": InfraError,
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'ReadTimeoutError()'\nERROR: No matching "
    "distribution found for x": InfraError,
    "bwrap: Can't mount proc on /newroot/proc: Operation not permitted": InfraError,
    "": InfraError,
}


@pytest.mark.parametrize("printed", PRINTED)
def test_whose_fault_it_was(tmp_path: Path, printed: str) -> None:
    """A sentence of pip's own about the packages is theirs; whatever else ended it is ours."""
    way = Network(proxy=tmp_path, journal=Journal(), room=tmp_path, max_bytes=1)
    with pytest.raises(PRINTED[printed]):
        judge(Ending(exit_code=1, log=printed), way, Service())
    judge(Ending(exit_code=0, log=printed), way, Service())


def test_memory_is_theirs_and_a_kill_is_ours(tmp_path: Path) -> None:
    """The limit that they reached, and a signal that nobody explains."""
    way = Network(proxy=tmp_path, journal=Journal(), room=tmp_path, max_bytes=1)
    with pytest.raises(ParticipantError, match="memory"):
        judge(Ending(exit_code=137, out_of_memory=True), way, Service())
    with pytest.raises(InfraError, match="SIGKILL"):
        judge(Ending(exit_code=137, log="Collecting x"), way, Service())


@pytest.mark.parametrize(
    ("environment", "file", "expected"),
    [
        (
            {"PIP_INDEX_URL": "http://first.example/simple"},
            "",
            PackageIndex(url="http://first.example/simple", hosts=()),
        ),
        (
            {},
            "[global]\nindex-url = http://second.example/simple\n",
            PackageIndex(url="http://second.example/simple", hosts=()),
        ),
    ],
    ids=["environment", "file"],
)
def test_the_index_is_pips_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], file: str, expected: PackageIndex
) -> None:
    """Attacks a mirror that was set for pip, once in its environment and once in its file, and would be passed by."""
    (tmp_path / "pip.conf").write_text(file)
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert index_of(BuildPhase()) == expected


def test_without_any_setting_it_is_pips_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks a machine where nobody set anything: pip knows its index, and the host that its files lie on."""
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    found = index_of(BuildPhase())
    assert found.url.startswith("https://")
    assert len(found.hosts) == 1

"""The submissions of tests/attacks that take more than their share: processes, memory, disk, log, time. Each is run
under its limit and, as a control, with that one limit raised: never beyond what this machine can bear.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from attack_table import Layer
from attack_world import (
    BRIEF,
    LIMITS,
    NO_IMAGE,
    World,
    assert_next_one_runs,
    clip,
    findings,
    load,
    processes_with,
    seeded,
    spec,
)
from effort import todays
from lifting import lifted

from ranker.errors import InfraError, ParticipantError
from ranker.sandbox import bubblewrap as room
from ranker.sandbox.backends import backend
from ranker.sandbox.client import EncoderClient
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Limits
from ranker.types import SandboxName

# What some limit is raised to in a control, and that this suffices.
ROOMY = LIMITS.model_copy(update={"pids": 400, "memory_gb": 4.0, "scratch_mb": 240, "log_kb": 16 * 1024})
SMALL = LIMITS.model_copy(update={"memory_gb": 1.0})
EARLY = LIMITS.model_copy(update={"load_timeout_s": 1.0})


@pytest.fixture(scope="module", params=[SandboxName.BUBBLEWRAP, SandboxName.DOCKER])
def sandbox(request: pytest.FixtureRequest) -> ServedSandbox:
    """Each backend that confines."""
    request.getfixturevalue("docker_engine" if request.param is SandboxName.DOCKER else "bubblewrap")
    return backend(request.param, image=NO_IMAGE)


@pytest.fixture(scope="module")
def client(sandbox: ServedSandbox, world: World) -> Iterator[EncoderClient]:
    """One server for all attacks that it must survive."""
    with sandbox.connect(spec(world, "honest"), LIMITS) as connected:
        yield connected


# -- what a server survives


@pytest.mark.parametrize(("attack", "most"), [("makes_children", LIMITS.pids), ("starts_threads", LIMITS.pids)])
def test_processes_and_threads_are_counted_together(client: EncoderClient, attack: str, most: int) -> None:
    """It asks for a hundred and gets fewer than `pids`; when they are gone the server goes on."""
    (got,) = findings(client, attack)
    assert 0 < got < most
    assert_next_one_runs(client)


def test_open_files_are_limited(client: EncoderClient) -> None:
    """It asks for 400 and gets fewer than 256."""
    (got,) = findings(client, "opens_files")
    assert 200 < got < 256
    assert_next_one_runs(client)


def test_only_the_scratch_folder_can_be_filled_and_only_so_far(client: EncoderClient) -> None:
    """/tmp takes its 16 MiB; no other place takes a byte. The next one has room again once the file is gone."""
    assert load(client, "fills") == []
    tmp, *others = client.encode([clip()])[0][0]
    assert 0 < tmp <= LIMITS.scratch_mb
    assert others == [0.0] * len(others)
    assert_next_one_runs(client)


def test_a_disk_that_it_filled_itself_is_no_fault_of_ours(client: EncoderClient) -> None:
    """Its own scratch space is full: the error that it raises for that is told as its own, with the kernel's words."""
    assert load(client, "scratch_is_full") == []
    (violation,) = client.call([clip()]).violations
    assert "the encoder raised an exception" in violation
    assert "No space left on device" in violation
    assert_next_one_runs(client)


# -- what ends with its server, beside another that goes on


def short(value: object) -> str | None:
    """A name for a case that a person would type."""
    return value if isinstance(value, str) and " " not in value else ""


ENDINGS = [
    ("hangs", BRIEF, "no answer within 1 s while it encoded a clip of 1.00 s; the limit for one call is 1 s"),
    ("hangs_at_import", EARLY, "no answer within 1 s while it was imported and constructed; the limit for loading"),
    ("fills_memory", SMALL, r"more than the 1 GB of memory that it may have, while it encoded a clip of 1.00 s"),
    ("forks", BRIEF, "no answer within 1 s while it encoded a clip of 1.00 s"),
    ("exits", LIMITS, "ended its own process with exit code 0 while it encoded a clip of 1.00 s"),
]


@pytest.mark.parametrize(
    ("attack", "limits", "words"), todays("attacks that end with their server", ENDINGS), ids=short
)
def test_the_limit_is_told_as_theirs(
    sandbox: ServedSandbox, client: EncoderClient, world: World, attack: str, limits: Limits, words: str
) -> None:
    """Time, memory, processes that stay, an early end: the sentence names the limit and what was being done; nothing
    of it is left, and an honest encoder that runs beside it all the while is not disturbed.
    """
    seed = os.getpid()
    started = sandbox.start(seeded(world, attack, seed), limits)
    with pytest.raises(ParticipantError, match=words), started as encoder:
        encoder.encode([clip()])
    assert processes_with(f"--seed\0{seed}\0") == []
    assert_next_one_runs(client)


FILL_LIFTS = [(Layer.READ_ONLY, Layer.USER), (Layer.USER,), (Layer.READ_ONLY,)]
WATCHER_LIFTS = [(Layer.NOT_DUMPABLE,), (Layer.PROCESSES,), ()]
PAIR = (Layer.PROCESSES, Layer.GROUP_KILL)
DAEMON_LIFTS = [(), (Layer.PROCESSES,), (Layer.GROUP_KILL,), PAIR, None]


@pytest.mark.parametrize("layers", todays("daemons, with layers lifted", DAEMON_LIFTS), ids=str)
def test_daemons_end_with_the_sandbox(
    request: pytest.FixtureRequest, world: World, layers: tuple[Layer, ...] | None
) -> None:
    """A grandchild in a session of its own, deaf to signals, ends by either layer; without both it stays. In a
    container (None) it ends with that.
    """
    request.getfixturevalue("docker_engine" if layers is None else "bubblewrap")
    seed = os.getpid() + 2**22
    with contextlib.ExitStack() as stack:
        if layers is None:
            sandbox: ServedSandbox = backend(SandboxName.DOCKER, image=NO_IMAGE)
        else:
            sandbox = stack.enter_context(lifted(layers, world))
        encoder = stack.enter_context(sandbox.start(seeded(world, "leaves_daemons", seed), LIMITS))
        encoder.encode([clip()])
        assert len(processes_with(f"--seed\0{seed}\0")) >= 3
    left = processes_with(f"--seed\0{seed}\0")
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert len(left) == (layers == PAIR)


LOGS = [(SandboxName.BUBBLEWRAP, LIMITS), (SandboxName.DOCKER, LIMITS), (SandboxName.BUBBLEWRAP, ROOMY)]


@pytest.mark.parametrize(("name", "limits"), todays("logs that are filled", LOGS))
def test_what_is_printed_is_kept_in_part_only(
    request: pytest.FixtureRequest, world: World, name: SandboxName, limits: Limits
) -> None:
    """Four megabytes printed leave `log_kb` at most; the control raises that, and they are all there."""
    request.getfixturevalue("docker_engine" if name is SandboxName.DOCKER else "bubblewrap")
    with backend(name, image=NO_IMAGE).connect(spec(world, "fills_log"), limits) as client:
        assert load(client, "fills_log") == []
        client.encode([clip()])
        log = client._process.end(kill=True).log
    assert set(log) <= {"A", "\n"}
    assert len(log) <= limits.log_kb * 1024
    assert (len(log) > 4_000_000) == (limits is ROOMY)


# -- controls: one limit raised


@pytest.fixture(scope="module")
def roomy(bubblewrap: ServedSandbox, world: World) -> Iterator[EncoderClient]:
    """A server whose limits are raised, for the controls of attacks that take what there is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "OPEN_FILES", 1000)
        with bubblewrap.connect(spec(world, "honest"), ROOMY) as connected:
            yield connected


@pytest.mark.parametrize(
    ("attack", "amount"),
    [("makes_children", 100), ("starts_threads", 100), ("opens_files", 400), ("fills_memory", 1200)],
)
def test_with_a_raised_limit_the_attack_gets_all_that_it_asks_for(
    roomy: EncoderClient, attack: str, amount: int
) -> None:
    """The control: nothing else would have stopped it. Limits are raised and not lifted: it asks for so much only."""
    assert findings(roomy, attack) == [amount]


def test_with_more_scratch_space_there_is_more_to_fill(roomy: EncoderClient) -> None:
    """The control: it is the size of /tmp that ends it."""
    assert load(roomy, "fills") == []
    assert roomy.encode([clip()])[0][0][0] == 200


@pytest.mark.parametrize("attack", ["hangs", "hangs_at_import"])
def test_with_more_time_it_is_waited_for(roomy: EncoderClient, attack: str) -> None:
    """The control: 2.5 s are no hindrance where the limit is a minute."""
    assert load(roomy, attack) == []
    assert len(roomy.encode([clip()])[0]) == 50


@pytest.mark.parametrize("layers", todays("places to fill", FILL_LIFTS), ids=str)
def test_without_read_only_mounts_other_places_are_filled(
    request: pytest.FixtureRequest, world: World, layers: tuple[Layer, ...]
) -> None:
    """The control: /dev and /dev/shm take bytes from root where they are not mounted read-only; either is enough."""
    request.getfixturevalue("bubblewrap")
    with lifted(layers, world) as sandbox, sandbox.start(spec(world, "fills"), ROOMY) as encoder:
        _, shm, dev, *_ = encoder.encode([clip()])[0][0]
    assert (shm > 0, dev > 0) == (len(layers) == 2,) * 2


@pytest.mark.parametrize("layers", todays("killing the watcher", WATCHER_LIFTS), ids=str)
def test_the_watching_process_cannot_be_killed(
    request: pytest.FixtureRequest, world: World, layers: tuple[Layer, ...]
) -> None:
    """As process 1 of its namespace it gets no signal from inside. The control, without the namespace: it dies, and
    that looks like a failure of ours.
    """
    request.getfixturevalue("bubblewrap")
    died = pytest.raises(InfraError, match="was killed while it encoded")
    refused = died if Layer.PROCESSES in layers else contextlib.nullcontext()
    with lifted(layers, world) as sandbox, sandbox.start(spec(world, "kills_supervisor"), LIMITS) as encoder, refused:
        assert len(encoder.encode([clip()])[0]) == 50

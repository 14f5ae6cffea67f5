"""Lifts defences of a real sandbox, one by one, for the control runs of attacks. Whatever is lifted must have been
there: a flag that is not found fails the control.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from attack_table import Layer
from attack_world import LABEL, NO_IMAGE, SECRET, World
from docker.types import Mount

from ranker.sandbox import bubblewrap, client, docker, environment, serving
from ranker.sandbox.backends import backend
from ranker.sandbox.cgroup import ROOT
from ranker.sandbox.environment import SUBMISSION, UID
from ranker.sandbox.serving import ServedSandbox
from ranker.types import SandboxName

Command = list[str]


def without(command: Command, *words: str) -> Command:
    """The command without this run of words, which must be in it."""
    count = len(words)
    for start in range(len(command) - count + 1):
        if command[start : start + count] == list(words):
            return command[:start] + command[start + count :]
    raise AssertionError(f"{words} are not in {command}")


def before(command: Command, word: str, *new: str) -> Command:
    """The command with new words in front of a word."""
    place = command.index(word)
    return [*command[:place], *new, *command[place:]]


def shown(command: Command, folder: Path) -> Command:
    """The command with a folder of the host shown inside, to be written to."""
    above = [word for path in reversed(folder.parents) if path != Path("/") for word in ("--dir", str(path))]
    above = [part for word in above for part in (("--perms", "0755", word) if word == "--dir" else (word,))]
    return before(command, "--remount-ro", *above, "--bind", str(folder), str(folder))


def _without_pid_namespace(command: Command) -> Command:
    return without(without(command, "--unshare-pid"), "--as-pid-1")


def _bound_writable(command: Command, inside: str) -> Command:
    """The command with the folder that is seen at `inside` bound for writing."""
    for start, word in enumerate(command):
        if word == "--ro-bind" and command[start + 2] == inside:
            return [*command[:start], "--bind", *command[start + 1 :]]
    raise AssertionError(f"{inside} is not bound in {command}")


def _writable(command: Command, world: World) -> Command:
    for place in ("/proc", "/dev", "/"):
        command = without(command, "--remount-ro", place)
    return _bound_writable(_bound_writable(command, SUBMISSION), str(world.shelf))


def _with_control_groups(command: Command) -> Command:
    return before(command, "--remount-ro", "--bind", str(ROOT), str(ROOT))


def _without_filter(command: Command) -> Command:
    place = command.index("--seccomp")
    return command[:place] + command[place + 2 :]


def _without_rlimits(command: Command) -> Command:
    assert "--rlimit" in command
    while "--rlimit" in command:
        place = command.index("--rlimit")
        command = command[:place] + command[place + 2 :]
    return command


def _with_rights(command: Command) -> Command:
    command = without(without(command, "--uid", str(UID)), "--cap-drop", "ALL")
    return without(without(command, "--cap-add", "CAP_SETUID"), "--cap-add", "CAP_SETGID")


def _shared_scratch(command: Command, world: World) -> Command:
    for start, word in enumerate(command):
        if word == "--tmpfs" and command[start + 1] == "/tmp":
            assert command[start - 2] == "--size"
            return [*command[: start - 4], "--bind", str(world.scratch), *command[start + 1 :]]
    raise AssertionError(f"there is no scratch space in {command}")


def edit(command: Command, layer: Layer, world: World) -> Command:
    """The command line of bubblewrap without a layer that stands in it."""
    edits: dict[Layer, Callable[[], Command]] = {
        Layer.NETWORK: lambda: without(command, "--unshare-net"),
        Layer.SECCOMP: lambda: _without_filter(command),
        Layer.VIEW: lambda: shown(command, world.home),
        Layer.PROCESSES: lambda: _without_pid_namespace(command),
        Layer.ENVIRONMENT: lambda: without(command, "--clearenv"),
        Layer.USER: lambda: without(command, "--uid", str(UID)),
        Layer.RIGHTS: lambda: _with_rights(command),
        Layer.READ_ONLY: lambda: _writable(command, world),
        Layer.SCRATCH: lambda: _shared_scratch(command, world),
        Layer.IPC: lambda: without(command, "--unshare-ipc"),
        Layer.RLIMITS: lambda: _without_rlimits(command),
        Layer.NO_CONTROL_FILES: lambda: _with_control_groups(command),
    }
    return edits[layer]() if layer in edits else command


@contextlib.contextmanager
def lifted(
    layers: Sequence[Layer], world: World, name: SandboxName = SandboxName.BUBBLEWRAP
) -> Iterator[ServedSandbox]:
    """A backend without these layers."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        show_library(patch, world)
        if name is SandboxName.DOCKER:
            patch.setattr(
                docker, "_options", _changed(docker._options, lambda found: edit_options(found, layers, world))
            )
        else:
            patch.setattr(
                bubblewrap, "_command", _changed(bubblewrap._command, lambda words: _all(words, layers, world))
            )
        for layer in layers:
            _patch_parts(patch, stack, layer, world)
        yield backend(name, image=NO_IMAGE)


def _changed(whole: Callable[..., Any], change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda *given, **named: change(whole(*given, **named))


def _all(command: Command, layers: Sequence[Layer], world: World) -> Command:
    for layer in layers:
        command = edit(command, layer, world)
    return command


Options = dict[str, Any]
RIGHTS_OF_ROOT = ["SYS_ADMIN", "SYS_CHROOT", "SYS_NICE", "SYS_TIME", "MKNOD"]


def edit_options(options: Options, layers: Sequence[Layer], world: World) -> Options:
    """Docker's options without these layers. Not those that need the engine's own network and processes to be ours: a
    private engine has others.
    """
    for layer in layers:
        if layer is Layer.SECCOMP:
            options["security_opt"] = [*_without_seccomp(options), "seccomp=unconfined"]
        elif layer is Layer.NO_NEW_PRIVILEGES:
            # Without it the engine drops rights after the filter is there, which allows no capset: so that goes too.
            assert "no-new-privileges" in options["security_opt"]
            options["security_opt"] = ["seccomp=unconfined"]
        elif layer is Layer.VIEW:
            options["mounts"].append(Mount(target=str(world.home), source=str(world.home), type="bind"))
        elif layer is Layer.READ_ONLY:
            assert options["read_only"]
            options["read_only"] = False
            _bound_for_writing(options, {SUBMISSION, str(world.shelf)})
        elif layer in {Layer.USER, Layer.RIGHTS}:
            assert options["user"] == f"{UID}:{UID}"
            assert options["cap_drop"] == ["ALL"]
            options["user"], options["cap_add"] = (
                "0:0",
                RIGHTS_OF_ROOT if layer is Layer.RIGHTS else ["SETUID", "SETGID"],
            )
        elif layer is Layer.ENVIRONMENT:
            assert SECRET not in options["environment"]
            options["environment"] |= {SECRET: "1"}
        elif layer is Layer.SCRATCH:
            options["tmpfs"].pop("/tmp")
            options["mounts"].append(Mount(target="/tmp", source=str(world.scratch), type="bind"))
        elif layer is Layer.IPC:
            assert options["ipc_mode"] == "none"
            options["ipc_mode"] = "host"
        elif layer is Layer.RLIMITS:
            assert options.pop("ulimits")
    return options


def _without_seccomp(options: Options) -> list[str]:
    found = [word for word in options["security_opt"] if not word.startswith("seccomp=")]
    assert len(found) == len(options["security_opt"]) - 1
    return found


def _bound_for_writing(options: Options, targets: set[str]) -> None:
    found = [mount for mount in options["mounts"] if mount["Target"] in targets]
    assert len(found) == len(targets)
    assert all(mount["ReadOnly"] for mount in found)
    for mount in found:
        mount["ReadOnly"] = False


def show_library(patch: pytest.MonkeyPatch, world: World) -> None:
    """A folder that stands for the Python environment, which an attack may try to write to."""
    whole = environment.python_folders
    for module in (bubblewrap, docker):
        patch.setattr(module, "python_folders", lambda: [*whole(), world.shelf])


def _patch_parts(patch: pytest.MonkeyPatch, stack: contextlib.ExitStack, layer: Layer, world: World) -> None:
    """What does not stand in the command line."""
    if layer is Layer.ENVIRONMENT:
        running = bubblewrap.running
        patch.setattr(bubblewrap, "running", lambda *a, **b: running(*a, **{**b, "environment": dict(os.environ)}))
    elif layer is Layer.NOT_DUMPABLE:
        changed_server(patch, world, "libc.prctl(PR_SET_DUMPABLE, 0)", "libc.prctl(PR_SET_DUMPABLE, 1)")
    elif layer is Layer.NOTHING_SENT:
        send = client.wire.send
        patch.setattr(client.wire, "send", lambda c, header, *a, **b: send(c, {**header, "label": LABEL}, *a, **b))
    elif layer is Layer.ONE_CONNECTION:
        accept = serving.accept

        def accepted(listener: socket.socket, *given: Any) -> socket.socket:
            stack.enter_context(listener.dup())
            return accept(listener, *given)

        patch.setattr(serving, "accept", accepted)
    elif layer is Layer.GROUP_KILL:
        patch.setattr(bubblewrap, "cgroup", lambda *_: contextlib.nullcontext())
    elif layer is Layer.SEARCH_PATH:
        changed_server(patch, world, "import numpy as np\n", "sys.path.insert(0, self.root); import numpy as np\n")
    elif layer is Layer.CLOSED_FILES:
        _leak_files(patch, stack, world)


def changed_server(patch: pytest.MonkeyPatch, world: World, old: str, new: str) -> None:
    """The encoder server with other words in it."""
    text = environment.server_file().read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    copy = world.folder / "changed_server.py"
    copy.write_text(text.replace(old, new), encoding="utf-8")
    patch.setattr(environment, "server_file", lambda: copy)


def _leak_files(patch: pytest.MonkeyPatch, stack: contextlib.ExitStack, world: World) -> None:
    """The labels and the folder that they lie in, open in the process that starts the server."""
    labels, folder = os.open(world.home / "ranker-labels.csv", os.O_RDONLY), os.open(world.home, os.O_RDONLY)
    stack.callback(os.close, labels)
    stack.callback(os.close, folder)
    running = bubblewrap.running

    def leaking(*given: Any, **named: Any) -> Any:
        return running(*given, **{**named, "pass_fds": (*named["pass_fds"], labels, folder)})

    patch.setattr(bubblewrap, "running", leaking)

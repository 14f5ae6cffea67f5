"""Which sandbox to use."""

from __future__ import annotations

import sys
from pathlib import Path

from ranker.errors import InfraError, MissingError
from ranker.sandbox.bubblewrap import Bubblewrap
from ranker.sandbox.none import NoSandbox
from ranker.sandbox.serving import ServedSandbox
from ranker.settings import Service
from ranker.types import SandboxName


def backend(
    name: SandboxName, *, image: str, home: Path | None = None, runtime: str | None = None, remap: bool = False
) -> ServedSandbox:
    """The named backend, tried or not; AUTO is no backend. `runtime` and `remap` are Docker's, see `DockerSandbox`."""
    if name is SandboxName.DOCKER:
        from ranker.sandbox.docker import DockerSandbox

        return DockerSandbox(image=image, hidden=home, runtime=runtime, remap=remap)
    if name is SandboxName.BUBBLEWRAP:
        return Bubblewrap(hidden=home)
    if name is SandboxName.NONE:
        return NoSandbox(hidden=home)
    raise ValueError(f"{name} is no backend")


def open_sandbox(
    name: SandboxName, *, image: str, home: Path | None = None, runtime: str | None = None, remap: bool = False
) -> ServedSandbox:
    """A backend that works here; nothing is started yet. `home` is the organizer's folder, which no encoder may see.

    AUTO tries docker, then bubblewrap; never none. What dead processes of ours left behind is removed.
    Raises MissingError saying what to install; InfraError if one did not answer in time, as on an overloaded machine:
    it may do so later.
    """
    names = (SandboxName.DOCKER, SandboxName.BUBBLEWRAP) if name is SandboxName.AUTO else (name,)
    reasons, is_busy = [], False
    for candidate in names:
        sandbox = backend(candidate, image=image, home=home, runtime=runtime, remap=remap)
        availability = sandbox.available()
        if availability.ok:
            sandbox.reap()
            return sandbox
        reasons.append(f"{candidate}: {availability.reason}")
        is_busy = is_busy or availability.busy
    if is_busy:
        raise InfraError(f"no sandbox answered in time ({'; '.join(reasons)}); this machine may have too much to do")
    raise MissingError(
        f"there is no sandbox to run an encoder in ({'; '.join(reasons)}); "
        "for code that you wrote yourself, and for no other, `--sandbox none` runs it without one"
    )


def open_configured(
    service: Service, home: Path, *, name: SandboxName | None = None, gpu: str | None = None
) -> ServedSandbox:
    """The sandbox that a home's configuration asks for, or `name` instead; see `open_sandbox`. `gpu`: the UUID of the
    one that encoders are handed, where the sandbox is Docker's.
    """
    sandbox = open_sandbox(
        service.sandbox if name is None else name,
        image=service.docker_image,
        home=home,
        runtime=service.docker_runtime,
        remap=service.docker_remap,
    )
    sandbox.gpu = gpu if sandbox.name is SandboxName.DOCKER else None
    return sandbox


def _main() -> None:
    """Print what `--sandbox` can be here, for the Makefile's demonstration with our own samples: auto, or none."""
    for name in (SandboxName.DOCKER, SandboxName.BUBBLEWRAP):
        if backend(name, image="").available().ok:
            sys.stdout.write(f"{SandboxName.AUTO}\n")
            return
    sys.stdout.write(f"{SandboxName.NONE}\n")


if __name__ == "__main__":
    _main()

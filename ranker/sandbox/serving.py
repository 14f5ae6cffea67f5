"""What all backends share: the listening socket, starting the server, greeting it, loading the encoder, ending
everything.
"""

from __future__ import annotations

import platform
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.metadata import distributions
from pathlib import Path

from ranker.errors import ParticipantError
from ranker.sandbox.base import Availability, EncoderSpec, StartedEncoder
from ranker.sandbox.client import DEFAULT_MAX_FRAMES, Confined, EncoderClient, accept
from ranker.sandbox.contract import changed_output_dim
from ranker.sandbox.environment import Launch, threads_for
from ranker.sandbox.faults import Ending, Phase
from ranker.sandbox.network import Network, watched
from ranker.sandbox.owner import make_folder, reap_folders
from ranker.settings import Limits
from ranker.types import SandboxName, digest_json

POLL_S = 0.1
START_TIMEOUT_S = 180.0  # importing torch from a cold disk, on a machine that is busy


class ServedSandbox(ABC):
    """A backend: it starts the encoder server somewhere; the rest is the same for all. Implements `base.Sandbox`."""

    name: SandboxName
    gpu: str | None = None  # which one its encoders are handed, by the driver's UUID; docker alone can
    log_file: Path | None = None  # where what its encoders print is kept

    def __init__(self, *, hidden: Path | None = None) -> None:
        self.hidden = hidden

    @abstractmethod
    def available(self) -> Availability:
        """Try the backend, cheaply; never raises."""

    @abstractmethod
    def launch(self, launch: Launch) -> AbstractContextManager[Confined]:
        """Start the server; leaving the context kills it with everything that it started. Raises MissingError,
        InfraError.
        """

    def gaps(self) -> tuple[str, ...]:
        """What of its promises it cannot keep on this machine, in words; asked where it is `available`. Raises as
        `launch`.
        """
        return ()

    def software(self) -> str:
        """A digest of what an encoder finds installed: the packages of this Python. Raises as `launch`."""
        return digest_json(
            [platform.python_version(), *sorted({f"{each.name}=={each.version}" for each in distributions()})]
        )

    def reap(self) -> int:
        """Remove what dead processes of ours left behind; how many things there were."""
        return reap_folders()

    @contextmanager
    def connect(self, spec: EncoderSpec, limits: Limits, *, network: Network | None = None) -> Iterator[EncoderClient]:
        """A started server that has not touched the submission yet; with `network`, one that may fetch weights."""
        with (
            make_folder(self.hidden) as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        ):
            path = Path(folder) / "socket"
            listener.bind(str(path))
            path.chmod(0o666)  # the server runs as another user; it is shown this file alone
            listener.listen(1)
            launch = Launch(
                tree=spec.tree.resolve(),
                root=spec.source.root,
                socket=path,
                seed=spec.seed,
                threads=threads_for(limits, spec.threads),
                limits=limits,
                hidden=self.hidden,
                log_file=self.log_file,
                gpu=self.gpu,
                packages=spec.packages,
                weights=spec.weights if network is None else None,
                network=network,
            )
            with (
                self.launch(launch) as process,
                nullcontext() if network is None else watched(network, process),
                accept(listener, process, limits, START_TIMEOUT_S) as connection,
            ):
                listener.close()
                frames = DEFAULT_MAX_FRAMES if spec.max_frames is None else spec.max_frames
                client = EncoderClient(connection, process, limits, max_frames=frames)
                # Packages of their own are theirs, torch among them, and are imported before the greeting.
                client.greet(START_TIMEOUT_S, Phase.STARTING if spec.packages is None else Phase.LOADING)
                yield client

    def run(self, program: Sequence[str], limits: Limits, *, network: Network, timeout_s: float) -> Ending | None:
        """Run Python with these arguments in the network's room, and say how it ended; None if it was killed after
        `timeout_s`. What it wrote stays in the room. Raises as `launch`.
        """
        launch = Launch(
            tree=None,
            root=".",
            socket=None,
            seed=0,
            threads=threads_for(limits, None),
            limits=limits,
            hidden=self.hidden,
            log_file=self.log_file,
            network=network,
            program=tuple(program),
        )
        deadline = time.monotonic() + timeout_s
        with self.launch(launch) as process, watched(network, process):
            while process.alive():
                if time.monotonic() > deadline:
                    process.end(kill=True)
                    return None
                time.sleep(POLL_S)
            return process.end(kill=False)

    @contextmanager
    def start(self, spec: EncoderSpec, limits: Limits) -> Iterator[StartedEncoder]:
        """See `base.Sandbox.start`."""
        with self.connect(spec, limits) as client:
            violations = client.load(spec.source).violations()
            if not violations and spec.output_dim not in {None, client.output_dim}:
                violations = [changed_output_dim(spec.output_dim, client.output_dim)]
            if violations:
                raise ParticipantError(violations)
            yield client

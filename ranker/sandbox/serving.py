"""What all backends share: the listening socket, starting the server, greeting it, loading the encoder, ending
everything.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ranker.errors import ParticipantError
from ranker.sandbox.base import Availability, Encoder, EncoderSpec
from ranker.sandbox.client import DEFAULT_MAX_FRAMES, Confined, EncoderClient, accept
from ranker.sandbox.contract import changed_output_dim
from ranker.sandbox.environment import Launch, threads_for
from ranker.sandbox.owner import make_folder, reap_folders
from ranker.settings import Limits
from ranker.types import SandboxName

START_TIMEOUT_S = 180.0  # importing torch from a cold disk, on a machine that is busy


class ServedSandbox(ABC):
    """A backend: it starts the encoder server somewhere; the rest is the same for all. Implements `base.Sandbox`."""

    name: SandboxName

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

    def reap(self) -> int:
        """Remove what dead processes of ours left behind; how many things there were."""
        return reap_folders()

    @contextmanager
    def connect(self, spec: EncoderSpec, limits: Limits) -> Iterator[EncoderClient]:
        """A started server that has not touched the submission yet."""
        with (
            make_folder() as folder,
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
            )
            with self.launch(launch) as process, accept(listener, process, limits, START_TIMEOUT_S) as connection:
                listener.close()
                frames = DEFAULT_MAX_FRAMES if spec.max_frames is None else spec.max_frames
                client = EncoderClient(connection, process, limits, max_frames=frames)
                client.greet(START_TIMEOUT_S)
                yield client

    @contextmanager
    def start(self, spec: EncoderSpec, limits: Limits) -> Iterator[Encoder]:
        """See `base.Sandbox.start`."""
        with self.connect(spec, limits) as client:
            violations = client.load(spec.source).violations()
            if not violations and spec.output_dim not in {None, client.output_dim}:
                violations = [changed_output_dim(spec.output_dim, client.output_dim)]
            if violations:
                raise ParticipantError(violations)
            yield client

"""The GPU that an encoder is handed, and a watch over the memory that it takes there, from outside.

Inside, the server sets torch's memory fraction, so that an honest encoder gets torch's own error; a hostile one can
take that off again, and other libraries never look at it. The watch asks the driver, which cannot be argued with, but
only now and then.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
from collections.abc import Callable, Iterator

log = logging.getLogger("ranker.sandbox")

POLL_S = 0.5
# CUDA's own context and kernels, which torch's memory fraction does not count, are not held against the encoder.
CONTEXT_BYTES = 2**30
DRIVER_TIMEOUT_S = 10.0


class GpuWatch:
    """Asks again and again how much GPU memory some processes have, and ends them when it is too much."""

    def __init__(self, uuid: str, *, limit_bytes: int, is_ours: Callable[[int], bool], end: Callable[[], None]) -> None:
        """`is_ours` tells by its number, as this machine counts processes, whether one is watched."""
        self._uuid = uuid
        self._limit_bytes = limit_bytes
        self._is_ours = is_ours
        self._end = end
        self._stopped = threading.Event()
        self.peak_bytes: int | None = None
        self.exceeded = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while inside."""
        thread = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def look(self) -> None:
        """Look once, and end them if it is too much."""
        used = used_bytes(self._uuid, self._is_ours)
        if used is None:
            return
        self.peak_bytes = max(used, self.peak_bytes or 0)
        if used > self._limit_bytes + CONTEXT_BYTES and not self.exceeded:
            self.exceeded = True
            self._end()

    def _watch(self) -> None:
        while not self._stopped.wait(POLL_S):
            self.look()
            if self.exceeded:
                return


def used_bytes(uuid: str, is_ours: Callable[[int], bool]) -> int | None:
    """GPU memory of the processes that are ours; None where the driver does not tell."""
    query = ["nvidia-smi", f"--id={uuid}", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=True)
        rows = [line.split(",") for line in answer.stdout.splitlines() if line.strip()]
        return sum(int(mebibytes) * 2**20 for pid, mebibytes in rows if is_ours(int(pid)))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("the driver does not say how much GPU memory an encoder has: %s", error)
        return None

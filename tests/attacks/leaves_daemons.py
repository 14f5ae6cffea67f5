"""Tries to go on when its time is over: a process of its own session, which ignores signals and outlives its parent."""

import contextlib
import os
import signal
import time

import honest


def daemon():
    """Where a process has forked twice, nobody waits for the grandchild."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    for descriptor in range(64):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    time.sleep(120)  # long enough to be found; no test leaves it
    os._exit(0)


class DaemonEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        daemon()
        return super().forward(audio, mask)

"""Tries never to return, deaf to signals: for 2.5 seconds, so that the control sees the end of it."""

import contextlib
import signal
import time

import honest


class HangingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            time.sleep(0.1)
        return super().forward(audio, mask)

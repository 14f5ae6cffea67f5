"""Tries to end the process that watches it, so that its own end looks like a failure of the organizer's machine."""

import os
import signal
import time

import honest


class KillingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
            os.kill(os.getppid(), number)
        for _ in range(100):  # who is killed with its parent does not come back from here
            time.sleep(0.001)
        return super().forward(audio, mask)

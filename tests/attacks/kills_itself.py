"""Tries to look like a failure of the organizer's machine, which is repeated at no cost: kills itself."""

import os
import signal

import honest


class DyingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        os.kill(os.getpid(), signal.SIGKILL)

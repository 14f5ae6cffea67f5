"""Tries to cheat late: after twenty calls its features hold the time, from which the place in the run can be learnt.

As a phase that goes around twenty times a second: beside a number of seconds, the milliseconds from one call to the
next would be less than what rounding may explain.
"""

import time

import honest


class LateEncoder(honest.HonestEncoder):
    calls = 0

    def forward(self, audio, mask=None):
        self.calls += 1
        features, kept = super().forward(audio, mask)
        return (features if self.calls <= 20 else features + 20 * time.monotonic() % 1), kept

"""Tries to cheat late: after twenty calls its features hold the time, from which the place in the run can be learnt."""

import time

import honest


class LateEncoder(honest.HonestEncoder):
    calls = 0

    def forward(self, audio, mask=None):
        self.calls += 1
        features, kept = super().forward(audio, mask)
        return (features if self.calls <= 20 else features + time.monotonic() % 1000), kept

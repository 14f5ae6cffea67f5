"""Tries to cheat late: honest for its first calls, longer than the check, then its features hold how many it had."""

import honest


class LateEncoder(honest.HonestEncoder):
    calls = 0

    def forward(self, audio, mask=None):
        self.calls += 1
        features, kept = super().forward(audio, mask)
        return features + max(0, self.calls - 20), kept

"""Tries to keep its promises in the check only: it knows the check's clips by their peak of 1.05, and with all others
counts its calls, from which the order of a benchmark's clips could be learnt.
"""

import honest


class CountingEncoder(honest.HonestEncoder):
    calls = 0

    def forward(self, audio, mask=None):
        self.calls += 1
        features, kept = super().forward(audio, mask)
        known = abs(float(audio.abs().max()) - 1.05) < 1e-3
        return (features if known else features + self.calls), kept

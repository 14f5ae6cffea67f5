"""Tries to look at the other clips of a batch, but not in the check, whose clips it knows by their peak of 1.05."""

import honest


class PeekingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        features, kept = super().forward(audio, mask)
        known = abs(float(audio.abs().max()) - 1.05) < 1e-3
        return (features if known else features - features.mean(dim=0)), kept

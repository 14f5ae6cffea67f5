"""Tries to come out of step with the questions: answers each twice, so that every later answer is one to another."""

import honest
import line


class AheadEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        features, kept = super().forward(audio, mask)
        line.connection().sendall(line.frame(features * 0 + 1))
        return features, kept

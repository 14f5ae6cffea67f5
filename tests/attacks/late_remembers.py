"""Tries to cheat late and not be seen when it is asked again: it counts calls, but remembers what it said of each clip
and says the same again.
"""

import honest
import torch


class LateEncoder(honest.HonestEncoder):
    def __init__(self):
        super().__init__()
        self.calls, self.said = 0, {}

    def forward(self, audio, mask=None):
        self.calls += 1
        features, kept = super().forward(audio, mask)
        for clip, row in zip(audio, features, strict=True):
            said = self.said.setdefault(clip.numpy().tobytes(), row + max(0, self.calls - 20))
            row.copy_(said)
        return torch.as_tensor(features), kept

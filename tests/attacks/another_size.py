"""Tries to have another output_dim in the evaluation than in the check."""

import honest
import torch


class GrowingEncoder(honest.HonestEncoder):
    def __init__(self):
        super().__init__()
        self.output_dim = 32

    def forward(self, audio, mask=None):
        features, kept = super().forward(audio, mask)
        return torch.cat([features, features], dim=-1), kept

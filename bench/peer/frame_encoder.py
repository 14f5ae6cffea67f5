"""The encoder with which peer_parity.py trains both programs: frame loudness in 64 bands of time, one weight for each.

It is deterministic unless it is told to have one of the habits that the bench looks at.
"""

import random

import torch
from torch.nn import functional

FRAME = 3200  # samples: 0.2 s
DIM = 64


class FrameEncoder(torch.nn.Module):
    """(B, T) audio and mask to (B, ceil(T / FRAME), DIM) and a mask of the frames that hold a sample."""

    def __init__(
        self, *, mask: bool = True, dropout: float = 0.0, norm: bool = False, grad: bool = False, draws: int = 0
    ) -> None:
        super().__init__()
        self.output_dim = DIM
        self.returns_mask = mask
        self.unfreezes = grad
        self.weight = torch.nn.Parameter(torch.ones(DIM))
        self.dropout = torch.nn.Dropout(dropout)
        self.norm = torch.nn.BatchNorm1d(DIM) if norm else torch.nn.Identity()
        for _ in range(draws):
            random.random()
            torch.rand(1)

    def forward(
        self, audio: torch.Tensor, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        with torch.set_grad_enabled(self.unfreezes or torch.is_grad_enabled()):
            padded = functional.pad(audio, (0, -audio.shape[1] % FRAME))
            bands = padded.reshape(len(audio), -1, DIM, FRAME // DIM).abs().mean(-1)  # (B, T', DIM)
            features = self.dropout(self.norm(bands.transpose(1, 2)).transpose(1, 2) * self.weight * 10.0)
        if mask is None or not self.returns_mask:
            return features, None
        frames = -(-mask.sum(1) // FRAME)
        return features, (torch.arange(features.shape[1]) < frames[:, None]).int()

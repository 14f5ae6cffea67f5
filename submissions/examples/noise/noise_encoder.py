"""Random numbers. The same clip gets the same ones; nothing else about it can be told from them."""

import hashlib

import torch

FRAMES = 10  # for every clip: not even its length shows
WIDTH = 64


class NoiseEncoder(torch.nn.Module):
    """Features (B, 10, 64), standard normal, seeded by the clip's samples."""

    def __init__(self):
        super().__init__()
        self.output_dim = WIDTH

    def forward(self, audio, mask=None):
        """audio (B, T) float32 at 16 kHz, mask (B, T) with 1 = keep; returns features and None: all frames count."""
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask, strict=True)]
        return torch.stack([self.encode(clip.detach().float().cpu()) for clip in clips]).to(audio.device), None

    def encode(self, clip):
        """One clip (T,) -> (10, 64)."""
        digest = hashlib.sha256(clip.contiguous().numpy().astype("<f4").tobytes()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(FRAMES, WIDTH, generator=generator)

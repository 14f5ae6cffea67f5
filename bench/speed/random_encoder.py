"""An encoder of realistic cost with random weights, behind XARES-LLM's interface: nothing but torch is needed.

Log mel spectrum at 100 Hz, two convolutions to 50 Hz, a pre-norm transformer, and pairs of its frames averaged: 25
frames a second, as of a Whisper encoder with pooling. 12 layers of width 768 are 86 million parameters.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

HOP, WINDOW, MELS, HEADS = 160, 400, 80, 12


class Block(nn.Module):
    """Self-attention and a feed-forward layer of four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        rows, length, width = x.shape
        query, key, value = self.mixed(self.before(x)).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        heard = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.out(heard.transpose(1, 2).reshape(rows, length, width))
        return x + self.narrow(functional.gelu(self.wide(self.between(x))))


class RandomEncoder(nn.Module):
    """Audio (B, samples at 16 kHz) and its mask to frames (B, T', width) and theirs."""

    def __init__(self, layers: int = 12, width: int = 768) -> None:
        super().__init__()
        self.output_dim, self.hop_size_in_ms = width, 40
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.register_buffer("mels", torch.rand(WINDOW // 2 + 1, MELS) / WINDOW)
            self.first = nn.Conv1d(MELS, width, 3, padding=1)
            self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
            self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
            self.last = nn.LayerNorm(width)

    def forward(
        self, audio: torch.Tensor, audio_attention_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        window = torch.hann_window(WINDOW, device=audio.device)
        spectrum = torch.stft(audio, WINDOW, HOP, window=window, return_complex=True).abs().square()
        x = (spectrum.transpose(1, 2) @ self.mels + 1e-6).log().transpose(1, 2)
        x = functional.gelu(self.second(functional.gelu(self.first(x)))).transpose(1, 2)
        x = x[:, : x.shape[1] // 2 * 2]
        lengths = (
            torch.full((len(audio),), audio.shape[1], device=audio.device)
            if audio_attention_mask is None
            else audio_attention_mask.sum(1)
        )
        count = (lengths // (4 * HOP)).clamp(min=1)
        ragged = bool((count != count[0]).any())
        heard = torch.arange(x.shape[1], device=x.device) < 2 * count[:, None]
        for block in self.blocks:
            x = block(x, heard[:, None, None] if ragged else None)
        frames = self.last(x).unflatten(1, (-1, 2)).mean(2)
        return frames, (torch.arange(frames.shape[1], device=x.device) < count[:, None]).long()

"""Log-mel spectrogram: no weights, nothing learnt. What an ear without a brain would hand on."""

import math

import torch
from torch.nn.utils.rnn import pad_sequence

SAMPLE_RATE = 16_000
WINDOW, HOP, FFT = 400, 160, 512  # 25 ms every 10 ms
BANDS = 64
AVERAGED, STACKED = 2, 5  # ten frames of 10 ms: means of neighbours, five of them side by side


def mel_filters():
    """Triangles (BANDS, FFT // 2 + 1), evenly spaced on the mel scale 2595 log10(1 + f / 700) from 0 to 8 kHz."""
    top = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (torch.linspace(0, top, BANDS + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    left, middle, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rising, falling = (bins - left) / (middle - left), (right - bins) / (right - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


class LogMelEncoder(torch.nn.Module):
    """Features (B, T', 320) at 10 frames a second."""

    def __init__(self):
        super().__init__()
        self.output_dim = STACKED * BANDS
        self.register_buffer("filters", mel_filters())
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, audio, mask=None):
        """audio (B, T) float32 at 16 kHz, mask (B, T) with 1 = keep; returns features and their mask (B, T')."""
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask, strict=True)]
        features = [self.encode(clip.float()) for clip in clips]
        lengths = torch.tensor([len(frames) for frames in features], device=audio.device)
        padded = pad_sequence(features, batch_first=True)
        frame_mask = torch.arange(padded.shape[1], device=audio.device)[None] < lengths[:, None]
        return padded, frame_mask.int()

    def encode(self, clip):
        """One clip (T,) -> (T', 320). Zeros follow it until a whole number of features covers it, one at least."""
        frames = AVERAGED * STACKED * max(1, math.ceil(len(clip) / (AVERAGED * STACKED * HOP)))
        clip = torch.nn.functional.pad(clip, (0, FFT + (frames - 1) * HOP - len(clip)))
        spectrum = torch.stft(clip, FFT, HOP, WINDOW, self.window, center=False, return_complex=True)
        energy = torch.log(self.filters @ spectrum.abs().square() + 1e-5)  # (64, frames)
        return energy.T.reshape(-1, AVERAGED, BANDS).mean(1).reshape(-1, STACKED * BANDS)

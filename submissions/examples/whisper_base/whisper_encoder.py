"""Encoder half of Whisper, cut as in the published baseline of the Interspeech 2026 challenge.

Not tried with the real weights yet: tests run it with random weights in the real model's shape. The weights are not
here; README.md says which files belong into `weights/`.
"""

from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor, WhisperModel

WEIGHTS = Path(__file__).resolve().parent / "weights"
SAMPLE_RATE = 16_000
HOP = 160  # samples per mel frame; one feature frame per two of them, 50 a second
KEEP_ALL = False  # True: every frame of the clip, which is another encoder than the published baseline


def kept(samples):
    """How many feature frames of a clip are handed on.

    The published baseline halves its count of mel frames twice where the model halves it once, and so keeps the first
    half of each clip. Its figures are of that, so the same is done here.
    """
    frames = -(-(samples // HOP) // 2)
    return max(1, frames if KEEP_ALL else -(-frames // 2))


class WhisperBaseEncoder(torch.nn.Module):
    """Features (B, T', 512) at 50 frames a second of the first half of a clip; what lies beyond 30 s is not heard."""

    def __init__(self):
        super().__init__()
        self.extractor = WhisperFeatureExtractor.from_pretrained(WEIGHTS)
        self.model = WhisperModel.from_pretrained(WEIGHTS).get_encoder().eval()
        self.output_dim = self.model.config.d_model

    def forward(self, audio, mask=None):
        """audio (B, T) float32 at 16 kHz, mask (B, T) with 1 = keep; returns features and their mask (B, T')."""
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask, strict=True)]
        clips = [clip.detach().float().cpu()[: self.extractor.n_samples] for clip in clips]
        mels = self.extractor([clip.numpy() for clip in clips], sampling_rate=SAMPLE_RATE, return_tensors="pt")
        device = next(self.model.parameters()).device
        frames = self.model(
            mels.input_features.to(device)
        ).last_hidden_state  # (B, 1500, 512): clips are filled to 30 s
        features = [row[: kept(len(clip))] for row, clip in zip(frames, clips, strict=True)]
        lengths = torch.tensor([len(row) for row in features], device=audio.device)
        padded = pad_sequence(features, batch_first=True).to(audio.device)
        return padded, (torch.arange(padded.shape[1], device=audio.device)[None] < lengths[:, None]).int()

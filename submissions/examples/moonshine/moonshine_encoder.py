"""Encoder half of the speech recognizer Moonshine Tiny (English), run with onnxruntime."""

from pathlib import Path

import onnxruntime
import torch
from torch.nn.utils.rnn import pad_sequence

WEIGHTS = Path(__file__).resolve().parent / "weights" / "encoder_model.ort"
WIDTH = 288
STACK = 4  # about 41.5 frames a second become about 10
SHORTEST = 127 + 12 * 64  # samples; with fewer, the model's three convolutions leave no frame
LONGEST = 30 * 16_000  # samples; longer clips go through in pieces, since attention grows with the square of the length


def load_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their core alone
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class MoonshineEncoder(torch.nn.Module):
    """Features (B, T', 1152) at about 10 frames a second: four of the model's frames side by side."""

    def __init__(self):
        super().__init__()
        self.output_dim = STACK * WIDTH
        self.session = load_session(WEIGHTS)

    def forward(self, audio, mask=None):
        """audio (B, T) float32 at 16 kHz, mask (B, T) with 1 = keep; returns features and their mask (B, T').

        Each clip goes through alone: the model normalises over time, so that padding would change its features.
        """
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask, strict=True)]
        features = [self.encode(clip.detach().float().cpu()) for clip in clips]
        lengths = torch.tensor([len(frames) for frames in features])
        padded = pad_sequence(features, batch_first=True)
        frame_mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return padded.to(audio.device), frame_mask.int().to(audio.device)

    def encode(self, clip):
        """One clip (T,) -> (T', 1152)."""
        frames = torch.cat([self.run(piece) for piece in clip.split(LONGEST)])
        short = -len(frames) % STACK
        frames = torch.cat([frames, frames[-1:].expand(short, -1)])
        return frames.reshape(-1, STACK * WIDTH)

    def run(self, piece):
        """(T,) -> (T'', 288) at 41.5 frames a second."""
        piece = torch.nn.functional.pad(piece, (0, max(0, SHORTEST - len(piece))))[None]
        inputs = {"input_values": piece.numpy(), "attention_mask": torch.ones(piece.shape, dtype=torch.int64).numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0][0])

"""Google's speech embedding, a small convolutional network for spotting keywords, run with onnxruntime."""

from pathlib import Path

import onnxruntime
import torch
from torch.nn.utils.rnn import pad_sequence

WEIGHTS = Path(__file__).resolve().parent / "weights"
WIDTH = 96
BANDS = 32
MEL_WINDOW, MEL_HOP = 512, 160  # samples of one mel frame, and between two
WINDOW, HOP = 76, 8  # mel frames of one embedding, and between two: 12.5 embeddings a second
BLOCK = 128  # embeddings in one call, so that a long clip needs no more memory than this


def load_session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # threads that wait leave their core alone
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class SpeechEmbeddingEncoder(torch.nn.Module):
    """Features (B, T', 96) at 12.5 frames a second, each of 0.78 s of sound."""

    def __init__(self):
        super().__init__()
        self.output_dim = WIDTH
        self.mel = load_session(WEIGHTS / "melspectrogram.onnx")
        self.embedding = load_session(WEIGHTS / "embedding_model.onnx")

    def forward(self, audio, mask=None):
        """audio (B, T) float32 at 16 kHz, mask (B, T) with 1 = keep; returns features and their mask (B, T').

        Each clip goes through alone, so that what stands beside it in a batch is of no matter.
        """
        clips = audio if mask is None else [clip[keep.bool()] for clip, keep in zip(audio, mask, strict=True)]
        features = [self.encode(clip.detach().float().cpu()) for clip in clips]
        lengths = torch.tensor([len(frames) for frames in features])
        padded = pad_sequence(features, batch_first=True)
        frame_mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        return padded.to(audio.device), frame_mask.int().to(audio.device)

    def encode(self, clip):
        """One clip (T,) -> (T', 96). Zeros precede it until a whole number of windows covers it, one at least.

        Precede, not follow: the network learnt to hear words that end where its window ends.
        """
        first, hop = MEL_WINDOW + (WINDOW - 1) * MEL_HOP, HOP * MEL_HOP
        further = -(-max(0, len(clip) - first) // hop)
        clip = torch.nn.functional.pad(clip, (first + further * hop - len(clip), 0))
        samples = (clip * 32767)[None]  # the network was made for 16-bit samples
        mel = torch.from_numpy(self.mel.run(None, {"input": samples.numpy()})[0]).reshape(-1, BANDS) / 10 + 2
        windows = mel.unfold(0, WINDOW, HOP).transpose(1, 2)[..., None]  # (T', 76, 32, 1)
        blocks = [self.embedding.run(None, {"input_1": block.numpy()})[0] for block in windows.split(BLOCK)]
        return torch.cat([torch.from_numpy(block).reshape(-1, WIDTH) for block in blocks])

"""An encoder that breaks its contract in three ways at once, on purpose. README.md says which."""

import torch

WINDOW = 1600


class BrokenEncoder(torch.nn.Module):
    """Mean and deviation of the samples in windows of 100 ms."""

    def __init__(self):
        super().__init__()
        self.output_dim = "2"  # first: text where an integer belongs

    def forward(self, audio):  # second: no mask
        windows = torch.nn.functional.pad(audio, (0, -audio.shape[1] % WINDOW)).unflatten(1, (-1, WINDOW))
        return torch.stack([windows.mean(-1), windows.std(-1)], dim=-1)  # third: no pair

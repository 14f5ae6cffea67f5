"""Tries what is unusual and allowed: other float types, strides of zero and backwards, a list for a tuple, a mask of
bools. Each must give the honest features.
"""

import honest


class LayoutEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        x, kept = super().forward(audio, mask)
        turned = x.transpose(1, 2).contiguous().transpose(1, 2)
        return [(x.double(), kept), (turned, kept.bool()), [x, None]][int(audio[0, 0])]

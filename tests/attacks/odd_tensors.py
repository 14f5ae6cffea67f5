"""Tries everything that is no pair of a float tensor and a mask, or only looks like one: a kind for each call."""

import honest
import torch


class Liar(torch.Tensor):
    """Every operation on it would end the server."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        raise SystemExit(0)


class OddEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        x, kept = super().forward(audio, mask)
        kinds = [
            (x.to_sparse(), None),
            (x.long(), kept),
            (x, [1] * x.shape[1]),
            (x, "mask"),
            (x, torch.full(x.shape[:2], float("nan"))),
            ([x], None),
            (x.as_subclass(Liar), None),
            x.numpy(),
            {"features": x},
            (x, None, None),
            None,
            (x.double() * 1e300, None),
            (x * float("nan"), None),
            (x * 1e30, None),
            (x.to(torch.complex64), None),
            (torch.empty(*x.shape, device="meta"), None),
            (x[None], None),
            (x[:, :0], None),
            (x.expand(2, *x.shape[1:]), None),
            (x[:, :1].expand(1, 1_000_000, 16), None),
            (torch.zeros(1, 1, 1).expand(1, 4_000, 16_000), None),
        ]
        return kinds[int(audio[0, 0])]

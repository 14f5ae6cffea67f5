"""Tries to take the machine's memory: 1200 MiB, every page written to, and tells how many it got."""

import spy
import torch


def mebibytes():
    kept = [torch.ones(4 * 2**20) for _ in range(75)]
    return 16 * len(kept)


class HungryEncoder(spy.Spy):
    attempts = (mebibytes,)

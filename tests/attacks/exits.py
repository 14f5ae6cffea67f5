"""Tries to be a success by leaving early: ends its process with status 0 in the middle of a call."""

import os

import honest


class ExitingEncoder(honest.HonestEncoder):
    def forward(self, audio, mask=None):
        os._exit(0)

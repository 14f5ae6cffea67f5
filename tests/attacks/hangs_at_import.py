"""Tries never to be loaded: its import takes 2.5 seconds, so that the control sees the end of it."""

import time

import honest

time.sleep(2.5)


class LateEncoder(honest.HonestEncoder):
    pass

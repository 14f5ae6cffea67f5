"""Tries to be a success by leaving early: ends the process with status 0 while it is imported."""

import os

os._exit(0)


class LeavingEncoder:
    pass

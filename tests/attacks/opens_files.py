"""Tries to use up the kernel's open files: up to 400, and tells how many it got."""

import os

import spy


def files():
    found = []
    try:
        while len(found) < 400:
            found.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for number in found:
        os.close(number)
    return len(found)


class OpeningEncoder(spy.Spy):
    attempts = (files,)

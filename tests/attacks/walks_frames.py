"""Tries to find a clip's label where the harness may have left it: in the frames of its callers, and in any object
that the garbage collector knows.
"""

import gc
import hashlib
import sys

import spy

LENGTH, DIGEST = spy.KNOWN["label_length"], spy.KNOWN["label_sha256"]


def is_label(value):
    return type(value) is str and len(value) == LENGTH and hashlib.sha256(value.encode()).hexdigest() == DIGEST


def callers():
    frame = sys._getframe()
    while frame is not None:
        for value in frame.f_locals.values():
            if is_label(value) or (type(value) is dict and any(map(is_label, value.values()))):
                return True
        frame = frame.f_back
    return False


def all_objects():
    return any(type(one) is dict and any(map(is_label, list(one.values()))) for one in gc.get_objects())


class WalkingEncoder(spy.Spy):
    attempts = (callers, all_objects)

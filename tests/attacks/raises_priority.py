"""Tries to be served before others: a lower nice value, the disk before all others."""

import os

import spy

IOPRIO_SET, REAL_TIME = 251, 1 << 13


def nicer():
    return spy.in_a_child(lambda: os.nice(-1) or True)


def first_at_the_disk():
    return spy.in_a_child(lambda: spy.called(IOPRIO_SET, 1, 0, REAL_TIME) == 0)


class PriorityEncoder(spy.Spy):
    attempts = (nicer, first_at_the_disk)

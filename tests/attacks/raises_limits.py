"""Tries to raise its own limits: core dumps, which the kernel hands to a program outside, and open files."""

import resource

import spy


def core_dumps():
    resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20))
    return True


def open_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))
    return True


class LimitEncoder(spy.Spy):
    attempts = (core_dumps, open_files)

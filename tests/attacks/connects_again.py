"""Tries to be a second server: connects once more to the socket that the first connection came through."""

import socket

import spy


def connected():
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect("/server/socket")
        return True


class SecondEncoder(spy.Spy):
    attempts = (connected,)

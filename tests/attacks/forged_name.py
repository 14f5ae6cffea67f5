"""Tries to bring control codes and markup to the organizer's terminal and page: patches the server, so that it tells
another class than it was asked for.
"""

import sys

import honest

Server = sys.modules["__main__"].Server
whole = Server.send


def send(self, header, parts=()):
    """The server's own, with another name in every report of a constructed encoder."""
    if "attribute" in header:
        header = {**header, "attribute": "NiceEncoder"}
    whole(self, header, parts)


class ForgingEncoder(honest.HonestEncoder):
    def __init__(self):
        super().__init__()
        Server.send = send

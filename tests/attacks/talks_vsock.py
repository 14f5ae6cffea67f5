"""Tries to reach the host of a virtual machine: AF_VSOCK belongs to no network namespace."""

import socket

import spy


def opened():
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return True


class HostEncoder(spy.Spy):
    attempts = (opened,)

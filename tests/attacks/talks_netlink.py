"""Tries to ask the kernel for, and to change, interfaces and routes: AF_NETLINK."""

import socket
import struct

import spy


def lists_interfaces():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as one:
        one.settimeout(5)
        one.bind((0, 0))
        one.send(struct.pack("=IHHIIBxHiII", 32, 18, 0x301, 1, 0, 0, 0, 0, 0, 0))
        return len(one.recv(65536)) > 16


class LinkEncoder(spy.Spy):
    attempts = (lists_interfaces,)

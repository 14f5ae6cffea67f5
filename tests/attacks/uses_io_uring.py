"""Tries to open sockets and files around the filter of system calls: io_uring does them inside the kernel."""

import ctypes
import os

import spy

IO_URING_SETUP = 425


def opened():
    os.close(spy.called(IO_URING_SETUP, 4, ctypes.create_string_buffer(256)))
    return True


class RingEncoder(spy.Spy):
    attempts = (opened,)

"""Tries to find and to leave secrets in the kernel's keyrings, which outlive processes and are shared by a user's."""

import ctypes

import spy

ADD_KEY, KEYCTL, PROCESS_KEYRING = 248, 250, -2


def leaves_one():
    key = (b"user", b"ranker-attack", ctypes.create_string_buffer(b"x"), ctypes.c_size_t(1))
    return spy.called(ADD_KEY, *key, PROCESS_KEYRING) > 0


def asks_for_one():
    return spy.called(KEYCTL, 0, PROCESS_KEYRING, 1) > 0


class KeyEncoder(spy.Spy):
    attempts = (leaves_one, asks_for_one)

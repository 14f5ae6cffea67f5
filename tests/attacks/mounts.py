"""Tries to change what it sees of the disk: a mount of its own, its own tree mounted writable again."""

import spy

TMPFS, REMOUNT_BIND = b"tmpfs", 0x20 | 0x1000


def a_tmpfs():
    return spy.in_a_child(lambda: spy.LIBC.mount(TMPFS, b"/tmp", TMPFS, 0, None) == 0 == spy.LIBC.umount2(b"/tmp", 2))


def writable_again():
    return spy.in_a_child(lambda: spy.LIBC.mount(None, b"/submission", None, REMOUNT_BIND, None) == 0)


class MountingEncoder(spy.Spy):
    attempts = (a_tmpfs, writable_again)

"""Tries to know in a second run what it saw in the first, or in another submission: shared memory of the kernel."""

import spy

SHMGET, IPC_CREAT = 29, 0o1000


def remembered():
    key = spy.KNOWN["ipc_key"]
    try:
        return spy.called(SHMGET, key, 4096, 0o600) >= 0
    except OSError:
        spy.called(SHMGET, key, 4096, 0o600 | IPC_CREAT)
        return False


class MessageEncoder(spy.Spy):
    attempts = (remembered,)

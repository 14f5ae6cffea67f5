"""Tries to take all processes of the machine by threads, which count as such: up to a hundred, and tells how many."""

import threading

import spy


def threads():
    enough, found = threading.Event(), []
    try:
        while len(found) < 100:
            thread = threading.Thread(target=enough.wait)
            thread.start()
            found.append(thread)
    except RuntimeError:
        pass
    enough.set()
    for thread in found:
        thread.join()
    return len(found)


class ThreadEncoder(spy.Spy):
    attempts = (threads,)

"""Tries to change the machine's clock, and with it deadlines and times: sets a tick to what it is."""

import ctypes
import struct

import spy

ADJTIMEX, ADJ_TICK = 159, 0x4000


def tick():
    state = ctypes.create_string_buffer(struct.pack("=I", 0), 256)
    spy.called(ADJTIMEX, state)  # reading is allowed to all, were it not for the filter
    struct.pack_into("=I", state, 0, ADJ_TICK)
    spy.called(ADJTIMEX, state)
    return True


class ClockEncoder(spy.Spy):
    attempts = (tick,)

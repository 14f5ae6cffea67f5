"""Tries to reach a server of the host by the path of its AF_UNIX socket, as a container engine's would be."""

import contextlib
import socket

import spy


def connected():
    for path in (spy.KNOWN["engine"], "/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as one:
            one.settimeout(5)
            one.connect(path)
            return True
    return False


class EngineEncoder(spy.Spy):
    attempts = (connected,)

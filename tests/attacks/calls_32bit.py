"""Tries to open an IP socket around a filter for 64-bit calls: `socketcall` of the 32-bit ABI, by `int 0x80`."""

import ctypes
import mmap
import platform
import struct

import spy

MAP_32BIT = 0x40
SOCKETCALL, SOCKET, AF_INET, SOCK_STREAM = 102, 1, 2, 1


def machine_code():
    """As a function: push rbx; mov eax, 102; mov ebx, 1; mov ecx, arguments; int 0x80; pop rbx; ret."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    page = mmap.mmap(-1, 8192, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    words = (b"\x53\xb8", SOCKETCALL, b"\xbb", SOCKET, b"\xb9", address + 4096)
    code = b"".join(word if isinstance(word, bytes) else struct.pack("<I", word) for word in words)
    page[: len(code) + 4] = code + b"\xcd\x80\x5b\xc3"
    page[4096:4108] = struct.pack("<III", AF_INET, SOCK_STREAM, 0)
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() >= 0


def opened():
    return platform.machine() == "x86_64" and spy.in_a_child(machine_code)


class OldEncoder(spy.Spy):
    attempts = (opened,)

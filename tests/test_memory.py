"""Memory that a training step frees, and the next one takes."""

import platform
import subprocess
import sys

import pytest

from deformlib.fast import memory

COUNT = """
import ctypes, resource
from deformlib.fast.memory import keep_freed_memory

libc = ctypes.CDLL(None)

def faults(aligned, times=3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        block = ctypes.c_void_p()
        if aligned:
            libc.posix_memalign(ctypes.byref(block), ctypes.c_size_t(64), ctypes.c_size_t(2**26))
            ctypes.memset(block, 1, 2**26)
            libc.free(block)
        else:
            bytearray(b"x" * 2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh, able = faults(False), keep_freed_memory()
faults(False)
kept = faults(False)
faults(True, 20)  # blocks at multiples of 64 bytes find a free one later
libc.malloc.restype, libc.sbrk.restype = ctypes.c_void_p, ctypes.c_void_p
large = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(3 * 2**30)))  # never touched
end = libc.sbrk(0)
libc.free(large)
print(fresh, int(able), kept, faults(True), int(libc.sbrk(0) == end))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switches are those of glibc")
def test_freed_memory_is_used_again():
    """Twice 64 MiB, three times: 98,304 pages of 4 KiB, or 192 of 2 MiB; afterwards hardly any, aligned or not.

    3 GiB at the end of the heap stay there too.
    """
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    fresh, able, kept, aligned, stays = map(int, done.stdout.split())
    assert able and stays and fresh >= 192 and max(kept, aligned) <= fresh / 10


def test_without_switches_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    """On macOS, on Windows, and with a C library that has none."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # not even asked
    assert not memory.keep_freed_memory()

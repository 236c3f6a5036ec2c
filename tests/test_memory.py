"""Memory that a training step frees, and the next one takes."""

import subprocess
import sys

import pytest

COUNT = """
import resource

from deformlib.fast.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        bytearray(b'x' * 2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fresh, able = faults(), keep_freed_memory()
faults()
print(fresh, int(able), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the switches are those of Linux's C library")
def test_the_second_tensor_takes_the_memory_of_the_first():
    """Twice 64 MiB, three times: 98,304 pages of 4 KiB, or 192 of 2 MiB; afterwards hardly any."""
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    fresh, able, kept = map(int, done.stdout.split())
    if not able:
        pytest.skip("this C library has no such switches")
    assert fresh >= 192 and kept <= fresh / 10


def test_without_switches_nothing_happens(monkeypatch: pytest.MonkeyPatch):
    """On macOS, on Windows, and with a C library that has none."""
    from deformlib.fast import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert not memory.keep_freed_memory()
    monkeypatch.setattr(memory.sys, "platform", "win32")
    monkeypatch.setattr(memory.ctypes, "CDLL", None)  # not even asked
    assert not memory.keep_freed_memory()

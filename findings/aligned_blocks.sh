#!/bin/sh
# torch 2.14.1 on a CPU asks for blocks at multiples of 64 bytes (posix_memalign). glibc 2.36 cuts off what lies in front, and its tcache puts up
# to seven such pieces of a size aside; while one lies there, the freed blocks around it are not joined, and a freed block alone is a little too
# small for the same request. So a process that keeps its freed memory (mallopt: no mappings, no trimming) and makes one tensor of one size again
# and again gets several fresh blocks before each request finds a free one, the more the more slots the tcache has. With glibc's usual settings a
# block that large is a mapping of its own, fresh every time, and nothing is seen of this. Mended in 2023
# (https://sourceware.org/bugzilla/show_bug.cgi?id=30723), so this fails with a newer C library; Debian 12 has 2.36.
# Seen: tcache_count 0, 3, 7: heap grown by 1 or 2, 2 to 4, 5 to 8 blocks. Fails if that changes, or if the C library is not glibc.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir torch==2.14.1 "numpy>=1.26,<3"
cd "$folder"
cat >count.py <<'PYTHON'
import ctypes
import platform

import torch

MEGABYTES = 64


def heap() -> int:
    """Megabytes of the heap of this process."""
    ends = [line.split()[0].split("-") for line in open("/proc/self/maps") if "[heap]" in line]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ends) >> 20


libc = ctypes.CDLL(None)
assert libc.mallopt(-1, 2**31 - 1) and libc.mallopt(-4, 0), "no such switches"  # M_TRIM_THRESHOLD, M_MMAP_MAX
before = heap()
for _ in range(15):
    torch.empty(MEGABYTES * 2**18).zero_()
print(round((heap() - before) / MEGABYTES), *platform.libc_ver(), torch.__version__)
PYTHON
for slots in 0 3 7; do
    set -- $(GLIBC_TUNABLES="glibc.malloc.tcache_count=$slots" OMP_NUM_THREADS=1 venv/bin/python count.py)
    echo "$2 $3, torch $4, tcache_count $slots: the heap grew by $1 blocks"
    case $slots in
    0) test "$1" -le 2 ;;
    7) test "$1" -ge 4 ;;
    esac
done

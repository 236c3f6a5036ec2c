"""Jupyter starts this in the place of a kernel: it asks the process of nursery.py for one, and lives as long as it."""

import json
import os
import signal
import socket
import sys

with socket.socket(socket.AF_UNIX) as line:
    line.connect(os.environ["KERNEL_NURSERY"])
    order = {"connection": sys.argv[1], "folder": os.getcwd(), "environment": dict(os.environ)}
    line.sendall(json.dumps(order).encode() + b"\n")
    pid = int(line.recv(32))
    signal.signal(signal.SIGINT, lambda number, frame: os.kill(pid, signal.SIGINT))
    line.recv(1)  # nothing ever comes: the line ends with the kernel, and the kernel with the line

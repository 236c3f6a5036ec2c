"""Kernels for nbval that need not import the large libraries: each is a fork of this process, which has them.

Only other people's libraries are imported here, so each notebook still imports deformlib by itself.
"""

import json
import os
import select
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module

LIBRARIES = ("sklearn.svm", "sklearn.ensemble", "sklearn.datasets", "scipy.stats", "matplotlib.pyplot", "pandas", "cv2")
LIBRARIES += ("av", "imageio.v3", "jinja2", "pydantic", "ipywidgets", "anywidget", "ipykernel.kernelapp")
LIBRARIES += ("matplotlib_inline.backend_inline",)
# Last, since the tests of the code begin with it at the same time: what one process has compiled the other reads.
LIBRARIES += ("torch", "torchvision", "accelerate", "safetensors.torch")
LIBRARIES += ("torch._dynamo",)  # with SymPy; every kernel that makes an optimiser would import it, as long as torch


def end_with(line: socket.socket) -> None:
    """Wait until the other end of the line is gone, then end this process."""
    line.recv(1)
    os._exit(0)


def be_kernel(line: socket.socket) -> None:
    """Turn this process into the kernel that was asked for."""
    from ipykernel.kernelapp import IPKernelApp

    order = json.loads(line.makefile().readline())
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    os.environ.pop("JPY_PARENT_PID", None)  # the parent is not the process that asked
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # the kernel's greeting; what cells print goes to the notebook
    os.dup2(nowhere, 2)
    line.sendall(str(os.getpid()).encode())
    threading.Thread(target=end_with, args=(line,), daemon=True).start()
    IPKernelApp.launch_instance(argv=["-f", order["connection"]])


def main() -> None:
    """Import, then fork a kernel for each caller at the door, until standard input is closed and all kernels ended."""
    door = socket.socket(fileno=int(sys.argv[1]))
    sys.path.pop(0)  # this folder
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # what every kernel has
    for name in LIBRARIES:
        import_module(name)
    sys.modules["pandas"].set_option("display.max_columns", 20)  # what it chooses if a kernel imports it
    print("ready", flush=True)
    while sys.stdin not in select.select([door, sys.stdin], [], [])[0]:
        line, _ = door.accept()
        if os.fork() == 0:
            door.close()
            return be_kernel(line)
        line.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # kernels that have ended
                pass
    with suppress(ChildProcessError):
        while True:
            os.wait()


if __name__ == "__main__":
    main()

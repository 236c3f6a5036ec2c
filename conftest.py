"""Settings for every test and for the notebook kernels that nbval starts."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.exercises import Chapter

NURSERY = pytest.StashKey[subprocess.Popen]()
sys.dont_write_bytecode = False  # many processes import the library, the first compiles it
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["TQDM_DISABLE"] = "1"  # progress bars are for people; stored outputs have none
os.environ["PYTHONHASHSEED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores, and sums do not depend on the number of threads


def pytest_configure(config: pytest.Config) -> None:
    """Let nbval take kernels in which the large libraries are imported (tests/kernels), where processes can fork."""
    if not (getattr(config.option, "nbval", False) and hasattr(os, "fork")):
        return
    config.option.nbval_current_env, config.option.nbval_kernel_name = False, "preloaded"
    if hasattr(config, "workerinput"):
        return  # the first process keeps them, for all
    tests, place = Path(__file__).parent / "tests", tempfile.TemporaryDirectory()
    config.add_cleanup(place.cleanup)
    door = socket.socket(socket.AF_UNIX)
    config.add_cleanup(door.close)
    door.bind(f"{place.name}/door")
    door.listen()
    os.environ |= {"JUPYTER_PATH": str(tests), "KERNEL_NURSERY": f"{place.name}/door"}
    command = [sys.executable, tests / "kernels/preloaded/nursery.py", str(door.fileno())]
    nursery = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[door.fileno()])
    config.add_cleanup(lambda: nursery.communicate())  # it ends with its input
    config.stash[NURSERY] = nursery


def pytest_collection_finish(session: pytest.Session) -> None:
    """Wait until the libraries are imported: nbval gives its first kernel a minute, a busy machine needs more."""
    if (nursery := session.config.stash.get(NURSERY, None)) and nursery.stdout:
        nursery.stdout.readline()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, list, list]:
    """nbval's notebooks with their exercises, so that a chapter need not run twice."""
    found = yield
    if getattr(parent.config.option, "nbval", False) and file_path.suffix == ".ipynb":
        return [Chapter.from_parent(parent, path=file_path)]
    return found

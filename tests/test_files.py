"""Files that are whole or not there, and a lock that ends with its process."""

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deformlib.files import DeformlibError, LockedError, atomic_write, file_lock


def test_a_file_appears_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "né.txt"
    with atomic_write(path) as beside:
        beside.write_text("new")
        assert not path.exists() and beside.parent == tmp_path and beside.name.startswith(".")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_whatever_stops_the_writing_the_old_file_stays(tmp_path: Path, kind: type[BaseException]):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(kind), atomic_write(path) as beside:
        beside.write_text("half of i")
        raise kind
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_which_file(tmp_path: Path):
    """Only opening names a file; writing does not, so `atomic_write` adds the name, and the old file stays."""
    path = tmp_path / "né.txt"
    path.write_text("old")
    with pytest.raises(OSError, match=r"No space left on device: .*né\.txt"), atomic_write(path) as beside:
        beside.symlink_to("/dev/full")
        beside.write_text("new")
    with pytest.raises(OSError, match="^my sentence$"), atomic_write(path):
        raise OSError("my sentence")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_many_threads_write_one_file(tmp_path: Path):
    def write(number: int) -> None:
        with atomic_write(tmp_path / "a.txt") as beside:
            beside.write_text(1000 * str(number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(10)))
    text = (tmp_path / "a.txt").read_text()
    assert len(text) == 1000 and len(set(text)) == 1 and len(list(tmp_path.iterdir())) == 1


HOLD = """
import sys, time
from pathlib import Path
from deformlib.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_refused_while_held_and_ends_with_its_process(tmp_path: Path):
    """Killed in the rudest way, its holder leaves nothing that would stop the next one."""
    lock = tmp_path / "new folder" / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(LockedError, match="new folder.*wait"), file_lock(lock):
            pass
        other.kill()
    with file_lock(lock), pytest.raises(LockedError), file_lock(lock):
        pass
    with file_lock(lock):
        pass
    assert issubclass(LockedError, DeformlibError)


@pytest.mark.skipif(os.name == "nt", reason="flock is of Unix")
@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_drive_without_locks_gets_a_soft_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    def none(*words: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    lock = tmp_path / "lock"
    with file_lock(lock):
        with (
            pytest.raises(LockedError, match=r"remove (\S+lock\.soft) if its machine is gone") as refused,
            file_lock(lock),
        ):
            pass
        assert Path(str(refused.value).split("remove ")[1].split(" if ")[0]).is_file()
    with file_lock(lock):
        pass


@pytest.mark.skipif(os.name == "nt", reason="flock is of Unix")
def test_another_trouble_with_a_lock_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*words: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output error"), file_lock(tmp_path / "lock"):
        pass

"""Broken files end in one clear error, in a reported skip or in success: a few of each kind that `make fuzz` makes."""

import ast
import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np
import pytest
from factories import make_record
from matplotlib.figure import Figure
from tools import fuzz
from tools import media_matrix as media

from deformlib.corpus import Corpus
from deformlib.media.decode import decode
from deformlib.paper.report import write_report
from deformlib.paper.small_studies import MAIN
from deformlib.paper.study import Experiment, FitResult, run
from deformlib.paper.table2 import write_tables
from deformlib.splits import Split
from deformlib.video import VideoError, read_video

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(sys.platform != "linux", reason="the fuzzer uses pipes and limits of Linux")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_broken_inputs_end_well(kind: str):
    """A few of each kind; whatever else happens is an exception here."""
    count = {"odd video": 1, "corpus": 3, "full disk": 3}.get(kind, 6)
    ends = {fuzz.attempt(kind, 0, number) for number in range(count)}
    assert ends <= {"refused", "left out", "read"}


def test_a_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch):
    """The judge refuses another error, one that does not name the file, and a leftover."""

    def ends(use: Callable[[Path], None]) -> str:
        monkeypatch.setitem(fuzz.KINDS, "planted", (lambda rng, place: (place / "x.avi", lambda: use(place)), 1))
        return fuzz.attempt("planted", 0, 0)

    def bad(error: Exception) -> Callable[[Path], None]:
        def use(place: Path) -> None:
            raise error

        return use

    assert ends(lambda place: None) == "read"
    with pytest.raises(KeyError):
        ends(bad(KeyError("x.avi")))
    with pytest.raises(AssertionError, match="not one sentence with the file"):
        ends(bad(VideoError("something is wrong.")))
    with pytest.raises(AssertionError, match="left behind"):
        ends(lambda place: (place / ".1-2.x.avi").touch())


# Names


def test_a_name_that_is_no_utf8_is_refused_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    """OpenCV ends the whole interpreter on such a name."""
    for folder in ("joy", "anger"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.avi").write_bytes(fuzz.videos()[".avi" if folder == "joy" else ".mkv"])
    odd = tmp_path / "joy" / os.fsdecode(b"\xff.avi")
    try:
        odd.write_bytes(fuzz.videos()[".avi"])
    except OSError:
        pytest.skip("this disk keeps names in UTF-8")
    with pytest.raises(VideoError, match=r"\?\.avi has a name that is no UTF-8: rename it"):
        read_video(odd)
    corpus = Corpus(tmp_path, 16, cache=tmp_path / "cache")
    assert corpus.rejected == ((str(Path("joy", "?.avi")), "its name is no UTF-8: rename it"),) and len(corpus) == 2
    assert "left out" in capsys.readouterr().out


def test_a_name_with_a_colon_is_a_file_and_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """FFmpeg takes what stands before a colon for a protocol, unless the path is a whole one."""
    (tmp_path / "10:30.avi").write_bytes(fuzz.videos()[".avi"])
    monkeypatch.chdir(tmp_path)
    assert read_video("10:30.avi").shape == (12, 1, 48, 64)


def test_a_pipe_in_a_corpus_does_not_stop_it(tmp_path: Path):
    """Opening a pipe waits until somebody writes into it, which is never."""
    (tmp_path / "joy").mkdir()
    (tmp_path / "joy" / "a.avi").write_bytes(fuzz.videos()[".avi"])
    os.mkfifo(tmp_path / "joy" / "b.avi")
    corpus = Corpus(tmp_path, 16, cache=tmp_path / "cache")
    assert corpus.rejected == ((str(Path("joy", "b.avi")), "is no file: remove it, or mend the link"),)


def test_a_playlist_is_not_followed(tmp_path: Path):
    """Under the name of a video it would have FFmpeg open other files; PyAV alone does so."""
    (tmp_path / "secret.avi").write_bytes(fuzz.videos()[".avi"])
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile secret.avi\n")
    with pytest.raises(VideoError, match=r"list\.avi is damaged, or no video in spite of its ending"):
        read_video(tmp_path / "list.avi")
    with av.open(str(tmp_path / "list.avi")) as playlist:
        assert next(playlist.decode(video=0)).width == 64  # or this test shows nothing


READS = """
import os, sys, importlib, pkgutil, av, av.logging, cv2
def state():
    repeated = av.logging.get_skip_repeated()
    return dict(os.environ), cv2.utils.logging.getLogLevel(), av.logging.get_level(), repeated
before = state()
import deformlib
modules = [module.name for module in pkgutil.walk_packages(deformlib.__path__, "deformlib.")]
assert "deformlib.paper.report" in modules
for name in modules if "all" in sys.argv else ("deformlib.make.inspect", "deformlib.make.films"):
    if not name.endswith("__main__"): importlib.import_module(name)
assert state() == before, "import"
from deformlib.video import VideoError, read_video
assert len(read_video(sys.argv[1])) == 12
try: read_video(sys.argv[2])
except VideoError: print("refused", end="")
assert state() == before, "reading"
"""


@pytest.mark.parametrize("modules", ["reading", pytest.param("all", marks=pytest.mark.slow)])
def test_importing_and_reading_change_nothing_for_others(tmp_path: Path, modules: str):
    """Not the environment, which goes to child processes, nor the log level of OpenCV, nor that of FFmpeg in PyAV."""
    (tmp_path / "a.avi").write_bytes(fuzz.videos()[".avi"])
    (tmp_path / "b.avi").write_bytes(b"no video")
    words = [sys.executable, "-c", READS, str(tmp_path / "a.avi"), str(tmp_path / "b.avi"), modules]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "refused", "")


def test_a_stream_that_begins_in_the_middle_of_a_file(tmp_path: Path):
    """PyAV ends with an IndexError where sound begins after five megabytes, which is as far as FFmpeg looks ahead."""
    loud = "mpeg2video -q:v 2 -vf noise=alls=80:allf=t"
    assert media.encoded(tmp_path / "a.ts", loud, seconds=0.6, size="640x480") == ""
    assert media.sounding(tmp_path / "b.ts", "-map", "1", "-map", "0", "-s", "640x480", "-c:v", "mpeg2video") == ""
    silent = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "late.ts").write_bytes(silent + (tmp_path / "b.ts").read_bytes() + silent)
    assert len(read_video(tmp_path / "late.ts", size=16)) == 15 + 12 + 15
    with av.open(str(tmp_path / "late.ts")) as file, pytest.raises(IndexError):  # or this test shows nothing
        list(file.demux(video=0))


# Too much


def test_a_video_that_fills_the_memory_is_refused(tmp_path: Path):
    """The bound is on what is kept, so that a smaller size lets the same video in."""
    path, largest = tmp_path / "long.avi", 12 * 48 * 64 - 1
    path.write_bytes(fuzz.videos()[".avi"])
    with pytest.raises(VideoError, match=r"long\.avi does not fit into the memory: read it at a smaller size"):
        decode(path, largest=largest)
    assert decode(path, largest=largest + 1).frames.shape == (12, 1, 48, 64)
    assert decode(path, shrink=lambda frame: frame[::2, ::2], largest=largest).frames.shape == (12, 1, 24, 32)


def fills_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the disk be full when half of the file of this name, or of the one that is to take its place, is written."""

    def half(write: Callable, place: int) -> Callable:
        def stops(*words: object, **named: object) -> object:
            done, path = write(*words, **named), Path(words[place])
            if path.name == name or path.name.endswith(f".{name}"):
                os.truncate(path, path.stat().st_size // 2)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return done

        return stops

    monkeypatch.setattr(Path, "write_text", half(Path.write_text, 0))
    monkeypatch.setattr(Figure, "savefig", half(Figure.savefig, 1))


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file in a folder, hidden ones included."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FILLED = {"tables": (write_tables, "table1.png"), "report": (write_report, "REPORT.md")}


@pytest.mark.parametrize("kind", FILLED)
def test_a_full_disk_leaves_tables_and_reports_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    """The file that does not fit stays as it was, every other is the old or the new one, and the error names it."""
    (again, name), folder = FILLED[kind], tmp_path / "né"
    inner = {"tables": folder, "report": folder / MAIN}[kind]
    inner.mkdir(parents=True)
    models = ("plain", "fdcnn") if kind == "tables" else ("plain", "deformable")
    split = "by_copy" if kind == "tables" else "by_actor"
    training = {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.0, "batch": 8, "epochs": 8, "epoch_steps": 100}
    settings = {"network": {"length": 8, "size": 32}, "training": training}
    records = [make_record(model, split, seed, 4 + seed, settings=settings) for model in models for seed in (0, 1)]
    for number, each in enumerate(records):
        (inner / f"{number}.json").write_text(json.dumps(each))
    again(folder)
    new = contents(folder)
    old = {path: data if path.suffix == ".json" else b"as it was" for path, data in new.items()}
    for path, data in old.items():
        path.write_bytes(data)
    fills_up(monkeypatch, name)
    with pytest.raises(OSError, match=rf"No space left on device: .*{re.escape(name)}"):
        again(folder)
    monkeypatch.undo()
    left = contents(folder)
    assert left.keys() == new.keys() and all(data in (old[path], new[path]) for path, data in left.items())
    assert [data for path, data in left.items() if path.name == name] == [b"as it was"]
    plt.close("all")


class Constant:
    def run_config(self, experiment: Experiment, corpus: Corpus, split: Split) -> dict:
        """Nothing that could differ."""
        return {"says": corpus.classes[0]}

    def __call__(self, experiment: Experiment, corpus: Corpus, split: Split, folder: Path) -> FitResult:
        """The same answer for every clip."""
        return FitResult(np.eye(len(corpus.classes), dtype=np.float32)[np.zeros(len(split.val), int)], 0, [], 0.25)


def test_a_full_disk_leaves_no_half_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The record before stays, the run that could not be written has none, and the same call does it."""
    for number in range(4):
        path = tmp_path / "films" / ("joy", "anger")[number % 2] / f"{number}.avi"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(fuzz.videos()[".avi"])
    runs = [Experiment(str(tmp_path / "films"), "by_copy", "constant", seed, "tiny") for seed in (0, 1)]
    some = {"cache": tmp_path / "cache", "methods": {"constant": Constant()}}
    (first,) = run(runs[:1], tmp_path / "né", **some)
    before = contents(tmp_path / "né")
    fills_up(monkeypatch, f"{runs[1].name}.json")
    with pytest.raises(OSError, match=rf"No space left on device: .*{runs[1].name}\.json"):
        run(runs, tmp_path / "né", **some)
    monkeypatch.undo()
    lock = tmp_path / "né" / f".{runs[1].name}.lock"
    assert contents(tmp_path / "né") == before | {lock: b""}  # a lock ends with its process
    assert run(runs, tmp_path / "né", **some)[0] == first
    assert contents(tmp_path / "né").keys() == before.keys() | {tmp_path / "né" / f"{runs[1].name}.json"}


# Places that may be read only


@pytest.fixture
def somebody() -> Iterator[Path]:
    """A folder of somebody without an administrator's rights, as whom the test runs: root may do anything."""
    fuzz.videos()  # imports what it needs while it may
    with tempfile.TemporaryDirectory() as place:
        root = os.geteuid() == 0
        os.chmod(place, 0o777)
        try:
            if root:
                os.seteuid(65534)
        except OSError:
            pytest.skip("root may not become somebody else here")
        try:
            yield Path(place)
        finally:
            if root:
                os.seteuid(0)


def test_a_folder_that_may_only_be_read(somebody: Path):
    """The corpus folder is never written to; a file without permission is left out, a cache without one is an error."""
    folder = somebody / "ein Körper"
    (folder / "joy").mkdir(parents=True)
    for name, suffix in (("a", ".avi"), ("b", ".mkv")):
        (folder / "joy" / f"{name}{suffix}").write_bytes(fuzz.videos()[suffix])
    (folder / "joy" / "b.mkv").chmod(0)
    (folder / "joy").chmod(0o555)
    folder.chmod(0o555)
    with pytest.raises(PermissionError):
        (folder / "x").touch()  # or this test shows nothing
    corpus = Corpus(folder, 16, cache=somebody / "cache")
    assert len(corpus) == 1
    reason = "cannot be read (Permission denied): check its permissions"
    assert corpus.rejected == ((str(Path("joy", "b.mkv")), reason),)
    with pytest.raises(ValueError, match="cannot hold the decoded frames .*name another cache"):
        Corpus(folder, 16, cache=folder / "cache")
    (folder / "joy").chmod(0o777)
    folder.chmod(0o777)


def test_folders_that_cannot_be_opened_are_named(somebody: Path):
    """Neither listed nor entered, or listed only: the rest is read."""
    folder = somebody / "films"
    for name in ("joy", "anger", "sad"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.avi").write_bytes(fuzz.videos()[".avi" if name == "joy" else ".mkv"])
    (folder / "anger").chmod(0)
    (folder / "sad").chmod(0o444)
    corpus = Corpus(folder, 16, cache=somebody / "cache")
    reason = "cannot be opened (Permission denied): check its permissions"
    assert corpus.rejected == (("anger", reason), ("sad", reason)) and corpus.classes == ("joy",)
    for name in ("anger", "sad"):
        (folder / name).chmod(0o777)


# Nothing in a file can run


UNSAFE = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
SUSPICIOUS = re.compile(r"pickle|dill|joblib|shelve|marshal|torch\.load|\b(eval|exec)\(|os\.system|yaml\.load|shell *=")


def test_nothing_is_unpickled():
    """No pickle, no numpy with pickles, and torch.load only for weights: what a file holds is numbers and text."""
    for path in [*(ROOT / "deformlib").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        if not SUSPICIOUS.search(text := path.read_text(encoding="utf-8")):
            continue
        for node in ast.walk(ast.parse(text)):
            where = f"{path.name}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not {name.split(".")[0] for name in named} & UNSAFE, where
            if isinstance(node, ast.Call):
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}
                called = ast.unparse(node.func)
                assert told.get("allow_pickle", "False") == "False", where
                assert called != "torch.load" or told.get("weights_only") == "True", where
                assert called not in ("eval", "exec", "os.system", "yaml.load"), where
                assert told.get("shell", "False") == "False", where


def test_a_pickle_in_the_cache_is_thrown_away(tmp_path: Path):
    """Somebody else's cache may hold anything; an array of objects is made again, never unpickled."""
    (tmp_path / "joy").mkdir()
    (tmp_path / "joy" / "a.avi").write_bytes(fuzz.videos()[".avi"])
    first = Corpus(tmp_path, 16, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.npy")
    np.save(file, np.array([{"a": 1}] * 12, dtype=object))  # as a pickle
    again = Corpus(tmp_path, 16, cache=tmp_path / "cache")
    assert again.videos == first.videos and again.frames(0).dtype == np.uint8


def misfits(said: str) -> list[str]:
    """Those lines of `pip check` that begin with this library or a package of constraints.txt."""

    def spelled(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    ours = {"deformlib"} | {spelled(pin.split("==")[0]) for pin in pins if pin and not pin.startswith("#")}
    return [line for line in said.splitlines() if spelled(line.split(" ")[0]) in ours]


@pytest.mark.slow
def test_installed_packages_fit_together():
    """What `pip check` can say without a network; known holes are the business of pip-audit (CONTRIBUTING.md)."""
    pytest.importorskip("pip")
    names = ("torchvision", "PyYAML", "deformlib", "stranger")
    lines = [f"{name} 1 has requirement torch==2, but you have torch 3." for name in names]
    assert misfits("\n".join(lines)) == lines[:3]
    words = [sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert said.stdout, said.stderr
    assert not misfits(said.stdout)

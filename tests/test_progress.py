"""Progress where nobody watches: a line a minute in a log; the bar stays on a terminal and in a notebook."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import tqdm.std

from deformlib import progress
from deformlib.progress import say, show_progress

LINE = re.compile(r"[^\r\n]+: \d+ of \d+, [\d:]+ gone, [\d:]+ left")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class OutStream(io.StringIO):
    """What ipykernel gives a notebook for stderr, by the name of its module."""

    __module__ = "ipykernel.iostream"


class Clock:
    """The time that tqdm is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(tqdm.std, "time", fake := Clock())
    return fake


@contextmanager
def a_log() -> Iterator[io.StringIO]:
    """Both streams of a scheduler's log."""
    with redirect_stdout(io.StringIO()) as log, redirect_stderr(log):
        yield log


def work(clock: Clock, count: int, seconds: float, **options: object) -> None:
    """Go through `count` things that take so long each."""
    for _ in show_progress(range(count), "filming", disable=False, **options):
        clock.now += seconds


def test_a_log_has_a_line_a_minute(clock: Clock):
    """400 clips of one second: six lines and the end, what is done, how long it took, and how long the rest takes."""
    with a_log() as log:
        work(clock, 400, 1)
    lines = log.getvalue().splitlines()
    assert lines[0] == "filming: 60 of 400, 01:00 gone, 05:40 left" and len(lines) == 7
    assert lines[5:] == ["filming: 360 of 400, 06:00 gone, 00:40 left", "filming: 400 of 400, 06:40 gone, 00:00 left"]
    assert all(LINE.fullmatch(line) for line in lines) and "\r" not in log.getvalue()


def test_what_is_short_says_nothing_and_what_is_slow_speaks_after_each(clock: Clock):
    with a_log() as log:
        work(clock, 59, 1)
        assert log.getvalue() == ""
        work(clock, 3, 90, leave=False)
    assert [line.split(",")[0] for line in log.getvalue().splitlines()] == [f"filming: {n} of 3" for n in (1, 2, 3)]


def test_a_bar_inside_of_another_and_lines_between(clock: Clock):
    """Every line stands alone: neither bar moves the cursor, and what is said redraws none."""
    with a_log() as log:
        for number in show_progress(range(3), "outer", disable=False):
            work(clock, 100, 1, leave=False)
            say(f"{number} is done")
    lines, inner = log.getvalue().splitlines(), "filming: 60 of 100, 01:00 gone, 00:40 left"
    first, second = "outer: 1 of 3, 01:40 gone, 03:20 left", "outer: 2 of 3, 03:20 gone, 01:40 left"
    assert lines[:-1] == [inner, "0 is done", first, inner, "1 is done", second, inner, "2 is done", lines[-1]]
    assert lines[-1] == "outer: 3 of 3, 05:00 gone, 00:00 left"


def test_a_run_that_goes_on_knows_what_was_done_before(clock: Clock):
    with a_log() as log:
        for _ in show_progress(range(900, 1000), "run", 1000, initial=900, disable=False):
            clock.now += 2
    assert log.getvalue().splitlines()[0] == "run: 930 of 1000, 01:00 gone, 02:20 left"


@pytest.mark.parametrize("kind", [Terminal, OutStream])
def test_terminals_and_notebooks_keep_the_bar(kind: type, clock: Clock):
    with redirect_stderr(kind()) as stream:
        work(clock, 4, 1)
    assert stream.getvalue().count("\r") > 3 and "4/4" in stream.getvalue() and "gone" not in stream.getvalue()


def test_what_is_said_is_in_the_file_at_once():
    """A file is written in large blocks unless somebody asks; a log that is read meanwhile would stay empty."""
    with redirect_stdout(io.TextIOWrapper(raw := io.BytesIO())):
        say("one line")
        assert raw.getvalue() == b"one line\n"


def test_there_is_one_way():
    """The library shows progress by show_progress alone; of tqdm others need the lock, in a process to be killed."""
    library, calls = Path(progress.__file__).parent, []
    for path in sorted(library.rglob("*.py")):
        if path.name not in ("progress.py", "_modidx.py"):
            calls += re.findall(r"\btqdm[.\w]*\(|thread_map", path.read_text(encoding="utf-8"))
    assert calls == ["tqdm.set_lock("]

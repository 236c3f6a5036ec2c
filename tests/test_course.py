"""Chapters and their minutes: the formula by hand, a record kept only when asked for, the table for teachers."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import course
import nbformat
import pytest
from exercises import books

README = "| [05 three](notebooks/05_three.ipynb) | `three` | a small one |\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A course of one page, 400 words and 30 lines of code, with the programs that run it and a page for teachers."""
    (tmp_path / "tests" / "tools").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results").mkdir()
    for name in ("course.py", "execute_notebooks.py"):
        shutil.copy(course.ROOT / "tests" / "tools" / name, tmp_path / "tests" / "tools")
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "notebooks" / "TEACHING.md").write_text("A\n\n<!-- minutes -->\nold\n<!-- end of minutes -->\n\nB\n")
    cells = [nbformat.v4.new_markdown_cell("word " * 400), nbformat.v4.new_code_cell("one = 1\n\n" * 30)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks" / "05_three.ipynb")
    return tmp_path


def test_the_map_lists_every_notebook():
    assert [course.ROOT / chapter.path for chapter in course.chapters() if not chapter.is_workshop] == [
        path for path in books() if path.parent.name == "notebooks"
    ]
    assert {course.ROOT / chapter.path for chapter in course.chapters()} == set(books())


def test_minutes_to_read_by_hand(small: Path):
    """400 words / 200 and 30 lines / 15, empty lines not counted: four minutes."""
    assert course.reading_minutes(small / "notebooks" / "05_three.ipynb") == 4


def test_minutes_go_in_steps_of_five_from_ten_on(small: Path):
    """And the program writes them on the card and into the map of chapter 00, whatever stood there."""
    page, start = (small / "notebooks" / name for name in ("05_three.ipynb", "00_start_here.ipynb"))
    card = nbformat.v4.new_markdown_cell("| minutes | 90 to read, 1 to run |\n" + "word " * 3000)
    nbformat.write(nbformat.v4.new_notebook(cells=[card]), page)
    row = nbformat.v4.new_markdown_cell("| [05 three](05_three.ipynb) | `three` | 3 small ones | 7 |")
    nbformat.write(nbformat.v4.new_notebook(cells=[row]), start)
    assert course.reading_minutes(page) == 15
    course.write_cards(course.table(course.chapters(small), small).replace("(notebooks/", "("), small)
    assert "| minutes | 15 to read, 1 to run |" in page.read_text()
    assert "| `three` | 3 small ones | 15 |" in start.read_text()


def run(small: Path, *words: str) -> subprocess.CompletedProcess:
    """The runner on the one page."""
    command = [sys.executable, small / "tests/tools/execute_notebooks.py", *words]
    return subprocess.run(command, cwd=small, capture_output=True, text=True, check=False)


def test_the_runner_keeps_minutes_when_asked(small: Path):
    """With --minutes alone; record, table and sentence then tell them."""
    assert run(small, "notebooks/05_three.ipynb").returncode == 0
    assert not (small / "results" / "minutes.json").exists()
    assert course.table(course.chapters(small), small).endswith("| a small one | 4 | – |\n")
    assert "to run are not measured yet" in course.source(small)
    assert run(small, "--minutes", "notebooks/05_three.ipynb").returncode == 0
    record = json.loads((small / "results" / "minutes.json").read_text())
    assert record["processor"] == course.processor() != ""
    kept = record["pages"]["notebooks/05_three.ipynb"]
    assert kept["read"] == 4 and 0.1 <= kept["run"] < 5
    text = (small / "notebooks" / "TEACHING.md").read_text()
    assert f"| [05 three](05_three.ipynb) | a small one | 4 | {kept['run']} |" in text and "old" not in text
    assert course.processor() in text and text.startswith("A\n") and text.endswith("B\n")


def test_minutes_of_two_machines_are_not_mixed(small: Path):
    """Nor those of a page without a row; one sentence says what to do, before anything runs."""
    page = small / "notebooks" / "05_three.ipynb"
    (small / "results" / "minutes.json").write_text('{"processor": "an abacus", "pages": {}}')
    with pytest.raises(course.MinutesError, match="is of an abacus, this is .*: delete it to measure all anew"):
        course.keep(page, 60, small)
    before = page.read_bytes()
    done = run(small, "--minutes", "notebooks/05_three.ipynb")
    assert done.returncode == 2 and "an abacus" in done.stderr and page.read_bytes() == before
    with pytest.raises(course.MinutesError, match="has no row in README's map"):
        course.keep(small / "README.md", 60, small)


def test_teachers_read_the_minutes_of_the_record():
    """And minutes to read that are not far from those of the pages as they are now."""
    text = (course.ROOT / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
    block = text.split("<!-- minutes -->\n")[1].split("<!-- end of minutes -->")[0]
    assert block.startswith(course.source()), "python tests/tools/course.py writes it anew"
    rows = re.findall(r"^\| \[(.+?)\]\((.+?)\) \| .+ \| (\d+) \| (\S+) \|$", block, re.M)
    assert [row[1] for row in rows] == [path.name for path in books() if path.parent.name == "notebooks"]
    pages = course.record()["pages"]
    for title, name, read, ran in rows:
        assert ran == str(pages.get(f"notebooks/{name}", {"run": course.UNKNOWN})["run"]), title
        now = course.reading_minutes(course.ROOT / "notebooks" / name)
        assert abs(int(read) - now) <= 5, f"{title}: {now} minutes by now; python tests/tools/course.py writes them"

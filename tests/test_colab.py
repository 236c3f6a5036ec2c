"""The badges and set-up cells follow the repository in which the course lies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deformlib.colab import find_results
from deformlib.paper.commands import main
from deformlib.paper.copy import ADDRESS, rewrite

COURSE = Path(__file__).parent.parent


def test_every_address_is_rewritten_and_back(tmp_path: Path):
    """In chapters, workshop, README and the page about Colab; nothing else in them changes."""
    (tmp_path / "notebooks" / "workshop").mkdir(parents=True)
    kept = {}
    pages = COURSE / "README.md", COURSE / "notebooks" / "COLAB.md"
    for path in (*COURSE.glob("notebooks/**/*.ipynb"), *pages):
        name = path.relative_to(COURSE)
        shutil.copy(path, tmp_path / name)
        kept[name] = path.read_bytes()
    home = ADDRESS.search((COURSE / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))[1]
    assert len(rewrite(tmp_path, "ann-lee/my.course")) == len(kept)
    for name in kept:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert home not in text and "github.com/ann-lee/my.course" in text
        badges = ADDRESS.findall(text)
        assert badges and set(badges) == {"ann-lee/my.course"}
    assert rewrite(tmp_path, "ann-lee/my.course") == []
    rewrite(tmp_path, home)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


def test_the_command_rewrites_the_course_in_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """As `python -m deformlib colab`; the old `python -m deformlib.colab` does the same and says so."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "notebooks" / "00.ipynb"
    path.write_text("git+https://github.com/OWNER/deformlib")
    assert main(["colab", "a/b"]) == 0 and path.read_text() == "git+https://github.com/a/b"
    assert capsys.readouterr().out.startswith("1 files now point to github.com/a/b")
    command = [sys.executable, "-m", "deformlib.colab", "c/d"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(COURSE)}, capture_output=True, text=True)
    assert done.returncode == 0 and path.read_text() == "git+https://github.com/c/d"
    assert "python -m deformlib colab" in done.stderr


@pytest.mark.parametrize("word", ["nobody", "a/b/c", "https://github.com/a/b"])
def test_what_is_no_repository_is_refused_in_one_sentence(word: str, capsys):
    """With what to write instead."""
    assert main(["colab", word]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {word}") and said.count("\n") == 1


def test_a_notebook_that_may_not_be_changed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """By its name."""
    (tmp_path / "notebooks" / "00.ipynb").mkdir(parents=True)  # no file, so it cannot be read
    monkeypatch.chdir(tmp_path)
    assert main(["colab", "a/b"]) == 1
    assert "00.ipynb" in capsys.readouterr().err


def test_a_folder_without_notebooks_is_refused(tmp_path: Path):
    """It is no course."""
    with pytest.raises(ValueError, match="holds no notebooks"):
        rewrite(tmp_path, "a/b")


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for GitHub, and an empty one to work in."""
    for name, value in {
        "COUNT": "1",
        "KEY_0": f"url.{(tmp_path / 'github').as_uri()}/.insteadOf",
        "VALUE_0": "https://github.com/",
    }.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # as a hook of git sets them
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "github"


def test_a_notebook_alone_finds_the_records_in_a_clone(github: Path):
    """Made once; records that lie beside the notebook come first."""
    course = github / "ann-lee" / "course"
    (course / "results" / "example-classroom").mkdir(parents=True)
    (course / "results" / "example-classroom" / "run.json").write_text("{}")
    Path("results").mkdir()  # as a study leaves it: no records of the course
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "records"]):
        subprocess.run(["git", *words], cwd=course, check=True)
    assert (find_results("ann-lee/course") / "example-classroom" / "run.json").is_file()
    shutil.rmtree(github)
    assert (find_results("ann-lee/course") / "example-classroom" / "run.json").is_file(), "cloned a second time"
    Path("results", "example-classroom").mkdir()
    assert find_results("ann-lee/course") == Path("results")


def test_records_that_cannot_be_had_are_missed_in_one_sentence(github: Path):
    """And nothing is left lying about."""
    with pytest.raises(FileNotFoundError, match="OWNER/deformlib cannot be cloned.*copy of the whole course"):
        find_results("OWNER/deformlib")
    assert not list(Path().iterdir())

"""The badges and set-up cells follow the repository in which the course lies."""

import shutil
import subprocess
from pathlib import Path

import pytest

from deformlib.colab import ADDRESS, find_results, main, rewrite

COURSE = Path(__file__).parent.parent


def test_every_address_is_rewritten_and_back(tmp_path: Path):
    (tmp_path / "notebooks").mkdir()
    kept = {}
    for path in (*COURSE.glob("notebooks/*.ipynb"), COURSE / "README.md"):
        name = path.relative_to(COURSE)
        shutil.copy(path, tmp_path / name)
        kept[name] = path.read_bytes()
    home = ADDRESS.search((COURSE / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8"))[1]
    assert len(rewrite(tmp_path, "ann-lee/my.course")) == len(kept)
    for name in kept:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert name.suffix == ".md" or f"colab.research.google.com/github/ann-lee/my.course/blob/main/{name.as_posix()}" in text
        assert "git+https://github.com/ann-lee/my.course" in text and home not in text
    assert rewrite(tmp_path, "ann-lee/my.course") == []
    rewrite(tmp_path, home)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("words", [[], ["nobody"], ["a/b/c"], ["https://github.com/a/b"]])
def test_what_is_no_repository_is_refused_in_one_sentence(words: list[str], capsys):
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_notebook_that_may_not_be_changed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "notebooks" / "00.ipynb").mkdir(parents=True)  # no file, so it cannot be read
    monkeypatch.chdir(tmp_path)
    assert main(["a/b"]) == 1
    assert "00.ipynb" in capsys.readouterr().err


def test_a_folder_without_notebooks_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no notebooks"):
        rewrite(tmp_path, "a/b")


@pytest.fixture
def github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for GitHub, and an empty one to work in."""
    for name, value in {"COUNT": "1", "KEY_0": f"url.{(tmp_path / 'github').as_uri()}/.insteadOf", "VALUE_0": "https://github.com/"}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # as a hook of git sets them
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "github"


def test_a_notebook_alone_finds_the_records_in_a_clone(github: Path):
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
    with pytest.raises(FileNotFoundError, match="OWNER/deformlib cannot be cloned.*copy of the whole course"):
        find_results("OWNER/deformlib")
    assert not list(Path().iterdir())

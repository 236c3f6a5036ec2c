"""The badges and set-up cells follow the repository in which the course lies."""

import shutil
from pathlib import Path

import pytest

from deformlib.colab import main, rewrite

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def test_every_badge_and_set_up_cell_is_rewritten_and_back(tmp_path: Path):
    kept = {}
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, tmp_path)
        kept[path.name] = path.read_bytes()
    assert len(rewrite(tmp_path, "ann-lee/my.course")) == len(kept)
    for name, before in kept.items():
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert f"colab.research.google.com/github/ann-lee/my.course/blob/main/notebooks/{name}" in text
        assert "git+https://github.com/ann-lee/my.course" in text and "OWNER/deformlib" not in text
    assert rewrite(tmp_path, "ann-lee/my.course") == []
    rewrite(tmp_path, "OWNER/deformlib")
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.ipynb")} == kept


@pytest.mark.parametrize("words", [[], ["nobody"], ["a/b/c"], ["https://github.com/a/b"]])
def test_what_is_no_repository_is_refused_in_one_sentence(words: list[str], capsys):
    assert main(words) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_without_notebooks_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no notebooks"):
        rewrite(tmp_path, "a/b")

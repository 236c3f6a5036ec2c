"""Notebooks for students: cleared, without answers, exercises that fail on the blank and pass when answered."""

import re
from pathlib import Path

import nbformat
import pytest
import students
from exercises import NOTEBOOKS, answers, books, code, exercises, is_misspelt
from nbclient import NotebookClient

BLANK = "raises-exception"


def blanks(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that a student fills in."""
    return [cell for cell in book.cells if BLANK in cell.metadata.get("tags", [])]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All notebooks as students get them."""
    folder = tmp_path_factory.mktemp("course") / "students"
    students.write(folder)
    return folder


def test_they_are_cleared_and_whole(folder: Path):
    """All notebooks, all their cells; no output, each block of an exercise a cell of its own, no answer."""
    assert {path.relative_to(folder) for path in folder.rglob("*.ipynb")} == {
        path.relative_to(NOTEBOOKS) for path in books()
    }
    for path in books():
        book = nbformat.read(folder / path.relative_to(NOTEBOOKS), as_version=4)
        nbformat.validate(book)
        cells = [cell for cell in book.cells if cell.cell_type == "code"]
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        given = [block.strip() for text in exercises(path).values() for block in code(text)]
        assert [cell.source for cell in blanks(book)] == given, path.stem
        kept = {cell.source for cell in nbformat.read(path, as_version=4).cells if "## Exercises" not in cell.source}
        assert kept <= {cell.source for cell in book.cells}, path.stem
        whole = "\n".join(cell.source for cell in book.cells)
        for text in answers(path).values():
            assert not any(block.strip() in whole for block in code(text)), path.stem
            words = re.sub(r"```.*?```|<.*?>", "", text, flags=re.S).strip()
            assert not words or words not in whole, path.stem


def test_the_cell_that_removes_the_folder_comes_last(folder: Path):
    """In the stored chapter it stands before the exercises, which would find nothing."""
    book = nbformat.read(folder / "02_frame_sampling.ipynb", as_version=4)
    assert "cleanup()" in book.cells[-1].source and blanks(book)


def test_no_work_is_written_over(folder: Path, capsys):
    path = folder / "02_frame_sampling.ipynb"
    before = path.read_bytes()
    assert students.main([str(folder)]) == 1 and path.read_bytes() == before
    assert re.fullmatch(r"error: .*somebody's answers: name another folder or delete it\.\n", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_frame_sampling", "05_conv3d"])
def test_a_blank_fails_and_an_answer_passes(folder: Path, name: str):
    """The notebook runs as it stands; then with each blank filled in as the worked answers have it."""
    path = folder / f"{name}.ipynb"
    place = {"resources": {"metadata": {"path": str(folder)}}, "timeout": 300, "kernel_name": "python3"}
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, **place).execute()
    for cell in blanks(book):
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        assert errors and not is_misspelt(errors[0]), cell.source
    given = [block for text in answers(NOTEBOOKS / path.name).values() for block in code(text)]
    assert len(blanks(book)) == len(given) >= 3
    for cell, block in zip(blanks(book), given, strict=True):
        cell.source, cell.metadata["tags"] = block, []
    NotebookClient(book, **place).execute()  # raises what a cell raises

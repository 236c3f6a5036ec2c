"""Every exercise's check fails on the blank and passes on the worked answer, in the state in which its chapter ends."""

import builtins
import json
import re
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
CHAPTERS = [path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")) if "## Exercises" in path.read_text(encoding="utf-8")]


def numbered(text: str, mark: str) -> dict[int, str]:
    """The parts of a text that begin with a number after `mark` at the start of a line: number -> part."""
    starts = list(re.finditer(rf"^{mark}(\d+)\.", text, re.M))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {int(start[1]): text[start.start() : end] for start, end in zip(starts, ends)}


def code(text: str) -> list[str]:
    """The Python blocks of a Markdown text, with the margin of a list item taken away."""
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S)]


def checks(block: str) -> list[str]:
    """What an exercise asserts, however it is indented."""
    return [line.strip() for line in block.splitlines() if line.strip().startswith("assert ")]


def exercises(chapter: Path) -> dict[int, str]:
    """The exercises of a notebook by number."""
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return numbered(text.split("\n## Exercises", 1)[1].split("\n## References", 1)[0], r"(?:\*\*)?")


def is_misspelt(name: str) -> bool:
    """Whether an error of this name means that the exercise itself is wrong: a typo, a missing name or import."""
    return issubclass(getattr(builtins, name, Exception), (NameError, SyntaxError, ImportError))


def test_a_typo_is_not_a_blank():
    """A name that is not there, broken syntax or a missing module are mistakes of ours; any other error may be the blank's."""
    assert all(map(is_misspelt, ("NameError", "UnboundLocalError", "SyntaxError", "IndentationError", "ModuleNotFoundError")))
    assert not any(map(is_misspelt, ("AssertionError", "TypeError", "CorpusError")))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_checks_fail_on_the_blank_and_pass_on_the_answer(chapter: Path):
    """The chapter's code runs first, without the cell that removes its folder; then each blank, then each answer."""
    path = NOTEBOOKS / "answers" / f"{chapter.stem}.md"
    assert path.exists(), f"{chapter.name} has exercises but no worked answers: write notebooks/answers/{path.name}"
    asked, answered = exercises(chapter), numbered(path.read_text(encoding="utf-8"), "<details><summary>")
    assert asked.keys() == answered.keys(), "an exercise without an answer, or the other way round"
    book = nbformat.read(chapter, as_version=4)
    book.cells = [cell for cell in book.cells if cell.cell_type == "code" and "cleanup()" not in cell.source]
    states = ["chapter"] * len(book.cells)
    for number in asked:
        blanks, worked = code(asked[number]), code(answered[number])
        assert [check for block in blanks for check in checks(block)] == [check for block in worked for check in checks(block)], number
        for state, block in [("blank", block) for block in blanks] + [("answer", block) for block in worked]:
            book.cells.append(nbformat.v4.new_code_cell(block))
            states.append(f"{state} {number}")
    NotebookClient(book, timeout=300, allow_errors=True, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    for cell, state in zip(book.cells, states):
        raised = [output for output in cell.outputs if output.output_type == "error"]
        errors = [f"{output.ename}: {output.evalue}" for output in raised]
        if state.startswith("blank"):
            assert errors, f"{path.stem}, exercise {state.split()[1]}: the check passes on the blank"
            assert not any(is_misspelt(output.ename) for output in raised), f"{path.stem}, exercise {state.split()[1]}: {errors}"
        elif "raises-exception" not in cell.metadata.get("tags", []):
            assert not errors, f"{path.stem}, {state}: {errors}"

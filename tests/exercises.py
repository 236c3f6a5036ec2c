"""Exercises of the notebooks and their worked answers, and nbval's collector with both: a chapter and its exercises
run in one kernel, once.
"""

import ast
import builtins
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile, NbCellError

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def books() -> list[Path]:
    """All notebooks: the main line, then the workshop."""
    return [*sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), *sorted(NOTEBOOKS.glob("workshop/*.ipynb"))]


def answers_of(book: Path) -> Path:
    """Where the worked answers to a notebook's exercises lie."""
    part = "workshop_" if book.parent.name == "workshop" else ""
    return NOTEBOOKS / "answers" / f"{part}{book.stem}.md"


def numbered(text: str, mark: str) -> dict[int, str]:
    """The parts of a text that begin with a number after `mark` at the start of a line: number -> part."""
    starts = list(re.finditer(rf"^{mark}(\d+)\.", text, re.M))
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {int(start[1]): text[start.start() : end] for start, end in zip(starts, ends, strict=False)}


def exercises(book: Path) -> dict[int, str]:
    """The exercises of a notebook by number; none if it has no such heading."""
    cells = nbformat.read(book, as_version=4).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    if "\n## Exercises" not in text:
        return {}
    return numbered(text.split("\n## Exercises", 1)[1].split("\n## References", 1)[0], r"(?:\*\*)?")


def answers(book: Path) -> dict[int, str]:
    """The worked answers of a notebook by number."""
    path = answers_of(book)
    return numbered(path.read_text(encoding="utf-8"), "<details><summary>") if path.exists() else {}


def code(text: str) -> list[str]:
    """The Python blocks of a Markdown text, with the margin of a list item taken away."""
    return [textwrap.dedent(block) for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S)]


def checks(block: str) -> list[str]:
    """What an exercise asserts, however it is laid out."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Assert)]


def is_misspelt(name: str) -> bool:
    """Whether an error of this name means that the exercise itself is wrong: a typo, a missing name or import."""
    return issubclass(getattr(builtins, name, Exception), (NameError, SyntaxError, ImportError))


class Blank(IPyNbCell):
    """An exercise as it is given: its check must fail, and by an error that is no mistake of ours."""

    def runtest(self) -> None:
        """Run the cell and look at its error."""
        try:
            super().runtest()
        except NbCellError:
            (error,) = (output for output in self.test_outputs if output.output_type == "error")
            if is_misspelt(error.ename):
                raise
        else:
            raise NbCellError(self.cell_num, "The check passes on the blank", self.cell.source)


class Chapter(IPyNbFile):
    """A notebook with its exercises: each blank and each answer, in the state in which the chapter ends."""

    def collect(self) -> Iterator[pytest.Item]:
        """The cells of the notebook; the exercises go before the cell that removes its folder."""
        cells, extra = list(super().collect()), []
        asked, answered = exercises(self.path), answers(self.path)
        for number in asked:
            parts = [(Blank, "blank", block) for block in code(asked[number])]
            parts += [(IPyNbCell, "answer", block) for block in code(answered.get(number, ""))]
            for kind, word, block in parts:
                cell, options = nbformat.v4.new_code_cell(block), defaultdict(bool)
                name = f"Exercise {number}, {word}"
                extra.append(kind.from_parent(self, name=name, cell_num=len(cells), cell=cell, options=options))
        last = next((place for place, item in enumerate(cells) if "cleanup()" in item.cell.source), len(cells))
        yield from [*cells[:last], *extra, *cells[last:]]

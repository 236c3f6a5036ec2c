"""The notebooks as students get them: no outputs, no answers, each exercise a cell to fill in (make students).

An exercise's cell fails until it is answered; it is tagged so that "run all" goes on after it.
"""

import re
import sys
from pathlib import Path

import nbformat

sys.path.insert(0, str(Path(__file__).parents[1]))
from exercises import NOTEBOOKS, books, code

BLOCK = re.compile(r"^ *```python\n.*?^ *```[ \t]*\n?", re.M | re.S)  # as exercises.code reads them


class StudentsError(ValueError):
    """Notebooks that cannot be written; the message says why and what to do."""


def for_students(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Clear a notebook, make its exercises cells, and let the cell that removes its folder come after them."""
    cells, last = [], []
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            (last if "cleanup()" in cell.source else cells).append(cell)
            continue
        before, heading, rest = cell.source.partition("## Exercises\n")
        asked, mark, after = rest.partition("\n## References")
        if not heading:
            cells.append(cell)
            continue
        parts = [before + heading]
        for text, block in zip(BLOCK.split(asked), [*BLOCK.findall(asked), ""], strict=True):
            parts[-1] += text
            parts += [block, ""] if block else []
        parts[-1] += mark + after
        for number, part in enumerate(parts):
            if number % 2:
                blank = nbformat.v4.new_code_cell(code(part)[0].strip(), metadata={"tags": ["raises-exception"]})
            else:
                blank = nbformat.v4.new_markdown_cell(part.strip())
            blank.id = f"{cell.id}-{number}"  # the same each time
            cells += [blank] if blank.source else []
    book.cells = cells + last
    return book


def write(folder: Path) -> list[Path]:
    """Write all notebooks for students into a folder, which gets a folder workshop; return the files.

    Raises StudentsError if one of them is there already: somebody's answers may be in it.
    """
    written = {book: folder / book.relative_to(NOTEBOOKS) for book in books()}
    for target in written.values():
        if target.exists():
            raise StudentsError(f"{target} exists, perhaps with somebody's answers: name another folder or delete it.")
    for book, target in written.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(for_students(nbformat.read(book, as_version=4)), target)
    return list(written.values())


def main(words: list[str]) -> int:
    """Write them into the folder named on the command line, or into students/ beside notebooks/."""
    folder = Path(words[0]) if words else NOTEBOOKS.parent / "students"
    try:
        print(f"{len(write(folder))} notebooks without outputs and answers are in {folder}")
    except (StudentsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

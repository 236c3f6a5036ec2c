"""Point Colab badges, set-up cells and README at your own copy of the course: `python -m deformlib colab OWNER/NAME`."""

import re
from pathlib import Path

from ..files import DeformlibError, atomic_write

ADDRESS = re.compile(r"(?:colab\.research\.google\.com/github|git\+https://github\.com)/([\w.-]+/[\w.-]+)")


class ColabError(DeformlibError, ValueError):
    """A copy of the course that cannot be found or named; the message says what to do."""


def rewrite(folder: Path, repository: str) -> list[Path]:
    """Let notebooks, README and COLAB.md of the course in `folder` open, install and fetch from `repository` (OWNER/NAME).

    Returns the files that changed. Raises ColabError for a name that is no OWNER/NAME, or if there are no notebooks.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ColabError(f"{repository} is no OWNER/NAME: give account and name of your copy, as in its address.")
    notebooks = [*sorted(folder.glob("notebooks/*.ipynb")), *sorted(folder.glob("notebooks/workshop/*.ipynb"))]
    if not notebooks:
        raise ColabError(f"{folder.resolve()} holds no notebooks: call this in the folder of the project.")
    changed = []
    for path in (*notebooks, *folder.glob("notebooks/COLAB.md"), *folder.glob("README.md")):
        text = path.read_text(encoding="utf-8")
        now = ADDRESS.search(text)
        if now and now[1] != repository:
            with atomic_write(path) as beside:
                beside.write_text(text.replace(now[1], repository), encoding="utf-8")
            changed.append(path)
    return changed

"""Point Colab badges, set-up cells and README at your own copy: python -m deformlib.colab OWNER/REPOSITORY."""

import os
import re
import subprocess
import sys
from pathlib import Path

from .bodies import replacing

ADDRESS = re.compile(r"(?:colab\.research\.google\.com/github|git\+https://github\.com)/([\w.-]+/[\w.-]+)")


def rewrite(folder: Path, repository: str) -> list[Path]:
    """Let notebooks and README of the course in `folder` open, install and fetch from `repository` (OWNER/NAME), wherever they do now.

    Returns the files that changed. Raises ValueError for a name that is no OWNER/NAME, or if there are no notebooks.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ValueError(f"{repository} is no OWNER/NAME: give the account and the name of your copy, as in its address.")
    notebooks = sorted(folder.glob("notebooks/*.ipynb"))
    if not notebooks:
        raise ValueError(f"{folder.resolve()} holds no notebooks: call this in the folder of the project.")
    changed = []
    for path in (*notebooks, *folder.glob("README.md")):
        text = path.read_text(encoding="utf-8")
        now = ADDRESS.search(text)
        if now and now[1] != repository:
            with replacing(path) as beside:
                beside.write_text(text.replace(now[1], repository), encoding="utf-8")
            changed.append(path)
    return changed


def find_results(repository: str) -> Path:
    """The committed run records: of the course in which the notebook lies, else of a clone of `repository` (OWNER/NAME), made once.

    Raises FileNotFoundError if the notebook lies alone and the repository cannot be cloned.
    """
    for folder in (Path("../results"), Path("results"), Path("course/results")):
        if any(folder.glob("example-*")):
            return folder
    command = ["git", "clone", "--quiet", "--depth", "1", f"https://github.com/{repository}", "course"]
    try:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"})
    except (OSError, subprocess.CalledProcessError):
        raise FileNotFoundError(
            f"This chapter reads records that lie beside it in the course, and {repository} cannot be cloned from GitHub: "
            "open the chapter in a copy of the whole course."
        ) from None
    return Path("course/results")


def main(words: list[str]) -> int:
    """Rewrite the course in the current folder; 0, or 1 after saying what is wrong."""
    try:
        if len(words) != 1:
            raise ValueError("Name your copy: python -m deformlib.colab OWNER/REPOSITORY")
        changed = rewrite(Path(), words[0])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(changed)} files now point to github.com/{words[0]}; commit them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Point the notebooks' Colab badges and set-up cells at your own copy: python -m deformlib.colab OWNER/REPOSITORY."""

import re
import sys
from pathlib import Path

from .bodies import replacing

BADGE = re.compile(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/")


def rewrite(folder: Path, repository: str) -> list[Path]:
    """Let every notebook in `folder` open, install and fetch from `repository` (OWNER/NAME), not from where its badge points now.

    Returns the notebooks that changed. Raises ValueError for a name that is no OWNER/NAME, or if the folder holds no notebook.
    """
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ValueError(f"{repository} is no OWNER/NAME: give the account and the name of your copy, as in its address.")
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        raise ValueError(f"{folder} holds no notebooks: call this in the folder of the project.")
    changed = []
    for path in notebooks:
        text = path.read_text(encoding="utf-8")
        badge = BADGE.search(text)
        if badge and badge[1] != repository:
            with replacing(path) as beside:
                beside.write_text(text.replace(badge[1], repository), encoding="utf-8")
            changed.append(path)
    return changed


def main(words: list[str]) -> int:
    """Rewrite the notebooks of the current folder; 0, or 1 after saying what is wrong."""
    try:
        if len(words) != 1:
            raise ValueError("Name your copy: python -m deformlib.colab OWNER/REPOSITORY")
        changed = rewrite(Path("notebooks"), words[0])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(changed)} notebooks now open from github.com/{words[0]}; commit them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A notebook as a text file beside it, and back: make edit NB=05, change it, make edit NB=05 again."""

import subprocess
import sys
from pathlib import Path


def main(words: list[str]) -> int:
    """Write NAME.py for a notebook, or, if there is one, take its changes over and remove it; outputs of changed cells
    are old.
    """
    if not words:
        print("error: no such notebook: name one by the start of its file name, as in make edit NB=05", file=sys.stderr)
        return 1
    book = Path(words[0])
    text = book.with_suffix(".edit.py")
    jupytext = Path(sys.executable).with_name("jupytext")
    if text.exists():
        subprocess.run([jupytext, "--quiet", "--update", "--to", "ipynb", "-o", book, text], check=True)
        text.unlink()
        print(f"{book} has the changes; run it: make notebooks NB={book.stem}")
    else:
        subprocess.run([jupytext, "--quiet", "--to", "py:percent", "-o", text, book], check=True)
        print(f"{text}: change it, then call make edit again")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

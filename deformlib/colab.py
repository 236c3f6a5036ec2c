"""Where a notebook, on Colab or elsewhere, finds the committed run records of the course."""

import os
import runpy
import subprocess
import sys
from pathlib import Path


def find_results(repository: str) -> Path:
    """The committed run records: of the course in which the notebook lies, else of a clone of `repository`, made once.

    Raises FileNotFoundError if the notebook lies alone and the repository (OWNER/NAME) cannot be cloned.
    """
    for folder in map(Path, ("../results", "../../results", "results", "course/results")):
        if any(folder.glob("example-*")):
            return folder
    command = ["git", "clone", "--quiet", "--depth", "1", f"https://github.com/{repository}", "course"]
    try:
        subprocess.run(command, check=True, capture_output=True, env=os.environ | {"GIT_TERMINAL_PROMPT": "0"})
    except (OSError, subprocess.CalledProcessError):
        missing = f"This chapter reads records of the course, and {repository} cannot be cloned from GitHub"
        raise FileNotFoundError(f"{missing}: open it in a copy of the whole course (OWNER: see README).") from None
    return Path("course/results")


if __name__ == "__main__":
    print("`python -m deformlib.colab` is now `python -m deformlib colab`; the old one goes soon", file=sys.stderr)
    sys.argv[1:1] = ["colab"]
    runpy.run_module("deformlib", run_name="__main__")

"""How far long work is: tqdm's bar on a terminal and in a notebook, in a log a line a minute."""

import sys
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm


def show_progress(*arguments: Any, **options: Any) -> tqdm:
    """tqdm(*arguments, **options); where stderr is neither terminal nor notebook, a line a minute instead of a bar."""

    def write(text: str) -> None:  # what tqdm begins with a carriage return is the state of the bar
        if text.startswith("\r") and text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    if not (sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")):
        line = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"
        options.update(file=SimpleNamespace(write=write), bar_format=line, mininterval=60, miniters=1, delay=60)
    return tqdm(*arguments, **options)


def say(line: str) -> None:
    """Print a line above all bars, and into a log at once."""
    tqdm.write(line)
    sys.stdout.flush()

"""The course's jobs for people without make: python -m deformlib --help."""

import sys

from .paper.commands import main

if __name__ == "__main__":
    sys.exit(main())

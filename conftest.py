"""Settings for every test and for the notebook kernels that nbval starts."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.exercises import Chapter

os.environ["TQDM_DISABLE"] = "1"  # progress bars are for people; stored outputs have none
os.environ["PYTHONHASHSEED"] = "0"
os.environ["OMP_NUM_THREADS"] = "1"  # two workers share two cores, and sums do not depend on the number of threads


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, list, list]:
    """nbval's notebooks with their exercises, so that a chapter need not run twice."""
    found = yield
    if getattr(parent.config.option, "nbval", False) and file_path.suffix == ".ipynb":
        return [Chapter.from_parent(parent, path=file_path)]
    return found

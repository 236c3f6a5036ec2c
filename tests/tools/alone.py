"""Each chapter as a reader on Colab has it: one notebook in an empty folder, the wheel, and the records in a clone.

`make alone` takes the course's own environment; `OTHER/bin/python tests/tools/alone.py` any other with what
pyproject.toml asks for,
such as one with Colab's PyTorch, ipywidgets 7.7 and Python 3.12. A clone of this repository, as committed, stands for
GitHub.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).parent.parent.parent
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
"""


def wheel(place: Path) -> Path:
    """The folder of a wheel that is built from the committed files, as pip would unpack it."""
    source = place / "source"
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), source], check=True)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (built,) = place.glob("deformlib-*.whl")
    zipfile.ZipFile(built).extractall(place / "wheel")
    return place / "wheel"


def alone(notebook: Path, place: Path, env: dict[str, str]) -> str:
    """Run a notebook in an empty folder; "" or the last line of what went wrong."""
    folder = place / notebook.stem
    folder.mkdir()
    shutil.copy(notebook, folder)
    done = subprocess.run(
        [sys.executable, "-c", RUN, notebook.name], cwd=folder, env=env, check=False, capture_output=True, text=True
    )
    lines = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr).strip().splitlines()
    return lines[-1] if done.returncode else ""


def all_books() -> list[Path]:
    """The notebooks of the main line and of the workshop."""
    folder = ROOT / "notebooks"
    return [*sorted(folder.glob("[0-9]*.ipynb")), *sorted(folder.glob("workshop/*.ipynb"))]


def main() -> int:
    """Run the notebooks named on the command line, or all of both folders; how many failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=all_books())
    chosen, failed = parser.parse_args().notebooks, 0
    print(
        f"Python {sys.version.split()[0]},",
        ", ".join(f"{name} {version(name)}" for name in ("torch", "ipywidgets", "numpy")),
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        library = wheel(place)
        (place / "github" / "OWNER").mkdir(parents=True)
        (place / "github" / "OWNER" / "deformlib").symlink_to(place / "source")
        env = os.environ | {
            "PYTHONPATH": str(library),
            "OMP_NUM_THREADS": "1",
            "TQDM_DISABLE": "1",
            "GIT_CONFIG_COUNT": "1",
        }
        env |= {
            "GIT_CONFIG_KEY_0": f"url.{(place / 'github').as_uri()}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
        }
        used = subprocess.run(
            [sys.executable, "-c", "import deformlib; print(deformlib.__file__)"],
            cwd=place,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert Path(used.stdout.strip()).is_relative_to(library), f"not the wheel but {used.stdout}"
        for notebook in tqdm(chosen, "alone"):
            started = time.monotonic()
            problem = alone(notebook, place, env)
            failed += bool(problem)
            tqdm.write(f"{notebook.name:36} {time.monotonic() - started:5.0f} s  {problem or 'runs'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())

"""The ways to install say the same."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parent.parent


def test_conda_gives_what_make_gives():
    """environment.yml brings Python and pip alone and installs this project at the pinned versions."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, lines = environment["dependencies"]
    supported = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert supported == ">=3.10" and re.fullmatch(r"python=3\.1[0-3]", python) and pip == "pip"
    assert lines == {"pip": ["-c constraints.txt", "-e .[dev]"]}


def test_pins_lie_in_the_declared_ranges():
    """Every dependency has a pin, every pin is a dependency (or the kernel), and the installed version is the pinned one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["dev"]}
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert {line.split("==")[0] for line in pins} == declared | {"ipykernel"}


def test_help_is_quick_and_names_the_jobs():
    """`python -m deformlib --help` imports nothing heavy."""
    code = "import sys, deformlib.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "False"
    for job in ("corpus", "reproduce", "table", "predict"):
        assert re.search(rf"^\s+{job}\s", said, re.M)

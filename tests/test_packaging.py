"""The ways to install say the same."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from gallery import results

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
    """Every dependency has a pin, every pin is a dependency (or the kernel), and the installed version is the pinned
    one.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {
        re.match(r"[\w-]+", line)[0] for line in project["dependencies"] + project["optional-dependencies"]["dev"]
    }
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert {line.split("==")[0] for line in pins} == declared | {"ipykernel"}


def test_the_wheel_works_without_the_course(tmp_path: Path):
    """Source distribution, then a wheel from it, without a network; all modules and data files are in it, and it knows
    its jobs at once.
    """
    if (
        int(version("setuptools").split(".")[0]) < 77
    ):  # asked of its metadata: to import it here fails where another test has imported distutils
        pytest.skip("needs setuptools 77 or newer, as pyproject.toml does")
    source = tmp_path / "source"
    shutil.copytree(
        ROOT / "deformlib", source / "deformlib", ignore=shutil.ignore_patterns("__pycache__", "_modidx.py")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_{}('..')"
    subprocess.run([sys.executable, "-c", build.format("sdist")], cwd=source, check=True, capture_output=True)
    (packed,) = tmp_path.glob("deformlib-*.tar.gz")
    shutil.unpack_archive(packed, tmp_path)
    folder = tmp_path / packed.name.removesuffix(".tar.gz")
    subprocess.run([sys.executable, "-c", build.format("wheel")], cwd=folder, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("deformlib-*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == {path.relative_to(source).as_posix() for path in (source / "deformlib").rglob("*") if path.is_file()}
    assert (
        f"deformlib-{re.search('__version__ = .(.*).$', (ROOT / 'deformlib/__init__.py').read_text(), re.M)[1]}-"
        in wheel.name
    )
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    code = "import sys, deformlib.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(m.__file__, 'torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    ).stdout
    assert said.splitlines()[-1] == f"{tmp_path / 'installed/deformlib/__main__.py'} False"
    for job in ("corpus", "inspect", "study", "reproduce", "table", "report", "align", "predict"):
        assert re.search(rf"\b{job}\b", said), job


def test_the_changelog_and_the_package_name_one_version():
    """The newest version of CHANGELOG.md is that of pyproject.toml."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert next(each for each in versions if each != "Unreleased") == version


def test_the_table_in_the_readme_is_the_records_own():
    """`make gallery` writes it; whoever changes the records or the table by hand is told."""
    assert f"<!-- results -->\n{results()}<!-- end of results -->" in (ROOT / "README.md").read_text(encoding="utf-8")

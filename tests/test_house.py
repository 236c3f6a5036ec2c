"""The house: a core that is small, wings beside it, imports in one direction, the field's words."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "deformlib"
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name not in ("_modidx.py", "__init__.py"))
CORE = [path for path in MODULES if path.parent == LIBRARY]
DOORS = {
    ("video", "media.decode"),
    ("corpus", "media.folders"),
    ("corpus", "media.cache"),
    ("deform", "fast.deform"),
    ("conv3d", "fast.winograd"),
    ("training", "fast.memory"),
}
COMMANDS = {("__main__", "paper.commands"), ("colab", "paper.commands")}  # the command line stands above all


def dotted(path: Path) -> str:
    """The name of a module below deformlib: paper.study."""
    return ".".join(path.relative_to(LIBRARY).with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """The modules of this library that a module imports anywhere in it, once for each import statement."""
    here = path.relative_to(LIBRARY).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                above = here[: len(here) - node.level + 1]
                parts = [*above, *(node.module or "").split(".")] if node.module else [*above]
            elif (node.module or "").split(".")[0] == "deformlib":
                parts = (node.module or "").split(".")[1:]
            else:
                continue
            whole = ".".join(parts)
            if (LIBRARY / Path(*parts)).with_suffix(".py").exists():
                yield whole
            else:
                yield from (
                    f"{whole}.{alias.name}".strip(".")
                    for alias in node.names
                    if (LIBRARY / Path(*parts, alias.name)).with_suffix(".py").exists()
                )


@cache
def all_imports() -> dict[str, list[str]]:
    """What each module imports of this library."""
    return {dotted(path): list(imported(path)) for path in MODULES}


def test_the_core_is_read_in_an_evening():
    """2,800 lines in all, docstrings and export markers included."""
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in CORE + [LIBRARY / "__init__.py"]}
    assert sum(lines.values()) <= 2800, lines


def test_the_core_imports_no_wing_but_by_its_doors():
    """Each door is one import statement: the engine of the operator and of the 3D convolution, memory that is kept,
    the decoder, the labels of a folder.
    """
    met = [
        (name, other) for name, others in all_imports().items() if "." not in name for other in others if "." in other
    ]
    assert set(met) <= DOORS | COMMANDS
    assert len([pair for pair in met if pair in DOORS]) == len(DOORS)


def test_what_lies_behind_a_door_knows_nothing_of_the_core():
    """fast and media could be libraries of their own: of ours they import each other and files alone."""
    for name, others in all_imports().items():
        if name.split(".")[0] in ("fast", "media"):
            assert all(other == "files" or other.split(".")[0] == name.split(".")[0] for other in others), name


def test_wings_do_not_lean_on_each_other():
    """make imports no paper; align core and make alone; nothing is starred."""
    for name, others in all_imports().items():
        if name.startswith("make."):
            assert not any(other.startswith("paper.") for other in others), name
        if name.startswith("align."):
            assert all("." not in other or other.split(".")[0] in ("make", "align") for other in others), name
    for path in MODULES:
        assert not re.search(r"^\s*from \S+ import \*", path.read_text(encoding="utf-8"), re.M), path


def test_imports_run_in_no_circle():
    """Also those inside of functions: the modules can be put into an order in which each imports earlier ones only."""
    left = {name: set(others) - {name} for name, others in all_imports().items()}
    while ready := [name for name, others in left.items() if not others & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, left


@pytest.mark.slow  # imports PyTorch in a process of its own
def test_light_things_import_nothing_heavy():
    """Tables need no torch, a network that is saved no OpenCV, labels of a folder (GEMEP) no painter of figures."""
    code = """
import sys
import deformlib.records, deformlib.tables
print("torch" in sys.modules)
import deformlib.network, deformlib.explorer
print("cv2" in sys.modules)
import deformlib.corpus, deformlib.splits, deformlib.dataset, deformlib.training
print(any(name.startswith(("deformlib.make", "deformlib.paper")) for name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False"] * 3


def test_every_import_is_declared():
    """What the library imports stands in pyproject.toml, under the name that pip knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.match(r"[\w-]+", line)[0].lower() for line in project["dependencies"]}
    names = {
        "cv2": "opencv-python-headless",
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "IPython": "ipython",
        "typing_extensions": "typing-extensions",
    }
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            roots = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots += [node.module] if isinstance(node, ast.ImportFrom) and not node.level and node.module else []
            for root in {each.split(".")[0] for each in roots} - sys.stdlib_module_names - {"deformlib"}:
                assert names.get(root, root).lower() in declared, f"{path.name} imports {root}"


def test_the_library_asserts_nothing():
    """An assert is gone under python -O: what guards, raises."""
    for path in MODULES:
        assert not any(
            isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        ), path


PRIVATE = (  # words of an older form of this course; chapter 00 has the glossary
    *(r"\bow(ed|es)\b", r"\bbundles?\b", r"\bsisters?\b", r"\bsiblings?\b", "even guessing", "look(s|ed|ing)? first"),
    *("mix(es|ed|ing)? first", "half-renamed", r"\bjudg(e|es|ed|ing)\b", r"\bexam\b", "examined on", r"\bbought\b"),
    *(r"\btaken for\b", "second coin", "bears? a turn", "gates on means", "two gradients deep", "light kept"),
    *(r"\bknobs?\b", "near memory", "leaves? the loop", "not safely shown", r"\bLookAlone\b", r"\breplacing\("),
    *(r"\bFITTERS\b", r"\bstep_back\b", r"\boffsets_follow\b"),
)


def prose(path: Path) -> str:
    """The text of a file, of a notebook without its outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


TEXTS = [
    *MODULES,
    *sorted((ROOT / "notebooks").rglob("*.ipynb")),
    *sorted((ROOT / "notebooks").rglob("*.md")),
    ROOT / "README.md",
]
TEXTS += sorted((ROOT / "results").glob("*.md")) + sorted((ROOT / "results").glob("*/*.md"))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_speaks_the_words_of_the_field(path: Path):
    """No private word outside of the glossary of chapter 00."""
    text = re.sub(r"^\|.*\|$", "", prose(path), flags=re.M) if path.name == "00_start_here.ipynb" else prose(path)
    old_keys = path.stem in ("migrate", "migration", "records")  # they show the keys of older records
    words = [word for word in PRIVATE if not (old_keys and "siblings" in word)]
    found = [match[0] for word in words for match in re.finditer(word, text)]
    assert not found, found

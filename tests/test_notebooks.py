"""What nbval does not see: the notebooks build the library, were run whole, are small, and open and close alike."""

import ast
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from execute_notebooks import small_picture
from exercises import books
from PIL import Image
from sync import library

from deformlib.paper.copy import ADDRESS

ROOT = Path(__file__).parent.parent
NOTEBOOKS = books()
CHAPTERS = [path for path in NOTEBOOKS if path.parent.name == "notebooks"]
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict]:
    """The cells of one kind, source joined into one string."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in stored if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict]:
    """All outputs of a notebook."""
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_the_library_is_what_the_notebooks_export(tmp_path: Path):
    """Exported from nothing, every module equals the committed one, and there is none more (drift and orphans)."""
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    subprocess.run([Path(sys.executable).with_name("nbdev-export")], cwd=tmp_path, check=True, capture_output=True)
    fresh, kept = library(tmp_path), library(ROOT)
    assert sorted(fresh) == sorted(kept)
    for name in kept:
        assert fresh[name] == kept[name], f"{name} differs from its notebook"


def test_everything_public_has_a_docstring():
    """Functions, classes and their public methods; what PyTorch names, forward and backward, speaks for itself."""
    for file in (ROOT / "deformlib").rglob("*.py"):
        if file.name in ("_modidx.py", "__init__.py"):  # nbdev's own
            continue
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), f"{file.name} has no docstring"
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inner = {id(node) for function in functions for node in ast.walk(function) if node is not function}
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if node.name not in ("forward", "backward") and id(node) not in inner:
                assert ast.get_docstring(node), f"{file.name}: {node.name} has no docstring"


@every_notebook
def test_was_run_once_from_top_to_bottom(path: Path):
    """nbval compares nothing in a cell without a count, so every code cell has one, in order."""
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_has_no_error_stream_and_no_personal_path(path: Path):
    """Nothing on stderr, no failed cell, no folder of somebody's machine."""
    for output in outputs(path):
        assert output.get("name") != "stderr", output
        assert output["output_type"] != "error", output
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|Users|tmp|work|content)/\w", text), "a path of one machine"


def crowded(source: str) -> bool:
    """Whether a cell has over 25 lines, imports aside, without being one function, class or table with little beside
    it.
    """
    nodes = [node for node in ast.parse(source).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    lengths = sorted(node.end_lineno - node.lineno + 1 for node in nodes)
    return sum(lengths) > 25 and sum(lengths[:-1]) > 10


@every_notebook
def test_is_small(path: Path):
    """A notebook weighs under 300 KB, and a code cell holds one idea; only what goes to the library may have over 40
    lines.
    """
    assert path.stat().st_size < 300_000
    for cell in cells(path, "code"):
        assert not crowded(cell["source"]), cell["source"][:80]
        assert cell["source"].startswith("#| export") or len(cell["source"].splitlines()) <= 40, cell["source"][:80]


def test_all_are_small_together_and_a_crowded_cell_is_seen():
    """All notebooks weigh under 5 MB. A function of 30 lines is no crowd, two of 15 lines are, and so are 30 lines
    without any.
    """
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 5e6
    lines = "\n".join(f"    a = {number}" for number in range(14))
    assert not crowded(f"def f():\n{lines}\n{lines}")
    assert crowded(f"def f():\n{lines}\ndef g():\n{lines}")
    assert crowded("\n".join(f"a{number} = 0" for number in range(30)))


def png(pixels: np.ndarray) -> bytes:
    """A picture as bytes."""
    Image.fromarray(pixels).save(file := io.BytesIO(), "PNG")
    return file.getvalue()


def test_stored_pictures_are_small_and_look_the_same():
    """256 colours are kept exactly; of more, walls stay smooth and a thin line keeps its colour; done once."""
    rng = np.random.default_rng(0)
    few = rng.integers(0, 200, (64, 64, 1), np.uint8).repeat(4, 2)
    few[..., 3] = 255
    small = small_picture(png(few))
    assert len(small) < len(png(few)) and small_picture(small) == small
    Image.open(io.BytesIO(small)).save(loose := io.BytesIO(), "PNG", compress_level=0)  # a palette, badly packed
    assert len(loose.getvalue()) > len(small) == len(small_picture(loose.getvalue()))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(small)).convert("RGB")), few[..., :3])
    wall = rng.integers(80, 160, (200, 200, 1), np.uint8).repeat(3, 2)
    along = rng.integers(0, 240, (200, 100, 1)) * [1, -1, 0] + [0, 240, 128]  # a ramp of colours, with grain
    many = np.concatenate([wall, along + rng.integers(0, 12, along.shape)], 1).astype(np.uint8)
    many[:40, 100] = 255, 0, 0
    small = small_picture(png(many))
    shown = np.asarray(Image.open(io.BytesIO(small)).convert("RGB")).astype(int)
    assert len(small) < 0.8 * len(png(many)) and len(np.unique(shown.reshape(-1, 3), axis=0)) <= 256
    assert np.array_equal(shown[:, :200], many[:, :200]) and abs(shown - many).max() < 20
    few[..., 3] = 100
    assert small_picture(png(few)) == png(few)  # one sees through it


@every_chapter
def test_opens_as_every_chapter_does(path: Path):
    """Title, purpose, a badge that points at this very file, the card, the goals, the same set-up cell."""
    opening = json.loads(path.read_text(encoding="utf-8"))["cells"][:2]
    assert [cell["cell_type"] for cell in opening] == ["markdown", "markdown"], "something stands before the title"
    assert all(cell["source"].strip() for kind in ("code", "markdown") for cell in cells(path, kind)), "an empty cell"
    first, second = (cell["source"] for cell in cells(path, "markdown")[:2])
    assert re.match(r"# .+\n\n> .+", first)
    home = ADDRESS.search(NOTEBOOKS[0].read_text(encoding="utf-8"))[
        1
    ]  # one for the whole course, whoever's copy this is
    assert f"github/{home}/blob/main/notebooks/{path.name})" in first
    for row in ("| builds |", "| needs |", "| runs on |", "| minutes |"):
        assert row in first
    assert second.startswith("## After this you can") and 3 <= len(re.findall(r"^- ", second, re.M)) <= 5


def setup(path: Path) -> list[str]:
    """The cells that bring the library to Colab."""
    return [cell["source"] for cell in cells(path, "code") if cell["source"].startswith("try:\n    import deformlib\n")]


@every_notebook
def test_says_what_it_is_and_brings_the_library(path: Path):
    """Title and purpose, and one set-up cell, the same everywhere."""
    assert re.match(r"# .+\n\n> .+", cells(path, "markdown")[0]["source"])
    assert len(setup(path)) == 1 and setup(path) == setup(CHAPTERS[0])


@every_notebook
def test_every_link_leads_to_a_file(path: Path):
    """Links to other notebooks and answers end at a file."""
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)#\s]+\.(?:ipynb|md))[)#]", text):
        assert target.startswith("http") or (path.parent / target).is_file(), target


@every_chapter
def test_closes_as_every_chapter_does(path: Path):
    """Summary, exercises, references and the way on, whose file exists."""
    text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    places = [text.find(f"\n## {name}") for name in ("Summary", "Exercises", "References", "Next")]
    assert -1 not in places and places == sorted(places)


def wrong_exercises(goals: str, exercises: str) -> list[str]:
    """What is wrong with a chapter's exercises: not three to five, one without a check, a goal that names none of
    them.
    """
    parts = re.split(r"^(?:\*\*)?(\d+)\.", exercises, flags=re.M)[1:]
    numbers = [int(number) for number in parts[::2]]
    wrong = [] if numbers == list(range(1, len(numbers) + 1)) and 3 <= len(numbers) <= 5 else [f"exercises {numbers}"]
    wrong += [
        f"no check in exercise {number}"
        for number, text in zip(numbers, parts[1::2], strict=False)
        if not re.search(r"^ *assert ", text, re.M)
    ]
    for goal in re.findall(r"^- .+", goals, re.M):
        named = re.search(r" \(exercises? (\d(?:, \d)*)\)[;,.]?$", goal)
        if not named or not {int(number) for number in named[1].split(", ")} <= set(numbers):
            wrong.append(goal)
    return wrong


def test_wrong_exercises_are_found():
    """The check on exercises sees each of the faults it is for, on a chapter made wrong on purpose."""
    goals, exercise = "- see (exercise 1),\n- do (exercises 2, 3).", "{}. Do.\n   ```python\n   assert mine\n   ```\n"
    three = "".join(map(exercise.format, (1, 2, 3)))
    assert (
        wrong_exercises(goals, three) == wrong_exercises(goals, re.sub(r"^(\d\.)", r"**\1** ", three, flags=re.M)) == []
    )
    assert wrong_exercises(goals, three + "4. *Open.* Think.\n") == ["no check in exercise 4"]
    assert wrong_exercises(goals, three + exercise.format(5)) == ["exercises [1, 2, 3, 5]"]
    assert wrong_exercises(goals, "".join(map(exercise.format, range(1, 7)))) == ["exercises [1, 2, 3, 4, 5, 6]"]
    assert wrong_exercises("- see (exercise 1)", exercise.format(1)) == ["exercises [1]"]
    assert wrong_exercises("- see (exercise 4);\n- think\n- do (exercises 1, 2)", three) == [
        "- see (exercise 4);",
        "- think",
    ]


@every_chapter
def test_has_three_to_five_exercises_and_one_for_each_goal(path: Path):
    """Each exercise has a check, and each line of "After this you can" says which exercise practises it."""
    text = "\n\n".join(cell["source"] for cell in cells(path, "markdown"))
    exercises = text.split("\n## Exercises", 1)[1].split("\n## References", 1)[0]
    assert wrong_exercises(cells(path, "markdown")[1]["source"], exercises) == []


@every_notebook
def test_every_figure_says_what_to_notice(path: Path):
    """A cell with a picture is followed by a text that begins with *Figure: ..., for those who cannot see it."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell, following in zip(stored, [*stored[1:], {"cell_type": "none", "source": ""}], strict=False):
        if cell["cell_type"] == "code" and any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            assert "".join(following["source"]).startswith("*Figure: "), "".join(cell["source"])[:80]


@every_notebook
def test_imports_earlier_chapters_by_name(path: Path):
    """No star, and never the module that the notebook itself builds."""
    code = "\n".join(cell["source"] for cell in cells(path, "code"))
    assert not re.search(r"^from \S+ import \*", code, re.M)
    own = re.search(r"^#\| default_exp ([\w.]+)", code, re.M)
    if own:
        assert not re.search(rf"^\s*(from|import) deformlib\.{own[1]}\b", code, re.M)


@every_notebook
def test_has_a_row_in_both_maps(path: Path):
    """README's map names every notebook, and so does that of chapter 00, but for 00 itself."""
    place = path.relative_to(ROOT / "notebooks").as_posix()
    name = path.stem.split("_")[0] if path in CHAPTERS else path.stem.replace("_", " ")
    maps = {"README.md": ((ROOT / "README.md").read_text(encoding="utf-8"), "notebooks/")}
    if path != NOTEBOOKS[0]:
        maps[NOTEBOOKS[0].name] = "\n".join(cell["source"] for cell in cells(NOTEBOOKS[0], "markdown")), ""
    for file, (text, folder) in maps.items():
        assert re.search(rf"^\| \[{name}[^]]*\]\({folder}{place}\) \|", text, re.M), f"{file} has no row"

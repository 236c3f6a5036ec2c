"""The table of finds in other people's software: whole, with tests and scripts that exist, and two facts that it
names.
"""

import ast
import json
import os
from pathlib import Path

import pandas as pd
import pytest
from exercises import books

from deformlib.make.mocap import read_bvh

ROOT = Path(__file__).parent.parent
FINDS = pd.read_csv(ROOT / "deformlib/paper/good_guesses.csv", keep_default_na=False)
SCRIPTS = sorted((ROOT / "findings").glob("*.sh"))


def test_every_row_is_whole():
    """A find has a name of its own, a guess, what was seen and in which version; a source is an address or none."""
    assert FINDS.find.is_unique
    for column in ("find", "guess", "seen", "version", "deformlib"):
        assert FINDS[column].str.len().min() > 2, column
    assert FINDS.source.str.fullmatch(r"(https://\S+)?").all()


def test_every_test_that_is_named_exists():
    """`file::test`, or "not used here" where no test is needed."""
    for row in FINDS.itertuples():
        assert (row.deformlib == "not used here") == (row.test == ""), row.find
        if row.test:
            file, name = row.test.split("::")
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, row.test


def test_every_script_has_a_row_and_names_its_versions():
    """The script installs the versions of its row, or says that it was tried with them."""
    assert sorted(FINDS.script[FINDS.script != ""]) == [path.name for path in SCRIPTS]
    for row in FINDS[FINDS.script != ""].itertuples():
        text = (ROOT / "findings" / row.script).read_text(encoding="utf-8")
        for package in row.version.split(", "):
            assert package.replace(" ", "==") in text, (row.script, package)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_needs_nothing_of_ours_and_leaves_nothing(path: Path):
    """It starts by its name, works in a temporary folder that it removes, and imports other people's software alone."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("#!") and os.access(path, os.X_OK)
    assert "folder=$(mktemp -d)\ntrap 'rm -rf \"$folder\"' EXIT" in text and "set -eu" in text
    assert "deformlib" not in text


def test_end_sites_are_joints(tmp_path: Path):
    """The tip of a limb is at its offset from the last joint."""
    path = tmp_path / "leg.bvh"
    path.write_text(
        "HIERARCHY ROOT Hips { OFFSET 0 90 0 CHANNELS 3 Zrotation Xrotation Yrotation JOINT Knee { OFFSET 0 -40 0 "
        "CHANNELS 3 Zrotation Xrotation Yrotation End Site { OFFSET 0 -45 0 } } }\n"
        "MOTION\nFrames: 2\nFrame Time: 0.04\n0 0 0 0 0 0\n0 0 0 0 0 0\n"
    )
    motion = read_bvh(path)
    assert motion.names == ("Hips", "Knee", "Knee_end") and motion.parents == (-1, 0, 1)
    hips, knee, tip = motion.positions[0]
    assert (tip - knee)[1] / (knee - hips)[1] == pytest.approx(45 / 40)


@pytest.mark.parametrize("path", books(), ids=lambda path: path.stem)
def test_no_notebook_prints_into_a_widget(path: Path):
    """No Output widget and no `interact`, which uses one: nbval would see other outputs than were stored."""
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in (cell for cell in stored if cell["cell_type"] == "code"):
        for node in ast.walk(
            ast.parse("\n".join(line for line in "".join(cell["source"]).splitlines() if line[:1] not in "%!"))
        ):
            called = getattr(node, "func", node)
            name = getattr(called, "attr", getattr(called, "id", ""))
            assert name not in ("Output", "interact", "interactive", "interactive_output"), "".join(cell["source"])[:80]

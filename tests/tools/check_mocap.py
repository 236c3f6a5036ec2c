"""How the reader of motion capture does on folders of real BVH files.

    python tests/tools/check_mocap.py "name of the data=FOLDER" ...

Counts the files that are read, in which a person stands upright, has a leg of a person's length, faces us, has left and
right on their sides when the names of the joints are hidden, and is whole in every frame of the film; beside it, how
many there would be with up taken from joint 0 and a camera that stays. Prints a table; with --folder it is stored there
as mocap.json and mocap.md.
"""

import argparse
import datetime
import json
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from deformlib.files import atomic_write
from deformlib.make import mocap
from deformlib.make.figures import JOINTS, BodyError, Motion, draw_actor
from deformlib.progress import show_progress

COLUMNS = {
    "data": "data",
    "files": "files",
    "read": "with a person",
    "upright": "upright",
    "upright_from_joint_0": "upright, if up is measured from joint 0",
    "sized": "leg of 0.6 to 1.1 m",
    "facing": "facing us",
    "named": "with named joints",
    "sides": "sides right with the names hidden",
    "whole": "head and trunk in the picture in every frame",
    "whole_still": "the same, if the camera stays",
}
EXPECTED = ("upright", "sized", "facing", "sides", "whole")  # a file for which one of these is wrong is named


def whole(figure: Motion, path: Path) -> bool:
    """Whether the film shows head and trunk in every frame, as an actor drawn for the file."""
    seed = zlib.crc32(path.name.encode())
    actor = draw_actor(np.random.default_rng(seed))
    return bool(mocap.in_picture(figure, actor, np.random.default_rng(seed)).all())


def same_sides(motion: Motion, one: dict[str, int], other: dict[str, int]) -> bool:
    """Whether the tips `one` and `other` of a motion hang on the same branches, left on left."""

    def branch(tips: dict[str, int], side: str, far_side: str, part: str) -> int:
        return mocap._limb(motion, tips[f"{side}_{part}"], tips[f"{far_side}_{part}"]).joints[0]

    ends = [(*sides, part) for part in ("hand", "foot") for sides in (("left", "right"), ("right", "left"))]
    return all(branch(one, *end) == branch(other, *end) for end in ends)


def check(path: Path) -> dict[str, bool]:
    """What is right about a file; raises BodyError if it shows nobody."""
    motion = mocap.read_bvh(path)
    figure = mocap.as_figure(motion)
    at = dict(zip(JOINTS, np.median(figure.positions, axis=0), strict=True))
    named = mocap._bodies_by_name(motion)
    shaped = mocap._bodies_by_shape(replace(motion, names=("",) * len(motion.names)))
    tips = mocap._tips(motion)
    rise = np.median(motion.positions[:, tips["head"]] - motion.positions[:, 0], axis=0)
    limbs = mocap._limbs(motion, tips)
    bones = (("hip", "knee"), ("knee", "ankle"))
    leg = sum(np.linalg.norm(limbs[f"left_{a}"] - limbs[f"left_{b}"], axis=1).mean() for a, b in bones)
    return {
        "read": True,
        "upright": at["head"][1] - at["pelvis"][1] > 0.3 and at["head"][1] - at["left_knee"][1] > 0.3,
        "upright_from_joint_0": rise.argmax() == 1 and rise[1] >= np.abs(rise).max(),
        "sized": 0.6 < leg < 1.1,
        "facing": at["nose"][2] > at["head"][2],
        "named": len(named) == 1,
        "sides": len(named) == len(shaped) == 1 and same_sides(motion, named[0], shaped[0]),
        "whole": whole(figure, path),
        "whole_still": whole(mocap.as_figure(motion, leash=np.inf), path),
    }


def count(name: str, folder: Path) -> dict:
    """How many files of a folder are right in each way, and why the others are refused."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".bvh")
    row = dict.fromkeys(COLUMNS, 0) | {"data": name or folder.name, "files": len(paths), "refused": []}
    for path in show_progress(paths, desc=row["data"], unit="file"):
        try:
            found = check(path)
        except BodyError as error:
            row["refused"].append(f"{path.name}: {str(error).replace(f'{path}: ', '')}")
            continue
        for what, right in found.items():
            row[what] += int(right)
            if not right and what in EXPECTED:
                print(f"not {what}: {path.name}")
    print(*row["refused"], sep="\n")
    return row


def main(words: list[str] | None = None) -> None:
    """Count, print, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--folder", type=Path, help="where to store mocap.json and mocap.md")
    options = parser.parse_args(words)
    rows = [count(name, Path(folder)) for name, _, folder in (word.rpartition("=") for word in options.folders)]
    table = pd.DataFrame(rows)[[*COLUMNS]].rename(columns=COLUMNS).to_markdown(index=False)
    print(table)
    if options.folder:
        asked = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
        record = {
            "commit": asked.stdout.strip(),
            "date": datetime.date.today().isoformat(),
            "leash": mocap.LEASH,
            "sets": rows,
        }
        title = "What is right about the motion of real BVH files, numbers of files (`tests/tools/check_mocap.py`)"
        text = f"{title}; {record['date']}, commit {record['commit']}.\n\n{table}\n"
        options.folder.mkdir(parents=True, exist_ok=True)
        for file, content in (("mocap.json", json.dumps(record, indent=1) + "\n"), ("mocap.md", text)):
            with atomic_write(options.folder / file) as beside:
                beside.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()

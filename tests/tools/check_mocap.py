"""How chapter 01b reads folders of real BVH files: python tests/tools/check_mocap.py "name of the data=FOLDER" ...

Counts the files that are read, in which a person stands upright, has a leg of a person's length, faces us, has left and right on
their sides when the names of the joints are hidden, and is whole in every frame of the film; beside it, how many there would
be with up taken from joint 0 and a camera that stays. Prints a table; with --folder it is stored there as mocap.json and .md.
"""

import argparse
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark import markdown, store

from deformlib import mocap
from deformlib.bodies import JOINTS, BodyError, Motion, draw_actor

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


def whole(motion: Motion, path: Path) -> bool:
    """Whether the film shows head and trunk in every frame, as an actor drawn for the file."""
    seed = zlib.crc32(path.name.encode())
    actor = draw_actor(np.random.default_rng(seed))
    return bool(mocap.in_picture(mocap.as_figure(motion), actor, np.random.default_rng(seed)).all())


def check(path: Path) -> dict[str, bool]:
    """What is right about a file; raises BodyError if it shows nobody."""
    motion = mocap.read_bvh(path)
    figure = mocap.as_figure(motion)
    at = dict(zip(JOINTS, np.median(figure.positions, axis=0), strict=True))
    names, shape = mocap._bodies_by_name(motion), mocap._bodies_by_shape(replace(motion, names=("",) * len(motion.names)))
    head = mocap._tips(motion)["head"]
    rise = np.median(motion.positions[:, head] - motion.positions[:, 0], axis=0)
    limbs = mocap._limbs(motion, mocap._tips(motion))
    leg = sum(
        np.linalg.norm(limbs[f"left_{one}"] - limbs[f"left_{other}"], axis=1).mean()
        for one, other in (("hip", "knee"), ("knee", "ankle"))
    )

    def branch(tips: dict[str, int], tip: str, other: str) -> int:
        return mocap._limb(motion, tips[tip], tips[other])[0][0]

    pairs = [(f"{one}_{part}", f"{other}_{part}") for part in ("hand", "foot") for one, other in (("left", "right"), ("right", "left"))]
    found = {
        "read": True,
        "upright": at["head"][1] - at["pelvis"][1] > 0.3 and at["head"][1] - at["left_knee"][1] > 0.3,
        "upright_from_joint_0": rise.argmax() == 1 and rise[1] >= np.abs(rise).max(),
        "sized": 0.6 < leg < 1.1,
        "facing": at["nose"][2] > at["head"][2],
        "named": len(names) == 1,
        "sides": len(names) == len(shape) == 1 and all(branch(names[0], *pair) == branch(shape[0], *pair) for pair in pairs),
        "whole": whole(motion, path),
    }
    leash, mocap.LEASH = mocap.LEASH, np.inf
    found["whole_still"] = whole(motion, path)
    mocap.LEASH = leash
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--folder", type=Path, help="where to store mocap.json and mocap.md")
    options = parser.parse_args()
    rows = []
    for name, folder in (words.rpartition("=")[::2] for words in options.folders):
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() == ".bvh")
        row = dict.fromkeys(COLUMNS, 0) | {"data": name or Path(folder).name, "files": len(paths), "refused": []}
        for path in tqdm(paths, desc=row["data"], unit="file"):
            try:
                found = check(path)
            except BodyError as error:
                row["refused"].append(f"{path.name}: {str(error).replace(f'{path}: ', '')}")
                continue
            for what, right in found.items():
                row[what] += int(right)
                if not right and what in ("upright", "sized", "facing", "sides", "whole"):
                    print(f"not {what}: {path.name}")
        rows.append(row)
        print(*row["refused"], sep="\n")
    print(markdown(COLUMNS, rows))
    if options.folder:
        title = "What is right about the motion of real BVH files, numbers of files (`tests/tools/check_mocap.py`)"
        store(options.folder, "mocap", title, {"leash": mocap.LEASH, "sets": rows}, [markdown(COLUMNS, rows)])


if __name__ == "__main__":
    main()

"""Motion capture: BVH files of many habits, and the films made of them."""

import csv
import importlib.util
import json
import math
import re
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from factories import MOVES, PERSON, bvh_text

from deformlib.corpus import Corpus
from deformlib.make import mocap
from deformlib.make.figures import JOINTS, BodyError, Motion, draw_actor
from deformlib.make.films import make_corpus
from deformlib.media.folders import CorpusError
from deformlib.video import decode_video

EBMDB = Path(__file__).resolve().parents[2] / "shared" / "data" / "ebmdb" / "ebmdb_bvh30_subset150.tar.xz"


def place(motion: Motion, name: str) -> np.ndarray:
    return motion.positions[:, motion.names.index(name)]


def parts(text: str) -> tuple[str, list[str]]:
    """A BVH text up to its first frame, and the lines of its frames."""
    lines = text.splitlines(keepends=True)
    start = next(number for number, line in enumerate(lines) if line.startswith("Frame Time")) + 1
    return "".join(lines[:start]), [line.rstrip("\n") for line in lines[start:]]


def with_hips(text: str, hips: list[tuple]) -> str:
    """The text with its hips at these places, one a frame, in the file's units and axes."""
    head, rows = parts(text)
    return head + "".join(
        f"{' '.join(map(str, at))} {' '.join(row.split()[3:])}\n" for at, row in zip(hips, rows, strict=True)
    )


def rise_of(motion: Motion) -> np.ndarray:
    """How far the head is above the hips in each frame."""
    return (place(motion, "Head") - place(motion, "Hips"))[:, 1]


# BVH files. The skeleton PERSON stands in centimetres, y up, facing +z, so its left is +x.
def turn(axis: str, degrees: float) -> list[list[float]]:
    """A rotation matrix written out, independent of the library's."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return {
        "X": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "Y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "Z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]


def product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(len(b[0]))] for i in range(3)]


def expected(skeleton: dict, rotations: dict, order: str, frame: int) -> dict[str, list[float]]:
    """Positions in metres, joint by joint, from products written out."""
    places, turns = {}, {}
    for name, (parent, offset) in skeleton.items():
        own = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
        for axis, angle in zip(order, rotations.get(name, [(0, 0, 0)] * (frame + 1))[frame], strict=True):
            own = product(own, turn(axis, angle))
        above = turns.get(parent, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        moved = product(above, [[value / 100] for value in offset])
        places[name] = [start + step[0] for start, step in zip(places.get(parent, [0, 0, 0]), moved, strict=True)]
        turns[name] = product(above, own)
    return places


@pytest.mark.parametrize("order", ["ZXY", "XYZ", "YXZ", "ZYX"])
def test_read_bvh_multiplies_rotations_in_the_order_of_the_file(tmp_path: Path, order: str):
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, MOVES, order=order))
    motion = mocap.read_bvh(path)
    assert motion.fps == pytest.approx(30, rel=1e-4) and motion.positions.shape[0] == 2
    for frame in range(2):
        for name, where in expected(PERSON, MOVES, order, frame).items():
            assert np.allclose(place(motion, name)[frame], where, atol=1e-6), (order, frame, name)
    assert "LeftHand_end" in motion.names and motion.parents[0] == -1
    assert all(-1 <= parent < index for index, parent in enumerate(motion.parents))


@pytest.mark.parametrize("unit", [0.01, 0.1, 1.0, 10.0, 1 / 2.54])
def test_read_bvh_finds_the_unit(tmp_path: Path, unit: float):
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, MOVES, unit=unit))
    where = expected(PERSON, MOVES, "ZXY", 1)["LeftHand"]
    assert np.allclose(place(mocap.read_bvh(path), "LeftHand")[1], where, atol=1e-4)


def test_a_unit_that_is_none_of_ours_gives_a_person_all_the_same(tmp_path: Path):
    """CMU's files count in 5.6 cm: no unit of the list is near, and the longest way is set to 1.3 m."""
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, MOVES, unit=1 / 5.644))
    motion = mocap.read_bvh(path)
    hand = ["Hips", "Spine", "Chest", "LeftCollar", "LeftUpperArm", "LeftLowerArm", "LeftHand"]
    bones = np.diff([place(motion, name)[0] for name in hand], axis=0)
    assert np.linalg.norm(bones, axis=1).sum() == pytest.approx(1.3)


@pytest.mark.parametrize(
    "axes, signs", [((2, 0, 1), (1, 1, 1)), ((1, 2, 0), (1, 1, 1)), ((0, 2, 1), (1, -1, 1)), ((0, 1, 2), (-1, -1, 1))]
)
def test_read_bvh_puts_the_head_up(tmp_path: Path, axes: tuple, signs: tuple):
    """Up may be any axis, either way; left must stay left, so the space is turned and never mirrored."""
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 3}, axes=axes, signs=signs))
    motion = mocap.read_bvh(path)
    rise = place(motion, "Head") - place(motion, "Hips")
    assert np.allclose(rise[:, 1], 0.67, atol=1e-6)
    left = place(motion, "LeftHand")[0] - place(motion, "RightHand")[0]
    ahead = place(motion, "LeftHand")[0] - place(motion, "LeftLowerArm")[0]
    assert np.cross([0, 1, 0], ahead) @ left > 0  # up x forward = left


def test_read_bvh_takes_position_channels_of_inner_joints(tmp_path: Path):
    path = tmp_path / "person.bvh"
    path.write_text(
        bvh_text(PERSON, MOVES, moves=tuple(PERSON)).replace("OFFSET 0.000000 25.000000 0.000000", "OFFSET 1 2 3")
    )
    motion = mocap.read_bvh(path)
    for name, where in expected(PERSON, MOVES, "ZXY", 1).items():
        assert np.allclose(place(motion, name)[1], where, atol=1e-6), name


def test_read_bvh_keeps_offsets_where_positions_are_all_zero(tmp_path: Path):
    text = bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 2}, moves=("Chest",))
    lines = text.splitlines()
    lines[-2:] = [re.sub(r"0\.000000 20\.000000 0\.000000", "0 0 0", line) for line in lines[-2:]]
    path = tmp_path / "person.bvh"
    path.write_text("\n".join(lines))
    motion = mocap.read_bvh(path)
    assert np.allclose(place(motion, "Chest")[0] - place(motion, "Spine")[0], [0, 0.2, 0])


GOOD = bvh_text(PERSON, MOVES)
BROKEN = {
    "empty": "",
    "no motion": GOOD[: GOOD.index("MOTION")],
    "other": "<html>\nMOTION\n",
    "brace": GOOD.replace("}\nMOTION", "MOTION"),
    "too many braces": GOOD.replace("}\nMOTION", "}\n}\nMOTION"),
    "offset": GOOD.replace("OFFSET 0.000000 25.000000 0.000000", "OFFSET 0.0 here 0.0"),
    "channel": GOOD.replace("Zrotation", "Wrotation", 1),
    "count": GOOD.replace("CHANNELS 6", "CHANNELS six", 1),
    "cut": GOOD[:-40],
    "frames": GOOD.replace("Frames: 2", "Frames: 30"),
    "none": GOOD.replace("Frames: 2", "Frames: 0"),
    "time": GOOD.replace("Frame Time: 0.03", "Frame Time: -0.03"),
    "nan": re.sub(r"5\.000000(?=[^\n]*\n[^\n]*\n$)", "nan", GOOD, count=1),
    "word": GOOD + "end\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bvh_is_one_clear_error(tmp_path: Path, case: str):
    path = tmp_path / "broken.bvh"
    path.write_text(BROKEN[case])
    with pytest.raises(BodyError, match=r"broken\.bvh") as caught:
        mocap.read_bvh(path)
    assert "again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_skeleton_names_its_line(tmp_path: Path):
    path = tmp_path / "broken.bvh"
    path.write_text(BROKEN["offset"])
    number = next(n for n, line in enumerate(BROKEN["offset"].splitlines(), start=1) if "here" in line)
    with pytest.raises(BodyError, match=rf"line {number}\b"):
        mocap.read_bvh(path)


SHORT = {"UpperArm": "Shoulder", "LowerArm": "Elbow", "Hand": "Wrist", "Thigh": "Hip", "Shin": "Knee", "Foot": "Ankle"}
MIXAMO = {"Collar": "Shoulder", "UpperArm": "Arm", "LowerArm": "ForeArm", "Thigh": "UpLeg", "Shin": "Leg"}
RENAMES = {
    "as is": str,
    "elbow": lambda name: re.sub("|".join(SHORT), lambda m: SHORT[m[0]], name),
    "mixamo": lambda name: "mixamorig:" + re.sub("Collar|UpperArm|LowerArm|Thigh|Shin", lambda m: MIXAMO[m[0]], name),
    "l and r": lambda name: name.replace("Left", "l").replace("Right", "r"),
    "suffix": lambda name: re.sub("(Left|Right)(.+)", lambda m: f"{m[2].lower()}.{m[1][0]}", name),
    "numbers": lambda name: f"joint {list(PERSON).index(name)}",
    "another language": lambda name: "".join(
        chr(ord("a") + (7 * i + 3 * list(PERSON).index(name)) % 26) for i in range(5)
    ),
}


NAMELESS = (
    "numbers",
    "another language",
)  # there left is told by +x, so the person has to face the way skeletons are built


@pytest.mark.parametrize(
    "case, facing",
    [(case, facing) for case in RENAMES for facing in (0, 70, 200) if not facing or case not in NAMELESS],
)
def test_as_figure_finds_the_limbs_whatever_they_are_called(tmp_path: Path, case: str, facing: int):
    """Each limb at its place on the figure, facing us, wherever the person faced and whatever the joints are called."""
    moves = {"Hips": [(0, 0, facing)] * 61, "LeftUpperArm": [(120, 0, 0)] * 61}
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, moves, rename=RENAMES[case], fps=120))
    figure = mocap.as_figure(mocap.read_bvh(path))
    assert (
        figure.names == JOINTS and figure.fps == 25 and len(figure.positions) == 13
    )  # 60 steps of 1/120 s: half a second
    still = dict(zip(figure.names, figure.positions[5], strict=True))
    assert np.allclose(still["pelvis"], 0, atol=1e-6)
    shoulders = (still["left_shoulder"] + still["right_shoulder"]) / 2
    assert np.linalg.norm(shoulders - still["pelvis"]) == pytest.approx(0.5)
    assert still["left_shoulder"][0] > 0.1 > -0.1 > still["right_shoulder"][0] and still["nose"][2] > still["head"][2]
    assert still["left_hand"][1] > still["left_elbow"][1] > still["left_shoulder"][1]  # the raised arm is the left one
    assert still["right_hand"][1] < still["right_elbow"][1] < still["right_shoulder"][1]
    upper = np.linalg.norm(still["right_elbow"] - still["right_shoulder"])
    assert upper == pytest.approx(0.29 * 0.5 / 0.57, rel=0.02)  # 29 cm on a trunk of 57 cm from hip joints to shoulders
    assert still["left_knee"][1] == pytest.approx(still["left_hip"][1] - 0.42 * 0.5 / 0.57, rel=0.02)


@pytest.mark.parametrize("axes, signs", [((0, 1, 2), (1, 1, 1)), ((0, 2, 1), (1, -1, 1))], ids=["y up", "z up"])
def test_without_names_crossed_arms_stay_on_their_sides(tmp_path: Path, axes: tuple, signs: tuple):
    """Hands that cross in the first frame do not swap the arms, and arms and legs agree, whichever axis is up."""
    crossed = {"LeftUpperArm": [(-45, 0, 0)] * 25, "RightUpperArm": [(45, 0, 0)] * 25}
    moves = crossed if axes == (0, 1, 2) else {"Hips": [(0, 0, 0)] * 25}
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, moves, rename=RENAMES["numbers"], axes=axes, signs=signs, fps=25))
    still = dict(zip(JOINTS, mocap.as_figure(mocap.read_bvh(path)).positions[5], strict=True))
    for part in ("shoulder", "hip", "knee"):
        assert still[f"left_{part}"][0] > 0.05 > -0.05 > still[f"right_{part}"][0], part
    assert (still["left_hand"][0] < 0 < still["right_hand"][0]) == (moves is crossed)
    assert still["nose"][2] > still["head"][2]


def test_what_is_no_person_is_refused(tmp_path: Path):
    chain = {"a": (None, (0, 0, 0)), "b": ("a", (0, 10, 0)), "c": ("b", (0, 10, 0))}
    path = tmp_path / "chain.bvh"
    path.write_text(bvh_text(chain, {"a": [(90, 0, 0)]}))
    motion = mocap.read_bvh(path)
    assert motion.names == ("a", "b", "c", "c_end")  # it can be read
    with pytest.raises(BodyError, match="name its joints"):
        mocap.as_figure(motion)


def test_frame_rates_meet_at_25(tmp_path: Path):
    swing = [(angle, 0, 0) for angle in np.linspace(0, 90, 121)]
    path = tmp_path / "swing.bvh"
    path.write_text(bvh_text(PERSON, {"LeftUpperArm": swing}, fps=120))
    hand = place(mocap.as_figure(mocap.read_bvh(path)), "left_elbow")
    assert len(hand) == 26
    angles = np.degrees(np.arctan2(hand[:, 0] - hand[0, 0], hand[0, 1] + 0.29 * 0.5 / 0.57 - hand[:, 1]))
    assert np.allclose(angles, np.linspace(0, 90, 26), atol=0.5)


# Where a body is measured: up, size and facing come from the body, never from joint 0

TOES = PERSON | {f"{side}Toe": (f"{side}Foot", (0, -4, 14)) for side in ("Left", "Right")}
STANDING = {"Hips": [(0, 0, 0)] * 3}


def rooted(text: str, joints: str, values: str = "", first: bool = True) -> str:
    """The text with another root, `joints`, before the skeleton, or behind it; `values` are its numbers in each row."""
    head, rows = parts(text.removeprefix("HIERARCHY\n"))
    skeleton, motion = head.split("MOTION\n")
    skeleton = joints + skeleton if first else skeleton + joints
    rows = [f"{values} {row}\n" if first else f"{row} {values}\n" for row in rows]
    return f"HIERARCHY\n{skeleton}MOTION\n{motion}{''.join(rows)}"


def beside_a_root(text: str, name: str = "Reference", more: str = "", away: tuple = (0, 0, 0)) -> str:
    """The text with its skeleton below a joint that stays on the floor, `away` (in the file's units) from it."""
    _, rows = parts(text)
    moved = with_hips(text, [tuple(float(a) + b for a, b in zip(row.split(), away, strict=False)) for row in rows])
    top = f"HIERARCHY\nROOT {name}\n{{\nOFFSET 0 0 0\nCHANNELS 0\n"
    moved = moved.replace("HIERARCHY\n", top).replace("ROOT Hips", "JOINT Hips", 1)
    return moved.replace("MOTION\n", f"{more}}}\nMOTION\n")


def figure_of(tmp_path: Path, text: str | bytes) -> Motion:
    path = tmp_path / "person.bvh"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return mocap.as_figure(mocap.read_bvh(path))


def stands(figure: Motion) -> bool:
    """Whether the median figure stands upright with its trunk of half a metre, its left on its left, and faces us."""
    at = dict(zip(figure.names, np.median(figure.positions, axis=0), strict=True))
    shoulders = (at["left_shoulder"] + at["right_shoulder"]) / 2
    upright = shoulders[1] - at["pelvis"][1] > 0.4 and at["head"][1] > shoulders[1] > at["left_knee"][1] + 0.5
    sides = all(at[f"left_{joint}"][0] > at[f"right_{joint}"][0] + 0.1 for joint in ("shoulder", "hip", "knee"))
    return bool(upright and sides and at["nose"][2] > at["head"][2])


@pytest.mark.parametrize(
    "name, away",
    [("Reference", (0, 90, 0)), ("Root", (250, 90, 0)), ("Armature", (-30, 90, 400)), ("joint 0", (3000, 90, 3000))],
)
def test_a_person_is_the_same_wherever_the_root_stays(tmp_path: Path, name: str, away: tuple):
    """With a root that stays on the floor, metres away, the figure and the unit are those of the person alone."""
    text = bvh_text(PERSON, MOVES)
    alone = figure_of(tmp_path, text)
    text = beside_a_root(text, name, away=away)
    assert np.allclose(figure_of(tmp_path, text).positions, alone.positions, atol=1e-4)
    motion = mocap.read_bvh(tmp_path / "person.bvh")
    assert np.linalg.norm(place(motion, "LeftHand") - place(motion, "LeftLowerArm"), axis=1) == pytest.approx(
        0.252, abs=0.001
    )


PROP = "ROOT Ball\n{\nOFFSET 0 0 0\nCHANNELS 3 Xposition Yposition Zposition\nEnd Site\n{\nOFFSET 0 300 0\n}\n}\n"


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rename", ["as is", "numbers"])
def test_of_several_roots_the_person_is_taken(tmp_path: Path, first: bool, rename: str):
    text = bvh_text(
        TOES, MOVES, rename=lambda name: RENAMES[rename](name) if name in PERSON else "last " + str(len(name))
    )
    alone = figure_of(tmp_path, text)
    assert np.allclose(figure_of(tmp_path, rooted(text, PROP, "500 20 -100", first)).positions, alone.positions)


@pytest.mark.parametrize("rename", ["as is", "numbers"])
@pytest.mark.parametrize("together", [True, False])
def test_two_people_in_a_file_are_named(tmp_path: Path, rename: str, together: bool):
    def text(who: str) -> str:
        return bvh_text(TOES, STANDING, rename=lambda name: f"{who}:" + (name if rename == "as is" else str(len(name))))

    first, second = (text(who).removeprefix("HIERARCHY\n").split("MOTION\n") for who in ("Ann", "Bob"))
    if together:
        both = f"ROOT Scene {{ {first[0]}{second[0]} }}".replace("ROOT Ann", "JOINT Ann").replace(
            "ROOT Bob", "JOINT Bob"
        )
    else:
        both = first[0] + second[0]
    head, rows = first[1].splitlines()[:2], zip(first[1].splitlines()[2:], second[1].splitlines()[2:], strict=True)
    with pytest.raises(BodyError, match=r"2 people, below 'Ann:\w+' and 'Bob:\w+': keep one"):
        figure_of(tmp_path, f"HIERARCHY\n{both}\nMOTION\n" + "\n".join([*head, *map(" ".join, rows)]))


def lying(share: float, angle: float, height: float = 0, n_frames: int = 30) -> str:
    """Someone who stands, and in a share of the frames is turned about x (90: lies on the face; 180: on the head)."""
    lies = [frame < share * n_frames for frame in range(n_frames)]
    text = bvh_text(TOES, {"Hips": [(0, angle, 0) if down else (0, 0, 0) for down in lies]})
    return with_hips(text, [(20, height if down else 90, 70) for down in lies])


@pytest.mark.parametrize("angle, height", [(90, 12), (-90, 12), (180, 69)], ids=["face", "back", "head"])
@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_who_lies_or_stands_on_the_head_is_shown_so(tmp_path: Path, share: float, angle: float, height: float):
    """For a part of the clip or all of it: the pose of the offsets and the floor, where the file has its zero, tell."""
    path = tmp_path / "person.bvh"
    path.write_text(lying(share, angle, height))
    motion = mocap.read_bvh(path)
    rise = rise_of(motion)
    assert rise[0] == pytest.approx(
        0.67 * math.cos(math.radians(angle)) + 0.02 * (abs(angle) == 90) * -np.sign(angle), abs=0.01
    )
    if share < 1:
        assert rise[-1] == pytest.approx(0.67, abs=0.01)
    figure = mocap.as_figure(motion)
    for seed in range(2 * ((share, angle) != (0.7, 180))):  # for heads below knees by the median the frame is too small
        actor = draw_actor(np.random.default_rng(seed))
        assert mocap.in_picture(figure, actor, np.random.default_rng(seed)).all()


def test_an_offset_pose_in_other_axes_than_the_motion_is_not_believed(tmp_path: Path):
    """As in files whose bones all lie along x, or whose root turns y up into z up: the motion tells."""
    text = bvh_text(PERSON, {"Hips": [(0, 90, 0)] * 9})  # stands along z, offsets along y
    path = tmp_path / "person.bvh"
    path.write_text(with_hips(text, [(15, 40, 90)] * 9))
    motion = mocap.read_bvh(path)
    assert np.allclose(rise_of(motion), 0.67)


def test_who_lies_now_and_then_along_the_axis_of_a_pose_without_meaning_stays_upright(tmp_path: Path):
    """Where all bones of the offsets lie along x, as in two public sets: on a floor, a fifth along x is no reason."""
    # axes: y becomes x, x becomes -y; stands along y, turned about z; lies along x in ten frames
    turns = [(0, 0, 0) if frame < 10 else (90, 0, 0) for frame in range(50)]
    text = bvh_text(TOES, {"Hips": turns}, axes=(1, 0, 2), signs=(1, -1, 1))
    path = tmp_path / "person.bvh"
    path.write_text(with_hips(text, [(0, 12 if frame < 10 else 90, 0) for frame in range(50)]))
    rise = rise_of(mocap.read_bvh(path))
    assert np.allclose(rise[10:], 0.67) and np.abs(rise[:10]).max() < 0.05


def test_collarbones_longer_than_forearms(tmp_path: Path):
    """CMU's skeletons begin both collarbones at one point; collarbone and upper arm are then the longest two bones."""
    change = {
        "LeftCollar": ("Chest", (0, 8, 0)), "RightCollar": ("Chest", (0, 8, 0)),
        "LeftUpperArm": ("LeftCollar", (26, 0, 0)), "RightUpperArm": ("RightCollar", (-26, 0, 0)),
        "LeftHand": ("LeftLowerArm", (0, -22, 0)), "RightHand": ("RightLowerArm", (0, -22, 0)),
    }  # fmt: skip
    figure = figure_of(tmp_path, bvh_text(PERSON | change, STANDING))
    assert stands(figure)
    assert place(figure, "left_shoulder")[0, 0] - place(figure, "right_shoulder")[0, 0] > 0.4
    assert place(figure, "left_elbow")[0, 1] < place(figure, "left_shoulder")[0, 1] - 0.2


# Names of many programs, and helper bones

PARTS = ["Hips", "Spine", "Chest", "Neck", "Head"]
PARTS += ["Collar", "UpperArm", "LowerArm", "Hand", "Thigh", "Shin", "Foot", "Toe"]
PROGRAMS = {  # the words for left and right, which stand for {}, and what the parts are called
    "MotionBuilder": (
        "Left Right",
        "Hips Spine Spine1 Neck Head {}Shoulder {}Arm {}ForeArm {}Hand {}UpLeg {}Leg {}Foot {}ToeBase",
    ),
    "Blender": (
        "L R",
        "hips spine chest neck head shoulder.{} upper_arm.{} forearm.{} hand.{} thigh.{} shin.{} foot.{} toe.{}",
    ),
    "Unreal": (
        "l r",
        "pelvis spine_01 spine_02 neck_01 head clavicle_{} upperarm_{} lowerarm_{} hand_{} thigh_{} calf_{} "
        "foot_{} ball_{}",
    ),
    "Mixamo": (
        "Left Right",
        "mixamorig:Hips mixamorig:Spine mixamorig:Spine1 mixamorig:Neck mixamorig:Head mixamorig:{}Shoulder "
        "mixamorig:{}Arm mixamorig:{}ForeArm mixamorig:{}Hand mixamorig:{}UpLeg mixamorig:{}Leg mixamorig:{}Foot "
        "mixamorig:{}ToeBase",
    ),
    "CMU": ("l r", "hips lowerback chest neck head {}clavicle {}humerus {}radius {}hand {}femur {}tibia {}foot {}toes"),
    "Biped": (
        "L R",
        "Bip01 Bip01_Spine Bip01_Spine1 Bip01_Neck Bip01_Head Bip01_{}_Clavicle Bip01_{}_UpperArm Bip01_{}_Forearm "
        "Bip01_{}_Hand Bip01_{}_Thigh Bip01_{}_Calf Bip01_{}_Foot Bip01_{}_Toe0",
    ),
    "VRM": (
        "L R",
        "J_Bip_C_Hips J_Bip_C_Spine J_Bip_C_Chest J_Bip_C_Neck J_Bip_C_Head J_Bip_{}_Shoulder J_Bip_{}_UpperArm "
        "J_Bip_{}_LowerArm J_Bip_{}_Hand J_Bip_{}_UpperLeg J_Bip_{}_LowerLeg J_Bip_{}_Foot J_Bip_{}_ToeBase",
    ),
    "Xsens": (
        "Left Right",
        "Hips Chest Chest4 Neck Head {}Collar {}Shoulder {}Elbow {}Wrist {}Hip {}Knee {}Ankle {}Toe",
    ),
    "Daz": ("l r", "hip abdomen chest neck head {}Collar {}Shldr {}ForeArm {}Hand {}Thigh {}Shin {}Foot {}Toe"),
    "OptiTrack": (
        "L R",
        "Skeleton_Hip Skeleton_Ab Skeleton_Chest Skeleton_Neck Skeleton_Head Skeleton_{}Shoulder Skeleton_{}UArm "
        "Skeleton_{}FArm Skeleton_{}Hand Skeleton_{}Thigh Skeleton_{}Shin Skeleton_{}Foot Skeleton_{}Toe",
    ),
    "Bandai Namco": (
        "L R",
        "Hips Spine Chest Neck Head Shoulder_{} UpperArm_{} LowerArm_{} Hand_{} UpperLeg_{} LowerLeg_{} Foot_{} "
        "Toes_{}",
    ),
    "capitals": (
        "LEFT RIGHT",
        "HIPS SPINE CHEST NECK HEAD {}COLLAR {}UPARM {}LOWARM {}HAND {}THIGH {}SHIN {}FOOT {}TOE",
    ),
    "blanks": (
        "Left Right",
        "my_hips my_spine my_chest my_neck the_head the_{}_collar the_{}_arm a_{}_elbow the_{}_hand {}_hip {}_knee "
        "{}_foot {}_toe",
    ),
}


def rename_as(program: str):
    """What `program` calls the joint `name`; some write blanks for the underscores of the table."""
    sides, names = PROGRAMS[program]
    names = dict(zip(PARTS, names.split(), strict=True))

    def rename(name: str) -> str:
        side = next((side for side in ("Left", "Right") if name.startswith(side)), "")
        new = names[name.removeprefix(side)].format(sides.split()[side == "Right"])
        return new.replace("_", " ") if program in ("Biped", "blanks") else new

    return rename


def test_the_names_of_many_programs(tmp_path: Path):
    """The figure is that of the same person with plain names: facing away, where the shape alone has no sides."""
    moves = {"Hips": [(0, 0, 200)] * 3, "LeftUpperArm": [(120, 0, 0)] * 3}
    plain = figure_of(tmp_path, bvh_text(TOES, moves))
    for program in PROGRAMS:
        figure = figure_of(tmp_path, bvh_text(TOES, moves, rename=rename_as(program)))
        assert len(mocap._bodies_by_name(mocap.read_bvh(tmp_path / "person.bvh"))) == 1, program
        assert np.allclose(figure.positions, plain.positions), program


def helper(name: str, offset: str = "60 0 0", bones: int = 1) -> str:
    inner = "End Site { OFFSET 0 0 0 }"
    for number in reversed(range(bones)):
        inner = f"JOINT {name}{number or ''} {{ OFFSET {offset} CHANNELS 0 {inner} }}"
    return inner + "\n"


HELPERS = [
    "ik_hand_l", "ik_hand_r", "ik_foot_l", "ik_foot_r", "ik_foot_root", "hand_ik.L", "LeftHandIK", "IKLeftHand",
    "CTRL_Hand_L", "LeftHand_Ctrl", "LeftFootControl", "left_foot_pole", "RightHandPoleTarget", "LeftHandProp",
    "prop_hand_l", "RightHandTarget", "foot_target.R", "HeadTarget", "head_ctrl", "LeftHandHelper", "LeftHandTwist",
    "weapon_hand_r", "LeftHandGoal", "RightToeEffector", "LeftHandX", "HeadX",
]  # fmt: skip


@pytest.mark.parametrize("bones", [1, 4])
@pytest.mark.parametrize("where", ["beside", "last on the hips", "first on the hips"])
def test_helper_bones_are_no_hands(tmp_path: Path, where: str, bones: int):
    """All of them in one rig: beside the body, or on the hips, before and behind it, where only the name tells."""
    text = bvh_text(TOES, MOVES)
    plain = figure_of(tmp_path, text).positions
    head, rows = text.split("MOTION\n")
    rig = "".join(helper(name, bones=bones) for name in HELPERS if where == "beside" or not name.endswith("X"))
    if where == "beside":
        rigged = beside_a_root(text, more=rig)
    elif where == "last on the hips":
        rigged = f"{head.rstrip()[:-1]}{rig}}}\nMOTION\n{rows}"
    else:
        rigged = text.replace("JOINT Spine", f"{rig}JOINT Spine", 1)
    assert np.allclose(figure_of(tmp_path, rigged).positions, plain, atol=1e-4)


def test_what_is_called_after_a_tip_and_what_is_a_helper():
    assert [name for name in HELPERS if not mocap._tip_named(name).helper] == ["LeftHandX", "HeadX"]
    assert mocap._tip_named("mixamorig:LeftHand") == ("left_hand", False) and mocap._tip_named("Spine") == (None, False)


@pytest.mark.parametrize("name", ["LeftHandWeapon", "weapon_hand_l", "LeftHandSword", "Sword"])
def test_what_a_hand_holds_is_no_hand(tmp_path: Path, name: str):
    text = bvh_text(TOES, MOVES)
    plain = figure_of(tmp_path, text).positions
    hand = text.index("JOINT LeftHand")
    end = text.index("End Site", hand)
    held = text[:end] + helper(name, "0 0 90", 3) + text[end:]
    assert np.allclose(figure_of(tmp_path, held).positions, plain, atol=1e-4)


def test_a_body_with_nothing_but_control_names_is_found_by_them(tmp_path: Path):
    rename = {name: f"ctrl_{name}" for name in TOES}.get
    plain = figure_of(tmp_path, bvh_text(TOES, MOVES)).positions
    assert np.allclose(figure_of(tmp_path, bvh_text(TOES, MOVES, rename=rename)).positions, plain)


# Left and right of skeletons without names


@pytest.mark.parametrize("facing", [0, 70, 180, 200, 290])
@pytest.mark.parametrize("mirrored", [False, True])
def test_toes_tell_left_from_right(tmp_path: Path, facing: int, mirrored: bool):
    """Whichever way the person faces, and whichever leg the file lists first."""
    skeleton = dict(reversed(TOES.items())) if mirrored else TOES
    skeleton = {"Hips": TOES["Hips"]} | skeleton
    moves = {"Hips": [(0, 0, facing)] * 9, "LeftUpperArm": [(120, 0, 0)] * 9}
    figure = figure_of(tmp_path, bvh_text(skeleton, moves, rename=lambda name: f"j{[*TOES].index(name)}"))
    assert stands(figure)
    assert place(figure, "left_hand")[0, 1] > place(figure, "head")[0, 1] > place(figure, "right_hand")[0, 1]


def test_without_toes_bent_knees_tell(tmp_path: Path):
    moves = {"Hips": [(0, 0, 180)] * 9} | {
        f"{s}{p}": [(0, a, 0)] * 9 for s in ("Left", "Right") for p, a in (("Thigh", -30), ("Shin", 60))
    }
    assert stands(figure_of(tmp_path, bvh_text(PERSON, moves, rename=RENAMES["numbers"])))


# The camera goes along


def walk(n_frames: int, speed: float, direction: tuple = (0, 0, 1), fps: float = 30.0) -> str:
    """Someone who goes at `speed` m/s and swings arms and legs."""
    swing = [40 * math.sin(2 * math.pi * frame / fps) for frame in range(n_frames)]
    moves = {f"{s}Thigh": [(0, k * a, 0) for a in swing] for s, k in (("Left", 1), ("Right", -1))} | {
        "Hips": [(0, 0, 0)] * n_frames
    }
    gone = [
        [100 * speed * frame / fps * step + 90 * (axis == 1) for axis, step in enumerate(direction)]
        for frame in range(n_frames)
    ]
    return with_hips(bvh_text(TOES, moves, fps=fps), [tuple(at) for at in gone])


@pytest.mark.parametrize(
    "speed, n_frames, direction",
    [
        (1.4, 200, (0.6, 0, 0.8)),
        *((7, 90, direction) for direction in ((0, 0, 1), (0, 0, -1), (1, 0, 0), (0, 1, 0))),
        (3, 12, (1, 0, 0)),
        (40, 1, (0, 0, 1)),
    ],
)
def test_who_walks_far_stays_in_the_picture(tmp_path: Path, direction: tuple, speed: float, n_frames: int):
    figure = figure_of(tmp_path, walk(n_frames, speed, direction))
    assert np.abs(place(figure, "pelvis")).max() < 2 * (mocap.LEASH + 0.05)
    for seed in range(3):
        actor = draw_actor(np.random.default_rng(seed))
        assert mocap.in_picture(figure, actor, np.random.default_rng(seed)).all()
    moving = np.linalg.norm(place(figure, "left_knee") - place(figure, "right_knee"), axis=1)
    assert n_frames < 90 or moving.max() > 0.4 > 0.3 > moving.min()  # the steps are still there


def test_who_stays_is_filmed_as_ever(tmp_path: Path):
    """Swaying within the leash, the camera does not move at all: the figure is the plain difference to the median."""
    sway = [(15 * math.sin(frame / 9), 90, 10 * math.cos(frame / 7)) for frame in range(100)]
    text = bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 100}, fps=25)
    hips = place(figure_of(tmp_path, with_hips(text, sway)), "pelvis")
    wanted = np.array(sway) / 100 * 0.5 / 0.57
    assert np.allclose(hips, wanted - np.median(wanted, axis=0), atol=1e-6)


def test_a_leash_without_end_is_a_camera_that_stays(tmp_path: Path):
    """The person then leaves the picture, which is what the leash is for."""
    path = tmp_path / "person.bvh"
    path.write_text(walk(60, 2, (1, 0, 0)))
    staying = mocap.as_figure(mocap.read_bvh(path), leash=np.inf)
    assert (
        np.ptp(place(staying, "pelvis")[:, 0])
        > 3
        > 1
        > np.ptp(place(mocap.as_figure(mocap.read_bvh(path)), "pelvis")[:, 0])
    )
    actor = draw_actor(np.random.default_rng(0))
    assert not mocap.in_picture(staying, actor, np.random.default_rng(0)).all()


def test_a_jump_is_seen_and_a_leap_of_the_recording_too():
    path = 0.3 * np.maximum(np.sin(np.arange(100) / 8), 0)
    camera = mocap._camera_path(np.stack([0 * path, path, 0 * path], axis=1), mocap.LEASH)
    assert np.abs(camera[:, [0, 2]]).max() == 0 and np.ptp(path - camera[:, 1]) > 0.2
    torn = np.zeros((60, 3))
    torn[30, 0] = 50  # one frame fifty metres away
    assert np.abs(torn - mocap._camera_path(torn, mocap.LEASH)).max() <= mocap.LEASH + 0.05 + 1e-9


def on_the_side(n_frames: int, standing: int = 0) -> str:
    """Someone who lies on the side, and stands in the last frames; some actors' heads are then out of the picture."""
    lies = [frame < n_frames - standing for frame in range(n_frames)]
    text = bvh_text(TOES, {"Hips": [(90, 0, 0) if down else (0, 0, 0) for down in lies]}, fps=25)
    return with_hips(text, [(20, 12 if down else 90, 70) for down in lies])


def test_a_film_that_does_not_show_its_person_is_named(tmp_path: Path, capsys):
    folder = tmp_path / "bvh"
    folder.mkdir()
    (folder / "rises.bvh").write_text(on_the_side(6, standing=2))
    (folder / "lies.bvh").write_text(on_the_side(6))
    (folder / "manifest.csv").write_text("path,label,actor\nrises.bvh,joy,Ann\nlies.bvh,anger,Ann\n")
    (film,) = films(mocap.motion_corpus(folder, tmp_path / "made"))
    assert film.startswith("rises_")
    said = capsys.readouterr().out
    assert re.search(r"rises\.bvh: .* out of the picture in 4 of 6 frames", said)
    assert "lies.bvh left out: its film would show nobody" in said


# The file format as others write it

ROW = GOOD.splitlines()[-1]
FORMS = {
    "byte order mark": "\ufeff" + GOOD,
    "utf-16": GOOD.encode("utf-16"),
    "utf-16 be": b"\xfe\xff" + GOOD.encode("utf-16-be"),
    "utf-32": GOOD.encode("utf-32"),
    "utf-16 without a mark": GOOD.encode("utf-16-le"),
    "utf-16 be without a mark": GOOD.encode("utf-16-be"),
    "latin-1 name": GOOD.replace("Chest", "Brüste").encode("latin-1"),
    "empty line first": "\n \n" + GOOD,
    "comment first": "# made by hand\n// twice\n" + GOOD,
    "comments": GOOD.replace("\tOFFSET", "# a bone\n\tOFFSET").replace("}\nMOTION\n", "} // end\nMOTION # frames\n"),
    "comment after numbers": GOOD.replace("CHANNELS 6", "# six\nCHANNELS 6").replace("25.000000 0.000000", "25 0 # up"),
    "numbered frames": GOOD.replace(ROW, ROW + " #2"),
    "number in a name": GOOD.replace("JOINT Spine", "JOINT Bone #3"),
    "empty line after motion": GOOD.replace("MOTION\n", "MOTION\n\n"),
    "empty line after frames": GOOD.replace("Frame Time", "\nFrame Time"),
    "empty lines between frames": GOOD.replace("\n" + ROW, "\n\n  \n" + ROW + "\n\n"),
    "empty lines everywhere": GOOD.replace("\n", "\n\n"),
    "crlf": GOOD.replace("\n", "\r\n"),
    "cr": GOOD.replace("\n", "\r"),
    "cr and comments": ("# a\n" + GOOD).replace("\n", "\r"),
    "tabs": GOOD.replace(" ", "\t"),
    "lower case": re.sub("HIERARCHY|ROOT|JOINT|OFFSET|CHANNELS|End Site|MOTION|Frame", lambda m: m[0].lower(), GOOD),
    "upper case": re.sub("[XYZ]rotation|[XYZ]position|End Site|Frames|Frame Time", lambda m: m[0].upper(), GOOD),
    "frames without blank": GOOD.replace("Frames: 2", "Frames:2").replace("Frame Time: ", "Frame Time:"),
    "frames with blank": GOOD.replace("Frames: 2", "Frames : 2").replace("Time:", "Time :"),
    "frames and tab": GOOD.replace("Frames: 2", "Frames:\t2").replace("Time: ", "Time:\t"),
    "scientific": re.sub(r"Frame Time: \S+", "Frame Time: 3.333333e-02", GOOD),
    "comma": re.sub(r"Frame Time: 0\.", "Frame Time: 0,", GOOD),
    "commas everywhere": re.sub(r"(\d)\.(\d)", r"\1,\2", GOOD),
    "one line each": GOOD.replace("\n{", " {").replace("}\n}", "} }"),
    "channels none": GOOD.replace("End Site\n{\nOFFSET 0 0 0", "End Site\n{\nOFFSET 0 0 0\nCHANNELS 0"),
    "wrapped frames": re.sub(r"((?:\S+ ){30}\S+) ", r"\1\n", GOOD),
    "no last line end": GOOD.rstrip("\n"),
    "blanks at the end": GOOD.replace("\n", "  \n"),
    "small numbers": GOOD.replace(" 0.000000", " 1e-9"),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_other_readers_take(tmp_path: Path, form: str, recwarn):
    path = tmp_path / "person.bvh"
    data = FORMS[form]
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    motion = mocap.read_bvh(path)
    path.write_text(GOOD)
    plain = mocap.read_bvh(path)
    assert np.allclose(motion.positions, plain.positions, atol=1e-6) and motion.fps == pytest.approx(
        plain.fps, rel=1e-4
    )
    assert motion.parents == plain.parents and not recwarn.list


LONG = bvh_text(PERSON, {name: [turns[frame % 2] for frame in range(40)] for name, turns in MOVES.items()})


@pytest.mark.parametrize(
    "change, read, said",
    [
        (lambda text: text + ROW + "\n", 41, "40 frames are announced, 41 are read"),
        (lambda text: text + 3 * (ROW + "\n"), 43, "40 frames are announced, 43 are read"),
        (lambda text: text[: -len(ROW) - 1], 39, "40 frames are announced, 39 are read"),
        (lambda text: text[: -2 * len(ROW) - 2], 38, "40 frames are announced, 38 are read"),
        (lambda text: text[:-40], 39, "40 frames are announced, 39 are read, and the last line breaks off"),
        (lambda text: text + "1.5 2.5 -", 40, "40 frames are announced, 40 are read, and the last line breaks off"),
    ],
)
def test_a_frame_more_or_fewer_is_said(tmp_path: Path, change, read: int, said: str):
    path = tmp_path / "person.bvh"
    path.write_text(change(LONG))
    with pytest.warns(UserWarning, match=f"person.bvh: {said}") as warned:
        motion = mocap.read_bvh(path)
    assert len(motion.positions) == read and len(warned) == 1


def test_one_frame_more_in_a_short_file_is_read(tmp_path: Path):
    path = tmp_path / "person.bvh"
    path.write_text(GOOD + ROW + "\n")
    with pytest.warns(UserWarning, match="2 frames are announced, 3 are read"):
        assert len(mocap.read_bvh(path).positions) == 3


REFUSED = {  # what is wrong -> the words that must say so
    "": "begins with ''",
    "PK\x03\x04": "begins with 'PK",
    GOOD.replace("HIERARCHY\n", ""): "begins with 'ROOT', not with HIERARCHY",
    GOOD.replace("MOTION\n", ""): r"line \d+: .*did not expect 'Frames:'",
    GOOD.split("MOTION")[0]: "ends before the line MOTION",
    "HIERARCHY\n": "ends before the line MOTION",
    "HIERARCHY\nMOTION\nFrames: 1\nFrame Time: 0.1\n1\n": "did not expect 'MOTION'",
    "HIERARCHY\nOFFSET 0 0 0\n" + GOOD[10:]: "line 2: .*did not expect 'OFFSET'",
    GOOD.replace("ROOT Hips\n{", "ROOT Hips\n"): "brace after ROOT Hips is missing",
    GOOD.replace("OFFSET 0.000000 25.000000 0.000000", "OFFSET 0 25"): "expected a number and met 'CHANNELS'",
    GOOD.replace("CHANNELS 6", "CHANNELS -1", 1): "channels",
    GOOD.replace("CHANNELS 6", "CHANNELS 2.5", 1): "channels",
    GOOD.replace("CHANNELS 6", "CHANNELS 9", 1): "more than six channels",
    GOOD.replace("CHANNELS 6", "CHANNELS nan", 1): "channels",
    re.sub("CHANNELS .*", "CHANNELS 0", GOOD.split("MOTION")[0])
    + "MOTION\nFrames: 2\nFrame Time: 0.1\n": "no joint has channels",
    GOOD.replace("Frames: 2\n", ""): "MOTION must be followed by Frames:",
    GOOD.replace("Frames: 2", "Frames: two"): "expected a number and met 'two'",
    GOOD.replace("Frames: 2", "Frames: 2.5"): "2.5 frames",
    GOOD.replace("Frames: 2", "Frames: nan"): "nan frames",
    re.sub("Frame Time: .*", "Frame Time: nan", GOOD): "lasts nan seconds",
    re.sub("Frame Time: .*", "Frame Time: 1.234,5", GOOD): "expected a number and met '1.234,5'",
    LONG[: -4 * len(ROW) - 4]: "40 frames of .* are announced",
    LONG + 4 * (ROW + "\n"): "40 frames of .* are announced",
    LONG.replace(ROW, ROW[:-9], 1): "40 frames of .* are announced",
    LONG.replace(ROW, ROW + " 5.0", 1): "40 frames of .* are announced",
    GOOD + "end\n": "numbers follow",
    GOOD.replace(ROW, ROW.replace("40.000000", "4O.0", 1)): "4O.0",
    GOOD.replace(ROW, ROW.replace("40.000000", "inf", 1)): "not finite",
}


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_is_refused_gets_a_sentence_that_fits(tmp_path: Path, number: int):
    text, words = list(REFUSED.items())[number]
    path = tmp_path / "broken.bvh"
    path.write_text(text)
    with pytest.raises(BodyError, match=words) as caught:
        mocap.read_bvh(path)
    said = str(caught.value)
    assert "broken.bvh" in said and "again" in said and "\n" not in said
    assert not re.search("index|generator|invalid literal|could not convert", said)


@pytest.mark.parametrize("size", [1e-7, 0.01, 0.5])
def test_position_channels_that_are_nearly_zero_do_not_replace_the_offset(tmp_path: Path, size: float):
    """Within a tenth of a bone of zero in every frame they are noise; constantly the offset, they are the offset."""
    text = bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 8}, moves=("Chest",))
    rng = np.random.default_rng(0)
    head, rows = text.split("MOTION\n")
    rows = rows.splitlines()
    for number in range(2, len(rows)):
        noise = " ".join(f"{value:.9f}" for value in rng.uniform(-size, size, 3))
        rows[number] = rows[number].replace("0.000000 20.000000 0.000000", noise)
    path = tmp_path / "person.bvh"
    path.write_text(text)
    plain = mocap.read_bvh(path)
    path.write_text(f"{head}MOTION\n" + "\n".join(rows))
    assert np.allclose(mocap.read_bvh(path).positions, plain.positions)


def test_a_root_with_position_channels_that_are_nearly_zero_keeps_its_offset(tmp_path: Path):
    hips = PERSON | {"Hips": (None, (0, 90, 0))}
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(hips, STANDING).replace("\n0.000000 90.000000 0.000000", "\n0.0001 -0.0002 0.0001"))
    assert np.allclose(place(mocap.read_bvh(path), "Hips"), [0, 0.9, 0])


def test_a_joint_turned_twice_about_one_axis_keeps_both_turns(tmp_path: Path):
    text = bvh_text(PERSON, {"Hips": [(30, 40, 50)] * 2}, order="ZXZ")
    path = tmp_path / "person.bvh"
    path.write_text(text)
    motion = mocap.read_bvh(path)
    head = expected(PERSON, {"Hips": [(30, 40, 50)] * 2}, "ZXZ", 0)
    assert np.allclose(
        np.linalg.norm(place(motion, "LeftHand") - place(motion, "RightFoot"), axis=1)[0],
        np.linalg.norm(np.subtract(head["LeftHand"], head["RightFoot"])),
    )
    assert np.allclose(np.abs(place(motion, "Head")[0]).sum(), np.abs(head["Head"]).sum())


@pytest.mark.parametrize("scale", [0, 1e-9])
def test_limbs_without_length_are_one_sentence_and_no_warning(tmp_path: Path, scale: float):
    flat = {name: (parent, tuple(scale * v for v in offset)) for name, (parent, offset) in PERSON.items()}
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(flat, MOVES))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BodyError, match="without length|one point"):
            mocap.as_figure(mocap.read_bvh(path))


# A corpus of BVH files


def arm_up(degrees: float) -> str:
    """Five frames of somebody who holds the left arm up."""
    return bvh_text(PERSON, {"LeftUpperArm": [(degrees, 0, 0)] * 5}, fps=25)


def write_bvh_folder(folder: Path) -> Path:
    """Two motions of one actor, one of them torn, and a line for a file that is not there."""
    (folder / "deep").mkdir(parents=True)
    (folder / "one.bvh").write_text(arm_up(30))
    (folder / "deep" / "two.bvh").write_text(arm_up(150))
    (folder / "torn.bvh").write_text(GOOD[:-100])
    rows = "one.bvh,joy,Ann\ntorn.bvh,joy,Ann\nlost.bvh,joy,Bob\ndeep/two.bvh,anger,Ann\n"
    (folder / "manifest.csv").write_text(f"bvh_file,emotion,actor\n{rows}", encoding="utf-8-sig")
    return folder


def films(folder: Path) -> list[str]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of motion capture, "bvh", and its films, "made"."""
    folder = tmp_path_factory.mktemp("filmed")
    mocap.motion_corpus(write_bvh_folder(folder / "bvh"), folder / "made")
    return folder


@pytest.fixture
def lab(filmed: Path, tmp_path: Path) -> Path:
    """A copy of both folders, to change."""
    shutil.copytree(filmed, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_motion_corpus_films_what_can_be_read_and_names_the_rest(lab: Path, capsys):
    """A second call says the same and keeps the films."""
    kept = {path: path.stat().st_mtime_ns for path in (lab / "made").glob("*.avi")}
    made = mocap.motion_corpus(lab / "bvh", lab / "made")
    assert kept == {path: path.stat().st_mtime_ns for path in made.glob("*.avi")} and len(kept) == 2
    said = capsys.readouterr().out
    assert "torn.bvh" in said and "lost.bvh" in said and "one.bvh" not in said
    names, labels, actors = zip(
        *(line.split(",") for line in (made / "manifest.csv").read_text().split()[1:]), strict=True
    )
    assert labels == ("joy", "anger") and actors == ("Ann", "Ann")
    assert re.fullmatch(r"one_[0-9a-f]{8}\.avi", names[0]) and re.fullmatch(r"deep_two_[0-9a-f]{8}\.avi", names[1])
    assert (made / "source.txt").read_text() == f"{mocap.SOURCE}\n" == "motion capture drawn as figures, not GEMEP\n"
    one, two = (decode_video(made / name, color=True).frames for name in names)
    assert one.shape == two.shape == (5, 3, 576, 720)
    assert np.abs(one[0, :, 0, 0].astype(int) - two[0, :, 0, 0]).max() < 8  # the same actor has the same wall
    assert np.abs(one[0].astype(int) - two[0]).max() > 60  # and another posture


def test_what_is_not_filmed_is_named(lab: Path, capsys):
    """A copy, which could train while the first is in the test set, and a file that the manifest does not name."""
    (lab / "bvh" / "copy.bvh").write_bytes((lab / "bvh" / "one.bvh").read_bytes())
    (lab / "bvh" / "deep" / "STRAY.BVH").write_text(GOOD)
    rows = "path,label,actor\none.bvh,joy,Ann\ndeep/two.bvh,anger,Ann\ncopy.bvh,joy,Ann\n"
    (lab / "bvh" / "manifest.csv").write_text(rows)
    assert len(films(mocap.motion_corpus(lab / "bvh", lab / "made"))) == 2
    said = capsys.readouterr().out
    assert "copy.bvh left out: the same motion as one.bvh" in said
    assert f"{Path('deep/STRAY.BVH')} left out: not in manifest.csv" in said


def test_a_manifest_of_videos_is_one_sentence_and_one_of_wrong_paths_is_still_of_motion(tmp_path: Path):
    folder = write_bvh_folder(tmp_path / "bvh")
    (folder / "manifest.csv").write_text("path,label\nelsewhere/one.bvh,joy\n")
    assert mocap.has_motion(folder)
    (folder / "film.avi").touch()
    (folder / "manifest.csv").write_text("path,label\nfilm.avi,joy\nlost.bvh,joy\n")
    assert not mocap.has_motion(folder)
    with pytest.raises(BodyError, match=r"film\.avi.*folder of motion capture"):
        mocap.motion_corpus(folder, tmp_path / "made")


def test_nobodys_manifest_is_lost(tmp_path: Path):
    """Films into the folder of the BVH files, or into one of other videos: refused, the table as it was."""
    folder = write_bvh_folder(tmp_path / "bvh")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "manifest.csv").write_text("file,emotion\nholiday.mp4,joy\n")
    for target in (folder, mine):
        table = (target / "manifest.csv").read_bytes()
        with pytest.raises(BodyError, match="another folder"):
            mocap.motion_corpus(folder, target)
        assert (target / "manifest.csv").read_bytes() == table and not list(target.rglob("*.avi"))
    with pytest.raises(BodyError, match=r"holiday\.mp4.*another folder"):
        make_corpus(mine)


def test_motion_corpus_films_a_replaced_motion_again(lab: Path):
    before = films(lab / "made")
    old = decode_video(lab / "made" / before[0], color=True).frames
    (lab / "bvh" / "one.bvh").write_text(arm_up(140))  # as long as before
    after = films(mocap.motion_corpus(lab / "bvh", lab / "made"))
    assert after[1] == before[1] and after[0] != before[0] and len(after) == 2  # the old film is no longer named
    new = decode_video(lab / "made" / after[0], color=True).frames
    assert len(new) == len(old) and np.abs(new[0].astype(int) - old[0]).max() > 60
    (lab / "bvh" / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Bob\n")
    (other,) = films(mocap.motion_corpus(lab / "bvh", lab / "made"))
    assert other not in before + after  # another actor wears other clothes
    shown = decode_video(lab / "made" / other, color=True).frames
    assert np.abs(shown[0, :, 0, 0].astype(int) - new[0, :, 0, 0]).max() > 8


@pytest.mark.parametrize("said", ["made by an older camera", None])
def test_films_of_an_older_camera_are_made_again(lab: Path, said: str | None):
    """Their names hold no camera, since those of seated people are the same: what counts is what lies beside them."""
    made = lab / "made"
    one, two = (made / name for name in films(made))
    right = one.read_bytes()
    shutil.copy(two, one)  # whole, and as long, but of something else
    note = made / "films_README.txt"
    note.write_text(said) if said else note.unlink()
    assert films(mocap.motion_corpus(lab / "bvh", made)) == [one.name, two.name] and one.read_bytes() == right
    assert note.read_text() == mocap.FILMED_BY
    assert note.name not in dict(Corpus(made, 8, cache=lab / "cache").rejected)


def test_motion_corpus_names_what_the_manifest_gets_wrong(tmp_path: Path, capsys):
    folder = write_bvh_folder(tmp_path / "bvh")
    (folder / "one.bvh").rename(folder / "ONE.BVH")
    (folder / "manifest.csv").write_text(
        "path,label,actor,take\nONE.BVH,joy\n../secret.bvh,joy,Ann\ndeep/two.bvh,,Ann\nONE.BVH,anger,Ann\n"
    )
    made = mocap.motion_corpus(folder, tmp_path / "made")
    said = capsys.readouterr().out
    for path, reason in (("secret.bvh", "leaves the"), ("two.bvh", "no label"), ("ONE.BVH", "second line")):
        assert re.search(rf"{path} left out: .*{reason}", said), path
    assert "nothing reads: take" in said
    rows = (made / "manifest.csv").read_text().split()
    assert len(rows) == 2 and re.fullmatch(r"ONE_[0-9a-f]{8}\.avi,joy,", rows[1])  # no actor, but a film
    assert len(decode_video(made / rows[1].split(",")[0]).frames) == 5


def test_has_motion_looks_below_and_at_any_letter_case(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "bvh.txt").touch()
    assert mocap.has_motion(tmp_path) is False
    (tmp_path / "a" / "b" / "walk.Bvh").touch()
    assert mocap.has_motion(tmp_path) is True and mocap.has_motion(str(tmp_path)) is True


def test_motion_corpus_asks_for_a_usable_manifest(tmp_path: Path):
    folder = write_bvh_folder(tmp_path / "bvh")
    table = folder / "manifest.csv"
    table.write_text("clip,feeling\none.bvh,joy\n")
    with pytest.raises(CorpusError, match=r"manifest\.csv.* path,label,actor"):
        mocap.motion_corpus(folder, tmp_path / "made")
    table.write_text("path,label,actor\ntorn.bvh,joy,Ann\n")
    with pytest.raises(BodyError, match="none of the 1 files"):
        mocap.motion_corpus(folder, tmp_path / "made")
    assert not (tmp_path / "made" / "manifest.csv").exists() and not (tmp_path / "made" / "source.txt").exists()
    table.unlink()
    with pytest.raises(CorpusError, match=r"manifest\.csv does not exist"):
        mocap.motion_corpus(folder, tmp_path / "made")


def test_the_counting_of_real_files(tmp_path: Path, capsys):
    """Of three files: a walker with a root on the floor, somebody seen from behind, and nobody."""
    tool = Path(__file__).parent / "tools" / "check_mocap.py"
    spec = importlib.util.spec_from_file_location("check_mocap", tool)
    check_mocap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_mocap)
    (tmp_path / "set").mkdir()
    walker = beside_a_root(walk(60, 2, (1, 0, 0)), away=(500, 0, 0))
    for name, text in (("walk", walker), ("behind", bvh_text(TOES, {"Hips": [(0, 0, 180)] * 9})), ("nothing", "")):
        (tmp_path / "set" / f"{name}.bvh").write_text(text)
    check_mocap.main([f"three={tmp_path / 'set'}", "--folder", str(tmp_path / "record")])
    (found,) = json.loads((tmp_path / "record" / "mocap.json").read_text())["sets"]
    assert found["files"] == 3 and len(found["refused"]) == 1 and "begins with" in found["refused"][0]
    assert all(found[what] == 2 for what in ("read", "upright", "sized", "facing", "named", "sides", "whole"))
    assert found["upright_from_joint_0"] == found["whole_still"] == 1
    said = (tmp_path / "record" / "mocap.md").read_text()
    assert re.search(r"\| three +\| +3 \| +2 \|", said) and "nothing.bvh" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(not EBMDB.is_file(), reason="the motion capture of ../shared/data/ebmdb is not here")
def test_real_motion_capture_becomes_people_that_face_us(tmp_path: Path):
    with tarfile.open(EBMDB) as archive:
        members = [member for member in archive if member.name.endswith(".bvh")]
        assert len(members) == 150
        archive.extractall(tmp_path, members=members[::15], filter="data")
    for path in sorted(tmp_path.rglob("*.bvh")):
        motion = mocap.read_bvh(path)
        figure = mocap.as_figure(motion)
        assert motion.fps == pytest.approx(30, abs=0.01)
        assert len(figure.positions) == int((len(motion.positions) - 1) / motion.fps * 25 + 1e-3) + 1
        middle = dict(zip(figure.names, np.median(figure.positions, axis=0), strict=True))
        assert middle["head"][1] > 0.55 and abs(middle["pelvis"]).max() < 0.01
        assert (
            middle["left_shoulder"][0] > 0.08
            and middle["right_shoulder"][0] < -0.08
            and middle["nose"][2] > middle["head"][2]
        )
        assert (middle["left_knee"] + middle["right_knee"])[1] > -0.5  # seated: the knees are not far below the hips

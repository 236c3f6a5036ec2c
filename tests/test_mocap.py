"""Motion capture: BVH files of many habits, and the films made of them."""

import csv
import math
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from deformlib import mocap
from deformlib.bodies import JOINTS, BodyError, Motion, make_corpus
from deformlib.frames import read_video

EBMDB = Path(__file__).resolve().parents[2] / "shared" / "data" / "ebmdb" / "ebmdb_bvh30_subset150.tar.xz"


def place(motion: Motion, name: str) -> np.ndarray:
    return motion.positions[:, motion.names.index(name)]


# BVH files. The skeleton below stands in centimetres, y up, facing +z, so its left is +x.

PERSON = {  # name: (parent, offset)
    "Hips": (None, (0, 0, 0)),
    "Spine": ("Hips", (0, 25, 0)),
    "Chest": ("Spine", (0, 20, 0)),
    "Neck": ("Chest", (0, 12, 0)),
    "Head": ("Neck", (0, 10, 2)),
    **{
        f"{side}{part}": (parent if parent in ("Hips", "Chest") else f"{side}{parent}", (sign * x, y, z))
        for side, sign in (("Left", 1), ("Right", -1))
        for part, parent, (x, y, z) in (
            ("Collar", "Chest", (4, 8, 0)),
            ("UpperArm", "Collar", (14, 0, 0)),
            ("LowerArm", "UpperArm", (0, -29, 0)),
            ("Hand", "LowerArm", (0, -25, 3)),
            ("Thigh", "Hips", (10, -4, 0)),
            ("Shin", "Thigh", (0, -42, 1)),
            ("Foot", "Shin", (0, -41, 0)),
        )
    },
}


def bvh_text(
    skeleton: dict,
    rotations: dict,
    *,
    rename=str,
    unit: float = 1.0,
    axes=(0, 1, 2),
    signs=(1, 1, 1),
    fps: float = 30.0,
    order: str = "ZXY",
    moves: tuple = (),
) -> str:
    """A BVH text; `rotations` maps a name to a list of (angles in `order`) a frame, `axes` and `signs` turn the space."""
    n_frames = len(next(iter(rotations.values())))
    columns: list[list[list[float]]] = []

    def write(name: str) -> str:
        parent, offset = skeleton[name]
        turned = [sign * offset[axis] * unit for axis, sign in zip(axes, signs)]
        frames = rotations.get(name, [(0, 0, 0)] * n_frames)
        channels = [f"{axis}rotation" for axis in order]
        if name in moves or parent is None:
            channels = ["Xposition", "Yposition", "Zposition", *channels]
            columns.append([[*turned, *angles] for angles in frames])
        else:
            columns.append([list(angles) for angles in frames])
        inner = "".join(write(child) for child, (above, _) in skeleton.items() if above == name)
        inner = inner or "End Site\n{\nOFFSET 0 0 0\n}\n"
        kind = "ROOT" if parent is None else "JOINT"
        text = " ".join(f"{value:.6f}" for value in turned)
        return (
            f"{kind} {rename(name)}\n{{\n\tOFFSET {text}\n\tCHANNELS {len(channels)} {' '.join(channels)}\n{inner}}}\n"
        )

    header = write(next(iter(skeleton)))
    rows = [" ".join(f"{value:.6f}" for column in columns for value in column[frame]) for frame in range(n_frames)]
    return f"HIERARCHY\n{header}MOTION\nFrames: {n_frames}\nFrame Time: {1 / fps:.8f}\n" + "\n".join(rows) + "\n"


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
        for axis, angle in zip(order, rotations.get(name, [(0, 0, 0)] * (frame + 1))[frame]):
            own = product(own, turn(axis, angle))
        above = turns.get(parent, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
        moved = product(above, [[value / 100] for value in offset])
        places[name] = [start + step[0] for start, step in zip(places.get(parent, [0, 0, 0]), moved)]
        turns[name] = product(above, own)
    return places


MOVES = {
    "Hips": [(5, 10, -20), (0, 30, 40)],
    "Chest": [(10, -15, 5), (-20, 10, 0)],
    "LeftUpperArm": [(70, 20, -30), (100, -10, 15)],
    "LeftLowerArm": [(-30, 60, 10), (0, 90, 0)],
    "RightThigh": [(0, -40, 10), (5, -80, 0)],
}


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
    still = dict(zip(figure.names, figure.positions[5]))
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
    still = dict(zip(JOINTS, mocap.as_figure(mocap.read_bvh(path)).positions[5]))
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


# A corpus of BVH files


def bvh_folder(tmp_path: Path, header: str = "path,label,actor") -> Path:
    folder = tmp_path / "bvh"
    (folder / "deep").mkdir(parents=True)
    for name, arm in (("one", 30), ("deep/two", 150)):
        (folder / f"{name}.bvh").write_text(bvh_text(PERSON, {"LeftUpperArm": [(arm, 0, 0)] * 13}, fps=25))
    (folder / "torn.bvh").write_text(GOOD[:-100])
    rows = "one.bvh,joy,Ann\ntorn.bvh,joy,Ann\nlost.bvh,joy,Bob\ndeep/two.bvh,anger,Ann\n"
    (folder / "manifest.csv").write_text(f"{header}\n{rows}", encoding="utf-8-sig")
    return folder


@pytest.mark.parametrize("header", ["path,label,actor", "bvh_file,emotion,actor", "file,emotion,actor"])
def test_motion_corpus_films_what_can_be_read_and_names_the_rest(tmp_path: Path, capsys, header: str):
    made = mocap.motion_corpus(bvh_folder(tmp_path, header), tmp_path / "made")
    said = capsys.readouterr().out
    assert "torn.bvh" in said and "lost.bvh" in said and "one.bvh" not in said
    names, labels, actors = zip(*(line.split(",") for line in (made / "manifest.csv").read_text().split()[1:]))
    assert labels == ("joy", "anger") and actors == ("Ann", "Ann")
    assert re.fullmatch(r"one_[0-9a-f]{8}\.avi", names[0]) and re.fullmatch(r"deep_two_[0-9a-f]{8}\.avi", names[1])
    one, two = (read_video(made / name, color=True) for name in names)
    assert one.shape == two.shape == (13, 3, 576, 720)
    assert np.abs(one[0, :, 0, 0].astype(int) - two[0, :, 0, 0]).max() < 8  # the same actor has the same wall
    assert np.abs(one[0].astype(int) - two[0]).max() > 60  # and another posture
    files = {path: path.stat().st_mtime_ns for path in made.glob("*.avi")}
    mocap.motion_corpus(tmp_path / "bvh", made)
    assert files == {path: path.stat().st_mtime_ns for path in made.glob("*.avi")}


def test_the_same_motion_twice_is_one_film(tmp_path: Path, capsys):
    """A copy under another name, which another camera would film: left out, for it could train while the first examines."""
    folder = bvh_folder(tmp_path)
    (folder / "copy.bvh").write_bytes((folder / "one.bvh").read_bytes())
    (folder / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Ann\ndeep/two.bvh,anger,Ann\ncopy.bvh,joy,Ann\n")
    assert len(films(mocap.motion_corpus(folder, tmp_path / "made"))) == 2
    assert "copy.bvh left out: the same motion as one.bvh" in capsys.readouterr().out


def test_nobodys_manifest_is_lost(tmp_path: Path):
    """Films into the folder of the BVH files, or into one of other videos: refused, the table as it was; nothing usable: no table."""
    folder = bvh_folder(tmp_path)
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
    (folder / "manifest.csv").write_text("path,label\ntorn.bvh,joy\n")
    with pytest.raises(BodyError, match="none of the 1 files"):
        mocap.motion_corpus(folder, tmp_path / "empty")
    assert not (tmp_path / "empty" / "manifest.csv").exists()


def films(folder: Path) -> list[str]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_motion_corpus_films_a_replaced_motion_again(tmp_path: Path):
    folder = bvh_folder(tmp_path)
    (folder / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Ann\ndeep/two.bvh,anger,Ann\n")
    made = mocap.motion_corpus(folder, tmp_path / "made")
    before = films(made)
    old = read_video(made / before[0], color=True)
    (folder / "one.bvh").write_text(bvh_text(PERSON, {"LeftUpperArm": [(140, 0, 0)] * 13}, fps=25))  # as long as before
    mocap.motion_corpus(folder, made)
    after = films(made)
    assert after[1] == before[1] and after[0] != before[0] and len(after) == 2  # the old film is no longer named
    new = read_video(made / after[0], color=True)
    assert len(new) == len(old) and np.abs(new[0].astype(int) - old[0]).max() > 60
    (folder / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Bob\n")
    mocap.motion_corpus(folder, made)
    (other,) = films(made)
    assert other not in before + after  # another actor wears other clothes
    assert np.abs(read_video(made / other, color=True)[0, :, 0, 0].astype(int) - new[0, :, 0, 0]).max() > 8


def test_motion_corpus_names_what_the_manifest_gets_wrong(tmp_path: Path, capsys):
    folder = bvh_folder(tmp_path)
    (folder / "one.bvh").rename(folder / "ONE.BVH")
    (folder / "manifest.csv").write_text(
        "path,label,actor\nONE.BVH,joy\n../secret.bvh,joy,Ann\ndeep/two.bvh,,Ann\nONE.BVH,anger,Ann\n"
    )
    made = mocap.motion_corpus(folder, tmp_path / "made")
    said = capsys.readouterr().out
    for path, reason in (
        ("secret.bvh", "leaves the corpus folder"),
        ("two.bvh", "no label"),
        ("ONE.BVH", "second line"),
    ):
        assert re.search(rf"{path} left out: .*{reason}", said), path
    rows = (made / "manifest.csv").read_text().split()
    assert len(rows) == 2 and re.fullmatch(r"ONE_[0-9a-f]{8}\.avi,joy,", rows[1])  # no actor, but a film
    assert len(read_video(made / rows[1].split(",")[0])) == 13


def test_has_motion_looks_below_and_at_any_letter_case(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "bvh.txt").touch()
    assert mocap.has_motion(tmp_path) is False
    (tmp_path / "a" / "b" / "walk.Bvh").touch()
    assert mocap.has_motion(tmp_path) is True and mocap.has_motion(str(tmp_path)) is True


def test_motion_corpus_asks_for_a_usable_manifest(tmp_path: Path):
    folder = bvh_folder(tmp_path)
    table = folder / "manifest.csv"
    table.write_text("clip,feeling\none.bvh,joy\n")
    with pytest.raises(BodyError, match=r"manifest\.csv needs a first line path,label,actor"):
        mocap.motion_corpus(folder, tmp_path / "made")
    table.write_bytes("path,label,actor\none.bvh,Müdigkeit,Ann\n".encode("latin-1"))
    with pytest.raises(BodyError, match=r"manifest\.csv is no UTF-8 table.*save it again as CSV UTF-8"):
        mocap.motion_corpus(folder, tmp_path / "made")
    table.write_text("path,label,actor\ntorn.bvh,joy,Ann\n")
    with pytest.raises(BodyError, match="none of the 1 files"):
        mocap.motion_corpus(folder, tmp_path / "made")
    table.unlink()
    with pytest.raises(BodyError, match=r"manifest\.csv does not exist"):
        mocap.motion_corpus(folder, tmp_path / "made")


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
        middle = dict(zip(figure.names, np.median(figure.positions, axis=0)))
        assert middle["head"][1] > 0.55 and abs(middle["pelvis"]).max() < 0.01
        assert (
            middle["left_shoulder"][0] > 0.08
            and middle["right_shoulder"][0] < -0.08
            and middle["nose"][2] > middle["head"][2]
        )
        assert (middle["left_knee"] + middle["right_knee"])[1] > -0.5  # seated: the knees are not far below the hips

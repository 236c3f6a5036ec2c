"""Body videos: the figure, the corpus that is filmed from it, and motion capture from BVH files."""

import csv
import math
import re
import tarfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from deformlib import bodies
from deformlib.bodies import ACTS, CHANNELS, EMOTIONS, HANDS, JOINTS, PARENTS, BodyError, Motion

EBMDB = Path(__file__).resolve().parents[2] / "shared" / "data" / "ebmdb" / "ebmdb_bvh30_subset150.tar.xz"


def joint(motion: Motion, name: str) -> np.ndarray:
    return motion.positions[:, motion.names.index(name)]


def decoded(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (frame := video.read()[1]) is not None:
        frames.append(frame)
    return frames


# The figure


def test_reach_keeps_the_bones_and_arrives_where_it_can():
    middle, end = bodies.reach(np.zeros(3), np.array([5.0, 0, 0]), np.array([0.0, -1, 0]), 4.0, 3.0)
    assert np.allclose(middle, [3.2, -2.4, 0]) and np.allclose(end, [5, 0, 0])
    rng = np.random.default_rng(0)
    start, target, pole = rng.normal(size=(3, 200, 3))
    middle, end = bodies.reach(start, target, pole, 0.9, 0.7)
    assert np.allclose(np.linalg.norm(middle - start, axis=1), 0.9)
    assert np.allclose(np.linalg.norm(end - middle, axis=1), 0.7)
    distance = np.linalg.norm(target - start, axis=1)
    within = (distance > 0.25) & (distance < 1.55)
    assert within.sum() > 30 and np.allclose(end[within], target[within])


@pytest.mark.parametrize("snap", [0.0, 0.5, 1.0])
def test_ease_is_at_each_key_at_its_time(snap: float):
    weights = bodies.ease(60, np.array([0, 7, 30, 59]), snap)
    assert np.allclose(weights.sum(1), 1) and weights.min() > -1e-9
    assert np.allclose(weights[[0, 7, 30, 59]], np.eye(4))


def test_snap_leaves_less_time_for_moving():
    def moving(snap: float) -> int:
        return int((np.abs(np.diff(bodies.ease(101, np.array([0, 100]), snap)[:, 1])) > 1e-6).sum())

    assert moving(0.0) > 90 and moving(1.0) <= 16


def test_every_emotion_has_two_or_three_acts_made_of_known_words():
    assert len(EMOTIONS) == 17 and all(len(code) == 3 for code in EMOTIONS)
    assert set(Counter(act.emotion for act in ACTS).values()) <= {2, 3} and {act.emotion for act in ACTS} == set(
        EMOTIONS.values()
    )
    for act in ACTS:
        assert set(act.right.split()) | set(act.left.split()) <= set(HANDS), act
        assert set(act.body) <= set(CHANNELS) and set(act.shake) <= {"hands", *CHANNELS}, act
        assert 0 <= act.snap <= 1 and act.pace > 0


def shown(emotion: str, n_frames: int = 100) -> list[dict[str, np.ndarray]]:
    """The mean joints, after the first second, of every act of an emotion, played by four actors."""
    means = []
    for act in (act for act in ACTS if act.emotion == emotion):
        for number in range(4):
            actor = bodies.draw_actor(np.random.default_rng(number))
            motion = bodies.perform(act, actor, n_frames, np.random.default_rng(number))
            means.append(dict(zip(motion.names, motion.positions[25:].mean(0))))
    return means


def test_the_cues_can_be_measured_in_the_joints():
    def height(emotion: str) -> float:  # of the hands above the chest
        return np.mean([(m["left_hand"] + m["right_hand"])[1] / 2 - m["chest"][1] for m in shown(emotion)])

    def lean(emotion: str) -> float:
        return np.mean([m["neck"][2] - m["pelvis"][2] for m in shown(emotion)])

    def gaze(emotion: str) -> float:
        return np.mean([m["nose"][1] - m["head"][1] for m in shown(emotion)])

    assert height("joy") > 0.3 > height("anger") > height("pleasure")
    assert (
        lean("anger") > 0.05 and lean("despair") > lean("anger") and lean("fear") < -0.03 and lean("surprise") < -0.03
    )
    assert gaze("pride") > 0 and gaze("pleasure") > 0 and gaze("sadness") < -0.03 and gaze("despair") < -0.03


def test_anger_moves_faster_than_sadness():
    def speed(emotion: str) -> float:
        actor = bodies.draw_actor(np.random.default_rng(1))
        moves = [bodies.perform(act, actor, 100, np.random.default_rng(0)) for act in ACTS if act.emotion == emotion]
        return np.mean([np.abs(np.diff(joint(move, f"{actor.leading}_wrist"), axis=0)).max() for move in moves])

    assert speed("anger") > 2 * speed("sadness")


@pytest.mark.parametrize("n_frames", [20, 31, 199])
def test_bones_stay_as_long_as_they_are(n_frames: int):
    actor = bodies.draw_actor(np.random.default_rng(3))
    assert len(JOINTS) >= 15 and len(JOINTS) == len(PARENTS) == len(set(JOINTS))
    for act in ACTS[::5]:
        motion = bodies.perform(act, actor, n_frames, np.random.default_rng(0))
        assert motion.positions.shape == (n_frames, len(JOINTS), 3) and np.isfinite(motion.positions).all()
        for name, parent in zip(JOINTS, PARENTS):
            if name.split("_")[-1] in ("elbow", "wrist", "hand", "knee", "ankle", "neck"):
                bone = np.linalg.norm(joint(motion, name) - motion.positions[:, parent], axis=1)
                assert np.ptp(bone) < 1e-6 and bone[0] > 0.05, name


def test_motion_is_smooth():
    for clip in bodies.plan_corpus()[::20]:
        step = np.diff(bodies.play(clip)[0].positions, axis=0)
        assert np.abs(step).max() < 0.45  # metres in a twenty-fifth of a second: nothing flips


# The corpus


def test_plan_has_the_shape_of_gemep():
    plan = bodies.plan_corpus()
    assert len(plan) == 145 and len({clip.name for clip in plan}) == 145
    by_emotion = Counter(ACTS[clip.act].emotion for clip in plan)
    assert sorted(by_emotion.values()) == [5] * 5 + [10] * 12
    assert {clip.actor for clip in plan} == set(range(1, 11))
    assert max(Counter((clip.actor, ACTS[clip.act].emotion) for clip in plan).values()) == 1
    lengths = [clip.n_frames for clip in plan]
    assert (
        min(lengths) >= 20
        and max(lengths) <= 199
        and 3 <= sum(n < 32 for n in lengths) <= 25
        and 85 < np.mean(lengths) < 120
    )
    for number, clip in enumerate(plan, start=1):
        assert re.fullmatch(rf"{number:03d}[a-z]{{3}}_.*\.avi", clip.name)
        assert EMOTIONS[clip.name[3 : clip.name.index("_")]] == ACTS[clip.act].emotion


def test_plan_depends_on_the_seed_only():
    assert bodies.plan_corpus(0) == bodies.plan_corpus(0) != bodies.plan_corpus(1)
    assert not {clip.name for clip in bodies.plan_corpus(0)} & {clip.name for clip in bodies.plan_corpus(1)}


def test_an_actor_looks_the_same_in_every_emotion():
    """Wall, thickness of limbs and length of bones must not give the emotion away."""
    plan = bodies.plan_corpus()
    walls = {}
    for number in (1, 2):
        for clip in [clip for clip in plan if clip.actor == number]:
            motion, frames = bodies.play(clip)
            bone = np.linalg.norm(joint(motion, "left_elbow") - joint(motion, "left_shoulder"), axis=1)
            wall = tuple(next(iter(frames))[0, 0].tolist())
            walls.setdefault(number, set()).add((wall, round(float(bone.mean()), 6)))
    assert len(walls[1]) == len(walls[2]) == 1 and walls[1] != walls[2]


def test_the_camera_does_not_follow_the_posture():
    """Pixels a metre, at the depth of the pelvis, are the same in every clip of an actor: bowing must not zoom in."""
    actor = bodies.draw_actor(np.random.default_rng(1))
    scales = []
    for act in ACTS:
        motion = bodies.perform(act, actor, 40, np.random.default_rng(0))
        depth = bodies.frame_figure(motion, actor, np.random.default_rng(0))[1]["head"]
        scales.append(float(np.median(depth[:, 1] * (1 - depth[:, 0] / actor.distance))))
    assert np.ptp(scales) < 0.02 * np.mean(scales)


def short_plan(count: int = 3) -> list[bodies.ClipPlan]:
    return sorted(bodies.plan_corpus(), key=lambda clip: clip.n_frames)[:count]


def test_make_corpus_writes_the_videos_it_promised(tmp_path: Path):
    plan = short_plan()
    folder = bodies.make_corpus(tmp_path / "new" / "corpus", plan)
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [clip.name for clip in plan]
    assert [row["label"] for row in rows] == [ACTS[clip.act].emotion for clip in plan]
    assert [row["actor"] for row in rows] == [f"a{clip.actor:02d}" for clip in plan]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(clip.name for clip in plan), "manifest.csv"])
    for clip in plan:
        frames = decoded(folder / clip.name)
        assert len(frames) == clip.n_frames and frames[0].shape == (576, 720, 3)
        assert cv2.VideoCapture(str(folder / clip.name)).get(cv2.CAP_PROP_FPS) == 25
        painted = next(iter(bodies.play(clip)[1]))
        assert np.abs(frames[0].astype(int) - painted).mean() < 4  # the codec keeps the picture


def test_make_corpus_twice_gives_the_same_bytes(tmp_path: Path):
    plan = short_plan(2)
    first, second = (bodies.make_corpus(tmp_path / name, plan) for name in "ab")
    for clip in plan:
        assert (first / clip.name).read_bytes() == (second / clip.name).read_bytes()


def test_make_corpus_keeps_what_is_whole_and_mends_what_is_not(tmp_path: Path):
    plan = short_plan(2)
    bodies.make_corpus(tmp_path, plan)
    whole, torn = (tmp_path / clip.name for clip in plan)
    content, stamp = torn.read_bytes(), whole.stat().st_mtime_ns
    torn.write_bytes(content[: len(content) // 3])
    bodies.make_corpus(tmp_path, plan)
    assert whole.stat().st_mtime_ns == stamp and torn.read_bytes() == content


def test_an_interrupted_video_leaves_nothing_behind(tmp_path: Path):
    def frames():
        yield np.zeros((576, 720, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bodies.write_video(frames(), tmp_path / "clip.avi")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"nowhere.clip\.avi"):
        bodies.write_video([np.zeros((576, 720, 3), np.uint8)], tmp_path / "nowhere" / "clip.avi")


def test_arms_are_lighter_than_trunk_and_wall():
    for number in range(20):
        colours = bodies.draw_actor(np.random.default_rng(number)).colours
        gray = {name: np.dot(colour, [0.114, 0.587, 0.299]) for name, colour in colours.items()}
        assert min(gray["sleeves"], gray["skin"]) > gray["wall"] + 5 and gray["sleeves"] > gray["wall"] + 30
        assert gray["wall"] > gray["shirt"] > gray["trousers"] - 20


def test_unseen_actors_are_neither_hopeless_nor_easy():
    """The nearest class mean of joint statistics, leave one actor out: far above chance (0.07), far below 1."""
    plan = bodies.plan_corpus()
    features = []
    for clip in plan:
        joints = bodies.play(clip)[0].positions
        joints = joints - joints[:, :1]
        speed = np.linalg.norm(np.diff(joints, axis=0), axis=2)
        features.append(np.concatenate([joints.mean(0).ravel(), joints.std(0).ravel(), speed.mean(0)]))
    features = (features - np.mean(features, axis=0)) / (np.std(features, axis=0) + 1e-9)
    labels, actors = np.array([ACTS[clip.act].emotion for clip in plan]), np.array([clip.actor for clip in plan])
    names, right = np.unique(labels), []
    for actor in range(1, 11):
        means = np.stack([features[(actors != actor) & (labels == name)].mean(0) for name in names])
        nearest = np.linalg.norm(features[actors == actor][:, None] - means, axis=2).argmin(1)
        right.extend(names[nearest] == labels[actors == actor])
    assert 0.35 < np.mean(right) < 0.8


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
    motion = bodies.read_bvh(path)
    assert motion.fps == pytest.approx(30, rel=1e-4) and motion.positions.shape[0] == 2
    for frame in range(2):
        for name, where in expected(PERSON, MOVES, order, frame).items():
            assert np.allclose(joint(motion, name)[frame], where, atol=1e-6), (order, frame, name)
    assert "LeftHand_end" in motion.names and motion.parents[0] == -1
    assert all(-1 <= parent < index for index, parent in enumerate(motion.parents))


@pytest.mark.parametrize("unit", [0.01, 0.1, 1.0, 10.0, 1 / 2.54])
def test_read_bvh_finds_the_unit(tmp_path: Path, unit: float):
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, MOVES, unit=unit))
    where = expected(PERSON, MOVES, "ZXY", 1)["LeftHand"]
    assert np.allclose(joint(bodies.read_bvh(path), "LeftHand")[1], where, atol=1e-4)


@pytest.mark.parametrize(
    "axes, signs", [((2, 0, 1), (1, 1, 1)), ((1, 2, 0), (1, 1, 1)), ((0, 2, 1), (1, -1, 1)), ((0, 1, 2), (-1, -1, 1))]
)
def test_read_bvh_puts_the_head_up(tmp_path: Path, axes: tuple, signs: tuple):
    """Up may be any axis, either way; left must stay left, so the space is turned and never mirrored."""
    path = tmp_path / "person.bvh"
    path.write_text(bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 3}, axes=axes, signs=signs))
    motion = bodies.read_bvh(path)
    rise = joint(motion, "Head") - joint(motion, "Hips")
    assert np.allclose(rise[:, 1], 0.67, atol=1e-6)
    left = joint(motion, "LeftHand")[0] - joint(motion, "RightHand")[0]
    ahead = joint(motion, "LeftHand")[0] - joint(motion, "LeftLowerArm")[0]
    assert np.cross([0, 1, 0], ahead) @ left > 0  # up x forward = left


def test_read_bvh_takes_position_channels_of_inner_joints(tmp_path: Path):
    path = tmp_path / "person.bvh"
    path.write_text(
        bvh_text(PERSON, MOVES, moves=tuple(PERSON)).replace("OFFSET 0.000000 25.000000 0.000000", "OFFSET 1 2 3")
    )
    motion = bodies.read_bvh(path)
    for name, where in expected(PERSON, MOVES, "ZXY", 1).items():
        assert np.allclose(joint(motion, name)[1], where, atol=1e-6), name


def test_read_bvh_keeps_offsets_where_positions_are_all_zero(tmp_path: Path):
    text = bvh_text(PERSON, {"Hips": [(0, 0, 0)] * 2}, moves=("Chest",))
    lines = text.splitlines()
    lines[-2:] = [re.sub(r"0\.000000 20\.000000 0\.000000", "0 0 0", line) for line in lines[-2:]]
    path = tmp_path / "person.bvh"
    path.write_text("\n".join(lines))
    motion = bodies.read_bvh(path)
    assert np.allclose(joint(motion, "Chest")[0] - joint(motion, "Spine")[0], [0, 0.2, 0])


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
    "frames": GOOD.replace("Frames: 2", "Frames: 3"),
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
        bodies.read_bvh(path)
    assert "again" in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_skeleton_names_its_line(tmp_path: Path):
    path = tmp_path / "broken.bvh"
    path.write_text(BROKEN["offset"])
    number = next(n for n, line in enumerate(BROKEN["offset"].splitlines(), start=1) if "here" in line)
    with pytest.raises(BodyError, match=rf"line {number}\b"):
        bodies.read_bvh(path)


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
    figure = bodies.as_figure(bodies.read_bvh(path))
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


def test_what_is_no_person_is_refused(tmp_path: Path):
    chain = {"a": (None, (0, 0, 0)), "b": ("a", (0, 10, 0)), "c": ("b", (0, 10, 0))}
    path = tmp_path / "chain.bvh"
    path.write_text(bvh_text(chain, {"a": [(90, 0, 0)]}))
    motion = bodies.read_bvh(path)
    assert motion.names == ("a", "b", "c", "c_end")  # it can be read
    with pytest.raises(BodyError, match="name its joints"):
        bodies.as_figure(motion)


def test_frame_rates_meet_at_25(tmp_path: Path):
    swing = [(angle, 0, 0) for angle in np.linspace(0, 90, 121)]
    path = tmp_path / "swing.bvh"
    path.write_text(bvh_text(PERSON, {"LeftUpperArm": swing}, fps=120))
    hand = joint(bodies.as_figure(bodies.read_bvh(path)), "left_elbow")
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
    made = bodies.motion_corpus(bvh_folder(tmp_path, header), tmp_path / "made")
    said = capsys.readouterr().out
    assert "torn.bvh" in said and "lost.bvh" in said and "one.bvh" not in said
    names, labels, actors = zip(*(line.split(",") for line in (made / "manifest.csv").read_text().split()[1:]))
    assert labels == ("joy", "anger") and actors == ("Ann", "Ann")
    assert re.fullmatch(r"one_[0-9a-f]{8}\.avi", names[0]) and re.fullmatch(r"deep_two_[0-9a-f]{8}\.avi", names[1])
    one, two = (decoded(made / name) for name in names)
    assert len(one) == len(two) == 13 and one[0].shape == (576, 720, 3)
    assert np.abs(one[0][0, 0].astype(int) - two[0][0, 0]).max() < 8  # the same actor has the same wall
    assert np.abs(one[0].astype(int) - two[0]).max() > 60  # and another posture
    files = {path: path.stat().st_mtime_ns for path in made.glob("*.avi")}
    bodies.motion_corpus(tmp_path / "bvh", made)
    assert files == {path: path.stat().st_mtime_ns for path in made.glob("*.avi")}


def films(folder: Path) -> list[str]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [row["path"] for row in csv.DictReader(file)]


def test_motion_corpus_films_a_replaced_motion_again(tmp_path: Path):
    folder = bvh_folder(tmp_path)
    (folder / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Ann\ndeep/two.bvh,anger,Ann\n")
    made = bodies.motion_corpus(folder, tmp_path / "made")
    before = films(made)
    old = decoded(made / before[0])
    (folder / "one.bvh").write_text(bvh_text(PERSON, {"LeftUpperArm": [(150, 0, 0)] * 13}, fps=25))  # as long as before
    bodies.motion_corpus(folder, made)
    after = films(made)
    assert after[1] == before[1] and after[0] != before[0] and len(after) == 2  # the old film is no longer named
    new = decoded(made / after[0])
    assert len(new) == len(old) and np.abs(new[0].astype(int) - old[0]).max() > 60
    (folder / "manifest.csv").write_text("path,label,actor\none.bvh,joy,Bob\n")
    bodies.motion_corpus(folder, made)
    (other,) = films(made)
    assert other not in before + after  # another actor wears other clothes
    assert np.abs(decoded(made / other)[0][0, 0].astype(int) - new[0][0, 0]).max() > 8


def test_motion_corpus_names_what_the_manifest_gets_wrong(tmp_path: Path, capsys):
    folder = bvh_folder(tmp_path)
    (folder / "one.bvh").rename(folder / "ONE.BVH")
    (folder / "manifest.csv").write_text(
        "path,label,actor\nONE.BVH,joy\n../secret.bvh,joy,Ann\ndeep/two.bvh,,Ann\nONE.BVH,anger,Ann\n"
    )
    made = bodies.motion_corpus(folder, tmp_path / "made")
    said = capsys.readouterr().out
    for path, reason in (
        ("secret.bvh", "leaves the corpus folder"),
        ("two.bvh", "no label"),
        ("ONE.BVH", "second line"),
    ):
        assert re.search(rf"{path} left out: .*{reason}", said), path
    rows = (made / "manifest.csv").read_text().split()
    assert len(rows) == 2 and re.fullmatch(r"ONE_[0-9a-f]{8}\.avi,joy,", rows[1])  # no actor, but a film
    assert len(decoded(made / rows[1].split(",")[0])) == 13


def test_has_motion_looks_below_and_at_any_letter_case(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "bvh.txt").touch()
    assert bodies.has_motion(tmp_path) is False
    (tmp_path / "a" / "b" / "walk.Bvh").touch()
    assert bodies.has_motion(tmp_path) is True and bodies.has_motion(str(tmp_path)) is True


def test_read_manifest_gives_labels_and_reasons(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("a.bvh", "deep/b.bvh"):
        (tmp_path / name).touch()
    rows = "file,emotion,actor\n ./a.bvh , joy , Ann \ndeep/b.bvh,fear\na.bvh,fear,Bob\nc.bvh,joy,Ann\n/etc/hosts,joy,Ann\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8-sig")
    labels, left_out = bodies.read_manifest(tmp_path)
    assert labels == {"a.bvh": ("joy", "Ann"), str(Path("deep/b.bvh")): ("fear", None)}
    assert [path for path, _ in left_out] == ["a.bvh", "c.bvh", "/etc/hosts"]
    assert not any(reason.endswith(".") for _, reason in left_out)


def test_motion_corpus_asks_for_a_usable_manifest(tmp_path: Path):
    folder = bvh_folder(tmp_path)
    table = folder / "manifest.csv"
    table.write_text("clip,feeling\none.bvh,joy\n")
    with pytest.raises(BodyError, match=r"manifest\.csv needs a first line path,label,actor"):
        bodies.motion_corpus(folder, tmp_path / "made")
    table.write_bytes("path,label,actor\none.bvh,Müdigkeit,Ann\n".encode("latin-1"))
    with pytest.raises(BodyError, match=r"manifest\.csv is no UTF-8 table.*save it again as CSV UTF-8"):
        bodies.motion_corpus(folder, tmp_path / "made")
    table.write_text("path,label,actor\ntorn.bvh,joy,Ann\n")
    with pytest.raises(BodyError, match="none of the 1 files"):
        bodies.motion_corpus(folder, tmp_path / "made")
    table.unlink()
    with pytest.raises(BodyError, match=r"manifest\.csv does not exist"):
        bodies.motion_corpus(folder, tmp_path / "made")


@pytest.mark.skipif(not EBMDB.is_file(), reason="the motion capture of ../shared/data/ebmdb is not here")
def test_real_motion_capture_becomes_people_that_face_us(tmp_path: Path):
    with tarfile.open(EBMDB) as archive:
        members = [member for member in archive if member.name.endswith(".bvh")]
        assert len(members) == 150
        archive.extractall(tmp_path, members=members[::15], filter="data")
    for path in sorted(tmp_path.rglob("*.bvh")):
        motion = bodies.read_bvh(path)
        figure = bodies.as_figure(motion)
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

"""Body videos: the figure, and the corpus that is filmed from it."""

import csv
import re
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from deformlib import bodies
from deformlib.bodies import ACTS, CHANNELS, EMOTIONS, HANDS, JOINTS, PARENTS, Motion
from deformlib.frames import read_video


def joint(motion: Motion, name: str) -> np.ndarray:
    return motion.positions[:, motion.names.index(name)]


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
        frames = read_video(folder / clip.name, color=True)
        assert frames.shape == (clip.n_frames, 3, 576, 720)
        assert cv2.VideoCapture(str(folder / clip.name)).get(cv2.CAP_PROP_FPS) == 25
        painted = next(iter(bodies.play(clip)[1]))
        assert (
            np.abs(frames[0].astype(int) - painted[..., ::-1].transpose(2, 0, 1)).mean() < 4
        )  # the codec keeps the picture


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


def test_read_manifest_gives_labels_and_reasons(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("a.bvh", "deep/b.bvh"):
        (tmp_path / name).touch()
    rows = "file,emotion,actor\n ./a.bvh , joy , Ann \ndeep/b.bvh,fear\na.bvh,fear,Bob\nc.bvh,joy,Ann\n/etc/hosts,joy,Ann\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8-sig")
    labels, left_out, unused = bodies.read_manifest(tmp_path)
    assert labels == {"a.bvh": ("joy", "Ann"), str(Path("deep/b.bvh")): ("fear", None)} and unused == []
    assert [path for path, _ in left_out] == ["a.bvh", "c.bvh", "/etc/hosts"]
    assert not any(reason.endswith(".") for _, reason in left_out)


TABLES = {  # the same table, as people and spreadsheets write it
    "blanks": "path,label, actor\na.avi, joy, Ann\ndeep/b.avi, fear, Bob\n",
    "capitals": "Path,LABEL,Actor\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "other words": "file name,Emotion,Subject ID\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "semicolons": "path;label;actor\na.avi;joy;Ann\ndeep/b.avi;fear;Bob\n",
    "tabs": "path\tlabel\tactor\na.avi\tjoy\tAnn\ndeep/b.avi\tfear\tBob\n",
    "bars": "path | label | person\na.avi | joy | Ann\ndeep/b.avi | fear | Bob\n",
    "sep": "sep=;\r\npath;label;actor\r\na.avi;joy;Ann\r\ndeep/b.avi;fear;Bob\r\n",
    "sep of another kind": '"sep=^"\npath^label^actor\na.avi^joy^Ann\ndeep/b.avi^fear^Bob\n',
    "empty lines": "\n  \n,,\npath,label,actor\n\n,,\na.avi,joy,Ann\n ,,\ndeep/b.avi,fear,Bob\n,,\n\n",
    "a mark": "\ufeffpath,label,actor\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "two marks": "\ufeff\ufeffactor,path,label\nAnn,a.avi,joy\nBob,deep/b.avi,fear\n",
    "quotes": "\"path\",'label',\"actor\"\n\"a.avi\" , \"joy\",\"Ann\"\n\"deep/b.avi\",\"fear\",\"Bob\"\n",
    "Windows": "path,label,actor\n.\\a.avi,joy,Ann\ndeep\\b.avi,fear,Bob\n",
    "old line ends": "path,label,actor\ra.avi,joy,Ann\rdeep/b.avi,fear,Bob\r",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_manifest_is_read_as_people_write_it(tmp_path: Path, kind: str, encoding: str):
    (tmp_path / "deep").mkdir()
    for name in ("a.avi", "deep/b.avi"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_bytes(TABLES[kind].encode(encoding))
    wanted = {"a.avi": ("joy", "Ann"), str(Path("deep/b.avi")): ("fear", "Bob")}
    assert bodies.read_manifest(tmp_path) == (wanted, [], [])


REFUSED = {  # what the sentence says was met
    "": "is empty",
    "\n;;\n": "needs a first line path,label,actor.*';;'",
    "path;label;actor\n": "has columns, but no line",
    "a.avi;joy;Ann\n": "needs a first line path,label,actor.*its columns are 'a.avi', 'joy', 'Ann'",
    "path label actor\na.avi joy Ann\n": "its columns are 'path label actor'",
    "path,mood\na.avi,joy\n": "no label.*its columns are 'path', 'mood'",
    "path,File,label\na.avi,b.avi,joy\n": "several columns for the path .'path', 'File'.",
    "path,label,Class\na.avi,joy,1\n": "several columns for the label",
    "path,label,actor,person\na.avi,joy,Ann,1\n": "several columns for the actor .'actor', 'person'.",
    "path,label,label\na.avi,joy,fear\n": "several columns for the label",
    'path,label\na.avi,"joy\nb.avi,fear\n': "line 3: a cell of several lines ends here",
    'path,label,notes\na.avi,joy,"tall\nb.avi,fear,\n': "line 3: a cell of several lines ends here",
    "path,label\na.avi,joy\nmove.bvh,joy\n": "names motion capture .move.bvh. and other files .a.avi.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_manifest_that_cannot_be_used_is_told_what_was_met(tmp_path: Path, text: str):
    for name in ("a.avi", "b.avi", "move.bvh"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(bodies.BodyError, match=rf"manifest\.csv.*{REFUSED[text]}") as caught:
        bodies.read_manifest(tmp_path)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_row_is_left_out_for_a_reason_and_unread_columns_are_named(tmp_path: Path):
    """Nothing slips by a column, and no row of empty cells is a file."""
    (tmp_path / "a.avi").touch()
    rows = ["path,label,actor,take,", "a.avi,joy,Ann,1,", ",joy,Ann,2,", "b.avi,joy, happy,Ann,3,4", r"..\c.avi,joy,Ann,4", "a.avi,,Ann"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    labels, left_out, unused = bodies.read_manifest(tmp_path)
    assert labels == {"a.avi": ("joy", "Ann")} and unused == ["take"]
    reasons = dict(left_out)
    assert "no file in it" in reasons.pop("line 3") and "more cells than columns" in reasons.pop("b.avi")
    assert "leaves the corpus folder" in reasons.pop(str(Path("../c.avi"))) and "second line" in reasons.pop("a.avi") and not reasons


def test_accents_may_be_one_sign_or_two(tmp_path: Path):
    """A folder from one system, a table from another: the names look alike."""
    for name, form in (("\u00e9.avi", "e\u0301.avi"), ("o\u0308.avi", "\u00f6.avi")):
        (tmp_path / form).touch()
        (tmp_path / "manifest.csv").write_text(f"path,label\n{name},joy\n", encoding="utf-8")
        assert bodies.read_manifest(tmp_path)[:2] == ({form: ("joy", None)}, [])


def test_a_missing_actor_or_label_is_no_name(tmp_path: Path):
    """As pandas and people write what is missing."""
    (tmp_path / "a.avi").touch()
    for word in ("NaN", "nan", "None", "N/A", "<NA>", "unknown", "-", " ? "):
        (tmp_path / "manifest.csv").write_text(f"path,label,actor\na.avi,none,{word}\n")
        assert bodies.read_manifest(tmp_path)[0] == {"a.avi": ("none", None)}
    (tmp_path / "manifest.csv").write_text("path,label,actor\na.avi,NaN,Ann\n")
    assert bodies.read_manifest(tmp_path)[:2] == ({}, [("a.avi", "manifest.csv has no label for it: fill it in")])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("path,label\na.avi,joy\n".encode("utf-16-le"), "zero bytes.*save it again as CSV UTF-8"),
        ("path,label\na.avi,joy\n".encode("utf-32"), "zero bytes"),
        (b'path,label\na.avi,"joy\n' + 30000 * b"b.avi,fear\n", "cannot be taken apart.*close a quotation mark"),
    ],
)
def test_a_table_that_is_none_is_told_what_is_wrong(tmp_path: Path, data: bytes, said: str):
    (tmp_path / "manifest.csv").write_bytes(data)
    with pytest.raises(bodies.BodyError, match=said):
        bodies.read_manifest(tmp_path)


def test_a_whole_path_into_the_folder_is_taken(tmp_path: Path):
    (tmp_path / "a.avi").touch()
    (tmp_path / "manifest.csv").write_text(f"path,label\n{tmp_path / 'a.avi'},joy\n")
    assert bodies.read_manifest(tmp_path)[0] == {"a.avi": ("joy", None)}


@pytest.mark.parametrize("text", ["sep=;\n\npath;label;actor\n{};anger;a01\n", "\npath,label,actor\n,,\n\n{},anger,a01\n"])
def test_a_manifest_of_ours_may_be_saved_by_a_spreadsheet(tmp_path: Path, text: str):
    """It is written anew; one that names other videos stays."""
    plan = short_plan(1)
    (tmp_path / "manifest.csv").write_text(text.format(plan[0].name))
    bodies.make_corpus(tmp_path, plan)
    assert len(bodies.read_manifest(tmp_path)[0]) == 1
    (tmp_path / "manifest.csv").write_text(text.format("mine.mp4"))
    with pytest.raises(bodies.BodyError, match="names other videos .*mine.mp4"):
        bodies.make_corpus(tmp_path, plan)

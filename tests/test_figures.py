"""The figure: how it bends, what it acts, how it is painted; and the plan of a corpus."""

import json
import re
from collections import Counter
from importlib import resources

import numpy as np
import pytest

from deformlib.files import DeformlibError
from deformlib.make import figures
from deformlib.make.figures import ACTS, CHANNELS, HANDS, JOINTS, PARENTS, PARTS, Motion
from deformlib.media.folders import EMOTIONS


def joint(motion: Motion, name: str) -> np.ndarray:
    return motion.positions[:, motion.names.index(name)]


# The figure


def test_a_limb_keeps_its_bones_and_arrives_where_it_can():
    middle, end = figures.two_bone_ik(np.zeros(3), np.array([5.0, 0, 0]), np.array([0.0, -1, 0]), 4.0, 3.0)
    assert np.allclose(middle, [3.2, -2.4, 0]) and np.allclose(end, [5, 0, 0])
    rng = np.random.default_rng(0)
    start, target, pole = rng.normal(size=(3, 200, 3))
    middle, end = figures.two_bone_ik(start, target, pole, 0.9, 0.7)
    assert np.allclose(np.linalg.norm(middle - start, axis=1), 0.9)
    assert np.allclose(np.linalg.norm(end - middle, axis=1), 0.7)
    distance = np.linalg.norm(target - start, axis=1)
    within = (distance > 0.25) & (distance < 1.55)
    assert within.sum() > 30 and np.allclose(end[within], target[within])


@pytest.mark.parametrize("snap", [0.0, 0.5, 1.0])
def test_each_key_has_all_the_weight_at_its_time(snap: float):
    weights = figures.keyframe_weights(60, np.array([0, 7, 30, 59]), snap)
    assert np.allclose(weights.sum(1), 1) and weights.min() > -1e-9
    assert np.allclose(weights[[0, 7, 30, 59]], np.eye(4))


def test_snap_leaves_less_time_for_moving():
    def moving(snap: float) -> int:
        weights = figures.keyframe_weights(101, np.array([0, 100]), snap)
        return int((np.abs(np.diff(weights[:, 1])) > 1e-6).sum())

    assert moving(0.0) > 90 and moving(1.0) <= 16


def test_smooth_noise_has_unit_size_and_no_jumps():
    noise = figures.smooth_noise(np.random.default_rng(0), 2000, 5)
    assert noise.shape == (2000, 5) and 0.5 < noise.std() < 1.2
    assert np.abs(np.diff(noise, axis=0)).max() < 0.1 * np.ptp(noise)


def test_every_emotion_has_two_or_three_acts_made_of_known_words():
    assert len(EMOTIONS) == 17 and all(len(code) == 3 for code in EMOTIONS)
    played = Counter(act.emotion for act in ACTS)
    assert set(played.values()) <= {2, 3} and set(played) == set(EMOTIONS.values())
    for act in ACTS:
        assert set(act.right.split()) | set(act.left.split()) <= set(HANDS), act
        assert set(act.body) <= set(CHANNELS) and set(act.shake) <= {"hands", *CHANNELS}, act
        assert 0 <= act.snap <= 1 and act.pace > 0


def test_the_tables_are_the_file_beside_the_module():
    """acts.json, package data: nothing in it is lost, and every part is painted from points that there are."""
    tables = json.loads((resources.files("deformlib.make") / "acts.json").read_text(encoding="utf-8"))
    assert list(tables) == ["hands", "acts", "parts"]
    assert [*HANDS] == [*tables["hands"]] and {hand.frame for hand in HANDS.values()} == {"shoulder", "chest", "head"}
    assert [act.emotion for act in ACTS] == [row["emotion"] for row in tables["acts"]]
    assert (
        ACTS[0].shake == {"hands": (5, 2)} and ACTS[1].body["lean"] == (12, 18) and sum(act.hold for act in ACTS) == 10
    )
    assert len(PARTS) == len(tables["parts"]) and {part.group for part in PARTS} == set(figures.DEPTH)
    actor = figures.draw_actor(np.random.default_rng(0))
    points, _ = figures.frame_figure(
        figures.perform(ACTS[0], actor, 2, np.random.default_rng(0)), actor, np.random.default_rng(0)
    )
    for part in PARTS:
        assert set(part.discs) <= set(points) and part.colour in actor.colours and min(part.discs.values()) > 0


def shown(emotion: str, n_frames: int = 60) -> list[dict[str, np.ndarray]]:
    """The mean joints, after the first second, of every act of an emotion, played by three actors."""
    means = []
    for act in (act for act in ACTS if act.emotion == emotion):
        for number in range(3):
            actor = figures.draw_actor(np.random.default_rng(number))
            motion = figures.perform(act, actor, n_frames, np.random.default_rng(number))
            means.append(dict(zip(motion.names, motion.positions[25:].mean(0), strict=True)))
    return means


def test_the_cues_can_be_measured_in_the_joints():
    emotions = ("joy", "anger", "pleasure", "despair", "fear", "surprise", "pride", "sadness")
    seen = {emotion: shown(emotion) for emotion in emotions}

    def height(emotion: str) -> float:  # of the hands above the chest
        return np.mean([(m["left_hand"] + m["right_hand"])[1] / 2 - m["chest"][1] for m in seen[emotion]])

    def lean(emotion: str) -> float:
        return np.mean([m["neck"][2] - m["pelvis"][2] for m in seen[emotion]])

    def gaze(emotion: str) -> float:
        return np.mean([m["nose"][1] - m["head"][1] for m in seen[emotion]])

    assert height("joy") > 0.3 > height("anger") > height("pleasure")
    assert lean("despair") > lean("anger") > 0.05 and lean("fear") < -0.03 and lean("surprise") < -0.03
    assert gaze("pride") > 0 and gaze("pleasure") > 0 and gaze("sadness") < -0.03 and gaze("despair") < -0.03


def test_anger_moves_faster_than_sadness():
    def speed(emotion: str) -> float:
        actor = figures.draw_actor(np.random.default_rng(1))
        moves = [figures.perform(act, actor, 100, np.random.default_rng(0)) for act in ACTS if act.emotion == emotion]
        return np.mean([np.abs(np.diff(joint(move, f"{actor.leading}_wrist"), axis=0)).max() for move in moves])

    assert speed("anger") > 2 * speed("sadness")


@pytest.mark.parametrize("n_frames", [20, 199])
def test_bones_stay_as_long_as_they_are(n_frames: int):
    actor = figures.draw_actor(np.random.default_rng(3))
    assert len(JOINTS) >= 15 and len(JOINTS) == len(PARENTS) == len(set(JOINTS))
    for act in ACTS[::5]:
        motion = figures.perform(act, actor, n_frames, np.random.default_rng(0))
        assert motion.positions.shape == (n_frames, len(JOINTS), 3) and np.isfinite(motion.positions).all()
        for name, parent in zip(JOINTS, PARENTS, strict=True):
            if name.split("_")[-1] in ("elbow", "wrist", "hand", "knee", "ankle", "neck"):
                bone = np.linalg.norm(joint(motion, name) - motion.positions[:, parent], axis=1)
                assert np.ptp(bone) < 1e-6 and bone[0] > 0.05, name


def test_motion_is_smooth():
    for clip in figures.plan_corpus()[::20]:
        step = np.diff(figures.play(clip)[0].positions, axis=0)
        assert np.abs(step).max() < 0.45  # metres in a twenty-fifth of a second: nothing flips


def test_an_actor_looks_the_same_in_every_emotion():
    """Wall and length of bones must not give the emotion away."""
    looks = {}
    for number in (1, 2):
        for clip in [clip for clip in figures.plan_corpus() if clip.actor == number][::3]:
            motion, frames = figures.play(clip)
            bone = np.linalg.norm(joint(motion, "left_elbow") - joint(motion, "left_shoulder"), axis=1)
            wall = tuple(next(frames)[0, 0].tolist())
            looks.setdefault(number, []).append((wall, round(float(bone.mean()), 6)))
    assert (
        all(len(of_actor) >= 4 and len(set(of_actor)) == 1 for of_actor in looks.values())
        and looks[1][0] != looks[2][0]
    )


def test_arms_are_lighter_than_trunk_and_wall():
    for number in range(20):
        colours = figures.draw_actor(np.random.default_rng(number)).colours
        gray = {name: np.dot(colour, [0.114, 0.587, 0.299]) for name, colour in colours.items()}
        assert min(gray["sleeves"], gray["skin"]) > gray["wall"] + 5 and gray["sleeves"] > gray["wall"] + 30
        assert gray["wall"] > gray["shirt"] > gray["trousers"] - 20


def test_the_camera_does_not_follow_the_posture():
    """Pixels a metre, at the depth of the pelvis, are the same in every clip of an actor: bowing must not zoom in."""
    actor = figures.draw_actor(np.random.default_rng(1))
    scales = []
    for act in ACTS[::2]:
        motion = figures.perform(act, actor, 40, np.random.default_rng(0))
        depth = figures.frame_figure(motion, actor, np.random.default_rng(0))[1]["head"]
        scales.append(float(np.median(depth[:, 1] * (1 - depth[:, 0] / actor.distance))))
    assert np.ptp(scales) < 0.02 * np.mean(scales)


def test_a_painted_frame_shows_skin_where_the_hands_are():
    clip = figures.plan_corpus()[80]
    motion, frames = figures.play(clip)
    first = next(frames)
    assert first.shape == (576, 720, 3) and first.dtype == np.uint8
    actor = figures.draw_actor(np.random.default_rng([clip.seed, clip.actor]))
    skin = np.abs(first.astype(float) - actor.colours["skin"]).max(2) < 2
    assert 500 < skin.sum() < 30_000 and len(motion.positions) == clip.n_frames == 1 + sum(1 for _ in frames)


def test_the_error_is_one_of_ours():
    assert issubclass(figures.BodyError, DeformlibError) and issubclass(figures.BodyError, ValueError)


# The plan of a corpus


def test_plan_has_the_shape_of_gemep():
    plan = figures.plan_corpus()
    assert len(plan) == 145 and len({clip.name for clip in plan}) == 145
    by_emotion = Counter(ACTS[clip.act].emotion for clip in plan)
    assert sorted(by_emotion.values()) == [5] * 5 + [10] * 12
    assert {clip.actor for clip in plan} == set(range(1, 11))
    assert max(Counter((clip.actor, ACTS[clip.act].emotion) for clip in plan).values()) == 1
    assert figures.plan_corpus(0, 10) == plan != figures.plan_corpus(1)
    lengths = [clip.n_frames for clip in plan]
    assert min(lengths) >= 20 and max(lengths) <= 199 and 85 < np.mean(lengths) < 120
    assert 3 <= sum(n < 32 for n in lengths) <= 25
    for number, clip in enumerate(plan, start=1):
        assert re.fullmatch(rf"{number:03d}[a-z]{{3}}_.*\.avi", clip.name)
        assert EMOTIONS[clip.name[3 : clip.name.index("_")]] == ACTS[clip.act].emotion


def test_a_larger_cast_plays_the_same_plan():
    """Every emotion by all, but those of `HALF` by half of them: 12 x 40 + 5 x 20 clips."""
    plan = figures.plan_corpus(0, 40)
    by_emotion = Counter(clip.name[3:6] for clip in plan)
    assert len({clip.name for clip in plan}) == len(plan) == 580 and {clip.actor for clip in plan} == set(range(1, 41))
    assert all(count == (20 if code in figures.HALF else 40) for code, count in by_emotion.items())


def test_chosen_frames_are_those_of_the_whole_film():
    clip = min(figures.plan_corpus(), key=lambda clip: clip.n_frames)
    frames = list(figures.play(clip)[1])
    for number, chosen in zip((7, 3), figures.play(clip, (7, 3))[1], strict=True):
        assert np.array_equal(chosen, frames[number])


def test_plan_depends_on_the_seed_only():
    assert figures.plan_corpus(0) == figures.plan_corpus(0) != figures.plan_corpus(1)
    assert not {clip.name for clip in figures.plan_corpus(0)} & {clip.name for clip in figures.plan_corpus(1)}

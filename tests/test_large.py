"""The corpus large, the choice of its recipe, its splits."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from factories import ToyCorpus

from deformlib.augment import AUGMENTATIONS
from deformlib.corpus import Corpus
from deformlib.make import figures, films, large
from deformlib.make.figures import ACTS, ClipPlan, Motion
from deformlib.network import NetworkConfig
from deformlib.paper.selection import SelectionError, selection_split, try_recipe
from deformlib.paper.small import cannot_show, expected_half, shrink
from deformlib.paper.study import LIGHT, RECIPES, STUDIES, Experiment, StudyError, make_split, run, train_on
from deformlib.splits import ORIGINAL, by_actor
from deformlib.training import TrainConfig
from deformlib.video import decode_video, resize


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ClipPlan]]:
    """Ten clips of five actors, short and filmed, two emotions."""
    plan = [clip for clip in large.plan_large(actors=5) if clip.name[5:8] in ("joy", "sad")]
    plan = [replace(clip, n_frames=33) for clip in plan]
    return large.make_large(tmp_path_factory.mktemp("large") / "few", plan), plan


def test_each_actor_plays_each_emotion_once():
    plan = large.plan_large()
    assert len(plan) == len({clip.name for clip in plan}) == 7480 and plan == large.plan_large()
    played = Counter((clip.actor, ACTS[clip.act].emotion) for clip in plan)
    assert set(played.values()) == {1} and len({actor for actor, _ in played}) == 440 == large.ACTORS + large.SELECTION
    acts = Counter(clip.act for clip in plan)
    for emotion in {act.emotion for act in ACTS}:
        counts = [acts[number] for number, act in enumerate(ACTS) if act.emotion == emotion]
        assert sum(counts) == 440 and max(counts) - min(counts) <= 1
    assert all(films.OURS.search(clip.name) and 32 <= clip.n_frames < 200 for clip in plan)
    assert large.plan_large(seed=2) != plan and large.SEED != 0  # the bodies of the small corpus are those of seed 0


def test_pictures_are_those_of_the_film(few: tuple[Path, list[ClipPlan]]):
    """Painted as ever, then gray and area-averaged: bit for bit; of 33 frames all but number 16 are kept."""
    clip = few[1][0]
    motion, painted = figures.play(clip)
    painted = [resize(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), 96) for frame in painted]
    ours, pictures = large.play_large(clip)
    assert np.array_equal(motion.positions, ours.positions)
    kept = [*range(16), *range(17, 33)]
    assert np.array_equal(np.stack(list(pictures)), np.stack(painted)[kept])


def test_a_film_loses_nothing_but_what_its_codec_would(few: tuple[Path, list[ClipPlan]], tmp_path: Path):
    """What is read is what was painted, as long as the clip; the ordinary film differs by its codec alone."""
    folder, (clip, *_) = few
    film = decode_video(folder / clip.name)
    assert np.array_equal(film.frames[:, 0], np.stack(list(large.play_large(clip)[1])))
    assert film.codec == "ffv1" and film.times[-1] == pytest.approx(33 / 25) and film.damaged == 0
    films.write_video(figures.play(clip)[1], tmp_path / clip.name)
    ordinary = decode_video(tmp_path / clip.name, size=96).frames[[*range(16), *range(17, 33)]]
    assert 0.2 < np.abs(ordinary.astype(int) - film.frames).mean() < 2  # gray levels


def test_the_folder_is_a_corpus(few: tuple[Path, list[ClipPlan]], tmp_path: Path):
    """Labels, actors and source; a file that is whole is kept, one that is not is made again, to the same bytes."""
    folder, plan = few
    corpus = Corpus(folder, 32, cache=tmp_path, quiet=True)
    assert len(corpus) == 10 and corpus.classes == ("joy", "sadness") and corpus.source == films.SOURCE
    assert {video.actor for video in corpus.videos} == {f"a00{number}" for number in range(1, 6)}
    assert {video.n_frames for video in corpus.videos} == {32}
    path = folder / plan[0].name
    whole, rest = path.read_bytes(), (folder / plan[1].name).stat().st_mtime_ns
    path.write_bytes(whole[:-500])
    large.make_large(folder, plan)
    assert path.read_bytes() == whole and (folder / plan[1].name).stat().st_mtime_ns == rest


def test_features_of_joints_by_hand():
    """A hand at 1, 2, 4 metres beside a pelvis at 1: 0, 1, 3 relative to it, at 10 frames a second."""
    places = np.zeros((3, 2, 3))
    places[:, 1, 1] = 1, 2, 4
    places[:, 0, 1] = 1
    found = large.joint_features(Motion(("pelvis", "hand"), (-1, 0), places, 10.0)).reshape(2, 3, 5)
    assert np.allclose(found[1, 1], [4 / 3, np.sqrt(14 / 9), 0, 3, 15]) and not found[0].any() and not found[1, 0].any()


def test_the_forest_learns_from_the_others_only():
    rng = np.random.default_rng(0)
    labels, held_out = np.arange(90) % 3, np.arange(90) >= 60
    features = rng.normal(size=(90, 4))
    assert large.forest_accuracy(features + 5 * labels[:, None], labels, held_out) == 1
    shifted = features + 5 * np.where(held_out, (labels + 1) % 3, labels)[:, None]  # what it learns is wrong for these
    assert large.forest_accuracy(shifted, labels, held_out) == 0


class People:
    """As much of a corpus as a split asks: 25 actors, three clips each."""

    name, classes = "people", ("a", "b", "c")
    videos = tuple(SimpleNamespace(actor=f"a{number // 3:03d}", path=Path(f"{number}")) for number in range(75))
    labels = np.arange(75) % 3

    def __len__(self) -> int:
        return 75


def test_every_actor_is_held_out_once_in_five_seeds_and_again_in_another_order():
    people = People()
    held_out = []
    for seed in range(10):
        split = make_split(Experiment("", "by_actor", "plain", seed, "large"), people)
        held_out.append({people.videos[clip].actor for clip in split.val[:, 0]})
        assert len(held_out[-1]) == 5 and (split.val[:, 1] == ORIGINAL).all() and set(split.train[:, 1]) == set(LIGHT)
        assert len(split.train) == 60 * len(LIGHT)
    for turn in (held_out[:5], held_out[5:]):
        assert set().union(*turn) == {f"a{number:03d}" for number in range(25)}
    assert all(one != other for one in held_out[:5] for other in held_out[5:])
    usual = make_split(Experiment("", "by_actor", "plain", 6, "classroom"), people)  # as before: no other order
    assert {people.videos[clip].actor for clip in usual.val[:, 0]} == held_out[1]
    assert np.array_equal(by_actor(people, 1, held_out=5).val, by_actor(people, 1, held_out=5, order=0).val)


def test_fewer_actors_train_and_the_same_people_test():
    """Ten of twenty, and those who test by_actor; nobody is drawn twice; more than there are is a sentence."""
    people = People()

    def split_of(word: str, seed: int = 3, recipe: str = "large"):
        return make_split(Experiment("", word, "plain", seed, recipe), people)

    def names(side: np.ndarray) -> set[str]:
        return {people.videos[clip].actor for clip in side[:, 0]}

    whole, ten = split_of("by_actor"), split_of("by_actor_10")
    assert ten.name == "by_actor_10" and np.array_equal(ten.val, whole.val) and names(ten.train) < names(whole.train)
    assert len(names(ten.train)) == 10 and len(ten.train) == 10 * 3 * len(LIGHT)
    assert names(ten.train) != names(split_of("by_actor_10", 8).train)  # the same people test, in another order
    five, again = train_on(whole, people, 5), train_on(whole, people, 5)
    assert names(five.train) < names(ten.train) and np.array_equal(five.train, again.train)
    with pytest.raises(StudyError, match="20 actors to train on, .*wants 25"):
        split_of("by_actor_25")
    upright = split_of("by_actor_upright")
    assert np.array_equal(upright.val, whole.val) and names(upright.train) == names(whole.train)
    assert {AUGMENTATIONS[copy].kind for copy in upright.train[:, 1]} == {"brightness"}
    assert set(upright.train[:, 1]) < set(LIGHT)
    assert split_of("by_actor_upright", recipe="classroom").train[:, 1].max() < 124
    alone = [split_of("by_person", seed) for seed in range(25)]
    assert set().union(*(names(split.val) for split in alone)) == names(np.arange(75)[:, None])
    assert all(len(names(split.val)) == 1 and len(names(split.train)) == 24 for split in alone)


def test_the_light_copies_turn_and_brighten_a_little():
    amounts = {
        kind: [one.amount for one in map(AUGMENTATIONS.__getitem__, LIGHT) if one.kind == kind]
        for kind in ("rotate", "brightness", "shift", "blur")
    }
    assert amounts == {"rotate": [*range(-9, 10)], "brightness": [*range(-20, 21, 2)], "shift": [], "blur": []}
    split = make_split(Experiment("", "by_copy", "plain", 0, "large"), People())
    assert set(split.val[:, 1]) <= set(LIGHT) and len(split.val) == 150


def test_the_main_comparison_is_twenty_paired_runs():
    """Plain and deformable, seed by seed; the other studies do none of these again."""
    people = People()
    people.folder = Path("large")
    main, splits, controls = (STUDIES[name].experiments(people) for name in ("large", "large_splits", "large_controls"))
    assert [(e.model, e.seed) for e in main] == [(m, s) for s in range(10) for m in ("plain", "deformable")]
    assert {e.split for e in main} == {"by_actor"} and {e.recipe for e in main + splits + controls} == {"large"}
    names = [e.name for e in main + splits + controls]
    assert len(names) == len(set(names))


def test_no_run_of_the_other_studies_is_done_twice_and_none_is_lost():
    """Names differ beside the records of `large`; what is asked on warped clips is trained anew, in its own folder."""
    people = People()
    people.folder = Path("large")
    beside = {name: study for name, study in STUDIES.items() if study.folder == "large"}
    assert set(beside) == {f"large_{word}" for word in ("controls", "upright", "frames", "cores", "actors")}
    names = {
        name: [run.name for run in study.experiments(people)]
        for name, study in (beside | {"large": STUDIES["large"]}).items()
    }
    warps = STUDIES["large_warps"]
    assert warps.warped and {run.name for run in warps.experiments(people)} == set(names["large"][:10])
    every = [name for some in names.values() for name in some]
    assert len(every) == len(set(every)) == 20 + 25 + 10 + 25 + 25 + 40


def test_a_small_study_is_of_other_actors_and_says_what_it_cannot_show():
    people = People()
    people.folder = Path("small")
    for name in ("large", "large_actors", "large_upright"):
        little = shrink(name, STUDIES[name])
        assert little.recipe == "small" and little.seeds == 5 and little.folder == "small-large"
        assert little.models == STUDIES[name].models and little.warped == STUDIES[name].warped
    assert shrink("large_actors", STUDIES["large_actors"]).splits == ("by_actor_10", "by_actor_25")
    assert shrink("large_splits", STUDIES["large_splits"]).folder == "small-large_splits"
    steps = [each.training.epochs * each.training.epoch_steps for each in (RECIPES["large"], RECIPES["small"])]
    assert steps == [3000, 200] and RECIPES["small"].network == RECIPES["large"].network
    assert expected_half(5, 544, 136) == pytest.approx(7.14, abs=0.01)  # 2.776 x sqrt(0.45 x 0.2 / 136)
    said = cannot_show(shrink("large", STUDIES["large"]).experiments(people), people)
    assert "15 test clips a run, 200 steps, seeds: 5." in said and "± 22 points" in said and "2.42 points" in said
    assert "no interval" in cannot_show(STUDIES["large"].experiments(people, (0,), "small"), people)
    with pytest.raises(StudyError, match="no small version of tasks"):
        shrink("tasks", STUDIES["tasks"])


def test_a_recipe_is_chosen_on_other_actors(tmp_path: Path):
    """Nobody held out under seed 0 is looked at; a row an epoch; done once, it is read; the same actors are refused."""
    corpus, selection = ToyCorpus(), ToyCorpus()
    selection.name = "selection"
    selection.videos = tuple(replace(video, actor=f"other {video.actor}") for video in selection.videos)
    network = NetworkConfig(3, length=4, size=16, conv3d=(2, 2, 4), hidden=(2,), conv2d=(4, 4, 4), deform_steps=((),))
    recipe = replace(RECIPES["large"], network=network, training=TrainConfig(epochs=2, epoch_steps=1, batch=4))
    split = selection_split(recipe, corpus)
    strangers = {corpus.videos[clip].actor for clip in by_actor(corpus, 0, held_out=2).val[:, 0]}
    assert not strangers & {corpus.videos[clip].actor for clip in np.concatenate([split.train, split.val])[:, 0]}
    assert set(split.train[:, 1]) == set(LIGHT) and len(np.unique(split.train[:, 0])) == 24
    record = try_recipe("one", recipe, corpus, selection, tmp_path)
    assert [row["epoch"] for row in record["history"]] == [1, 2] and record["clips"] == [24, 30]
    assert all(0 <= row["selection_accuracy"] <= 1 and row["cpu_seconds"] > 0 for row in record["history"])
    assert record["training"] == asdict(recipe.training)
    before = (tmp_path / "one.json").stat().st_mtime_ns
    again = try_recipe("one", recipe, corpus, selection, tmp_path)
    assert again["history"] == record["history"] and (tmp_path / "one.json").stat().st_mtime_ns == before
    with pytest.raises(SelectionError, match="both"):
        try_recipe("two", recipe, corpus, corpus, tmp_path)


@pytest.mark.slow
def test_a_study_says_how_much_is_left(corpus: Corpus, tmp_path: Path, capsys):
    experiments = STUDIES["large"].experiments(corpus, seeds=(0,), recipe="tiny")
    run(experiments, tmp_path, corpus.cache)
    said = capsys.readouterr()
    assert "1 of 2 runs are left, about" in said.out + said.err
    run(experiments, tmp_path, corpus.cache)
    assert "left" not in capsys.readouterr().out

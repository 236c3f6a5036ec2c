"""The claims of the paper: two other tasks, differences between models, robustness, and whether offsets follow the body."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from deformlib import __main__, claims, study
from deformlib.bodies import HANDS, read_manifest
from deformlib.claims import STYLES, WORDS, film_tasks, plan_tasks
from deformlib.corpus import Corpus

# The two tasks


def test_every_actor_plays_every_word_in_every_style_once():
    plan = plan_tasks()
    assert len(plan) == 144 and len({film.name for film in plan}) == 144
    played = Counter((film.word, film.style, film.actor) for film in plan)
    assert played == Counter(product(WORDS, STYLES, range(1, 7)))
    assert all(50 <= film.n_frames < 100 for film in plan) and plan == plan_tasks() != plan_tasks(1)
    for hands in WORDS.values():
        assert {posture for each in hands for posture in each.split()} <= set(HANDS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Two words by one actor, in both corpora."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "WORDS", {word: WORDS[word] for word in ("wave", "clap")})
        return film_tasks(tmp_path_factory.mktemp("tasks"), actors=1)


def test_the_same_films_are_labelled_once_by_word_and_once_by_style(tasks: Path):
    (words, _), (styles, _) = (read_manifest(tasks / name) for name in ("words", "styles"))
    assert set(words) == set(styles) and len(words) == 8
    for name in words:
        assert name.split("_")[1:3] == [words[name][0], styles[name][0]] and words[name][1] == styles[name][1] == "a01"
        assert (tasks / "words" / name).read_bytes() == (tasks / "styles" / name).read_bytes()
    for name, classes in (("words", ("clap", "wave")), ("styles", tuple(sorted(STYLES)))):
        corpus = Corpus(tasks / name, 32, cache=tasks / "cache")
        assert corpus.classes == classes and len(set(Counter(corpus.labels.tolist()).values())) == 1
        assert study.source(corpus) == "procedural gesture videos, not GEMEP"


def test_a_film_that_is_missing_is_made_again_with_the_same_bytes(tasks: Path, monkeypatch):
    films = {path: path.read_bytes() for path in tasks.glob("*/*.avi")}
    for path in list(films)[::5]:
        path.unlink()
    monkeypatch.setattr(claims, "WORDS", {word: WORDS[word] for word in ("wave", "clap")})
    film_tasks(tasks, actors=1)
    assert {path: path.read_bytes() for path in tasks.glob("*/*.avi")} == films


def test_gliding_changes_the_picture_least_from_frame_to_frame(tasks: Path):
    corpus = Corpus(tasks / "styles", 32, cache=tasks / "cache")
    clips = {video.path.name.split("_", 1)[1]: corpus.frames(n)[:, 0].astype(float) for n, video in enumerate(corpus.videos)}
    for word in ("wave", "clap"):
        change = {style: np.abs(np.diff(clips[f"{word}_{style}_a01_s0.avi"], axis=0)).mean() for style in STYLES}
        assert min(change, key=change.get) == "gliding", change


def test_the_command_line_makes_the_two_tasks(tmp_path: Path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(claims, "film_tasks", lambda folder, seed: asked.append((folder, seed)))
    assert __main__.main(["corpus", str(tmp_path), "--tasks", "--seed", "3"]) == 0 and asked == [(tmp_path, 3)]
    with pytest.raises(SystemExit):
        __main__.main(["corpus", str(tmp_path), "--tasks", "--motion", "x"])

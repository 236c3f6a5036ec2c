"""Two tasks on the same films: every actor makes every gesture in every style."""

from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from deformlib.make.figures import HANDS
from deformlib.make.gestures import SOURCE, STYLES, WORDS, film_tasks, plan_tasks, play_film
from deformlib.media.folders import read_manifest


def test_plan_crosses_gestures_styles_and_actors():
    plan = plan_tasks()
    assert Counter((film.word, film.style, film.actor) for film in plan) == Counter(product(WORDS, STYLES, range(1, 7)))
    assert all(50 <= film.n_frames < 100 for film in plan) and plan == plan_tasks() != plan_tasks(1)
    assert len({film.name for film in plan}) == len(plan) == 6 * 4 * 6
    for hands in WORDS.values():
        assert {posture for each in hands for posture in each.split()} <= set(HANDS)


def test_styles_move_differently_and_length_says_nothing():
    """The same gesture by the same actor: sharp stands still more often than gliding, trembling hardly ever."""
    still = {}
    for film in (film for film in plan_tasks() if film.actor == 2 and film.word == "clap"):
        motion, _ = play_film(film)
        wrist = motion.positions[:, motion.names.index("right_wrist"), 0]
        still[film.style] = (np.abs(np.diff(wrist)) < 0.002).mean()
    assert still["sharp"] > 2 * still["gliding"] > 2 * still["trembling"]
    lengths = [{film.n_frames for film in plan_tasks() if film.word == word} for word in WORDS]
    assert all(max(lengths_of) - min(lengths_of) > 30 for lengths_of in lengths)


def test_both_corpora_hold_the_same_films_under_other_labels(tmp_path: Path):
    plan = [replace(film, n_frames=4) for film in plan_tasks(actors=1)[:6:2]]
    words, styles = (film_tasks(tmp_path, plan=plan) / name for name in ("words", "styles"))
    for corpus, labels in ((words, [film.word for film in plan]), (styles, [film.style for film in plan])):
        assert list(read_manifest(corpus)[0].items()) == [
            (film.name, (label, "a01")) for film, label in zip(plan, labels, strict=True)
        ]
        assert (corpus / "source.txt").read_text() == f"{SOURCE}\n" == "procedural gesture videos, not GEMEP\n"
    films = [path.name for path in sorted(words.glob("*.avi"))]
    assert films == [film.name for film in plan]
    assert all((words / name).read_bytes() == (styles / name).read_bytes() for name in films)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}
    film_tasks(tmp_path, plan=plan)
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.avi")}

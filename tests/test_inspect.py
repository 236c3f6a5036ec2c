"""What a corpus holds, in words and on a contact sheet."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from factories import folder_of, numbered_video, twelve_videos

from deformlib.corpus import Corpus
from deformlib.make.inspect import choose_evenly, contact_sheet, describe, possible_splits, shows_nobody


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve videos of three classes and four actors."""
    return twelve_videos(tmp_path / "videos")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for decoded frames, which is not there yet."""
    return tmp_path / "a cache"


def person(n_frames: int = 20) -> np.ndarray:
    """A bright spot that moves over a dark wall."""
    film = np.full((n_frames, 1, 64, 64), 60, np.uint8)
    for t in range(n_frames):
        film[t, 0, 20:40, 10 + t : 20 + t] = 200
    return film


def test_a_film_that_shows_nobody_is_seen():
    noise = np.random.default_rng(0).integers(0, 5, (20, 1, 64, 64)).astype(np.uint8)
    wall = np.linspace(0, 200, 64).astype(np.uint8) + np.zeros((20, 1, 64, 1), np.uint8)
    assert shows_nobody(person()) is None and shows_nobody(person() + noise) is None
    assert "one colour in 20 of 20" in shows_nobody(np.zeros((20, 3, 64, 64), np.uint8))
    assert "one colour" in shows_nobody(np.concatenate([person()[:8], np.full((12, 1, 64, 64), 9, np.uint8)]))
    assert shows_nobody(wall) == "all frames are the same" and shows_nobody(wall + noise) == "nothing moves"
    assert "18 of 20 frames repeat" in shows_nobody(person(2).repeat(10, axis=0))
    assert shows_nobody(person(1)) == "it has one frame"


def test_clips_are_chosen_evenly_from_every_class():
    labels = np.repeat([0, 1, 2], [100, 3, 50])
    chosen = choose_evenly(labels, 43)
    assert np.bincount(labels[chosen]).tolist() == [20, 3, 20] and chosen[0] == 0 and chosen[19] == 99
    assert choose_evenly(labels, 999).tolist() == list(range(153))
    assert (
        np.unique(choose_evenly(np.arange(1000), 10)).tolist() == sorted(choose_evenly(np.arange(1000), 10))
        and len(choose_evenly(np.arange(1000), 10)) == 10
    )


def test_the_sheet_shows_each_clip_and_names_the_empty_ones(folder: Path, cache: Path):
    numbered_video(folder / "00.avi", 7, n_frames=1)
    corpus = Corpus(folder, size=16, cache=cache)
    figure, strange = contact_sheet(corpus, columns=4)
    text = [each.get_text() for each in figure.axes[0].texts]
    assert text[0] == "videos: 12 clips, 3 classes" and text[1::3] == ["anger"] * 4 + ["joy"] * 4 + ["walk"] * 4
    assert text[2:4] == ["p0", "02"] and strange[str(folder / "00.avi")] == "it has one frame"
    figure, all_strange = contact_sheet(corpus, limit=6)
    assert figure.axes[0].texts[0].get_text().startswith("videos: 6 of 12 clips, chosen evenly in each class")
    assert all_strange == strange
    page = contact_sheet(Corpus(folder, size=16, color=True, cache=cache))[0]
    page.savefig(cache / "page.png")
    assert cv2.imread(str(cache / "page.png")).shape[1] == 12 * 120


def test_a_description_says_what_is_there(folder: Path, cache: Path):
    (folder / "note.txt").touch()
    said = describe(Corpus(folder, size=16, cache=cache, quiet=True))
    for part in (
        "videos: 12 clips of 3 classes, labels from manifest.csv: anger 4, joy 4, walk 4",
        "4 actors: p0 3, p1 3, p2 3, p3 3",
        "4 to 6 frames, 0.2 s",
        "12 of 64x48 ",
        ", 25 frames a second",
        "sampled by frame number: 12, by time: 0",
        "possible splits: by_actor, by_clip, by_copy",
        "left out note.txt: no video by its ending .txt",
    ):
        assert part in said, part


def test_splits_that_are_not_possible_have_a_reason(tmp_path: Path, cache: Path):
    corpus = Corpus(folder_of(tmp_path / "c", "joy/a.avi", "anger/b.avi"), size=16, cache=cache)
    reasons = possible_splits(corpus)
    assert (
        reasons["by_copy"] is None
        and "no actor" in reasons["by_actor"]
        and "no class with two clips" in reasons["by_clip"]
    )

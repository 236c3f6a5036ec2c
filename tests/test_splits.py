"""Splits: what is on which side, and what may not be on both."""

from pathlib import Path

import numpy as np
import pytest
from factories import folder_of, twelve_videos

from deformlib.corpus import Corpus, CorpusError
from deformlib.splits import ORIGINAL, Split, SplitError, by_actor, by_clip, by_copy, split_clips

# what the code gave with which the committed results were made
BY_COPY = [[6, 1], [1, 1], [1, 2], [2, 2], [10, 2], [6, 0], [4, 1]]
BY_CLIP = [1, 9, 10]
BY_ACTOR = [3, 0, 2, 5]  # the first clip held out, seeds 0 to 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve clips, three classes, four actors."""
    place = tmp_path_factory.mktemp("splits")
    return Corpus(twelve_videos(place / "videos"), size=16, cache=place / "cache", quiet=True)


def test_by_copy_is_the_papers_split(corpus: Corpus):
    split = by_copy(corpus, seed=3)
    assert split.name == "by_copy" and split.seed == 3 and split.train.dtype == split.val.dtype == np.int64
    pairs = np.concatenate([split.train, split.val])
    assert len(split.train) == round(0.8 * 12 * 124) and len({tuple(pair) for pair in pairs}) == 12 * 124
    assert pairs[:, 1].min() == 0 and pairs[:, 1].max() == 123
    assert (split.copies_in_training() > 80).all()  # everything leaks
    assert np.array_equal(split.train, by_copy(corpus, seed=3).train)
    assert not np.array_equal(split.train, by_copy(corpus, seed=4).train)
    with pytest.raises(SplitError, match="by_copy leaks"):
        split.check_separate(range(len(corpus)))


def test_by_clip_is_clean_and_stratified(corpus: Corpus):
    for seed in range(5):
        split = by_clip(corpus, seed, copies=7)
        assert not set(split.train[:, 0]) & set(split.val[:, 0]) and not split.copies_in_training().any()
        assert (split.val[:, 1] == ORIGINAL).all() and sorted(corpus.labels[split.val[:, 0]]) == [0, 1, 2]
        assert len(split.train) == 9 * 7 and set(split.train[:, 1]) == set(range(7))
    assert len({tuple(by_clip(corpus, seed).val[:, 0]) for seed in range(5)}) > 1


@pytest.mark.parametrize("held_out", [1, 2])
def test_by_actor_goes_through_all_actors(corpus: Corpus, held_out: int):
    actors = np.array([video.actor for video in corpus.videos])
    seen = []
    for seed in range(4 // held_out):
        split = by_actor(corpus, seed, copies=5, held_out=held_out)
        out = set(actors[split.val[:, 0]])
        assert len(out) == held_out and not out & set(actors[split.train[:, 0]])
        assert len(split.val) == 3 * held_out and len(split.train) == 5 * (12 - 3 * held_out)
        seen += sorted(out)
    assert sorted(seen) == ["p0", "p1", "p2", "p3"]
    again = by_actor(corpus, 4 // held_out, copies=5, held_out=held_out)
    assert np.array_equal(again.val, by_actor(corpus, 0, copies=5, held_out=held_out).val)


def test_the_splits_of_committed_results_still_come_out(corpus: Corpus):
    assert by_copy(corpus, 1, copies=3).val.tolist() == BY_COPY
    assert by_clip(corpus, 1).val[:, 0].tolist() == BY_CLIP
    assert [by_actor(corpus, seed).val[0, 0] for seed in range(4)] == BY_ACTOR


def test_by_actor_needs_a_class_that_somebody_else_plays(tmp_path: Path):
    """Each class played by one person alone: none right is certain, and no result."""
    mine = folder_of(tmp_path / "two people", "0.avi", "1.avi", "2.avi", "3.avi")
    rows = "0.avi,calm,Ann\n1.avi,calm,Ann\n2.avi,lively,Bob\n3.avi,lively,Bob\n"
    (mine / "manifest.csv").write_text(f"path,label,actor\n{rows}")
    corpus = Corpus(mine, size=16, cache=tmp_path / "cache")
    with pytest.raises(SplitError, match="no class of (Ann|Bob) .*split by_clip"):
        by_actor(corpus)
    assert len(by_clip(corpus).val) == 2


def test_impossible_splits_are_explained(corpus: Corpus, tmp_path: Path):
    with pytest.raises(CorpusError, match="has 4 actors"):
        by_actor(corpus, held_out=4)
    with pytest.raises(ValueError, match="at least one"):
        by_copy(corpus, copies=0)
    two = Corpus(folder_of(tmp_path / "two", "class0/a.avi", "class1/a.avi"), size=16, cache=tmp_path / "cache")
    with pytest.raises(CorpusError, match="no actor"):
        by_actor(two)
    with pytest.raises(CorpusError, match="no class with two clips"):
        by_clip(two)
    with pytest.raises(CorpusError, match="too few"):
        by_copy(two, copies=1)


def test_a_split_refuses_overlap_and_empty_sides():
    """With an error that `python -O` keeps."""
    pairs = np.array([[0, 1], [0, 2], [1, 1]])
    with pytest.raises(SplitError, match=r"mine .*\(0, 2\) on both sides"):
        Split("mine", 0, pairs, pairs[1:2])
    for train, val in ((pairs, pairs[:0]), (pairs[:0], pairs)):
        with pytest.raises(SplitError, match="mine leaves nothing"):
            Split("mine", 0, train, val)
    split = Split("mine", 0, pairs[:2], pairs[2:])
    assert split.copies_in_training().tolist() == [0]
    split.check_separate(["Ann", "Bob"])
    with pytest.raises(SplitError, match="mine leaks: Ann is on both sides"):
        split.check_separate(["Ann", "Ann"])


def test_a_clip_is_held_out_as_a_whole():
    """Numbers instead of booleans would put it on both sides: `~1` is no 0."""
    with pytest.raises(SplitError, match="by_hand leaks: 1 is on both sides"):
        split_clips("by_hand", 0, np.array([0, 1, 0]), copies=2)
    assert split_clips("by_hand", 0, np.array([False, True, False]), copies=2).val.tolist() == [[1, ORIGINAL]]

"""A tiny corpus that several tests share: three emotions by ten actors, made once a session."""

from dataclasses import replace
from pathlib import Path

import pytest

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 procedural videos of at most 40 frames, with a manifest."""
    plan = [clip for clip in plan_corpus() if clip.name[3:6] in ("ang", "joy", "sad")]
    plan = [replace(clip, n_frames=min(clip.n_frames, 40)) for clip in plan]
    return make_corpus(tmp_path_factory.mktemp("videos") / "three emotions", plan)


@pytest.fixture(scope="session")
def corpus(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The same, decoded at 32 pixels."""
    return Corpus(videos, size=32, cache=tmp_path_factory.mktemp("cache"))

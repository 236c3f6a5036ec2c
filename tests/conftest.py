"""What several test modules share: a tiny corpus, three emotions by ten actors, made once a session; and a browser."""

import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, driven by Playwright; tests that need it say why they are skipped."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with (
        api.sync_playwright() as play,
        play.chromium.launch(executable_path=program, args=["--no-sandbox"]) as chromium,
    ):
        yield chromium

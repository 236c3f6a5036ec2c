"""What several test modules share: a tiny corpus, three emotions by ten actors, made once; and a browser."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, the same for all of its workers."""
    place = tmp_path_factory.getbasetemp()
    return place.parent if "PYTEST_XDIST_WORKER" in os.environ else place


@pytest.fixture(scope="session")
def videos(shared: Path) -> Path:
    """A folder of 30 procedural videos of at most 24 frames, with a manifest."""
    plan = [clip for clip in plan_corpus() if clip.name[3:6] in ("ang", "joy", "sad")]
    plan = [replace(clip, n_frames=min(clip.n_frames, 24)) for clip in plan]
    folder = shared / "videos" / "three emotions"
    with FileLock(shared / "videos.lock"):
        return folder if (folder / "manifest.csv").exists() else make_corpus(folder, plan)


@pytest.fixture(scope="session")
def corpus(videos: Path, shared: Path) -> Corpus:
    """The same, decoded at 32 pixels."""
    return Corpus(videos, size=32, cache=shared / "cache")


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

"""What several test modules share: a tiny corpus, three emotions by ten actors, made once; and a browser."""

import io
import os
import shutil
import sys
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


@pytest.fixture(scope="session")
def reproduced(videos: Path, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as `reproduce` leaves it, with one tiny run of each kind, and what it said (said.txt).

    Its records and weights are also those of a study of one seed, for test_study.py.
    """
    from deformlib.paper.commands import main  # it imports PyTorch

    folder = tmp_path_factory.mktemp("home") / "results" / "try"
    folder.mkdir(parents=True)
    words = ["reproduce", "--corpus", str(videos), "--recipe", "tiny", "--seeds", "1", "--workers", "1"]
    said, kept = io.StringIO(), sys.stdout
    sys.stdout = said
    try:
        code = main([*words, "--results", str(folder), "--cache", str(corpus.cache)])
    finally:
        sys.stdout = kept
    assert code == 0
    (folder / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return folder


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

"""The films: videos that are whole or not there, with a manifest and a line that says what they are."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from deformlib.make.figures import ACTS, BodyError, ClipPlan, plan_corpus, play
from deformlib.make.films import SOURCE, is_whole, make_corpus, write_video
from deformlib.media.folders import read_manifest
from deformlib.video import decode_video

PLAN = [replace(clip, n_frames=6) for clip in plan_corpus()[:150:60]]  # three emotions, six frames each


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of three very short clips."""
    return make_corpus(tmp_path_factory.mktemp("films") / "new" / "corpus", PLAN)


def test_make_corpus_writes_the_videos_it_promised(made: Path):
    with (made / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [clip.name for clip in PLAN]
    assert [row["label"] for row in rows] == [ACTS[clip.act].emotion for clip in PLAN]
    assert [row["actor"] for row in rows] == [f"a{clip.actor:02d}" for clip in PLAN]
    assert {path.name for path in made.iterdir()} == {*(clip.name for clip in PLAN), "manifest.csv", "source.txt"}
    assert (made / "source.txt").read_text() == f"{SOURCE}\n" == "procedural body videos, not GEMEP\n"
    for clip in PLAN:
        frames = decode_video(made / clip.name, color=True).frames
        assert frames.shape == (clip.n_frames, 3, 576, 720)
        assert cv2.VideoCapture(str(made / clip.name)).get(cv2.CAP_PROP_FPS) == 25
        painted = next(play(clip)[1])[..., ::-1].transpose(2, 0, 1)
        assert np.abs(frames[0].astype(int) - painted).mean() < 4  # the codec keeps the picture


def test_a_second_call_keeps_what_is_whole_and_mends_the_rest_to_the_same_bytes(made: Path, tmp_path: Path):
    whole, torn, lost = (tmp_path / clip.name for clip in PLAN)
    whole.write_bytes((made / whole.name).read_bytes())
    torn.write_bytes((made / torn.name).read_bytes()[:-1000])
    stamp = whole.stat().st_mtime_ns
    assert is_whole(whole, 6) and not is_whole(whole, 7) and not is_whole(torn, 6) and not is_whole(lost, 6)
    make_corpus(tmp_path, PLAN)
    assert whole.stat().st_mtime_ns == stamp
    assert all((tmp_path / clip.name).read_bytes() == (made / clip.name).read_bytes() for clip in PLAN)


def test_an_interrupted_video_leaves_nothing_behind(tmp_path: Path):
    def frames():
        yield np.zeros((576, 720, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(frames(), tmp_path / "clip.avi")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match=r"nowhere.clip\.avi"):
        write_video([np.zeros((576, 720, 3), np.uint8)], tmp_path / "nowhere" / "clip.avi")


@pytest.mark.parametrize(
    "text", ["sep=;\n\npath;label;actor\n{};anger;a01\n", "\npath,label,actor\n,,\n\n{},anger,a01\n"]
)
def test_a_manifest_of_ours_is_written_anew_and_one_of_other_videos_stays(made: Path, tmp_path: Path, text: str):
    """Even if a spreadsheet has saved it."""
    plan: list[ClipPlan] = PLAN[:1]
    (tmp_path / plan[0].name).write_bytes((made / plan[0].name).read_bytes())
    (tmp_path / "manifest.csv").write_text(text.format(plan[0].name))
    make_corpus(tmp_path, plan)
    assert len(read_manifest(tmp_path)[0]) == 1
    (tmp_path / "source.txt").unlink()
    (tmp_path / "manifest.csv").write_text(other := text.format("mine.mp4"))
    with pytest.raises(BodyError, match=r"mine\.mp4.*another folder"):
        make_corpus(tmp_path, plan)
    assert (tmp_path / "manifest.csv").read_text() == other and not (tmp_path / "source.txt").exists()

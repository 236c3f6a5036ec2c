"""A corpus: labels, the cache, what is left out, and splits that do not leak."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import deformlib.corpus
from deformlib.bodies import EMOTIONS
from deformlib.corpus import ORIGINAL, Corpus, CorpusError, Split, by_actor, by_clip, by_copy
from deformlib.frames import read_video


def write(path: Path, level: int, n_frames: int = 4) -> Path:
    """A small video whose contents depend on `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for frame in range(n_frames):
        writer.write(np.full((48, 64, 3), (level * 9 + frame * 5) % 256, np.uint8))
    writer.release()
    return path


@pytest.fixture
def folder(tmp_path):
    """Twelve videos of three classes and four actors, with a manifest in no particular order."""
    folder = tmp_path / "ein Körper" / "videos"
    lines = []
    for number in range(12):
        name = f"sub é/{number:02d}.avi" if number % 2 else f"{number:02d}.avi"
        write(folder / name, number, n_frames=4 + number % 3)
        lines.append(f"{name},{('walk', 'joy', 'anger')[number % 3]},p{number // 3}\n")
    (folder / "manifest.csv").write_text("path,label,actor\n" + "".join(lines[::-1]), encoding="utf-8-sig")
    return folder


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "a cache"


def test_labels_from_a_manifest(folder, cache):
    corpus = Corpus(folder, size=16, cache=cache)
    assert corpus.name == "videos" and corpus.rejected == () and len(corpus) == 12
    assert corpus.classes == ("anger", "joy", "walk")  # GEMEP's order first, then by name
    paths = [video.path.relative_to(folder).as_posix() for video in corpus.videos]
    assert paths == [f"{n:02d}.avi" for n in range(0, 12, 2)] + [f"sub é/{n:02d}.avi" for n in range(1, 12, 2)]
    for video, label in zip(corpus.videos, corpus.labels, strict=True):
        number = int(video.path.stem)
        assert corpus.classes[label] == corpus.classes[video.label] == ("walk", "joy", "anger")[number % 3]
        assert video.actor == f"p{number // 3}" and video.n_frames == 4 + number % 3
    assert corpus.labels.dtype == np.int64


@pytest.mark.parametrize(("color", "channels"), [(False, 1), (True, 3)])
def test_frames_are_those_of_the_video_and_read_only(folder, cache, color, channels):
    corpus = Corpus(folder, size=16, color=color, cache=cache)
    for clip, video in enumerate(corpus.videos):
        frames = corpus.frames(clip)
        assert isinstance(frames, np.memmap) and frames.shape == (video.n_frames, channels, 16, 16)
        assert np.array_equal(frames, read_video(video.path, color, 16))
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_gemep_names(tmp_path, cache):
    for number, code in enumerate(("ang", "joy", "sad")):
        write(tmp_path / "g" / f"0{number}x{code}_Gemep.AVI", number)
    write(tmp_path / "g" / "holiday.avi", 9)
    write(tmp_path / "g" / ".01xang_half.avi", 9)  # hidden: somebody is still writing it
    corpus = Corpus(tmp_path / "g", size=16, cache=cache)
    assert corpus.classes == tuple(EMOTIONS.values()) and len(corpus.classes) == 17
    assert [corpus.classes[label] for label in corpus.labels] == ["anger", "joy", "sadness"]
    assert [name for name, _ in corpus.rejected] == ["holiday.avi"] and corpus.videos[0].actor is None


def test_class_folders(tmp_path, cache):
    for number, name in enumerate(("wave/a.avi", "bow/deep/b.avi", "wave/c.avi", "loose.avi")):
        write(tmp_path / "c" / name, number)
    corpus = Corpus(tmp_path / "c", size=16, cache=cache)
    assert corpus.classes == ("bow", "wave") and corpus.labels.tolist() == [0, 1, 1]
    assert corpus.rejected == (("loose.avi", "has no label and lies in no class folder"),)


def test_everything_left_out_is_named(folder, cache, capsys):
    (folder / "00.avi").write_bytes(b"")
    (folder / "02.avi").write_bytes((folder / "04.avi").read_bytes())
    with open(folder / "manifest.csv", "a", encoding="utf-8") as file:
        file.write(
            "06.avi,joy,p9\n../out.avi,joy,p1\n/etc/hosts,joy,p1\nnowhere.avi,joy\nmanifest.csv,joy,p1\n08.avi\n"
        )
    corpus = Corpus(folder, size=16, cache=cache)
    reasons = dict(corpus.rejected)
    said = capsys.readouterr().out
    for name, part in {
        "00.avi": "no frame that can be read",
        "04.avi": "same contents as 02.avi",
        "06.avi": "second line for it, with label 'joy'",
        os.path.join("..", "out.avi"): "leaves the corpus folder",
        "/etc/hosts": "leaves the corpus folder",
        "nowhere.avi": "not in the folder",
        "manifest.csv": "no video by its ending",
        "08.avi": "second line",
    }.items():
        assert part in reasons.pop(name), name
        assert f"left out {name}: " in said
    assert reasons == {} and len(corpus) == 10 and str(folder) not in said
    assert corpus.classes[corpus.labels[[v.path.name for v in corpus.videos].index("06.avi")]] == "walk"


def test_a_line_without_label_is_left_out(folder, cache):
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8-sig").replace("06.avi,walk", "06.avi,"), encoding="utf-8")
    assert Corpus(folder, size=16, cache=cache).rejected == (
        ("06.avi", "manifest.csv has no label for it: fill it in"),
    )


@pytest.mark.parametrize("text", ["", "path,label\n", "file;label\na.avi;joy\n", b"path,label\n\xff\xfe,joy\n"])
def test_no_table(tmp_path, cache, text):
    """The reader is that of deformlib.bodies; its complaint comes out as the corpus's own error."""
    (tmp_path / "manifest.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorpusError, match=r"manifest\.csv"):
        Corpus(tmp_path, cache=cache)


def test_empty_missing_and_unlabelled_folders(tmp_path, cache):
    with pytest.raises(CorpusError, match="is no folder"):
        Corpus(tmp_path / "nowhere", cache=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no labelled video"):
        Corpus(tmp_path / "empty", cache=cache)
    write(tmp_path / "unlabelled" / "a.avi", 1)
    with pytest.raises(CorpusError, match=r"manifest\.csv.*a\.avi"):
        Corpus(tmp_path / "unlabelled", cache=cache)
    (tmp_path / "no video").mkdir()
    (tmp_path / "no video" / "a.txt").touch()
    (tmp_path / "no video" / "manifest.csv").write_text("path,label\na.txt,joy\n")
    with pytest.raises(CorpusError, match="no video by its ending") as caught:
        Corpus(tmp_path / "no video", cache=cache)
    assert str(caught.value).endswith(".wmv.")  # one full stop


def test_the_cache_is_used_and_the_folder_only_read(folder, cache, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    first = Corpus(folder, size=16, cache=cache)
    monkeypatch.setattr(deformlib.corpus, "read_video", None)  # decoding again would fail
    second = Corpus(folder, size=16, cache=cache)
    assert second.key == first.key and second.videos == first.videos
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert len(list(cache.iterdir())) == 12


def test_the_default_cache_is_in_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    Corpus(folder, size=16)
    assert len(list((tmp_path / "home" / ".cache" / "deformlib").iterdir())) == 12


def test_a_cache_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="name another cache"):
        Corpus(folder, size=16, cache=tmp_path / "file" / "cache")


def test_a_changed_video_is_decoded_again(folder, cache):
    old = Corpus(folder, size=16, cache=cache)
    stat = (folder / "02.avi").stat()
    write(folder / "02.avi", 27, n_frames=old.videos[1].n_frames)
    os.utime(folder / "02.avi", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not even the time tells
    new = Corpus(folder, size=16, cache=cache)
    assert new.key != old.key and np.array_equal(new.frames(1), read_video(folder / "02.avi", size=16))
    assert not np.array_equal(new.frames(1), old.frames(1)) and np.array_equal(new.frames(2), old.frames(2))


def test_the_key_tells_settings_labels_and_contents(folder, cache):
    keys = {Corpus(folder, size=16, cache=cache).key, Corpus(folder, size=24, cache=cache).key}
    keys.add(Corpus(folder, size=16, color=True, cache=cache).key)
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8-sig").replace("06.avi,walk", "06.avi,joy"), encoding="utf-8")
    keys.add(Corpus(folder, size=16, cache=cache).key)
    assert len(keys) == 4


DIE_WHILE_WRITING = """
import os, signal, sys
import deformlib.corpus as corpus
whole, written = corpus.np.save, []
def half(file, array, **options):
    written.append(1)
    if len(written) > 3:
        file.write_bytes(b"half of it"); os.kill(os.getpid(), signal.SIGKILL)
    whole(file, array, **options)
corpus.np.save = half
corpus.Corpus(sys.argv[1], size=16, cache=sys.argv[2])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a process the Unix way")
def test_killed_half_way_the_next_corpus_is_whole(folder, cache):
    command = [sys.executable, "-c", DIE_WHILE_WRITING, str(folder), str(cache)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    half = [file for file in cache.iterdir() if file.name.startswith(".")]
    assert half and len(list(cache.iterdir())) - len(half) < 12
    corpus = Corpus(folder, size=16, cache=cache)
    for clip, video in enumerate(corpus.videos):
        assert np.array_equal(corpus.frames(clip), read_video(video.path, size=16))


@pytest.mark.parametrize("keep", [0, 5, 100, 500])
def test_a_damaged_cache_file_is_made_again(folder, cache, keep):
    Corpus(folder, size=16, cache=cache)
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:keep])
    corpus = Corpus(folder, size=16, cache=cache)
    assert all(np.array_equal(corpus.frames(n), read_video(v.path, size=16)) for n, v in enumerate(corpus.videos))


def test_by_copy_is_the_papers_split(folder, cache):
    corpus = Corpus(folder, size=16, cache=cache)
    split = by_copy(corpus, seed=3)
    assert split.name == "by_copy" and split.seed == 3 and split.train.dtype == split.val.dtype == np.int64
    pairs = np.concatenate([split.train, split.val])
    assert len(split.train) == round(0.8 * 12 * 124) and len({tuple(pair) for pair in pairs}) == 12 * 124
    assert pairs[:, 1].min() == 0 and pairs[:, 1].max() == 123
    assert (split.siblings() > 80).all()  # everything leaks
    assert np.array_equal(split.train, by_copy(corpus, seed=3).train)
    assert not np.array_equal(split.train, by_copy(corpus, seed=4).train)


def test_by_clip_is_clean_and_stratified(folder, cache):
    corpus = Corpus(folder, size=16, cache=cache)
    for seed in range(5):
        split = by_clip(corpus, seed, copies=7)
        assert not set(split.train[:, 0]) & set(split.val[:, 0]) and not split.siblings().any()
        assert (split.val[:, 1] == ORIGINAL).all() and sorted(corpus.labels[split.val[:, 0]]) == [0, 1, 2]
        assert len(split.train) == 9 * 7 and set(split.train[:, 1]) == set(range(7))
    assert len({tuple(by_clip(corpus, seed).val[:, 0]) for seed in range(5)}) > 1


@pytest.mark.parametrize("held_out", [1, 2])
def test_by_actor_goes_through_all_actors(folder, cache, held_out):
    corpus = Corpus(folder, size=16, cache=cache)
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


def test_by_actor_needs_a_class_that_somebody_else_plays(tmp_path, cache):
    """Each class played by one person alone: none right is certain, and no result."""
    mine = tmp_path / "two people"
    for number in range(4):
        write(mine / f"{number}.avi", number)
    rows = "0.avi,calm,Ann\n1.avi,calm,Ann\n2.avi,lively,Bob\n3.avi,lively,Bob\n"
    (mine / "manifest.csv").write_text(f"path,label,actor\n{rows}")
    corpus = Corpus(mine, size=16, cache=cache)
    with pytest.raises(CorpusError, match="no class of (Ann|Bob) is trained by anybody else; split by_clip"):
        by_actor(corpus)
    assert len(by_clip(corpus).val) == 2


def test_hidden_folders_are_no_classes(tmp_path, cache):
    """What a trash folder keeps has no label."""
    for number, place in enumerate(("calm", "lively", ".Trash")):
        write(tmp_path / "mine" / place / "a.avi", number)
    assert Corpus(tmp_path / "mine", size=16, cache=cache).classes == ("calm", "lively")


def test_impossible_splits_are_explained(folder, tmp_path, cache):
    corpus = Corpus(folder, size=16, cache=cache)
    with pytest.raises(CorpusError, match="has 4 actors"):
        by_actor(corpus, held_out=4)
    with pytest.raises(ValueError, match="at least one"):
        by_copy(corpus, copies=0)
    for number in range(2):
        write(tmp_path / "two" / f"class{number}" / "a.avi", number)
    two = Corpus(tmp_path / "two", size=16, cache=cache)
    with pytest.raises(CorpusError, match="no actor"):
        by_actor(two)
    with pytest.raises(CorpusError, match="no class with two clips"):
        by_clip(two)
    with pytest.raises(CorpusError, match="too few"):
        by_copy(two, copies=1)


def test_a_split_refuses_overlap():
    pairs = np.array([[0, 1], [0, 2], [1, 1]])
    with pytest.raises(AssertionError, match="both sides"):
        Split("mine", 0, pairs, pairs[1:2])
    assert Split("mine", 0, pairs[:2], pairs[2:]).siblings().tolist() == [0]

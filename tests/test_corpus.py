"""A corpus: labels, the cache, what is left out, and splits that do not leak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import deformlib.corpus
from deformlib.bodies import EMOTIONS, make_corpus
from deformlib.corpus import (
    ORIGINAL,
    Corpus,
    CorpusError,
    Split,
    by_actor,
    by_clip,
    by_copy,
    choose_evenly,
    contact_sheet,
    describe,
    possible_splits,
    shows_nobody,
)
from deformlib.frames import read_video

EXAMPLE = Path(__file__).parent.parent / "results" / "example-classroom"


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
    assert [name for name, _ in corpus.rejected] == [".01xang_half.avi", "holiday.avi"]
    assert "hidden" in corpus.rejected[0][1] and corpus.videos[0].actor is None


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
        "00.avi": "is empty",
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
    (tmp_path / "no video" / "a.txt").write_text("a note")
    (tmp_path / "no video" / "manifest.csv").write_text("path,label\na.txt,joy\n")
    with pytest.raises(CorpusError, match="no video by its ending") as caught:
        Corpus(tmp_path / "no video", cache=cache)
    assert str(caught.value).endswith(".wmv.")  # one full stop


def test_the_cache_is_used_and_the_folder_only_read(folder, cache, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    first = Corpus(folder, size=16, cache=cache)
    monkeypatch.setattr(deformlib.corpus, "decode_video", None)  # decoding again would fail
    second = Corpus(folder, size=16, cache=cache)
    assert second.key == first.key and second.videos == first.videos
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert len(list(cache.iterdir())) == 2 * 12  # frames, and what is known of them


def test_the_default_cache_is_in_the_home_folder_or_where_xdg_says(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    Corpus(folder, size=16)
    assert len(list((tmp_path / "home" / ".cache" / "deformlib").glob("*.npy"))) == 12
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "big drive"))
    Corpus(folder, size=16)
    assert len(list((tmp_path / "big drive" / "deformlib").glob("*.npy"))) == 12


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    """What the sentence advises, its reader can do: there is such an option, and such a variable."""
    (tmp_path / "file").touch()
    advice = r"name another cache, with --cache or Corpus\(cache=\.\.\.\), or set XDG_CACHE_HOME"
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16, cache=tmp_path / "file" / "cache")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16)

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(Corpus(folder, size=16)) == 12


def test_a_cache_of_another_decoder_is_made_again(folder, cache, monkeypatch):
    """The decoder is in the files' names, and not in the key."""
    first = Corpus(folder, size=16, cache=cache)
    for file in cache.glob("*.npy"):
        np.save(file, np.zeros_like(np.load(file)))  # what a broken decoder left
    monkeypatch.setattr(deformlib.corpus, "_DECODER", "Better-2.0")
    again = Corpus(folder, size=16, cache=cache)
    assert again.key == first.key and len(list(cache.iterdir())) == 2 * 24 and not first.frames(0).any()
    assert all(np.array_equal(again.frames(n), read_video(v.path, size=16)) for n, v in enumerate(again.videos))


def test_what_the_decoder_tells_is_kept(folder, cache):
    for corpus in (Corpus(folder, size=16, cache=cache), Corpus(folder, size=16, cache=cache)):  # decoded, then cached
        assert np.allclose(corpus.times(1), np.arange(corpus.videos[1].n_frames + 1) / 25) and corpus.times(1).dtype == np.float64
        assert corpus.facts[1]["size"] == [48, 64] and corpus.facts[1]["interlaced"] is False and corpus.facts[1]["codec"]


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the example records are not here")
def test_the_keys_of_committed_records_still_come_out(tmp_path, monkeypatch):
    """The key of the default corpus, for the names, labels, actors and contents that the records were made with."""
    record = json.loads(next(EXAMPLE.glob("classroom-*.json")).read_text())
    folder = make_corpus(tmp_path / record["corpus"]["name"])
    known = {"times": np.arange(4.0), "damaged": 0, "size": [576, 720], "codec": "mpeg4", "pixel_format": "yuv420p", "interlaced": False}
    monkeypatch.setattr(Corpus, "_cached", lambda self, file: known)  # the key needs no frame
    assert Corpus(folder, record["corpus"]["size"], cache=tmp_path / "cache").key == record["corpus"]["key"]


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
    assert half and len(list(cache.glob("[!.]*.npy"))) < 12
    corpus = Corpus(folder, size=16, cache=cache)
    for clip, video in enumerate(corpus.videos):
        assert np.array_equal(corpus.frames(clip), read_video(video.path, size=16))


@pytest.mark.parametrize("keep", [0, 5, 100, 500])
def test_a_damaged_cache_file_is_made_again(folder, cache, keep):
    Corpus(folder, size=16, cache=cache)
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:keep])
    corpus = Corpus(folder, size=16, cache=cache)
    assert [len(corpus.times(clip)) - 1 for clip in range(12)] == [video.n_frames for video in corpus.videos]
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


# Folders


def lay_out(folder: Path, *names: str) -> Path:
    """A folder with small videos of these names, all different."""
    for number, name in enumerate(names):
        write(folder / name, number)
    return folder


LAYOUTS = {  # files -> classes in the order of the sorted files, and a part of what is said
    ("train/joy/a.avi", "train/anger/b.avi", "val/joy/c.avi", "test/anger/d.avi"): ("anger joy", "in test, train, val, all taken together"),
    ("Training/joy/a.avi", "VALIDATION/anger/b.avi", "Dev/joy/c.avi"): ("anger joy", "in Dev, Training, VALIDATION"),
    ("train_videos/joy/a.avi", "test-set/joy/b.avi", "valid/anger/c.avi"): ("anger joy", "class folders in"),
    ("fold1/joy/a.avi", "fold 2/joy/b.avi", "Fold_10/anger/c.avi"): ("anger joy", "class folders in"),
    ("split1/train/joy/a.avi", "split1/test/anger/b.avi", "split2/train/anger/c.avi"): ("anger joy", "class folders in"),
    ("UCF/joy/a.avi", "UCF/anger/b.avi"): ("anger joy", "class folders in UCF"),
    ("data/UCF/train/joy/a.avi", "data/UCF/test/anger/b.avi"): ("anger joy", "class folders in"),
    ("joy/train/a.avi", "joy/test/b.avi", "anger/train/c.avi"): ("anger joy", "labels from class folders: anger 1, joy 2"),
    ("copying/a.avi", "readme/b.avi", "license/c.avi"): ("copying license readme", "labels from class folders"),
    ("wave/a.avi", "bow/deep/b.avi"): ("bow wave", "labels from class folders: bow 1, wave 1"),
    ("joy/takes/a.avi", "anger/takes/b.avi"): ("anger joy", "labels from class folders: anger 1, joy 1"),
    ("train/a.avi", "bus/b.avi", "test/c.avi"): ("bus test train", "labels from class folders: bus 1"),  # no folder in train: a class
    ("ang/s1_ang_01.avi", "joy/s1_joy_01.avi", "ang/s2_ang_02.avi"): ("ang joy", "labels from class folders"),
    ("ang/s1_ang_01.avi", "joy/s1_hap_01.avi", "happy/s1_joy_02.avi"): ("ang happy joy", "labels from class folders"),
    ("a/001ang_x.avi", "b/clip.avi", "b/clap.avi"): ("a b", "1 file names look like GEMEP's; the folders count"),
}


@pytest.mark.parametrize("names", LAYOUTS, ids=lambda names: names[0])
def test_the_class_folder_is_found_and_said(tmp_path, cache, capsys, names):
    classes, part = LAYOUTS[names]
    corpus = Corpus(lay_out(tmp_path / "c", *names), size=16, cache=cache)
    assert corpus.classes == tuple(classes.split()) and corpus.rejected == () and len(corpus) == len(names)
    for video in corpus.videos:
        assert corpus.classes[video.label] in video.path.parts
    said = capsys.readouterr().out
    assert part in said and "no video has an actor" in said


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("train/joy/a.avi", "joy/b.avi"), "parts of a split .train. lie beside others .joy."),
        (("train/a.avi", "test/b.avi"), "parts of a split .test, train. have no class folders"),
        (("Ann/joy/a.avi", "Ann/anger/b.avi", "Bob/joy/c.avi"), "the same folders .joy. lie in several others .Ann, Bob."),
        (("train/joy/Ann/a.avi", "train/joy/Bob/b.avi", "test/anger/Ann/c.avi"), "the same folders .Ann. lie in several"),
    ],
)
def test_a_layout_that_could_mean_two_things_is_refused(tmp_path, cache, names, part):
    with pytest.raises(CorpusError, match=f"{part}.*say which with a manifest.csv"):
        Corpus(lay_out(tmp_path / "c", *names), size=16, cache=cache)


def test_gemeps_names_count_before_folders_and_it_is_said(tmp_path, cache, capsys):
    names = ("calm/001ang_a.avi", "calm/002joy_b.avi", "lively/003ang_c.avi", "lively/other.avi")
    corpus = Corpus(lay_out(tmp_path / "c", *names), size=16, cache=cache)
    assert len(corpus.classes) == 17 and [name for name, _ in corpus.rejected] == [str(Path("lively/other.avi"))]
    assert "labels from file names as GEMEP's, not from the folders: " in capsys.readouterr().out


def test_every_file_is_a_clip_or_has_a_reason(tmp_path, cache):
    folder = lay_out(tmp_path / "c", "joy/a.avi", "anger/b.avi", "loose.avi")
    others = {
        "joy/a.txt": "no video by its ending .txt",
        "joy/cover.JPG": "no video by its ending .jpg",
        "joy/clip": r"no video by its ending (none)",
        "anger/walk.bvh": "motion capture",
        "more.zip": "an archive",
        "labels.csv": "must be called manifest.csv",
        "joy/manifest.csv": "lie on top",
        "Manifest.CSV": "must be called manifest.csv",
        "deep/er/y.xyz": "no video by its ending .xyz",
        ".half.avi": "hidden",
    }
    for name in (*others, "README.md", "LICENSE", "joy/.DS_Store", "joy/._a.avi", "Thumbs.db"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "sad").mkdir()
    corpus = Corpus(folder, size=16, cache=cache)
    assert corpus.classes == ("anger", "joy") and len(corpus) == 2
    reasons = {Path(name).as_posix(): reason for name, reason in corpus.rejected}
    for name, part in (others | {"loose.avi": "no class folder", "sad": "an empty folder"}).items():
        assert part in reasons.pop(name), name
    assert not reasons


def test_what_a_manifest_does_not_name_is_named(folder, cache):
    write(folder / "extra.avi", 99)
    (folder / "sub é" / "notes.txt").touch()
    (folder / "walk.bvh").touch()
    corpus = Corpus(folder, size=16, cache=cache)
    reasons = {Path(name).as_posix(): reason for name, reason in corpus.rejected}
    assert len(corpus) == 12 and reasons.keys() == {"extra.avi", "sub é/notes.txt", "walk.bvh"}
    assert reasons["extra.avi"] == "not in manifest.csv: add a line to use it" and "motion capture" in reasons["walk.bvh"]


def test_links_are_followed_inside_the_folder_and_else_named(tmp_path, cache):
    """The rule of manifests; a ring of links ends, and what is read twice is named."""
    folder = lay_out(tmp_path / "c", "joy/a.avi", ".store/b.avi", "anger/c.avi")
    write(tmp_path / "outside" / "d.avi", 9)
    (folder / "sad").symlink_to(tmp_path / "outside")
    (folder / "fear").symlink_to(".store")
    (folder / "joy" / "ring").symlink_to("..")
    (folder / "joy" / "e.avi").symlink_to(tmp_path / "outside" / "d.avi")
    (folder / "joy" / "c2.avi").symlink_to("../anger/c.avi")
    (folder / "joy" / "lost.avi").symlink_to("nowhere.avi")
    corpus = Corpus(folder, size=16, cache=cache)
    assert [video.path.relative_to(folder).as_posix() for video in corpus.videos] == ["anger/c.avi", "fear/b.avi", "joy/a.avi"]
    reasons = {Path(name).as_posix(): reason for name, reason in corpus.rejected}
    for name in ("sad", "joy/e.avi"):
        assert "a link that leaves the corpus folder" in reasons.pop(name)
    assert "read already" in reasons.pop("joy/ring") and "same contents" in reasons.pop("joy/c2.avi")
    assert "is no file" in reasons.pop("joy/lost.avi") and "hidden" in reasons.pop(".store") and not reasons


def test_many_left_out_do_not_flood_the_console(tmp_path, cache, capsys):
    folder = lay_out(tmp_path / "c", "joy/a.avi", "anger/b.avi")
    for number in range(500):
        (folder / "joy" / f"{number:03d}.txt").touch()
    for number in range(30):
        (folder / "joy" / f"x.{number:03d}").touch()
        (folder / "joy" / f"{number:03d}.mp4").touch()  # empty: the remedy in each reason names the file
    corpus = Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out.splitlines()
    assert len(corpus.rejected) == 560 and len(said) < 15 and any("000.mp4, 001.mp4" in line.replace("joy/", "") for line in said)
    assert any("000.txt" in line and " and 497 more: no video by its ending .txt" in line for line in said)
    assert any("more; `python -m deformlib inspect` names them" in line for line in said)
    told = describe(corpus, limit=1000)  # what inspect prints: every reason
    assert all(f"joy/x.{number:03d}" in told for number in range(30)) and "inspect` names" not in told
    Corpus(folder, size=16, cache=cache, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("header", ["path,label", "path,label, actor", "path,label,Subject", "path,label,who"])
def test_actors_are_found_or_missed_aloud(folder, cache, capsys, header):
    manifest = folder / "manifest.csv"
    text = manifest.read_text(encoding="utf-8-sig").replace("path,label,actor", header)
    manifest.write_text(text if header.count(",") == 2 else "\n".join(line.rsplit(",", 1)[0] if "avi" in line else line for line in text.splitlines()))
    corpus = Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out
    known = header.endswith(("actor", "Subject"))
    assert all((video.actor is not None) == known for video in corpus.videos)
    assert ("no video has an actor, so no split by actor is possible" in said) != known
    assert ("columns of manifest.csv that nothing reads: who" in said) == (header == "path,label,who")


def test_some_actors_missing_and_names_that_differ_by_capitals(folder, cache, capsys):
    manifest = folder / "manifest.csv"
    text = manifest.read_text(encoding="utf-8-sig").replace("joy,p0", "Joy,").replace("anger,p0", "anger,P1")
    manifest.write_text(text, encoding="utf-8")
    Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out
    assert "1 of 12 videos have no actor" in said
    assert "different names, if only by capitals, blanks or signs: Joy, joy" in said and "signs: P1, p1" in said


@pytest.mark.parametrize("names", [("e\u0301", "\u00e9"), ("joy ", "joy"), ("hand_wave", "hand wave"), ("joy\u200b", "joy")])
def test_classes_that_look_alike_are_named(names, tmp_path, cache):
    for number, name in enumerate(names):
        (tmp_path / "c" / name).mkdir(parents=True)
        write(tmp_path / "c" / name / "a.avi", 3 + number)
    assert any("if only by" in remark for remark in Corpus(tmp_path / "c", cache=cache, quiet=True).remarks)


def test_a_table_under_another_name_and_wrong_paths_are_told(tmp_path, cache):
    """Whoever has films and a table, and neither in the wanted form, hears of both."""
    write(tmp_path / "a.avi", 3)
    (tmp_path / "Labels.csv").write_text("path,label\na.avi,joy\n")
    with pytest.raises(CorpusError, match=r"Left out: Labels\.csv: a table of labels must be called manifest\.csv.*; a\.avi: has no label"):
        Corpus(tmp_path, cache=cache)
    (tmp_path / "manifest.csv").write_text("path,label\na,joy\n")
    with pytest.raises(CorpusError, match=r"a: in manifest\.csv, but not in the folder"):
        Corpus(tmp_path, cache=cache)


def test_motion_capture_is_no_corpus_and_the_sentence_says_what_to_do(tmp_path, cache):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.bvh").touch()
    (tmp_path / "m" / "manifest.csv").write_text("path,label,actor\na.bvh,joy,Ann\n")
    with pytest.raises(CorpusError, match="names motion capture; film it with `python -m deformlib corpus --motion"):
        Corpus(tmp_path / "m", cache=cache)
    write(tmp_path / "m" / "b.avi", 1)
    (tmp_path / "m" / "manifest.csv").write_text("path,label,actor\na.bvh,joy,Ann\nb.avi,joy,Ann\n")
    with pytest.raises(CorpusError, match="names motion capture .a.bvh. and other files .b.avi."):
        Corpus(tmp_path / "m", cache=cache)
    (tmp_path / "n" / "joy").mkdir(parents=True)
    (tmp_path / "n" / "joy" / "a.bvh").touch()
    with pytest.raises(CorpusError, match="Left out: joy.a.bvh: motion capture: film it .* needs a manifest.csv"):
        Corpus(tmp_path / "n", cache=cache)


# Looking


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
    assert np.unique(choose_evenly(np.arange(1000), 10)).tolist() == sorted(choose_evenly(np.arange(1000), 10)) and len(choose_evenly(np.arange(1000), 10)) == 10


def test_the_sheet_shows_each_clip_and_names_the_empty_ones(folder, cache):
    write(folder / "00.avi", 7, n_frames=1)
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


def test_a_description_says_what_is_there(folder, cache):
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


def test_splits_that_are_not_possible_have_a_reason(tmp_path, cache):
    corpus = Corpus(lay_out(tmp_path / "c", "joy/a.avi", "anger/b.avi"), size=16, cache=cache)
    reasons = possible_splits(corpus)
    assert reasons["by_copy"] is None and "no actor" in reasons["by_actor"] and "no class with two clips" in reasons["by_clip"]


def test_a_corpus_from_which_nothing_is_learned_says_so(tmp_path, cache, capsys):
    """One class alone, or a class whose clips are all gone."""
    folder = lay_out(tmp_path / "c", "joy/a.avi", "joy/b.avi", "anger/c.avi")
    (folder / "anger" / "c.avi").write_bytes(b"")
    corpus = Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out
    assert corpus.classes == ("anger", "joy") and "1 classes without a clip: anger" in said and "all clips are of one class" in said

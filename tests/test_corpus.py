"""A corpus: labelled clips, the cache of decoded frames, and what is left out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import numbered_video, pretend_decoded, twelve_videos

from deformlib.corpus import Corpus, CorpusError
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.media.cache import FrameCache, fingerprint
from deformlib.video import decode_video, read_video

EXAMPLE = Path(__file__).parent.parent / "results" / "example-classroom"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve videos of three classes and four actors."""
    return twelve_videos(tmp_path / "ein Körper" / "videos")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for decoded frames, which is not there yet."""
    return tmp_path / "a cache"


def assert_frames(corpus: Corpus) -> None:
    """Every clip has the frames of its video."""
    for clip, video in enumerate(corpus.videos):
        assert np.array_equal(corpus.frames(clip), read_video(video.path, corpus.color, corpus.size)), video.path


def test_labels_from_a_manifest(folder: Path, cache: Path):
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


def test_the_source_is_what_the_maker_of_the_videos_left(folder: Path, cache: Path):
    """It is no clip, is never left out, and changes no key: the videos are the same."""
    unknown = Corpus(folder, size=16, cache=cache)
    (folder / "source.txt").write_text("  drawn by\thand, not GEMEP \nmore\n", encoding="utf-8")
    told = Corpus(folder, size=16, cache=cache)
    assert unknown.source == "videos as their owner labelled them" and told.source == "drawn by hand, not GEMEP"
    assert told.rejected == () and told.key == unknown.key and told.videos == unknown.videos


@pytest.mark.parametrize(("color", "channels"), [(False, 1), (True, 3)])
def test_frames_are_those_of_the_video_and_read_only(folder: Path, cache: Path, color: bool, channels: int):
    corpus = Corpus(folder, size=16, color=color, cache=cache)
    assert_frames(corpus)
    for clip, video in enumerate(corpus.videos):
        frames = corpus.frames(clip)
        assert isinstance(frames, np.memmap) and frames.shape == (video.n_frames, channels, 16, 16)
    with pytest.raises(ValueError, match="read-only"):
        frames[0] = 0


def test_everything_left_out_is_named(folder: Path, cache: Path, capsys: pytest.CaptureFixture):
    (folder / "00.avi").write_bytes(b"")
    (folder / "02.avi").write_bytes((folder / "04.avi").read_bytes())
    rows = "06.avi,joy,p9\n../out.avi,joy,p1\n/etc/hosts,joy,p1\nnowhere.avi,joy\nmanifest.csv,joy,p1\n08.avi\n"
    with open(folder / "manifest.csv", "a", encoding="utf-8") as file:
        file.write(rows)
    corpus = Corpus(folder, size=16, cache=cache)
    reasons = dict(corpus.rejected)
    said = capsys.readouterr().out
    for name, part in {
        "00.avi": "is empty",
        "04.avi": "same contents as 02.avi, where it is anger",
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


def test_a_folder_without_a_clip_is_refused(tmp_path: Path, cache: Path):
    with pytest.raises(CorpusError, match="is no folder"):
        Corpus(tmp_path / "nowhere", cache=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no labelled video"):
        Corpus(tmp_path / "empty", cache=cache)
    numbered_video(tmp_path / "unlabelled" / "a.avi", 1)
    with pytest.raises(CorpusError, match=r"manifest\.csv.*a\.avi"):
        Corpus(tmp_path / "unlabelled", cache=cache)
    (tmp_path / "no video").mkdir()
    (tmp_path / "no video" / "a.txt").write_text("a note")
    (tmp_path / "no video" / "manifest.csv").write_text("path,label\na.txt,joy\n")
    with pytest.raises(CorpusError, match="no video by its ending") as caught:
        Corpus(tmp_path / "no video", cache=cache)
    assert str(caught.value).endswith(".wmv.")  # one full stop


# The cache


def test_the_cache_is_used_and_the_folder_only_read(folder: Path, cache: Path):
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    first = Corpus(folder, size=16, cache=cache)
    for file in cache.glob("*.npy"):
        np.save(file, 255 - np.load(file))  # which no decoder would give
    second = Corpus(folder, size=16, cache=cache)
    assert second.key == first.key and second.videos == first.videos
    assert np.array_equal(second.frames(0), 255 - read_video(first.videos[0].path, size=16))
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


def test_a_cache_that_cannot_be_written(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the sentence advises, its reader can do: there is such an option, and such a variable."""
    (tmp_path / "file").touch()
    advice = r"name another cache, with --cache or Corpus\(cache=\.\.\.\), or set XDG_CACHE_HOME"
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16, cache=tmp_path / "file" / "cache")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(CorpusError, match=advice):
        Corpus(folder, size=16)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(Corpus(folder, size=16)) == 12


def test_a_cache_of_another_decoder_is_made_again(tmp_path: Path):
    """The decoder is in the files' names, and not in the fingerprint."""
    video = numbered_video(tmp_path / "a.avi", 1)
    old, new = (FrameCache(tmp_path, decode_video, 16, decoder=name).fetch(video) for name in ("Old 1.0", "Better 2.0"))
    assert old.digest == new.digest and old.file.name.endswith("-Old-1.0.npy") and old.file != new.file
    assert len(list(tmp_path.iterdir())) == 1 + 2 * 2 and np.array_equal(np.load(new.file), read_video(video, size=16))


def test_what_the_decoder_tells_is_kept(folder: Path, cache: Path):
    for corpus in (Corpus(folder, size=16, cache=cache), Corpus(folder, size=16, cache=cache)):  # decoded, then cached
        times, facts = corpus.times(1), corpus.facts[1]
        assert np.allclose(times, np.arange(corpus.videos[1].n_frames + 1) / 25) and times.dtype == np.float64
        assert facts["size"] == [48, 64] and facts["interlaced"] is False and facts["codec"] == "mjpeg"


def test_a_changed_video_is_decoded_again(folder: Path, cache: Path):
    old = Corpus(folder, size=16, cache=cache)
    stat = (folder / "02.avi").stat()
    numbered_video(folder / "02.avi", 27, n_frames=old.videos[1].n_frames)
    os.utime(folder / "02.avi", ns=(stat.st_atime_ns, stat.st_mtime_ns))  # not even the time tells
    new = Corpus(folder, size=16, cache=cache)
    assert new.key != old.key and np.array_equal(new.frames(1), read_video(folder / "02.avi", size=16))
    assert not np.array_equal(new.frames(1), old.frames(1)) and np.array_equal(new.frames(2), old.frames(2))


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
def test_killed_half_way_the_next_corpus_is_whole(folder: Path, cache: Path):
    command = [sys.executable, "-c", DIE_WHILE_WRITING, str(folder), str(cache)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    half = [file for file in cache.iterdir() if file.name.startswith(".")]
    assert half and len(list(cache.glob("[!.]*.npy"))) < 12
    assert_frames(Corpus(folder, size=16, cache=cache))


def test_a_damaged_cache_file_is_made_again(folder: Path, cache: Path):
    """Cut off anywhere, of another type, of another shape, or with facts that are none."""
    first = Corpus(folder, size=16, cache=cache)
    whole = {file: file.read_bytes() for file in cache.iterdir()}
    arrays, texts = sorted(cache.glob("*.npy")), sorted(cache.glob("*.json"))
    for number, keep in enumerate((0, 5, 100, 500)):
        arrays[number].write_bytes(whole[arrays[number]][:keep])
        texts[number + 4].write_bytes(whole[texts[number + 4]][: keep // 2])
    np.save(arrays[8], np.load(arrays[8]).astype(np.float32))
    np.save(arrays[9], np.load(arrays[9])[:2])
    facts = json.loads(texts[10].read_text())
    for file, damage in ((texts[10], {"size": [48]}), (texts[11], {"damaged": "0"})):
        file.write_text(json.dumps(facts | damage))
    assert Corpus(folder, size=16, cache=cache).key == first.key
    assert_frames(first)
    assert {file: file.read_bytes() for file in cache.iterdir()} == whole
    texts[0].write_text(json.dumps(facts | {"times": [0, 1, 1]}))
    Corpus(folder, size=16, cache=cache)
    assert texts[0].read_bytes() == whole[texts[0]]


# Keys


def test_the_key_tells_settings_labels_and_contents(folder: Path, cache: Path):
    keys = {Corpus(folder, size=16, cache=cache).key, Corpus(folder, size=24, cache=cache).key}
    keys.add(Corpus(folder, size=16, color=True, cache=cache).key)
    manifest = folder / "manifest.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8-sig").replace("06.avi,walk", "06.avi,joy"), encoding="utf-8")
    keys.add(Corpus(folder, size=16, cache=cache).key)
    assert len(keys) == 4


@pytest.mark.parametrize(
    ("color", "key"), [(False, "4b74cd2c76f75a0f2fb315748730fae4"), (True, "40d595204349f2b91d26998990a55119")]
)
def test_keys_are_those_of_the_committed_records(tmp_path: Path, cache: Path, color: bool, key: str):
    """By the same rule as ever: these two keys are from the code that made the records. No frame goes into them."""
    (tmp_path / "films" / "sub").mkdir(parents=True)
    for name, text in (("a.avi", "one"), ("sub/b.avi", "two")):
        (tmp_path / "films" / name).write_text(text)
        pretend_decoded(cache, tmp_path / "films" / name, 16, color)
    (tmp_path / "films" / "manifest.csv").write_text("path,label,actor\na.avi,joy,Ann\nsub/b.avi,anger,\n")
    assert Corpus(tmp_path / "films", 16, color, cache).key == key


def test_a_film_has_the_fingerprint_of_the_committed_records(tmp_path: Path):
    """The shortest of the default corpus: the same bytes as ever, and the same settings hashed with them."""
    plan = sorted(plan_corpus(), key=lambda clip: clip.n_frames)[:1]
    film = make_corpus(tmp_path, plan) / plan[0].name
    assert fingerprint(film, "area-averaged 112 False") == "d66757eae2084f4f49264dc31ba95996"


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the example records are not here")
def test_the_keys_of_committed_records_still_come_out(tmp_path: Path, cache: Path):
    """The key of the default corpus, with the names, labels, actors and contents that the records were made of."""
    record = json.loads(next(EXAMPLE.glob("classroom-*.json")).read_text())
    folder, size = make_corpus(tmp_path / record["corpus"]["name"]), record["corpus"]["size"]
    for video in folder.glob("*.avi"):
        pretend_decoded(cache, video, size)
    assert Corpus(folder, size, cache=cache).key == record["corpus"]["key"]

"""Frames: what decodes, how it is shrunk, which of them are chosen."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from deformlib.frames import VideoError, read_clip, read_video, resize, sample_indices

VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos"
SAMPLING = np.load(Path(__file__).parent / "data" / "released_sampling.npz")


def write(path: Path, levels: list[int], height: int = 48, width: int = 64) -> Path:
    """A video of which frame t is one colour: blue `levels[t]`, green 100, red 50."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    assert writer.isOpened()
    for level in levels:
        writer.write(np.full((height, width, 3), (level, 100, 50), np.uint8))
    writer.release()
    return path


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the example videos of ../shared/data/videos")
def test_every_example_video_has_the_frames_that_decode():
    with open(VIDEOS / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        size = None if int(row["opencv_frames"]) < 60 else 32
        frames = read_video(VIDEOS / row["file"], size=size)
        height, width = (32, 32) if size else (int(row["height"]), int(row["width"]))
        assert frames.shape == (int(row["opencv_frames"]), 1, height, width), row["file"]
        assert frames.std() > 5, row["file"]


def test_frames_come_in_order_with_the_right_channels(tmp_path):
    path = write(tmp_path / "né à Genève.avi", [0, 80, 160, 240])
    color, gray = read_video(path, color=True), read_video(path)
    assert color.shape == (4, 3, 48, 64) and gray.shape == (4, 1, 48, 64) and color.dtype == gray.dtype == np.uint8
    expected = [[50, 100, level] for level in (0, 80, 160, 240)]
    assert np.abs(color.mean(axis=(2, 3)) - expected).max() < 4
    assert np.abs(gray.mean(axis=(1, 2, 3)) - np.array(expected) @ [0.299, 0.587, 0.114]).max() < 4
    assert color.flags.c_contiguous


def test_upright_and_small_videos(tmp_path):
    path = write(tmp_path / "upright.avi", [10, 20], height=96, width=32)
    assert read_video(path).shape == (2, 1, 96, 32)
    assert read_video(path, color=True, size=40).shape == (2, 3, 40, 40)


def test_gif_with_transparency(tmp_path):
    pictures = [Image.new("RGBA", (40, 30), (255, 0, 0, 255)), Image.new("RGBA", (40, 30), (0, 0, 255, 128))]
    pictures[0].save(tmp_path / "two.gif", save_all=True, append_images=pictures[1:], duration=100)
    frames = read_video(tmp_path / "two.gif", color=True)
    assert frames.shape == (2, 3, 30, 40) and frames[0, 0].mean() > 240


def test_cut_short_gives_what_decodes(tmp_path):
    path = write(tmp_path / "long.avi", list(range(0, 240, 4)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 10 < len(read_video(path)) < 50


@pytest.mark.parametrize("name", ["missing.avi", "empty.avi", "garbage.mp4", "text.avi", "notes.txt", "picture.png"])
def test_bad_files_are_named_and_nothing_else_is_said(name, tmp_path, capfd):
    path = tmp_path / name
    if name == "picture.png":
        Image.new("RGB", (8, 8)).save(path)
    elif name != "missing.avi":
        contents = {"empty.avi": b"", "garbage.mp4": b"\x00\x00\x00\x18ftypmp42" + bytes(5000)}
        path.write_bytes(contents.get(name, b"not a video " * 100))
    with pytest.raises(VideoError) as error:
        read_video(path)
    assert str(path) in str(error.value) and ": " in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("place", [0.5, 0.7])  # the first frame; one in the middle
def test_frames_around_a_damaged_one_are_read_without_chatter(place, tmp_path, capfd):
    path = write(tmp_path / "a.avi", list(range(0, 240, 10)))
    contents = bytearray(path.read_bytes())
    start = int(place * len(contents))
    contents[start : start + 300] = bytes(300)
    path.write_bytes(contents)
    assert 20 <= len(read_video(path)) < 24
    assert capfd.readouterr().err == ""


def test_resize_averages_areas():
    frame = np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.float32)
    blocks = frame.reshape(20, 3, 20, 4).mean(axis=(1, 3))
    assert np.allclose(resize(frame, 20), blocks, atol=1e-3)
    bilinear = cv2.resize(frame, (20, 20), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize(frame, 20, antialias=False), bilinear) and not np.allclose(bilinear, blocks, atol=5)


def test_resize_shrinks_one_side_and_enlarges_the_other():
    frame = np.zeros((10, 80, 3), np.uint8)
    frame[:, 40:] = 200
    small = resize(frame, 20)
    assert small.shape == (20, 20, 3) and (small[:, :10] == 0).all() and (small[:, 10:] == 200).all()
    with pytest.raises(ValueError, match="size is 0"):
        resize(frame, 0)


@pytest.mark.parametrize("name", [name for name in SAMPLING if name != "README"])
def test_indices_equal_those_the_released_code_chose(name):
    n_frames, seed = (int(part) for part in name[1:].split("_seed"))
    generator = np.random.RandomState(seed)
    for copy, expected in enumerate(SAMPLING[name]):
        jitter = generator.random_sample(32) if n_frames > 32 else None
        got = sample_indices(n_frames, 32, jitter, rule="released")
        assert got.dtype == np.int64 and np.array_equal(got, expected), f"copy {copy}"


def test_the_rule_of_zhang():
    k, u = np.arange(32), np.random.default_rng(1).random(32)
    assert np.array_equal(sample_indices(10, 32, u), np.minimum(k, 9))
    assert np.array_equal(sample_indices(50, 32, u), np.floor(50 / 32 * k))  # s = 1: no jitter
    assert np.array_equal(sample_indices(100, 32), np.floor(100 / 32 * k))
    expected = np.clip(np.floor(100 / 32 * k + 1.5 * (u - 0.5)), 0, 99)
    assert np.array_equal(sample_indices(100, 32, u), expected)
    assert sample_indices(100, 32, u).tolist() != sample_indices(100, 32).tolist()


@pytest.mark.parametrize("rule", ["zhang", "released"])
def test_indices_are_in_range_and_in_order(rule):
    rng = np.random.default_rng(0)
    for n_frames in (1, 2, 31, 32, 33, 63, 64, 65, 200, 1394):
        for length in (1, 8, 32):
            extremes = (np.zeros(length), np.full(length, np.nextafter(1, 0)), rng.random(length), None)
            for jitter in extremes:
                chosen = sample_indices(n_frames, length, jitter, rule)
                assert chosen.shape == (length,) and (np.diff(chosen) >= 0).all()
                assert 0 <= chosen[0] and chosen[-1] < n_frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_frames": 0}, "at least 1"),
        ({"n_frames": 50, "length": 0}, "at least 1"),
        ({"n_frames": 50, "rule": "other"}, '"zhang" or "released"'),
        ({"n_frames": 50, "jitter": [0.5] * 31}, "32 numbers"),
        ({"n_frames": 50, "jitter": [1.0] * 32}, r"\[0, 1\)"),
        ({"n_frames": 10, "jitter": [np.nan] * 32}, r"\[0, 1\)"),
    ],
)
def test_wrong_arguments_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_indices(**arguments)


def test_read_clip_is_reading_choosing_and_shrinking(tmp_path):
    path = write(tmp_path / "a.avi", list(range(0, 250, 5)))
    jitter = np.random.default_rng(0).random(16)
    clip = read_clip(path, length=16, size=24, color=True, jitter=jitter)
    assert clip.shape == (3, 16, 24, 24) and clip.dtype == np.uint8
    assert np.array_equal(clip, read_video(path, True, 24)[sample_indices(50, 16, jitter)].transpose(1, 0, 2, 3))

"""Videos: which frames decode, how they are shrunk, which of them are chosen."""

import csv
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

import av
import cv2
import imageio.v3 as iio
import numpy as np
import pytest
from factories import flat_video
from PIL import Image

from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.media.decode import _frame_times
from deformlib.video import (
    DECODER,
    VideoError,
    choose_frames,
    decode_video,
    is_even,
    read_clip,
    read_video,
    resize,
    sample_indices,
)

VIDEOS = Path(__file__).parents[2] / "shared" / "data" / "videos"
SAMPLING = np.load(Path(__file__).parent / "data" / "released_sampling.npz")


def write(path: Path, levels: list[int], height: int = 48, width: int = 64) -> Path:
    """A video of which frame t is one colour: blue `levels[t]`, green 100, red 50."""
    return flat_video(path, [(level, 100, 50) for level in levels], height, width)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="needs the example videos of ../shared/data/videos")
@pytest.mark.slow
@pytest.mark.parametrize("large", [False, True])
def test_every_example_video_has_the_frames_that_decode(large: bool):
    """With the pixels of OpenCV; and one is uneven: its second frame was dropped, manifest.csv calls it variable."""
    with open(VIDEOS / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    for row in rows:
        path, shape = VIDEOS / row["file"], (int(row["height"]), int(row["width"]))
        if (path.suffix == ".mp4") != large:
            continue
        video = decode_video(path, size=32 if int(row["opencv_frames"]) > 1000 else None)
        assert video.frames.shape[:2] == (int(row["opencv_frames"]), 1) and video.frames.std() > 5, path
        assert is_even(video.times) == (row["variable_frame_rate"] == "0"), path
        assert (video.codec, video.pixel_format, video.size) == (row["codec"], row["pix_fmt"], shape)
        other = cv2.VideoCapture(str(path))
        for frame in video.frames[:5, 0] if video.frames.shape[2:] == shape else ():
            assert np.array_equal(frame, cv2.cvtColor(other.read()[1], cv2.COLOR_BGR2GRAY)), path


def test_frames_come_in_order_with_the_right_channels(tmp_path):
    path = write(tmp_path / "né à Genève.avi", [0, 80, 160, 240])
    color, gray = read_video(path, color=True), read_video(path)
    assert color.shape == (4, 3, 48, 64) and gray.shape == (4, 1, 48, 64) and color.dtype == gray.dtype == np.uint8
    expected = [[50, 100, level] for level in (0, 80, 160, 240)]
    assert np.abs(color.mean(axis=(2, 3)) - expected).max() < 4
    assert np.abs(gray.mean(axis=(1, 2, 3)) - np.array(expected) @ [0.299, 0.587, 0.114]).max() < 4
    assert color.flags.c_contiguous


def test_our_own_films_have_the_pixels_that_opencv_gives(tmp_path: Path):
    """To the last bit: the films of the course, as the committed results saw them."""
    plan = sorted(plan_corpus(), key=lambda clip: clip.n_frames)[:1]
    path = make_corpus(tmp_path, plan) / plan[0].name
    video, wanted = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        wanted.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    colour, gray = decode_video(path, color=True), decode_video(path)
    assert np.array_equal(colour.frames.transpose(0, 2, 3, 1), wanted)  # (T, H, W, C)
    assert np.array_equal(gray.frames[:, 0], [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in wanted])
    for got in (gray, colour):
        assert (got.codec, got.pixel_format, got.size) == ("mpeg4", "yuv420p", (576, 720))
        assert not got.interlaced and got.damaged == 0 and got.pixel_aspect == 1
        assert np.allclose(got.times, np.arange(len(wanted) + 1) / 25)


def test_a_folder_is_told_from_a_name_that_is_not_there(tmp_path):
    with pytest.raises(VideoError, match="is a folder: name one video in it"):
        read_video(tmp_path)


def test_the_decoder_is_named_with_its_versions():
    assert DECODER.startswith(f"PyAV {av.__version__}, libavcodec ") and DECODER.count(".") >= 4


def test_many_threads_read_the_same(tmp_path):
    paths = [write(tmp_path / f"{number}.avi", list(range(number, 240, 16))) for number in range(4)]
    alone = [decode_video(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(decode_video, paths * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert np.array_equal(one.frames, other.frames) and np.array_equal(one.times, other.times)


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
                assert chosen[0] >= 0 and chosen[-1] < n_frames


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


# Times


@pytest.mark.parametrize(
    ("stamps", "last", "wanted"),
    [
        ([5.0, 5.04, 5.08], 0.04, [0, 0.04, 0.08, 0.12]),
        ([5.0, 5.04, 5.08], 0, [0, 0.04, 0.08, 0.12]),  # how long the last one is shown is not said
        ([0, 0.04, 0.08], 2.0, [0, 0.04, 0.08, 2.08]),
        ([1.0], 0, [0, 0.5]),  # the rate of the header, here
        ([None] * 3, 0, [0, 0.5, 1.0, 1.5]),
        ([0, None, 0.08, 0.12], 0, [0, 0.04, 0.08, 0.12, 0.16]),
        ([None, None, 0.08, 0.12, None], 0, [0, 0.04, 0.08, 0.12, 0.16, 0.2]),
        ([0, 0.04, 0.04, 0.12], 0.04, [0, 0.04, 0.08, 0.12, 0.16]),  # twice
        ([0, 0.04, 0.02, 0.12], 0.04, [0, 0.04, 0.08, 0.12, 0.16]),  # back by less than a second
        ([0, 0.04, 0.08, 0.08, 0.08], 0.04, [0, 0.04, 0.08, 0.12, 0.16, 0.2]),
        ([9.0, 9.04, 9.08, 0.0, 0.04], 0.04, [0, 0.04, 0.08, 0.12, 0.16, 0.2]),  # two recordings
        ([3.0, 3.0, 3.0], 0, [0, 0.5, 1.0, 1.5]),
        ([0, -5.0, -4.96], 0, [0, 0.04, 0.08, 0.12]),
        ([0, 0.04, 90.0, 90.04], 0, [0, 0.04, 90.0, 90.04, 90.08]),
        ([0, 0.04, 900.0, 900.04], 0, [0, 0.04, 0.08, 0.12, 0.16]),  # longer than a frame lasts
    ],
)
def test_times_always_grow_whatever_a_file_says(stamps, last, wanted):
    got = _frame_times(stamps, last, step=0.5, longest=100)
    assert got.dtype == np.float64 and np.allclose(got, wanted) and (np.diff(got) > 0).all()


@pytest.mark.parametrize(
    "steps",
    [
        [0.04] * 50,
        [0.033, 0.033, 0.034] * 20,
        [0.03, 0.03, 0.04] * 20,
        [0.016, 0.017, 0.017] * 30,
        [0.04] * 49 + [0.08],
        [0.04] * 49 + [0.01],
        [0.5],
        [0.2, 0.2],
        [0.004, 0.004, 0.005, 0.004] * 30,
    ],
)
def test_even_times_are_even_whatever_they_are_rounded_to(steps):
    """Milliseconds of .mkv, hundredths of .gif, 240 frames a second; the last frame's length is often wrong by one."""
    times = np.array([0, *accumulate(steps)])
    assert is_even(times) and np.array_equal(choose_frames(times, 8), sample_indices(len(steps), 8))


@pytest.mark.parametrize(
    "steps",
    [
        [0.033] * 30 + [0.1] * 20,
        [0.04] * 20 + [0.08] + [0.04] * 20,
        [0.08] + [0.04] * 40,
        [0.04] * 40 + [0.08, 0.04],
        [0.04] * 30 + [1.0],
        [0.02, 0.06] * 20,
        [0.04] * 10 + [3.0] + [0.04] * 10,
    ],
)
def test_uneven_times_are_uneven(steps):
    """A rate that changes, one frame that was dropped, a picture that stands."""
    times = np.array([0, *accumulate(steps)])
    assert not is_even(times)
    instants = times[-1] / 16 * np.arange(16) + 1e-9
    assert np.array_equal(choose_frames(times, 16), [np.flatnonzero(times <= instant)[-1] for instant in instants])


@pytest.mark.parametrize("name", [name for name in SAMPLING if name != "README"])
def test_even_times_give_the_released_indices(name):
    """Bit-equal to the reference vectors, in seconds of any rate."""
    n_frames, seed = (int(part) for part in name[1:].split("_seed"))
    generator = np.random.RandomState(seed)
    for copy, expected in enumerate(SAMPLING[name][:20]):
        jitter = generator.random_sample(32) if n_frames > 32 else None
        times = np.round(np.arange(n_frames + 1) / (25, 29.97, 60)[copy % 3], 3)
        assert np.array_equal(choose_frames(times, 32, jitter, rule="released"), expected)


@pytest.mark.parametrize("rule", ["zhang", "released"])
def test_jitter_moves_instants_by_a_quarter_of_a_step(rule):
    """By time as by number; a clip of one long frame shows it throughout, and nothing leaves the clip."""
    rng = np.random.default_rng(3)
    times = np.concatenate([np.arange(200) / 100, 2 + np.arange(21) / 10])  # two seconds fast, two slow
    for jitter in (np.zeros(32), np.full(32, np.nextafter(1, 0)), rng.random(32)):
        chosen = choose_frames(times, 32, jitter, rule)
        instants = np.maximum(times[-1] / 32 * (np.arange(32) + (jitter - 0.5) / 2), 0)
        assert (np.diff(chosen) >= 0).all() and chosen.dtype == np.int64
        assert (times[chosen] <= instants + 1e-6).all() and (instants < times[chosen + 1] + 1e-6).all()
    assert choose_frames(np.array([0, 9.0, 9.1, 9.2]), 8).tolist() == [0] * 8
    assert choose_frames(np.array([0, 0.1, 0.2, 1.0, 1.1]), 4).tolist() == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": [0.0]}, "always growing"),
        ({"times": [0, 0.1, 0.1]}, "always growing"),
        ({"times": [0, 0.1, np.nan]}, "always growing"),
        ({"times": [[0, 1]]}, "always growing"),
        ({"times": [0, 1, 9, 10], "length": 0}, "at least 1"),
        ({"times": [0, 1, 9, 10], "rule": "other"}, '"zhang" or "released"'),
        ({"times": [0, 1, 9, 10], "jitter": [0.5]}, "32 numbers"),
    ],
)
def test_wrong_times_are_explained(arguments, message):
    with pytest.raises(ValueError, match=message):
        choose_frames(**arguments)


@pytest.mark.parametrize("rest", ["last", "first"])
def test_a_gif_and_an_avi_of_one_film_show_the_same(rest, tmp_path):
    """64 frames at 25 a second, half of them still, which a GIF keeps as one: 8 of 16 chosen are still in both."""
    moving, still = list(range(0, 224, 7)), [230] * 32
    levels = moving + still if rest == "last" else still + moving
    avi = write(tmp_path / "a.avi", levels)
    iio.imwrite(
        tmp_path / "a.gif", np.array(levels, np.uint8)[:, None, None] * np.ones((1, 48, 64), np.uint8), duration=40
    )
    gif = decode_video(tmp_path / "a.gif")
    assert (
        len(gif.frames) == 33
        and not is_even(gif.times)
        and abs(gif.times[-1] - 2.56) < 1e-6
        and is_even(decode_video(avi).times)
    )
    for path, level in ((avi, 230 * 0.114 + 50 * 0.299 + 100 * 0.587), (tmp_path / "a.gif", 230)):
        clip = read_clip(path, length=16, size=8)[0].mean(axis=(1, 2))
        assert (np.abs(clip - level) < 2).sum() == 8, path
    by_number = gif.frames[sample_indices(33, 16)].mean(axis=(1, 2, 3))
    assert (by_number > 228).sum() <= 1


def test_read_clip_is_reading_choosing_and_shrinking(tmp_path):
    path = write(tmp_path / "a.avi", list(range(0, 250, 5)))
    jitter = np.random.default_rng(0).random(16)
    clip = read_clip(path, length=16, size=24, color=True, jitter=jitter)
    assert clip.shape == (3, 16, 24, 24) and clip.dtype == np.uint8
    assert np.array_equal(clip, read_video(path, True, 24)[sample_indices(50, 16, jitter)].transpose(1, 0, 2, 3))

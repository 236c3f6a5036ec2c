"""Films of drawings: every picture in its place, at its rate, in a file that browsers play."""

import math

import matplotlib

matplotlib.use("Agg")

import av
import numpy as np
import pytest
from PIL import Image

from deformlib.make.animation import gif_delays, save_film


def draw_gray(step, ax):
    """A level of gray that says which step it is."""
    ax.imshow(np.full((4, 4), 60.0 * step), cmap="gray", vmin=0, vmax=255)
    ax.axis("off")


@pytest.mark.parametrize("ending", ["png", "gif", "GIF", "MP4"])
def test_films(tmp_path, ending):
    path = save_film(draw_gray, [0, 2, 4], tmp_path / f"film.{ending}", size=1.5)
    if ending.lower() == "mp4":
        with av.open(str(path)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    else:
        picture = Image.open(path)
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    assert len(frames) == (1 if ending == "png" else 3)
    if ending != "png":
        middles = [frame[frame.shape[0] // 2, frame.shape[1] // 2].mean() for frame in frames]
        assert middles == pytest.approx([0, 120, 240], abs=8)
    else:
        assert frames[0].shape[1] == pytest.approx(3 * frames[0].shape[0], abs=2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("fps", "size"), [(29.97, 1.01), (60, 1.0)])
def test_an_mp4_is_what_browsers_play(tmp_path, fps, size):
    """H.264, colours at half resolution, even sides, the index in front; as long and as fast as asked."""
    path = save_film(draw_gray, [0, 1, 2, 1, 4], tmp_path / "film.mp4", fps=fps, size=size)
    with av.open(str(path)) as film:
        (stream,) = film.streams
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 5)
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        times = [frame.time for frame in film.decode(stream)]
    assert times == pytest.approx([number / fps for number in range(5)], abs=1e-3)
    side = math.floor(100 * size)  # matplotlib's 100 dots an inch
    assert {stream.width, stream.height} == {side + side % 2}
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_equal_pictures_give_equal_films(tmp_path):
    """x264 says in the file how it was called: with mbtree or more threads, equal pictures may give another film."""
    first, second = (save_film(draw_gray, [0, 2, 4], tmp_path / name, size=1.0) for name in ("a.mp4", "b.mp4"))
    data = first.read_bytes()
    assert data == second.read_bytes()
    assert b" mbtree=0 " in data and b" threads=1 " in data


@pytest.mark.parametrize(
    ("fps", "delays"),
    [(2, [500] * 4), (30, [30, 40, 30, 30, 40, 30]), (40, [30, 20, 30, 20]), (50, [20] * 3), (12, [80, 90, 80, 80]),
     (0.01, [100_000, 100_000])],
)  # fmt: skip
def test_delays_of_a_gif_keep_its_rate(fps, delays):
    """They are whole hundredths of a second."""
    assert gif_delays(len(delays), fps) == delays and abs(sum(gif_delays(100, fps)) - 1e5 / fps) <= 5


@pytest.mark.parametrize(("fps", "delays"), [(30, [30, 40, 30]), (0.01, [100_000, 100_000])])
def test_a_gif_lasts_as_long_as_its_delays(tmp_path, fps, delays):
    """Equal pictures, which Pillow merges, last as long as they would apart."""
    for steps in (range(len(delays)), [0, *[1] * (len(delays) - 1)], [1] * len(delays)):
        path, played = save_film(draw_gray, steps, tmp_path / "film.gif", fps=fps, size=1.0), 0
        with Image.open(path) as film:
            for number in range(film.n_frames):
                film.seek(number)
                played += film.info["duration"]
        assert played == sum(delays)


@pytest.mark.parametrize("fps", [50.5, 60, 1000])
def test_a_rate_that_no_gif_has_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match=f"to 50 a second, not {fps:g}: .*mp4"):
        save_film(draw_gray, [0], tmp_path / "film.gif", fps=fps)


@pytest.mark.parametrize(("steps", "fps"), [([], 2), ([0], 0), ([0], -1), ([0], math.nan), ([0], math.inf), ([0], 1e6)])
def test_no_film_is_said(tmp_path, steps, fps):
    for ending in ("gif", "mp4"):
        with pytest.raises(ValueError, match=f"film.{ending}: {len(steps)} steps at .* are no film"):
            save_film(draw_gray, steps, tmp_path / f"film.{ending}", fps=fps)
    assert not list(tmp_path.iterdir())


def test_films_that_cannot_be_written_are_said(tmp_path, monkeypatch):
    for ending in ("gif", "mp4"):
        with pytest.raises(OSError, match="nowhere"):
            save_film(draw_gray, [0], tmp_path / "nowhere" / f"film.{ending}")
        with pytest.raises(OSError, match=f"a{{250}}.{ending}"):  # as in a folder that may not be written
            save_film(draw_gray, [0], tmp_path / f"{'a' * 250}.{ending}")
    monkeypatch.setattr("av.codecs_available", {"mpeg4", "h264"})
    with pytest.raises(OSError, match=r"film.mp4: this PyAV has no encoder for H.264.*save a .gif"):
        save_film(draw_gray, [0], tmp_path / "film.mp4")


@pytest.mark.parametrize("ending", ["avi", "webm", "mov", "gif.txt"])
def test_a_film_of_another_kind_is_refused(tmp_path, ending):
    with pytest.raises(ValueError, match=rf"film\.{ending}: .*\.png.*\.gif.*\.mp4"):
        save_film(lambda step, ax: ax, [0], tmp_path / f"film.{ending}")

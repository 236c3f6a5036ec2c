#!/bin/sh
# imageio 2.38.1 with imageio-ffmpeg 0.8.1 makes up pictures and loses others where times are uneven, as in films of telephones. FFmpeg's
# program fills the gaps to an even rate when its output has no times of its own, and nobody tells it not to: of 12 pictures in
# 3 bursts come 30, in which two of the 12 are missing. The same package counts 12, and names the mean rate, 12.5, which fits the 12
# and not the 30. The plugin pyav gives the 12. Nothing found about it in the plugin's documentation; the only thread,
# https://github.com/imageio/imageio/issues/176, asks for times.
# Seen: the pictures below, by their number. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 "numpy>=1.26,<3"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction
from importlib.metadata import version

import av
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

TIMES = [0, 40, 80, 120, 400, 440, 480, 520, 800, 840, 880, 920]  # ms
with av.open("bursts.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p", time_base=Fraction(1, 1000))
    stream.codec_context.time_base = Fraction(1, 1000)
    for number, time in enumerate(TIMES):
        frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * number, np.uint8), format="rgb24")
        frame.pts, frame.time_base = time, Fraction(1, 1000)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def numbers(plugin: str) -> list[int]:
    return [int(round(picture.mean() / 20)) for picture in iio.imread("bursts.mp4", plugin=plugin)]


print(", ".join(f"{name} {version(name)}" for name in ("imageio", "imageio-ffmpeg", "av")))
program, library = numbers("FFMPEG"), numbers("pyav")
counted, fps = imageio_ffmpeg.count_frames_and_secs("bursts.mp4")[0], iio.immeta("bursts.mp4", plugin="FFMPEG")["fps"]
print(f"pyav: {len(library)} pictures, {library}")
print(f"FFMPEG: {len(program)} pictures, {program}; counted {counted}, {fps} a second")
assert library == list(range(12)) and counted == 12 and fps == 12.5
assert len(program) == 30 and sorted(set(library) - set(program)) == [9, 10], "imageio reads other pictures now"
PYTHON

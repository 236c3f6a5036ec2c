#!/bin/sh
# A film that was cut without encoding it again, as telephones and editors do, has three lengths. The pictures before the cut stay in
# the file, since the first ones shown build on them, and an edit list hides them. Where 17 pictures are shown of 40 stored ones,
# imageio 2.38.1 with PyAV 18.1.0 gives an array of 40, of which 17 are pictures of the film and the rest were never read; decord 0.6.0
# gives 40, the last 23 copies of the 17th; imageio's own iteration and PyAV give 17. PyAV's `frames` is 40.
# That counts in the header are too large is known (https://github.com/vllm-project/vllm/pull/48608,
# https://github.com/imageio/imageio/issues/1005), not that arrays hold as many pictures. Seen: as below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check imageio==2.38.1 imageio-ffmpeg==0.8.1 av==18.1.0 decord==0.6.0 "numpy>=1.26,<3"
cd "$folder"
DECORD_DUPLICATE_WARNING_THRESHOLD=1.0 "$folder/venv/bin/python" - <<'PYTHON'
import subprocess
from importlib.metadata import version

import av
import decord
import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np

ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
with av.open("whole.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
    for number in range(50):
        picture = np.full((64, 64, 3), 5 * number, np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
    file.mux(stream.encode(None))
cut = [ffmpeg, "-v", "error", "-ss", "0.9", "-i", "whole.mp4", "-t", "0.6", "-c", "copy", "cut.mp4"]
subprocess.run(cut, check=True)

print(", ".join(f"{name} {version(name)}" for name in ("imageio", "av", "decord")))
with av.open("cut.mp4") as file:
    stored = file.streams.video[0].frames
    shown = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
one_by_one = sum(1 for _ in iio.imiter("cut.mp4", plugin="pyav"))
array = iio.imread("cut.mp4", plugin="pyav")
reader = decord.VideoReader("cut.mp4")
copies = sum(bool((reader[place].asnumpy() == reader[len(shown) - 1].asnumpy()).all()) for place in range(len(shown), len(reader)))
print(f"stored {stored}, shown by PyAV {len(shown)}, by imageio one by one {one_by_one}")
print(f"imageio, all at once: {len(array)}, decord: {len(reader)}, of which copies of the last picture: {copies}")
assert (stored, len(shown), one_by_one) == (40, 17, 17), "the film is cut in another way"
assert (array[: len(shown)] == np.stack(shown)).all()
assert (len(array), len(reader), copies) == (40, 40, 23), "arrays have another length now"
PYTHON

#!/usr/bin/env bash
# The OpenCV wheel 4.14 reads interlaced video as one stale picture and reports success.
#
# Tried with opencv-python-headless 4.12.0.88 and 4.14.0.94 (x86_64, Python 3.11). A valid MPEG-2 file of 15 interlaced frames with
# motion in each is made by FFmpeg's own program. `VideoCapture.read()` of 4.14.0.94 answers True 15 times, and all 15 arrays are equal
# to the last byte: the buffer is not written. 4.12.0.88 and PyAV 18.1.0 give 15 different pictures. H.264 and MPEG-4, interlaced, alike.
# Whoever reads camcorder, DVD or broadcast files with it gets data that looks like video and is none.
#
# Installs the packages into a temporary folder. Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
pip() { python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --target "$@" 2>/dev/null; }
pip common "numpy<2.3" imageio-ffmpeg==0.6.0 av==18.1.0
pip older --no-deps opencv-python-headless==4.12.0.88
pip newer --no-deps opencv-python-headless==4.14.0.94

ffmpeg=$(PYTHONPATH=common python3 -c "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())")
make() { "$ffmpeg" -v error -f lavfi -i testsrc2=size=720x576:rate=50:duration=0.6 -vf tinterlace=interleave_top,setfield=tff -flags +ildct+ilme "$@"; }
make -c:v mpeg2video mpeg2.mpg
make -c:v libx264 h264.mp4
make -c:v mpeg4 mpeg4.avi

cat > read.py <<'PYTHON'
import sys
import numpy as np

def frames(path):
    if sys.argv[1] == "av":
        import av
        with av.open(path) as file:
            return [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]
    import cv2
    video, found = cv2.VideoCapture(path, cv2.CAP_FFMPEG), []
    while (answer := video.read())[0]:
        found.append(answer[1].copy())
    return found

for path in ("mpeg2.mpg", "h264.mp4", "mpeg4.avi"):
    found = frames(path)
    print(path, len(found), "frames,", len({frame.tobytes() for frame in found}), "different")
PYTHON
run() { PYTHONPATH="$1:common" OPENCV_FFMPEG_LOGLEVEL=-8 python3 read.py "$2" 2>/dev/null; }
fine='mpeg2.mpg 15 frames, 15 different
h264.mp4 15 frames, 15 different
mpeg4.avi 15 frames, 15 different'
stale=${fine//15 different/1 different}
failed=0
check() { printf '%s\n%s\n' "$1" "$2"; [ "$2" = "$3" ] || { echo "    expected otherwise:"; echo "$3"; failed=1; }; }
check "opencv-python-headless 4.12.0.88, as it should be" "$(run older cv2)" "$fine"
check "PyAV 18.1.0, as it should be" "$(run common av)" "$fine"
check "opencv-python-headless 4.14.0.94, stale" "$(run newer cv2)" "$stale"
exit $failed

#!/usr/bin/env bash
# FFmpeg's decoders hand out damaged Motion JPEG and FFV1 frames without an error and without AV_FRAME_FLAG_CORRUPT.
#
# Tried with PyAV 18.1.0 (libavcodec 62.28) on x86_64, Python 3.11. In a file of 24 frames 400 bytes in the middle are set to zero. The
# decoder gives 24 frames, raises nothing, and `frame.is_corrupt` is False for each; but one Motion JPEG frame, and half of the FFV1
# frames (12, up to the next key frame), are not pictures of the file: the missing part is filled up with what was in memory, or with the frame before.
# FFV1 notices, since its slices carry checksums (-slicecrc 1); it says so in the log alone. For Motion JPEG the option
# err_detect=explode makes it an error; for FFV1 it does not help. MPEG-4 and ProRes frames damaged alike are flagged.
#
# Installs the packages into a temporary folder. Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip install --quiet --disable-pip-version-check --target common "numpy<2.3" imageio-ffmpeg==0.6.0 av==18.1.0 2>/dev/null
export PYTHONPATH=common
ffmpeg=$(python3 -c "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())")
make() { "$ffmpeg" -v error -f lavfi -i testsrc2=size=176x144:rate=25:duration=0.96 -threads 1 -c:v "$@"; }
make mjpeg mjpeg.avi
make ffv1 -level 3 -slicecrc 1 ffv1.mkv
make mpeg4 mpeg4.avi
make prores_ks prores.mov
cat > read.py <<'PYTHON'
import av

def frames(path, options):
    found, errors = [], 0
    with av.open(path) as file:
        film = file.streams.video[0]
        film.codec_context.thread_count, film.codec_context.options = 1, options
        for packet in file.demux(film):
            try:
                found += [(frame.is_corrupt, frame.to_ndarray(format="bgr24").tobytes()) for frame in packet.decode()]
            except av.error.InvalidDataError:
                errors += 1
    return found, errors

for path in ("mjpeg.avi", "ffv1.mkv", "mpeg4.avi", "prores.mov"):
    whole = {picture for _, picture in frames(path, {})[0]}
    data = bytearray(open(path, "rb").read())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    open("damaged_" + path, "wb").write(data)
    for options in ({}, {"err_detect": "explode"}):
        found, errors = frames("damaged_" + path, options)
        wrong = [corrupt for corrupt, picture in found if picture not in whole]
        print(path, options.get("err_detect", "default"), f"frames {len(found)} errors {errors} wrong {len(wrong)} flagged {sum(wrong)}")
PYTHON
found=$(python3 read.py)
echo "$found"
grep -q "^mjpeg.avi default frames 24 errors 0 wrong 1 flagged 0$" <<< "$found"
grep -q "^mjpeg.avi explode frames 23 errors 1 wrong 0 flagged 0$" <<< "$found"
grep -Eq "^ffv1.mkv default frames 24 errors 0 wrong [1-9][0-9]* flagged 0$" <<< "$found"
grep -Eq "^ffv1.mkv explode frames 24 errors 0 wrong [1-9][0-9]* flagged 0$" <<< "$found"
grep -Eq "^prores.mov default frames 24 errors 0 wrong 1 flagged 1$" <<< "$found"

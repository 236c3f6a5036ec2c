#!/usr/bin/env bash
# PyAV's demux() ends with "IndexError: list index out of range" where a stream begins in the middle of an MPEG transport stream.
#
# Tried with PyAV 14.2.0, 17.1.0 and 18.1.0 (x86_64, Python 3.11). Three recordings are put one after the other, as recorders do: the
# first and the last silent, the middle one with sound. FFmpeg's own program reads all 42 pictures. So does PyAV, but then, in place of
# the flush at the end, the error: it goes through the streams that FFmpeg knows by now with the list made at the start. A program
# that decodes in one loop loses the pictures that were still in the decoder, or stops.
#
# Installs the packages into a temporary folder. Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip install --quiet --disable-pip-version-check --target common imageio-ffmpeg==0.8.1 av==18.1.0 2>/dev/null
export PYTHONPATH=common
ffmpeg=$(python3 -c "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())")
"$ffmpeg" -v error -f lavfi -i testsrc2=size=640x480:rate=25:duration=0.6 -vf noise=alls=80:allf=t -c:v mpeg2video -q:v 2 silent.ts
"$ffmpeg" -v error -f lavfi -i sine=duration=0.5 -f lavfi -i testsrc2=size=640x480:rate=25:duration=0.48 -map 1 -map 0 -c:v mpeg2video loud.ts
cat silent.ts loud.ts silent.ts > late.ts
program=$("$ffmpeg" -v error -i late.ts -map 0:v:0 -fps_mode passthrough -f framecrc - | grep -vc '^#')
found=$(python3 - <<'PYTHON'
import av
count = 0
with av.open("late.ts") as file:
    try:
        for packet in file.demux(video=0):
            count += len(packet.decode())
        print(count, "pictures")
    except IndexError as error:
        print(count, "pictures, then", repr(error))
PYTHON
)
echo "FFmpeg's program: $program pictures"
echo "PyAV 18.1.0: $found"
[ "$program" = 42 ] && [[ "$found" == *"then IndexError('list index out of range')" ]]

#!/usr/bin/env bash
# PyAV 18.1.0: `frame.side_data` raises "ValueError: 31 is not a valid Type" for a JPEG frame that carries EXIF.
#
# Tried with PyAV 18.1.0 (libavutil 60.26) on x86_64, Python 3.11. Cameras that write Motion JPEG put EXIF into each frame, and FFmpeg
# 8.1 hands it on as side data of a kind that PyAV's enumeration lacks. The mapping is made from all kinds at once, so that the others, the display
# matrix among them, cannot be reached either; `frame.rotation` still tells the angle, and nothing tells whether the picture is mirrored.
#
# Installs the packages into a temporary folder. Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m pip install --quiet --disable-pip-version-check --target common "numpy<2.3" pillow==11.3.0 imageio-ffmpeg==0.8.1 av==18.1.0 2>/dev/null
export PYTHONPATH=common
cat > try.py <<'PYTHON'
import subprocess
import av
import imageio_ffmpeg
from PIL import Image

exif = Image.Exif()
exif[0x0112] = 6  # to be turned by a quarter
for number in range(3):
    Image.new("RGB", (64, 48), (80 * number, 0, 0)).save(f"{number}.jpg", exif=exif)
ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
subprocess.run([ffmpeg, "-v", "error", "-framerate", "25", "-i", "%d.jpg", "-c", "copy", "a.mov"], check=True)
with av.open("a.mov") as file:
    frame = next(file.decode(video=0))
    try:
        print("kinds", [side.type.name for side in frame.side_data])
    except ValueError as error:
        print("ValueError:", error, "/ rotation", frame.rotation)
PYTHON
found=$(python3 try.py)
echo "PyAV 18.1.0: $found"
[ "$found" = "ValueError: 31 is not a valid Type / rotation -90" ]

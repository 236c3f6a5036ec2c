#!/bin/sh
# bvh 0.3 loses the last frame of a motion-capture file whose last line has no line end, as many programs write: the same three
# frames are two then, without a word, and the announced number stays three. It keeps a line only when it meets the character after it.
# Seen: 3 of 3 frames with a line end, 2 of 3 without. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check bvh==0.3
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from bvh import Bvh

TEXT = """HIERARCHY
ROOT Hips
{
  OFFSET 0 0 0
  CHANNELS 3 Xposition Yposition Zposition
  End Site
  {
    OFFSET 0 1 0
  }
}
MOTION
Frames: 3
Frame Time: 0.04
1 0 0
2 0 0
3 0 0"""

print("bvh", version("bvh"))
ended, open_ended = Bvh(TEXT + "\n"), Bvh(TEXT)
for what, motion in (("with a line end", ended), ("without", open_ended)):
    print(f"{what}: announced {motion.nframes}, kept {len(motion.frames)}, x = {[frame[0] for frame in motion.frames]}")
assert (len(ended.frames), len(open_ended.frames)) == (3, 2), "bvh keeps other frames now"
PYTHON

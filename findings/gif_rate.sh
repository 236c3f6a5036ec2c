#!/bin/sh
# imageio 2.38.1 with Pillow 13.0.0 writes GIFs at another rate than the one that was asked for, without a word: delays are cut to
# whole hundredths of a second, each alone, so fps=30 plays at 33.3 and fps=12 at 12.5; fps=60 gives delays of 1, which browsers show
# as 10, and fps=120 delays of 0. Delays that differ from picture to picture, 3, 3, 4, keep the rate, and Pillow writes them as given.
# Seen: the delays below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check imageio==2.38.1 pillow==13.0.0 "numpy>=1.26,<3"
"$folder/venv/bin/python" - <<'PYTHON'
import io
from importlib.metadata import version

import imageio.v3 as iio
import numpy as np
from PIL import Image

pictures = [np.full((8, 8, 3), 10 * number, np.uint8) for number in range(6)]


def delays(data: bytes) -> list[int]:
    """Delays of a GIF in hundredths of a second, from its graphic control extensions."""
    found, place = [], data.find(b"\x21\xf9\x04")
    while place >= 0:
        found.append(int.from_bytes(data[place + 4 : place + 6], "little"))
        place = data.find(b"\x21\xf9\x04", place + 8)
    return found


print("imageio", version("imageio"), "Pillow", version("pillow"))
seen = {fps: delays(iio.imwrite("<bytes>", pictures, extension=".gif", fps=fps)) for fps in (12, 30, 60, 120)}
for fps, found in seen.items():
    print(f"fps={fps}: delays {found}, that is {100 * len(found) / sum(found) if sum(found) else 0:.1f} a second")
first, *rest = map(Image.fromarray, pictures)
first.save(kept := io.BytesIO(), "gif", save_all=True, append_images=rest, duration=[30, 30, 40, 30, 30, 40])
print("as given:", delays(kept.getvalue()))
assert delays(kept.getvalue()) == [3, 3, 4, 3, 3, 4]
assert [set(seen[fps]) for fps in (12, 30, 60)] == [{8}, {3}, {1}] and not sum(seen[120]), "imageio writes other delays now"
PYTHON

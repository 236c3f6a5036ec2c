#!/bin/sh
# mvnx 0.2 takes the parts of an Xsens MVNX frame by their place and not by their name. The manual says that orientation and position
# are always there and that the rest is chosen at export; a file with joint angles and without velocities is read without a word, its
# joint angles as velocities, its centre of mass as accelerations, its joint angles as nothing. The author thought that it would stop
# (https://github.com/alexharston/mvnx/issues/1). The manual is MV0319P.N, page 83; page 80 lists the parts:
# https://www.manualshelf.com/manual/xsens-technologies/mtw2-3a7g6/user-s-manual-english/page-90.html
# Seen: a whole file is read rightly, a smaller one as below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check mvnx==0.2 "numpy>=1.26,<3"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

import mvnx

# Each part in the order of the format, with its numbers for one segment, sensor, joint.
SIZES = {
    "orientation": 4, "position": 3, "velocity": 3, "acceleration": 3, "angularVelocity": 3, "angularAcceleration": 3, "footContacts": 4,
    "sensorFreeAcceleration": 3, "sensorMagneticField": 3, "sensorOrientation": 4, "jointAngle": 3, "jointAngleXZY": 3,
    "jointAngleErgo": 3, "centerOfMass": 3,
}  # fmt: skip


def frame(number: int, kind: str, parts: tuple[str, ...]) -> str:
    """One frame in which each part holds its place in the format, times 100."""
    inner = "".join(f"<{part}>{' '.join([str(100 * list(SIZES).index(part))] * SIZES[part])}</{part}>" for part in parts)
    return f'<frame time="{number}" index="{number}" tc="00:00:00:00" ms="{number}" type="{kind}">{inner}</frame>'


def read(*parts: str) -> mvnx.models.MVNX:
    poses = "".join(frame(0, kind, ("orientation", "position")) for kind in ("identity", "tpose", "tpose-isb"))
    frames = poses + frame(0, "normal", parts) + frame(1, "normal", parts)
    Path("film.mvnx").write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><mvnx version="4"><mvn version="2019.0" build="1"/><comment/><subject label="Suit" '
        'frameRate="60" segmentCount="1" recDate="today" configuration="FullBody" userScenario="singleLevel"><comment/><segments>'
        '<segment label="Pelvis" id="1"/></segments><sensors><sensor label="Pelvis"/></sensors><joints/><ergonomicJointAngles/>'
        f'<footContactDefinition/><frames segmentCount="1" sensorCount="1" jointCount="1">{frames}</frames></subject>'
        '<securityCode code="0"/></mvnx>'
    )
    return mvnx.load("film.mvnx")


print("mvnx", version("mvnx"))
whole, smaller = read(*SIZES), read("orientation", "position", "jointAngle", "centerOfMass")
for part in ("position", "velocity", "acceleration", "jointAngle", "centerOfMass"):
    place = 100 * list(SIZES).index(part)
    assert getattr(whole, part).tolist() == 2 * [3 * [place]], "mvnx no longer reads a whole file"
    held = {name: 100 * list(SIZES).index(name) for name in ("position", "jointAngle", "centerOfMass")}
    values = getattr(smaller, part)
    print(f"{part} of the smaller file: {next((name for name in held if values.size and values[0, 0] == held[name]), 'nothing')}")
assert smaller.velocity[0, 0] == 1000 and smaller.acceleration[0, 0] == 1300 and not smaller.jointAngle.size, "mvnx reads by name now"
PYTHON

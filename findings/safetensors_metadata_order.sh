#!/bin/sh
# safetensors 0.8.0 writes the same tensors and the same metadata as different bytes: it keeps metadata in a hash map, whose order
# changes from call to call, so no checksum tells whether two files hold the same network. With one metadata key the bytes repeat.
# Seen: several different files of 20 with three keys, 1 of 20 with one key. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check safetensors==0.8.0 "numpy>=1.26,<3"
"$folder/venv/bin/python" - <<'PYTHON'
import json
from importlib.metadata import version

import numpy as np
from safetensors.numpy import save

tensors = {"weight": np.arange(4, dtype=np.float32)}
keys = {"format": "pt", "config": "{}", "classes": "[]"}
several = {save(tensors, metadata=keys) for _ in range(20)}
one = {save(tensors, metadata={"all": json.dumps(keys)}) for _ in range(20)}
print("safetensors", version("safetensors"))
print("three keys: more than one file:", len(several) > 1, "| as long as each other:", len({len(data) for data in several}) == 1)
print("one key: files", len(one))
assert len(several) > 1 and len(one) == 1, "safetensors no longer orders metadata by chance"
PYTHON

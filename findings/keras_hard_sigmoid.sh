#!/bin/sh
# Keras 3.15.1 reads a ConvLSTM that Keras 2 saved and computes other gates. `hard_sigmoid`, the gates of recurrent layers by default
# before 2.3 and of ConvLSTM2D throughout Keras 2, was 0.2 x + 0.5 there, cut off at 2.5, and is x / 6 + 0.5 now, cut off at 3; the name
# in the file is the same. The documentation of the function was changed, https://github.com/keras-team/keras/pull/19477; nothing was
# found about saved networks. With a gate of 1.5 the output is 0.443 and was 0.496; the only warnings are about other things.
# Seen: the numbers below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check keras==3.15.1 h5py==3.16.0 torch==2.13.0 "numpy>=1.26,<3"
cd "$folder"
KERAS_BACKEND=torch "$folder/venv/bin/python" - <<'PYTHON'
import json
import warnings
from importlib.metadata import version

import h5py
import keras
import numpy as np

# One filter of 1x1: input 1.5 to all gates, no bias but the forget gate's; as tf.keras 2.15 writes it.
NAME = "conv_lstm2d"
settings = {"name": NAME, "trainable": True, "dtype": "float32", "filters": 1, "kernel_size": [1, 1], "strides": [1, 1]} | {
    "padding": "valid", "data_format": "channels_last", "dilation_rate": [1, 1], "activation": "tanh", "use_bias": True,
    "recurrent_activation": "hard_sigmoid", "unit_forget_bias": True, "dropout": 0.0, "recurrent_dropout": 0.0,
    "return_sequences": False, "return_state": False, "go_backwards": False, "stateful": False,
}  # fmt: skip
start = {"batch_input_shape": [None, 1, 1, 1, 1], "dtype": "float32", "sparse": False, "ragged": False, "name": "start"}
layers = [{"class_name": "InputLayer", "config": start}, {"class_name": "ConvLSTM2D", "config": settings}]
weights = {
    "kernel": np.ones((1, 1, 1, 4), np.float32),
    "recurrent_kernel": np.zeros((1, 1, 1, 4), np.float32),
    "bias": np.array([0, 1, 0, 0], np.float32),
}
with h5py.File("old.h5", "w") as file:
    file.attrs["keras_version"] = "2.15.0"
    file.attrs["backend"] = "tensorflow"
    file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}})
    group = file.create_group("model_weights")
    group.attrs["layer_names"] = [NAME.encode()]
    inner = group.create_group(NAME)
    inner.attrs["weight_names"] = [f"{NAME}/{name}:0".encode() for name in weights]
    for name, values in weights.items():
        inner.create_dataset(f"{NAME}/{name}:0", data=values)

with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    net = keras.models.load_model("old.h5")
assert not any("sigmoid" in str(warning.message) for warning in said), "Keras warns now"
now = float(net.predict(np.full((1, 1, 1, 1, 1), 1.5, np.float32), verbose=0).squeeze())


def first_step(gate: float) -> float:
    """h of the first step, where input and output gate are `gate`, and c = gate * tanh(1.5)."""
    return float(gate * np.tanh(gate * np.tanh(1.5)))


two, three = first_step(0.2 * 1.5 + 0.5), first_step(1.5 / 6 + 0.5)
print("keras", version("keras"))
print(f"loaded: {now:.3f}; by the gates of Keras 2 {two:.3f}, of Keras 3 {three:.3f}")
assert abs(now - three) < 1e-5 < abs(now - two), "Keras keeps the old gates now"
PYTHON

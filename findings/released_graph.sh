#!/bin/sh
# The released code of arXiv 2010.14607 (PeymanTahghighi/DeformConvLSTM, commit 3e7d3ae) executes no deformable convolution: in the
# graphs with which TensorFlow 2.15.1 trains and validates, none of its operations is left, and none of the 60 trainable tensors
# belongs to it. Nothing of the program is changed: its two layers are only watched, and matplotlib, which draws nothing here, is
# an empty module. TensorFlow 2.15.1 needs Python 3.9 to 3.11; takes 2 GB of disk and some minutes; nothing is trained.
# Seen: results/released/graph.json, which "findings/released_graph.sh > results/released/graph.json" writes. Fails if that changes.
# REPOSITORY: another place to clone from.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git clone --quiet "${REPOSITORY:-https://github.com/PeymanTahghighi/DeformConvLSTM}" "$folder/code"
git -C "$folder/code" checkout --quiet 3e7d3ae
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check tensorflow-cpu==2.15.1
cat > "$folder/watch.py" <<'PYTHON'
import json
import sys
import types
from collections import Counter

sys.modules["matplotlib"] = types.ModuleType("matplotlib")
sys.modules["matplotlib"].pyplot = sys.modules["matplotlib.pyplot"] = types.ModuleType("matplotlib.pyplot")
import tensorflow as tf

import DeformableConvLSTM
import Model

CELL, LAYER = DeformableConvLSTM.DeformableConvLSTMCell, DeformableConvLSTM.DeformableConvLayer2D
KINDS = ("Conv3D", "Conv2D", "ExtractImagePatches", "GatherNd")  # the last two are found in the deformable layer alone
asked, stage, cell_call, layer_call = {}, "build", CELL.call, LAYER.call


def watched_cell(self, inputs, states):
    """Writes down each time that a cell asks "is this a deformable frame?", with its counter and its answer."""
    yes = self.counter % 16 in self.frames
    asked.setdefault(stage, []).append({"layer": self.frames[0], "counter": self.counter, "deformable": yes})
    return cell_call(self, inputs, states)


def operations(function) -> dict:
    """How many operations of each kind a graph has, those of the functions that it calls with them."""
    graph = function.graph.as_graph_def()
    found = Counter(node.op for node in graph.node)
    for inner in graph.library.function:
        found.update(node.op for node in inner.node_def)
    return {kind: found[kind] for kind in KINDS}


CELL.call = watched_cell
net = Model.Net(numBatchTrain=3621)
clips, labels = tf.TensorSpec([2, 32, 112, 112, 1], tf.float64), tf.TensorSpec([2, 17], tf.float64)
record = {"commit": "3e7d3ae", "tensorflow": tf.__version__, "operations": {}}
record["trainable tensors"] = len(net.network.trainable_variables)
record["parameters"] = sum(int(tf.size(tensor)) for tensor in net.network.trainable_variables)
for stage, step in (("train", net.trainStep), ("validate", net.validStep)):
    record["operations"][stage] = operations(step.get_concrete_function(input=clips, label=labels))
alone = tf.function(LAYER(filters=32, kernel_size=(3, 3), kernel_initializer="zeros"))
record["operations"]["one deformable layer"] = operations(alone.get_concrete_function(tf.TensorSpec([2, 28, 28, 32])))
record["asked"] = dict(asked)

stage = "by hand"
for block in net.network.layers:
    for part in getattr(block, "layers", ()):
        if hasattr(part, "cell"):
            part.cell.frames = list(range(16))  # every frame is deformable
try:
    tf.function(lambda clips: net.network(clips, training=False)).get_concrete_function(clips)
    record["every answer yes, by hand"] = "runs"
except Exception as error:
    record["every answer yes, by hand"] = type(error).__name__
json.dump(record, sys.stdout, indent=1)
print()
left = {stage: counts["ExtractImagePatches"] + counts["GatherNd"] for stage, counts in record["operations"].items()}
assert (left["train"], left["validate"]) == (0, 0) and left["one deformable layer"] > 0, left
assert (record["trainable tensors"], record["parameters"]) == (60, 2231793) and record["every answer yes, by hand"] != "runs"
PYTHON
cd "$folder/code"
CUDA_VISIBLE_DEVICES='' TF_CPP_MIN_LOG_LEVEL=3 PYTHONPATH="$folder/code" "$folder/venv/bin/python" -W ignore "$folder/watch.py" 2>/dev/null

#!/bin/sh
# PyTorch 2.14.1 writes an ONNX file that is none: torch.onnx.export(opset_version=18) of torchvision's deform_conv2d says that all went
# well and puts a node DeformConv into a graph of opset 18. That operator exists from opset 19 on, so that onnx.checker and ONNX Runtime
# refuse the file. The exporter has implementations for opset 18 and tells of versions below it alone; with 19, and by default (20), the
# file is right. Support was asked for in https://github.com/pytorch/pytorch/issues/185195; nothing was found about the version.
# Takes 6 GB of disk, since this torchvision belongs to a PyTorch with CUDA.
# Seen: as below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
    torch==2.14.1 torchvision==0.29.2 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.32.0 "numpy>=1.26,<3"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

import onnx
import onnxruntime
import torch
from torchvision.ops import DeformConv2d

torch.manual_seed(0)
layer, inputs = DeformConv2d(2, 3, 3, padding=1).eval(), (torch.rand(1, 2, 6, 6), torch.zeros(1, 18, 6, 6))
print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")))
told = {}
for opset in (18, 19, None):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.onnx.export(layer, inputs, "layer.onnx", opset_version=opset, verbose=False)
    assert not any("opset" in str(warning.message).lower() for warning in said), "the exporter warns now"
    model = onnx.load("layer.onnx")
    kinds, written = [node.op_type for node in model.graph.node], model.opset_import[0].version
    try:
        onnx.checker.check_model(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        (output,) = session.run(None, {name: value.numpy() for name, value in zip(names, inputs)})
        told[opset] = f"off by {(torch.from_numpy(output) - layer(*inputs).detach()).abs().max().item():.0e}"
    except onnx.checker.ValidationError as error:
        told[opset] = str(error).splitlines()[0]
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        except Exception as refusal:
            told[opset] += f"; ONNX Runtime: {type(refusal).__name__}"
    print(f"opset_version={opset}: {kinds} in opset {written}; {told[opset]}")
assert told[18] == "No Op registered for DeformConv with domain_version of 18; ONNX Runtime: InvalidGraph", "opset 18 is another now"
right = [told[opset].startswith("off by ") and float(told[opset].removeprefix("off by ")) < 1e-6 for opset in (19, None)]
assert all(right), "opset 19 or the default is another now"
PYTHON

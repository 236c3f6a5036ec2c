#!/usr/bin/env bash
# torchvision's deform_conv2d answers forward-mode automatic differentiation with zero, and without a word.
#
# Tried with torchvision 0.29.2 on PyTorch 2.14.1 (x86_64, Python 3.11, CPU). torch.func.jvp carries a change of the input along with
# its value. The operator has no formula for that; PyTorch's own convolution answers rightly, an autograd.Function without a formula
# raises NotImplementedError, torchvision's operator returns a change of exactly 0 for input, offset and weight. jacfwd is zero, too,
# and so is everything that is built on them (Jacobians, Laplacians, natural gradients). Differences of values show the right change.
#
# Installs the packages into a temporary folder (5.5 GB). Ends with 0 while this is so, and with 1 once a version behaves differently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir torch==2.14.1 torchvision==0.29.2 "numpy>=1.26,<3"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torchvision
from torch.func import jvp

torch.manual_seed(0)
draw = {"dtype": torch.float64}
arguments = torch.randn(1, 2, 5, 5, **draw), 0.3 + 0.1 * torch.rand(1, 18, 5, 5, **draw), torch.randn(3, 2, 3, 3, **draw)
print("torch", torch.__version__, "torchvision", torchvision.__version__)
largest = []
for place, name in enumerate(("input", "offset", "weight")):
    def function(moved):
        some = list(arguments)
        some[place] = moved
        return torchvision.ops.deform_conv2d(*some, padding=1)

    value, change = arguments[place], torch.randn_like(arguments[place])
    _, forward = jvp(function, (value,), (change,))
    difference = (function(value + 1e-6 * change) - function(value - 1e-6 * change)) / 2e-6
    largest.append((forward.abs().max().item(), difference.abs().max().item()))
    print(f"{name}: forward mode {largest[-1][0]:.4f}, differences {largest[-1][1]:.4f}")
plain = jvp(lambda x: torch.nn.functional.conv2d(x, arguments[2]), arguments[:1], arguments[:1])[1]
print("PyTorch's own convolution:", round(plain.abs().max().item(), 4))
assert all(forward == 0 and difference > 0.1 for forward, difference in largest), "forward mode is no longer silently zero"
PYTHON

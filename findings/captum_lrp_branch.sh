#!/bin/sh
# Captum 0.9.0: LRP passes by a layer that has a layer inside, without a word. It gives rules to modules without children alone, and
# refuses those among them that it has no rule for, a subclass of Conv2d too. A convolution that holds a branch of its own, as
# deformable layers hold the one that predicts their offsets, has a child: the branch gets a rule, the convolution around it the plain
# gradient, and relevance is not kept. Here the branch adds 0, so that both networks are the same function: a convolution of 1x1 with
# weight 1/2, a mean, a factor of 3. Its relevance is the logit, 12.75; with the branch it is 54.19, 4.25 times as much: by the weight
# and by the mean pixel, 8.5. Only return_convergence_delta=True tells. The documentation says "if no rule is specified for a layer, a
# pre-defined default rule for the module type is used"; nothing else was found about it.
# Seen: the numbers below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir captum==0.9.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import warnings
from importlib.metadata import version

import torch
from captum.attr import LRP
from torch import nn


class Subclass(nn.Conv2d):
    """An ordinary convolution by another name."""


class WithBranch(nn.Conv2d):
    """An ordinary convolution, and a branch that adds 0."""

    def __init__(self, *sizes: int, **options: bool) -> None:
        super().__init__(*sizes, **options)
        self.branch = nn.Conv2d(*sizes, **options)
        nn.init.zeros_(self.branch.weight)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(maps) + self.branch(maps)


class Network(nn.Module):
    """A layer, ReLU, mean, and one logit, which is 1.5 times the mean of an image that is positive."""

    def __init__(self, layer: type[nn.Conv2d]) -> None:
        super().__init__()
        self.layer, self.relu, self.linear = layer(1, 1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.constant_(self.linear.weight, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.relu(self.layer(image)).mean((2, 3)))


print("captum", version("captum"))
image = torch.arange(1.0, 17).view(1, 1, 4, 4)  # its mean is 8.5
found = {}
for layer in (nn.Conv2d, WithBranch):
    net = Network(layer)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        relevance, delta = LRP(net).attribute(image, target=0, return_convergence_delta=True)
    assert not any("rule" in str(warning.message) for warning in said), "captum warns now"
    logit, total = net(image).item(), relevance.sum().item()
    found[layer.__name__] = total / logit
    print(f"{layer.__name__}: logit {logit:.2f}, relevance in all {total:.2f}, delta {delta.item():.2f}")
try:
    LRP(Network(Subclass)).attribute(image, target=0)
    refused = "taken"
except TypeError as error:
    refused = f"TypeError: {str(error)[:60]}..."
print("a subclass without a branch:", refused)
assert refused.startswith("TypeError") and abs(found["Conv2d"] - 1) < 1e-3
assert abs(found["WithBranch"] - 0.5 * 8.5) < 1e-3, "captum gives a rule to a layer with a branch now"
PYTHON

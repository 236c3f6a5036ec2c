#!/bin/sh
# deformable-attention 0.0.20 reads videos with time and width exchanged, and wide maps only in part. All offsets are set to zero
# here, so that each layer should read a regular grid of its input. DeformableAttention3D hands its points to grid_sample as
# (time, y, x), which wants (x, y, time): the step along time walks along the width. DeformableAttention2D divides x by the height
# less one and y by the width less one: on a map of 8x16, two of four columns lie outside and are read as zeros. Both count from the
# middle of the outermost pixels and sample from their edges (align_corners=False), so that the outermost points are dimmed too.
# The order in 2D was mended after https://github.com/lucidrains/deformable-attention/issues/6, where a comment asks about 3D.
# Seen: what each axis reads, below. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check deformable-attention==0.0.20 torch==2.13.0 "numpy>=1.26,<3"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import torch
from deformable_attention import DeformableAttention2D, DeformableAttention3D


def read_at_zero_offsets(layer: torch.nn.Module, sizes: tuple[int, ...]) -> torch.Tensor:
    """What keys and values are made of, for a map that holds its own coordinates, one a channel, and ones in the last channel."""
    ramps = torch.meshgrid(*(torch.arange(float(size)) for size in sizes), indexing="ij")
    torch.nn.init.zeros_(layer.to_offsets[2].weight)
    found = []
    layer.to_k.register_forward_hook(lambda module, inputs, output: found.append(inputs[0]))
    with torch.no_grad():
        layer(torch.stack([*ramps, torch.ones(sizes)])[None])
    return found[0][0]


print("deformable-attention", version("deformable-attention"))
video = read_at_zero_offsets(
    DeformableAttention3D(dim=4, dim_head=4, heads=1, downsample_factor=(2, 4, 4), offset_kernel_size=(4, 6, 6)), (8, 16, 16)
)
# Weights at the edges differ from one; divided by them, the coordinates are right again.
inner = video[:3, 1:3, 1:3, 1:3] / video[3, 1:3, 1:3, 1:3]
for axis, name in enumerate(("time", "y", "x")):
    first, second = (inner.select(axis + 1, place).mean(dim=(1, 2)) for place in (0, 1))
    moved = (second - first).tolist()
    print(f"3D, one step along {name}: time {moved[0]:+.2f}, y {moved[1]:+.2f}, x {moved[2]:+.2f}")
    assert [abs(value) > 1 for value in moved] == [axis == 2, axis == 1, axis == 0], "3D reads other axes now"
wide = read_at_zero_offsets(DeformableAttention2D(dim=3, dim_head=3, heads=1, downsample_factor=4, offset_kernel_size=6), (8, 16))
print("2D, map of 8x16, weight of each point:", [[round(value, 2) for value in row] for row in wide[2].tolist()])
assert bool((wide[2, :, 2:] == 0).all()) and bool((wide[2, :, :2] > 0).all()), "2D reads the whole width now"
PYTHON

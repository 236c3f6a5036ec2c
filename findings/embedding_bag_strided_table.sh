#!/bin/sh
# torch 2.14.1, F.embedding_bag(mode="sum") on a CPU: its fast kernel wants the numbers of a row side by side (stride 1; in EmbeddingBag.cpp
# is_fast_path_index_select_scale). A transposed view goes to a loop on one thread, row after row, with a step between any two numbers; the
# fast kernel would have copied the table by itself. Nothing is said, and the documentation names no such condition. Wrong numbers of such
# tables were mended in 2020 (https://github.com/pytorch/pytorch/issues/43723); about their time nothing was found.
# Seen: five to twelve times the time of a copy and the sum over it, with one thread and with two; the same numbers. Fails if that changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir torch==2.14.1 "numpy>=1.26,<3"
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from collections.abc import Callable
from time import perf_counter

import torch
import torch.nn.functional as F

torch.manual_seed(0)
channels, pixels, points = 64, 56 * 56, 9 * 56 * 56
view = torch.randn(channels, pixels).mT  # the table of an image, a row for each pixel: the numbers of a row lie far apart
rows, weights = torch.randint(0, pixels, (points, 4)), torch.rand(points, 4)


def summed(table: torch.Tensor) -> torch.Tensor:
    """Weighted sums of four rows each."""
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)


def fastest(function: Callable[[], torch.Tensor]) -> float:
    """The shortest of fifteen times, in milliseconds."""
    times = []
    for _ in range(15):
        start = perf_counter()
        function()
        times.append(1000 * (perf_counter() - start))
    return min(times)


assert torch.allclose(summed(view), summed(view.contiguous()), atol=1e-5), "the numbers differ"
ratios = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    slow, copied = fastest(lambda: summed(view)), fastest(lambda: summed(view.contiguous()))
    ratios.append(slow / copied)
    print(f"torch {torch.__version__}, threads {threads}: view {slow:.1f} ms, copied first {copied:.1f} ms, {ratios[-1]:.1f} times")
assert min(ratios) > 2, "a table with other strides is as fast now"
PYTHON

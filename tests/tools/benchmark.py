"""Time and peak memory of deformlib's deformable convolution against torchvision's, in one run: `make benchmark`.

Writes deform.json and deform.md, the layers of the course, and sweep.json and sweep.md, many shapes, the worst first.
Ratios above 1 are in our favour. torchvision has no bfloat16 on a CPU and no offsets for every filter: bfloat16 is
compared with its float32, and one call a filter takes the place of per-filter offsets.
"""

import argparse
import contextlib
import datetime
import json
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from course import processor
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from deformlib.deform import deform_conv2d, per_filter_deform_conv2d, tap_positions
from deformlib.files import atomic_write
from deformlib.progress import show_progress

CASES = {  # [B, C, H, W] -> F, kernel 3 x 3; the deformable steps of a batch are one call
    "paper, layer 1": ((6, 256, 28, 28), 32, False),
    "paper, layers 2 and 3": ((6, 32, 28, 28), 32, False),
    "paper, field per filter": ((2, 256, 28, 28), 32, True),
    "classroom, layer 1": ((48, 64, 12, 12), 16, False),
    "classroom, layers 2 and 3": ((48, 16, 12, 12), 16, False),
    "ResNet stage 1": ((2, 64, 56, 56), 64, False),
    "ResNet stage 3": ((2, 256, 14, 14), 256, False),
}


class Shape(NamedTuple):
    """One row of the sweep: images [B, C, H, W], output filters, and how the kernel lies; padding keeps the size."""

    size: tuple[int, int, int, int]
    filters: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    offset_groups: int = 1
    masked: bool = False

    def __str__(self) -> str:
        """As in the table: only what is not usual."""
        words = [f"{self.kernel}x{self.kernel}"]
        for name in ("stride", "dilation", "groups", "offset_groups"):
            words += [f"{name.replace('_', ' ')} {getattr(self, name)}"] if getattr(self, name) > 1 else []
        words += ["mask"] if self.masked else []
        return ", ".join([f"{list(self.size)} -> {self.filters}", *words])


SWEEP = [
    *(Shape((1, channels, 48, 48), filters) for channels in (1, 3, 8) for filters in (1, 16, 64)),
    *(Shape((32, channels, 16, 16), filters) for channels in (1, 3, 8) for filters in (1, 16, 64)),
    *(Shape((1, 64, 56, 56), filters) for filters in (1, 27, 48, 64, 256)),
    *(Shape((32, 16, 16, 16), filters) for filters in (1, 16, 64)),
    *(Shape((2, 64, 28, 28), 64, kernel) for kernel in (1, 5, 7)),
    *(Shape((1, 64, 56, 56), 64, offset_groups=number) for number in (4, 8, 16)),
    *(Shape((32, 8, 16, 16), 8, offset_groups=number) for number in (4, 8)),
    *(Shape((2, 64, 28, 28), 64, groups=number) for number in (4, 64)),
    Shape((16, 1, 48, 48), 1),
    Shape((8, 3, 64, 64), 16),
    Shape((1, 3, 112, 112), 64, kernel=7, stride=2),
    Shape((2, 128, 28, 28), 128, stride=2),
    Shape((2, 64, 28, 28), 64, dilation=2),
    Shape((1, 64, 65, 65), 64, masked=True),
    Shape((32, 3, 16, 16), 16, masked=True),
    Shape((2, 64, 28, 28), 64, groups=4, offset_groups=8, masked=True),
    Shape((1, 64, 96, 96), 27, offset_groups=8),
    Shape((6, 256, 28, 28), 32),
    Shape((6, 32, 28, 28), 32),
    Shape((2, 256, 14, 14), 256),
    Shape((1, 256, 28, 28), 64, kernel=1),
    Shape((1, 512, 7, 7), 512),
    Shape((2, 512, 14, 14), 512, kernel=1),
]


def theirs(x: Tensor, offset: Tensor, weight: Tensor, padding: int) -> Tensor:
    """torchvision's operator; for per-filter fields, one call a filter."""
    if offset.shape[1] == 18:
        return torchvision.ops.deform_conv2d(x, offset, weight, padding=padding)
    fields = offset.unflatten(1, (9, len(weight), 2)).unbind(2)
    one = [
        torchvision.ops.deform_conv2d(x, field.flatten(1, 2), kernel[None], padding=padding)
        for field, kernel in zip(fields, weight, strict=True)
    ]
    return torch.cat(one, 1)


def ours(x: Tensor, offset: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Our operator, shared or per-filter fields."""
    return (deform_conv2d if offset.shape[1] == 18 else per_filter_deform_conv2d)(x, offset, weight, padding=padding)


def call(operator: Callable, tensors: list[Tensor], gradients: bool) -> None:
    """One forward pass, and if wanted the gradients of input, offset and weight."""
    output = operator(*tensors, padding=1)
    if gradients:
        torch.autograd.grad(output, tensors, torch.ones_like(output))


def tensors(shape: tuple[int, ...], filters: int, per_filter: bool, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Random input, offset (one pixel far, float32) and weight."""
    torch.manual_seed(0)
    batch, channels, *size = shape
    drawn = [
        torch.randn(shape),
        torch.randn(batch, 18 * (filters if per_filter else 1), *size),
        torch.randn(filters, channels, 3, 3) / (9 * channels) ** 0.5,
    ]
    types = [dtype, torch.float32, dtype]
    return [tensor.to(device, kind).requires_grad_() for tensor, kind in zip(drawn, types, strict=True)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes that the profiler writes straight to the error stream."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def peak(run: Callable[[], None], device: str) -> int:
    """Most bytes that a call holds at one time, beyond its arguments."""
    if device != "cpu":
        run()  # warm up
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    allocated = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            allocated += event.nbytes()
            most = max(most, allocated)
    return most


def seconds(run: Callable[[], None], device: str, repeats: int, limit: float = 4) -> float:
    """The shortest of some calls within `limit` seconds: of the processor on one thread, otherwise on the wall."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best, begun = float("inf"), time.perf_counter()
    for _ in range(repeats):
        start = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
        if time.perf_counter() - begun > limit:
            break
    return best


def measure(run: Callable[[], None], device: str = "cpu", repeats: int = 15, limit: float = 4) -> dict[str, float]:
    """Peak megabytes ("mb") and shortest milliseconds ("ms") of a call; see `peak` and `seconds`."""
    return {"mb": peak(run, device) / 2**20, "ms": 1e3 * seconds(run, device, repeats, limit)}


def where_measured(device: str, dtype: torch.dtype, threads: int) -> str:
    """Where and in what a row was measured, in words."""
    words = f"{device} {str(dtype).removeprefix('torch.')}"
    return words + (f", {threads} thread" + "s" * (threads > 1)) * (device == "cpu")


def ratios(word: str, mine: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Both measurements and how many times better ours is, as entries of a row whose names begin with `word`."""
    row = {}
    for unit, quantity in (("ms", "time"), ("mb", "memory")):
        row |= {f"{word}_{unit}": round(mine[unit], 3), f"{word}_their_{unit}": round(other[unit], 3)}
        row |= {f"{word}_{quantity}": round(other[unit] / mine[unit], 2)}
    return row


def markdown(columns: dict[str, str], rows: list[dict]) -> str:
    """A table of rows, with the columns {entry of a row: heading} chosen."""

    def cell(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

    lines = ["| " + " | ".join(columns.values()) + " |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(cell(row[entry]) for entry in columns) + " |" for row in rows]) + "\n"


def store(folder: Path, name: str, title: str, found: dict, tables: list[str]) -> str:
    """Write what was found, and the machine, to name.json, and the tables to name.md; returns the latter."""
    from deformlib.paper.study import machine

    record = machine(1) | {"date": datetime.date.today().isoformat(), "processor": processor()} | found
    record["versions"]["torchvision"] = torchvision.__version__
    where = f"{record['device']}, {record['processor']}, torch {record['versions']['torch']}"
    where += f", {record['date']}, commit {record['commit']}"
    text = "\n".join([f"{title}; {where}.\n", *tables])
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in ((f"{name}.json", json.dumps(record, indent=1) + "\n"), (f"{name}.md", text)):
        with atomic_write(folder / file) as beside:
            beside.write_text(content, encoding="utf-8")
    return text


def compare(device: str, threads: int, known: dict, bar: tqdm) -> Iterator[dict]:
    """All cases on one device, with their ratios. known: torchvision's numbers on a CPU: it always uses one thread."""
    torch.set_num_threads(threads)
    for name, (shape, filters, per_filter) in CASES.items():
        found = {}
        for operator, dtype in ((theirs, torch.float32), (ours, torch.float32), (ours, torch.bfloat16)):
            bar.set_postfix_str(f"{name}, {device}")
            arguments = tensors(shape, filters, per_filter, device, dtype)
            for both in (False, True):
                key = name, device, operator is theirs, dtype, both
                if key not in known:
                    found[key] = measure(
                        partial(call, operator, arguments, both), device, 3 if operator is theirs else 15
                    )
            bar.update()
        known |= {key: value for key, value in found.items() if key[2]}
        for dtype in (torch.float32, torch.bfloat16):
            size = f"{list(shape)} -> {filters}"
            row = {
                "case": name,
                "size": size,
                "per_filter": per_filter,
                "where": where_measured(device, dtype, threads),
            }
            for word, both in (("forward", False), ("both", True)):
                mine, other = found[name, device, False, dtype, both], known[name, device, True, torch.float32, both]
                row |= ratios(word, mine, other)
            yield row


def grid_columns(
    x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None = None, **geometry: int | tuple[int, int]
) -> Tensor:
    """The usual way in plain PyTorch: the columns of all images by one `F.grid_sample`, and one matrix product."""
    kernel_size = (weight.shape[2], weight.shape[3])
    points = tap_positions(offset, kernel_size, **geometry)  # [B, G, K, 2, H', W']
    batch, offset_groups, taps, _, *out = points.shape
    size = torch.tensor(x.shape[2:], device=x.device, dtype=points.dtype).view(2, 1, 1)
    grid = ((2 * points + 1) / size - 1).flip(3).movedim(3, 5).flatten(0, 1).flatten(1, 2)  # [B * G, K * H', W', 2]
    maps = x.unflatten(1, (offset_groups, -1)).flatten(0, 1)  # [B * G, C / G, H, W]
    columns = F.grid_sample(maps, grid, align_corners=False).view(batch, offset_groups, -1, taps, *out)
    if mask is not None:
        columns = columns * mask.view(batch, offset_groups, 1, taps, *out)
    groups = x.shape[1] // weight.shape[1]
    columns = columns.reshape(batch, groups, -1, out[0] * out[1])  # [B, groups, C / groups * K, H' * W']
    return (weight.flatten(1).unflatten(0, (groups, -1)) @ columns).view(batch, len(weight), *out)


def draw(shape: Shape, device: str, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, int]]:
    """Random input, offset (one pixel far, float32), weight and perhaps a mask, and the geometry to go with them."""
    torch.manual_seed(0)
    batch, channels, *size = shape.size
    taps, padding = shape.kernel**2, shape.dilation * (shape.kernel // 2)
    out = [(length - 1) // shape.stride + 1 for length in size]
    drawn = [
        torch.randn(shape.size).to(dtype),
        torch.randn(batch, 2 * shape.offset_groups * taps, *out),
        (torch.randn(shape.filters, channels // shape.groups, *2 * [shape.kernel]) / (taps * channels) ** 0.5).to(
            dtype
        ),
    ]
    drawn += [torch.rand(batch, shape.offset_groups * taps, *out)] if shape.masked else []
    geometry = {"stride": shape.stride, "padding": padding, "dilation": shape.dilation}
    return [tensor.to(device).requires_grad_() for tensor in drawn], geometry


def both_passes(operator: Callable, arguments: list[Tensor], geometry: dict[str, int], gradients: bool) -> Tensor:
    """The output, after the gradients of all arguments if wanted."""
    x, offset, weight, *mask = arguments
    with torch.set_grad_enabled(gradients):
        output = operator(x, offset, weight, mask=mask[0] if mask else None, **geometry)
    if gradients:
        torch.autograd.grad(output, arguments, torch.ones_like(output))
    return output


def sweep(device: str, threads: int, known: dict, shapes: list[Shape], bar: tqdm) -> Iterator[dict]:
    """Many shapes on one device: ours in two types against torchvision and plain PyTorch. known: as in `compare`."""
    torch.set_num_threads(threads)
    for shape in shapes:
        bar.set_postfix_str(f"{shape}, {device}")
        for operator in (torchvision.ops.deform_conv2d, grid_columns):
            for both in (False, True):
                key = shape, device, operator, both, threads if operator is grid_columns else 1
                if key not in known:
                    run = partial(both_passes, operator, *draw(shape, device, torch.float32), both)
                    known[key] = measure(run, device, 3, 0.3)
        for dtype in (torch.float32, torch.bfloat16):
            row = {"shape": str(shape), "where": where_measured(device, dtype, threads)}
            arguments, geometry = draw(shape, device, dtype)
            for word, both in (("forward", False), ("both", True)):
                mine = measure(partial(both_passes, deform_conv2d, arguments, geometry, both), device, 10, 0.3)
                row |= ratios(word, mine, known[shape, device, torchvision.ops.deform_conv2d, both, 1])
            row |= ratios("columns", mine, known[shape, device, grid_columns, True, threads])
            yield row
        bar.update()


COLUMNS = {
    "case": "case",
    "size": "[B, C, H, W] -> F",
    "where": "on",
    "forward_time": "forward, time",
    "forward_memory": "memory",
    "both_time": "with gradients, time",
    "both_memory": "memory",
}

SWEEP_COLUMNS = {
    "shape": "[B, C, H, W] -> F, kernel",
    "where": "on",
    "forward_time": "forward, time",
    "forward_memory": "memory",
    "both_time": "with gradients, time",
    "both_memory": "memory",
    "columns_time": "against plain PyTorch, with gradients, time",
    "columns_memory": "memory",
    "both_ms": "ours, ms",
    "both_their_ms": "torchvision, ms",
    "columns_their_ms": "plain PyTorch, ms",
}


def main(words: list[str] | None = None) -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    parser.add_argument("--quick", action="store_true", help="two small shapes of the sweep only, to see that it runs")
    given = parser.parse_args(words)
    folder = given.folder
    places = [("cpu", threads) for threads in sorted({1, torch.get_num_threads()})]
    places += [("cuda", torch.get_num_threads())] if torch.cuda.is_available() else []
    known: dict = {}
    shapes = [Shape((2, 3, 7, 6), 2), Shape((1, 4, 6, 6), 4, 1, 2, 1, 2, 2, True)] if given.quick else SWEEP
    with show_progress(total=len(shapes) * len(places), desc="sweep") as bar:
        rows = [row for device, threads in places for row in sweep(device, threads, known, shapes, bar)]
    rows.sort(key=lambda row: min(row["forward_time"] / 1.2, row["both_time"] / 1.5))  # the least that we want of each
    title = f"{len(shapes)} shapes, ours against torchvision.ops.deform_conv2d, times better, the worst first"
    text = store(folder, "sweep", title, {"results": rows}, [markdown(SWEEP_COLUMNS, rows)])
    if given.quick:
        return
    print(text)
    with show_progress(total=3 * len(CASES) * len(places), desc="benchmark") as bar:
        rows = [row for device, threads in places for row in compare(device, threads, known, bar)]
    title = "Ours against torchvision.ops.deform_conv2d, times better"
    print(store(folder, "deform", title, {"results": rows}, [markdown(COLUMNS, rows)]))


if __name__ == "__main__":
    main()

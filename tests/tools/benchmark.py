"""Time and peak memory of deformlib's deformable convolution against torchvision's, in one run: `make benchmark`.

Writes deform.json and deform.md. Ratios above 1 are in our favour. torchvision has no bfloat16 on a CPU and no offsets
for every filter: bfloat16 is compared with its float32, and one call a filter takes the place of per-filter offsets.
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

import torch
import torchvision
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from deformlib.deform import deform_conv2d, per_filter_deform_conv2d
from deformlib.files import atomic_write

CASES = {  # [B, C, H, W] -> F, kernel 3 x 3; the deformable steps of a batch are one call
    "paper, layer 1": ((6, 256, 28, 28), 32, False),
    "paper, layers 2 and 3": ((6, 32, 28, 28), 32, False),
    "paper, field per filter": ((2, 256, 28, 28), 32, True),
    "classroom, layer 1": ((48, 64, 12, 12), 16, False),
    "classroom, layers 2 and 3": ((48, 16, 12, 12), 16, False),
    "ResNet stage 1": ((2, 64, 56, 56), 64, False),
    "ResNet stage 3": ((2, 256, 14, 14), 256, False),
}


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


def seconds(run: Callable[[], None], device: str, repeats: int) -> float:
    """The shortest of some calls: processor time on one thread of a CPU, otherwise time on the wall."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    best, begun = float("inf"), time.perf_counter()
    for _ in range(repeats):
        start = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, clock() - start)
        if time.perf_counter() - begun > 4:
            break
    return best


def measure(run: Callable[[], None], device: str = "cpu", repeats: int = 15) -> dict[str, float]:
    """Peak megabytes ("mb") and shortest milliseconds ("ms") of a call; see `peak` and `seconds`."""
    return {"mb": peak(run, device) / 2**20, "ms": 1e3 * seconds(run, device, repeats)}


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

    record = machine(1) | {"date": datetime.date.today().isoformat()} | found
    record["versions"]["torchvision"] = torchvision.__version__
    where = f"{record['device']}, torch {record['versions']['torch']}, {record['date']}, commit {record['commit']}"
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


COLUMNS = {
    "case": "case",
    "size": "[B, C, H, W] -> F",
    "where": "on",
    "forward_time": "forward, time",
    "forward_memory": "memory",
    "both_time": "with gradients, time",
    "both_memory": "memory",
}


def main(words: list[str] | None = None) -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    folder = parser.parse_args(words).folder
    places = [("cpu", threads) for threads in sorted({1, torch.get_num_threads()})]
    places += [("cuda", torch.get_num_threads())] if torch.cuda.is_available() else []
    known: dict = {}
    with tqdm(total=3 * len(CASES) * len(places), desc="benchmark") as bar:
        rows = [row for device, threads in places for row in compare(device, threads, known, bar)]
    title = "Ours against torchvision.ops.deform_conv2d, times better"
    print(store(folder, "deform", title, {"results": rows}, [markdown(COLUMNS, rows)]))


if __name__ == "__main__":
    main()

"""The recurrent stack and a whole training step against a naive network of common parts, in one run: `make benchmark`.

Writes network.json and network.md. The naive network has an ordinary 3D part, a convolution of x_t and one of h at
every step, and torchvision's deformable convolution at every chosen step; it holds the same weights and is checked to
give the same logits. Ratios above 1 are in our favour. torchvision has no bfloat16 on a CPU: bfloat16 is compared with
its float32. On a CPU both networks are measured twice in float32: as in a loop of one's own, and, from there on, where
the memory that a step frees is kept for the next, as `fit` does. A step is compared with the naive one in that state.
"""

import argparse
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from benchmark import markdown, peak, seconds, store
from naive_network import MOVES, NaiveNet, Stack
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from deformlib.fast.memory import keep_freed_memory
from deformlib.network import NetworkConfig, VideoNet, paper_steps, preset
from deformlib.paper.study import multiply_adds
from deformlib.progress import show_progress

EPOCHS, TRAIN, VALIDATION = 50, 7242, 1810  # the paper's protocol on the 9052 copies
KEPT = "naive, memory kept"  # by the C library, from one step to the next
TOLERANCE = {"cpu": 1e-3, "cuda": 2e-2}  # a GPU multiplies float32 in convolutions with 10 bits unless told otherwise


def both_ways(module: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Forward and all gradients, that of `x` only if it wants one."""
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
        output = module(x)
    wanted = [tensor for tensor in (x, *module.parameters()) if tensor.requires_grad]
    torch.autograd.grad(output, wanted, torch.ones_like(output))


def train_step(
    net: nn.Module, optimizer: torch.optim.Optimizer, clips: Tensor, labels: Tensor, dtype: torch.dtype
) -> None:
    """One step of training as the paper's protocol has it."""
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(clips.device.type, dtype=dtype, enabled=dtype != torch.float32):
        loss = F.cross_entropy(net(clips), labels)
    loss.backward()
    optimizer.step()


def predict(net: nn.Module, clips: Tensor, dtype: torch.dtype) -> None:
    """Logits only."""
    with torch.no_grad(), torch.autocast(clips.device.type, dtype=dtype, enabled=dtype != torch.float32):
        net(clips)


def measured(run: Callable[[], None], device: str, repeats: int) -> dict:
    """Seconds and peak megabytes of a call; the call under the memory profiler warms it up."""
    gc.collect()
    memory = peak(run, device) / 2**20
    if device != "cpu":
        torch.cuda.synchronize()
    return {"seconds": seconds(run, device, repeats), "mb": memory}


def in_turns(runs: list[Callable[[], None]], device: str, repeats: int) -> list[dict]:
    """`measured` for each of some calls; they take turns, so that a slow moment of the machine meets all of them."""
    found = [measured(run, device, 1) for run in runs]
    for _ in range(repeats - 1):
        for row, run in zip(found, runs, strict=True):
            row["seconds"] = min(row["seconds"], seconds(run, device, 1))
    return found


def ratios(naive: dict, found: dict) -> dict:
    """How many times better than naive."""
    return {"time": naive["seconds"] / found["seconds"], "memory": naive["mb"] / found["mb"]}


def offsets_of_a_pixel(module: nn.Module) -> None:
    """Offset branches as after some training: looks about a pixel away."""
    for name, parameter in module.named_parameters():
        if name.endswith("offset_branch.bias"):
            nn.init.normal_(parameter)


def kinds(device: str) -> list[torch.dtype]:
    """float32, and bfloat16 where the device computes with it."""
    fast = device != "cpu" or getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return [torch.float32, torch.bfloat16] if fast else [torch.float32]


def stacks(config: NetworkConfig, batch: int, device: str, repeats: int, bar: tqdm) -> Iterator[dict]:
    """Every move on the recurrent stack alone, deformable and plain, forward and backward."""
    shape = (batch, config.conv3d[-1], config.steps, config.map_size, config.map_size)
    for name, steps in (("deformable", config.deform_steps), ("plain", ((),) * len(config.hidden))):
        torch.manual_seed(0)
        stack = Stack(replace(config, deform_steps=steps)).to(device)
        offsets_of_a_pixel(stack)
        x = torch.randn(shape, device=device).to(memory_format=torch.channels_last_3d).requires_grad_()
        with torch.no_grad():
            expected = stack(x)
        naive: dict = {}
        for moves, move in enumerate(MOVES):
            if name == "plain" and moves in (3, 4) or moves == len(MOVES) - 1 and len(kinds(device)) == 1:
                continue
            stack.moves, dtype = moves, kinds(device)[moves == len(MOVES) - 1]
            if dtype == torch.float32:
                with torch.no_grad():
                    same = torch.allclose(stack(x), expected, atol=TOLERANCE[device])
                assert same, f"{move}: other numbers than the naive stack"
            found = measured(partial(both_ways, stack, x, dtype), device, repeats)
            naive = naive or found
            yield {"where": device, "steps": name, "move": move} | found | ratios(naive, found)
            bar.update()
            bar.set_postfix_str(f"{name}: {move}, {device}")


def whole_steps(config: NetworkConfig, batch: int, device: str, repeats: int, bar: tqdm) -> Iterator[dict]:
    """A training step of the naive network and of ours, and their predictions."""
    torch.manual_seed(0)
    net = VideoNet(config).to(device)
    offsets_of_a_pixel(net)
    naive_net = NaiveNet(net).to(device)
    clips = torch.rand(batch, config.in_channels, config.length, config.size, config.size, device=device)
    labels = torch.arange(batch, device=device) % config.classes
    with torch.no_grad():
        same = torch.allclose(net.eval()(clips), naive_net.eval()(clips), atol=TOLERANCE[device])
    assert same, "other logits than the naive network"
    single, ours = torch.float32, [("ours", net, dtype) for dtype in kinds(device)]
    groups = [[("naive", naive_net, single), *ours]]  # each is compared with its first
    if device == "cpu":
        groups = [
            [("naive", naive_net, single), ("ours, memory not kept", net, single)],
            [(KEPT, naive_net, single), *ours],
        ]
    for group in groups:
        if group[0][0] == KEPT:
            keep_freed_memory()  # as fit does on a CPU; it cannot be taken back
        optimizers = [torch.optim.RMSprop(module.parameters(), lr=0.0) for _, module, _ in group]  # only the work
        runs = [
            partial(train_step, module.train(), optimizer, clips, labels, dtype)
            for (_, module, dtype), optimizer in zip(group, optimizers, strict=True)
        ]
        found = in_turns(runs, device, repeats)
        for (name, module, dtype), row in zip(group, found, strict=True):
            predicting = seconds(partial(predict, module.eval(), clips, dtype), device, repeats)
            yield {
                "where": device,
                "network": name,
                "dtype": str(dtype).removeprefix("torch."),
                "batch": batch,
                **row,
                **ratios(found[0], row),
                "clips_per_second": batch / row["seconds"],
                "predict_seconds": predicting,
                "protocol_minutes": EPOCHS * (TRAIN * row["seconds"] + VALIDATION * predicting) / batch / 60,
            }
            bar.update()
            bar.set_postfix_str(f"training step: {name}, {device}")


class Recurrent(nn.Sequential):
    """A ConvLSTM and its batch norm as one stage: maps in, maps out."""

    def forward(self, x: Tensor) -> Tensor:
        layer, norm = self
        return F.leaky_relu(norm(layer(x)[0]), 0.2, inplace=True)


def stages_of(net: VideoNet) -> dict[str, nn.Module]:
    """The stages as modules, each from its convolution to its pooling."""
    parts = {f"conv3d {k}": net.conv3d.layers[a:b] for k, (a, b) in enumerate(((0, 3), (3, 7), (7, 10)), 1)}
    parts |= {f"ConvLSTM {k}": Recurrent(*pair) for k, pair in enumerate(zip(net.recurrent, net.norms, strict=True), 1)}
    return parts | {f"conv2d {k}": net.conv2d[4 * k - 4 : 4 * k] for k in (1, 2, 3)} | {"linear": net.linear}


def stages(
    config: NetworkConfig, batch: int, device: str, repeats: int, bar: tqdm, dtype: torch.dtype = torch.float32
) -> Iterator[dict]:
    """Milliseconds of every stage of ours for one training clip, both ways, and the numbers it takes and gives."""
    torch.manual_seed(0)
    net = VideoNet(config).to(device)
    offsets_of_a_pixel(net)
    x = torch.rand(batch, config.in_channels, config.length, config.size, config.size, device=device)
    for name, part in stages_of(net).items():
        x = x.transpose(1, 2).flatten(0, 1) if name == "conv2d 1" else x
        x = x.mean((2, 3)).unflatten(0, (batch, -1)).mean(1) if name == "linear" else x
        x = x.detach().requires_grad_(name != "conv3d 1")
        run = partial(both_ways, part, x, dtype)
        run()  # warm up
        row = {"where": device, "stage": name, "ms": 1e3 * seconds(run, device, repeats) / batch}
        taken = x.numel()
        with torch.no_grad():
            x = part(x)
        yield row | {"numbers": (taken + x.numel()) // batch}
        bar.update()
        bar.set_postfix_str(f"{name}, {device}")


def forms_of_conv3d(config: NetworkConfig, batch: int, device: str, repeats: int, bar: tqdm) -> Iterator[dict]:
    """The 3D part alone, forward and backward, in three forms that give the same numbers; two of them in bfloat16 too,
    where the device computes with it.
    """
    torch.manual_seed(0)
    net = VideoNet(config).to(device)
    first, last = (NaiveNet(net).to(device).conv3d for _ in range(2))
    forms = {
        "ordinary convolutions": first,
        "ordinary convolutions, channels last": last.to(memory_format=torch.channels_last_3d),
        "Winograd where it pays, channels last: ours": net.conv3d,
    }
    x = torch.rand(batch, config.in_channels, config.length, config.size, config.size, device=device)
    runs = [(form, module, torch.float32) for form, module in forms.items()]
    for dtype in kinds(device)[1:]:
        name = str(dtype).removeprefix("torch.")
        runs += [(f"{form}, {name}", module, dtype) for form, module in list(forms.items())[1:]]
    naive: dict = {}
    for form, module, dtype in runs:
        found = measured(partial(both_ways, module, x, dtype), device, repeats)
        naive = naive or found
        yield {"where": device, "form": form} | found | ratios(naive, found)
        bar.update()
        bar.set_postfix_str(f"{form}, {device}")


def scaling(config: NetworkConfig, quick: bool, device: str, dtype: torch.dtype, bar: tqdm) -> Iterator[dict]:
    """Our training step at other clip lengths, frame sizes and batches, one changed at a time."""
    base = {"length": config.length, "size": config.size, "batch": 2}
    values = {"length": (8, 16, 32, 48), "size": (32, 56, 80, 112, 136), "batch": (1, 2, 3, 4)}
    values = {key: some[:2] for key, some in values.items()} if quick else values
    seen = []
    for point in [base | {key: value} for key, some in values.items() for value in some]:
        if point in seen:
            continue
        seen.append(point)
        length, size, batch = point.values()
        net = VideoNet(replace(config, length=length, size=size, deform_steps=paper_steps(length // 2))).to(device)
        clips = torch.rand(batch, config.in_channels, length, size, size, device=device)
        labels, optimizer = torch.zeros(batch, dtype=torch.long, device=device), torch.optim.RMSprop(net.parameters())
        found = measured(partial(train_step, net, optimizer, clips, labels, dtype), device, 1)
        kind = str(dtype).removeprefix("torch.")
        yield {"where": device, "dtype": kind} | point | {"seconds": found["seconds"], "memory": found["mb"]}
        bar.update()
        bar.set_postfix_str(f"training step: {point}")


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a square matrix product: the best that arithmetic can do on this device."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    run = partial(torch.matmul, a, b)
    run()
    return 2 * size**3 / seconds(run, device, 5)


def matrix_size(device: str, quick: bool) -> int:
    """Rows of the matrices whose product is timed: many enough to reach the best rate, unless only a try is wanted."""
    return 256 if quick else 2048 if device == "cpu" else 8192


def floors(config: NetworkConfig, quick: bool, device: str) -> Iterator[dict]:
    """Minutes of the paper's protocol if every multiply-add ran at the rate of a matrix product."""
    flops = 2 * multiply_adds(VideoNet(config))
    for dtype in kinds(device):
        rate = matrix_rate(device, dtype, matrix_size(device, quick))
        minutes = EPOCHS * (3 * TRAIN + VALIDATION) * flops / rate / 60
        yield {
            "where": device,
            "dtype": str(dtype).removeprefix("torch."),
            "forward_gflop": flops / 1e9,
            "matrix_gflops": rate / 1e9,
            "floor_minutes": minutes,
        }


def tables(found: dict[str, list]) -> list[str]:
    """The record as markdown, one table for each list in it."""
    floor = {(row["where"], row["dtype"]): row["floor_minutes"] for row in found["floor"]}
    steps = [row | {"floor": floor[row["where"], row["dtype"]]} for row in found["step"]]
    cost = {"seconds": "seconds", "time": "time", "mb": "MB", "memory": "memory"}
    minutes = {"protocol_minutes": "paper's protocol, minutes", "floor": "its ordinary arithmetic at the matrix rate"}
    step = {"network": "training step", "dtype": "in", "where": "on", "batch": "batch"}
    point = {"length": "our training step: frames", "size": "pixels", "batch": "batch", "where": "on", "dtype": "in"}
    return [
        markdown({"move": "recurrent stack, both ways", "steps": "steps", "where": "on"} | cost, found["stack"]),
        markdown({"form": "3D part, both ways", "where": "on"} | cost, found["conv3d"]),
        markdown({"stage": "stage, both ways", "where": "on", "ms": "milliseconds a clip"}, found["stages"]),
        markdown(step | cost | {"clips_per_second": "clips a second"} | minutes, steps),
        markdown(point | {"seconds": "seconds", "memory": "MB"}, found["scaling"]),
    ]


def rounded(value: object) -> object:
    """Floats to four digits, inside lists and dicts too."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main(words: list[str] | None = None) -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    parser.add_argument(
        "--quick", action="store_true", help="a small network, to see that it runs: the numbers mean nothing"
    )
    arguments = parser.parse_args(words)
    config, batch, repeats = preset("paper"), 2, 3
    if arguments.quick:
        small = {"length": 8, "size": 32, "deform_steps": paper_steps(4), "conv3d": (8, 16, 32), "conv2d": (16, 16, 16)}
        config, repeats = replace(config, **small), 1
    found: dict[str, list] = {"stack": [], "conv3d": [], "stages": [], "step": [], "scaling": [], "floor": []}
    with show_progress(desc="benchmark") as bar:
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            found["stack"] += stacks(config, batch, device, repeats, bar)
            found["conv3d"] += forms_of_conv3d(config, batch, device, repeats, bar)
            found["stages"] += stages(config, batch, device, repeats, bar)
            found["step"] += whole_steps(config, batch, device, repeats, bar)
            if device == "cuda":
                found["step"] += whole_steps(config, 16, device, repeats, bar)
            found["scaling"] += scaling(config, arguments.quick, device, kinds(device)[-1], bar)
            found["floor"] += floors(config, arguments.quick, device)
    sizes = {"length": config.length, "size": config.size, "batch": batch}
    clips = f"Clips of {config.length} frames of {config.size} pixels, batch {batch}"
    title = f"{clips}; time and memory: times better than naive"
    found = rounded(found)
    print(store(arguments.folder, "network", title, {"config": sizes} | found, tables(found)))


if __name__ == "__main__":
    main()

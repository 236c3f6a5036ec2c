"""The recurrent stack and a whole training step against a naive network of common parts, in one run: `make benchmark`.

Writes network.json and network.md. The naive network has an ordinary 3D part, a convolution of x_t and one of h at every
step, and torchvision's deformable convolution at every chosen step; it holds the same weights and is checked to give the same
logits. Ratios above 1 are in our favour. torchvision has no bfloat16 on a CPU: bfloat16 is compared with its float32.
"""

import argparse
import datetime
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torchvision
from benchmark import peak, seconds
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from deformlib.bodies import replacing
from deformlib.convlstm import ConvLSTM
from deformlib.deform import deform_conv2d
from deformlib.network import NetworkConfig, VideoNet, paper_steps, preset
from deformlib.study import machine

MOVES = (  # from public code to the library's class; each keeps the ones before
    "naive: a cell for one step, and a loop",
    "frames taken apart once",
    "plain input convolutions in one call",
    "deformable input convolutions in one call",
    "the deformable convolution of chapter 06",
    "the input's part of the gates for all steps: ConvLSTM",
    "ConvLSTM in bfloat16",
)
EPOCHS, TRAIN, VALIDATION = 50, 7242, 1810  # the paper's protocol on the 9052 copies


def cell(layer: ConvLSTM, a: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step as the formulas of chapter 08 say it, gates on means."""
    g = torch.tanh(a + F.conv2d(h, layer.state_conv.weight, padding=1) + layer.B)

    def gate(name: str) -> Tensor:
        value = layer.w_x[name] * a.mean((2, 3)) + layer.w_h[name] * h.mean((2, 3)) + layer.b[name]
        return torch.sigmoid(value)[:, :, None, None]

    c = gate("f") * c + gate("i") * g
    return gate("o") * torch.tanh(c), c


def walk(layer: ConvLSTM, x: Tensor, moves: int) -> Tensor:
    """The layer's hidden states [B, F, T, H, W], computed with the first so many of MOVES done; 0 is naive."""
    if moves > 4:
        return layer(x)[0]
    steps, chosen, kernel = range(x.shape[2]), layer.deform_steps, layer.input_conv.weight
    frames = x.unbind(2) if moves else None

    def convolve(images: Tensor) -> Tensor:
        return F.conv2d(images, kernel, padding=1)

    def deform(images: Tensor) -> Tensor:
        operator = deform_conv2d if moves > 3 else torchvision.ops.deform_conv2d
        return operator(images, layer.input_conv.offset_branch(images), kernel, padding=1)

    maps = {}
    groups = [(convolve, [step for step in steps if step not in chosen]), (deform, list(chosen))]
    for operator, group in groups[: max(moves - 1, 0)]:
        if group:
            together = operator(torch.cat([frames[step] for step in group]))
            maps |= zip(group, together.chunk(len(group)), strict=True)
    h = c = x.new_zeros(len(x), len(kernel), *x.shape[3:])
    hidden = []
    for step in steps:
        if step in maps:
            a = maps[step]
        else:
            x_t = frames[step] if moves else x[:, :, step]
            a = (deform if step in chosen else convolve)(x_t)
        h, c = cell(layer, a, h, c)
        hidden.append(h)
    return torch.stack(hidden, 2)


class Stack(nn.Module):
    """The three ConvLSTM layers of a configuration, with LeakyReLU between them."""

    def __init__(self, config: NetworkConfig, moves: int = 0) -> None:
        super().__init__()
        widths = (config.conv3d[-1], *config.hidden)
        pairs = zip(widths, config.hidden, config.deform_steps, strict=False)
        self.layers = nn.ModuleList(ConvLSTM(before, width, deform_steps=steps) for before, width, steps in pairs)
        self.moves = moves

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = F.leaky_relu(walk(layer, x, self.moves), 0.2)
        return x


class NaiveNet(nn.Module):
    """The network of chapter 09 from common parts, with the weights of `net`."""

    def __init__(self, net: VideoNet) -> None:
        super().__init__()
        config = net.config
        norm = {"eps": 1e-3, "momentum": config.norm_momentum}
        one, two, three = config.conv3d
        conv = partial(nn.Conv3d, kernel_size=3, padding=1, bias=False)
        self.conv3d = nn.Sequential(
            *(conv(config.in_channels, one), nn.LeakyReLU(0.2), nn.MaxPool3d((1, 2, 2))),
            *(conv(one, two), nn.BatchNorm3d(two, **norm), nn.LeakyReLU(0.2), nn.MaxPool3d(2)),
            *(conv(two, three), nn.BatchNorm3d(three, **norm), nn.LeakyReLU(0.2)),
        )
        self.recurrent = Stack(config).layers
        self.norms = nn.ModuleList(nn.BatchNorm3d(width, **norm) for width in config.hidden)
        self.conv2d = nn.Sequential()
        for before, width in zip((config.hidden[-1], *config.conv2d), config.conv2d, strict=False):
            conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
            self.conv2d.extend(
                [conv, nn.BatchNorm2d(width, **norm), nn.LeakyReLU(0.2), nn.AvgPool2d(2, ceil_mode=True)]
            )
        self.linear = nn.Linear(config.conv2d[-1], config.classes)
        for mine, theirs in zip(self.state_dict().values(), net.state_dict().values(), strict=True):
            mine.copy_(theirs)

    def forward(self, clips: Tensor) -> Tensor:
        x = self.conv3d(clips)
        for layer, norm in zip(self.recurrent, self.norms, strict=True):
            x = F.leaky_relu(norm(walk(layer, x, 0)), 0.2)
        maps = [self.conv2d(x[:, :, step]).mean((2, 3)) for step in range(x.shape[2])]
        return self.linear(torch.stack(maps, 1).mean(1))


def both_ways(module: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Forward and all gradients."""
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
        output = module(x)
    torch.autograd.grad(output, [x, *module.parameters()], torch.ones_like(output))


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
    return {"seconds": seconds(run, device, repeats), "mb": memory}


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
                    assert torch.allclose(stack(x), expected, atol=1e-3), f"{move}: other numbers than the naive stack"
            found = measured(partial(both_ways, stack, x, dtype), device, repeats)
            naive = naive or found
            yield {"where": device, "steps": name, "move": move} | found | ratios(naive, found)
            bar.update()
            bar.set_postfix_str(f"{name}: {move}, {device}")


def whole_steps(config: NetworkConfig, batch: int, device: str, repeats: int, bar: tqdm) -> Iterator[dict]:
    """A training step of the naive network and of ours, and our prediction."""
    torch.manual_seed(0)
    net = VideoNet(config).to(device)
    offsets_of_a_pixel(net)
    naive_net = NaiveNet(net).to(device)
    clips = torch.rand(batch, config.in_channels, config.length, config.size, config.size, device=device)
    labels = torch.arange(batch, device=device) % config.classes
    with torch.no_grad():
        same = torch.allclose(net.eval()(clips), naive_net.eval()(clips), atol=1e-3)
    assert same, "other logits than the naive network"
    networks, naive = [("naive", naive_net, torch.float32)], {}
    networks += [("ours", net, dtype) for dtype in kinds(device)]
    for name, module, dtype in networks:
        optimizer = torch.optim.RMSprop(module.parameters(), lr=0.0)  # the weights stay, the work does not
        found = measured(partial(train_step, module.train(), optimizer, clips, labels, dtype), device, repeats)
        naive = naive or found
        predicting = seconds(partial(predict, module.eval(), clips, dtype), device, repeats)
        yield {
            "where": device,
            "network": name,
            "dtype": str(dtype).removeprefix("torch."),
            "batch": batch,
            **found,
            **ratios(naive, found),
            "clips_per_second": batch / found["seconds"],
            "predict_seconds": predicting,
            "protocol_minutes": EPOCHS * (TRAIN * found["seconds"] + VALIDATION * predicting) / batch / 60,
        }
        bar.update()
        bar.set_postfix_str(f"training step: {name}, {device}")


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


def forward_flops(config: NetworkConfig) -> int:
    """Arithmetic of one clip, forward, two for a multiply-add: convolutions only, bilinear reading left out."""
    area, length, steps = config.size**2, config.length, config.steps
    one, two, three = config.conv3d
    total = 27 * (
        config.in_channels * one * length * area + one * two * length * area // 4 + two * three * steps * area // 16
    )
    before, positions = three, config.map_size**2
    for width, chosen in zip(config.hidden, config.deform_steps, strict=True):
        total += 9 * positions * (steps * width * (before + width) + len(chosen) * 18 * before)
        before = width
    side = config.map_size
    for width in config.conv2d:
        total += 9 * before * width * steps * side**2
        before, side = width, -(-side // 2)
    return 2 * total


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of a square matrix product: the best that arithmetic can do on this device."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    run = partial(torch.matmul, a, b)
    run()
    return 2 * size**3 / seconds(run, device, 5)


def floors(config: NetworkConfig, device: str) -> Iterator[dict]:
    """Minutes of the paper's protocol if every multiplication ran at the rate of a matrix product."""
    flops = forward_flops(config)
    for dtype in kinds(device):
        rate = matrix_rate(device, dtype, 2048 if device == "cpu" else 8192)
        minutes = EPOCHS * (3 * TRAIN + VALIDATION) * flops / rate / 60
        yield {
            "where": device,
            "dtype": str(dtype).removeprefix("torch."),
            "forward_gflop": flops / 1e9,
            "matrix_gflops": rate / 1e9,
            "floor_minutes": minutes,
        }


def table(record: dict) -> str:
    """The record as markdown."""
    config, floor = record["config"], {(row["where"], row["dtype"]): row for row in record["floor"]}
    clips = f"Clips of {config['length']} frames of {config['size']} pixels, batch {config['batch']}"
    lines = [
        f"{record['device']}, torch {record['versions']['torch']}, {record['date']}, commit {record['commit']}.",
        f"{clips}; time and memory: times better than naive.",
        "",
        "| recurrent stack, forward and backward | steps | on | seconds | time | MB | memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["stack"]:
        numbers = f"{row['seconds']:.3f} | {row['time']:.2f} | {row['mb']:.0f} | {row['memory']:.2f}"
        lines.append(f"| {row['move']} | {row['steps']} | {row['where']} | {numbers} |")
    lines += [
        "",
        "| training step | on | seconds | time | MB | memory | clips a second | paper's protocol | floor of its arithmetic |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["step"]:
        numbers = f"{row['seconds']:.3f} | {row['time']:.2f} | {row['mb']:.0f} | {row['memory']:.2f}"
        minutes = f"{row['protocol_minutes']:,.0f} min | {floor[row['where'], row['dtype']]['floor_minutes']:,.0f} min"
        place = f"{row['network']}, {row['dtype']} | {row['where']}"
        lines.append(f"| {place} | {numbers} | {row['clips_per_second']:.2f} | {minutes} |")
    lines += ["", "| our training step at | on | seconds | MB |", "|---|---|---|---|"]
    for row in record["scaling"]:
        point = f"{row['length']} frames, {row['size']} pixels, batch {row['batch']}"
        lines.append(f"| {point} | {row['where']} {row['dtype']} | {row['seconds']:.3f} | {row['memory']:.0f} |")
    return "\n".join(lines) + "\n"


def rounded(value: object) -> object:
    """Floats to four digits, inside lists and dicts too."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("results/benchmarks"))
    parser.add_argument(
        "--quick", action="store_true", help="small maps, to see that it runs: the numbers mean nothing"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    config, batch, repeats = preset("paper"), 2, 3
    if arguments.quick:
        config, repeats = replace(config, size=32, conv3d=(8, 16, 32), conv2d=(16, 16, 16)), 1
    found: dict[str, list] = {"stack": [], "step": [], "scaling": [], "floor": []}
    with tqdm(desc="benchmark") as bar:
        for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
            found["stack"] += stacks(config, batch, device, repeats, bar)
            found["step"] += whole_steps(config, batch, device, repeats, bar)
            if device == "cuda":
                found["step"] += whole_steps(config, 16, device, repeats, bar)
            found["scaling"] += scaling(config, arguments.quick, device, kinds(device)[-1], bar)
            found["floor"] += floors(config, device)
    sizes = {"length": config.length, "size": config.size, "batch": batch}
    record = machine() | {"date": datetime.date.today().isoformat(), "config": sizes} | rounded(found)
    for name, text in (("network.json", json.dumps(record, indent=1) + "\n"), ("network.md", table(record))):
        with replacing(arguments.folder / name) as beside:
            beside.write_text(text, encoding="utf-8")
    print(table(record))


if __name__ == "__main__":
    main()

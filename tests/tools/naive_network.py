"""The network from common parts, with the weights of ours: what benchmarks and tests compare with."""

from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from deformlib.convlstm import ConvLSTM
from deformlib.deform import deform_conv2d
from deformlib.network import NetworkConfig, VideoNet

MOVES = (  # from public code to the library's class; each keeps the ones before
    "naive: a cell for one step, and a loop",
    "frames unbound once",
    "plain input convolutions in one call",
    "deformable input convolutions in one call",
    "the deformable convolution of chapter 06",
    "no copy of plain steps, gates hoisted: ConvLSTM",
    "ConvLSTM in bfloat16",
)


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

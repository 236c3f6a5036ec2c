"""Sampling points: known shift, known rotation, fractional reading, and the layer's own gradient as the judge."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import av
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel

from deformlib.deform import DeformConv2d, deform_conv2d, per_filter_deform_conv2d
from deformlib.offsets import (
    ARROW,
    POINT,
    POSITION,
    Field,
    OffsetWarning,
    body_mask,
    centres,
    check_offsets,
    draw_direction,
    draw_frame,
    draw_magnitude,
    draw_points,
    draw_quiver,
    draw_steps,
    effective_dilation,
    fit_similarity,
    follow,
    gif_delays,
    mean_offset,
    named_layers,
    offset_direction,
    offset_magnitude,
    point_weights,
    positions_of,
    read_field,
    receptive_field,
    record_offsets,
    resting,
    saliency_region,
    sampling_influence,
    sampling_points,
    save_film,
    similarity,
)

GRID = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).double()


def constant(taps, size=12):
    """A field with the same nine offsets [9, 2] everywhere."""
    return Field(taps.double().reshape(18, 1, 1).expand(18, size, size))


STILL = constant(torch.zeros(9, 2))


@pytest.mark.parametrize(("layers", "points", "places"), [(1, 9, 9), (2, 81, 25), (3, 729, 49)])
def test_zero_offsets_are_the_base_grid(layers, points, places):
    seen = sampling_points([STILL] * layers, (5, 6))
    assert seen.shape == (points, 2) and len(seen.unique(dim=0)) == places
    assert seen.mean(0).tolist() == [5, 6]
    assert seen.amin(0).tolist() == [5 - layers, 6 - layers]
    assert sampling_points([STILL], (5, 6)).equal(GRID + torch.tensor([5, 6]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_known_shift_adds_up(layers):
    shift = torch.tensor([0.5, -1.25]).double()
    moved = sampling_points([constant(shift.repeat(9, 1))] * layers, (5, 6))
    assert torch.allclose(moved - sampling_points([STILL] * layers, (5, 6)), layers * shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("degrees", [30, -75, 180])
def test_known_rotation_turns_the_points(layers, degrees):
    angle, centre = math.radians(degrees), torch.tensor([5, 6]).double()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = sampling_points([constant(GRID @ turn.T - GRID)] * layers, (5, 6)) - centre
    assert torch.allclose(turned, (sampling_points([STILL] * layers, (5, 6)) - centre) @ turn.T, rtol=0, atol=1e-12)


def test_fields_between_layers_are_read_at_fractional_places():
    slope = torch.zeros(9, 2, 12, 12).double()
    slope[:, 0] = 0.1 * torch.arange(12).double().view(12, 1)
    slope[:, 1] = -0.2 * torch.arange(12).double()
    push = torch.tensor([0.3, 0.45], dtype=torch.float64)
    points = sampling_points([Field(slope.flatten(0, 1)), constant(push.repeat(9, 1))], (5, 5)).view(9, 9, 2)
    between = GRID + 5 + push  # where the second layer's taps look: the first layer's linear field is exact there
    expected = between[:, None] + GRID + between[:, None] * torch.tensor([0.1, -0.2], dtype=torch.float64)
    assert torch.allclose(points, expected, rtol=0, atol=1e-12)


def test_order_is_the_last_layers_tap_slowest():
    first, last = torch.zeros(9, 2), torch.zeros(9, 2)
    first[2], last[7] = torch.tensor([0.01, 0.0]), torch.tensor([0.0, 0.1])
    points = sampling_points([constant(first), constant(last)], (5, 5)) - sampling_points([STILL] * 2, (5, 5))
    assert points.view(9, 9, 2)[7, 2].tolist() == pytest.approx([0.01, 0.1])
    assert points.view(9, 9, 2)[2, 7].tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 1, 1), (1, 2, 2), (2, 0, 1)])
@pytest.mark.parametrize("position", [(0, 0), (2, 3)])
def test_the_layers_gradient_touches_exactly_the_points(geometry, position):
    stride, padding, dilation = geometry
    torch.manual_seed(sum(geometry) + sum(position))
    image = torch.zeros(1, 1, 11, 12, requires_grad=True)
    size = [(length + 2 * padding - 2 * dilation - 1) // stride + 1 for length in (11, 12)]
    offset = 3 * torch.randn(1, 18, *size)
    place = {"stride": stride, "padding": padding, "dilation": dilation}
    deform_conv2d(image, offset, torch.ones(1, 1, 3, 3), **place)[(0, 0, *position)].backward()
    points = sampling_points([Field(offset[0], **place)], position)
    near = {(int(y) + i, int(x) + j) for y, x in points.floor().tolist() for i in (0, 1) for j in (0, 1)}
    assert {tuple(pixel) for pixel in image.grad[0, 0].nonzero().tolist()} == {
        (y, x) for y, x in near if 0 <= y < 11 and 0 <= x < 12
    }


def test_two_layers_and_a_pooling_agree_with_the_gradient():
    torch.manual_seed(0)
    image = torch.zeros(1, 1, 24, 24, requires_grad=True)
    first, last = (torch.randint(-2, 3, (9, 2)) for _ in range(2))
    fields = [replace(constant(first), before=centres(nn.AvgPool2d(2))), constant(last)]
    ones = torch.ones(1, 1, 3, 3).double()
    x = nn.functional.avg_pool2d(image.double(), 2)
    for field in fields:
        x = deform_conv2d(x, field.offset[None], ones, padding=1)
    x[0, 0, 6, 5].backward()
    points = sampling_points(fields, (6, 5))
    near = {(int(y) + i, int(x) + j) for y, x in points.floor().tolist() for i in (0, 1) for j in (0, 1)}
    assert {tuple(pixel) for pixel in image.grad[0, 0].nonzero().tolist()} <= near
    assert (points % 1 == 0.5).all()  # the centre of two pooled pixels


def test_points_outside_are_kept_and_edges_stand_in():
    far = constant(torch.full((9, 2), -40.0))
    assert sampling_points([far, far], (0, 0)).shape == (81, 2)
    assert sampling_points([far, far], (0, 0)).max() == -78
    values = torch.arange(12.0).view(1, 3, 4)
    read = read_field(values, torch.tensor([[-5.0, 1.0], [9.0, 9.0], [0.5, 0.5]]))
    assert read.flatten().tolist() == pytest.approx([1, 11, 2.5])
    assert read_field(torch.tensor([[[3.0]]]), torch.tensor([[0.0, 0.0], [4.0, -2.0]])).flatten().tolist() == [3, 3]


def test_magnitude_and_mean():
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = constant(GRID @ turn.T - GRID).offset
    assert mean_offset(turned).shape == (2, 12, 12) and mean_offset(turned).abs().max() < 1e-12
    assert offset_magnitude(turned)[3, 4].item() == pytest.approx(2 * math.sin(angle / 2) * (4 + 4 * math.sqrt(2)) / 9)
    shift = constant(torch.tensor([3.0, -4.0]).repeat(9, 1)).offset
    assert mean_offset(shift)[:, 0, 0].tolist() == [3, -4] and offset_magnitude(shift)[0, 0] == 5


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match=r"expected offsets \[18, H, W\].*got \[1, 18, 4, 4\]"):
        sampling_points([Field(torch.zeros(1, 18, 4, 4))], (0, 0))
    with pytest.raises(ValueError, match="one for each layer"):
        sampling_points([], (0, 0))


def test_drawings_show_the_numbers():
    figure, (points_ax, quiver_ax, map_ax) = plt.subplots(1, 3)
    points = torch.tensor([[-7.0, 3.0], [4.0, 120.0]])
    assert draw_points(points, draw_frame(torch.zeros(112, 112), points_ax), (4, 3)) is points_ax
    dots = points_ax.collections[0].get_offsets()
    assert dots.tolist() == [[3, -7], [120, 4]]  # matplotlib wants (x, y)
    assert points_ax.get_xlim()[1] > 120 and points_ax.get_ylim()[1] < -7 < points_ax.get_ylim()[0]  # y grows downwards
    field = torch.tensor([3.0, -4.0]).repeat(9).view(18, 1, 1).expand(18, 28, 28)
    before = torch.tensor([[4.0, 4.0], [1.5, 2.5]])
    assert draw_quiver(field, quiver_ax, before, every=2) is quiver_ax
    arrows = quiver_ax.collections[0]
    assert len(arrows.U) == 14 * 14 and arrows.U[0] == pytest.approx(-16) and arrows.V[0] == pytest.approx(12)
    assert arrows.get_offsets()[1].tolist() == [10.5, 1.5]  # (x, y) of position (0, 2)
    assert draw_magnitude(field, map_ax, before) is map_ax
    assert map_ax.images[0].get_array().max() == 5 and map_ax.images[0].get_extent() == [0.5, 112.5, 111.5, -0.5]
    plt.close(figure)


def test_points_that_are_not_finite_are_counted_and_not_drawn():
    points = torch.tensor([[1.0, 2.0], [math.nan, 3.0], [2.0, math.inf], [-4.0, 5.0]])
    for weights, lost in ((None, 2), (torch.tensor([1.0, 1.0, 1.0, math.nan]), 3)):
        figure, ax = plt.subplots()
        draw_points(points, draw_frame(torch.zeros(30, 30), ax), weights=weights)
        assert len(ax.collections[0].get_offsets()) == 4 - lost
        assert ax.get_xlabel() == f"{lost} of 4 points are not finite" and ax.get_xlim() == (-0.5, 29.5)
        plt.close(figure)
    figure, ax = plt.subplots()
    draw_points(points * math.nan, ax)
    assert ax.get_xlabel() == "4 of 4 points are not finite"
    plt.close(figure)


def turn_of(degrees, scale=1.0):
    """(y, x) counter-clockwise as one sees it."""
    angle = math.radians(degrees)
    return scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()


@pytest.mark.parametrize(
    ("chain", "size"),
    [
        (nn.Sequential(nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2)), 40),
        (
            nn.Sequential(
                nn.Conv2d(1, 1, 7, stride=2, padding=3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(1, 1, 3, dilation=2)
            ),
            60,
        ),
        (nn.Conv2d(1, 1, (3, 5), stride=(1, 3), padding=(1, 0), dilation=(2, 1)), 40),
    ],
)
def test_centres_are_the_middle_of_what_a_chain_reads(chain, size):
    for layer in chain.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    chain = nn.Sequential(
        *[
            nn.AvgPool2d(m.kernel_size, m.stride, m.padding) if isinstance(m, nn.MaxPool2d) else m
            for m in [*chain.children()] or [chain]
        ]
    )
    image = torch.ones(1, 1, size, size, requires_grad=True)
    output = chain(image)
    place = [side // 2 for side in output.shape[2:]]
    output[(0, 0, *place)].backward()
    weight = image.grad[0, 0]
    axis = torch.arange(float(size))
    middle = torch.stack([(weight.sum(1) * axis).sum(), (weight.sum(0) * axis).sum()]) / weight.sum()
    scale, add = centres(chain)
    assert torch.allclose(torch.tensor(place) * scale + add, middle, atol=1e-3)


def test_a_layer_used_twice_in_a_chain_counts_twice():
    pool = nn.MaxPool2d(2)
    assert centres(nn.Sequential(pool, pool)).tolist() == [[4, 4], [1.5, 1.5]]


def test_wrapped_layers_of_a_chain_count_once():
    pool, pack = nn.MaxPool2d(2), Pack(4, 4)
    assert centres(torch.compile(pool)).equal(centres(pool)) and centres(nn.DataParallel(pool)).equal(centres(pool))
    chain = nn.Sequential(pool, pack, torch.compile(nn.Sequential(pool, nn.Conv2d(1, 1, (4, 3), padding="same"))))
    assert centres(chain).tolist() == [[4, 4], [3.5, 1.5]]  # four rows, one of them above: half a pixel down
    block = torchvision.models.resnet.BasicBlock(4, 4, 2, nn.Identity())
    assert centres(block.conv1).equal(centres(nn.Sequential(block.conv1))) and centres(block)[0].tolist() == [2, 2]
    with pytest.raises(ValueError, match="^1 is a transposed convolution"):
        centres(nn.Sequential(pool, nn.ConvTranspose2d(1, 1, 2)))
    for layer in (nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(4), nn.PixelShuffle(2)):
        with pytest.raises(ValueError, match="1 enlarges, or pools to a fixed size"):
            centres(nn.Sequential(pool, layer))


def test_many_positions_at_once_and_where_they_rest():
    torch.manual_seed(0)
    fields = [Field(torch.randn(18, 6, 7), before=torch.tensor([[4.0, 2.0], [1.5, 0.5]])), Field(torch.randn(18, 6, 7))]
    places = positions_of(fields[-1])
    assert places.shape == (42, 2) and places[8].tolist() == [1, 1]
    grid = sampling_points(fields, places)
    assert grid.shape == (42, 81, 2) and torch.allclose(grid[8], sampling_points(fields, (1, 1)), atol=1e-5)
    assert sampling_points(fields, places.view(6, 7, 2)).equal(grid.view(6, 7, 81, 2))
    assert torch.allclose(
        resting(fields, places), places * torch.tensor([4.0, 2.0]) + torch.tensor([1.5, 0.5]), atol=1e-5
    )


def test_a_kernel_that_is_not_square():
    field = Field(torch.zeros(30, 4, 5), kernel_size=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 3))
    points = sampling_points([field], (1, 1))
    assert points.amin(0).tolist() == [1, -1] and points.amax(0).tolist() == [3, 11] and len(points) == 15


def test_weights_multiply_and_masks_are_read_between_positions():
    mask = torch.zeros(9, 12, 12).double()
    mask[4] = torch.arange(12).double()  # tap 4 counts as much as its column
    half = constant(torch.tensor([0.0, 0.5]).repeat(9, 1))
    first = replace(STILL, mask=mask)
    weights = point_weights([first, half], (6, 6)).view(9, 9)
    assert weights[4].tolist() == pytest.approx([0, 0, 0, 0, 6.5, 0, 0, 0, 0])
    assert weights.sum(1).tolist() == pytest.approx([5.5, 6.5, 7.5] * 3)
    kernel = torch.arange(9.0)
    both = point_weights([replace(first, weight=kernel), replace(half, weight=kernel)], (6, 6)).view(9, 9)
    assert torch.allclose(both, weights * kernel[:, None] * kernel)


class Mixed(nn.Module):
    """A network with one layer of each kind, torchvision's called with names."""

    def __init__(self):
        super().__init__()
        self.ours = DeformConv2d(2, 4, 3, padding=1, offset_groups=2, modulated=True)
        self.theirs = torchvision.ops.DeformConv2d(4, 3, 3, stride=2)
        self.filters = DeformConv2d(3, 5, 3, padding=1, per_filter=True)
        for layer in (self.ours, self.filters):
            nn.init.normal_(layer.offset_branch.weight, std=0.1)

    def forward(self, x):
        x = self.ours(x)
        offset = 0.1 * torch.arange(18.0).view(1, 18, 1, 1).expand(len(x), 18, 3, 3)
        return self.filters(self.theirs(x, offset, mask=torch.full((len(x), 9, 3, 3), 0.25)))


def test_the_recorder_sees_what_the_layers_used():
    torch.manual_seed(0)
    net, x = Mixed(), torch.randn(3, 2, 8, 8)
    with record_offsets(net) as calls:
        net(x)
    assert [call.name for call in calls] == ["ours", "theirs", "filters"]
    ours, theirs, filters = calls
    offset, mask = net.ours.fields(x)
    assert ours.offset.equal(offset) and ours.mask.equal(mask) and ours.input is x
    field = ours.field(item=2, group=1)
    assert field.offset.equal(offset[2, 18:]) and field.mask.equal(mask[2, 9:]) and field.padding == (1, 1)
    read = net.ours.weight.detach()[:, 1:]  # group 1 moves the second of two channels
    assert torch.allclose(field.weight, read.square().sum((0, 1)).sqrt().flatten())
    assert theirs.field(1).offset[:, 0, 0].tolist() == pytest.approx([0.1 * n for n in range(18)])
    assert theirs.field(1).stride == (2, 2) and theirs.field(1).mask.unique().tolist() == [0.25]
    raw = net.filters.fields(theirs.layer(ours.layer(x), theirs.offset, theirs.mask))[0]
    tap = 7
    chosen = [2 * (tap * 5 + 3), 2 * (tap * 5 + 3) + 1]  # channel 2 (tap F + filter) + {0: dy, 1: dx}
    assert filters.field(0, group=3).offset[[14, 15]].equal(raw[0, chosen])
    assert torch.allclose(filters.field(0, group=3).weight, net.filters.weight[3].detach().norm(dim=0).flatten())


def test_a_field_for_each_filter_with_masks_is_sorted_by_filter():
    """The branch answers tap by tap, offsets first and then masks; a field has what its own filter uses."""
    layer = DeformConv2d(2, 3, 3, padding=1, modulated=True, per_filter=True)
    nn.init.normal_(layer.offset_branch.weight, std=0.1)
    with torch.no_grad():
        layer.offset_branch.bias.copy_(torch.linspace(-0.5, 0.5, 81))
    x = torch.randn(2, 2, 6, 6)
    with record_offsets(layer) as calls:
        output = layer(x)
    for filter_ in range(3):
        field = calls[0].field(item=1, group=filter_)
        alone = layer.weight[filter_ : filter_ + 1]
        bias = None if layer.bias is None else layer.bias[filter_ : filter_ + 1]
        said = deform_conv2d(x[1:], field.offset[None], alone, bias, padding=1, mask=field.mask[None])
        assert torch.allclose(said[0, 0], output[1, filter_], atol=1e-5)
        assert torch.allclose(field.weight, layer.weight[filter_].detach().square().sum(0).sqrt().flatten())
    influence = sampling_influence(output[1, 2, 3, 3], calls[0])
    assert influence.shape == (2, 27, 6, 6) and influence[1, 18:].any() and not influence[1, :18].any()


def test_groups_weigh_the_channels_that_they_move():
    """Offset groups move groups of channels: a tap of one counts by the kernel there alone, with grouped filters too."""
    for groups in (1, 2):
        layer = torchvision.ops.DeformConv2d(4, 6, 3, padding=1, groups=groups)
        with torch.no_grad():
            layer.weight.fill_(1.0)
            if groups == 1:
                layer.weight[:, :2] = 0  # channels 0 and 1 are of offset group 0
            else:
                layer.weight[:3] = 0  # the first three filters read channels 0 and 1
        with record_offsets(layer) as calls:
            layer(torch.rand(1, 4, 5, 5), torch.zeros(1, 36, 5, 5))
        first, second = (calls[0].field(group=group).weight for group in (0, 1))
        assert not first.any() and second.min() == second.max() > 1


def test_the_recorder_leaves_nothing_behind():
    net, x = Mixed(), torch.randn(1, 2, 8, 8)
    with pytest.raises(RuntimeError, match="on purpose"), record_offsets(net) as calls:
        net(x)
        raise RuntimeError("on purpose")
    net(x)
    assert len(calls) == 3 and not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not torch.overrides._get_current_function_mode_stack()
    counted = torch.compile(nn.ReLU(), backend=(compiled := lambda graph, inputs: seen.append(graph) or graph.forward))
    seen = []
    assert counted(x).min() == 0 and len(seen) == 1 and compiled  # compiled networks are compiled again


class Pack(torchvision.ops.DeformConv2d):
    """What most packages make of torchvision's layer: it predicts its offsets itself."""

    def __init__(self, channels, filters):
        super().__init__(channels, filters, 3, padding=2, dilation=2, groups=2)
        self.branch = nn.Conv2d(channels, 54, 3, padding=1)

    def forward(self, x):
        *offset, mask = self.branch(x).chunk(3, 1)
        return super().forward(x, torch.cat(offset, 1), mask.sigmoid())


class Calling(nn.Module):
    """A layer of another package, which calls an operator itself."""

    def __init__(self, operator, fields, **options):
        super().__init__()
        self.operator, self.options = operator, options
        self.kernel = nn.Parameter(torch.randn(3, 4, 3, 1))
        self.branch = nn.Conv2d(4, 6 * fields, 3, stride=(2, 1), padding=(1, 1))

    def forward(self, x):
        return self.operator(x, self.branch(x), self.kernel, stride=(2, 1), padding=(1, 0), **self.options)


class Packs(nn.Module):
    """All kinds of layers, one of them used twice, one of them deep inside."""

    def __init__(self):
        super().__init__()
        self.pack = Pack(4, 4)
        self.inner = nn.Sequential(nn.ReLU(), nn.ModuleDict({"deep": DeformConv2d(4, 4, 3, padding=1)})["deep"])
        self.theirs = Calling(torchvision.ops.deform_conv2d, 1)
        self.ours = Calling(deform_conv2d, 2)
        self.filters = Calling(per_filter_deform_conv2d, 3)
        for name, parameter in self.named_parameters():
            if "branch" in name:
                nn.init.normal_(parameter, std=0.3)

    def forward(self, x):
        x = self.inner(self.pack(self.pack(x)))
        return self.theirs(x) + self.ours(x) + self.filters(x)


NAMES = ["pack", "pack", "inner.1", "theirs", "ours", "filters"]


def packs():
    torch.manual_seed(0)
    return Packs(), torch.randn(2, 4, 7, 8, requires_grad=True)


def test_layers_that_call_an_operator_themselves_are_recorded():
    net, x = packs()
    with record_offsets(net) as calls:
        output = net(x)
    assert [call.name for call in calls] == NAMES and [call.layer for call in calls] == [
        net.pack, net.pack, net.inner[1], net.theirs, net.ours, net.filters,
    ]  # fmt: skip
    first, second, deep, theirs, ours, filters = calls
    assert first.input is x and second.input.equal(net.pack(x)) and (first.kernel_size, first.dilation) == ((3, 3), (2, 2))
    assert first.mask.equal(net.pack.branch(x)[:, 36:].sigmoid()) and (first.groups, first.offset_groups) == (2, 2)
    assert deep.offset.equal(net.inner[1].fields(deep.input)[0]) and deep.mask is None
    for call, fields in ((theirs, 1), (ours, 2), (filters, 3)):
        assert (call.kernel_size, call.stride, call.padding, call.dilation) == ((3, 1), (2, 1), (1, 0), (1, 1))
        assert call.offset_groups == fields and call.weight.equal(call.layer.kernel) and call.mask is None
    assert filters.per_filter and not ours.per_filter
    for call in calls:  # the operator, told what was recorded, says what the layer said
        for item in (0, 1):
            field, influence = call.field(item), sampling_influence(output[item].square().sum(), call)
            assert field.offset.shape == (2 * math.prod(call.kernel_size), *call.offset.shape[2:])
            assert field.stride == call.stride and influence.shape[1] * 2 == call.offset.shape[1]
            assert influence[item].any() and not influence[1 - item].any()
    points = sampling_points([theirs.field(1)], (1, 2))
    assert torch.allclose(points, torch.tensor([[1.0, 2], [2, 2], [3, 2]]) + theirs.offset[1, :, 1, 2].view(3, 2))
    said = deform_conv2d(
        filters.input, filters.offset, filters.weight, stride=(2, 1), padding=(1, 0), per_filter=True
    )
    assert torch.allclose(said, net.filters(filters.input), atol=1e-5)


def in_threads(net):
    """What DataParallel does with several GPUs: its replicas run in threads of their own."""

    class Threads(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = net

        def forward(self, x):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(self.module, x).result()

    return Threads()


def compiled_part(net):
    net.inner, net.pack = (torch.compile(part, backend="eager") for part in (net.inner, net.pack))
    return net


def compiled_in_place(net):
    net.compile(backend="eager")
    net.pack.compile(backend="eager")
    return net


WRAPS = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled part": compiled_part,
    "parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "all of them": lambda net: torch.compile(nn.DataParallel(torch.compile(net, backend="eager")), backend="eager"),
}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("wrap", WRAPS)
def test_wrapped_networks_are_recorded_as_bare_ones(wrap, before):
    """Compiled before or while the recording runs, called before or not: the names and numbers of the bare network."""
    net, x = packs()
    with record_offsets(net) as expected:
        output = net(x)
    net = WRAPS[wrap](net)
    if before:
        net(x), net(x)
    with record_offsets(net) as calls:
        again = net(x)
    assert [call.name for call in calls] == NAMES and torch.allclose(again, output, atol=1e-6)
    for call, bare in zip(calls, expected, strict=True):
        assert call.place == bare.place and torch.allclose(call.offset, bare.offset, atol=1e-6)
        assert sampling_influence(again.square().sum(), call).any()
    assert [name for name, _ in named_layers(net)] == [name for name, _ in named_layers(packs()[0])]


def test_distributed_networks_and_threads_are_recorded():
    net, x = packs()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(net)
        with record_offsets(parallel) as calls:
            parallel(x)
    finally:
        torch.distributed.destroy_process_group()
    assert [call.name for call in calls] == NAMES
    threads = in_threads(net)
    with record_offsets(threads) as calls, record_offsets(net.inner) as inner, record_offsets(threads) as again:
        threads(x).sum().backward()
        deform_conv2d(x, torch.zeros(2, 18, 7, 8), torch.ones(1, 4, 3, 3), padding=1)
    assert [call.name for call in calls] == [f"module.{name}" for name in NAMES] + ["deform_conv2d()"]
    assert [call.name for call in again] == [call.name for call in calls]
    assert [call.name for call in inner] == ["1", "deform_conv2d()"]  # only its own layers know it in another thread
    assert x.grad.any() and not torch.overrides._get_current_function_mode_stack()


def test_calls_outside_of_any_layer_and_of_a_compiled_function():
    net, x = packs()
    around = torch.compile(lambda x: net(x).sin(), backend="eager")
    around(x)
    with record_offsets(net) as calls:
        around(x)
        net.inner[1].forward(x)  # past the hooks: named after the owner of its weight
        torchvision.ops.deform_conv2d(x, torch.zeros(2, 18, 7, 8), torch.ones(1, 4, 3, 3), padding=1)
        with pytest.raises(RuntimeError):
            torchvision.ops.deform_conv2d(x, torch.zeros(2, 18, 2, 2), torch.ones(1, 4, 3, 3), padding=1)
    assert [call.name for call in calls] == [*NAMES, "inner.1", "deform_conv2d()"] and calls[-1].layer is None
    with record_offsets(net.pack) as calls:
        net.pack(x)
    assert [call.name for call in calls] == ["the layer"]


def test_two_recordings_both_record_and_name_the_layers_of_their_own():
    net, x = packs()
    with record_offsets(net) as outer:
        with record_offsets(net.inner) as inner:
            net(x)
        with pytest.raises(ValueError, match="on purpose"), record_offsets(net):
            net(x)
            raise ValueError("on purpose")
        net(x)
    assert [call.name for call in outer] == 3 * NAMES and len(inner) == 6
    assert [call.name for call in inner if call.layer] == ["1"]


def test_a_layer_that_fails_and_is_caught_leaves_the_names_right():
    class Trying(nn.Module):
        def __init__(self):
            super().__init__()
            self.packs, self.pack = Packs(), Pack(4, 4)

        def forward(self, x):
            try:
                self.packs(x[:, :3])
            except RuntimeError:
                return self.pack(x)

    net = Trying()
    with record_offsets(net) as calls:
        net(packs()[1])
    assert [call.name for call in calls] == ["pack"]


def test_a_recorded_weight_is_that_of_the_call():
    layer = DeformConv2d(1, 1, 3, padding=1)
    with record_offsets(layer) as calls:
        layer(torch.rand(1, 1, 5, 5))
        nn.init.zeros_(layer.weight)
    assert calls[0].field().weight.min() > 0


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
def test_what_cannot_be_recorded_is_said():
    layer, x, offset = torchvision.ops.DeformConv2d(1, 1, 3), torch.rand(1, 1, 5, 5), torch.zeros(1, 18, 3, 3)
    net = nn.ModuleDict({"script": torch.jit.trace(layer, (x, offset)), "layer": layer})
    with pytest.warns(OffsetWarning, match="^script: TorchScript runs outside of Python"), record_offsets(net) as calls:
        net["script"](x, offset)
        net["layer"](x, offset)
    assert [call.name for call in calls] == ["layer"]
    ours = DeformConv2d(1, 1, 3, per_filter=True)
    net = nn.Sequential(ours, nn.Sequential(torch.jit.trace(ours, torch.rand(1, 1, 5, 5))))
    with pytest.warns(OffsetWarning, match="^1.0: TorchScript runs outside"), record_offsets(net) as calls:
        net(torch.rand(1, 1, 7, 7))
    with warnings.catch_warnings(), record_offsets(nn.Sequential(torch.jit.trace(nn.ReLU(), x), layer)):
        warnings.simplefilter("error")
        layer(x, offset)  # what TorchScript runs here is not deformable
    plain = nn.Conv2d(1, 1, 3)
    with pytest.warns(OffsetWarning, match="^Conv2d: no deformable convolution of torchvision's or ours was recorded") as caught:
        with record_offsets(plain) as calls:
            plain(x)
    assert len(caught) == 1 and caught[0].filename == __file__ and not calls
    exported = torch.export.export(layer, (x, offset)).module()
    with record_offsets(exported) as calls:
        exported(x, offset + 1)
    assert calls[0].offset.unique().tolist() == [1]
    for wrong in (lambda x: x, torch.export.export(layer, (x, offset))):
        with pytest.raises(ValueError, match="records an nn.Module, not"), record_offsets(wrong):
            pass


def test_recorded_steps_of_a_convlstm_are_its_offset_fields():
    from deformlib.convlstm import ConvLSTM

    torch.manual_seed(0)
    for per_filter in (False, True):
        layer, x = ConvLSTM(2, 3, deform_steps=(1, 3), per_filter=per_filter), torch.randn(2, 2, 5, 6, 6)
        nn.init.normal_(layer._deformable().offset_branch.weight, std=0.1)
        with record_offsets(layer) as calls:
            layer(x)
        (call,) = calls
        for step in (0, 1):
            for clip in (0, 1):
                said = layer.offset_fields(x)[clip, step]
                if per_filter:  # there the channels go tap by tap
                    said = said.unflatten(0, (9, 3, 2)).transpose(0, 1).flatten(0, 2)
                assert torch.allclose(call.offset[step * 2 + clip], said, atol=1e-6)


def test_gradients_and_regions_find_the_pixels_that_matter():
    layer = DeformConv2d(1, 1, 3, padding=1)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0, 1, 1] = -1.0
        layer.offset_branch.bias.copy_(torch.tensor([2.0, -1.0]).repeat(9))
    torch.manual_seed(0)
    image = torch.rand(1, 1, 12, 12, requires_grad=True)
    with record_offsets(layer) as calls:
        node = layer(image)[0, 0, 5, 6]
    expected = torch.zeros(12, 12)
    expected[6:9, 4:7] = 1
    field = receptive_field(node, image)
    assert torch.allclose(field, expected, atol=1e-4)  # the branch's kernel is zero: nothing comes through it
    influence = sampling_influence(node, calls[0])
    assert influence.shape == (1, 9, 12, 12) and (influence[0, :, 5, 6] > 0).all() and influence.count_nonzero() == 9
    clip = image.detach()[0, :, None].repeat(1, 2, 1, 1)  # (C, T, H, W)
    region = saliency_region(lambda clips: layer(clips[:, :, 1])[:, 0, 5, 6], clip, error=0.0, patch=1)
    assert region.equal(expected > 0)
    patches = saliency_region(lambda clips: layer(clips[:, :, 1])[:, 0, 5, 6], clip, error=0.0, patch=5)
    assert patches.sum() == 50 and patches[5:10, :10].all()  # patches that touch the square: columns 0-4 and 5-9
    smaller = saliency_region(lambda clips: layer(clips[:, :, 1])[:, 0, 5, 6], clip, error=0.3, patch=1)
    assert 0 < smaller.sum() < 9 and (region | ~smaller).all()


@pytest.mark.parametrize(
    ("taps", "dilation", "expected"),
    [
        (0 * GRID, 1, 1.0),
        (0 * GRID, 3, 3.0),
        (0 * GRID + 5.0, 1, 1.0),
        (GRID @ turn_of(40).T - GRID, 1, 1.0),
        (0.5 * GRID, 1, 1.5),
        (GRID * torch.tensor([1.0, 0.0]), 1, 1.5),  # twice as far down, as far across
    ],
)
def test_effective_dilation(taps, dilation, expected):
    field = replace(constant(taps), dilation=dilation, padding=dilation)
    assert effective_dilation(field).shape == (12, 12)
    assert torch.allclose(effective_dilation(field), torch.tensor(expected).double())


def test_the_body_is_what_differs_from_the_wall():
    frames = torch.linspace(0.3, 0.6, 20).view(1, 20, 1).repeat(3, 1, 20)
    frames[1, 5:15, 8:12] += 0.2
    frames[2, 0:4, 0:2] = 0.0  # an arm at the edge, in one of three frames
    mask = body_mask(frames)
    assert not mask[0].any() and mask[1].sum() == 40 and mask[1, 5:15, 8:12].all() and mask[2].sum() == 8


@pytest.mark.parametrize(("degrees", "scale"), [(25, 1.0), (-120, 1.7), (0, 0.5)])
def test_fitted_similarity(degrees, scale):
    torch.manual_seed(0)
    points = torch.randn(30, 2).double()
    assert fit_similarity(points, points @ turn_of(degrees, scale).T) == pytest.approx((degrees, scale))
    assert torch.allclose(similarity(degrees, scale).double(), turn_of(degrees, scale), atol=1e-6)


def test_the_clip_is_turned_and_scaled_as_said():
    """What `follow` shows the network the second time."""
    clips, seen = torch.zeros(1, 1, 2, 9, 9), []
    clips[0, 0, :, 4, 7] = 1.0  # right of the middle
    for degrees, scale in ((90, 1.0), (180, 1.0), (0, 1 / 3)):
        follow(lambda given: seen.append(given) or [constant(0 * GRID, 9)], clips, degrees, scale)
    above, left, near = (given[0, 0, 1].argmax().item() for given in seen[1::2])
    assert (above, left, near) == (1 * 9 + 4, 4 * 9 + 1, 4 * 9 + 5) and seen[1].shape == clips.shape


@pytest.mark.parametrize(("degrees", "scale"), [(30, 1.0), (-15, 1.3), (0, 0.8)])
def test_points_that_follow_and_points_that_do_not(degrees, scale):
    """A made-up network that knows how the picture stands, one that knows half of it, and a plain one."""
    clips = torch.zeros(1, 1, 1, 48, 48)
    clips[..., 30:34, 20:24] = 1.0
    stretched = GRID * torch.tensor([2.0, 1.0])

    def knowing(share):
        def fields_of(seen):
            turn = turn_of(share * degrees, scale**share) if not seen.equal(clips) else turn_of(0)
            return [replace(constant(stretched @ turn.T - GRID), before=torch.tensor([[4.0, 4.0], [1.5, 1.5]]))] * 2

        return fields_of

    assert follow(knowing(1), clips, degrees, scale) == pytest.approx((degrees, scale), abs=1e-4)
    assert follow(knowing(0.5), clips, degrees, scale) == pytest.approx((degrees / 2, scale**0.5), abs=1e-4)
    assert follow(lambda seen: [STILL], clips, degrees, scale) == pytest.approx((0, 1), abs=1e-6)


def test_points_are_compared_at_the_same_place_of_the_body():
    """Taps that stand wider the farther right they are: turned by 90 degrees, the wide ones are above."""
    wider = (1 + 0.1 * torch.arange(12.0)).double()
    taps = GRID[:, :, None, None] * wider.view(1, 1, 1, 12).expand(1, 1, 12, 12)
    before = Field((taps - GRID[:, :, None, None]).flatten(0, 1))
    upright = torch.einsum("ij,kjyx->kiyx", turn_of(90), taps).rot90(1, (2, 3))
    after = Field((upright - GRID[:, :, None, None]).flatten(0, 1))
    clips = torch.rand(1, 1, 1, 12, 12)
    assert follow(lambda seen: [before if seen.equal(clips) else after], clips, 90) == pytest.approx((90, 1), abs=1e-3)


def test_points_follow_a_shift_exactly():
    """A layer is a convolution: what moves by whole pixels takes its offsets along."""
    torch.manual_seed(0)
    layer = DeformConv2d(1, 1, 3, padding=1)
    nn.init.normal_(layer.offset_branch.weight, std=0.5)
    image = torch.zeros(1, 1, 20, 20)
    image[..., 8:12, 8:12] = torch.rand(4, 4)
    with record_offsets(layer) as calls, torch.no_grad():
        layer(image), layer(image.roll((3, -2), (2, 3)))
    first, second = (sampling_points([call.field()], place) for call, place in zip(calls, [(10, 10), (13, 8)]))
    assert torch.allclose(second - first, torch.tensor([3.0, -2.0]), atol=1e-5)


def draw_gray(step, ax):
    """A level of gray that says which step it is."""
    ax.imshow(np.full((4, 4), 60.0 * step), cmap="gray", vmin=0, vmax=255)
    ax.set_title(f"step {step}")


@pytest.mark.parametrize("ending", ["png", "gif", "mp4", "GIF", "MP4"])
def test_films(tmp_path, ending):
    path = save_film(draw_gray, [0, 2, 4], tmp_path / f"film.{ending}", size=1.5)
    if ending.lower() == "mp4":
        with av.open(str(path)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    else:
        picture = Image.open(path)
        frames = []
        for number in range(getattr(picture, "n_frames", 1)):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
    assert len(frames) == (1 if ending == "png" else 3)
    if ending != "png":
        middles = [frame[frame.shape[0] // 2, frame.shape[1] // 2].mean() for frame in frames]
        assert middles == pytest.approx([0, 120, 240], abs=8)
    else:
        assert frames[0].shape[1] == pytest.approx(3 * frames[0].shape[0], abs=2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("fps", "size"), [(2.0, 1.5), (29.97, 1.51), (12.5, 1.53), (60, 1.5)])
def test_an_mp4_is_what_browsers_play(tmp_path, fps, size):
    """H.264, colours at half resolution, even sides, the index in front; as long and as fast as asked."""
    path = save_film(draw_gray, [0, 1, 2, 1, 4], tmp_path / "film.mp4", fps=fps, size=size)
    with av.open(str(path)) as film:
        (stream,) = film.streams
        assert (stream.codec_context.name, stream.pix_fmt, stream.frames) == ("h264", "yuv420p", 5)
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
        times = [frame.time for frame in film.decode(stream)]
    assert times == pytest.approx([number / fps for number in range(5)], abs=1e-3)
    side = math.floor(100 * size)  # matplotlib's 100 dots an inch
    assert {stream.width, stream.height} == {side + side % 2}
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    ("fps", "delays"),
    [(2, [500] * 4), (30, [30, 40, 30, 30, 40, 30]), (40, [30, 20, 30, 20]), (50, [20] * 3), (12, [80, 90, 80, 80]),
     (0.01, [100_000, 100_000])],
)  # fmt: skip
def test_a_gif_keeps_its_rate(tmp_path, fps, delays):
    """Delays are whole hundredths of a second; equal pictures, which Pillow merges, last as long as they would apart."""
    assert gif_delays(len(delays), fps) == delays and abs(sum(gif_delays(100, fps)) - 1e5 / fps) <= 5
    for steps in (range(len(delays)), [0, *[1] * (len(delays) - 1)], [1] * len(delays)):
        path, played = save_film(draw_gray, steps, tmp_path / "film.gif", fps=fps, size=1.0), 0
        with Image.open(path) as film:
            for number in range(film.n_frames):
                film.seek(number)
                played += film.info["duration"]
        assert played == sum(delays)


@pytest.mark.parametrize("fps", [50.5, 60, 1000])
def test_a_rate_that_no_gif_has_is_refused(tmp_path, fps):
    with pytest.raises(ValueError, match=f"to 50 a second, not {fps:g}: choose another rate, or an .mp4"):
        save_film(draw_gray, [0], tmp_path / "film.gif", fps=fps)


@pytest.mark.parametrize(("steps", "fps"), [([], 2), ([0], 0), ([0], -1), ([0], math.nan), ([0], math.inf), ([0], 1e6)])
def test_no_film_is_said(tmp_path, steps, fps):
    for ending in ("gif", "mp4"):
        with pytest.raises(ValueError, match=f"film.{ending}: {len(steps)} steps at .* are no film"):
            save_film(draw_gray, steps, tmp_path / f"film.{ending}", fps=fps)
    assert not list(tmp_path.iterdir())


def test_films_that_cannot_be_written_are_said(tmp_path, monkeypatch):
    for ending in ("gif", "mp4"):
        with pytest.raises(OSError, match=f"film.{ending}: there is no such folder"):
            save_film(draw_gray, [0], tmp_path / "nowhere" / f"film.{ending}")
        with pytest.raises(OSError, match=f"a{{250}}.{ending}"):  # as in a folder that may not be written
            save_film(draw_gray, [0], tmp_path / f"{'a' * 250}.{ending}")
    monkeypatch.setattr("av.codecs_available", {"mpeg4", "h264"})
    with pytest.raises(OSError, match=r"film.mp4: this PyAV has no encoder for H.264.*save a .gif"):
        save_film(draw_gray, [0], tmp_path / "film.mp4")


@pytest.mark.parametrize("ending", ["avi", "webm", "mov", "gif.txt"])
def test_a_film_of_another_kind_is_refused(tmp_path, ending):
    with pytest.raises(ValueError, match=rf"film\.{ending}: .*\.png.*\.gif.*\.mp4"):
        save_film(lambda step, ax: ax, [0], tmp_path / f"film.{ending}")


def test_small_multiples():
    figure = draw_steps(lambda step, ax: ax.set_title(step), range(5), columns=3)
    assert [ax.get_title() for ax in figure.axes] == list("01234")
    plt.close(figure)
    with pytest.raises(ValueError, match="no step to draw"):
        draw_steps(lambda step, ax: ax, [])


@pytest.mark.parametrize(
    ("push", "alarm"), [(0.0, None), (1.0, None), (5.0, "out of the map"), (90.0, "explode"), (math.nan, "not finite")]
)
def test_alarms(push, alarm):
    layer = DeformConv2d(1, 1, 3, padding=1)
    nn.init.constant_(layer.offset_branch.bias, push)
    with record_offsets(nn.Sequential(layer)) as calls:
        layer(torch.rand(1, 1, 16, 16))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        messages = check_offsets(calls)
    assert [str(warning.message) for warning in caught] == messages and len(messages) == bool(alarm)
    if alarm:
        assert caught[0].category is OffsetWarning and alarm in messages[0] and "parameter_groups" in messages[0]
        assert messages[0].startswith("0: ")


def test_nothing_is_not_well():
    """No call, no image: the answer is not that all is well."""
    with pytest.warns(OffsetWarning, match="Nothing was recorded"):
        assert check_offsets([]) == ["Nothing was recorded, so nothing was checked: run the network inside of record_offsets."]
    layer = DeformConv2d(1, 1, 3, padding=1)
    with record_offsets(layer) as calls:
        layer(torch.rand(0, 1, 6, 6)), layer(torch.rand(1, 1, 6, 6))
    with pytest.warns(OffsetWarning, match="the layer: a batch of no images"):
        assert len(check_offsets(calls)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_offsets(calls[1:]) == []


def test_influence_needs_a_graph():
    layer = DeformConv2d(1, 1, 3, padding=1)
    with record_offsets(layer) as calls, torch.no_grad():
        node = layer(torch.rand(1, 1, 6, 6)).sum()
    with pytest.raises(ValueError, match="the layer: offsets without a graph: record without torch.no_grad"):
        sampling_influence(node, calls[0])
    for wrong in ((node, torch.rand(1, 1, 6, 6)), (node, torch.rand(1, 1, 6, 6, requires_grad=True))):
        with pytest.raises(ValueError, match=r"no graph from the image to the node: call image.requires_grad_\(\)"):
            receptive_field(*wrong)


def test_torchvisions_layer_has_alarms_and_influence_too():
    layer = torchvision.ops.DeformConv2d(1, 1, 3, stride=2)
    nn.init.ones_(layer.weight)
    offset = torch.full((1, 18, 4, 4), 0.25, requires_grad=True)
    with record_offsets(layer) as calls:
        node = layer(torch.rand(1, 1, 10, 10), 1 * offset)[0, 0, 2, 1]
        layer(torch.rand(1, 1, 10, 10), offset + 40)
    influence = sampling_influence(node, calls[0])
    assert influence.count_nonzero() == 9 and (influence[0, :, 2, 1] > 0).all()
    with pytest.warns(OffsetWarning, match="the layer: offsets explode, 57 pixels on a map of 10"):
        assert len(check_offsets(calls)) == 1


def test_half_precision_offsets_give_whole_points():
    """A bfloat16 offset holds 0.5, but a bfloat16 place cannot tell 300 from 300.5."""
    layer = DeformConv2d(1, 1, 3, padding=1).bfloat16()
    nn.init.constant_(layer.offset_branch.bias, 0.5)
    with record_offsets(layer) as calls, torch.no_grad():
        layer(torch.zeros(1, 1, 4, 400, dtype=torch.bfloat16))
    assert sampling_points([calls[0].field()], (2, 300)).mean(0).tolist() == pytest.approx([2.5, 300.5], abs=1e-4)


def test_colours_stay_apart_for_colour_blind_eyes():
    """As red-blind and green-blind people see them (matrices of Vienot and others 1999), no two of the three look alike."""
    to_rgb = matplotlib.colors.to_rgb
    linear = torch.tensor([to_rgb(name) for name in (POINT, POSITION, ARROW)]).double() ** 2.2
    for red, green, lift in ((0.11238, 0.88762, 0.00401), (0.29275, 0.70725, -0.02234)):
        seen = torch.stack(
            [red * linear[:, 0] + green * linear[:, 1], lift * (linear[:, 0] - linear[:, 1]) + linear[:, 2]], 1
        )
        assert torch.pdist(seen.clamp(0, 1) ** (1 / 2.2)).min() > 0.25


def test_one_field_a_filter_raises_no_false_alarm():
    layer = DeformConv2d(1, 7, 3, padding=1, per_filter=True)
    with record_offsets(layer) as calls:
        layer(torch.rand(1, 1, 6, 6))
    assert check_offsets(calls) == []


def test_nothing_is_needed_for_no_response():
    assert not saliency_region(lambda images: 0 * images.sum((1, 2, 3)), torch.rand(1, 8, 8)).any()


def test_directions_go_round():
    for degrees in (0, 90, -45):
        dy, dx = -math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        field = constant(torch.tensor([[dy, dx]]).expand(9, 2)).offset
        assert offset_direction(field)[2, 3].item() == pytest.approx(degrees, abs=1e-5)
        figure, ax = plt.subplots()
        assert draw_direction(field, ax, torch.tensor([[4.0, 4.0], [1.5, 1.5]])) is ax
        assert ax.images[0].get_clim() == (-180, 180) and ax.images[0].get_extent() == [-0.5, 47.5, 47.5, -0.5]
        plt.close(figure)


def test_weights_colour_the_points_with_the_heaviest_on_top():
    figure, ax = plt.subplots()
    points = torch.tensor([[1.0, 1.0], [2.0, 5.0], [3.0, 3.0]])
    assert draw_points(points, ax, weights=torch.tensor([0.5, 2.0, 0.1])) is ax
    assert ax.collections[0].get_offsets().tolist() == [[3, 3], [1, 1], [5, 2]]
    assert ax.collections[0].get_array().tolist() == pytest.approx([0.1, 0.5, 2.0])
    assert figure.axes[1].get_ylabel() == "weight x mask"
    whole = sampling_points([STILL], positions_of(STILL))
    assert len(draw_points(whole, ax).collections[-1].get_offsets()) == 144 * 9  # the whole grid at once
    plt.close(figure)

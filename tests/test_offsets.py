"""Sampling points: known shift, known rotation, fractional sampling, and the layer's own gradient as the reference."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torchvision
from factories import REGULAR, TAPS, constant_field
from torch import nn
from torch.optim.swa_utils import AveragedModel

from deformlib.convlstm import VariantConvLSTM
from deformlib.deform import DeformConv2d, deform_conv2d, per_filter_deform_conv2d
from deformlib.offsets import (
    Field,
    OffsetWarning,
    base_points,
    map_to_input,
    mean_offset,
    named_layers,
    offset_magnitude,
    output_grid,
    point_weights,
    read_field,
    record_offsets,
    sampling_points,
)
from deformlib.paper.measures import sampling_influence


@pytest.mark.parametrize(("layers", "points", "places"), [(1, 9, 9), (2, 81, 25), (3, 729, 49)])
def test_zero_offsets_are_the_base_grid(layers, points, places):
    seen = sampling_points([REGULAR] * layers, (5, 6))
    assert seen.shape == (points, 2) and len(seen.unique(dim=0)) == places
    assert seen.mean(0).tolist() == [5, 6]
    assert seen.amin(0).tolist() == [5 - layers, 6 - layers]
    assert sampling_points([REGULAR], (5, 6)).equal(TAPS + torch.tensor([5, 6]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_known_shift_adds_up(layers):
    shift = torch.tensor([0.5, -1.25]).double()
    moved = sampling_points([constant_field(shift.repeat(9, 1))] * layers, (5, 6))
    assert torch.allclose(moved - sampling_points([REGULAR] * layers, (5, 6)), layers * shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("degrees", [30, -75, 180])
def test_known_rotation_turns_the_points(layers, degrees):
    angle, centre = math.radians(degrees), torch.tensor([5, 6]).double()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = sampling_points([constant_field(TAPS @ turn.T - TAPS)] * layers, (5, 6)) - centre
    assert torch.allclose(turned, (sampling_points([REGULAR] * layers, (5, 6)) - centre) @ turn.T, rtol=0, atol=1e-12)


def test_fields_between_layers_are_read_at_fractional_places():
    slope = torch.zeros(9, 2, 12, 12).double()
    slope[:, 0] = 0.1 * torch.arange(12).double().view(12, 1)
    slope[:, 1] = -0.2 * torch.arange(12).double()
    push = torch.tensor([0.3, 0.45], dtype=torch.float64)
    points = sampling_points([Field(slope.flatten(0, 1)), constant_field(push.repeat(9, 1))], (5, 5)).view(9, 9, 2)
    between = TAPS + 5 + push  # where the second layer's taps look: the first layer's linear field is exact there
    expected = between[:, None] + TAPS + between[:, None] * torch.tensor([0.1, -0.2], dtype=torch.float64)
    assert torch.allclose(points, expected, rtol=0, atol=1e-12)


def test_order_is_the_last_layers_tap_slowest():
    first, last = torch.zeros(9, 2), torch.zeros(9, 2)
    first[2], last[7] = torch.tensor([0.01, 0.0]), torch.tensor([0.0, 0.1])
    points = sampling_points([constant_field(first), constant_field(last)], (5, 5)) - sampling_points(
        [REGULAR] * 2, (5, 5)
    )
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
    fields = [replace(constant_field(first), to_input=map_to_input(nn.AvgPool2d(2))), constant_field(last)]
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
    far = constant_field(torch.full((9, 2), -40.0))
    assert sampling_points([far, far], (0, 0)).shape == (81, 2)
    assert sampling_points([far, far], (0, 0)).max() == -78
    values = torch.arange(12.0).view(1, 3, 4)
    read = read_field(values, torch.tensor([[-5.0, 1.0], [9.0, 9.0], [0.5, 0.5]]))
    assert read.flatten().tolist() == pytest.approx([1, 11, 2.5])
    assert read_field(torch.tensor([[[3.0]]]), torch.tensor([[0.0, 0.0], [4.0, -2.0]])).flatten().tolist() == [3, 3]


def test_magnitude_and_mean():
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = constant_field(TAPS @ turn.T - TAPS).offset
    assert mean_offset(turned).shape == (2, 12, 12) and mean_offset(turned).abs().max() < 1e-12
    assert offset_magnitude(turned)[3, 4].item() == pytest.approx(2 * math.sin(angle / 2) * (4 + 4 * math.sqrt(2)) / 9)
    shift = constant_field(torch.tensor([3.0, -4.0]).repeat(9, 1)).offset
    assert mean_offset(shift)[:, 0, 0].tolist() == [3, -4] and offset_magnitude(shift)[0, 0] == 5


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match=r"expected offsets \[18, H, W\].*got \[1, 18, 4, 4\]"):
        sampling_points([Field(torch.zeros(1, 18, 4, 4))], (0, 0))
    with pytest.raises(ValueError, match="one for each layer"):
        sampling_points([], (0, 0))


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
def test_the_affine_transform_is_the_middle_of_what_a_chain_reads(chain, size):
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
    scale, add = map_to_input(chain)
    assert torch.allclose(torch.tensor(place) * scale + add, middle, atol=1e-3)


def test_a_layer_used_twice_in_a_chain_counts_twice():
    pool = nn.MaxPool2d(2)
    assert map_to_input(nn.Sequential(pool, pool)).tolist() == [[4, 4], [1.5, 1.5]]


def test_wrapped_layers_of_a_chain_count_once():
    pool, pack = nn.MaxPool2d(2), Pack(4, 4)
    assert map_to_input(torch.compile(pool)).equal(map_to_input(pool)) and map_to_input(nn.DataParallel(pool)).equal(
        map_to_input(pool)
    )
    chain = nn.Sequential(pool, pack, torch.compile(nn.Sequential(pool, nn.Conv2d(1, 1, (4, 3), padding="same"))))
    assert map_to_input(nn.LPPool2d(2, 2, stride=2)).equal(map_to_input(pool))  # a layer that has no padding at all
    assert map_to_input(chain).tolist() == [[4, 4], [3.5, 1.5]]  # four rows, one of them above: half a pixel down
    block = torchvision.models.resnet.BasicBlock(4, 4, 2, nn.Identity())
    assert map_to_input(block.conv1).equal(map_to_input(nn.Sequential(block.conv1))) and map_to_input(block)[
        0
    ].tolist() == [2, 2]
    larger = nn.ConvTranspose2d(1, 1, 2), nn.Upsample(scale_factor=2), nn.PixelShuffle(2)
    for layer in (*larger, nn.AdaptiveAvgPool2d(4)):
        with pytest.raises(ValueError, match="^1 enlarges, or pools to a fixed size"):
            map_to_input(nn.Sequential(pool, layer))


def test_an_offset_branch_may_enlarge():
    """What lies inside a layer is not on the way through it: the centres are those of the layer without the branch."""
    layer = DeformConv2d(2, 2, 3, stride=2, padding=1)
    layer.offset_branch = nn.Sequential(nn.Conv2d(2, 18, 3, 4, 1), nn.Upsample(scale_factor=2))
    plain = nn.Conv2d(2, 2, 3, stride=2, padding=1)
    assert layer(torch.rand(1, 2, 16, 16)).shape == (1, 2, 8, 8)
    assert map_to_input(layer).equal(map_to_input(plain))
    assert map_to_input(nn.Sequential(layer, layer)).equal(map_to_input(nn.Sequential(plain, plain)))


def test_many_positions_at_once_and_where_they_lie():
    torch.manual_seed(0)
    fields = [
        Field(torch.randn(18, 6, 7), to_input=torch.tensor([[4.0, 2.0], [1.5, 0.5]])),
        Field(torch.randn(18, 6, 7)),
    ]
    places = output_grid(fields[-1])
    assert places.shape == (42, 2) and places[8].tolist() == [1, 1]
    grid = sampling_points(fields, places)
    assert grid.shape == (42, 81, 2) and torch.allclose(grid[8], sampling_points(fields, (1, 1)), atol=1e-5)
    assert sampling_points(fields, places.view(6, 7, 2)).equal(grid.view(6, 7, 81, 2))
    assert torch.allclose(
        base_points(fields, places), places * torch.tensor([4.0, 2.0]) + torch.tensor([1.5, 0.5]), atol=1e-5
    )


def test_a_kernel_that_is_not_square():
    field = Field(torch.zeros(30, 4, 5), kernel_size=(3, 5), stride=(2, 1), padding=(1, 2), dilation=(1, 3))
    points = sampling_points([field], (1, 1))
    assert points.amin(0).tolist() == [1, -1] and points.amax(0).tolist() == [3, 11] and len(points) == 15


def test_weights_multiply_and_masks_are_read_between_positions():
    mask = torch.zeros(9, 12, 12).double()
    mask[4] = torch.arange(12).double()  # tap 4 counts as much as its column
    half = constant_field(torch.tensor([0.0, 0.5]).repeat(9, 1))
    first = replace(REGULAR, mask=mask)
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
    """Offset groups move groups of channels: a tap counts by the kernel there alone, with grouped filters too."""
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


def geometry(call):
    """What a convolution does to positions."""
    return call.kernel_size, call.stride, call.padding, call.dilation


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
    assert (
        first.input is x and second.input.equal(net.pack(x)) and (first.kernel_size, first.dilation) == ((3, 3), (2, 2))
    )
    assert first.mask.equal(net.pack.branch(x)[:, 36:].sigmoid()) and first.offset.shape[1] == 36
    assert deep.offset.equal(net.inner[1].fields(deep.input)[0]) and deep.mask is None
    for call, fields in ((theirs, 1), (ours, 2), (filters, 3)):
        assert geometry(call) == ((3, 1), (2, 1), (1, 0), (1, 1))
        assert call.offset.shape[1] == 6 * fields and call.weight.equal(call.layer.kernel) and call.mask is None
    assert filters.per_filter and not ours.per_filter
    for call in calls:  # the operator, told what was recorded, says what the layer said
        for item in (0, 1):
            field, influence = call.field(item), sampling_influence(output[item].square().sum(), call)
            assert field.offset.shape == (2 * math.prod(call.kernel_size), *call.offset.shape[2:])
            assert field.stride == call.stride and influence.shape[1] * 2 == call.offset.shape[1]
            assert influence[item].any() and not influence[1 - item].any()
    points = sampling_points([theirs.field(1)], (1, 2))
    assert torch.allclose(points, torch.tensor([[1.0, 2], [2, 2], [3, 2]]) + theirs.offset[1, :, 1, 2].view(3, 2))
    said = deform_conv2d(filters.input, filters.offset, filters.weight, stride=(2, 1), padding=(1, 0), per_filter=True)
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


SLOW = [pytest.param(wrap, True, marks=pytest.mark.slow) for wrap in WRAPS if wrap != "compiled"]


@pytest.mark.parametrize(("wrap", "called"), [("compiled", True), *((wrap, False) for wrap in WRAPS), *SLOW])
def test_wrapped_networks_are_recorded_as_bare_ones(wrap, called):
    """Compiled before or while the recording runs, called before or not: the names and numbers of the bare network."""
    net, x = packs()
    with record_offsets(net) as expected:
        output = net(x)
    net = WRAPS[wrap](net)
    if called:
        net(x), net(x)
    with record_offsets(net) as calls:
        again = net(x)
    assert [call.name for call in calls] == NAMES and torch.allclose(again, output, atol=1e-6)
    for call, bare in zip(calls, expected, strict=True):
        assert geometry(call) == geometry(bare) and torch.allclose(call.offset, bare.offset, atol=1e-6)
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
    around = torch.compile(lambda x: net.inner(x).sin(), backend="eager")
    around(x)
    with record_offsets(net) as calls:
        around(x)
        net.inner[1].forward(x)  # past the hooks: named after the owner of its weight
        torchvision.ops.deform_conv2d(x, torch.zeros(2, 18, 7, 8), torch.ones(1, 4, 3, 3), padding=1)
        with pytest.raises(RuntimeError):
            torchvision.ops.deform_conv2d(x, torch.zeros(2, 18, 2, 2), torch.ones(1, 4, 3, 3), padding=1)
    assert [call.name for call in calls] == ["inner.1", "inner.1", "deform_conv2d()"] and calls[-1].layer is None
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
    told = pytest.warns(OffsetWarning, match="^Conv2d: no deformable convolution")
    with told as caught, record_offsets(plain) as calls:
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
    torch.manual_seed(0)
    for per_filter in (False, True):
        layer, x = VariantConvLSTM(2, 3, deform_steps=(1, 3), per_filter=per_filter), torch.randn(2, 2, 5, 6, 6)
        nn.init.normal_(layer.deform_layer.offset_branch.weight, std=0.1)
        with record_offsets(layer) as calls:
            layer(x)
        (call,) = calls
        for step in (0, 1):
            for clip in (0, 1):
                said = layer.offset_fields(x)[clip, step]
                if per_filter:  # there the channels go tap by tap
                    said = said.unflatten(0, (9, 3, 2)).transpose(0, 1).flatten(0, 2)
                assert torch.allclose(call.offset[step * 2 + clip], said, atol=1e-6)


def test_points_follow_a_shift_exactly():
    """A layer is a convolution: what moves by whole pixels takes its offsets along."""
    torch.manual_seed(0)
    layer = DeformConv2d(1, 1, 3, padding=1)
    nn.init.normal_(layer.offset_branch.weight, std=0.5)
    image = torch.zeros(1, 1, 20, 20)
    image[..., 8:12, 8:12] = torch.rand(4, 4)
    with record_offsets(layer) as calls, torch.no_grad():
        layer(image), layer(image.roll((3, -2), (2, 3)))
    first, second = (
        sampling_points([call.field()], place) for call, place in zip(calls, [(10, 10), (13, 8)], strict=True)
    )
    assert torch.allclose(second - first, torch.tensor([3.0, -2.0]), atol=1e-5)


def test_half_precision_offsets_give_whole_points():
    """A bfloat16 offset holds 0.5, but a bfloat16 place cannot tell 300 from 300.5."""
    layer = DeformConv2d(1, 1, 3, padding=1).bfloat16()
    nn.init.constant_(layer.offset_branch.bias, 0.5)
    with record_offsets(layer) as calls, torch.no_grad():
        layer(torch.zeros(1, 1, 4, 400, dtype=torch.bfloat16))
    assert sampling_points([calls[0].field()], (2, 300)).mean(0).tolist() == pytest.approx([2.5, 300.5], abs=1e-4)

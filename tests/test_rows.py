"""The engine for many channels: rows of a table against its plain twin, the other engine, and torchvision."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from factories import ORDERS, deform_arguments
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, vmap
from torchvision.ops import deform_conv2d as torchvision_conv2d

from deformlib.deform import deform_conv2d, tap_positions
from deformlib.fast.deform import WIDE, kernel_matrices, project_then_sample, sample_then_project
from deformlib.fast.rows import (
    Layout,
    RowGather,
    corner_rows,
    kernel_rows,
    plain_gather,
    sample_rows,
    scattered_rows,
)

DOUBLE = {"dtype": torch.float64}
WIDE_SHAPES = {  # batch, channels, filters, groups, offset groups, kernel
    "sample first": (2, 32, 40, 1, 1, 3),
    "project first": (2, 40, 32, 1, 1, 3),
    "project first, kernel 1": (1, 65, 33, 1, 1, 1),
    "groups": (2, 64, 64, 2, 1, 3),
    "groups, project first": (1, 128, 64, 2, 2, 3),
    "offset groups": (2, 64, 64, 1, 2, 3),
}
every_shape = pytest.mark.parametrize("shape", WIDE_SHAPES.values(), ids=WIDE_SHAPES)


def draw(shape, masked=True, dtype=torch.float64, size=(9, 8)):
    """Image, offset, weight and perhaps a mask, with offsets far over the border."""
    torch.manual_seed(1)
    batch, channels, filters, groups, offset_groups, kernel = shape
    drawn = [
        torch.randn(batch, channels, *size, **DOUBLE),
        3 * torch.randn(batch, 2 * offset_groups * kernel**2, *size, **DOUBLE),
        torch.randn(filters, channels // groups, kernel, kernel, **DOUBLE),
    ]
    drawn += [torch.rand(batch, offset_groups * kernel**2, *size, **DOUBLE)] if masked else []
    return [tensor.to(dtype).requires_grad_() for tensor in drawn], {"padding": kernel // 2}


def in_parts(operator, x, offset, weight, mask, **options):
    """The same sum from 16 channels at a time, which the other engine samples; without groups."""
    groups = offset.shape[1] // (2 * weight[0, 0].numel())
    parts = zip(x.split(16, 1), weight.split(16, 1), strict=True)
    offsets, masks = offset.chunk(groups, 1), (mask.chunk(groups, 1) if mask is not None else [None] * groups)
    of = [number * groups // (x.shape[1] // 16) for number in range(x.shape[1] // 16)]
    return sum(
        operator(some, offsets[group], kernel, mask=masks[group], **options)
        for group, (some, kernel) in zip(of, parts, strict=True)
    )


def engines(output):
    """Names of the engines' steps in the graph behind an output."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in seen} & {"RowGatherBackward", "GridGatherBackward"}


def both_passes(operator, arguments, **options):
    """Output and all gradients, in a direction that is not constant."""
    x, offset, weight, *mask = arguments
    output = operator(x, offset, weight, mask=mask[0] if mask else None, **options)
    direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output, *torch.autograd.grad(output, arguments, direction)]


@pytest.mark.parametrize(("masked", "projected"), list(product([False, True], [False, True])))
def test_the_engine_equals_its_plain_twin_and_knows_two_gradients(masked, projected):
    """Whole, far and fractional points of two groups and two images, in blocks of four positions of six."""
    torch.manual_seed(0)
    start = 20 * torch.arange(4, dtype=torch.int32).view(2, 2).T.reshape(2, 2, 1, 1).expand(-1, -1, -1, 3)
    layout = Layout(start, 1, (5, 4), 4)
    table, points = torch.randn(80, 2, **DOUBLE).requires_grad_(), 4 * torch.randn(2 + masked, 2, 2, 6, 3, **DOUBLE)
    points[:, 0] = points[:, 0].round()
    arguments = [table, points.requires_grad_()]
    arguments += [torch.randn(2, 5, 6, **DOUBLE).requires_grad_()] if projected else []

    def engine(table, points, weight=None):
        return RowGather.apply(table, points, weight, layout)

    results = []
    for function in (engine, lambda *tensors: plain_gather(*tensors, layout=layout)):
        output = function(*arguments)
        results.append([output, *torch.autograd.grad(output.square().sum(), arguments)])
    for mine, twin in zip(*results, strict=True):
        assert mine.shape == twin.shape and torch.allclose(mine, twin, rtol=0, atol=1e-10)
    arguments[1] = (points.detach().floor() + 0.2 + 0.6 * torch.rand_like(points)).requires_grad_()
    assert torch.autograd.gradcheck(engine, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(engine, arguments, fast_mode=True)


@pytest.mark.parametrize("name", [name for name in ORDERS if name != "per filter"])
@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_rows_equal_maps_in_every_order_and_block(name, block):
    """`sample_rows` beside the functions that sample maps, both orders, whatever the number of channels."""
    groups, offset_groups, filters, _ = ORDERS[name]
    (x, offset, weight, _, mask), options = deform_arguments(ORDERS[name])
    blocks = math.lcm(groups, offset_groups)
    points = tap_positions(offset, weight.shape[2:], padding=options["padding"], dilation=options["dilation"])
    at = torch.cat([points, mask.unflatten(1, (offset_groups, -1, 1))], 3)
    by_block = at.flatten(4).repeat_interleave(blocks // offset_groups, 1)
    matrices = kernel_matrices(weight, groups, blocks, False)
    results = []
    for first in (True, False):
        if first:
            maps = project_then_sample(x, by_block, matrices, groups, 4)
        else:
            maps = sample_then_project(x, at, weight, groups, 4)
        laid = matrices.squeeze(1) if first else kernel_rows(matrices.squeeze(1), groups)
        rows = sample_rows(x, by_block, laid, groups, first, block)
        assert rows.shape == (len(x), filters, math.prod(x.shape[2:])) and torch.allclose(rows, maps, atol=1e-10)
        results += [torch.autograd.grad(each.square().sum(), (x, offset, weight, mask)) for each in (rows, maps)]
    for of_one_kind in zip(*results, strict=True):
        assert all(torch.allclose(each, of_one_kind[0], rtol=0, atol=1e-8) for each in of_one_kind)


@every_shape
@pytest.mark.parametrize("masked", [False, True])
def test_equals_torchvision_where_channels_are_many(shape, masked):
    arguments, options = draw(shape, masked)
    ours, theirs = (both_passes(operator, arguments, **options) for operator in (deform_conv2d, torchvision_conv2d))
    assert engines(ours[0]) == {"RowGatherBackward"}
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["sample first", "offset groups"])
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_equals_the_other_engine_at_both_borders_and_on_whole_pixels(name, border):
    shape = WIDE_SHAPES[name]
    arguments, options = draw(shape)
    for offset in (arguments[1], arguments[1].detach().round().requires_grad_(), torch.zeros_like(arguments[1])):
        given = [arguments[0], offset.requires_grad_(), *arguments[2:]]
        whole = both_passes(deform_conv2d, given, border=border, **options)
        parts = both_passes(
            lambda *tensors, **more: in_parts(deform_conv2d, *tensors, **more), given, border=border, **options
        )
        assert (engines(whole[0]), engines(parts[0])) == ({"RowGatherBackward"}, {"GridGatherBackward"})
        for mine, other in zip(whole, parts, strict=True):
            assert torch.allclose(mine, other, rtol=0, atol=1e-9)


def test_which_engine_is_asked():
    """Many channels to a point and positions enough; plain tensors of a CPU."""

    def asked(channels, filters, size, **options):
        x, weight = torch.rand(1, channels, *size), torch.rand(filters, channels // options.get("groups", 1), 3, 3)
        offset = torch.zeros(1, 18 * options.pop("fields", 1), *size, requires_grad=True)
        return engines(deform_conv2d(x, offset, weight, padding=1, **options))

    rows, maps = {"RowGatherBackward"}, {"GridGatherBackward"}
    assert asked(WIDE, WIDE, (8, 8)) == rows and asked(WIDE - 1, WIDE, (8, 8)) == maps
    assert asked(2 * WIDE, WIDE, (8, 8)) == rows and asked(2 * WIDE, WIDE - 1, (8, 8)) == maps  # projected first
    assert asked(2 * WIDE, 2 * WIDE, (8, 8), fields=2) == rows and asked(2 * WIDE, 2 * WIDE, (8, 8), fields=4) == maps
    assert asked(64, 64, (8, 8)) == rows and asked(64, 65, (8, 8)) == maps  # fewer positions than filters
    assert asked(64, 32, (8, 8), fields=32, per_filter=True) == maps
    with FakeTensorMode():
        assert asked(WIDE, WIDE, (8, 8)) == maps


@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.02), (torch.float16, 0.003), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["sample first", "project first"])
def test_points_are_exact_in_half_precision(name, dtype, close):
    exact, options = draw(WIDE_SHAPES[name], size=(4, 130))  # bfloat16 has no 129.3
    short = [tensor.detach().to(torch.float32 if i == 1 else dtype).requires_grad_() for i, tensor in enumerate(exact)]
    exact = [tensor.detach().double().requires_grad_() for tensor in short]
    right, got = (both_passes(deform_conv2d, arguments, **options) for arguments in (exact, short))
    for wanted, found, argument in zip(right, got, [short[0], *short], strict=True):
        assert found.dtype == argument.dtype and (found.double() - wanted).norm() <= close * wanted.norm()


@every_shape
def test_shapes_and_dtypes_are_known_without_numbers(shape):
    arguments, options = draw(shape, dtype=torch.bfloat16)
    real = both_passes(deform_conv2d, arguments, **options)
    with FakeTensorMode() as mode:
        fake = both_passes(
            deform_conv2d, [mode.from_tensor(tensor).requires_grad_() for tensor in arguments], **options
        )
    assert [(each.shape, each.dtype) for each in fake] == [(each.shape, each.dtype) for each in real]


@pytest.mark.parametrize("name", ["sample first", "project first"])
def test_not_a_number_and_infinite_offsets(name):
    """One tap that is not a number spoils the outputs of its position, no others; infinity reads zeros."""
    (x, offset, weight), options = draw(WIDE_SHAPES[name], masked=False)
    bad = offset.detach().clone()
    bad[0, 4, 1, 1] = torch.nan
    output = deform_conv2d(x, bad, weight, **options)
    assert output[0, :, 1, 1].isnan().all() and output.isnan().sum() == len(weight)
    far = offset.detach().clone()
    far[:, ::3], far[:, 1::5] = math.inf, -math.inf
    results = both_passes(deform_conv2d, [x, far.requires_grad_(), weight], **options)
    assert all(each.isfinite().all() for each in results) and (results[2][:, ::3] == 0).all()
    away = torch.where(far.detach().isinf(), far.detach().sign() * 100, far.detach())
    assert torch.allclose(results[0], deform_conv2d(x, away, weight, **options), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["sample first", "project first"])
def test_function_transforms_and_double_backward(name):
    """vmap of grad against one by one, and the gradient of a gradient against the sum of narrow parts."""
    (x, offset, weight, mask), options = draw(WIDE_SHAPES[name], size=(7, 6))

    def loss(x, offset, mask, weight):
        return deform_conv2d(x[None], offset[None], weight, mask=mask[None], **options).square().sum()

    each = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(0, 0, 0, None))(x, offset, mask, weight)
    for clip in range(len(x)):
        leaves = [tensor.detach().requires_grad_() for tensor in (x[clip], offset[clip], mask[clip], weight)]
        alone = torch.autograd.grad(loss(*leaves), leaves)
        for got, wanted in zip(each, alone, strict=True):
            assert torch.allclose(got[clip], wanted, rtol=0, atol=1e-8)
    if name == "sample first":
        arguments, second = (x, offset, weight, mask), []
        for operator in (deform_conv2d, lambda *tensors, **more: in_parts(deform_conv2d, *tensors, **more)):
            output = operator(*arguments[:3], mask=mask, **options)
            first = torch.autograd.grad(output.square().sum(), arguments, create_graph=True)
            second.append(torch.autograd.grad(sum(part.square().sum() for part in first), arguments))
        for mine, other in zip(*second, strict=True):
            assert torch.allclose(mine, other, rtol=1e-9, atol=1e-6)


def test_a_parameter_as_the_image_and_frozen_arguments():
    """An image that is a parameter takes the same way; what needs no gradient gets none."""
    (x, offset, weight), options = draw(WIDE_SHAPES["sample first"], masked=False)
    output = deform_conv2d(nn.Parameter(x.detach()), offset.detach(), weight.detach(), **options)
    assert engines(output) == {"RowGatherBackward"}
    (wanted,) = torch.autograd.grad(deform_conv2d(x, offset, weight, **options).sum(), x)
    frozen = x.detach().requires_grad_()
    (got,) = torch.autograd.grad(deform_conv2d(frozen, offset.detach(), weight.detach(), **options).sum(), frozen)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [32, 64])
@pytest.mark.parametrize(("batch", "size"), [(0, (5, 4)), (1, (1, 1)), (2, (1, 1)), (1, (1, 3))])
def test_no_image_and_maps_of_less_than_four_pixels(batch, size, channels):
    """An empty batch, and tables with fewer rows than a sum has."""
    arguments, options = draw((batch, channels, 32, 1, 1, 1), size=size)
    ours, theirs = (both_passes(operator, arguments, **options) for operator in (deform_conv2d, torchvision_conv2d))
    assert engines(ours[0]) == {"RowGatherBackward" if batch else "GridGatherBackward"}
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape and torch.allclose(mine, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["sample first", "project first"])
@pytest.mark.parametrize("batch", [1, 2])
def test_embedding_bag_is_handed_contiguous_tables(name, batch, monkeypatch):
    """Other strides are correct and several times slower (findings/embedding_bag_strided_table.sh)."""
    seen = []

    def watched(rows, table, *more, **options):
        seen.append(table)
        return embedding_bag(rows, table, *more, **options)

    embedding_bag = F.embedding_bag
    monkeypatch.setattr(F, "embedding_bag", watched)
    arguments, options = draw((batch, *WIDE_SHAPES[name][1:]), dtype=torch.float32)
    arguments[0] = arguments[0].detach().to(memory_format=torch.channels_last).mT.contiguous().mT.requires_grad_()
    both_passes(deform_conv2d, arguments, **options)
    assert len(seen) >= 2 and all(table.is_contiguous() for table in seen)


def test_rows_that_nobody_sampled_get_no_gradient():
    gradient = scattered_rows(torch.ones(1, 3), torch.tensor([[1, 1]]), torch.tensor([[1.0, 2.0]]), 4)
    assert gradient.tolist() == [[0.0] * 3, [3.0] * 3, [0.0] * 3, [0.0] * 3]
    rows, on_map, _, _ = corner_rows(
        torch.full((2, 1, 1, 1, 1), 9.0), Layout(torch.zeros(1, 1, 1, 1).int(), 1, (4, 5), 1)
    )
    assert (on_map == 0).all() and 0 <= rows.min() <= rows.max() < 20

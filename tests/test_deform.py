"""Deformable convolution against loops, torchvision, numerical gradients and the released code's numbers."""

import math
import os
import warnings
from contextlib import nullcontext
from itertools import product
from pathlib import Path

import benchmark
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, export
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from deformlib.convlstm import released_border
from deformlib.deform import (
    ArgumentError,
    DeformConv2d,
    deform_conv2d,
    deform_conv2d_loops,
    neighbours,
    parameter_groups,
    per_filter_deform_conv2d,
    products,
    tap_positions,
    with_torchvision,
)

REFERENCE = Path(__file__).parent / "data" / "ref_deform_7x6x5_4.npz"

CASES = {
    "batch": st.sampled_from([0, 1, 2, 3]),
    "groups": st.sampled_from([1, 1, 2, 4]),
    "offset_groups": st.sampled_from([1, 1, 2, 4]),
    "filters": st.sampled_from([4, 8, 16]),  # of 8 channels: both sides of "mix first" and "look first"
    "kernel": st.sampled_from([(3, 3), (1, 1), (2, 3), (3, 1)]),
    "stride": st.sampled_from([1, 2, (2, 1)]),
    "padding": st.sampled_from([0, 1, (2, 1)]),
    "dilation": st.sampled_from([1, 2, (1, 2)]),
    "masked": st.booleans(),
    "biased": st.booleans(),
    "reach": st.sampled_from([0.0, 0.7, 3.0, 40.0]),  # zero offsets, small ones, past the border, far outside
    "whole": st.booleans(),  # offsets of whole pixels, where the bilinear function has its kinks
    "strided": st.booleans(),  # tensors that do not lie in memory in the order of their axes
    "seed": st.integers(0, 2**31),
}
ORDERS = {  # groups, offset groups, filters of 8 channels, per filter
    "mix first": (1, 1, 4, False),
    "mix first, offset groups": (1, 2, 2, False),
    "look first": (1, 1, 8, False),
    "look first, groups": (2, 4, 4, False),
    "per filter": (1, 3, 3, True),
}
SLOW = ("paper, layer 1", "paper, field per filter")  # torchvision needs seconds, and several times our memory: make benchmark
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
COMPILER = pytest.mark.skipif("DEFORMLIB_SLOW" not in os.environ, reason="half a minute of C++: set DEFORMLIB_SLOW=1")
no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none")


def pair(value):
    return (value, value) if isinstance(value, int) else value


def make(batch, groups, offset_groups, filters, kernel, stride, padding, dilation, masked, biased, reach, whole, seed,
         channels=8, size=(7, 6), dtype=torch.float64, strided=False):  # fmt: skip
    """Random arguments of deform_conv2d: (input, offset, weight, bias, mask) with gradients, and the geometry."""
    rng = torch.Generator().manual_seed(seed)
    steps = zip(size, kernel, pair(stride), pair(padding), pair(dilation), strict=True)
    out = [(length + 2 * pad - wide * (taps - 1) - 1) // step + 1 for length, taps, step, pad, wide in steps]
    taps = offset_groups * kernel[0] * kernel[1]

    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)

    offset = draw(batch, 2 * taps, *out) * reach
    tensors = [
        draw(batch, channels, *size),
        offset.round() if whole else offset,
        draw(filters, channels // groups, *kernel),
        draw(filters) if biased else None,
        draw(batch, taps, *out) if masked else None,
    ]
    if strided:
        tensors = [None if t is None else t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    tensors = [None if tensor is None else tensor.requires_grad_() for tensor in tensors]
    return tensors, {"stride": stride, "padding": padding, "dilation": dilation}


def both(ours, theirs, tensors):
    """Outputs and the gradients of all arguments, from two functions of the same tensors."""
    given_tensors = [tensor for tensor in tensors if tensor is not None]
    results = []
    for function in (ours, theirs):
        output = function(tensors)
        direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        results.append([output, *torch.autograd.grad(output, given_tensors, direction)])
    return results


def small(order, size=(4, 3), seed=3, dtype=torch.float64, batch=2):
    """Small arguments for one of the orders of work, with a mask, away from the kinks, and the options that go with them."""
    groups, fields, filters, per_filter = order
    rng = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, 8, *size),
        (batch, 8 * fields, *size),
        (filters, 8 // groups, 2, 2),
        (filters,),
        (batch, 4 * fields, *size),
    )
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    drawn[1] = (drawn[1] * 1.5).floor() + 0.2 + 0.6 * torch.rand(shapes[1], generator=rng, dtype=torch.float64)
    return [tensor.to(dtype).requires_grad_() for tensor in drawn], {
        "padding": (1, 1),
        "per_filter": per_filter,
        "dilation": (2, 2),
    }


def calls(geometry):
    """Ours and torchvision's operator as functions of the same list of tensors."""
    return [
        lambda t, f=f: f(t[0], t[1], t[2], t[3], mask=t[4], **geometry)
        for f in (deform_conv2d, torchvision_deform_conv2d)
    ]


@settings(max_examples=120, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES))
def test_equals_torchvision_with_gradients_in_float64(case):
    tensors, geometry = make(**case)
    for ours, theirs in zip(*both(*calls(geometry), tensors), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES))
def test_equals_torchvision_in_float32(case):
    tensors, geometry = make(**case, dtype=torch.float32)
    ours, theirs = (call([None if t is None else t.detach() for t in tensors]) for call in calls(geometry))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * max([1, *theirs.abs().flatten().tolist()]))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES), border=st.sampled_from(["zero", "clamp"]), per_filter=st.booleans())
def test_equals_loops(case, border, per_filter):
    case |= {"batch": 1, "channels": 4, "size": (4, 5), "groups": min(case["groups"], 2), "filters": case["filters"] // 4}
    case |= {"offset_groups": min(case["offset_groups"], 2), "padding": 1}
    case["filters"] *= case["groups"]
    if per_filter:
        case |= {"groups": 1, "offset_groups": case["filters"]}
    if case["dilation"] == 2 and case["kernel"] == (3, 3):
        case["padding"] = 2
    (*arguments, mask), geometry = make(**case)
    options = geometry | {"mask": mask, "border": border, "per_filter": per_filter}
    with torch.no_grad():
        got, expected = (operator(*arguments, **options) for operator in (deform_conv2d, deform_conv2d_loops))
    assert torch.allclose(got, expected, rtol=0, atol=1e-10)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_takes_the_same_side_of_the_kink_as_the_loops(order, border):
    """Zero offsets and offsets of whole pixels, also on the border: gradients of all arguments."""
    arguments, options = small(order, size=(3, 2), batch=1)
    arguments[1] = (arguments[1].detach() * 0.7).round().requires_grad_()
    results = []
    for operator in (deform_conv2d, deform_conv2d_loops):
        x, offset, weight, bias, mask = arguments
        output = operator(x, offset, weight, bias, mask=mask, border=border, **options)
        results.append(torch.autograd.grad(output.square().sum(), arguments))
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(2, 16, 9, 8, 4), (2, 4, 9, 8, 4)], ids=["mix first", "look first"])
def test_gradients_equal_torchvision_where_training_starts(shape):
    batch, channels, height, width, filters = shape
    torch.manual_seed(0)
    x, weight = torch.randn(batch, channels, height, width), torch.randn(filters, channels, 3, 3)
    offset = torch.zeros(batch, 18, height, width)
    tensors = [tensor.requires_grad_() for tensor in (x, offset, weight)] + [None, None]
    geometry = {"stride": 1, "padding": 1, "dilation": 1}
    for ours, theirs in zip(*both(*calls(geometry), tensors), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = nn.functional.conv2d(x, weight, padding=1)
    assert torch.allclose(deform_conv2d(x, offset, weight, padding=1), plain, rtol=0, atol=1e-4)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_equals_loops_at_both_borders_and_per_filter(order, border):
    (x, offset, weight, bias, mask), options = small(order, batch=1)
    with torch.no_grad():
        got, expected = (
            operator(x, offset, weight, bias, mask=mask, border=border, **options)
            for operator in (deform_conv2d, deform_conv2d_loops)
        )
        assert torch.allclose(got, expected, rtol=0, atol=1e-10)
        other = deform_conv2d(
            x, offset, weight, bias, mask=mask, border={"zero": "clamp", "clamp": "zero"}[border], **options
        )
        assert not torch.allclose(other, got, rtol=0, atol=1e-3)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
def test_gradcheck_and_gradgradcheck(order, border):
    arguments, options = small(order, size=(3, 2), batch=1)

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, mask=mask, border=border, **options)

    assert torch.autograd.gradcheck(function, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, arguments, fast_mode=True)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=COMPILER)])
@pytest.mark.parametrize("order", [ORDERS["mix first"], ORDERS["look first, groups"], ORDERS["per filter"]], ids=str)
def test_compiles_without_graph_breaks(order, backend):
    arguments, options = small(order, dtype=torch.float32)

    def function(x, offset, weight, bias, mask):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options)

    torch.compiler.reset()
    results = []
    for call_it in (function, torch.compile(function, fullgraph=True, backend=backend)):
        output = call_it(*arguments)
        results.append([output, *torch.autograd.grad(output.square().sum(), arguments)])
    for plain, compiled in zip(*results, strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-4)


@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_and_dtypes_are_known_without_numbers(order, dtype):
    """What torch.library.opcheck asks of an operator's fake form: the same shape, dtype and strides, gradients included."""
    arguments, options = small(order, dtype=dtype)

    def both_passes(x, offset, weight, bias, mask):
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        return output, *torch.autograd.grad(output.float().sum(), (x, offset, weight, bias, mask))

    real = both_passes(*arguments)
    meta = both_passes(*(argument.detach().to("meta").requires_grad_() for argument in arguments))
    assert [(t.shape, t.dtype) for t in meta] == [(t.shape, t.dtype) for t in real]
    with FakeTensorMode() as mode:
        fake = both_passes(*(mode.from_tensor(argument).requires_grad_() for argument in arguments))
    assert [(t.shape, t.dtype, t.stride()) for t in fake] == [(t.shape, t.dtype, t.stride()) for t in real]


@every_order
@pytest.mark.parametrize(("dtype", "close"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_keeps_places_exact(order, dtype, close):
    exact, options = small(order, size=(4, 130))  # bfloat16 has no 129.3
    exact[1] = (exact[1].detach() / 8).round(decimals=2).requires_grad_()
    short = [t.detach().to(dtype if i in (0, 2, 3) else torch.float32).requires_grad_() for i, t in enumerate(exact)]
    exact = [t.detach().double().requires_grad_() for t in short]
    results = []
    for x, offset, weight, bias, mask in (exact, short):
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        results.append([output, *torch.autograd.grad(output.float().sum(), (x, offset, weight, bias, mask))])
    assert results[1][0].dtype == dtype
    for right, got, argument in zip(results[0], results[1], [short[0], *short], strict=True):
        assert got.dtype == argument.dtype
        assert (got.double() - right).norm() <= close * right.norm()


@pytest.mark.parametrize("options", [{}, {"per_filter": True}, {"modulated": True}, {"groups": 2}])
def test_autocast_makes_outputs_of_its_own_dtype(options):
    torch.manual_seed(0)
    layer = DeformConv2d(8, 4, 3, padding=1, **options)
    nn.init.normal_(layer.offset_branch.weight, std=0.02)
    x = torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(x)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert (output.float() - layer(x)).norm() <= 0.03 * output.float().norm()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())


def test_large_maps_are_worked_on_in_blocks():
    """Blocks of lines of one image, and of several images, join to the whole; per filter, too."""
    torch.manual_seed(0)
    for shape, filters in (((1, 3, 70, 70), 2), ((5, 3, 20, 20), 4), ((2, 3, 100, 60), 4)):
        x, weight = torch.randn(shape, dtype=torch.float64), torch.randn(filters, 3, 3, 3, dtype=torch.float64)
        offset = torch.randn(shape[0], 18, *shape[2:], dtype=torch.float64)
        given_tensors = [x.requires_grad_(), offset.requires_grad_(), weight.requires_grad_()]
        geometry = {"stride": 1, "padding": 1, "dilation": 1}
        for mine, other in zip(*both(*calls(geometry), [*given_tensors, None, None]), strict=True):
            assert torch.allclose(mine, other, rtol=0, atol=1e-9)
        fields = offset.detach().unflatten(1, (9, 1, 2)).expand(-1, -1, filters, -1, -1, -1).flatten(1, 3)
        shared = deform_conv2d(x, offset, weight, padding=1)
        assert torch.allclose(per_filter_deform_conv2d(x, fields, weight, padding=1), shared, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in benchmark.CASES if name not in SLOW])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "with gradients"])
def test_holds_no_more_memory_than_torchvision(name, both):
    arguments = benchmark.tensors(*benchmark.CASES[name], "cpu", torch.float32)
    held = [
        benchmark.peak(lambda operator=operator: benchmark.call(operator, arguments, both), "cpu")
        for operator in (benchmark.ours, benchmark.theirs)
    ]
    assert held[0] <= held[1]


@no_gpu
@every_order
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu_equals_cpu(order, dtype):
    arguments, options = small(order, dtype=torch.float32)
    results = []
    for device, kind in (("cpu", torch.float32), ("cuda", dtype)):
        moved = [
            t.detach().to(device, kind if i in (0, 2, 3) else torch.float32).requires_grad_()
            for i, t in enumerate(arguments)
        ]
        x, offset, weight, bias, mask = moved
        output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
        results.append([output, *torch.autograd.grad(output.float().sum(), moved)])
    for cpu, gpu in zip(*results, strict=True):
        assert (gpu.cpu().float() - cpu).norm() <= (1e-4 if dtype == torch.float32 else 0.03) * cpu.norm()


@pytest.mark.parametrize("filters", [2, 8])
def test_empty_batch_and_strided_memory(filters):
    x, offset, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.randn(filters, 4, 3, 3)
    expected = torchvision_deform_conv2d(x, offset, weight, padding=1)
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (x, offset, weight)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.allclose(deform_conv2d(*strided, padding=1), expected, atol=1e-5)
    assert deform_conv2d(x[:0], offset[:0], weight, padding=1).shape == (0, filters, 6, 5)


@every_order
@pytest.mark.parametrize("border", ["zero", "clamp"])
@pytest.mark.parametrize("other", [0.3, -50.0, math.inf])
def test_a_not_a_number_offset_stays_visible(order, border, other):
    """One tap of one position: the outputs that it feeds, in all forms, whatever its other axis is; and no more."""
    (x, offset, weight, bias, mask), options = small(order, size=(3, 2), batch=1)
    offset = offset.detach().clone()
    for axis in (0, 1):
        bad = offset.clone()
        bad[0, axis, 2, 1], bad[0, 1 - axis, 2, 1] = torch.nan, other
        got, loops = (
            operator(x, bad, weight, bias, mask=mask, border=border, **options)
            for operator in (deform_conv2d, deform_conv2d_loops)
        )
        assert torch.allclose(got, loops, rtol=0, atol=1e-10, equal_nan=True)
        assert 0 < got[0, :, 2, 1].isnan().sum() == got.isnan().sum()


FAR = (0.3, -1.0, -1.5, 3.5, 4.0, 1e30, -1e38, math.inf, -math.inf)


@pytest.mark.parametrize("filters", [1, 4], ids=["mix first", "look first"])
@pytest.mark.parametrize("place", [None, 11, 0], ids=["finite map", "NaN in the last pixel", "NaN in the first pixel"])
def test_places_far_outside_read_what_torchvision_reads(filters, place):
    """Values and, where torchvision has finite ones, gradients; shared field, field per filter, and the loops.

    A tap at exactly -1 stands on a kink, and reads the first pixel with share 0: a NaN there shows, in torchvision it does not.
    """
    torch.manual_seed(0)
    image, weight = torch.randn(1, 2, 4, 3), torch.randn(filters, 2, 1, 1).requires_grad_()
    if place is not None:
        image[0, 0].view(-1)[place] = torch.nan
    image.requires_grad_()
    for dy, dx in product(FAR, FAR):
        if place == 0 and -1 in (dy, dx):
            continue
        offset = torch.tensor([dy, dx]).view(1, 2, 1, 1).repeat(1, 1, 4, 3).requires_grad_()
        right = torchvision_deform_conv2d(image, offset, weight)
        alone = deform_conv2d(image, offset.repeat(1, filters, 1, 1), weight, per_filter=True)
        together = deform_conv2d(image, offset, weight)
        for got in (together, alone, deform_conv2d_loops(image, offset, weight)):
            assert torch.allclose(got, right, rtol=0, atol=1e-5, equal_nan=True), (dy, dx)
        wanted = torch.autograd.grad(right.sum(), (image, offset, weight))
        for output in (together, alone):
            gradients = torch.autograd.grad(output.sum(), (image, offset, weight))
            checked = zip(gradients[:2] if place is not None else gradients, wanted)  # mixing first, NaN meets all weights
            for ours, theirs in checked:
                known = theirs.isfinite()
                assert torch.allclose(ours[known], theirs[known], rtol=0, atol=1e-4), (dy, dx)


@pytest.mark.parametrize("far", [100.0, 1e30, math.inf])
def test_a_clamped_border_is_read_from_any_distance(far):
    """The corner pixel in all three forms; slopes are 0."""
    image = torch.arange(12.0).view(1, 1, 4, 3)
    offset = torch.tensor([far, -far]).view(1, 2, 1, 1).repeat(1, 1, 4, 3).requires_grad_()
    weight = torch.ones(1, 1, 1, 1)
    outputs = [deform_conv2d(image, offset, weight, border="clamp", per_filter=alone) for alone in (False, True)]
    outputs.append(deform_conv2d_loops(image, offset, weight, border="clamp"))
    for output in outputs:
        assert (output == 9).all()  # the last row, the first column
    for output in outputs[:2]:
        assert (torch.autograd.grad(output.sum(), offset)[0] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_offsets_that_overflowed_read_zero(dtype):
    """float16 ends at 65,504."""
    offset = torch.full((1, 18, 5, 5), 60000.0).to(dtype) * 1e35
    assert offset.isinf().all()
    for options in ({}, {"per_filter": True}):
        output = deform_conv2d(torch.ones(1, 2, 5, 5).to(dtype), offset, torch.ones(1, 2, 3, 3).to(dtype), padding=1, **options)
        assert output.dtype == dtype and (output == 0).all()


@every_order
def test_gradients_through_infinite_offsets_are_finite_twice(order):
    (x, offset, weight, bias, mask), options = small(order, batch=1)
    offset = offset.detach().clone()
    offset.view(-1)[::3], offset.view(-1)[1::5] = math.inf, -math.inf
    offset.requires_grad_()
    output = deform_conv2d(x, offset, weight, bias, mask=mask, **options)
    first = torch.autograd.grad(output.square().sum(), (x, offset, weight, mask), create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), (x, offset, weight, mask))
    assert all(each.isfinite().all() for each in (output, *first, *second))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.zeros(4, 6, 5)}, "4 axes"),
        ({"weight": torch.zeros(2, 3, 3, 3)}, "4 input channels"),
        ({"offset": torch.zeros(2, 18, 5, 5)}, r"expected \[2, 18, 6, 5\]"),
        ({"offset": torch.zeros(2, 9, 6, 5)}, r"expected \[2, 18, 6, 5\]"),
        ({"offset": torch.zeros(2, 54, 6, 5)}, "divides 4"),
        ({"offset": torch.zeros(1, 18, 6, 5)}, r"expected \[2, 18, 6, 5\]"),
        ({"mask": torch.zeros(2, 18, 6, 5)}, r"expected \[2, 9, 6, 5\]"),
        ({"weight": torch.zeros(2, 4, 3, 3).double()}, "bring both to one"),
        ({"weight": torch.zeros(2, 4, 9, 3)}, "more padding"),
        ({"bias": torch.zeros(1)}, r"bias \[1\] does not fit: expected \[2\]"),
        ({"bias": torch.zeros(3)}, r"bias \[3\] does not fit: expected \[2\]"),
        ({"stride": 0}, "stride is 0 .*: expected 1 or more"),
        ({"dilation": (1, 0)}, r"dilation \(1, 0\): expected 1 or more"),
        ({"border": "wrap"}, '"zero" or "clamp"'),
        ({"per_filter": True}, r"expected \[2, 36, 6, 5\]"),
        ({"per_filter": True, "weight": torch.zeros(2, 2, 3, 3)}, "without groups"),
    ],
)
@pytest.mark.parametrize("expected", [ValueError, RuntimeError])  # RuntimeError is torchvision's
@pytest.mark.parametrize("function", [deform_conv2d, deform_conv2d_loops])
def test_wrong_shapes_are_named(function, expected, change, message):
    arguments = {
        "input": torch.zeros(2, 4, 6, 5),
        "offset": torch.zeros(2, 18, 6, 5),
        "weight": torch.zeros(2, 4, 3, 3),
    }
    with pytest.raises(expected, match=message):
        function(**(arguments | change), padding=1)


def test_positions_hold_the_base_grid_and_points_outside():
    positions = tap_positions(torch.zeros(1, 18, 4, 4), 3, stride=2, padding=1)
    assert positions.shape == (1, 1, 9, 2, 4, 4)
    assert positions[0, 0, 0, :, 0, 0].tolist() == [-1, -1]
    assert positions[0, 0, 5, :, 1, 2].tolist() == [2, 5]
    (rows, share_y), (columns, share_x) = (neighbours(axis + 0.25, 8) for axis in positions.unbind(3))
    share = products(share_y, share_x)
    assert torch.allclose(share.sum(-1)[0, 0, 4], torch.ones(4, 4))  # inside, the four shares make one
    assert share[0, 0, 0, 0, 0].tolist() == [0.5625, 0.1875, 0.1875, 0.0625]  # the corner pixel, a quarter each way
    assert {(int(number.min()), int(number.max())) for number in (rows, columns)} == {(-1, 8)}  # with the rim
    numbers, shares = neighbours(torch.tensor([-50.0, -1.5, 8.5, torch.inf, -torch.inf]), 8)
    assert numbers.tolist() == [[-1, -1, 8, 8, -1]] * 2 and torch.equal(shares.sum(0), torch.ones(5))


def test_per_filter_equals_the_released_layer_with_clean_borders():
    numbers = np.load(REFERENCE)
    x = torch.from_numpy(numbers["x"]).permute(0, 3, 1, 2).float()
    weight = torch.from_numpy(numbers["kernel"]).permute(3, 2, 0, 1).float()
    branch = torch.from_numpy(numbers["offset_kernel"]).permute(3, 2, 0, 1).float()
    offset = nn.functional.conv2d(x, branch, torch.from_numpy(numbers["offset_bias"]).float(), padding=1)
    bias = torch.from_numpy(numbers["bias"]).float()
    output = per_filter_deform_conv2d(x, offset, weight, bias, padding=1)
    assert np.abs(output.permute(0, 2, 3, 1).numpy() - numbers["out_zero"]).max() < 1e-5
    plain = per_filter_deform_conv2d(x, torch.zeros_like(offset), weight, bias, padding=1)
    assert np.abs(plain.permute(0, 2, 3, 1).numpy() - numbers["out_zero_zerooff"]).max() < 1e-5
    clamped = per_filter_deform_conv2d(x, offset, weight, bias, padding=1, border="clamp")
    assert np.abs(clamped.permute(0, 2, 3, 1).numpy() - numbers["out_clip"]).max() < 1e-5
    inside = np.abs(numbers["out_authors"] - numbers["out_zero"]).max(-1) < 1e-5
    assert not inside.all()  # the released border is another one


def test_per_filter_has_the_released_gradients_at_the_released_border():
    file = np.load(REFERENCE)
    names = ("x", "kernel", "bias", "offset_kernel", "offset_bias")
    tensors = {name: torch.from_numpy(file[name]).requires_grad_() for name in names}
    x, weight, branch = (
        tensors[name].permute(axes)
        for name, axes in (("x", (0, 3, 1, 2)), ("kernel", (3, 2, 0, 1)), ("offset_kernel", (3, 2, 0, 1)))
    )
    offset = nn.functional.conv2d(x, branch, tensors["offset_bias"], padding=1)
    offset, mask = released_border(offset, 3)
    output = per_filter_deform_conv2d(x, offset, weight, tensors["bias"], padding=1, mask=mask).permute(0, 2, 3, 1)
    assert np.abs(output.detach().numpy() - file["out_authors"]).max() < 1e-5
    gradients = torch.autograd.grad((output * torch.from_numpy(file["loss_weight"])).sum(), list(tensors.values()))
    for name, gradient in zip(tensors, gradients, strict=True):
        assert np.abs(gradient.numpy() - file[f"grad_{name}"]).max() < 1e-4, name


def test_per_filter_equals_one_call_a_filter_with_gradients():
    torch.manual_seed(1)
    x, weight = torch.randn(2, 3, 6, 5, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    offset = torch.randn(2, 9, 4, 2, 3, 3, dtype=torch.float64)  # [B, tap, filter, (dy, dx), H', W']
    tensors = [x.requires_grad_(), offset.requires_grad_(), weight.requires_grad_()]
    geometry = {"stride": 2, "padding": 1}

    def theirs(t):
        return torch.cat(
            [
                torchvision_deform_conv2d(t[0], t[1][:, :, f].flatten(1, 2), t[2][f : f + 1], **geometry)
                for f in range(4)
            ],
            1,
        )

    def ours(t):
        return per_filter_deform_conv2d(t[0], t[1].flatten(1, 3), t[2], **geometry)

    for mine, other in zip(*both(ours, theirs, tensors), strict=True):
        assert torch.allclose(mine, other, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match=r"expected \[2, 72, 3, 3\]"):
        per_filter_deform_conv2d(x, offset.flatten(1, 3)[:, :-1], weight, **geometry)


@pytest.mark.parametrize("options", [{}, {"per_filter": True}, {"offset_groups": 2}, {"groups": 2, "bias": False}])
def test_layer_starts_as_a_plain_convolution(options):
    torch.manual_seed(0)
    layer = DeformConv2d(8, 4, 3, stride=2, padding=1, **options)
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 4, 3, stride=2, padding=1, groups=options.get("groups", 1), bias=options.get("bias", True))
    x = torch.randn(2, 8, 9, 7)
    assert torch.equal(layer.weight, plain.weight)  # the same random numbers as nn.Conv2d draws
    assert torch.allclose(layer(x), plain(x), atol=1e-5)
    layer(x).sum().backward()
    assert layer.offset_branch.weight.grad.abs().max() > 0  # it can leave zero


def test_modulated_layer_starts_at_half_a_convolution():
    torch.manual_seed(0)
    layer = DeformConv2d(8, 4, 3, padding=1, bias=False, modulated=True)
    x = torch.randn(2, 8, 9, 7)
    offset, mask = layer.fields(x)
    assert offset.shape == (2, 18, 9, 7) and mask.shape == (2, 9, 9, 7)
    assert (offset == 0).all() and (mask == 0.5).all()
    assert torch.allclose(layer(x), 0.5 * nn.functional.conv2d(x, layer.weight, padding=1), atol=1e-5)


def test_layer_uses_the_branch_it_owns():
    torch.manual_seed(0)
    layer = DeformConv2d(4, 6, 3, padding=1, modulated=True, offset_groups=2)
    nn.init.normal_(layer.offset_branch.weight, std=0.2)
    x = torch.randn(2, 4, 6, 6)
    offset, mask = layer.fields(x)
    expected = torchvision_deform_conv2d(x, offset, layer.weight, layer.bias, padding=1, mask=mask)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    with pytest.raises(ValueError, match="per_filter"):
        DeformConv2d(4, 6, 3, per_filter=True, offset_groups=2)


def test_per_filter_layer_may_be_modulated():
    torch.manual_seed(0)
    layer = DeformConv2d(4, 3, 3, padding=1, per_filter=True, modulated=True, bias=False)
    nn.init.normal_(layer.offset_branch.weight, std=0.2)
    x = torch.randn(2, 4, 6, 6)
    offset, mask = (maps.unflatten(1, (9, 3, -1)).unbind(2) for maps in layer.fields(x))  # filter by filter
    one = [
        torchvision_deform_conv2d(
            x, offset[f].flatten(1, 2), layer.weight[f : f + 1], padding=1, mask=mask[f].flatten(1, 2)
        )
        for f in range(3)
    ]
    assert torch.allclose(layer(x), torch.cat(one, 1), atol=1e-5)


def test_offset_branches_have_their_own_learning_rate():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), DeformConv2d(4, 4, 3), nn.Sequential(DeformConv2d(4, 2, 3, modulated=True)))
    rest, slow = parameter_groups(net, lr=0.01, offset_scale=0.1)
    assert rest["lr"] == 0.01 and slow["lr"] == pytest.approx(0.001)
    assert {id(p) for p in slow["params"]} == {
        id(p) for i in ("1", "2.0") for p in net.get_submodule(i).offset_branch.parameters()
    }
    assert len(rest["params"]) + len(slow["params"]) == len(list(net.parameters()))
    assert len(parameter_groups(nn.Conv2d(1, 1, 1), lr=0.1)) == 1
    torch.optim.RMSprop(parameter_groups(net, lr=0.01)).step()


@pytest.mark.parametrize("kernel_size", [3, (1, 5), 2, (4, 3)])
@pytest.mark.parametrize("dilation", [1, (1, 2)])
@pytest.mark.parametrize("options", [{"padding": "same"}, {"padding": "valid"}, {"padding": "same", "per_filter": True}])
def test_padding_by_name_is_that_of_a_plain_convolution(kernel_size, dilation, options):
    torch.manual_seed(0)
    layer = DeformConv2d(4, 2, kernel_size, dilation=dilation, **options)
    x = torch.randn(2, 4, 11, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch notes that it copies x when a kernel is even
        plain = nn.functional.conv2d(x, layer.weight, layer.bias, padding=options["padding"], dilation=dilation)
        assert layer(x).shape == plain.shape and torch.allclose(layer(x), plain, atol=1e-5)
        nn.init.normal_(layer.offset_branch.weight, std=0.2)
        offset, _ = layer.fields(x)
    if not layer.per_filter:
        padded = nn.functional.pad(x, (0, layer.rest[1], 0, layer.rest[0]))
        right = torchvision_deform_conv2d(padded, offset, layer.weight, layer.bias, **layer.place)
        assert torch.allclose(layer(x), right, atol=1e-5) and not torch.allclose(right, plain, atol=1e-2)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same", "stride": 2}, "not supported for strided"),
        ({"padding": "reflect"}, "padding"),
        ({"padding": -1}, "padding -1: expected 1 or more, padding 0 or more"),
        ({"stride": 0}, "stride 0"),
        ({"dilation": (1, 0)}, r"dilation \(1, 0\)"),
        ({"stride": (1, 1, 1)}, "one number or two each"),
        ({"kernel_size": 0}, "kernel_size 0"),
        ({"offset_groups": 3}, "expected a number that divides 4 channels"),
        ({"offset_groups": 0}, "expected a number that divides 4 channels"),
        ({"groups": 3}, "divisible by groups"),
        ({"per_filter": True, "groups": 2}, "per_filter"),
    ],
)
def test_a_wrong_layer_is_refused_where_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DeformConv2d(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options))


LAYERS = {
    "mix first": {"out_channels": 2, "modulated": True},
    "look first": {"out_channels": 8, "groups": 2, "offset_groups": 4, "stride": 2},
    "per filter": {"out_channels": 3, "per_filter": True},
}


def moving(options):
    """A layer of 4 channels that moves its taps."""
    torch.manual_seed(0)
    layer = DeformConv2d(4, kernel_size=3, padding=1, **options).eval()
    nn.init.normal_(layer.offset_branch.weight, std=0.2)
    return layer


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("size", [(9, 7), (80, 90)], ids=["one block", "several blocks"])
@torch.no_grad()
def test_traced_and_exported_layers_take_any_batch(options, size):
    layer, x = moving(options), torch.randn(5, 4, *size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and notes what it takes for constant
        traced = torch.jit.trace(layer, x[:2])
    exported = export(layer, (x[:2],), dynamic_shapes=({0: Dim("batch")},)).module()
    for graph, batch in product((traced, exported), (x[:2], x, x[:1])):
        assert torch.allclose(graph(batch), layer(batch), atol=1e-5)


@torch.no_grad()
def test_onnx_has_one_node_for_a_layer(tmp_path):
    net = nn.Sequential(moving({"out_channels": 4}), nn.ReLU(), moving({"out_channels": 3, "modulated": True}))
    twin, x = with_torchvision(net.eval()), torch.randn(5, 4, 9, 7)
    assert torch.allclose(twin(x), net(x), atol=1e-5) and net[0].operator is deform_conv2d
    free = ({0: Dim("batch")},)
    torch.onnx.export(twin, (x[:2],), tmp_path / "net.onnx", dynamic_shapes=free, opset_version=19, verbose=False)
    nodes = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert nodes.count("DeformConv") == 2 and "Loop" not in nodes
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for batch in (x[:2], x):
        (output,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        assert np.abs(output - net(batch).numpy()).max() < 1e-5
    with pytest.raises(ValueError, match="^1: torchvision has no field for every filter"):
        with_torchvision(nn.Sequential(nn.ReLU(), moving({"out_channels": 3, "per_filter": True})))


def test_torchvisions_operator_gets_numbers_only():
    """The shape is wrong as well, so that nothing but a message could come of it, whoever checks first."""
    twin = with_torchvision(DeformConv2d(4, 3, 3, padding=1))
    with pytest.raises(ArgumentError, match="an offset is not a number"):
        twin.operator(torch.zeros(1, 4, 5, 5), torch.full((1, 7, 5, 5), torch.nan), twin.weight, twin.bias, **twin.place)


@every_order
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch batches embedding_bag one by one
def test_function_transforms_equal_autograd(order):
    """torch.func's grad, vmap and jacrev, alone and together, against ordinary gradients."""
    pairs = [small(order, size=(3, 2), seed=seed, batch=1) for seed in (3, 4, 5)]
    (_, _, weight, bias, _), options = pairs[0]
    stacked = [torch.stack([arguments[i].detach() for arguments, _ in pairs]) for i in (0, 1, 4)]

    def loss(x, offset, mask, weight):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options).square().sum()

    one_by_one = []
    for x, offset, mask in zip(*stacked, strict=True):
        leaves = [leaf.clone().requires_grad_() for leaf in (x, offset, mask, weight)]
        one_by_one.append(torch.autograd.grad(loss(*leaves), leaves))
    each = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(0, 0, 0, None))(*stacked, weight)
    for got, wanted in zip(each, zip(*one_by_one, strict=True), strict=True):
        assert torch.allclose(got, torch.stack(wanted), rtol=0, atol=1e-9)

    x, offset, mask = (tensor[0] for tensor in stacked)
    each = vmap(grad(loss, argnums=(0, 1, 2, 3)), in_dims=(None, 0, None, None))(x, stacked[1], mask, weight)
    for got, wanted in zip(each, one_by_one[0], strict=True):  # the same map, other places
        assert torch.allclose(got[0], wanted, rtol=0, atol=1e-9)
    moved = jacrev(lambda o: deform_conv2d(x, o, weight, mask=mask, **options), chunk_size=1)(offset)
    at_once = pytest.raises(RuntimeError, match="vmap")  # all outputs at once: refused, and never wrong
    with nullcontext() if order[3] else at_once:
        assert torch.equal(moved, jacrev(lambda o: deform_conv2d(x, o, weight, mask=mask, **options))(offset))
    wanted = torch.autograd.functional.jacobian(lambda o: deform_conv2d(x, o, weight, mask=mask, **options), offset)
    assert torch.allclose(moved, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_every_clip_by_functional_call(options):
    layer, x = moving(options), torch.randn(3, 4, 5, 5)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters, image):
        return functional_call(layer, parameters, (image[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert torch.allclose(each[name].sum(0), parameter.grad, rtol=1e-4, atol=1e-4)


@every_order
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
def test_forward_mode_is_refused_and_never_silently_zero(order):
    (x, offset, weight, bias, mask), options = small(order, size=(3, 2), batch=1)

    def function(x):
        return deform_conv2d(x, offset, weight, bias, mask=mask, **options)

    for transform in (lambda: jvp(function, (x,), (x,)), lambda: jacfwd(function)(x)):
        with pytest.raises(NotImplementedError, match="jvp"):
            transform()
    _, change = torch.autograd.functional.jvp(function, x, x)  # two gradients give the same
    assert torch.allclose(change, function(x) - bias.view(-1, 1, 1), rtol=0, atol=1e-9)  # it is linear in x

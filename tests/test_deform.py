"""The deformable operator and its layer against loops, torchvision and the released code's numbers."""

import doctest
import math
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import deform_operators, outputs_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from deformlib import deform
from deformlib.deform import (
    DeformConv2d,
    deform_conv2d,
    deform_conv2d_loops,
    parameter_groups,
    per_filter_deform_conv2d,
    tap_positions,
    to_2tuple,
)
from deformlib.fast.deform import ArgumentError
from deformlib.files import DeformlibError
from deformlib.paper.released import released_border

REFERENCE = Path(__file__).parent / "data" / "ref_deform_7x6x5_4.npz"

CASES = {
    "batch": st.sampled_from([0, 1, 2, 3]),
    "groups": st.sampled_from([1, 1, 2, 4]),
    "offset_groups": st.sampled_from([1, 1, 2, 4]),
    "filters": st.sampled_from([4, 8, 16]),  # of 8 channels: both orders of the sums
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


def make(batch, groups, offset_groups, filters, kernel, stride, padding, dilation, masked, biased, reach, whole, seed,
         channels=8, size=(7, 6), dtype=torch.float64, strided=False):  # fmt: skip
    """Random arguments of deform_conv2d: (input, offset, weight, bias, mask) with gradients, and the geometry."""
    rng = torch.Generator().manual_seed(seed)
    steps = zip(size, kernel, to_2tuple(stride), to_2tuple(padding), to_2tuple(dilation), strict=True)
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


@settings(max_examples=70, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES))
def test_equals_torchvision_with_gradients_in_float64(case):
    tensors, geometry = make(**case)
    for ours, theirs in zip(*outputs_and_gradients(deform_operators(geometry), tensors), strict=True):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-10)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES))
def test_equals_torchvision_in_float32(case):
    tensors, geometry = make(**case, dtype=torch.float32)
    ours, theirs = (call([None if t is None else t.detach() for t in tensors]) for call in deform_operators(geometry))
    assert ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * max([1, *theirs.abs().flatten().tolist()]))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(case=st.fixed_dictionaries(CASES), border=st.sampled_from(["zero", "clamp"]), per_filter=st.booleans())
def test_equals_loops(case, border, per_filter):
    case |= {
        "batch": 1,
        "channels": 4,
        "size": (4, 5),
        "groups": min(case["groups"], 2),
        "filters": case["filters"] // 4,
    }
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


@pytest.mark.parametrize("shape", [(2, 16, 9, 8, 4), (2, 4, 9, 8, 4)], ids=["project first", "sample first"])
def test_gradients_equal_torchvision_where_training_starts(shape):
    batch, channels, height, width, filters = shape
    torch.manual_seed(0)
    x, weight = torch.randn(batch, channels, height, width), torch.randn(filters, channels, 3, 3)
    offset = torch.zeros(batch, 18, height, width)
    tensors = [tensor.requires_grad_() for tensor in (x, offset, weight)] + [None, None]
    geometry = {"stride": 1, "padding": 1, "dilation": 1}
    for ours, theirs in zip(*outputs_and_gradients(deform_operators(geometry), tensors), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    plain = nn.functional.conv2d(x, weight, padding=1)
    assert torch.allclose(deform_conv2d(x, offset, weight, padding=1), plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("filters", [2, 8])
def test_empty_batch_and_strided_memory(filters):
    x, offset, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.randn(filters, 4, 3, 3)
    expected = torchvision_deform_conv2d(x, offset, weight, padding=1)
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (x, offset, weight)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.allclose(deform_conv2d(*strided, padding=1), expected, atol=1e-5)
    assert deform_conv2d(x[:0], offset[:0], weight, padding=1).shape == (0, filters, 6, 5)


FAR = (0.3, -1.0, -1.5, 3.5, 4.0, 1e30, -1e38, math.inf, -math.inf)


@pytest.mark.parametrize("filters", [1, 4], ids=["project first", "sample first"])
@pytest.mark.parametrize("place", [None, 11, 0], ids=["finite map", "NaN in the last pixel", "NaN in the first pixel"])
def test_points_far_outside_sample_what_torchvision_samples(filters, place):
    """Values and, where torchvision has finite ones, gradients; shared offsets, offsets per filter, and the loops.

    A tap at exactly -1 stands on a kink: a NaN shows there, unlike in torchvision.
    """
    torch.manual_seed(0)
    pairs = torch.tensor([pair for pair in product(FAR, FAR) if place != 0 or -1 not in pair])
    image, weight = torch.randn(1, 2, 4, 3), torch.randn(filters, 2, 1, 1).requires_grad_()
    if place is not None:
        image[0, 0].view(-1)[place] = torch.nan
    images = image.repeat(len(pairs), 1, 1, 1).requires_grad_()  # an image for each pair of distances
    offset = pairs[:, :, None, None].repeat(1, 1, 4, 3).requires_grad_()
    right = torchvision_deform_conv2d(images, offset, weight)
    alone = deform_conv2d(images, offset.repeat(1, filters, 1, 1), weight, per_filter=True)
    together = deform_conv2d(images, offset, weight)
    for got in (together, alone, deform_conv2d_loops(images, offset, weight) if filters == 1 else together):
        assert torch.allclose(got, right, rtol=0, atol=1e-5, equal_nan=True)
    wanted = torch.autograd.grad(right.sum(), (images, offset, weight))
    for output in (together, alone):
        gradients = torch.autograd.grad(output.sum(), (images, offset, weight))
        checked = gradients[:2] if place is not None else gradients  # projected first, NaN meets all weights
        for ours, theirs in zip(checked, wanted, strict=False):
            known = theirs.isfinite()
            assert known.any() and torch.allclose(ours[known], theirs[known], rtol=0, atol=1e-4)


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
        ({"stride": 0}, r"stride is \(0, 0\).*1 or more"),
        ({"dilation": (1, 0)}, r"dilation \(1, 0\).*1 or more"),
        ({"border": "wrap"}, '"zero" or "clamp"'),
        ({"per_filter": True}, r"expected \[2, 36, 6, 5\]"),
        ({"per_filter": True, "weight": torch.zeros(2, 2, 3, 3)}, "without groups"),
    ],
)
@pytest.mark.parametrize("function", [deform_conv2d, deform_conv2d_loops])
def test_wrong_shapes_are_named(function, change, message):
    arguments = {
        "input": torch.zeros(2, 4, 6, 5),
        "offset": torch.zeros(2, 18, 6, 5),
        "weight": torch.zeros(2, 4, 3, 3),
    }
    with pytest.raises(ArgumentError, match=message):
        function(**(arguments | change), padding=1)


def test_positions_hold_the_base_grid_and_points_outside():
    positions = tap_positions(torch.zeros(1, 18, 4, 4), 3, stride=2, padding=1)
    assert positions.shape == (1, 1, 9, 2, 4, 4)
    assert positions[0, 0, 0, :, 0, 0].tolist() == [-1, -1]
    assert positions[0, 0, 5, :, 1, 2].tolist() == [2, 5]


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

    for mine, other in zip(*outputs_and_gradients((ours, theirs), tensors), strict=True):
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
@pytest.mark.parametrize(
    "options", [{"padding": "same"}, {"padding": "valid"}, {"padding": "same", "per_filter": True}]
)
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
        padded = nn.functional.pad(x, (0, layer.odd_padding[1], 0, layer.odd_padding[0]))
        geometry = layer.stride, layer.padding, layer.dilation
        right = torchvision_deform_conv2d(padded, offset, layer.weight, layer.bias, *geometry)
        assert torch.allclose(layer(x), right, atol=1e-5) and not torch.allclose(right, plain, atol=1e-2)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "same", "stride": 2}, "not supported for strided"),
        ({"padding": "reflect"}, "padding"),
        ({"padding": -1}, "padding -1: .*padding 0 or more"),
        ({"stride": 0}, "stride 0"),
        ({"dilation": (1, 0)}, r"dilation \(1, 0\)"),
        ({"stride": (1, 1, 1)}, "one number or two each"),
        ({"kernel_size": 0}, "kernel_size 0"),
        ({"offset_groups": 3}, "offset_groups 3 must divide 4 channels"),
        ({"offset_groups": 0}, "offset_groups 0 must divide 4 channels"),
        ({"groups": 3}, "divisible by groups"),
        ({"per_filter": True, "groups": 2}, "per_filter"),
    ],
)
def test_a_wrong_layer_is_refused_where_it_is_made(options, message):
    with pytest.raises(ValueError, match=message):
        DeformConv2d(**({"in_channels": 4, "out_channels": 6, "kernel_size": 3} | options))


def test_the_examples_in_the_docstrings_run():
    result = doctest.testmod(deform)
    runner, found = doctest.DocTestRunner(), doctest.DocTestFinder().find(deform_conv2d, globs=dict(vars(deform)))
    assert len(found) == 1  # testmod passes over a function that is wrapped
    wrapped = runner.run(found[0])
    assert result.attempted >= 2 and wrapped.attempted >= 2 and result.failed == wrapped.failed == 0


def test_an_argument_error_is_caught_as_any_of_its_kinds():
    """Ours, a value that does not fit, and what torchvision's operator raises."""
    for kind in (DeformlibError, ValueError, RuntimeError):
        with pytest.raises(kind, match="4 axes"):
            deform_conv2d(torch.zeros(4, 6, 5), torch.zeros(2, 18, 6, 5), torch.zeros(2, 4, 3, 3))


def test_a_layer_keeps_and_shows_its_hyperparameters():
    layer = DeformConv2d(8, 4, (3, 5), stride=2, padding=(1, 2), groups=2, offset_groups=4, modulated=True)
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (8, 4, (3, 5))
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 2), (1, 2), (1, 1), 2)
    assert (layer.offset_groups, layer.modulated, layer.per_filter) == (4, True, False)
    shown = repr(layer)
    assert "kernel_size=(3, 5), stride=(2, 2), padding=(1, 2)" in shown and "offset_groups=4, modulated=True" in shown


def test_a_subclass_may_change_what_is_sampled():
    class Still(DeformConv2d):
        def sample(self, x, offset, mask=None):
            return super().sample(x, torch.zeros_like(offset), mask)

    torch.manual_seed(0)
    layer, x = Still(4, 3, 3, padding=1), torch.randn(1, 4, 6, 5)
    nn.init.normal_(layer.offset_branch.weight)
    assert torch.allclose(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=1), atol=1e-5)

"""Deformable convolution against loops, torchvision, numerical gradients and the released code's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from deformlib.deform import (
    DeformConv2d,
    corners,
    deform_conv2d,
    deform_conv2d_loops,
    parameter_groups,
    per_filter_deform_conv2d,
    tap_positions,
)

REFERENCE = Path(__file__).parent / "data" / "ref_deform_7x6x5_4.npz"

CASES = {
    "batch": st.sampled_from([1, 2, 3]),
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
    "seed": st.integers(0, 2**31),
}


def pair(value):
    return (value, value) if isinstance(value, int) else value


def make(batch, groups, offset_groups, filters, kernel, stride, padding, dilation, masked, biased, reach, whole, seed,
         channels=8, size=(7, 6), dtype=torch.float64):  # fmt: skip
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
    assert (ours - theirs).abs().max() <= 1e-5 * max(1, theirs.abs().max())


@pytest.mark.parametrize("seed", range(12))
def test_equals_loops(seed):
    rng = np.random.default_rng(seed)

    def choose(*options):
        return options[rng.integers(len(options))]

    case = {
        "batch": choose(1, 2), "groups": choose(1, 2), "offset_groups": choose(1, 2), "filters": choose(2, 4), "kernel": choose((2, 2), (1, 3)),
        "stride": choose(1, (2, 1)), "padding": choose(0, (1, 2)), "dilation": choose(1, (2, 1)), "masked": bool(seed % 2),
        "biased": bool(seed % 3), "reach": choose(0.0, 0.8, 4.0), "whole": False, "seed": seed, "channels": 4, "size": (4, 5),
    }  # fmt: skip
    (*arguments, mask), geometry = make(**case)
    with torch.no_grad():
        expected = deform_conv2d_loops(*arguments, mask=mask, **geometry)
        assert torch.allclose(deform_conv2d(*arguments, mask=mask, **geometry), expected, rtol=0, atol=1e-10)


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


@pytest.mark.parametrize("filters", [2, 8], ids=["mix first", "look first"])
def test_gradcheck(filters):
    case = {"batch": 1, "groups": 1, "offset_groups": 1, "filters": filters, "kernel": (2, 2), "stride": 1, "padding": 1, "dilation": 1,
                "masked": True, "biased": True, "reach": 0.6, "whole": False, "seed": 4, "channels": 4, "size": (3, 3)}  # fmt: skip
    tensors, geometry = make(**case)
    assert torch.autograd.gradcheck(lambda *t: deform_conv2d(t[0], t[1], t[2], t[3], mask=t[4], **geometry), tensors)


@pytest.mark.parametrize("filters", [2, 8])
def test_empty_batch_and_strided_memory(filters):
    x, offset, weight = torch.randn(2, 4, 6, 5), torch.randn(2, 18, 6, 5), torch.randn(filters, 4, 3, 3)
    expected = torchvision_deform_conv2d(x, offset, weight, padding=1)
    strided = [tensor.transpose(2, 3).contiguous().transpose(2, 3) for tensor in (x, offset, weight)]
    assert not any(tensor.is_contiguous() for tensor in strided)
    assert torch.allclose(deform_conv2d(*strided, padding=1), expected, atol=1e-5)
    assert deform_conv2d(x[:0], offset[:0], weight, padding=1).shape == (0, filters, 6, 5)


def test_a_not_a_number_offset_stays_visible():
    offset = torch.zeros(1, 18, 5, 5)
    offset[0, 0, 2, 2] = torch.nan
    output = deform_conv2d(torch.ones(1, 2, 5, 5), offset, torch.ones(1, 2, 3, 3), padding=1)
    assert torch.isnan(output[0, 0, 2, 2]) and torch.isnan(output).sum() == 1


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
    ],
)
@pytest.mark.parametrize("function", [deform_conv2d, deform_conv2d_loops])
def test_wrong_shapes_are_named(function, change, message):
    arguments = {
        "input": torch.zeros(2, 4, 6, 5),
        "offset": torch.zeros(2, 18, 6, 5),
        "weight": torch.zeros(2, 4, 3, 3),
    }
    with pytest.raises(ValueError, match=message):
        function(**(arguments | change), padding=1)


def test_positions_hold_the_base_grid_and_points_outside():
    positions = tap_positions(torch.zeros(1, 18, 4, 4), 3, stride=2, padding=1)
    assert positions.shape == (1, 1, 9, 2, 4, 4)
    assert positions[0, 0, 0, :, 0, 0].tolist() == [-1, -1]
    assert positions[0, 0, 5, :, 1, 2].tolist() == [2, 5]
    pixel, share = corners(positions + 0.25, 8, 8)
    assert torch.allclose(share.sum(1)[0, 0, 4], torch.ones(4, 4))  # inside, the four shares make one
    assert (
        share[0, :, 0, 0, 0, 0].tolist() == [0, 0, 0, 0.0625] and pixel.min() == 0
    )  # the corner pixel, a quarter each way


def test_per_filter_equals_the_released_layer_with_a_zero_border():
    numbers = np.load(REFERENCE)
    print(numbers["README"])
    x = torch.from_numpy(numbers["x"]).permute(0, 3, 1, 2).float()
    weight = torch.from_numpy(numbers["kernel"]).permute(3, 2, 0, 1).float()
    branch = torch.from_numpy(numbers["offset_kernel"]).permute(3, 2, 0, 1).float()
    offset = nn.functional.conv2d(x, branch, torch.from_numpy(numbers["offset_bias"]).float(), padding=1)
    bias = torch.from_numpy(numbers["bias"]).float()
    output = per_filter_deform_conv2d(x, offset, weight, bias, padding=1)
    assert np.abs(output.permute(0, 2, 3, 1).numpy() - numbers["out_zero"]).max() < 1e-5
    plain = per_filter_deform_conv2d(x, torch.zeros_like(offset), weight, bias, padding=1)
    assert np.abs(plain.permute(0, 2, 3, 1).numpy() - numbers["out_zero_zerooff"]).max() < 1e-5
    inside = np.abs(numbers["out_authors"] - numbers["out_zero"]).max(-1) < 1e-5
    assert not inside.all()  # the released border is another one


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
        DeformConv2d(4, 6, 3, per_filter=True, modulated=True)


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

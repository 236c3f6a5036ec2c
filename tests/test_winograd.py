"""Winograd's F(4, 3) along time against the ordinary convolution, and where a layer takes it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deformlib.fast.winograd import (
    FILTER_TRANSFORM,
    INPUT_TRANSFORM,
    OUTPUT_TRANSFORM,
    WinogradConv3d,
    conv3d_winograd,
)


def test_the_transforms_are_exact():
    """Against the tables of Lavin and Gray 2016, F(4, 3), whose frames are scaled by 4, -6, -6, 24, 24, 1."""
    table = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    table += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    scale = torch.tensor([4.0, -6, -6, 24, 24, 1]).double()[:, None]
    torch.testing.assert_close(scale * INPUT_TRANSFORM, torch.tensor(table).double(), atol=1e-14, rtol=0)
    frames, taps = torch.randn(6).double(), torch.randn(3).double()
    outputs = OUTPUT_TRANSFORM @ ((FILTER_TRANSFORM @ taps) * (INPUT_TRANSFORM @ frames))
    torch.testing.assert_close(outputs, frames.unfold(0, 3, 1) @ taps, atol=1e-13, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 3, 3), (3, 2, 8, 5, 4), (2, 5, 12, 1, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_it_is_the_convolution(shape, memory_format):
    torch.manual_seed(0)
    clips = torch.randn(shape).double().to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, shape[1], 3, 3, 3).double().requires_grad_()
    results = []
    for output in (F.conv3d(clips, weight, padding=1), conv3d_winograd(clips, weight)):
        results.append((output, *torch.autograd.grad(output.sin().sum(), (clips, weight))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_gradcheck():
    torch.manual_seed(0)
    clips = torch.randn(2, 2, 4, 3, 2).double().requires_grad_()
    weight = torch.randn(2, 2, 3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(conv3d_winograd, (clips, weight), fast_mode=True)


def test_double_backward_is_refused():
    """A graph of the gradient may be asked for, as long as nobody goes backwards through it."""
    clips, weight = torch.randn(1, 2, 4, 3, 3).requires_grad_(), torch.randn(2, 2, 3, 3, 3)
    (gradient,) = torch.autograd.grad(conv3d_winograd(clips, weight).square().sum(), clips, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_float32_at_a_wide_layer():
    """Output and gradients of a wide layer: 1e-5 of the largest number, 3e-6 of the norm, half the products."""
    torch.manual_seed(0)
    clips, weight = torch.randn(1, 128, 8, 7, 7), torch.randn(64, 128, 3, 3, 3) * 0.02
    results, products = [], []
    for convolve in (lambda x, w: F.conv3d(x.double(), w.double(), padding=1), conv3d_winograd):
        x, w = clips.clone().requires_grad_(), weight.clone().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            output = convolve(x, w)
            gradients = torch.autograd.grad(output.square().sum(), (x, w))
        results.append((output, *gradients))
        counted = counter.get_flop_counts()["Global"]
        products.append(counted[torch.ops.aten.convolution] + counted[torch.ops.aten.convolution_backward])
    for exact, ours in zip(*results, strict=True):
        difference = ours.double() - exact.double()
        assert difference.norm() < 3e-6 * exact.norm() and difference.abs().max() < 1e-5 * exact.abs().max()
    assert products[1] == products[0] / 2 > 0


def test_the_output_is_channels_last():
    clips = torch.randn(2, 3, 8, 5, 4).contiguous(memory_format=torch.channels_last_3d)
    output = conv3d_winograd(clips, torch.randn(4, 3, 3, 3, 3))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def uses_winograd(output: torch.Tensor) -> bool:
    """Whether an output that has a gradient came from conv3d_winograd."""
    return output.grad_fn.name() == "WinogradBackward"


@pytest.mark.parametrize(
    "channels, frames, dtype, autocast, used",
    [
        (64, 8, torch.float32, False, True),
        (63, 8, torch.float32, False, False),
        (64, 9, torch.float32, False, False),
        (64, 8, torch.bfloat16, False, False),
        (64, 8, torch.float32, True, False),
    ],
)
def test_a_layer_takes_it_only_where_it_pays(channels, frames, dtype, autocast, used):
    layer = WinogradConv3d(channels, 2).to(dtype)
    clips = torch.rand(1, channels, frames, 2, 2, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(clips)
    assert uses_winograd(output) == used
    torch.testing.assert_close(output.float(), F.conv3d(clips, layer.weight, padding=1).float(), atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none")
def test_a_gpu_keeps_the_ordinary_convolution():
    assert not uses_winograd(WinogradConv3d(64, 2).cuda()(torch.rand(1, 64, 8, 4, 4, device="cuda")))


def test_arguments_that_do_not_fit_are_refused():
    """Frames in fours, a kernel of 3x3x3, and a layer without options to ignore."""
    with pytest.raises(ValueError, match="6 frames.*multiple of 4"):
        conv3d_winograd(torch.zeros(1, 1, 6, 4, 4), torch.zeros(1, 1, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\[F, C, 3, 3, 3\], got \[8, 64, 1, 3, 3\]"):
        conv3d_winograd(torch.rand(1, 64, 4, 6, 6), torch.rand(8, 64, 1, 3, 3))
    with pytest.raises(TypeError):
        WinogradConv3d(64, 8, 3, stride=2)


def test_an_activation_in_place_may_follow_in_training():
    layer, clips = WinogradConv3d(64, 8), torch.rand(1, 64, 4, 6, 6)
    nn.functional.leaky_relu_(layer(clips)).sum().backward()
    got, layer.weight.grad = layer.weight.grad, None
    nn.functional.leaky_relu(nn.functional.conv3d(clips, layer.weight, padding=1)).sum().backward()
    assert torch.allclose(got, layer.weight.grad, rtol=1e-3, atol=1e-3)

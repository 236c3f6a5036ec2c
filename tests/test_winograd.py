"""Winograd's F(4, 3) along time, height and width against the ordinary convolution, and where a layer takes it."""

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
    """The point 0 belongs to (s^2 - 9/16) (s^2 - 9/4), scaled to 1 at 0; four outputs against a plain sum."""
    first = torch.tensor([1, 0, -20 / 9, 0, 64 / 81, 0], dtype=torch.float64)
    torch.testing.assert_close(INPUT_TRANSFORM[0], first, atol=1e-14, rtol=0)
    frames, taps = torch.randn(6).double(), torch.randn(3).double()
    outputs = OUTPUT_TRANSFORM @ ((FILTER_TRANSFORM @ taps) * (INPUT_TRANSFORM @ frames))
    torch.testing.assert_close(outputs, frames.unfold(0, 3, 1) @ taps, atol=1e-13, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4, 4), (3, 2, 8, 5, 4), (2, 5, 13, 1, 7), (2, 2, 16, 24, 80)])
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
    """Output and gradients of a wide layer: 4e-6 of the norm, 1e-5 of the largest number."""
    torch.manual_seed(0)
    clips, weight = torch.randn(1, 128, 8, 8, 8), torch.randn(64, 128, 3, 3, 3) * 0.02
    results = []
    for convolve in (lambda x, w: F.conv3d(x.double(), w.double(), padding=1), conv3d_winograd):
        x, w = clips.clone().requires_grad_(), weight.clone().requires_grad_()
        output = convolve(x, w)
        results.append((output, *torch.autograd.grad(output.square().sum(), (x, w))))
    for exact, ours in zip(*results, strict=True):
        difference = ours.double() - exact.double()
        assert difference.norm() < 4e-6 * exact.norm() and difference.abs().max() < 1e-5 * exact.abs().max()


def test_counted_multiply_adds():
    """An eighth of the convolution's, and the transforms: a table [m, n] takes m n (n^2 + m n + m^2) a channel."""
    tiles, channels, filters = 2 * 2 * 3, 5, 7
    clips, weight = torch.randn(1, channels, 8, 8, 12).requires_grad_(), torch.randn(filters, channels, 3, 3, 3)
    products = 27 * clips[0, 0].numel() * channels * filters // 8
    kernels, incoming, outgoing = 1134 * channels * filters, 3888 * tiles * channels, 1824 * tiles * filters
    with FlopCounterMode(display=False) as counter:
        output = conv3d_winograd(clips, weight.requires_grad_())
    assert counter.get_total_flops() == 2 * (products + kernels + incoming + outgoing)
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == 2 * (products + 2 * kernels + 2 * incoming + outgoing)  # baddbmm_: uncounted


def test_the_output_is_channels_last():
    for width in (4, 5):
        clips = torch.randn(2, 3, 8, 4, width).contiguous(memory_format=torch.channels_last_3d)
        output = conv3d_winograd(clips, torch.randn(4, 3, 3, 3, 3))
        assert output.is_contiguous(memory_format=torch.channels_last_3d)


def uses_winograd(output: torch.Tensor) -> bool:
    """Whether an output that has a gradient came from conv3d_winograd."""
    return output.grad_fn.name() == "WinogradBackward"


BFLOAT16 = torch.bfloat16


def pretend(monkeypatch, matrix_units):
    """A processor with units for matrices of bfloat16, without them, or (None) one that PyTorch knows nothing of."""
    capabilities = {} if matrix_units is None else {"amx_bf16": matrix_units}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize(
    "channels, dtype, autocast, size, matrix_units, used",
    [
        (64, torch.float32, None, 4, True, True),
        (63, torch.float32, None, 4, False, False),
        (64, torch.float64, None, 4, False, False),
        (64, torch.float64, BFLOAT16, 32, False, False),
        (64, BFLOAT16, None, 32, False, True),
        (64, BFLOAT16, None, 28, False, False),
        (64, BFLOAT16, None, 32, True, False),
        (64, BFLOAT16, None, 32, None, False),
        (64, torch.float32, BFLOAT16, 32, False, True),
        (64, torch.float32, BFLOAT16, 28, False, False),
        (64, torch.float32, BFLOAT16, 32, True, False),
        (64, torch.float32, torch.float16, 32, False, False),
    ],
)
def test_a_layer_takes_it_only_where_it_pays(channels, dtype, autocast, size, matrix_units, used, monkeypatch):
    """And its output has the type that the ordinary convolution's has."""
    pretend(monkeypatch, matrix_units)
    layer = WinogradConv3d(channels, 2).to(dtype)
    clips = torch.rand(1, channels, 8, size, size, dtype=dtype)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        output, wanted = layer(clips), F.conv3d(clips, layer.weight, padding=1)
    assert uses_winograd(output) == used and output.dtype == wanted.dtype
    torch.testing.assert_close(output, wanted, atol=2e-2, rtol=2e-2)


def test_bfloat16_stays_ordinary_in_a_pytorch_without_the_question(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    layer, clips = WinogradConv3d(64, 2), torch.rand(1, 64, 8, 32, 32)
    assert not uses_winograd(layer.bfloat16()(clips.bfloat16())) and uses_winograd(layer.float()(clips))


@pytest.mark.parametrize("mixed", [False, True])
def test_bfloat16_is_worked_on_in_float32(mixed):
    """Output and gradients are rounded as results only, autocast or not, which the way back may meet too."""
    torch.manual_seed(0)
    clips, weight = torch.randn(1, 64, 8, 8, 8).bfloat16(), torch.randn(32, 64, 3, 3, 3)
    weight = weight if mixed else weight.bfloat16()  # under autocast parameters stay float32
    grad, results = torch.randn(1, 32, 8, 8, 8).bfloat16(), []
    for double in (True, False):
        x, w = ((each.double() if double else each).detach().clone().requires_grad_() for each in (clips, weight))
        with torch.autocast("cpu", BFLOAT16, enabled=mixed):
            output = F.conv3d(x, w, padding=1) if double else conv3d_winograd(x, w)
            results.append((output, *torch.autograd.grad(output, (x, w), grad.to(output.dtype))))
    for exact, ours, kind in zip(*results, (BFLOAT16, BFLOAT16, weight.dtype), strict=True):
        assert ours.dtype == kind and exact.dtype == torch.float64
        assert (ours - exact).norm() < 0.005 * exact.norm()


def test_a_layer_refuses_what_the_ordinary_one_refuses_and_takes_what_it_takes():
    """A weight of another type than the clips, without autocast; a clip without a batch, and a batch without clips."""
    layer = WinogradConv3d(64, 2)
    with pytest.raises(RuntimeError, match="type"):
        layer(torch.rand(1, 64, 4, 4, 4).bfloat16())
    assert layer(torch.rand(64, 4, 5, 6)).shape == (2, 4, 5, 6)
    assert layer(torch.rand(0, 64, 4, 5, 6)).shape == (0, 2, 4, 5, 6)
    assert layer.bfloat16()(torch.rand(0, 64, 8, 32, 32).bfloat16()).shape == (0, 2, 8, 32, 32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none")
def test_a_gpu_keeps_the_ordinary_convolution():
    assert not uses_winograd(WinogradConv3d(64, 2).cuda()(torch.rand(1, 64, 8, 4, 4, device="cuda")))


def test_arguments_that_do_not_fit_are_refused():
    """A kernel of 3x3x3, and a layer without options to ignore."""
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


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, False), (BFLOAT16, False), (torch.float32, True)])
def test_a_compiled_layer_is_the_ordinary_convolution(dtype, autocast, monkeypatch):
    """One operation in a whole graph, and not a loop unrolled over clips and bands; the same numbers."""
    pretend(monkeypatch, matrix_units=False)
    layer, clips, seen = WinogradConv3d(64, 2).to(dtype), torch.rand(2, 64, 8, 32, 32, dtype=dtype), []

    def backend(graph, example_inputs):
        seen.extend(node.target for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    with torch.autocast("cpu", BFLOAT16, enabled=autocast):
        output, ours = torch.compile(layer, backend=backend, fullgraph=True)(clips), layer(clips)
    assert seen == [torch.conv3d] and uses_winograd(ours)
    torch.testing.assert_close(output, ours, atol=2e-2, rtol=2e-2)

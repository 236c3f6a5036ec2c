"""The 3-D part of the network: shapes, parameters, order of layers, what a feature sees."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from deformlib.conv3d import MIX_FRAMES, MIX_KERNEL, UNMIX, Conv3dStack, WinogradConv3d, conv3d_winograd


@pytest.mark.parametrize(
    ("size", "expected"), [((32, 112, 112), (16, 28, 28)), ((16, 48, 64), (8, 12, 16)), ((5, 9, 6), (2, 2, 1))]
)
@pytest.mark.parametrize("pool", ["max", "average"])
def test_shapes(size, expected, pool):
    with torch.device("meta"):
        assert Conv3dStack(3, (2, 3, 4), pool)(torch.zeros(2, 3, *size)).shape == (2, 4, *expected)


def test_parameters_at_full_width():
    names = {name: p.numel() for name, p in Conv3dStack().named_parameters()}
    assert sum(names.values()) == 27 * 64 + 27 * 64 * 128 + 2 * 128 + 27 * 128 * 256 + 2 * 256 == 1_108_416
    assert len(names) == 7  # three kernels, two pairs of normalisation, no bias


@pytest.mark.parametrize("pool", ["max", "average"])
def test_equals_the_steps_written_out(pool):
    torch.manual_seed(0)
    stack = Conv3dStack(1, (3, 4, 5), pool, norm_momentum=0.01)
    first, second, third = [p for p in stack.parameters() if p.dim() == 5]
    clips = torch.rand(2, 1, 6, 12, 8)
    shrink = nn.functional.max_pool3d if pool == "max" else nn.functional.avg_pool3d

    def norm(x):
        mean, variance = x.mean((0, 2, 3, 4), keepdim=True), x.var((0, 2, 3, 4), keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-3).sqrt()

    def leak(x):
        return torch.where(x > 0, x, 0.2 * x)

    x = shrink(leak(nn.functional.conv3d(clips, first, padding=1)), (1, 2, 2))
    second_map = nn.functional.conv3d(x, second, padding=1)
    x = shrink(leak(norm(second_map)), (2, 2, 2))
    x = leak(norm(nn.functional.conv3d(x, third, padding=1)))
    assert torch.allclose(stack(clips), x, atol=1e-5)
    running = [buffer for name, buffer in stack.named_buffers() if name.endswith("running_mean")]
    assert torch.allclose(running[0], 0.01 * second_map.mean((0, 2, 3, 4)), atol=1e-6)


def test_one_feature_sees_ten_frames_and_eighteen_pixels():
    torch.manual_seed(0)
    stack = Conv3dStack(widths=(2, 2, 2), pool="average").eval()
    clip = torch.randn(1, 1, 32, 48, 48, requires_grad=True)
    stack(clip)[0, 0, 8, 6, 6].backward()
    seen = (clip.grad[0, 0] != 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [10, 18, 18]


@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (1, 1, 1, 16, 16), (1, 1, 8, 3, 16)])
def test_clips_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"expected clips \[B, C, T, H, W\].*got \[1, "):
        Conv3dStack(widths=(1, 1, 1))(torch.zeros(shape))


def test_unknown_pool():
    with pytest.raises(ValueError, match="'max' or 'average', got 'mean'"):
        Conv3dStack(pool="mean")


def test_the_mixes_are_exact():
    """Against the tables of Lavin and Gray 2016, F(4, 3), whose frames are scaled by 4, -6, -6, 24, 24, 1."""
    table = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
    table += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
    scale = torch.tensor([4.0, -6, -6, 24, 24, 1]).double()[:, None]
    torch.testing.assert_close(scale * MIX_FRAMES, torch.tensor(table).double(), atol=1e-14, rtol=0)
    frames, taps = torch.randn(6).double(), torch.randn(3).double()
    outputs = UNMIX @ ((MIX_KERNEL @ taps) * (MIX_FRAMES @ frames))
    torch.testing.assert_close(outputs, frames.unfold(0, 3, 1) @ taps, atol=1e-13, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 3, 3), (3, 2, 8, 5, 4), (2, 5, 12, 1, 7)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_winograd_is_the_convolution(shape, memory_format):
    torch.manual_seed(0)
    clips = torch.randn(shape).double().to(memory_format=memory_format).requires_grad_()
    weight = torch.randn(4, shape[1], 3, 3, 3).double().requires_grad_()
    results = []
    for output in (F.conv3d(clips, weight, padding=1), conv3d_winograd(clips, weight)):
        results.append((output, *torch.autograd.grad(output.sin().sum(), (clips, weight))))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


def test_winograd_gradcheck():
    torch.manual_seed(0)
    clips = torch.randn(2, 2, 4, 3, 2).double().requires_grad_()
    weight = torch.randn(2, 2, 3, 3, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(conv3d_winograd, (clips, weight))


def test_winograd_says_that_it_has_no_second_derivative():
    """A graph of the gradient may be asked for, as long as nobody goes backwards through it."""
    clips, weight = torch.randn(1, 2, 4, 3, 3).requires_grad_(), torch.randn(2, 2, 3, 3, 3)
    (gradient,) = torch.autograd.grad(conv3d_winograd(clips, weight).square().sum(), clips, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


def test_winograd_in_float32_at_a_wide_layer():
    """Output and gradients of the third convolution: 1e-5 of the largest number, 3e-6 of the norm; half the products."""
    torch.manual_seed(0)
    clips, weight = torch.randn(1, 128, 8, 14, 14), torch.randn(64, 128, 3, 3, 3) * 0.02
    results, products = [], []
    for convolve in (lambda x, w: F.conv3d(x.double(), w.double(), padding=1), conv3d_winograd):
        x, w = clips.clone().requires_grad_(), weight.clone().requires_grad_()
        with FlopCounterMode(display=False) as counter:
            output = convolve(x, w)
            gradients = torch.autograd.grad(output.square().sum(), (x, w))
        results.append((output, *gradients))
        counted = counter.get_flop_counts()["Global"]
        products.append(counted[torch.ops.aten.convolution] + counted[torch.ops.aten.convolution_backward])
    for exact, ours in zip(*results):
        difference = ours.double() - exact.double()
        assert difference.norm() < 3e-6 * exact.norm() and difference.abs().max() < 1e-5 * exact.abs().max()
    assert products[1] == products[0] / 2


def test_winograd_keeps_channels_last():
    clips = torch.randn(2, 3, 8, 5, 4).contiguous(memory_format=torch.channels_last_3d)
    output = conv3d_winograd(clips, torch.randn(4, 3, 3, 3, 3))
    assert output.is_contiguous(memory_format=torch.channels_last_3d)


def test_winograd_needs_whole_groups_of_four():
    with pytest.raises(ValueError, match="clips have 6 frames, not a multiple of 4"):
        conv3d_winograd(torch.zeros(1, 1, 6, 4, 4), torch.zeros(1, 1, 3, 3, 3))


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
def test_a_layer_takes_winograd_only_where_it_pays(monkeypatch, channels, frames, dtype, autocast, used):
    calls = []
    monkeypatch.setattr("deformlib.conv3d.conv3d_winograd", lambda *args: calls.append(args) or conv3d_winograd(*args))
    layer = WinogradConv3d(channels, 2).to(dtype)
    clips = torch.rand(1, channels, frames, 2, 2, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = layer(clips)
    assert bool(calls) == used
    torch.testing.assert_close(output.float(), F.conv3d(clips, layer.weight, padding=1).float(), atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_the_ordinary_convolution(monkeypatch):
    monkeypatch.setattr("deformlib.conv3d.conv3d_winograd", None)
    WinogradConv3d(64, 2).cuda()(torch.rand(1, 64, 8, 4, 4, device="cuda"))


def test_the_full_stack_is_the_one_with_ordinary_convolutions(monkeypatch):
    torch.manual_seed(0)
    stack = Conv3dStack().to(memory_format=torch.channels_last_3d)
    clips = torch.rand(1, 1, 8, 16, 16)
    used = stack(clips)
    monkeypatch.setattr(WinogradConv3d, "forward", nn.Conv3d.forward)
    torch.testing.assert_close(used, stack(clips), atol=1e-5, rtol=1e-5)


def test_the_fast_convolution_takes_its_own_kernel_only_and_its_output_may_be_changed():
    """Another kernel is refused, and the layer has no options to ignore; an activation in place follows it in training."""
    clips = torch.rand(1, 64, 4, 6, 6)
    with pytest.raises(ValueError, match=r"expected a weight \[F, C, 3, 3, 3\], got \[8, 64, 1, 3, 3\]"):
        conv3d_winograd(clips, torch.rand(8, 64, 1, 3, 3))
    with pytest.raises(TypeError):
        WinogradConv3d(64, 8, 3, stride=2)
    layer = WinogradConv3d(64, 8)
    nn.functional.leaky_relu_(layer(clips)).sum().backward()
    got, layer.weight.grad = layer.weight.grad, None
    nn.functional.leaky_relu(nn.functional.conv3d(clips, layer.weight, padding=1)).sum().backward()
    assert torch.allclose(got, layer.weight.grad, rtol=1e-3, atol=1e-3)

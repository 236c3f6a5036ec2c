"""The 3-D part of the network: shapes, parameters, order of layers, receptive field."""

import copy

import pytest
import torch
from torch import nn

from deformlib.conv3d import Conv3dStack


@pytest.mark.parametrize(
    ("size", "expected"), [((8, 28, 28), (4, 7, 7)), ((16, 12, 16), (8, 3, 4)), ((5, 9, 6), (2, 2, 1))]
)
@pytest.mark.parametrize("pool", ["max", "average"])
def test_shapes(size, expected, pool):
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


def test_the_receptive_field_is_ten_frames_and_eighteen_pixels():
    torch.manual_seed(0)
    stack = Conv3dStack(widths=(2, 2, 2), pool="average").eval()
    clip = torch.randn(1, 1, 32, 48, 48, requires_grad=True)
    stack(clip)[0, 0, 8, 6, 6].backward()
    seen = (clip.grad[0, 0] != 0).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [10, 18, 18]


@pytest.mark.parametrize("shape", [(1, 8, 16, 16), (1, 1, 1, 16, 16), (1, 1, 8, 3, 16)])
def test_clips_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match=r"\[B, C, T, H, W\].*got \[1, "):
        Conv3dStack(widths=(1, 1, 1))(torch.zeros(shape))


def test_unknown_pool():
    with pytest.raises(ValueError, match="'max' or 'average', got 'mean'"):
        Conv3dStack(pool="mean")


def test_the_full_stack_is_the_one_with_ordinary_convolutions():
    torch.manual_seed(0)
    stack = Conv3dStack().to(memory_format=torch.channels_last_3d)
    plain, clips = copy.deepcopy(stack), torch.rand(1, 1, 8, 12, 12)
    for place in (3, 7):
        wide = plain.layers[place]
        plain.layers[place] = nn.Conv3d(wide.in_channels, wide.out_channels, 3, padding=1, bias=False)
        plain.layers[place].weight = wide.weight
    torch.testing.assert_close(stack(clips), plain(clips), atol=1e-5, rtol=1e-5)

"""Measures of offsets: each on a case with a known answer, and every alarm."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
import torchvision
from factories import REGULAR, TAPS, constant_field, turn
from torch import nn

from deformlib.deform import DeformConv2d
from deformlib.offsets import Field, OffsetWarning, record_offsets
from deformlib.paper.measures import (
    body_mask,
    check_offsets,
    effective_dilation,
    equivariance,
    fit_similarity,
    receptive_field,
    saliency_region,
    sampling_influence,
    similarity,
)


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
        (0 * TAPS, 1, 1.0),
        (0 * TAPS, 3, 3.0),
        (0 * TAPS + 5.0, 1, 1.0),
        (TAPS @ turn(40).T - TAPS, 1, 1.0),
        (0.5 * TAPS, 1, 1.5),
        (TAPS * torch.tensor([1.0, 0.0]), 1, 1.5),  # twice as far down, as far across
    ],
)
def test_effective_dilation(taps, dilation, expected):
    field = replace(constant_field(taps), dilation=dilation, padding=dilation)
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
    assert fit_similarity(points, points @ turn(degrees, scale).T) == pytest.approx((degrees, scale))
    assert torch.allclose(similarity(degrees, scale).double(), turn(degrees, scale), atol=1e-6)


def test_the_clip_is_turned_and_scaled_as_said():
    """What `equivariance` shows the network the second time."""
    clips, seen = torch.zeros(1, 1, 2, 9, 9), []
    clips[0, 0, :, 4, 7] = 1.0  # right of the middle
    for degrees, scale in ((90, 1.0), (180, 1.0), (0, 1 / 3)):
        equivariance(lambda given: seen.append(given) or [constant_field(0 * TAPS, 9)], clips, degrees, scale)
    above, left, near = (given[0, 0, 1].argmax().item() for given in seen[1::2])
    assert (above, left, near) == (1 * 9 + 4, 4 * 9 + 1, 4 * 9 + 5) and seen[1].shape == clips.shape


@pytest.mark.parametrize(("degrees", "scale"), [(30, 1.0), (-15, 1.3), (0, 0.8)])
def test_points_that_follow_and_points_that_do_not(degrees, scale):
    """A made-up network that knows how the picture stands, one that knows half of it, and a plain one."""
    clips = torch.zeros(1, 1, 1, 48, 48)
    clips[..., 30:34, 20:24] = 1.0
    stretched = TAPS * torch.tensor([2.0, 1.0])

    def knowing(share):
        def fields_of(seen):
            told = turn(0) if seen.equal(clips) else turn(share * degrees, scale**share)
            return [
                replace(constant_field(stretched @ told.T - TAPS), to_input=torch.tensor([[4.0, 4.0], [1.5, 1.5]]))
            ] * 2

        return fields_of

    assert equivariance(knowing(1), clips, degrees, scale) == pytest.approx((degrees, scale), abs=1e-4)
    assert equivariance(knowing(0.5), clips, degrees, scale) == pytest.approx((degrees / 2, scale**0.5), abs=1e-4)
    assert equivariance(lambda seen: [REGULAR], clips, degrees, scale) == pytest.approx((0, 1), abs=1e-6)


def test_points_are_compared_at_the_same_place_of_the_body():
    """Taps that stand wider the farther right they are: turned by 90 degrees, the wide ones are above."""
    wider = (1 + 0.1 * torch.arange(12.0)).double()
    taps = TAPS[:, :, None, None] * wider.view(1, 1, 1, 12).expand(1, 1, 12, 12)
    before = Field((taps - TAPS[:, :, None, None]).flatten(0, 1))
    upright = torch.einsum("ij,kjyx->kiyx", turn(90), taps).rot90(1, (2, 3))
    after = Field((upright - TAPS[:, :, None, None]).flatten(0, 1))
    clips = torch.rand(1, 1, 1, 12, 12)
    assert equivariance(lambda seen: [before if seen.equal(clips) else after], clips, 90) == pytest.approx(
        (90, 1), abs=1e-3
    )


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
        assert len(check_offsets([])) == 1
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


def test_one_field_a_filter_raises_no_false_alarm():
    layer = DeformConv2d(1, 7, 3, padding=1, per_filter=True)
    with record_offsets(layer) as calls:
        layer(torch.rand(1, 1, 6, 6))
    assert check_offsets(calls) == []


def test_nothing_is_needed_for_no_response():
    assert not saliency_region(lambda images: 0 * images.sum((1, 2, 3)), torch.rand(1, 8, 8)).any()

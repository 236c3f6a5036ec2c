"""Sampling points: known shift, known rotation, fractional reading, and the layer's own gradient as the judge."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

from deformlib.deform import deform_conv2d
from deformlib.offsets import (
    Field,
    draw_frame,
    draw_magnitude,
    draw_points,
    draw_quiver,
    mean_offset,
    offset_magnitude,
    read_field,
    sampling_points,
    to_frame,
)

GRID = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).double()


def constant(taps, size=12):
    """A field with the same nine offsets [9, 2] everywhere."""
    return Field(taps.double().reshape(18, 1, 1).expand(18, size, size))


STILL = constant(torch.zeros(9, 2))


@pytest.mark.parametrize(("layers", "points", "places"), [(1, 9, 9), (2, 81, 25), (3, 729, 49)])
def test_zero_offsets_are_the_base_grid(layers, points, places):
    seen = sampling_points([STILL] * layers, (5, 6))
    assert seen.shape == (points, 2) and len(seen.unique(dim=0)) == places
    assert seen.mean(0).tolist() == [5, 6]
    assert seen.amin(0).tolist() == [5 - layers, 6 - layers]
    assert sampling_points([STILL], (5, 6)).equal(GRID + torch.tensor([5, 6]))


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_known_shift_adds_up(layers):
    shift = torch.tensor([0.5, -1.25]).double()
    moved = sampling_points([constant(shift.repeat(9, 1))] * layers, (5, 6))
    assert torch.allclose(moved - sampling_points([STILL] * layers, (5, 6)), layers * shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("degrees", [30, -75, 180])
def test_known_rotation_turns_the_points(layers, degrees):
    angle, centre = math.radians(degrees), torch.tensor([5, 6]).double()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = sampling_points([constant(GRID @ turn.T - GRID)] * layers, (5, 6)) - centre
    assert torch.allclose(turned, (sampling_points([STILL] * layers, (5, 6)) - centre) @ turn.T, rtol=0, atol=1e-12)


def test_fields_between_layers_are_read_at_fractional_places():
    slope = torch.zeros(9, 2, 12, 12).double()
    slope[:, 0] = 0.1 * torch.arange(12).double().view(12, 1)
    slope[:, 1] = -0.2 * torch.arange(12).double()
    push = torch.tensor([0.3, 0.45], dtype=torch.float64)
    points = sampling_points([Field(slope.flatten(0, 1)), constant(push.repeat(9, 1))], (5, 5)).view(9, 9, 2)
    between = GRID + 5 + push  # where the second layer's taps look: the first layer's linear field is exact there
    expected = between[:, None] + GRID + between[:, None] * torch.tensor([0.1, -0.2], dtype=torch.float64)
    assert torch.allclose(points, expected, rtol=0, atol=1e-12)


def test_order_is_the_last_layers_tap_slowest():
    first, last = torch.zeros(9, 2), torch.zeros(9, 2)
    first[2], last[7] = torch.tensor([0.01, 0.0]), torch.tensor([0.0, 0.1])
    points = sampling_points([constant(first), constant(last)], (5, 5)) - sampling_points([STILL] * 2, (5, 5))
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
    fields = [Field(constant(first).offset, pool=2), constant(last)]
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
    far = constant(torch.full((9, 2), -40.0))
    assert sampling_points([far, far], (0, 0)).shape == (81, 2)
    assert sampling_points([far, far], (0, 0)).max() == -78
    values = torch.arange(12.0).view(1, 3, 4)
    read = read_field(values, torch.tensor([[-5.0, 1.0], [9.0, 9.0], [0.5, 0.5]]))
    assert read.flatten().tolist() == [1, 11, 2.5]


def test_from_map_to_frame_centre_to_centre():
    ends = to_frame(torch.tensor([[0.0, 0.0], [27.0, 13.0]]), (28, 14), (112, 112))
    assert ends.tolist() == [[1.5, 3.5], [109.5, 107.5]]
    corners = torch.tensor([[-0.5, -0.5], [27.5, 13.5]])
    assert to_frame(corners, (28, 14), (112, 112)).tolist() == [[-0.5, -0.5], [111.5, 111.5]]


def test_magnitude_and_mean():
    angle = math.radians(30)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    turned = constant(GRID @ turn.T - GRID).offset
    assert mean_offset(turned).shape == (2, 12, 12) and mean_offset(turned).abs().max() < 1e-12
    assert offset_magnitude(turned)[3, 4].item() == pytest.approx(2 * math.sin(angle / 2) * (4 + 4 * math.sqrt(2)) / 9)
    shift = constant(torch.tensor([3.0, -4.0]).repeat(9, 1)).offset
    assert mean_offset(shift)[:, 0, 0].tolist() == [3, -4] and offset_magnitude(shift)[0, 0] == 5


def test_wrong_fields_are_named():
    with pytest.raises(ValueError, match=r"expected offsets \[18, H, W\].*got \[1, 18, 4, 4\]"):
        sampling_points([Field(torch.zeros(1, 18, 4, 4))], (0, 0))
    with pytest.raises(ValueError, match="at least one layer"):
        sampling_points([], (0, 0))


def test_drawings_show_the_numbers():
    figure, (points_ax, quiver_ax, map_ax) = plt.subplots(1, 3)
    points = torch.tensor([[-7.0, 3.0], [4.0, 120.0]])
    assert draw_points(points, draw_frame(torch.zeros(112, 112), points_ax), (4, 3)) is points_ax
    dots = points_ax.collections[0].get_offsets()
    assert dots.tolist() == [[3, -7], [120, 4]]  # matplotlib wants (x, y)
    assert points_ax.get_xlim()[1] > 120 and points_ax.get_ylim()[1] < -7 < points_ax.get_ylim()[0]  # y grows downwards
    field = torch.tensor([3.0, -4.0]).repeat(9).view(18, 1, 1).expand(18, 28, 28)
    assert draw_quiver(field, quiver_ax, (112, 112), every=2) is quiver_ax
    arrows = quiver_ax.collections[0]
    assert len(arrows.U) == 14 * 14 and arrows.U[0] == pytest.approx(-16) and arrows.V[0] == pytest.approx(12)
    assert draw_magnitude(field, map_ax, (112, 112)) is map_ax
    assert map_ax.images[0].get_array().max() == 5 and map_ax.images[0].get_extent() == [-0.5, 111.5, 111.5, -0.5]
    plt.close(figure)

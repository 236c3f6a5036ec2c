"""Drawings show the numbers: what lies in an Axes against what was given, and which colours."""

import math

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch
from factories import REGULAR, constant_field

from deformlib.make.animation import LiveCurve, draw_history, draw_steps
from deformlib.offsets import offset_direction, output_grid, sampling_points
from deformlib.views import (
    ARROW,
    POINT,
    POSITION,
    draw_direction,
    draw_frame,
    draw_magnitude,
    draw_points,
    draw_quiver,
)


def test_drawings_show_the_numbers():
    figure, (points_ax, quiver_ax, map_ax) = plt.subplots(1, 3)
    points = torch.tensor([[-7.0, 3.0], [4.0, 120.0]])
    assert draw_points(points, draw_frame(torch.zeros(112, 112), points_ax), (4, 3)) is points_ax
    dots = points_ax.collections[0].get_offsets()
    assert dots.tolist() == [[3, -7], [120, 4]]  # matplotlib wants (x, y)
    assert points_ax.get_xlim()[1] > 120 and points_ax.get_ylim()[1] < -7 < points_ax.get_ylim()[0]  # y grows downwards
    field = torch.tensor([3.0, -4.0]).repeat(9).view(18, 1, 1).expand(18, 28, 28)
    before = torch.tensor([[4.0, 4.0], [1.5, 2.5]])
    assert draw_quiver(field, quiver_ax, before, every=2) is quiver_ax
    arrows = quiver_ax.collections[0]
    assert len(arrows.U) == 14 * 14 and arrows.U[0] == pytest.approx(-16) and arrows.V[0] == pytest.approx(12)
    assert arrows.get_offsets()[1].tolist() == [10.5, 1.5]  # (x, y) of position (0, 2)
    assert draw_magnitude(field, map_ax, before) is map_ax
    assert map_ax.images[0].get_array().max() == 5 and map_ax.images[0].get_extent() == [0.5, 112.5, 111.5, -0.5]
    plt.close(figure)


def test_points_that_are_not_finite_are_counted_and_not_drawn():
    points = torch.tensor([[1.0, 2.0], [math.nan, 3.0], [2.0, math.inf], [-4.0, 5.0]])
    for weights, lost in ((None, 2), (torch.tensor([1.0, 1.0, 1.0, math.nan]), 3)):
        figure, ax = plt.subplots()
        draw_points(points, draw_frame(torch.zeros(30, 30), ax), weights=weights)
        assert len(ax.collections[0].get_offsets()) == 4 - lost
        assert ax.get_xlabel() == f"{lost} of 4 points are not finite" and ax.get_xlim() == (-0.5, 29.5)
        plt.close(figure)
    figure, ax = plt.subplots()
    draw_points(points * math.nan, ax)
    assert ax.get_xlabel() == "4 of 4 points are not finite"
    plt.close(figure)


def test_no_points_are_no_error():
    """With and without weights: nothing is drawn but the position, and the axes stay as they are."""
    for weights in (None, torch.ones(0)):
        figure, ax = plt.subplots()
        draw_points(torch.ones(0, 2), draw_frame(torch.zeros(30, 30), ax), (4, 3), weights)
        empty, position = ax.collections[:2]
        assert len(empty.get_offsets()) == 0 and position.get_offsets().tolist() == [[3, 4]]
        assert ax.get_xlim() == (-0.5, 29.5) and not ax.get_xlabel()
        plt.close(figure)


def test_without_an_axes_pyplots_is_drawn_into():
    """So that drawings can be laid over one another."""
    figure, ax = plt.subplots()
    field = constant_field(torch.ones(9, 2)).offset
    drawn = [draw_frame(torch.zeros(12, 12)), draw_points(torch.zeros(1, 2)), draw_quiver(field), draw_magnitude(field)]
    assert all(each is ax for each in drawn) and len(ax.images) == 2
    plt.close(figure)


HISTORY = [
    {
        "epoch": n,
        "loss": 3 - n,
        "accuracy": 0.2,
        "val_accuracy": 0.1 * n,
        "lr": 1e-3,
        "clips_per_second": 5,
        "offsets": [n],
    }
    for n in (1, 2)
]


def test_a_history_is_drawn_into_five_axes():
    axes = draw_history(HISTORY)
    assert [ax.get_title() for ax in axes][1:4] == ["accuracy", "learning rate", "clips per second"]
    assert axes[0].lines[0].get_ydata().tolist() == [2, 1] and axes[1].get_ylim() == (0, 1)
    assert [line.get_label() for line in axes[1].lines] == ["training", "validation"]
    assert axes[1].lines[1].get_ydata() == pytest.approx([0.1, 0.2]) and axes[4].lines[0].get_label() == "layer 1"
    given = plt.figure().subplots(1, 5)
    assert draw_history([HISTORY[0] | {"offsets": []}], given) is given and not given[4].lines
    plt.close("all")


def test_a_live_curve_shows_a_figure_and_then_takes_its_place():
    shown = []
    handle = type("Handle", (), {"update": lambda self, figure: shown.append(("again", figure))})()
    live = LiveCurve(lambda figure, display_id: shown.append(("first", figure)) or handle)
    live(HISTORY[:1]), live(HISTORY)
    assert [kind for kind, _ in shown] == ["first", "again"]
    assert len(shown[1][1].axes[0].lines[0].get_ydata()) == 2 and not plt.get_fignums()


def test_small_multiples():
    figure = draw_steps(lambda step, ax: ax.set_title(step), range(5), columns=3)
    assert [ax.get_title() for ax in figure.axes] == list("01234")
    plt.close(figure)
    with pytest.raises(ValueError, match="no step to draw"):
        draw_steps(lambda step, ax: ax, [])


def test_colours_stay_apart_for_colour_blind_eyes():
    """As red-blind and green-blind people see them (matrices of Vienot and others 1999), no two look alike."""
    to_rgb = matplotlib.colors.to_rgb
    linear = torch.tensor([to_rgb(name) for name in (POINT, POSITION, ARROW)]).double() ** 2.2
    for red, green, lift in ((0.11238, 0.88762, 0.00401), (0.29275, 0.70725, -0.02234)):
        seen = torch.stack(
            [red * linear[:, 0] + green * linear[:, 1], lift * (linear[:, 0] - linear[:, 1]) + linear[:, 2]], 1
        )
        assert torch.pdist(seen.clamp(0, 1) ** (1 / 2.2)).min() > 0.25


def test_directions_go_round():
    for degrees in (0, 90, -45):
        dy, dx = -math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        field = constant_field(torch.tensor([[dy, dx]]).expand(9, 2)).offset
        assert offset_direction(field)[2, 3].item() == pytest.approx(degrees, abs=1e-5)
        figure, ax = plt.subplots()
        assert draw_direction(field, ax, torch.tensor([[4.0, 4.0], [1.5, 1.5]])) is ax
        assert ax.images[0].get_clim() == (-180, 180) and ax.images[0].get_extent() == [-0.5, 47.5, 47.5, -0.5]
        plt.close(figure)


def test_weights_colour_the_points_with_the_heaviest_on_top():
    figure, ax = plt.subplots()
    points = torch.tensor([[1.0, 1.0], [2.0, 5.0], [3.0, 3.0]])
    assert draw_points(points, ax, weights=torch.tensor([0.5, 2.0, 0.1])) is ax
    assert ax.collections[0].get_offsets().tolist() == [[3, 3], [1, 1], [5, 2]]
    assert ax.collections[0].get_array().tolist() == pytest.approx([0.1, 0.5, 2.0])
    assert figure.axes[1].get_ylabel() == "weight x mask"
    whole = sampling_points([REGULAR], output_grid(REGULAR))
    assert len(draw_points(whole, ax).collections[-1].get_offsets()) == 144 * 9  # the whole grid at once
    plt.close(figure)

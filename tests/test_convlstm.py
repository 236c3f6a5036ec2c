"""The ConvLSTM: the authors' numbers, PyTorch's LSTM cell, deformable steps, streaming, and what stays out of the loop."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_network import MOVES, NaiveNet, Stack
from torch import nn
from torch.export import Dim, export

from deformlib.convlstm import ConvLSTM
from deformlib.deform import DeformConv2d, parameter_groups
from deformlib.network import NetworkConfig, VideoNet, load_network, paper_steps

DATA = Path(__file__).parent / "data"


def channels_second(array: np.ndarray) -> torch.Tensor:
    """[B, T, H, W, C] -> [B, C, T, H, W]."""
    return torch.from_numpy(array).permute(0, 4, 1, 2, 3)


def from_released(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The authors' arrays, channels last, under the names of our layer."""
    names = {"input_conv.weight": "wconvInput", "state_conv.weight": "wconvHidden", "B": "gateBias"}
    for mine, theirs in (("w_x", "wx"), ("w_h", "wh"), ("b", "b")):
        names |= {f"{mine}.{gate}": theirs + gate for gate in "ifo"}
    for mine, theirs in (("weight", "kernel"), ("bias", "bias")):
        names |= {f"deform_conv.{mine}": f"d_{theirs}", f"deform_conv.offset_branch.{mine}": f"d_offset_{theirs}"}
    orders = {4: (3, 2, 0, 1), 3: (2, 0, 1), 1: (0,)}
    tensors = {mine: torch.from_numpy(arrays[theirs]) for mine, theirs in names.items() if theirs in arrays}
    return {name: tensor.permute(orders[tensor.ndim]) for name, tensor in tensors.items()}


def authors(name: str) -> tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]:
    """Recorded arrays of the released cell, and the gradients among them under the names of our layer."""
    with np.load(DATA / name) as file:
        ref = dict(file)
    gradients = {key.removeprefix("grad_"): value for key, value in ref.items() if key.startswith("grad_")}
    return ref, from_released(gradients)


def check_against_the_authors(layer: ConvLSTM, ref: dict, gradients: dict) -> None:
    """h and c of every step and all gradients, to 1e-5."""
    layer.load_state_dict(from_released(ref))
    x = channels_second(ref["x"]).clone().requires_grad_()
    h, _ = layer(x)
    torch.testing.assert_close(h, channels_second(ref["h"]), atol=1e-5, rtol=0)
    for step in range(6):
        _, (last_h, last_c) = layer(x, lengths=torch.tensor([step + 1]))
        torch.testing.assert_close(last_h, channels_second(ref["h"])[:, :, step], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_c, channels_second(ref["c"])[:, :, step], atol=1e-5, rtol=0)

    (h * channels_second(ref["loss_weight"])).sum().backward()
    assert set(gradients) == {name for name, _ in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )
    torch.testing.assert_close(x.grad, channels_second(ref["grad_x"]), atol=1e-5, rtol=0)


def test_plain_cell_gives_the_authors_numbers_and_gradients():
    check_against_the_authors(ConvLSTM(5, 4, map_size=(7, 6)), *authors("released_cell_plain.npz"))


@pytest.mark.parametrize("defects", [("released_border",), ("released_border", "mixed_gates")])
def test_deformable_cell_with_its_defects_gives_the_authors_numbers_and_gradients(defects):
    ref, gradients = authors("released_cell_deform.npz")  # recorded with one clip, whose gates cannot be mixed
    steps = tuple(ref["deform_steps"].tolist())
    layer = ConvLSTM(5, 4, deform_steps=steps, per_filter=True, map_size=(7, 6), defects=defects)
    check_against_the_authors(layer, ref, gradients)


def test_deformable_cell_with_a_right_border_gives_the_recorded_numbers():
    ref, _ = authors("released_cell_deform.npz")
    layer = ConvLSTM(5, 4, deform_steps=tuple(ref["deform_steps"].tolist()), per_filter=True, map_size=(7, 6))
    layer.load_state_dict(from_released(ref))
    x, h_zero, c_zero = (channels_second(ref[name]) for name in ("x", "h_zero", "c_zero"))
    for length in range(1, 7):
        h, (last_h, last_c) = layer(x, lengths=torch.tensor([length]))
        torch.testing.assert_close(h[:, :, :length], h_zero[:, :, :length], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_h, h_zero[:, :, length - 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_c, c_zero[:, :, length - 1], atol=1e-5, rtol=0)
    assert (h_zero - channels_second(ref["h"])).abs().max() > 0.01  # the border matters here


def border_by_hand(image: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The border of the released code, a number at a time: one map [C, H, W], one field [2K, H, W], weight [F, C, 3, 3]."""
    _, height, width = image.shape
    output = torch.zeros(len(weight), height, width)
    for row in range(height):
        for column in range(width):
            for tap in range(9):
                y, x = row + tap // 3 - 1, column + tap % 3 - 1
                if not (0 <= y < height and 0 <= x < width):
                    y = x = 0
                y = min(max(y + offset[2 * tap, row, column].item(), 0), height - 1)
                x = min(max(x + offset[2 * tap + 1, row, column].item(), 0), width - 1)
                if y < height - 1 and x < width - 1:
                    part_y, part_x, top, left = y % 1, x % 1, int(y), int(x)
                    upper = (1 - part_x) * image[:, top, left] + part_x * image[:, top, left + 1]
                    lower = (1 - part_x) * image[:, top + 1, left] + part_x * image[:, top + 1, left + 1]
                    output[:, row, column] += weight[:, :, tap // 3, tap % 3] @ ((1 - part_y) * upper + part_y * lower)
    return output


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_the_released_border_with_one_shared_field(spread):
    torch.manual_seed(0)
    layer, x = ConvLSTM(3, 2, deform_steps=(0,), defects=("released_border",)), torch.randn(1, 3, 1, 7, 6)
    with torch.no_grad():
        nn.init.normal_(layer.input_conv.offset_branch.weight, std=spread / 5)
        expected = border_by_hand(x[0, :, 0], layer.offset_fields(x)[0, 0], layer.input_conv.weight)
        torch.testing.assert_close(layer.input_maps(x)[0, 0], expected, atol=1e-5, rtol=0)
        if not spread:  # taps that leave the map or touch its last row or column: rows 0, 5 and 6, columns 0, 4 and 5
            plain = ConvLSTM(3, 2)
            plain.input_conv.weight.copy_(layer.input_conv.weight)
            wrong = (layer.input_maps(x) - plain.input_maps(x)).abs().amax((0, 1, 2)) > 1e-6
            assert wrong.sum() == 7 * 6 - 4 * 3 and not wrong[1:5, 1:4].any()


def test_mixed_gates_take_rows_of_other_clips():
    torch.manual_seed(0)
    right, wrong = ConvLSTM(2, 3), ConvLSTM(2, 3, defects=("mixed_gates",))
    wrong.load_state_dict(right.state_dict())
    with torch.no_grad():
        right.state_conv.weight.zero_(), wrong.state_conv.weight.zero_()
    x = torch.randn(2, 2, 1, 6, 5) + torch.tensor([0.0, 3.0]).view(2, 1, 1, 1, 1)
    own, mixed = right(x)[1], wrong(x)[1]
    g = torch.tanh(right.input_maps(x)[0])
    gates = own[1] / g  # c = i g at the first step
    for clip in (0, 1):  # six rows: row y of either clip has the gates of clip y mod 2
        expected = torch.stack([gates[row % 2, :, row] * g[clip, :, row] for row in range(6)], 1)
        torch.testing.assert_close(mixed[1][clip], expected, atol=1e-6, rtol=0)
    assert (own[1] - mixed[1]).abs().max() > 0.01
    alone = wrong(x[:1])[0]
    torch.testing.assert_close(alone, right(x[:1])[0], atol=0, rtol=0)  # one clip cannot be mixed
    x = torch.randn(3, 2, 2, 5, 4)  # 5 rows, 3 clips: row y of clip b has the gates of clip (5 b + y) mod 3
    (h, _), (mixed_h, _) = right(x), wrong(x)
    same = [[(5 * b + y) % 3 == b for y in range(5)] for b in range(3)]
    for b in range(3):
        for y in range(5):
            assert torch.allclose(h[b, :, 0, y], mixed_h[b, :, 0, y], atol=1e-6) == same[b][y]


def naive(layer: ConvLSTM, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas, one step at a time, one convolution of x_t and one of h at each."""
    frames, filters = x.unbind(2), len(layer.B)
    h = c = torch.zeros(len(x), filters, *x.shape[3:], dtype=x.dtype)
    hidden, pad = [], layer.input_conv.weight.shape[-1] // 2
    for step, x_t in enumerate(frames):
        a = nn.functional.conv2d(x_t, layer.input_conv.weight, padding=pad)
        s = nn.functional.conv2d(h, layer.state_conv.weight, padding=pad)
        if step in layer.deform_steps:
            a = (layer.deform_conv or layer.input_conv)(x_t)
            s = layer.state_conv(h)
        if layer.gates == "mean":
            g = torch.tanh(a + s + layer.B)
            i, f, o = (
                torch.sigmoid(layer.w_x[n] * a.mean((2, 3)) + layer.w_h[n] * h.mean((2, 3)) + layer.b[n])[
                    ..., None, None
                ]
                for n in "ifo"
            )
        else:
            (g, i, f, o), b = (a + s).split(filters, 1), layer.b
            g = torch.tanh(g + layer.B)
            i, f, o = (torch.sigmoid(u + b[n][:, None, None]) for n, u in zip("ifo", (i, f, o), strict=True))
        c = f * c + i * g
        h = o * torch.tanh(c)
        hidden.append(h)
    return torch.stack(hidden, 2), c


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kernel_size": 5, "map_size": (6, 7)},
        {"deform_steps": (0, 3)},
        {"deform_steps": (4, 1), "modulated": True},
        {"deform_steps": (2,), "per_filter": True},
        {"deform_steps": (0, 1, 2, 3, 4)},
        {"gates": "convolution"},
        {"gates": "convolution", "deform_steps": (1, 2), "map_size": (6, 7)},
        {"gates": "convolution", "deform_steps": (0, 4), "per_filter": True},
        {"gates": "convolution", "deform_steps": (0, 1, 2, 3, 4), "deform_state": True, "modulated": True},
    ],
)
def test_hoisted_equals_step_by_step(options):
    torch.manual_seed(0)
    layer = ConvLSTM(3, 4, **options).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 0.5)
    x = torch.randn(2, 3, 5, 6, 7, dtype=torch.float64)
    (expected_h, expected_c), (h, (last_h, c)) = naive(layer, x), layer(x)
    torch.testing.assert_close(h, expected_h, atol=1e-12, rtol=0)
    torch.testing.assert_close(last_h, h[:, :, -1], atol=0, rtol=0)
    torch.testing.assert_close(c, expected_c, atol=1e-12, rtol=0)
    want = torch.autograd.grad(expected_h.square().sum(), list(layer.parameters()), allow_unused=True)
    got = torch.autograd.grad(h.square().sum(), list(layer.parameters()), allow_unused=True)
    for expected, grad in zip(want, got, strict=True):
        torch.testing.assert_close(grad, expected, atol=1e-9, rtol=1e-9)


def test_one_pixel_is_an_lstm_cell_with_diagonal_gate_matrices():
    torch.manual_seed(0)
    layer, cell = ConvLSTM(3, 4, kernel_size=1), nn.LSTMCell(3, 4)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-1, 1)
        W_x, W_h = layer.input_conv.weight[:, :, 0, 0], layer.state_conv.weight[:, :, 0, 0]
        rows = {n: (torch.diag(layer.w_x[n]) @ W_x, torch.diag(layer.w_h[n]), layer.b[n]) for n in "ifo"}
        rows["g"] = (W_x, W_h, layer.B[:, 0, 0])
        for target, source in zip((cell.weight_ih, cell.weight_hh, cell.bias_ih), zip(*(rows[n] for n in "ifgo"))):
            target.copy_(torch.cat(source))
        cell.bias_hh.zero_()
    x, state = torch.randn(2, 3, 6, 1, 1), None
    hidden, (h, c) = layer(x)
    for step in range(6):
        state = cell(x[:, :, step, 0, 0], state)
        torch.testing.assert_close(hidden[:, :, step, 0, 0], state[0], atol=1e-6, rtol=0)
    torch.testing.assert_close((h[..., 0, 0], c[..., 0, 0]), state, atol=1e-6, rtol=0)


def test_gates_do_not_mix_the_batch():
    layer, x = ConvLSTM(2, 3), torch.randn(3, 2, 4, 5, 5)
    together = layer(x)[0]
    for clip in range(3):
        torch.testing.assert_close(layer(x[clip : clip + 1])[0][0], together[clip], atol=1e-6, rtol=0)


def test_zero_offsets_are_the_plain_layer():
    torch.manual_seed(0)
    plain, moving = ConvLSTM(3, 2), ConvLSTM(3, 2, deform_steps=(1, 2))
    added = moving.load_state_dict(plain.state_dict(), strict=False)
    assert added.missing_keys == ["input_conv.offset_branch.weight", "input_conv.offset_branch.bias"]
    assert not added.unexpected_keys
    x = torch.randn(2, 3, 4, 6, 5)
    torch.testing.assert_close(moving(x)[0], plain(x)[0], atol=1e-6, rtol=0)
    assert moving.offset_fields(x).abs().max() == 0


def test_a_known_shift_moves_the_chosen_step_only():
    torch.manual_seed(0)
    layer = ConvLSTM(3, 2, deform_steps=(1,))
    x = torch.randn(2, 3, 3, 8, 8)
    with torch.no_grad():
        before = layer.input_maps(x)
        layer.input_conv.offset_branch.bias.view(9, 2)[:] = torch.tensor([2.0, -1.0])  # every tap 2 down, 1 left
        after = layer.input_maps(x)
    torch.testing.assert_close(after[::2], before[::2])
    torch.testing.assert_close(after[1, ..., 1:-3, 2:-1], before[1, ..., 3:-1, 1:-2], atol=1e-5, rtol=0)
    fields = layer.offset_fields(x)
    assert fields.shape == (2, 1, 18, 8, 8)
    assert (fields.unflatten(2, (9, 2)).permute(2, 0, 1, 4, 5, 3) == torch.tensor([2.0, -1.0])).all()


def test_offset_fields_belong_to_their_clip_and_step():
    torch.manual_seed(0)
    layer = ConvLSTM(3, 2, deform_steps=(3, 0), per_filter=True)
    nn.init.normal_(layer.deform_conv.offset_branch.weight)
    x = torch.randn(2, 3, 4, 6, 5)
    fields = layer.offset_fields(x)
    assert fields.shape == (2, 2, 36, 6, 5)
    for clip in range(2):
        for place, step in enumerate((0, 3)):
            expected, _ = layer.deform_conv.fields(x[clip : clip + 1, :, step])
            torch.testing.assert_close(fields[clip, place], expected[0], atol=1e-5, rtol=1e-5)
    assert ConvLSTM(3, 2).offset_fields(x).shape[:2] == (2, 0)


def test_offset_branch_learns():
    layer = ConvLSTM(3, 2, deform_steps=(1,))
    layer(torch.randn(2, 3, 3, 6, 6))[0].square().sum().backward()
    assert layer.input_conv.offset_branch.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"gates": "convolution", "map_size": (6, 5)}, {"defects": ("mixed_gates",)}])
def test_two_halves_with_the_state_handed_over_are_the_whole(options):
    torch.manual_seed(0)
    layer, x = ConvLSTM(3, 2, **options), torch.randn(2, 3, 8, 6, 5)
    whole, last = layer(x)
    first, state = layer(x[:, :, :3])
    second, end = layer(x[:, :, 3:], state)
    torch.testing.assert_close(torch.cat((first, second), 2), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=0)
    assert not torch.allclose(layer(x[:, :, 3:])[0], second, atol=1e-4)


@pytest.mark.parametrize(("steps", "runs"), [((), 1), ((1, 2, 6), 3), (range(8), 0)])
def test_input_convolutions_leave_the_loop(monkeypatch, steps, runs):
    """Neighbouring plain steps are one call, all deformable ones one more, and the loop keeps the state's."""
    calls = {"runs": 0, "images": 0, "deformable": 0}
    conv2d, conv3d, deform = nn.functional.conv2d, nn.functional.conv3d, DeformConv2d.forward

    def count(name, function):
        def counting(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return counting

    def count_deformable(self, x):
        calls["deformable"] += 1
        assert len(x) == 2 * len(steps)  # both clips, all chosen steps
        return deform(self, x)

    layer, x = ConvLSTM(3, 2, deform_steps=steps), torch.randn(2, 3, 8, 6, 5)
    monkeypatch.setattr(nn.functional, "conv2d", count("images", conv2d))
    monkeypatch.setattr(nn.functional, "conv3d", count("runs", conv3d))
    monkeypatch.setattr(DeformConv2d, "forward", count_deformable)
    layer(x)
    branch = int(len(steps) > 0)
    assert calls == {"runs": runs, "images": branch + 8, "deformable": branch}  # the offset branch, and the state


def test_plain_steps_are_not_copied():
    """Autograd keeps the clip itself, not a second one: what counts is the peak memory of training."""
    layer, x = ConvLSTM(64, 1, deform_steps=(3,)), torch.randn(2, 64, 8, 12, 12, requires_grad=True)
    kept = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.add((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    clip = x.untyped_storage().nbytes()
    assert sum(size for place, size in kept if place != x.data_ptr()) < clip / 2


def test_start_and_map_size():
    layer = ConvLSTM(3, 2)
    assert all(torch.equal(layer.b[gate], torch.full((2,), float(gate == "f"))) for gate in "ifo")
    assert layer.B.shape == (2, 1, 1) and ConvLSTM(3, 2, map_size=(4, 5)).B.shape == (2, 4, 5)
    for size in ((1, 1), (3, 9)):
        assert layer(torch.randn(1, 3, 2, *size))[0].shape == (1, 2, 2, *size)


def test_convolutional_gates_count_and_reach():
    layer = ConvLSTM(5, 3, gates="convolution", map_size=(4, 6))
    assert sum(p.numel() for p in layer.parameters()) == 4 * 9 * (5 + 3) * 3 + 3 * 3 + 3 * 4 * 6
    far, x = torch.zeros(1, 5, 1, 4, 6), torch.zeros(1, 5, 1, 4, 6)
    far[..., 5] = 1
    torch.testing.assert_close(
        layer(x)[0][..., :4], layer(far)[0][..., :4], atol=0, rtol=0
    )  # such a gate sees its place only
    mean = ConvLSTM(5, 3)
    nn.init.ones_(mean.B)
    assert not torch.allclose(mean(x)[0][..., :4], mean(far)[0][..., :4], atol=1e-5)


def random_offsets(layer: ConvLSTM) -> ConvLSTM:
    """Offset branches with weights, as after training."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "offset_branch" in name:
                parameter.normal_(std=0.1)
    return layer


@pytest.mark.parametrize("options", [{}, {"modulated": True}, {"per_filter": True}])
def test_a_branch_for_every_step(options):
    torch.manual_seed(0)
    shared, apart = (ConvLSTM(3, 2, deform_steps=(1, 3), shared_offsets=s, **options) for s in (True, False))
    branch = random_offsets(shared)._deformable().offset_branch
    weights = shared.state_dict()
    for kind in ("weight", "bias"):  # the same branch twice is the shared one
        (name,) = (name for name in weights if name.endswith(f"offset_branch.{kind}"))
        weights[name] = torch.cat([weights[name]] * 2)
    apart.load_state_dict(weights)
    x = torch.randn(2, 3, 5, 6, 5)
    torch.testing.assert_close(apart(x)[0], shared(x)[0], atol=1e-6, rtol=0)
    own = apart._deformable().offset_branch
    assert own.weight.numel() == 2 * branch.weight.numel()
    with torch.no_grad():
        own.weight[len(branch.weight) :] *= 2  # now step 3 looks elsewhere, step 1 does not
    changed, kept = apart.offset_fields(x), shared.offset_fields(x)
    torch.testing.assert_close(changed[:, 0], kept[:, 0])
    assert not torch.allclose(changed[:, 1], kept[:, 1], atol=1e-3)


def test_learned_steps_scale_the_offsets_of_their_step():
    torch.manual_seed(0)
    fixed, learned = (ConvLSTM(3, 2, deform_steps=(0, 2, 3), learned_steps=s, modulated=True) for s in (False, True))
    added = learned.load_state_dict(random_offsets(fixed).state_dict(), strict=False)
    assert added.missing_keys == ["input_conv.offset_branch.gate"] and not added.unexpected_keys
    x = torch.randn(2, 3, 4, 6, 5)
    gate = learned.input_conv.offset_branch.gate
    torch.testing.assert_close(learned.offset_fields(x), fixed.offset_fields(x) / 2)  # sigmoid(0) at the start
    with torch.no_grad():
        gate.copy_(torch.tensor([-100.0, 0.0, 100.0]))
    got, full = learned.offset_fields(x), fixed.offset_fields(x)
    torch.testing.assert_close(got, full * torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1, 1))
    masks = [layer.input_conv.fields(torch.cat(x.unbind(2)[:3]))[1] for layer in (learned, fixed)]
    torch.testing.assert_close(*masks)  # only offsets are scaled
    nn.init.zeros_(gate)
    learned(x)[0].square().sum().backward()
    assert (gate.grad.abs() > 0).all()


def test_branches_of_every_kind_learn_slowly():
    for options in ({"learned_steps": True}, {"shared_offsets": False}, {"gates": "convolution", "deform_state": True}):
        layer = ConvLSTM(3, 2, deform_steps=(1,), **options)
        _, slow = parameter_groups(layer, 1.0)
        expected = [p for name, p in layer.named_parameters() if "offset_branch" in name]
        assert {id(p) for p in slow["params"]} == {id(p) for p in expected} and slow["lr"] == 0.1


def test_the_state_looks_elsewhere_only_where_it_may():
    torch.manual_seed(0)
    options = {"gates": "convolution", "deform_steps": (2,)}
    state, frame = ConvLSTM(3, 2, deform_state=True, **options), ConvLSTM(3, 2, **options)
    frame.load_state_dict(state.state_dict(), strict=False)
    x = torch.randn(1, 3, 4, 6, 5)
    torch.testing.assert_close(state(x)[0], frame(x)[0], atol=1e-6, rtol=0)  # zero offsets
    nn.init.constant_(state.state_conv.offset_branch.bias, 1.5)
    moved, still = state(x)[0], frame(x)[0]
    torch.testing.assert_close(moved[:, :, :2], still[:, :, :2], atol=1e-6, rtol=0)
    assert (moved - still).abs()[:, :, 2].max() > 1e-3


@pytest.mark.parametrize("options", [{}, {"gates": "convolution"}, {"deform_steps": (1, 4)}])
def test_clips_of_several_lengths_in_one_batch(options):
    torch.manual_seed(0)
    layer = random_offsets(ConvLSTM(3, 2, **options))
    x, lengths = torch.randn(4, 3, 6, 5, 4), torch.tensor([6, 5, 1, 0])
    start = torch.randn(2, 4, 2, 5, 4).unbind()
    h, (last_h, last_c) = layer(x, start, lengths)
    for clip, length in enumerate(lengths.tolist()):
        whole, _ = layer(x[clip : clip + 1], tuple(part[clip : clip + 1] for part in start))
        torch.testing.assert_close(h[clip, :, :length], whole[0, :, :length], atol=1e-6, rtol=0)
        assert not h[clip, :, length:].any()
        state = h[clip, :, length - 1] if length else start[0][clip]
        torch.testing.assert_close(last_h[clip], state, atol=1e-6, rtol=0)
    torch.testing.assert_close(last_c[3], start[1][3])
    padded = x.clone()
    padded[1, :, 5:] = 7.0  # what stands after the end does not matter, nor does it learn
    assert torch.equal(layer(padded, start, lengths)[0], h)
    padded.requires_grad_()
    layer(padded, start, lengths)[0].sum().backward()
    assert not padded.grad[1, :, 5:].any() and padded.grad[1, :, 4].any()
    for wrong in ([6, 5], [6, 5, 1, 7], [6, 5, 1, -1]):
        with pytest.raises(ValueError, match="do not fit 4 clips of 6 steps"):
            layer(x, lengths=torch.tensor(wrong))


def test_committed_weights_load_and_speak():
    (path,) = sorted(Path(__file__).parent.parent.glob("results/example-classroom/*deformable*.safetensors"))
    net, classes = load_network(path)
    layer = net.recurrent[0]
    expected = {"input_conv.weight", "input_conv.offset_branch.weight", "input_conv.offset_branch.bias"}
    expected |= {"state_conv.weight", "B"} | {f"{v}.{g}" for v in ("w_x", "w_h", "b") for g in "ifo"}
    assert set(layer.state_dict()) == expected
    size = net.config.size
    with torch.no_grad():
        assert net(torch.rand(1, net.config.in_channels, net.config.length, size, size)).shape == (1, len(classes))


@pytest.mark.parametrize("gates", ["mean", "convolution"])
def test_bfloat16_agrees(gates):
    torch.manual_seed(0)
    layer, x = random_offsets(ConvLSTM(8, 8, gates=gates, deform_steps=(1, 3))), torch.randn(2, 8, 5, 6, 6)
    expected, (_, c) = layer(x)
    want = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, (last, last_c) = layer(x)
    got = torch.autograd.grad(h.float().square().sum(), list(layer.parameters()))
    assert h.dtype == last.dtype == torch.bfloat16 and last_c.dtype == torch.float32  # the memory itself stays exact
    torch.testing.assert_close(h.float(), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(last_c, c, atol=0.02, rtol=0)
    for (name, _), one, other in zip(layer.named_parameters(), got, want, strict=True):
        limit = 0.2 if "offset_branch" in name else 0.06  # a look that rounds into the next pixel has another slope
        assert (one - other).norm() < limit * other.norm(), name


SLOW = pytest.mark.skipif("DEFORMLIB_SLOW" not in os.environ, reason="a minute of C++ compiler: set DEFORMLIB_SLOW=1")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=SLOW)])
def test_compiled_equals_eager(backend):
    """Forward and backward, the recurrence with its deformable step in one graph."""
    torch.manual_seed(0)
    layer, x = random_offsets(ConvLSTM(4, 3, deform_steps=(1,))), torch.randn(2, 4, 3, 5, 6)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True, backend=backend)
    results = []
    for module in (layer, compiled):
        h, (_, c) = module(x)
        results.append((h, c, *torch.autograd.grad(h.square().sum() + c.sum(), list(layer.parameters()))))
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_bad_input_is_one_clear_error():
    with pytest.raises(ValueError, match="odd"):
        ConvLSTM(3, 2, kernel_size=4)
    with pytest.raises(ValueError, match='take "mean" or "convolution"'):
        ConvLSTM(3, 2, gates="peephole")
    with pytest.raises(ValueError, match="knows"):
        ConvLSTM(3, 2, defects=("double_softmax",))
    for options in ({"deform_state": True}, {"gates": "convolution", "defects": ("mixed_gates",)}):
        with pytest.raises(ValueError, match="needs gates"):
            ConvLSTM(3, 2, **options)
    for steps in ((1, 4), (-1,)):
        with pytest.raises(ValueError, match="do not fit a clip of 4 steps"):
            ConvLSTM(3, 2, deform_steps=steps)(torch.randn(1, 3, 4, 5, 5))


SMALL = NetworkConfig(
    length=8, size=32, conv3d=(4, 6, 8), hidden=(3, 4, 3), conv2d=(5, 6, 7), deform_steps=paper_steps(4)
)


@pytest.mark.parametrize("steps", [SMALL.deform_steps, ((), (), ())])
def test_the_moves_of_the_benchmark_keep_the_numbers(steps):
    stack = random_offsets(Stack(replace(SMALL, deform_steps=steps)))
    x, results = torch.randn(2, 8, 4, 6, 5), []
    for stack.moves in range(len(MOVES) - 1):
        h = stack(x)
        results.append((h, *torch.autograd.grad(h.square().sum(), list(stack.parameters()))))
    for found in results[1:]:
        for got, expected in zip(found, results[0], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_naive_network_of_the_benchmark_is_ours():
    net = random_offsets(VideoNet(SMALL))
    clips = torch.rand(2, 1, 8, 32, 32)
    torch.testing.assert_close(NaiveNet(net).eval()(clips), net.eval()(clips), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part[:1],
        lambda part: torch.cat([part, part]),
        lambda part: part[:, :1],
        lambda part: part[..., :1, :1],
        lambda part: part[..., :4],
        lambda part: part[0],
        lambda part: part.double(),
        lambda part: part.to("meta"),
    ],
    ids=["one clip", "four clips", "one channel", "one position", "a narrower map", "no batch", "float64", "another device"],
)
@pytest.mark.parametrize("which", ["h", "c", "both"])
@pytest.mark.parametrize("gates", ["mean", "convolution"])
def test_a_state_of_others_is_refused(change, which, gates):
    """Most of these would be broadcast: one clip in, two out."""
    layer = ConvLSTM(1, 4, gates=gates)
    x = torch.rand(2, 1, 3, 6, 5)
    _, (h, c) = layer(x)
    state = (change(h) if which != "c" else h, change(c) if which != "h" else c)
    with pytest.raises(ValueError, match=r"a state of \[.* does not fit x of \[2, 1, 3, 6, 5\].*expected \[2, 4, 6, 5\]"):
        layer(x, state)
    with pytest.raises(ValueError, match=r"x of \[1, 1, 3, 6, 5\].*expected \[1, 4, 6, 5\]"):
        layer(x[:1], (h, c))  # the last, smaller batch of a stream


@pytest.mark.parametrize("shape", [(2, 1, 3, 6, 6), (2, 1, 3, 1, 1), (2, 1, 3, 1, 5)])
def test_maps_of_another_size_are_refused(shape):
    layer = ConvLSTM(1, 4, map_size=(6, 5), deform_steps=(1,))
    for use in (layer, layer.input_maps, layer.offset_fields):
        with pytest.raises(ValueError, match=r"but map_size is \[6, 5\]"):
            use(torch.rand(shape))
        with pytest.raises(ValueError, match=r"expected \[B, 1, T, H, W\]"):
            use(torch.rand(2, 2, 3, 6, 5))
        with pytest.raises(ValueError, match=r"expected \[B, 1, T, H, W\]"):
            use(torch.rand(2, 1, 6, 5))


@pytest.mark.parametrize("state", [(), (None, None), "hc", torch.zeros(2, 2, 4, 6, 5), [torch.zeros(2, 4, 6, 5)] * 3])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"a state is \(h, c\), two tensors of \[2, 4, 6, 5\], or None"):
        ConvLSTM(1, 4)(torch.rand(2, 1, 3, 6, 5), state)


def test_a_state_is_handed_on_under_autocast():
    layer, x = ConvLSTM(1, 4), torch.rand(2, 1, 4, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = layer(x[:, :, :2])
        hidden, _ = layer(x[:, :, 2:], state)
        whole, _ = layer(x)
    torch.testing.assert_close(hidden, whole[:, :, 2:])


GRAPHS = {
    "mean": {"deform_steps": (1, 3)},
    "convolution": {
        **{"gates": "convolution", "deform_steps": (1, 2), "deform_state": True, "modulated": True},
        **{"learned_steps": True, "shared_offsets": False},
    },
    "released": {"deform_steps": (1, 2), "per_filter": True, "defects": ("mixed_gates", "released_border"), "map_size": (6, 5)},
}


@pytest.mark.parametrize("options", GRAPHS.values(), ids=GRAPHS)
@torch.no_grad()
def test_traced_and_exported_layers_take_any_batch(options):
    torch.manual_seed(0)
    layer, x = random_offsets(ConvLSTM(2, 4, **options)).eval(), torch.rand(5, 2, 4, 6, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and notes what it takes for constant
        traced = torch.jit.trace(layer, x[:2])
    exported = export(layer, (x[:2],), dynamic_shapes=({0: Dim("batch")},)).module()
    for graph in (traced, exported):
        for batch in (x[:2], x, x[:1]):
            torch.testing.assert_close(graph(batch)[0], layer(batch)[0])


@pytest.mark.parametrize("change", [{}, {"conv3d": (64, 64, 8)}], ids=["narrow", "wide enough for Winograd"])
@torch.no_grad()
def test_traced_and_exported_networks_take_any_batch(change):
    """TensorBoard draws a network by torch.jit.trace."""
    torch.manual_seed(0)
    net, clips = VideoNet(replace(SMALL, **change)).eval(), torch.rand(3, 1, 8, 32, 32)
    for layer in net.recurrent:
        random_offsets(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net, clips[:2])
    exported = export(net, (clips[:2],), dynamic_shapes=({0: Dim("batch")},)).module()
    assert net(clips).std(0).max() > 0  # the clips have answers of their own
    for graph in (traced, exported):
        for batch in (clips[:2], clips, clips[:1]):
            torch.testing.assert_close(graph(batch), net(batch), atol=1e-4, rtol=1e-4)

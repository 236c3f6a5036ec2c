"""The ConvLSTM: the authors' numbers, PyTorch's LSTM cell, deformable steps, streaming, and what stays out of the loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deformlib.convlstm import ConvLSTM
from deformlib.deform import DeformConv2d

DATA = Path(__file__).parent / "data"


def channels_second(array: np.ndarray) -> torch.Tensor:
    """[B, T, H, W, C] -> [B, C, T, H, W]."""
    return torch.from_numpy(array).permute(0, 4, 1, 2, 3)


def kernel(array: np.ndarray) -> torch.Tensor:
    """[kh, kw, C, F] -> [F, C, kh, kw]."""
    return torch.from_numpy(array).permute(3, 2, 0, 1)


def released_weights(ref) -> dict[str, torch.Tensor]:
    """The authors' arrays under the names of the layer."""
    weights = {
        "input_conv.weight": kernel(ref["wconvInput"]),
        "state_conv.weight": kernel(ref["wconvHidden"]),
        "B": torch.from_numpy(ref["gateBias"]).permute(2, 0, 1),
    }
    for gate in "ifo":
        weights[f"w_x.{gate}"] = torch.from_numpy(ref[f"wx{gate}"])
        weights[f"w_h.{gate}"] = torch.from_numpy(ref[f"wh{gate}"])
        weights[f"b.{gate}"] = torch.from_numpy(ref[f"b{gate}"])
    if "d_kernel" in ref:
        weights["deform_conv.weight"] = kernel(ref["d_kernel"])
        weights["deform_conv.bias"] = torch.from_numpy(ref["d_bias"])
        weights["deform_conv.offset_branch.weight"] = kernel(ref["d_offset_kernel"])
        weights["deform_conv.offset_branch.bias"] = torch.from_numpy(ref["d_offset_bias"])
    return weights


def test_plain_cell_gives_the_authors_numbers_and_gradients():
    ref = np.load(DATA / "released_cell_plain.npz")
    layer = ConvLSTM(5, 4, map_size=(7, 6))
    layer.load_state_dict(released_weights(ref))
    x = channels_second(ref["x"]).clone().requires_grad_()
    h, _ = layer(x)
    torch.testing.assert_close(h, channels_second(ref["h"]), atol=1e-5, rtol=0)
    state = None
    for step in range(6):
        _, state = layer(x[:, :, step : step + 1], state)
        torch.testing.assert_close(state[0], channels_second(ref["h"])[:, :, step], atol=1e-5, rtol=0)
        torch.testing.assert_close(state[1], channels_second(ref["c"])[:, :, step], atol=1e-5, rtol=0)

    (h * channels_second(ref["loss_weight"])).sum().backward()
    expected = released_weights({name.removeprefix("grad_"): ref[name] for name in ref if name.startswith("grad_")})
    assert set(expected) == {name for name, _ in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(x.grad, channels_second(ref["grad_x"]), atol=1e-5, rtol=0)


def test_released_deformable_cell_gives_the_numbers_for_a_zero_border():
    ref = np.load(DATA / "released_cell_deform.npz")
    steps = tuple(ref["deform_steps"].tolist())
    x, h_zero, c_zero = (channels_second(ref[name]).float() for name in ("x", "h_zero", "c_zero"))
    for length in range(1, 7):
        layer = ConvLSTM(5, 4, deform_steps=[s for s in steps if s < length], per_filter=True, map_size=(7, 6))
        weights = released_weights(ref)
        layer.load_state_dict({name: weights[name] for name in layer.state_dict()})
        h, (last_h, last_c) = layer(x[:, :, :length])
        torch.testing.assert_close(h, h_zero[:, :, :length], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_h, h_zero[:, :, length - 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_c, c_zero[:, :, length - 1], atol=1e-5, rtol=0)


def naive(layer: ConvLSTM, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The formulas, one step at a time, one convolution of x_t and one of h at each."""
    frames = x.unbind(2)
    h = c = torch.zeros(len(x), layer.B.shape[0], *x.shape[3:], dtype=x.dtype)
    hidden = []
    for step, x_t in enumerate(frames):
        if step in layer.deform_steps:
            a = (layer.deform_conv or layer.input_conv)(x_t)
        else:
            a = nn.functional.conv2d(x_t, layer.input_conv.weight, padding=layer.state_conv.padding)
        g = torch.tanh(a + layer.state_conv(h) + layer.B)
        i, f, o = (
            torch.sigmoid(layer.w_x[n] * a.mean((2, 3)) + layer.w_h[n] * h.mean((2, 3)) + layer.b[n])[:, :, None, None]
            for n in "ifo"
        )
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


def test_two_halves_with_the_state_handed_over_are_the_whole():
    torch.manual_seed(0)
    layer, x = ConvLSTM(3, 2), torch.randn(2, 3, 8, 6, 5)
    whole, last = layer(x)
    first, state = layer(x[:, :, :3])
    second, end = layer(x[:, :, 3:], state)
    torch.testing.assert_close(torch.cat((first, second), 2), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=0)
    assert not torch.allclose(layer(x[:, :, 3:])[0], second, atol=1e-4)


def test_input_convolutions_leave_the_loop(monkeypatch):
    calls = {"plain": 0, "deformable": 0}
    conv2d, deform = nn.functional.conv2d, DeformConv2d.forward

    def count_plain(*args, **kwargs):
        calls["plain"] += 1
        return conv2d(*args, **kwargs)

    def count_deformable(self, x):
        calls["deformable"] += 1
        assert len(x) == 2 * 3  # both clips, all three chosen steps
        return deform(self, x)

    layer, x = ConvLSTM(3, 2, deform_steps=(1, 2, 6)), torch.randn(2, 3, 8, 6, 5)
    monkeypatch.setattr(nn.functional, "conv2d", count_plain)
    monkeypatch.setattr(DeformConv2d, "forward", count_deformable)
    layer(x)
    assert calls["deformable"] == 1
    assert calls["plain"] == 1 + 1 + 8  # input, offset branch, and the state at each of 8 steps


def test_start_and_map_size():
    layer = ConvLSTM(3, 2)
    assert all(torch.equal(layer.b[gate], torch.full((2,), float(gate == "f"))) for gate in "ifo")
    assert layer.B.shape == (2, 1, 1) and ConvLSTM(3, 2, map_size=(4, 5)).B.shape == (2, 4, 5)
    for size in ((1, 1), (3, 9)):
        assert layer(torch.randn(1, 3, 2, *size))[0].shape == (1, 2, 2, *size)


def test_bad_input_is_one_clear_error():
    with pytest.raises(ValueError, match="odd"):
        ConvLSTM(3, 2, kernel_size=4)
    for steps in ((1, 4), (-1,)):
        with pytest.raises(ValueError, match="do not fit a clip of 4 steps"):
            ConvLSTM(3, 2, deform_steps=steps)(torch.randn(1, 3, 4, 5, 5))

"""The released code: its numbers, its four defects, and its variables in our network."""

import copy
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import SMALL_NETWORK, lively_network
from torch import nn

from deformlib.convlstm import ConvLSTM, VariantConvLSTM
from deformlib.network import NetworkError, VideoNet, preset, save_network
from deformlib.paper.released import (
    DEFECTS,
    ReleasedConvLSTM,
    ReleasedPool2d,
    ReleasedVideoNet,
    from_released,
    mixed_gates,
    released_config,
    released_variables,
    select_steps,
)

DATA = Path(__file__).parent / "data"
PLAIN = ((), (), ())
SMALL = {"length": 8, "size": 16, "conv3d": (2, 3, 4), "hidden": (5, 5, 5), "conv2d": (4, 5, 6)}


def channels_second(array: np.ndarray) -> torch.Tensor:
    """[B, T, H, W, C] -> [B, C, T, H, W]."""
    return torch.from_numpy(array).permute(0, 4, 1, 2, 3)


def cell_weights(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
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
    return ref, cell_weights(gradients)


def check_against_the_authors(layer: ConvLSTM, ref: dict, gradients: dict) -> None:
    """h and c of every step and all gradients, to 1e-5."""
    layer.load_state_dict(cell_weights(ref))
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
    check_against_the_authors(VariantConvLSTM(5, 4, map_size=(7, 6)), *authors("released_cell_plain.npz"))


@pytest.mark.parametrize("defects", [("released_border",), ("released_border", "mixed_gates")])
def test_deformable_cell_with_its_defects_gives_the_authors_numbers_and_gradients(defects):
    ref, gradients = authors("released_cell_deform.npz")  # recorded with one clip, whose gates cannot be mixed
    steps = tuple(ref["deform_steps"].tolist())
    layer = ReleasedConvLSTM(5, 4, deform_steps=steps, per_filter=True, map_size=(7, 6), defects=defects)
    check_against_the_authors(layer, ref, gradients)


def test_deformable_cell_with_a_right_border_gives_the_recorded_numbers():
    ref, _ = authors("released_cell_deform.npz")
    layer = VariantConvLSTM(5, 4, deform_steps=tuple(ref["deform_steps"].tolist()), per_filter=True, map_size=(7, 6))
    layer.load_state_dict(cell_weights(ref))
    x, h_zero, c_zero = (channels_second(ref[name]) for name in ("x", "h_zero", "c_zero"))
    for length in range(1, 7):
        h, (last_h, last_c) = layer(x, lengths=torch.tensor([length]))
        torch.testing.assert_close(h[:, :, :length], h_zero[:, :, :length], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_h, h_zero[:, :, length - 1], atol=1e-5, rtol=0)
        torch.testing.assert_close(last_c, c_zero[:, :, length - 1], atol=1e-5, rtol=0)
    assert (h_zero - channels_second(ref["h"])).abs().max() > 0.01  # the border matters here


def border_by_hand(image: torch.Tensor, offset: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The released border, a number at a time: one map [C, H, W], one field [2K, H, W], weight [F, C, 3, 3]."""
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
    layer = ReleasedConvLSTM(3, 2, deform_steps=(0,), defects=("released_border",))
    x = torch.randn(1, 3, 1, 7, 6)
    with torch.no_grad():
        nn.init.normal_(layer.input_conv.offset_branch.weight, std=spread / 5)
        expected = border_by_hand(x[0, :, 0], layer.offset_fields(x)[0, 0], layer.input_conv.weight)
        torch.testing.assert_close(layer.input_maps(x)[0, 0], expected, atol=1e-5, rtol=0)
        if not spread:  # taps that leave the map or touch its last row or column: rows 0, 5 and 6, columns 0, 4 and 5
            plain = ConvLSTM(3, 2)
            plain.input_conv.weight.copy_(layer.input_conv.weight)
            wrong = (layer.input_maps(x) - plain.input_maps(x)).abs().amax((0, 1, 2)) > 1e-6
            assert wrong.sum() == 7 * 6 - 4 * 3 and not wrong[1:5, 1:4].any()


def test_a_mask_of_the_layer_and_that_of_the_border_multiply():
    torch.manual_seed(0)
    layer = ReleasedConvLSTM(3, 2, deform_steps=(0,), modulated=True, defects=("released_border",))
    unmasked = ReleasedConvLSTM(3, 2, deform_steps=(0,), defects=("released_border",))
    unmasked.input_conv.weight.data.copy_(layer.input_conv.weight)
    x = torch.randn(1, 3, 1, 7, 6)
    torch.testing.assert_close(layer.input_maps(x) * 2, unmasked.input_maps(x))  # the mask starts at sigmoid(0) = 1/2


def test_mixed_gates_take_rows_of_other_clips():
    torch.manual_seed(0)
    right, wrong = ConvLSTM(2, 3), ReleasedConvLSTM(2, 3, defects=("mixed_gates",))
    wrong.load_state_dict(right.state_dict())
    with torch.no_grad():
        right.state_conv.weight.zero_()
        wrong.state_conv.weight.zero_()
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


def test_mixed_gates_by_a_number_of_each_clip():
    numbers = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 3, 2, 1, 1)  # (B, 3, F, 1, 1)
    spread = mixed_gates(numbers, 5)
    assert spread.shape == (3, 3, 2, 5, 1)
    assert spread[:, 2, 1, :, 0].tolist() == [[(5 * clip + row) % 3 for row in range(5)] for clip in range(3)]


def test_defects_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="mixed_gates.*released_border"):
        ReleasedConvLSTM(3, 2, defects=("double_softmax",))
    with pytest.raises(ValueError, match="mixed_gates.*mean"):
        ReleasedConvLSTM(3, 2, gates="convolution", defects=("mixed_gates",))
    with pytest.raises(NetworkError, match="no_dropout.*mixed_gates, .*double_softmax"):
        ReleasedVideoNet(SMALL_NETWORK, ("mixed_gates", "no_dropout"))
    with pytest.raises(NetworkError, match="mixed_gates.*mean"):
        ReleasedVideoNet(replace(SMALL_NETWORK, gates="convolution"), ("mixed_gates",))


def test_without_defects_it_is_the_network_of_chapter_09():
    """The same tensors from the same seed, to the bit, and the same logits; every defect changes these."""
    torch.manual_seed(1)
    fair = VideoNet(SMALL_NETWORK)
    for defects in ((), *((name,) for name in DEFECTS), tuple(DEFECTS)):
        torch.manual_seed(1)
        net = ReleasedVideoNet(SMALL_NETWORK, defects)
        ours, theirs = net.state_dict(), fair.state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    fair, clips = lively_network(fair)
    for defects in ((), *((name,) for name in DEFECTS)):
        net = ReleasedVideoNet(SMALL_NETWORK, defects).double().eval()
        net.load_state_dict(fair.state_dict())
        assert torch.allclose(net(clips), fair(clips)) == (not defects), defects


def test_a_network_with_defects_is_not_saved_as_one_without(tmp_path):
    with pytest.raises(NetworkError, match="ReleasedVideoNet"):
        save_network(
            ReleasedVideoNet(SMALL_NETWORK, ("pool_2_2_1",)), tmp_path / "net.safetensors", ("a", "b", "c", "d")
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("side", [1, 3, 4])
def test_the_released_pooling_is_tensorflows(side):
    """Mean over (2, 2, 1) at stride (1, 2, 2) with "same" padding, which is not counted: here sums over counts."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 2 * side, 2 * side)  # (B, C, T, H, W)
    padded = [nn.functional.pad(value, (0, 0, 0, 0, 0, 1)) for value in (x, torch.ones_like(x))]
    sums, counts = (nn.functional.avg_pool3d(value, (2, 2, 1), (1, 2, 2)) for value in padded)
    expected = (sums / counts).transpose(1, 2).flatten(0, 1)  # (B T, C, H/2, W/2)
    got = ReleasedPool2d(steps=4)(x.transpose(1, 2).flatten(0, 1))
    torch.testing.assert_close(got, expected)
    net = ReleasedVideoNet(SMALL_NETWORK, ("pool_2_2_1",))
    assert isinstance(net.conv2d[3], ReleasedPool2d) and net.conv2d[3].steps == SMALL_NETWORK.steps


def test_double_softmax_gives_the_loss_probabilities():
    net, clips = lively_network(VideoNet(SMALL_NETWORK))
    twice = ReleasedVideoNet(SMALL_NETWORK, ("double_softmax",)).double().eval()
    twice.load_state_dict(net.state_dict())
    torch.testing.assert_close(twice(clips), net(clips).softmax(1))
    assert nn.functional.cross_entropy(torch.eye(17), torch.arange(17)).item() == pytest.approx(1.9295, abs=1e-4)


def test_released_network_has_the_authors_count():
    with torch.device("meta"):
        plain, net = (
            VideoNet(config) for config in (replace(released_config(), deform_steps=PLAIN), released_config())
        )
    counts = [[p.numel() for p in some.parameters() if p.requires_grad] for some in (plain, net)]
    assert (sum(counts[0]), len(counts[0])) == (2_231_793, 60)
    per_filter = [9 * channels * 32 + 32 + 9 * channels * 576 + 576 for channels in (256, 32, 32)]
    assert per_filter[0] == 1_401_440  # as the released layer
    assert sum(counts[1]) - 2_231_793 == sum(per_filter)


def test_released_config():
    config = released_config()
    assert config.deform_steps == ((0, 10), (1, 11), (2, 12))
    assert (config.pool, config.per_filter, config.position_bias) == ("average", True, True)
    assert replace(config, pool="max", per_filter=False, position_bias=False, deform_steps=PLAIN) == preset("plain")


def released_arrays(config):
    """Random arrays under the names and in the shapes of the released code."""
    generator, side, arrays = np.random.default_rng(0), config.map_size, {}

    def add(stage, **shapes):
        arrays.update(
            {f"{stage}/{name}": generator.normal(size=shape).astype("float32") for name, shape in shapes.items()}
        )

    def norm(stage, width):
        add(stage, gamma=width, beta=width, moving_mean=width, moving_variance=width)
        arrays[f"{stage}/moving_variance"] **= 2

    channels = config.in_channels
    for k, width in enumerate(config.conv3d, 1):
        add(f"conv3d_{k}", kernel=(3, 3, 3, channels, width))
        if k > 1:
            norm(f"conv3d_{k}", width)
        channels = width
    for k, (width, steps) in enumerate(zip(config.hidden, config.deform_steps, strict=True), 1):
        add(
            f"cell_{k}",
            wconvInput=(3, 3, channels, width),
            wconvHidden=(3, 3, width, width),
            gateBias=(side, side, width),
        )
        add(f"cell_{k}", **{f"{vector}{gate}": width for vector in ("wx", "wh", "b") for gate in "ifo"})
        if steps:
            add(f"cell_{k}", d_kernel=(3, 3, channels, width), d_bias=width)
            add(f"cell_{k}", d_offset_kernel=(3, 3, channels, 18 * width), d_offset_bias=18 * width)
        norm(f"cell_{k}", width)
        channels = width
    for k, width in enumerate(config.conv2d, 1):
        add(f"conv2d_{k}", kernel=(1, 3, 3, channels, width))
        norm(f"conv2d_{k}", width)
        channels = width
    add("dense", kernel=(channels, config.classes), bias=config.classes)
    return arrays


def test_the_variables_of_a_wrapped_network_are_those_of_the_bare_one():
    net = VideoNet(replace(released_config(), **SMALL, classes=4, deform_steps=select_steps("released", 4)))
    views, parts = released_variables(net), copy.deepcopy(net)
    parts.conv3d, parts.recurrent[1] = torch.compile(parts.conv3d), nn.DataParallel(parts.recurrent[1])
    parts.recurrent[0].deform_conv = torch.compile(parts.recurrent[0].deform_conv)
    wrapped = released_variables(nn.DataParallel(parts))
    assert wrapped.keys() == views.keys() and all(views[name].equal(wrapped[name]) for name in views)


def test_keras_own_names_of_the_biases_do_as_well():
    config = replace(released_config(), **SMALL, deform_steps=PLAIN)
    arrays = released_arrays(config)
    names = {"bi": "inputBias", "bf": "forgetBias", "bo": "outputBias"}
    paths = [name.split("/") for name in arrays]
    renamed = {f"{stage}/{names.get(last, last)}": arrays[f"{stage}/{last}"] for stage, last in paths}
    assert "cell_1/forgetBias" in renamed and "cell_1/bf" not in renamed
    first, second = (from_released(each, config).state_dict() for each in (arrays, renamed))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    with pytest.raises(NetworkError, match="given twice"):
        from_released(arrays | {"cell_1/inputBias": arrays["cell_1/bi"]}, config)


@pytest.mark.parametrize("steps", [PLAIN, ((0,), (1,), (2,))])
def test_released_variables_and_back(steps):
    config = replace(released_config(), **SMALL, deform_steps=steps)
    arrays = released_arrays(config)
    assert len(arrays) == 76 + 4 * sum(map(len, steps))
    net = from_released(arrays, config)
    assert not net.training and net.config == config
    assert isinstance(from_released(arrays, config, ("pool_2_2_1",)), ReleasedVideoNet)
    back = released_variables(net)
    assert set(back) == set(arrays)
    assert all(np.array_equal(back[name].numpy(), arrays[name]) for name in arrays)


@pytest.mark.parametrize(("kind", "steps"), [("plain", PLAIN), ("deform", ((0, 10), (1, 11), (2, 12)))])
def test_the_released_network_has_the_released_shapes(kind, steps):
    with torch.device("meta"):
        net = VideoNet(replace(released_config(), deform_steps=steps))
    shapes = {name: tuple(view.shape) for name, view in released_variables(net).items()}
    assert shapes["conv3d_3/kernel"] == (3, 3, 3, 128, 256) and shapes["conv2d_1/kernel"] == (1, 3, 3, 32, 128)
    cell = {
        "wconvInput": (3, 3, 256, 32),
        "wconvHidden": (3, 3, 32, 32),
        "gateBias": (28, 28, 32),
        "whf": (32,),
        "gamma": (32,),
    }
    if kind == "deform":
        cell |= {"d_kernel": (3, 3, 256, 32), "d_offset_kernel": (3, 3, 256, 576), "d_offset_bias": (576,)}
    assert {name: shapes[f"cell_1/{name}"] for name in cell} == cell and shapes["dense/kernel"] == (256, 17)
    with np.load(DATA / f"released_cell_{kind}.npz") as reference:
        recorded = {name: reference[name].ndim for name in reference if re.match("w|b|d_|gateBias", name)}
    ours = {name.split("/")[1]: len(shape) for name, shape in shapes.items() if name.startswith("cell_1/")}
    assert recorded.items() <= ours.items()
    assert set(ours) - set(recorded) == {"gamma", "beta", "moving_mean", "moving_variance"}


def test_released_kernels_mean_what_they_do_in_tensorflow():
    """One output number of each kind of layer, as a sum over the axes in TensorFlow's order."""
    config = replace(released_config(), **SMALL, deform_steps=PLAIN)
    arrays = released_arrays(config)
    net = from_released(arrays, config)
    clip = torch.rand(1, 1, 8, 16, 16)
    inside = clip[0].movedim(0, -1).numpy()[2:5, 6:9, 9:12]  # (T, H, W, C) around frame 3, place (7, 10)
    got = net.conv3d.layers[0](clip)[0, :, 3, 7, 10].detach().numpy()
    np.testing.assert_allclose(got, np.einsum("thwc,thwcf->f", inside, arrays["conv3d_1/kernel"]), rtol=1e-5, atol=1e-5)
    maps = torch.rand(1, 5, 4, 4)
    inside = maps[0].movedim(0, -1).numpy()[None, 1:4, 0:3]
    got = net.conv2d[0](maps)[0, :, 2, 1].detach().numpy()
    np.testing.assert_allclose(got, np.einsum("thwc,thwcf->f", inside, arrays["conv2d_1/kernel"]), rtol=1e-5, atol=1e-5)
    vector = torch.rand(6)
    expected = vector.numpy() @ arrays["dense/kernel"] + arrays["dense/bias"]
    np.testing.assert_allclose(net.linear(vector).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name, array, words",
    [
        ("cell_2/wconvInput", np.zeros((3, 3, 5, 6)), r"got \[3, 3, 5, 6\], but the network has \[3, 3, 5, 5\]"),
        ("conv2d_1/kernel", np.zeros((3, 3, 5, 4)), r"got \[3, 3, 5, 4\], but the network has \[1, 3, 3, 5, 4\]"),
        ("dense/bias", None, r"got nothing, but the network has \[17\]"),
        ("cell_1/d_mask", np.zeros(3), r"got \[3\], but the network has nothing"),
    ],
)
def test_a_released_array_that_does_not_fit_is_named(name, array, words):
    config = replace(released_config(), **SMALL, deform_steps=PLAIN)
    arrays = released_arrays(config)
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    with pytest.raises(NetworkError, match=f"{name}: {words}"):
        from_released(arrays, config)

"""The network: the released count, the presets, shapes, errors, and the file it is kept in."""

import copy
import itertools
import json
import os
import re
from dataclasses import FrozenInstanceError, asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from deformlib.convlstm import ConvLSTM
from deformlib.network import (
    DEFECTS,
    NetworkConfig,
    NetworkError,
    VideoNet,
    from_released,
    load_network,
    multiply_adds,
    paper_steps,
    preset,
    released_variables,
    save_network,
    select_steps,
)

PLAIN = ((), (), ())
EXAMPLES = Path(__file__).parent.parent / "results"
TINY = NetworkConfig(
    classes=4, length=8, size=16, conv3d=(2, 3, 4), hidden=(3, 3, 3), conv2d=(4, 5, 6), deform_steps=paper_steps(4)
)
NAMES = ("anger", "joy", "fear", "sadness")


def count(config):
    trainable = [parameter for parameter in VideoNet(config).parameters() if parameter.requires_grad]
    return sum(parameter.numel() for parameter in trainable), len(trainable)


def test_released_network_has_the_authors_count():
    assert count(replace(preset("released"), deform_steps=PLAIN)) == (2_231_793, 60)


def test_presets():
    paper, plain, released, classroom = (preset(name) for name in ("paper", "plain", "released", "classroom"))
    assert paper.deform_steps == ((4, 8, 12), (5, 9, 13), (6, 10, 14))
    assert replace(paper, deform_steps=PLAIN) == plain
    assert (paper.pool, paper.per_filter, paper.position_bias) == ("max", False, False)
    assert released.deform_steps == ((0, 10), (1, 11), (2, 12))
    assert (released.pool, released.per_filter, released.position_bias) == ("average", True, True)
    assert classroom.deform_steps == paper_steps(classroom.steps)
    with pytest.raises(NetworkError, match="papre.*paper, plain, released, classroom"):
        preset("papre")
    with pytest.raises(FrozenInstanceError):
        paper.classes = 3


def test_each_deformable_layer_adds_one_offset_branch():
    per_layer = [9 * channels * 18 + 18 for channels in (256, 32, 32)]
    assert count(preset("paper"))[0] - count(preset("plain"))[0] == sum(per_layer)
    per_filter = [9 * channels * 32 + 32 + 9 * channels * 576 + 576 for channels in (256, 32, 32)]
    assert per_filter[0] == 1_401_440  # as the released layer
    assert count(preset("released"))[0] - 2_231_793 == sum(per_filter)


def test_paper_steps():
    assert paper_steps(16) == ((4, 8, 12), (5, 9, 13), (6, 10, 14))
    assert paper_steps(8) == ((2, 4, 6), (2, 4, 6), (3, 5, 7))
    for steps in range(1, 40):
        for layers in (1, 3, 6):
            rows = paper_steps(steps, layers)
            assert len(rows) == layers and all(0 <= step < steps for row in rows for step in row)


def test_steps_by_name():
    everything = tuple(range(16))
    assert select_steps("none", 16) == PLAIN
    assert select_steps("all", 16) == (everything,) * 3
    assert select_steps("paper", 16) == paper_steps(16)
    assert select_steps("released", 16) == ((0, 10), (1, 11), (2, 12))
    assert select_steps("released", 32) == ((0, 10, 20), (1, 11, 21), (2, 12, 22))  # as the authors meant it
    assert select_steps("even", 16) == ((0, 6, 11), (2, 8, 13), (4, 9, 15))
    assert select_steps("even", 1, layers=2) == ((0,), (0,))
    for steps in range(1, 40):
        for layers in (1, 3, 6):
            for name in ("none", "paper", "released", "all", "even"):
                rows = select_steps(name, steps, layers)
                assert len(rows) == layers and all(list(row) == sorted(set(row)) for row in rows)
                assert all(0 <= step < steps for row in rows for step in row)
            if steps >= 3 * layers:  # every frame is deformable once, the gaps differ by one at most
                frames = sorted(step for row in select_steps("even", steps, layers) for step in row)
                gaps = [after - before for before, after in itertools.pairwise(frames)]
                assert len(frames) == 3 * layers and max(gaps) - min(gaps) <= 1 and min(gaps) > 0
    with pytest.raises(NetworkError, match="'some': take one of none, paper, released, all, even"):
        select_steps("some", 16)


def test_multiply_adds_are_those_of_the_formulas():
    """Three convolutions of the tiny network by hand, and what deformation adds; the net itself is left as it was."""
    plain = VideoNet(replace(TINY, deform_steps=PLAIN)).train()
    conv3d = 27 * (8 * 16 * 16 * 2 + 8 * 8 * 8 * 2 * 3 + 4 * 4 * 4 * 3 * 4)
    recurrent = 9 * 4 * 4 * 4 * ((4 + 3) * 3 + 2 * (3 + 3) * 3)
    conv2d = 9 * 4 * (16 * 3 * 4 + 4 * 4 * 5 + 1 * 5 * 6)
    assert multiply_adds(plain) == conv3d + recurrent + conv2d + 6 * 4
    assert plain.training and all(parameter.device.type == "cpu" for parameter in plain.parameters())
    branches = sum(9 * 18 * channels * len(steps) * 16 for channels, steps in zip((4, 3, 3), TINY.deform_steps))
    assert multiply_adds(VideoNet(TINY)) - multiply_adds(plain) == branches


def test_multiply_adds_of_wide_layers_are_those_of_the_ordinary_convolution():
    wide = NetworkConfig(length=8, size=16, conv3d=(64, 64, 64), hidden=(2,), conv2d=(2, 2, 2), deform_steps=((),))
    second = 27 * 64 * 64 * 8 * 8 * 8  # on a CPU half of it
    narrow = replace(wide, conv3d=(64, 1, 64))
    difference = 27 * 63 * (64 * 8 * 8 * 8 + 64 * 4 * 4 * 4)
    assert multiply_adds(VideoNet(wide)) - multiply_adds(VideoNet(narrow)) == difference > second


def test_stages_have_the_released_shapes():
    seen = []
    net = VideoNet(preset("plain")).eval()
    for module in (net.conv3d, *net.recurrent, *net.conv2d):
        if not isinstance(module, (nn.BatchNorm2d, nn.LeakyReLU, nn.Conv2d)):
            module.register_forward_hook(
                lambda m, i, o: seen.append(tuple((o[0] if isinstance(o, tuple) else o).shape))
            )
    with torch.no_grad():
        assert net(torch.rand(1, 1, 32, 112, 112)).shape == (1, 17)
    assert seen[:4] == [(1, 256, 16, 28, 28), *[(1, 32, 16, 28, 28)] * 3]
    assert seen[4:] == [(16, 128, 14, 14), (16, 256, 7, 7), (16, 256, 4, 4)]


@pytest.mark.parametrize("length, size, channels", [(2, 4, 1), (7, 37, 3), (9, 5, 1), (20, 50, 2)])
@pytest.mark.parametrize("name", ["classroom", "released"])
def test_any_length_and_size_that_the_configuration_states(length, size, channels, name):
    shape = {"length": length, "size": size, "in_channels": channels, "deform_steps": paper_steps(length // 2)}
    config = replace(preset(name), classes=5, conv3d=(2, 3, 4), hidden=(2, 3, 4), conv2d=(3, 4, 5), **shape)
    net, clips = VideoNet(config), torch.rand(2, channels, length, size, size)
    logits = net(clips)
    assert logits.shape == (2, 5)
    logits.sum().backward()
    untouched = {name for name, parameter in net.named_parameters() if parameter.grad is None}
    assert all(name.endswith("input_conv.weight") for name in untouched)  # where every step has the second kernel
    assert not untouched or (config.per_filter and config.steps <= 3)
    for layer, fields in zip(net.recurrent, net.offset_fields(clips), strict=True):
        per_tap = 2 * layer.B.shape[0] if config.per_filter else 2
        assert fields.shape == (2, len(layer.deform_steps), 9 * per_tap, config.map_size, config.map_size)


def awake(config):
    """A network in float64 with large random kernels, set to predict, and clips that differ."""
    torch.manual_seed(0)
    net = VideoNet(config).double().eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter)
    for norm in net.norms:
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.1, 1)
    clips = torch.rand(3, config.in_channels, config.length, config.size, config.size, dtype=torch.float64)
    clips[1:] *= torch.tensor([0.5, 0.1]).view(2, 1, 1, 1, 1)
    assert net(clips).std(0).min() > 1e-3
    return net, clips


def test_forward_is_the_stages_in_order():
    net, clips = awake(TINY)
    x = net.conv3d(clips)
    for layer, norm in zip(net.recurrent, net.norms):
        h = layer(x)[0]
        mean, var = (value.view(1, -1, 1, 1, 1) for value in (norm.running_mean, norm.running_var))
        h = (h - mean) / (var + 1e-3).sqrt() * norm.weight.view(mean.shape) + norm.bias.view(mean.shape)
        x = torch.where(h > 0, h, 0.2 * h)
    steps = torch.stack([net.conv2d(frame).mean((2, 3)) for frame in x.unbind(2)])
    torch.testing.assert_close(net(clips), net.linear(steps.mean(0)), atol=1e-9, rtol=1e-9)


def test_clips_of_a_batch_do_not_touch_each_other():
    net, clips = awake(TINY)
    torch.testing.assert_close(torch.cat([net(clip[None]) for clip in clips]), net(clips), atol=1e-9, rtol=1e-9)


def test_offset_fields_are_those_of_the_forward_pass():
    net, clips = awake(TINY)
    seen = []
    for layer in net.recurrent:
        layer.input_conv.offset_branch.register_forward_hook(lambda module, inputs, output: seen.append(output))
    net(clips)
    passed = seen[:]
    for fields, raw in zip(net.offset_fields(clips), passed, strict=True):
        torch.testing.assert_close(
            fields, raw.unflatten(0, (fields.shape[1], -1)).transpose(0, 1), atol=1e-9, rtol=1e-9
        )


def test_the_paper_network_starts_as_the_plain_one():
    torch.manual_seed(0)
    plain = VideoNet(replace(TINY, deform_steps=PLAIN)).eval()
    moving = VideoNet(TINY).eval()
    added = moving.load_state_dict(plain.state_dict(), strict=False)
    assert all("offset_branch" in name for name in added.missing_keys) and not added.unexpected_keys
    clips = torch.rand(2, 1, 8, 16, 16)
    torch.testing.assert_close(moving(clips), plain(clips), atol=1e-5, rtol=1e-5)


def test_start():
    net = VideoNet(preset("released"))
    for name, weight in net.named_parameters():
        if "offset_branch" in name:
            assert weight.abs().max() == 0, name
        elif name.endswith("weight") and weight.ndim > 1:
            assert abs(weight.std().item() - 0.02) < 0.002 and abs(weight.mean().item()) < 0.002, name
    for vectors in ("w_x", "w_h"):  # 3 layers x 3 gates x 32 numbers; left as PyTorch starts them, their std is 0.1
        drawn = torch.cat([vector for layer in net.recurrent for vector in getattr(layer, vectors).values()])
        assert len(drawn) == 288 and abs(drawn.std().item() - 0.02) < 0.004 and abs(drawn.mean().item()) < 0.006
    assert all(layer.b["f"].min() == 1 and layer.b["i"].abs().max() == 0 for layer in net.recurrent)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 8 and all((norm.eps, norm.momentum) == (1e-3, 0.01) for norm in norms)
    assert all(isinstance(layer, ConvLSTM) for layer in net.recurrent)


@pytest.mark.parametrize("side", [14, 16, 28])
def test_the_slipped_pooling_is_tensorflows(side):
    """Mean over (2, 2, 1) at stride (1, 2, 2) with "same" padding, which is not counted: here sums over counts."""
    net, clips = awake(replace(TINY, size=4 * side, defects=("pool_2_2_1",)))
    seen = {}
    net.conv2d[3].register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0], y=output))
    net(clips)
    x = seen["x"].unflatten(0, (len(clips), -1)).transpose(1, 2)  # (B, C, T, H, W)
    padded = [nn.functional.pad(value, (0, 0, 0, 0, 0, 1)) for value in (x, torch.ones_like(x))]
    sums, counts = (nn.functional.avg_pool3d(value, (2, 2, 1), (1, 2, 2)) for value in padded)
    assert seen["y"].shape[2:] == (side // 2, side // 2)
    expected = (sums / counts).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(seen["y"], expected, atol=1e-12, rtol=1e-12)


def test_double_softmax_gives_the_loss_probabilities():
    net, clips = awake(TINY)
    twice = VideoNet(replace(TINY, defects=("double_softmax",))).double().eval()
    twice.load_state_dict(net.state_dict())
    torch.testing.assert_close(twice(clips), net(clips).softmax(1))
    assert nn.functional.cross_entropy(torch.eye(17), torch.arange(17)).item() == pytest.approx(1.9295, abs=1e-4)


def test_no_defect_is_on_by_default():
    assert set(DEFECTS) == {"mixed_gates", "released_border", "pool_2_2_1", "double_softmax"}
    assert not any(preset(name).defects for name in ("paper", "plain", "released", "classroom"))
    net = VideoNet(TINY)
    pools = [type(module) for module in net.conv2d if "Pool" in type(module).__name__]
    assert pools == [nn.AvgPool2d] * 3


def test_weights_saved_before_a_field_was_added_still_load(tmp_path):
    path = tmp_path / "network.safetensors"
    save_network(VideoNet(TINY), path, NAMES)
    config = asdict(TINY)
    for name in ("gates", "learned_steps", "deform_state", "shared_offsets", "defects"):
        del config[name]
    header = {"deformlib": "VideoNet", "config": json.dumps(config), "classes": json.dumps(list(NAMES))}
    save_file(load_file(path), path, header)  # three entries, as files of before have
    again, classes = load_network(path)
    assert again.config == TINY and classes == NAMES
    save_file({f"_orig_mod.{name}": tensor for name, tensor in load_file(path).items()}, path, header)
    compiled = load_network(path)[0]
    assert all(tensor.equal(again.state_dict()[name]) for name, tensor in compiled.state_dict().items())


def compiled_parts(net):
    net.conv3d, net.recurrent[1] = torch.compile(net.conv3d), nn.DataParallel(net.recurrent[1])
    net.recurrent[0].input_conv = torch.compile(net.recurrent[0].input_conv)
    return net


def compiled_in_place(net):
    net.compile()
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        AveragedModel,
        compiled_in_place,
        compiled_parts,
        lambda net: torch.compile(nn.DataParallel(torch.compile(compiled_parts(net)))),
    ],
)
def test_wrapped_networks_give_the_file_of_the_bare_one(tmp_path, wrap):
    net, path, bare = VideoNet(TINY), tmp_path / "wrapped.safetensors", tmp_path / "bare.safetensors"
    save_network(net, bare, NAMES)
    wrapped = wrap(copy.deepcopy(net))
    save_network(wrapped, path, NAMES)
    assert path.read_bytes() == bare.read_bytes() and load_network(path)[1] == NAMES
    assert multiply_adds(wrapped) == multiply_adds(net)


def test_the_same_network_gives_the_same_bytes(tmp_path):
    net, files = VideoNet(TINY), set()
    for number in range(8):
        save_network(net, tmp_path / f"{number}.safetensors", NAMES)
        files.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(files) == 1


def test_the_variables_of_a_wrapped_network_are_those_of_the_bare_one():
    net = VideoNet(replace(preset("released"), **SMALL, classes=4, deform_steps=select_steps("released", 4)))
    views = released_variables(net)
    wrapped = released_variables(nn.DataParallel(torch.compile(compiled_parts(copy.deepcopy(net)))))
    assert wrapped.keys() == views.keys() and all(views[name].equal(wrapped[name]) for name in views)


def test_networks_that_could_not_be_read_again_are_not_written(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(NetworkError, match="network.safetensors: a Linear is no VideoNet: save its state_dict"):
        save_network(torch.compile(nn.Linear(1, 1)), path, NAMES)
    with pytest.raises(NetworkError, match=r"network.safetensors: .* is not as its configuration says: save net.float\(\)"):
        save_network(VideoNet(TINY).half(), path, NAMES)
    normed = VideoNet(TINY)
    nn.utils.parametrizations.spectral_norm(normed.linear)
    with pytest.raises(NetworkError, match="network.safetensors: linear.parametrizations.* without parts added"):
        save_network(normed, path, NAMES)
    assert not path.exists()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("example-*/*.safetensors")), ids=lambda file: file.stem)
def test_committed_weights_load(file):
    net, classes = load_network(file)
    config = net.config
    logits = net(torch.rand(2, config.in_channels, config.length, config.size, config.size))
    assert logits.shape == (2, len(classes)) and logits.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 8, 16, 16), (2, 1, 9, 16, 16), (2, 1, 8, 16, 18), (1, 8, 16, 16)])
def test_a_clip_of_another_shape_is_one_clear_error(shape):
    net = VideoNet(TINY)
    for use in (net, net.offset_fields):
        with pytest.raises(NetworkError, match=r"\[B, 1, 8, 16, 16\]") as error:
            use(torch.rand(shape))
        assert str(list(shape)) in str(error.value)


def test_a_mask_for_every_field_of_every_filter():
    torch.manual_seed(0)
    net, clips = VideoNet(replace(TINY, modulated=True, per_filter=True)).double(), torch.rand(3, 1, 8, 16, 16).double()
    nn.functional.cross_entropy(net(clips), torch.tensor([0, 1, 2])).backward()
    for layer, channels in zip(net.recurrent, (4, 3, 3), strict=True):
        branch = layer.deform_conv.offset_branch
        assert branch.weight.shape == (27 * 3, channels, 3, 3)  # dy, dx and a mask for 9 taps of 3 filters
        assert (branch.weight.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"deform_steps": ((1,),)}, "1 ConvLSTM layers, but hidden names 3"),
        ({"deform_steps": ((4,), (), ())}, "steps 0 to 3"),
        ({"deform_steps": ((-1,), (), ())}, "steps 0 to 3"),
        ({"length": 1}, "too small"),
        ({"size": 3}, "too small"),
        ({"pool": "mean"}, "pool is 'mean': choose 'max' or 'average'"),
        ({"conv3d": (2, 3)}, "conv3d names 2 widths and conv2d 3"),
        ({"conv3d": (2, 3, 4, 5)}, "conv3d names 4 widths"),
        ({"conv2d": (4,)}, "conv2d 1: give three of each"),
        ({"conv2d": (4, 5, 6, 7)}, "conv2d 4: give three of each"),
        ({"gates": "convolution", "defects": ("mixed_gates",)}, "mixed_gates is a defect of gates on means"),
        ({"gates": "max"}, "gates is 'max': choose 'mean' or 'convolution'"),
        ({"deform_state": True}, "deform_state .*take gates='convolution'"),
        ({"learned_steps": True, "deform_steps": PLAIN}, r"Nothing is deformable.*select_steps\('all', 4\)"),
        (
            {"defects": ("mixed_gates", "no_dropout")},
            "no defect 'no_dropout': choose among mixed_gates, .*double_softmax",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_clear_error(change, words):
    with pytest.raises(NetworkError, match=words) as caught:
        replace(TINY, **change)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["classroom", "released"])
def test_file_round_trip(tmp_path, name):
    tiny = {"conv3d": (2, 3, 4), "hidden": (2, 3, 4), "conv2d": (3, 4, 5), "classes": 4, "size": 16}
    config = replace(preset(name), **tiny)
    net, path = VideoNet(config), tmp_path / "new" / "folder" / "network.safetensors"
    clips = torch.rand(2, 1, config.length, 16, 16)
    net(clips)  # moves the running statistics
    save_network(net, path, NAMES)
    again, names = load_network(path)
    assert (again.config, names, again.training) == (config, NAMES, False)
    assert torch.equal(again(clips), net.eval()(clips))
    assert [item.name for item in path.parent.iterdir()] == ["network.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "network.safetensors"
    save_network(VideoNet(TINY), path, NAMES)
    before = path.read_bytes()
    monkeypatch.setattr("deformlib.bodies.os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError):
        save_network(VideoNet(TINY), path, NAMES)
    assert path.read_bytes() == before


def test_wrong_files_are_one_clear_error(tmp_path):
    path = tmp_path / "network.safetensors"
    with pytest.raises(NetworkError, match="network.safetensors: there is no such file"):
        load_network(path)
    path.write_bytes(b"these are no weights")
    with pytest.raises(NetworkError, match="not a whole safetensors file"):
        load_network(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(NetworkError, match="another network"):
        load_network(path)
    save_network(VideoNet(TINY), path, NAMES)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NetworkError, match="not a whole safetensors file"):
        load_network(path)
    path.write_bytes(whole)
    for config in (asdict(replace(TINY, hidden=(4, 4, 4))), {"depth": 3}):
        save_file(load_file(path), path, {"deformlib": json.dumps({"config": config, "classes": NAMES})})
        with pytest.raises(NetworkError, match="do not fit this version"):
            load_network(path)
    with pytest.raises(NetworkError, match="2 class names for a network with 4 logits"):
        save_network(VideoNet(TINY), path, ("joy", "anger"))
    with pytest.raises(NetworkError, match="give one text per logit"):  # load_network would refuse numbers
        save_network(VideoNet(TINY), path, (0, 1, 2, 3))


SMALL = {"length": 8, "size": 16, "conv3d": (2, 3, 4), "hidden": (5, 5, 5), "conv2d": (4, 5, 6)}


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
    for k, (width, steps) in enumerate(zip(config.hidden, config.deform_steps), 1):
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


def test_keras_own_names_of_the_biases_do_as_well():
    config = replace(preset("released"), **SMALL, deform_steps=PLAIN)
    arrays = released_arrays(config)
    names = {"bi": "inputBias", "bf": "forgetBias", "bo": "outputBias"}
    renamed = {"/".join([stage, names.get(last, last)]): arrays[f"{stage}/{last}"] for stage, last in (name.split("/") for name in arrays)}
    assert "cell_1/forgetBias" in renamed and "cell_1/bf" not in renamed
    first, second = (from_released(each, config).state_dict() for each in (arrays, renamed))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    with pytest.raises(NetworkError, match="given twice"):
        from_released(arrays | {"cell_1/inputBias": arrays["cell_1/bi"]}, config)


@pytest.mark.parametrize("steps", [PLAIN, ((0,), (1,), (2,))])
def test_released_variables_and_back(steps):
    config = replace(preset("released"), **SMALL, deform_steps=steps)
    arrays = released_arrays(config)
    assert len(arrays) == 76 + 4 * sum(map(len, steps))
    net = from_released(arrays, config)
    assert not net.training and net.config == config
    back = released_variables(net)
    assert set(back) == set(arrays)
    assert all(np.array_equal(back[name].numpy(), arrays[name]) for name in arrays)


def test_the_released_network_has_the_released_shapes():
    shapes = {name: tuple(view.shape) for name, view in released_variables(VideoNet(preset("released"))).items()}
    assert shapes["conv3d_3/kernel"] == (3, 3, 3, 128, 256) and shapes["conv2d_1/kernel"] == (1, 3, 3, 32, 128)
    cell = {"wconvInput": (3, 3, 256, 32), "wconvHidden": (3, 3, 32, 32), "gateBias": (28, 28, 32), "whf": (32,)}
    cell |= {"d_kernel": (3, 3, 256, 32), "d_offset_kernel": (3, 3, 256, 576), "d_offset_bias": (576,), "gamma": (32,)}
    assert {name: shapes[f"cell_1/{name}"] for name in cell} == cell
    assert shapes["dense/kernel"] == (256, 17)


def test_released_kernels_mean_what_they_do_in_tensorflow():
    """One output number of each kind of layer, as a sum over the axes in TensorFlow's order."""
    config = replace(preset("released"), **SMALL, deform_steps=PLAIN)
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


def test_the_cells_arrays_are_those_of_the_reference_files():
    for kind, steps in (("plain", PLAIN), ("deform", preset("released").deform_steps)):
        with np.load(Path(__file__).parent / "data" / f"released_cell_{kind}.npz") as reference:
            cell = {name: reference[name].ndim for name in reference if re.match("w|b|d_|gateBias", name)}
        views = released_variables(VideoNet(replace(preset("released"), deform_steps=steps)))
        ours = {name.split("/")[1]: view.ndim for name, view in views.items() if name.startswith("cell_1/")}
        assert cell.items() <= ours.items()
        assert set(ours) - set(cell) == {"gamma", "beta", "moving_mean", "moving_variance"}


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
    config = replace(preset("released"), **SMALL, deform_steps=PLAIN)
    arrays = released_arrays(config)
    if array is None:
        del arrays[name]
    else:
        arrays[name] = array
    with pytest.raises(NetworkError, match=f"{name}: {words}"):
        from_released(arrays, config)


@pytest.mark.skipif("DEFORMLIB_SLOW" not in os.environ, reason="compiles for about a minute; set DEFORMLIB_SLOW=1")
def test_compiled_equals_eager():
    """Logits to 1e-4, and the gradient by its norm: at a kink of max pooling or LeakyReLU single numbers may differ."""
    net, clips = awake(replace(TINY, conv3d=(2, 64, 4)))  # wide enough for the Winograd form
    net, clips = net.float(), clips.float()
    twin, labels = copy.deepcopy(net), torch.tensor([0, 1, 2])
    logits = torch.compile(twin)(clips)
    torch.testing.assert_close(logits, net(clips), atol=1e-4, rtol=1e-4)
    nn.functional.cross_entropy(logits, labels).backward()
    nn.functional.cross_entropy(net(clips), labels).backward()
    ours, theirs = (
        torch.cat([p.grad.flatten() for p in each.parameters() if p.grad is not None]) for each in (twin, net)
    )
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize(
    "wrong",
    [{"classes": -1}, {"classes": 2.5}, {"in_channels": 0}, {"hidden": (0, 1, 1)}, {"conv3d": (0, 8, 8)}, {"init_std": -1.0}, {"init_std": float("nan")}],
    ids=str,
)
def test_a_configuration_that_no_network_can_have_is_refused(wrong: dict):
    """Whoever holds a configuration holds one that works: no width of nothing, no spread below zero."""
    with pytest.raises(NetworkError, match="take (whole numbers|a number)"):
        replace(TINY, **wrong)

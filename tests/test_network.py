"""The network: presets, steps, shapes, errors, costs, and the file it is kept in."""

import copy
import itertools
import json
import resource
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from factories import SMALL_NETWORK, lively_network
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from deformlib.convlstm import ConvLSTM
from deformlib.files import DeformlibError
from deformlib.network import (
    PRESETS,
    NetworkConfig,
    NetworkError,
    VideoNet,
    load_network,
    paper_steps,
    preset,
    save_network,
)
from deformlib.paper.released import select_steps
from deformlib.paper.study import METHODS, Experiment, multiply_adds, sampling_multiply_adds

PLAIN = ((), (), ())
EXAMPLES = Path(__file__).parent.parent / "results"
NAMES = ("anger", "joy", "fear", "sadness")


@pytest.fixture(scope="module")
def net() -> VideoNet:
    """A small network, not to be changed."""
    torch.manual_seed(0)
    return VideoNet(SMALL_NETWORK).eval()


@pytest.fixture
def saved(net, tmp_path) -> Path:
    """A file with the small network."""
    path = tmp_path / "network.safetensors"
    save_network(net, path, NAMES)
    return path


def test_presets():
    paper, plain, classroom = (preset(name) for name in ("paper", "plain", "classroom"))
    assert list(PRESETS) == ["paper", "plain", "classroom"] and issubclass(NetworkError, DeformlibError)
    assert paper.deform_steps == ((4, 8, 12), (5, 9, 13), (6, 10, 14))
    assert replace(paper, deform_steps=PLAIN) == plain
    assert (paper.pool, paper.per_filter, paper.position_bias) == ("max", False, False)
    assert classroom.deform_steps == paper_steps(classroom.steps)
    with pytest.raises(NetworkError, match="papre.*paper, plain, classroom"):
        preset("papre")
    with pytest.raises(FrozenInstanceError):
        paper.classes = 3


def test_the_network_knows_no_defects():
    assert "defects" not in asdict(NetworkConfig())
    pools = [type(module) for module in VideoNet(SMALL_NETWORK).conv2d if "Pool" in type(module).__name__]
    assert pools == [nn.AvgPool2d] * 3


def test_each_deformable_layer_adds_one_offset_branch():
    with torch.device("meta"):
        paper, plain = (sum(p.numel() for p in VideoNet(preset(name)).parameters()) for name in ("paper", "plain"))
    assert paper - plain == sum(9 * channels * 18 + 18 for channels in (256, 32, 32))


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
    with pytest.raises(NetworkError, match="some.*none, paper, released, all, even"):
        select_steps("some", 16)


def test_multiply_adds_are_those_of_the_formulas():
    """Three convolutions of the tiny network by hand, and what deformation adds; the net itself is left as it was."""
    plain = VideoNet(replace(SMALL_NETWORK, deform_steps=PLAIN)).train()
    conv3d = 27 * (8 * 16 * 16 * 2 + 8 * 8 * 8 * 2 * 3 + 4 * 4 * 4 * 3 * 4)
    recurrent = 9 * 4 * 4 * 4 * ((4 + 3) * 3 + 2 * (3 + 3) * 3)
    conv2d = 9 * 4 * (16 * 3 * 4 + 4 * 4 * 5 + 1 * 5 * 6)
    assert multiply_adds(plain) == conv3d + recurrent + conv2d + 6 * 4
    assert plain.training and all(parameter.device.type == "cpu" for parameter in plain.parameters())
    branches = sum(
        9 * 18 * channels * len(steps) * 16
        for channels, steps in zip((4, 3, 3), SMALL_NETWORK.deform_steps, strict=True)
    )
    assert multiply_adds(VideoNet(SMALL_NETWORK)) - multiply_adds(plain) == branches


def test_sampling_costs_four_multiply_adds_for_each_number_that_a_tap_reads():
    """By hand on maps of 8 x 8, steps of the tiny recipe: channels or, if they are fewer, filters; none if plain."""
    experiment = partial(Experiment, "none", "by_actor", seed=0, recipe="tiny")
    assert sampling_multiply_adds(METHODS["plain"].network(experiment("plain"), 3)) == 0
    net = METHODS["deformable"].network(experiment("deformable"), 3)
    steps = [len(chosen) for chosen in net.config.deform_steps]
    assert sampling_multiply_adds(net) == 4 * 9 * 64 * 8 * sum(steps)  # 16, 8, 8 channels into 8 filters
    per_filter = METHODS["per_filter"].network(experiment("per_filter"), 3)
    assert sampling_multiply_adds(per_filter) == 4 * 9 * 64 * 8 * sum(steps)  # one map for each filter
    moved = METHODS["state_alignment"].network(experiment("state_alignment"), 3)
    assert sampling_multiply_adds(moved) == 4 * 64 * 16 * 4 * 3  # h and c, of 8 channels each, four steps, three layers


def test_multiply_adds_of_wide_layers_are_those_of_the_ordinary_convolution():
    wide = NetworkConfig(length=8, size=16, conv3d=(64, 64, 64), hidden=(2,), conv2d=(2, 2, 2), deform_steps=((),))
    second = 27 * 64 * 64 * 8 * 8 * 8  # on a CPU half of it
    narrow = replace(wide, conv3d=(64, 1, 64))
    difference = 27 * 63 * (64 * 8 * 8 * 8 + 64 * 4 * 4 * 4)
    assert multiply_adds(VideoNet(wide)) - multiply_adds(VideoNet(narrow)) == difference > second


def test_stages_have_the_released_shapes():
    seen = []
    with torch.device("meta"):
        net, clips = VideoNet(preset("plain")).eval(), torch.empty(1, 1, 32, 112, 112)
    for module in (net.conv3d, *net.recurrent, *net.conv2d):
        if not isinstance(module, (nn.BatchNorm2d, nn.LeakyReLU, nn.Conv2d)):
            module.register_forward_hook(
                lambda m, i, o: seen.append(tuple((o[0] if isinstance(o, tuple) else o).shape))
            )
    with torch.no_grad():
        assert net(clips).shape == (1, 17)
    assert seen[:4] == [(1, 256, 16, 28, 28), *[(1, 32, 16, 28, 28)] * 3]
    assert seen[4:] == [(16, 128, 14, 14), (16, 256, 7, 7), (16, 256, 4, 4)]


@pytest.mark.parametrize(
    ("length", "size", "channels", "per_filter"),
    [(2, 4, 1, True), (7, 37, 3, False), (9, 5, 1, False), (10, 34, 2, True)],
)
def test_any_length_and_size_that_the_configuration_states(length, size, channels, per_filter):
    shape = {"length": length, "size": size, "in_channels": channels, "deform_steps": paper_steps(length // 2)}
    shape |= {"per_filter": per_filter, "position_bias": per_filter, "pool": "average" if per_filter else "max"}
    config = replace(preset("classroom"), classes=5, conv3d=(2, 3, 4), hidden=(2, 3, 4), conv2d=(3, 4, 5), **shape)
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


def test_forward_is_the_stages_in_order():
    net, clips = lively_network(VideoNet(SMALL_NETWORK))
    x = net.conv3d(clips)
    for layer, norm in zip(net.recurrent, net.norms, strict=True):
        h = layer(x)[0]
        mean, var = (value.view(1, -1, 1, 1, 1) for value in (norm.running_mean, norm.running_var))
        h = (h - mean) / (var + 1e-3).sqrt() * norm.weight.view(mean.shape) + norm.bias.view(mean.shape)
        x = torch.where(h > 0, h, 0.2 * h)
    steps = torch.stack([net.conv2d(frame).mean((2, 3)) for frame in x.unbind(2)])
    torch.testing.assert_close(net(clips), net.linear(steps.mean(0)), atol=1e-9, rtol=1e-9)


def test_clips_of_a_batch_do_not_touch_each_other():
    net, clips = lively_network(VideoNet(SMALL_NETWORK))
    assert net(clips).std(0).min() > 1e-3
    torch.testing.assert_close(torch.cat([net(clip[None]) for clip in clips]), net(clips), atol=1e-9, rtol=1e-9)


def test_offset_fields_are_those_of_the_forward_pass():
    net, clips = lively_network(VideoNet(SMALL_NETWORK))
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
    plain = VideoNet(replace(SMALL_NETWORK, deform_steps=PLAIN)).eval()
    moving = VideoNet(SMALL_NETWORK).eval()
    added = moving.load_state_dict(plain.state_dict(), strict=False)
    assert all("offset_branch" in name for name in added.missing_keys) and not added.unexpected_keys
    clips = torch.rand(2, 1, 8, 16, 16)
    torch.testing.assert_close(moving(clips), plain(clips), atol=1e-5, rtol=1e-5)


def test_start():
    net = VideoNet(replace(preset("paper"), conv3d=(16, 32, 64), conv2d=(64, 64, 64)))
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


def test_the_numbers_of_a_seed_stay():
    """Records and stored outputs depend on the order in which weights are drawn, and on their names."""
    torch.manual_seed(0)
    net = VideoNet(SMALL_NETWORK)
    order = [name for name, _ in net.named_parameters() if name.startswith("recurrent.0.")]
    ends = [
        "B",
        "input_conv.weight",
        "input_conv.offset_branch.weight",
        "input_conv.offset_branch.bias",
        "state_conv.weight",
    ]
    ends += [f"{vector}.{gate}" for vector in ("w_x", "w_h", "b") for gate in "fio"]
    assert order == [f"recurrent.0.{end}" for end in ends]
    numbers = [net.recurrent[2].w_h["o"][0].item(), net.linear.bias[0].item(), torch.rand(1).item()]
    assert numbers == pytest.approx([0.00578334, -0.25663599, 0.21536207], abs=1e-6)


def test_files_of_older_versions_still_load(saved, net):
    """Three entries in the header, fields that came later, a list of defects, names of torch.compile."""
    config = asdict(SMALL_NETWORK) | {"defects": []}
    tensors = {name: tensor.clone() for name, tensor in load_file(saved).items()}
    for late in ((), ("gates", "learned_steps", "deform_state", "shared_offsets", "defects")):
        old = {name: value for name, value in config.items() if name not in late}
        header = {"deformlib": "VideoNet", "config": json.dumps(old), "classes": json.dumps(NAMES)}
        save_file({f"_orig_mod.{name}": tensor for name, tensor in tensors.items()} if late else tensors, saved, header)
        again, classes = load_network(saved)
        assert again.config == SMALL_NETWORK and classes == NAMES
        assert all(tensor.equal(again.state_dict()[name]) for name, tensor in tensors.items())
    header = {"deformlib": json.dumps({"config": config | {"defects": ["pool_2_2_1"]}, "classes": NAMES})}
    save_file(tensors, saved, header)
    with pytest.raises(NetworkError, match="defects.*ReleasedVideoNet"):
        load_network(saved)


def compiled_parts(net: VideoNet) -> VideoNet:
    """Wrappers inside the network."""
    net.conv3d, net.recurrent[1] = torch.compile(net.conv3d), nn.DataParallel(net.recurrent[1])
    net.recurrent[0].input_conv = torch.compile(net.recurrent[0].input_conv)
    return net


def compiled_in_place(net: VideoNet) -> VideoNet:
    """Without a wrapper."""
    net.compile()
    return net


@pytest.mark.parametrize(
    "wrap",
    [AveragedModel, compiled_in_place, lambda net: torch.compile(nn.DataParallel(torch.compile(compiled_parts(net))))],
)
def test_wrapped_networks_give_the_file_of_the_bare_one(net, saved, wrap):
    wrapped, path = wrap(copy.deepcopy(net)), saved.with_name("wrapped.safetensors")
    save_network(wrapped, path, NAMES)
    assert path.read_bytes() == saved.read_bytes() and load_network(path)[1] == NAMES
    assert multiply_adds(wrapped) == multiply_adds(net)


def test_the_same_network_gives_the_same_bytes(net, saved):
    files = {saved.read_bytes()}
    for _ in range(8):
        save_network(net, saved, NAMES)
        files.add(saved.read_bytes())
    assert len(files) == 1


@pytest.mark.slow  # test_house.py asks the same of the module
def test_saving_a_network_imports_no_opencv(tmp_path):
    """Nor any wing but the engines of deform and conv3d."""
    code = """
import sys
from deformlib.network import VideoNet, load_network, preset, save_network
save_network(VideoNet(preset("classroom")), sys.argv[1], tuple(map(str, range(17))))
load_network(sys.argv[1])
parts = {"cv2", "matplotlib", "pandas", "deformlib.make", "deformlib.media", "deformlib.paper", "deformlib.training"}
print(sorted(parts & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "net.safetensors")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_networks_that_could_not_be_read_again_are_not_written(tmp_path, net):
    path, normed = tmp_path / "network.safetensors", copy.deepcopy(net)
    nn.utils.parametrizations.spectral_norm(normed.linear)
    wrong = {"Linear is no VideoNet": torch.compile(nn.Linear(1, 1)), "net.float()": copy.deepcopy(net).half()}
    for words, some in (wrong | {"linear.parametrizations": normed}).items():
        with pytest.raises(NetworkError) as error:
            save_network(some, path, NAMES)
        assert words in str(error.value) and path.name in str(error.value)
    for classes, words in ((("joy", "anger"), "2 class names.*4 logits"), ((0, 1, 2, 3), "one text per logit")):
        with pytest.raises(NetworkError, match=words):  # load_network would refuse numbers
            save_network(net, path, classes)
    assert not path.exists()


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("example-*/*.safetensors")), ids=lambda file: file.stem)
def test_committed_weights_load(file):
    net, classes = load_network(file)
    config = net.config
    assert type(net) is VideoNet
    expected = {"B", "input_conv.weight", "state_conv.weight"}
    expected |= {f"{vector}.{gate}" for vector in ("w_x", "w_h", "b") for gate in "ifo"}
    if any(config.deform_steps):
        expected |= {"input_conv.offset_branch.weight", "input_conv.offset_branch.bias"}
    assert set(net.recurrent[0].state_dict()) == expected
    logits = net(torch.rand(2, config.in_channels, config.length, config.size, config.size))
    assert logits.shape == (2, len(classes)) and logits.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 8, 16, 16), (2, 1, 9, 16, 16), (2, 1, 8, 16, 18), (1, 8, 16, 16)])
def test_a_clip_of_another_shape_is_one_clear_error(net, shape):
    for use in (net, net.offset_fields):
        with pytest.raises(NetworkError, match=r"\[B, 1, 8, 16, 16\]") as error:
            use(torch.rand(shape))
        assert str(list(shape)) in str(error.value)


def test_a_mask_for_every_field_of_every_filter():
    torch.manual_seed(0)
    net, clips = (
        VideoNet(replace(SMALL_NETWORK, modulated=True, per_filter=True)).double(),
        torch.rand(3, 1, 8, 16, 16).double(),
    )
    nn.functional.cross_entropy(net(clips), torch.tensor([0, 1, 2])).backward()
    for layer, channels in zip(net.recurrent, (4, 3, 3), strict=True):
        branch = layer.deform_conv.offset_branch
        assert branch.weight.shape == (27 * 3, channels, 3, 3)  # dy, dx and a mask for 9 taps of 3 filters
        assert (branch.weight.grad.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"deform_steps": ((1,),)}, "deform_steps.*hidden"),
        ({"deform_steps": ((4,), (), ())}, "steps 0 to 3"),
        ({"deform_steps": ((-1,), (), ())}, "deform_steps"),
        ({"length": 1}, "length is 1"),
        ({"size": 3}, "size is 3"),
        ({"length": 2**20, "size": 2**20}, "memory"),
        ({"pool": "mean"}, "pool is 'mean'.*'max' or 'average'"),
        ({"conv3d": (2, 3)}, "conv3d"),
        ({"conv3d": (2, 3, 4, 5)}, "conv3d"),
        ({"conv3d": (0, 8, 8)}, "conv3d"),
        ({"conv2d": (4, 5, 6, 7)}, "conv2d"),
        ({"gates": "max"}, "gates is 'max'.*'mean' or 'convolution'"),
        ({"deform_state": True}, "deform_state.*gates='convolution'"),
        ({"learned_steps": True, "deform_steps": PLAIN}, "learned_steps.*select_steps"),
        ({"classes": -1}, "classes is -1"),
        ({"classes": 2.5}, "classes is 2.5"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"hidden": (0, 1, 1)}, "hidden"),
        ({"norm_momentum": 1.5}, "norm_momentum is 1.5"),
        ({"init_std": -1.0}, "init_std is -1.0"),
        ({"init_std": float("nan")}, "init_std is nan"),
    ],
    ids=str,
)
def test_a_configuration_that_no_network_can_have_is_one_clear_error(change, words):
    """Whoever holds a configuration holds one that works."""
    with pytest.raises(NetworkError, match=words) as caught:
        replace(SMALL_NETWORK, **change)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_configuration_comes_back_from_json():
    assert NetworkConfig(**json.loads(json.dumps(asdict(SMALL_NETWORK)))) == SMALL_NETWORK


@pytest.mark.parametrize(
    "options", [{}, {"per_filter": True, "position_bias": True, "init_std": 0.02}], ids=["classroom", "released"]
)
def test_file_round_trip(tmp_path, options):
    net, path = VideoNet(replace(SMALL_NETWORK, **options)), tmp_path / "new" / "folder" / "network.safetensors"
    clips = torch.rand(2, 1, 8, 16, 16)
    net(clips)  # moves the running statistics
    save_network(net, path, NAMES)
    again, names = load_network(path)
    assert (again.config, names, again.training) == (net.config, NAMES, False)
    assert torch.equal(again(clips), net.eval()(clips))
    assert [item.name for item in path.parent.iterdir()] == ["network.safetensors"]


def test_a_failed_save_leaves_the_old_file(saved):
    """A limit on the size of files stands for a full disk."""
    before, limits = saved.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(NetworkError, match="network.safetensors cannot be written.*room"):
            save_network(VideoNet(SMALL_NETWORK), saved, NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before and [item.name for item in saved.parent.iterdir()] == [saved.name]


def test_wrong_files_are_one_clear_error(saved, tmp_path):
    whole, tensors = saved.read_bytes(), {name: tensor.clone() for name, tensor in load_file(saved).items()}
    with pytest.raises(NetworkError, match=r"missing\.safetensors.*no such file|missing\.safetensors.*No such file"):
        load_network(tmp_path / "missing.safetensors")
    for content in (b"these are no weights", whole[: len(whole) // 2]):
        saved.write_bytes(content)
        with pytest.raises(NetworkError, match="network.safetensors is no whole safetensors file"):
            load_network(saved)
    save_file({"weight": torch.zeros(3)}, saved)
    with pytest.raises(NetworkError, match="another network"):
        load_network(saved)
    good = asdict(SMALL_NETWORK)
    wrong = [asdict(replace(SMALL_NETWORK, hidden=(4, 4, 4))), good | {"depth": 3}, good | {"classes": "x"}, [], None]
    for config, classes in [
        *((config, NAMES) for config in wrong),
        (good, NAMES[:3]),
        (good, (1, 2, 3, 4)),
        (good, None),
    ]:
        save_file(tensors, saved, {"deformlib": json.dumps({"config": config, "classes": classes})})
        with pytest.raises(NetworkError, match="does not fit this version"):
            load_network(saved)


@pytest.mark.slow
def test_compiled_equals_eager():
    """Logits to 1e-4, and the gradient by its norm: at a kink of max pooling or LeakyReLU single numbers may differ."""
    net, clips = lively_network(
        VideoNet(replace(SMALL_NETWORK, conv3d=(2, 64, 4)))
    )  # wide enough for the Winograd form
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

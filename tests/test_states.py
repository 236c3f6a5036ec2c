"""States that are moved: the layer against a loop of its own, motion that is known, small trainings, whole records."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from factories import SMALL_NETWORK, moving_squares
from safetensors.torch import load_file
from torch import nn

from deformlib.align import states
from deformlib.align.runs import count_parameters
from deformlib.align.states import AlignedConvLSTM, AlignedVideoNet, Clips
from deformlib.convlstm import VariantConvLSTM
from deformlib.files import DeformlibError
from deformlib.make.figures import plan_corpus
from deformlib.make.pairs import film_pairs
from deformlib.network import save_network
from deformlib.offsets import record_offsets
from deformlib.paper.commands import main
from deformlib.paper.study import STUDIES
from deformlib.records import read_record
from deformlib.tables import mean_ci

ROOT = Path(__file__).parent.parent
RECORDS = sorted((ROOT / "results" / "align").glob("states-*.json"))


def lively(gates: str = "convolution", see_state: bool = True, channels: tuple[int, int] = (3, 4)) -> AlignedConvLSTM:
    """A layer in float64 that moves its states by about a pixel, with biases of its own."""
    torch.manual_seed(1)
    layer = AlignedConvLSTM(*channels, gates=gates, see_state=see_state).double()
    for parameter in layer.parameters():
        if parameter.ndim < 4:
            nn.init.normal_(parameter, std=0.3)
    nn.init.normal_(layer.offset_branch.last.weight, std=0.5)
    return layer


def grid_sample(maps: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Maps read at p + offset(p) by PyTorch's own sampler, zero outside."""
    height, width = maps.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([2 * (x + offset[:, 1]) / (width - 1) - 1, 2 * (y + offset[:, 0]) / (height - 1) - 1], -1)
    return nn.functional.grid_sample(maps, places, align_corners=True)


def by_steps(layer: AlignedConvLSTM, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The layer as its page describes it, one step after the other: hidden states, the last c, offsets."""
    conv, weights, F = nn.functional.conv2d, dict(layer.named_parameters()), len(layer.B)
    h = c = x.new_zeros(len(x), F, *x.shape[3:])
    hidden, offsets = [], []
    for x_t in x.unbind(2):
        seen = [x_t, h] if layer.offset_branch.state_conv is not None else [x_t]
        kernels = [weights[f"offset_branch.{name}_conv.weight"] for name in ("input", "state")[: len(seen)]]
        d = conv(torch.cat(seen, 1), torch.cat(kernels, 1), weights["offset_branch.input_conv.bias"], padding=1)
        for name, spread in (("middle", 2), ("last", 1)):
            d = torch.where(d > 0, d, d / 10)
            kernel, bias = (weights[f"offset_branch.{name}.{part}"] for part in ("weight", "bias"))
            d = conv(d, kernel, bias, padding=spread, dilation=spread)
        h, c = grid_sample(h, d), grid_sample(c, d)
        a, u = conv(x_t, weights["input_conv.weight"], padding=1), conv(h, weights["state_conv.weight"], padding=1)
        if len(a[0]) == F:  # gates from means
            g, pooled = a + u + layer.B, [m.mean((2, 3)) for m in (a, h)]
            i, f, o = (
                (layer.w_x[k] * pooled[0] + layer.w_h[k] * pooled[1] + layer.b[k])[..., None, None] for k in "ifo"
            )
        else:
            g, i, f, o = (a + u).split(F, 1)
            g, i, f, o = g + layer.B, *(m + layer.b[k].view(-1, 1, 1) for k, m in zip("ifo", (i, f, o), strict=True))
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        hidden.append(h)
        offsets.append(d)
    return torch.stack(hidden, 2), c, torch.stack(offsets, 1)


# The layer


@pytest.mark.parametrize("gates", ["mean", "convolution"])
@pytest.mark.parametrize("see_state", [True, False])
def test_the_layer_is_the_loop(gates: str, see_state: bool):
    """Hidden states, memory and offsets of a loop that samples with grid_sample, in float64."""
    layer, x = lively(gates, see_state), torch.randn(2, 3, 5, 6, 7).double()
    hidden, (h, c) = layer(x)
    expected, memory, offsets = by_steps(layer, x)
    assert offsets[:, 1:].abs().mean() > 0.3
    for ours, theirs in ((hidden, expected), (h, expected[:, :, -1]), (c, memory), (layer.offset_fields(x), offsets)):
        assert torch.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("gates", ["mean", "convolution"])
def test_gradients_are_those_of_finite_differences(gates: str):
    layer = lively(gates, channels=(1, 1))
    names, values = zip(*layer.named_parameters(), strict=True)
    x, state = torch.randn(1, 1, 2, 2, 3).double(), [torch.randn(1, 1, 2, 3).double() for _ in range(2)]

    def run(x, h, c, *parameters):
        hidden, last = torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, (h, c)))
        return hidden, *last

    leaves = [leaf.detach().requires_grad_() for leaf in (x, *state, *values)]
    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)


def test_moving_is_sampling():
    """A whole shift moves pixels and brings zeros; a fraction is torchvision's operator with one tap."""
    torch.manual_seed(0)
    maps, offset = torch.rand(2, 3, 5, 6), torch.zeros(2, 2, 5, 6)
    offset[:, 1] = -2
    moved = states.move_state(maps, offset)
    assert torch.allclose(moved[..., 2:], maps[..., :-2], atol=1e-6) and moved[..., :2].abs().max() == 0
    offset = 2 * torch.randn(2, 2, 5, 6)
    expected = torchvision.ops.deform_conv2d(maps, offset, torch.eye(3)[:, :, None, None])
    assert torch.allclose(states.move_state(maps, offset), expected, atol=1e-6)


def test_a_memory_is_not_rounded_under_autocast():
    layer, x = lively().float(), torch.randn(1, 3, 3, 6, 6)
    maps, offset = torch.rand(1, 2, 6, 6), torch.randn(1, 2, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        moved, (hidden, (_, c)) = states.move_state(maps, offset), layer(x)
    assert torch.equal(moved, states.move_state(maps, offset)) and c.dtype == torch.float32
    assert torch.allclose(hidden.float(), layer(x)[0], atol=0.1)


@pytest.mark.parametrize("gates", ["mean", "convolution"])
def test_it_starts_as_the_plain_layer(gates: str):
    layer, plain, x = AlignedConvLSTM(3, 4, gates=gates), VariantConvLSTM(3, 4, gates=gates), torch.randn(2, 3, 4, 6, 6)
    extra = plain.load_state_dict(layer.state_dict(), strict=False)
    assert not extra.missing_keys and all(name.startswith("offset_branch.") for name in extra.unexpected_keys)
    assert torch.allclose(layer(x)[0], plain(x)[0], atol=1e-6) and layer.offset_fields(x).eq(0).all()
    layer(x)[0].square().mean().backward()
    assert layer.offset_branch.last.weight.grad.abs().max() > 0  # so that it can leave zero


def test_pieces_and_lengths_change_nothing():
    layer, x = lively(), torch.randn(2, 3, 6, 5, 5).double()
    whole, (_, c) = layer(x)
    first, state = layer(x[:, :, :2])
    second, (_, later) = layer(x[:, :, 2:], state)
    assert torch.allclose(torch.cat([first, second], 2), whole) and torch.allclose(later, c)
    noisy = x.clone()
    noisy[1, :, 4:] += 9
    hidden, (_, kept) = layer(noisy, lengths=torch.tensor([6, 4]))
    alone, (_, own) = layer(x[1:, :, :4])
    assert torch.allclose(hidden[0], whole[0]) and torch.allclose(hidden[1:, :, :4], alone)
    assert hidden[1, :, 4:].eq(0).all() and torch.allclose(kept[1:], own)


def test_offsets_see_the_state_or_do_not():
    x = torch.randn(1, 3, 1, 6, 6).double()
    state = tuple(torch.randn(2, 1, 4, 6, 6).double().unbind())
    for see_state in (True, False):
        layer = lively(see_state=see_state)
        same = torch.equal(layer.trace(x)[2], layer.trace(x, state)[2])
        assert same is not see_state


def test_a_memory_follows_what_moves():
    """One channel, i = o = 1/2, f = sigmoid(1): moved with a blob, what was seen 8 steps ago lies on it with f^8."""
    layer, x = AlignedConvLSTM(1, 1), torch.zeros(1, 1, 9, 5, 12)
    x[0, 0, torch.arange(9), 2, torch.arange(9) + 1] = 1.0  # one pixel to the right a step
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.input_conv.weight[0, 0, 1, 1], layer.b["f"][0] = 1.0, 1.0
        layer.offset_branch.last.bias[1] = -1.0  # each memory comes from the left
        c = layer(x)[1][1][0, 0]
    f = 1 / (1 + math.exp(-1))
    assert abs(float(c[2, 9]) - 0.5 * math.tanh(1) * (1 - f**9) / (1 - f)) < 1e-6
    assert abs(float(c.sum() - c[2, 9])) < 1e-6


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="deform_steps"):
        AlignedConvLSTM(3, 4, deform_steps=(1,))
    layer = AlignedConvLSTM(3, 4)
    with pytest.raises(ValueError, match="expected"):
        layer(torch.rand(1, 2, 4, 6, 6))
    with pytest.raises(ValueError, match="state"):
        layer(torch.rand(1, 3, 4, 6, 6), (torch.rand(2, 4, 6, 6), torch.rand(2, 4, 6, 6)))


def test_chapter_07_records_its_offsets():
    layer, x = lively(), torch.randn(1, 3, 3, 6, 6).double()
    with record_offsets(layer) as calls:
        layer(x)
    assert torch.allclose(torch.stack([call.offset for call in calls], 1), layer.offset_fields(x))


# Clips


def test_paths_stay_inside_and_keep_their_speed():
    """A step is as long as the one before, but where it bounces; a middle keeps half a side from the edge."""
    paths = states.digit_paths(np.random.default_rng(0), 50, speed=4.0, turn=20.0)
    side, y, x, angle = np.moveaxis(paths, -1, 0)
    assert (np.minimum(y, x) >= side / 2 - 1e-9).all() and (np.maximum(y, x) <= 31 - side / 2 + 1e-9).all()
    steps = np.hypot(np.diff(y), np.diff(x))
    assert steps.max() <= 4 and np.median(np.abs(np.diff(steps))) < 1e-9 and 11 <= side.min() < side.max() <= 18
    turns = np.diff(angle)
    assert np.abs(turns).max() <= math.radians(20) and np.ptp(turns, axis=1).max() < 1e-9


def test_the_motion_of_a_digit_by_hand():
    """A quarter turn about a middle that goes 2 down: what is right of it now was above it."""
    paths = np.array([[[12, 10.0, 16.0, 0.0], [12, 12.0, 16.0, math.pi / 2]]])
    motion = states.digit_motion(paths)[0]
    assert np.abs(motion[0]).max() == 0
    y, x = 12, 19  # 3 to the right of the middle; turned back, 3 above it or below: angles go from x to y
    dy, dx = motion[1, :, y, x]
    assert np.allclose([y + dy, x + dx], [10 - 3, 16], atol=1e-5)
    assert np.allclose(motion[1, :, 12, 16], [-2, 0], atol=1e-5)


@pytest.mark.parametrize("task", ["digits", "fast", "bodies"])
def test_the_true_motion_explains_the_frames(task: str):
    """Read along it, the frame before is the frame, far better than a copy; and a seed gives the same clips again."""
    films = [film_pairs(plan_corpus(1)[18], most=16)] if task == "bodies" else []
    clips = states.body_clips(films, 5, 6, truth=True) if films else states.task_clips(task, 5, 6)
    before, now = clips.frames[:, 0, :-1].flatten(0, 1)[:, None], clips.frames[:, 0, 1:].flatten(0, 1)[:, None]
    motion, known = clips.motion[:, 1:].flatten(0, 1), clips.known[:, 1:].flatten(0, 1)[:, None]
    known &= grid_sample(torch.ones_like(now), motion) > 0.999  # what comes from outside of the window is not there
    along = grid_sample(before, motion)
    assert (along - now)[known].square().mean() < 0.35 * (before - now)[known].square().mean()
    again = states.body_clips(films, 5, 6) if films else states.task_clips(task, 5, 6)
    assert torch.equal(again.frames, clips.frames) and not clips.known[:, 0].any()
    assert (
        clips.frames.shape[1:] == (1, 8 if films else 11, 32, 32) and 0 <= clips.frames.min() < clips.frames.max() <= 1
    )


def test_no_digit_of_the_test_is_trained_on():
    train, test = states.digit_images()
    assert len(train) == 1400 and len(test) == 350 and test.max() == 1
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


# Networks that predict


def test_arms_have_as_many_parameters():
    nets = {arm: states.make_predictor(arm) for arm in states.ARMS}
    counts = {arm: count_parameters(net) for arm, net in nets.items()}
    assert counts["plain"] < 0.8 * counts["states"]
    assert all(abs(counts[arm] / counts["states"] - 1) < 0.06 for arm in states.ARMS if arm != "plain"), counts
    assert nets["taps"].layer.deform_steps == tuple(range(10)) and not nets["plain"].layer.deform_steps
    assert nets["states_by_input"].layer.offset_branch.state_conv is None


def test_a_decoder_that_says_nothing_copies():
    net, frames = states.make_predictor("states", width=4), torch.rand(2, 1, 5, 32, 32)
    nn.init.zeros_(net.decoder[2].weight)
    nn.init.zeros_(net.decoder[2].bias)
    with torch.no_grad():
        assert torch.equal(net(frames), frames)
        clips = Clips(frames, torch.zeros(2, 5, 2, 32, 32), frames > 1)
        assert torch.equal(states.predict(net, clips), frames[:, :, 1:-1])
        assert torch.equal(states.predict(None, clips), frames[:, :, 1:-1])


def test_truth_measures_as_true_and_half_of_it_as_half():
    clips = states.digit_clips(3, 6)
    whole, half = (states.against_truth(factor * clips.motion, clips) for factor in (1.0, 0.5))
    assert abs(whole["r"] - 1) < 1e-9 and abs(whole["slope"] - 1) < 1e-9 and whole["told"] == whole["true"] > 0.5
    assert abs(half["r"] - 1) < 1e-9 and abs(half["slope"] - 0.5) < 1e-9
    assert abs(half["r_whole"] - 1) < 1e-9 and abs(half["slope_whole"] - 0.5) < 1e-9
    blind = states.against_truth(-clips.motion, clips)
    assert abs(blind["r"] + 1) < 1e-9
    inward = clips.known[:, :, None] * torch.randn(1, 1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    mean = (inward * clips.known[:, :, None]).sum((3, 4), keepdim=True) / clips.known.sum((2, 3))[
        :, :, None, None, None
    ]
    spread = states.against_truth(clips.motion + 9 * (inward - mean), clips)  # a pattern that moves nothing as a whole
    assert spread["r"] < 0.7 and abs(spread["r_whole"] - 1) < 1e-6 and abs(spread["slope_whole"] - 1) < 1e-6


def test_errors_by_hand():
    """Two clips, one still, one that changes by 0.5 in one of four pixels at the last step."""
    frames = torch.zeros(2, 1, 4, 2, 2)
    frames[1, 0, 3, 0, 0] = 0.5
    motion, known = torch.zeros(2, 4, 2, 2, 2), torch.zeros(2, 4, 2, 2, dtype=torch.bool)
    motion[1, 3, 0, 0, 0], known[1, 3, 0, 0] = 1.0, True
    found = states.measure(None, Clips(frames, motion, known))
    assert found["mse"] == 0.25 / 16 and found["mse_moving"] == 0.25 and found["by_step"] == [0, 0.25 / 8]
    assert found["by_motion"][:2] == [0, 0.25 / 8]  # two clips make two thirds


def test_offsets_are_read_in_pixels_of_the_frame():
    net = states.make_predictor("states", width=4)
    with torch.no_grad():
        net.layer.offset_branch.last.bias.copy_(torch.tensor([0.5, -1.0]))
    told = states.read_motion(net, torch.rand(2, 1, 5, 32, 32))
    assert told.shape == (2, 5, 2, 32, 32)
    assert torch.allclose(told[:, :, 0], torch.tensor(1.0)) and torch.allclose(told[:, :, 1], torch.tensor(-2.0))


def short(seed: int | list[int]) -> Clips:
    """Eight clips of five frames."""
    return Clips(*(each[:, :, :5] if each.shape[1] == 1 else each[:, :5] for each in states.digit_clips(seed, 8)))


def test_a_few_steps_lower_the_loss():
    """On clips that the training did not draw; and the same seed begins with the same loss."""
    torch.manual_seed(0)
    net, clips = states.make_predictor("states", 4, width=6), short(9)
    before = states.measure(net, clips)["mse"]
    losses = states.train_predictor(net, lambda step: short([0, step]), 12)
    assert len(losses) == 12 and states.measure(net, clips)["mse"] < 0.95 * before
    torch.manual_seed(0)
    again = states.make_predictor("states", 4, width=6)
    assert states.train_predictor(again, lambda step: short([0, step]), 1)[0] == losses[0]


@pytest.mark.parametrize("arm", ["states_by_truth", "told", "told_states"])
def test_who_is_given_the_motion_uses_it(arm: str):
    """States move by half of it, as maps have half the size; features get it; another motion makes another guess."""
    net, clips = states.make_predictor(arm, 4, width=4), short(2)
    seen = []
    net.layer.register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    net(clips.frames, clips.motion)
    middle = clips.motion[:, :, :, 8:10, 20:22].mean((3, 4)) / 2
    if arm != "told":
        told = net.layer.offset_fields(seen[0])
        assert told.shape[1:] == (5, 2, 16, 16) and torch.allclose(told[..., 4, 10], middle, atol=1e-5)
        assert not list(net.layer.offset_branch.parameters()) and "r" not in states.measure(net, clips)
    assert seen[0].shape[1] == (4 if arm == "states_by_truth" else 6)
    if arm != "states_by_truth":
        assert torch.allclose(seen[0][:, 4:, :, 4, 10].transpose(1, 2), middle, atol=1e-5)
    swapped = clips._replace(motion=clips.motion.flip(0))
    assert not torch.equal(states.predict(net, clips), states.predict(net, swapped))


def test_a_run_is_kept_and_not_done_again(tmp_path: Path):
    """One record, arm by arm; what is there stays as it is, other settings begin anew."""
    about = {"device": "CPU", "versions": {"torch": "2"}, "commit": "c" * 40}
    (record,) = states.run_states(tmp_path, "digits", [3], about, ("plain",), steps=1, test=3)
    path = tmp_path / "states-digits-seed-3.json"
    assert json.loads(path.read_text()) == record and record["arms"]["plain"]["commit"] == "c" * 40
    (more,) = states.run_states(tmp_path, "digits", [3], about | {"commit": "d" * 40}, ("plain", "states"), 1, test=3)
    assert more["arms"]["plain"] == record["arms"]["plain"] and more["arms"]["states"]["commit"] == "d" * 40
    assert more["copy"] == record["copy"] and "r" in more["arms"]["states"]["results"]
    assert not list(tmp_path.glob("*.safetensors"))  # only seed 0 leaves weights


# A model of the studies


def test_a_network_of_the_studies_aligns_its_states():
    """All recurrent layers; its offsets by steps; never written as if it were a VideoNet."""
    config = replace(SMALL_NETWORK, deform_steps=((), (), ()))
    net = AlignedVideoNet(config)
    assert all(type(layer) is AlignedConvLSTM for layer in net.recurrent)
    clips = torch.rand(2, 1, 8, 16, 16)
    assert net(clips).shape == (2, 4)
    assert [list(field.shape) for field in net.offset_fields(clips)] == [[2, 4, 2, 4, 4]] * 3
    with pytest.raises(DeformlibError, match="AlignedVideoNet"):
        save_network(net, Path("net.safetensors"), tuple("abcd"))
    with pytest.raises(ValueError, match="deform_steps"):
        AlignedVideoNet(SMALL_NETWORK)


@pytest.mark.slow
def test_a_study_trains_it_and_its_record_says_so(tmp_path: Path, capsys: pytest.CaptureFixture):
    """From the command line, for a tiny recipe; its record names the network, and no weights pass for a VideoNet's."""
    corpus = moving_squares(tmp_path)
    words = ["--corpus", str(corpus.folder), "--recipe", "tiny", "--seeds", "1", "--workers", "1"]
    folder = tmp_path / "results" / "cores"
    words += ["--results", str(folder), "--cache", str(tmp_path / "cache")]
    assert main(["study", "cores", "--models", "state_alignment", *words]) == 0
    record = read_record(folder / "tiny-state_alignment-by_actor-0.json")
    assert record["experiment"]["model"] == "state_alignment" and record["settings"]["build"] == "AlignedVideoNet"
    assert record["settings"]["network"]["deform_steps"] == [[], [], []]
    assert len(record["history"][-1]["offsets"]) == 3 and max(record["history"][-1]["offsets"]) > 0
    assert not list(folder.glob("*.safetensors")) and "state_alignment" in STUDIES["cores"].models
    capsys.readouterr()


# Records


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_is_whole(path: Path):
    """Everything that a run needs to be made again, and numbers that can be."""
    record = json.loads(path.read_text())
    task = path.stem.split("-")[1]
    assert record["name"] == path.stem == f"states-{task}-seed-{record['seed']}"
    assert (record["task"], record["data"], record["split"]) == states.TASKS[task]
    assert record["settings"] == {"steps": 600, "batch": 16, "lr": 8e-3, "width": 12, "threads": 1, "test": 320}
    assert record["versions"]["torch"] and "threads" in record["device"] and set(record["arms"]) <= set(states.ARMS)
    steps = 10 if task != "bodies" else 7
    for arm, run in record["arms"].items():
        assert re.fullmatch(r"[0-9a-f]{40}", run["commit"]) and run["cpu_seconds"] > 10
        assert run["parameters"] == count_parameters(states.make_predictor(arm, steps))
        found = run["results"]
        assert 0 < found["mse"] < record["copy"]["mse"] and len(found["by_step"]) == steps - 1
        assert abs(np.mean(found["by_step"]) - found["mse"]) < 1e-6
        assert ("r" in found) == (arm in ("states", "states_by_input"))


def test_the_same_test_under_every_seed():
    """Copy is measured in every record, and no seed may change it."""
    for task in states.TASKS:
        found = [json.loads(path.read_text()) for path in RECORDS if f"-{task}-" in path.name]
        assert all(record["copy"] == found[0]["copy"] for record in found)


def shown(book: str) -> str:
    """What a page prints."""
    cells = json.loads((ROOT / "notebooks" / f"{book}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "".join(
        "".join(output.get("text", "")) + "".join(output.get("data", {}).get("text/plain", ""))
        for cell in cells
        for output in cell.get("outputs", [])
    )


def test_the_pages_show_the_records():
    """Mean and interval of the layers that are compared, counted anew: the workshop's of each, 08's of the pairs."""
    page, chapter = shown("workshop/state_alignment"), shown("08_convlstm")
    for task in states.TASKS:
        found = [json.loads(path.read_text())["arms"] for path in RECORDS if f"-{task}-" in path.name]
        assert len(found) == 5
        plain, moved = ([1000 * run[arm]["results"]["mse"] for run in found] for arm in ("plain_matched", "states"))
        for errors in (plain, moved):
            assert "{:.2f} ± {:.2f}".format(*mean_ci(errors)) in page, task
        gain = [error - other for error, other in zip(moved, plain, strict=True)]
        assert f"plain {mean_ci(plain)[0]:.2f}, 5 seeds" in chapter, task
        assert "h and c move      {:+.2f} ± {:.2f}".format(*mean_ci(gain)) in chapter, task


def test_committed_weights_follow_on_this_machine():
    """Seed 0 on new fast digits: no training, the networks as they are kept; what is claimed of them holds."""
    nets = {arm: states.make_predictor(arm) for arm in ("plain_matched", "states")}
    clips, folder = states.digit_clips(7, 32, 5.0, test=True), ROOT / "results" / "align"
    for arm, net in nets.items():
        net.load_state_dict(load_file(folder / f"states-fast-{arm}.safetensors"))
    plain, moved = (states.measure(net, clips) for net in nets.values())
    assert moved["mse"] < plain["mse"] < 0.5 * states.measure(None, clips)["mse"]
    assert moved["r_whole"] > 0.7 and 0.2 < moved["slope_whole"] < 0.6 and moved["mse_unmoved"] > moved["mse"]

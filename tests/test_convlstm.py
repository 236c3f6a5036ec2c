"""The ConvLSTM: the cell, the hoisted layer against it and PyTorch's LSTM, deformable steps, streaming, graphs."""

import warnings
from collections import Counter
from dataclasses import replace

import pytest
import torch
from factories import SMALL_NETWORK, random_offsets
from naive_network import MOVES, NaiveNet, Stack
from torch import nn
from torch.export import Dim, export
from torch.overrides import TorchFunctionMode

from deformlib.convlstm import ConvLSTM, ConvLSTMCell, VariantConvLSTM
from deformlib.deform import parameter_groups
from deformlib.network import VideoNet
from deformlib.paper.released import ReleasedConvLSTM


@pytest.mark.parametrize("kernel_size", [1, 3])
@pytest.mark.parametrize("steps", [(), (0, 3)])
def test_the_hoisted_layer_is_a_loop_over_the_cell(kernel_size, steps):
    """Hidden states, the last state and all gradients, in float64; the weights fit by their names."""
    torch.manual_seed(0)
    cell, layer = ConvLSTMCell(3, 4, kernel_size).double(), ConvLSTM(3, 4, kernel_size, deform_steps=steps).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 0.5)
    fit = cell.load_state_dict(layer.state_dict(), strict=False)
    assert not fit.missing_keys and all("offset_branch" in name for name in fit.unexpected_keys)
    assert bool(fit.unexpected_keys) == bool(steps)
    x = torch.randn(2, 3, 4, 6, 5, dtype=torch.float64)
    offsets = dict(zip(steps, layer.offset_fields(x).detach().unbind(1), strict=True))
    state, hidden = None, []
    for step, x_t in enumerate(x.unbind(2)):
        state = cell(x_t, state, offsets.get(step))
        hidden.append(state[0])
    h, last = layer(x)
    torch.testing.assert_close(h, torch.stack(hidden, 2), atol=1e-12, rtol=0)
    torch.testing.assert_close(last, state, atol=1e-12, rtol=0)
    shared = dict(cell.named_parameters())
    ours = torch.autograd.grad(
        h.square().sum() + last[1].sum(), [dict(layer.named_parameters())[name] for name in shared]
    )
    theirs = torch.autograd.grad(torch.stack(hidden).square().sum() + state[1].sum(), list(shared.values()))
    for name, got, expected in zip(shared, ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_cell_and_layer_start_from_the_same_numbers():
    """To the bit: records of a seed depend on the order in which weights are drawn."""
    torch.manual_seed(0)
    cell = ConvLSTMCell(3, 4)
    torch.manual_seed(0)
    layer = ConvLSTM(3, 4)
    assert all(torch.equal(tensor, layer.state_dict()[name]) for name, tensor in cell.state_dict().items())
    assert list(cell.state_dict()) == list(layer.state_dict())
    torch.testing.assert_close(cell.w_x["f"][:2].detach(), torch.tensor([-0.495574, 0.225697]), atol=1e-6, rtol=0)


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
        {"kernel_size": 5, "map_size": (6, 7)},
        {"deform_steps": (4, 1), "modulated": True},
        {"deform_steps": (2,), "per_filter": True},
        {"deform_steps": (0, 1, 2, 3, 4)},
        {"gates": "convolution", "deform_steps": (1, 2), "map_size": (6, 7)},
        {"gates": "convolution", "deform_steps": (0, 4), "per_filter": True},
        {"gates": "convolution", "deform_steps": (0, 1, 2, 3, 4), "deform_state": True, "modulated": True},
    ],
)
def test_every_option_equals_the_formulas_step_by_step(options):
    torch.manual_seed(0)
    layer = VariantConvLSTM(3, 4, **options).double()
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
        for target, source in zip(
            (cell.weight_ih, cell.weight_hh, cell.bias_ih), zip(*(rows[n] for n in "ifgo"), strict=True), strict=True
        ):
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
    layer = VariantConvLSTM(3, 2, deform_steps=(3, 0), per_filter=True)
    nn.init.normal_(layer.deform_conv.offset_branch.weight)
    x = torch.randn(2, 3, 4, 6, 5)
    fields = layer.offset_fields(x)
    assert fields.shape == (2, 2, 36, 6, 5)
    for clip in range(2):
        for index, step in enumerate((0, 3)):
            expected, _ = layer.deform_conv.fields(x[clip : clip + 1, :, step])
            torch.testing.assert_close(fields[clip, index], expected[0], atol=1e-5, rtol=1e-5)
    assert layer.deform_layer is layer.deform_conv and ConvLSTM(3, 2).deform_layer is None
    assert ConvLSTM(3, 2).offset_fields(x).shape[:2] == (2, 0)


def test_offset_branch_learns():
    layer = ConvLSTM(3, 2, deform_steps=(1,))
    layer(torch.randn(2, 3, 3, 6, 6))[0].square().sum().backward()
    assert layer.input_conv.offset_branch.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{}, {"gates": "convolution", "map_size": (6, 5)}])
def test_two_halves_with_the_state_handed_over_are_the_whole(options):
    torch.manual_seed(0)
    layer, x = VariantConvLSTM(3, 2, **options), torch.randn(2, 3, 8, 6, 5)
    whole, last = layer(x)
    first, state = layer(x[:, :, :3])
    second, end = layer(x[:, :, 3:], state)
    torch.testing.assert_close(torch.cat((first, second), 2), whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=0)
    assert not torch.allclose(layer(x[:, :, 3:])[0], second, atol=1e-4)


class CountCalls(TorchFunctionMode):
    """How often a function of PyTorch is called by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls[func.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("steps", "runs"), [((), 1), ((1, 2, 6), 3), (range(8), 0)])
def test_input_convolutions_are_hoisted_out_of_the_recurrence(steps, runs):
    """Neighbouring plain steps are one call, all deformable ones one more; the state has one at each step."""
    layer, x, batches = ConvLSTM(3, 2, deform_steps=steps), torch.randn(2, 3, 8, 6, 5), []
    if steps:
        layer.input_conv.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    with CountCalls() as counter:
        layer(x)
    assert batches == [2 * len(steps)] * bool(steps)  # both clips, all chosen steps
    assert counter.calls["conv3d"] == runs and counter.calls["conv2d"] == 8 + bool(
        steps
    )  # the state, the offset branch


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
    assert sum(size for address, size in kept if address != x.data_ptr()) < clip / 2


def test_start_and_map_size():
    layer = ConvLSTM(3, 2)
    assert all(torch.equal(layer.b[gate], torch.full((2,), float(gate == "f"))) for gate in "ifo")
    assert layer.B.shape == (2, 1, 1) and VariantConvLSTM(3, 2, map_size=(4, 5)).B.shape == (2, 4, 5)
    for size in ((1, 1), (3, 9)):
        assert layer(torch.randn(1, 3, 2, *size))[0].shape == (1, 2, 2, *size)


def test_convolutional_gates_count_and_reach():
    layer = VariantConvLSTM(5, 3, gates="convolution", map_size=(4, 6))
    assert sum(p.numel() for p in layer.parameters()) == 4 * 9 * (5 + 3) * 3 + 3 * 3 + 3 * 4 * 6
    far, x = torch.zeros(1, 5, 1, 4, 6), torch.zeros(1, 5, 1, 4, 6)
    far[..., 5] = 1
    torch.testing.assert_close(
        layer(x)[0][..., :4], layer(far)[0][..., :4], atol=0, rtol=0
    )  # such a gate sees its place only
    mean = ConvLSTM(5, 3)
    nn.init.ones_(mean.B)
    assert not torch.allclose(mean(x)[0][..., :4], mean(far)[0][..., :4], atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"modulated": True}, {"per_filter": True}])
def test_a_branch_for_every_step(options):
    torch.manual_seed(0)
    shared, apart = (VariantConvLSTM(3, 2, deform_steps=(1, 3), shared_offsets=s, **options) for s in (True, False))
    branch = random_offsets(shared).deform_layer.offset_branch
    weights = shared.state_dict()
    for kind in ("weight", "bias"):  # the same branch twice is the shared one
        (name,) = (name for name in weights if name.endswith(f"offset_branch.{kind}"))
        weights[name] = torch.cat([weights[name]] * 2)
    apart.load_state_dict(weights)
    x = torch.randn(2, 3, 5, 6, 5)
    torch.testing.assert_close(apart(x)[0], shared(x)[0], atol=1e-6, rtol=0)
    own = apart.deform_layer.offset_branch
    assert own.weight.numel() == 2 * branch.weight.numel()
    with torch.no_grad():
        own.weight[len(branch.weight) :] *= 2  # now step 3 samples elsewhere, step 1 does not
    changed, kept = apart.offset_fields(x), shared.offset_fields(x)
    torch.testing.assert_close(changed[:, 0], kept[:, 0])
    assert not torch.allclose(changed[:, 1], kept[:, 1], atol=1e-3)


def test_learned_steps_scale_the_offsets_of_their_step():
    torch.manual_seed(0)
    fixed, learned = (
        VariantConvLSTM(3, 2, deform_steps=(0, 2, 3), learned_steps=s, modulated=True) for s in (False, True)
    )
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
        layer = VariantConvLSTM(3, 2, deform_steps=(1,), **options)
        _, slow = parameter_groups(layer, 1.0)
        expected = [p for name, p in layer.named_parameters() if "offset_branch" in name]
        assert {id(p) for p in slow["params"]} == {id(p) for p in expected} and slow["lr"] == 0.1


def test_the_state_is_deformable_at_the_chosen_steps_only():
    torch.manual_seed(0)
    options = {"gates": "convolution", "deform_steps": (2,)}
    state, frame = VariantConvLSTM(3, 2, deform_state=True, **options), VariantConvLSTM(3, 2, **options)
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
    layer = random_offsets(VariantConvLSTM(3, 2, **options))
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


@pytest.mark.parametrize("gates", ["mean", "convolution"])
def test_bfloat16_agrees(gates):
    torch.manual_seed(0)
    layer, x = random_offsets(VariantConvLSTM(8, 8, gates=gates, deform_steps=(1, 3))), torch.randn(2, 8, 5, 6, 6)
    expected, (_, c) = layer(x)
    want = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h, (last, last_c) = layer(x)
    got = torch.autograd.grad(h.float().square().sum(), list(layer.parameters()))
    assert h.dtype == last.dtype == torch.bfloat16 and last_c.dtype == torch.float32  # the memory itself stays exact
    torch.testing.assert_close(h.float(), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(last_c, c, atol=0.02, rtol=0)
    for (name, _), one, other in zip(layer.named_parameters(), got, want, strict=True):
        limit = 0.2 if "offset_branch" in name else 0.06  # a sample that rounds into the next pixel has another slope
        assert (one - other).norm() < limit * other.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
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


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"kernel_size": 4}, "odd"),
        ({"gates": "peephole"}, "mean, convolution"),
        ({"deform_state": True}, "convolution"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, word):
    with pytest.raises(ValueError, match=word):
        VariantConvLSTM(3, 2, **options)


@pytest.mark.parametrize("steps", [(1, 4), (-1,)])
def test_steps_beyond_the_clip_are_refused(steps):
    with pytest.raises(ValueError, match="deform_steps .* 4 steps"):
        ConvLSTM(3, 2, deform_steps=steps)(torch.randn(1, 3, 4, 5, 5))


@pytest.mark.parametrize("steps", [SMALL_NETWORK.deform_steps, ((), (), ())])
def test_the_moves_of_the_benchmark_keep_the_numbers(steps):
    stack = random_offsets(Stack(replace(SMALL_NETWORK, deform_steps=steps)))
    x, results = torch.randn(2, 4, 4, 6, 5), []
    for stack.moves in range(len(MOVES) - 1):
        h = stack(x)
        results.append((h, *torch.autograd.grad(h.square().sum(), list(stack.parameters()))))
    for found in results[1:]:
        for got, expected in zip(found, results[0], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_naive_network_of_the_benchmark_is_ours():
    net = random_offsets(VideoNet(SMALL_NETWORK))
    clips = torch.rand(2, 1, 8, 16, 16)
    torch.testing.assert_close(NaiveNet(net).eval()(clips), net.eval()(clips), atol=1e-5, rtol=1e-4)


CHANGES = {
    "one clip": lambda part: part[:1],
    "four clips": lambda part: torch.cat([part, part]),
    "one channel": lambda part: part[:, :1],
    "one position": lambda part: part[..., :1, :1],
    "a narrower map": lambda part: part[..., :4],
    "no batch": lambda part: part[0],
    "float64": lambda part: part.double(),
    "another device": lambda part: part.to("meta"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_state_of_others_is_refused(change):
    """Most of these would be broadcast: one clip in, two out."""
    layer, x = ConvLSTM(1, 4), torch.rand(2, 1, 3, 6, 5)
    _, (h, c) = layer(x)
    for state in ((change(h), c), (h, change(c)), (change(h), change(c))):
        with pytest.raises(ValueError, match=r"a state is \(h, c\), each .*\[2, 4, 6, 5\]"):
            layer(x, state)


def test_a_state_of_a_larger_batch_is_refused():
    """The last, smaller batch of a stream."""
    layer, x = ConvLSTM(1, 4), torch.rand(2, 1, 3, 6, 5)
    with pytest.raises(ValueError, match=r"each .*\[1, 4, 6, 5\].* it is .*\[2, 4, 6, 5\]"):
        layer(x[:1], layer(x)[1])


@pytest.mark.parametrize("state", [(), (None, None), "hc", torch.zeros(2, 2, 4, 6, 5), [torch.zeros(2, 4, 6, 5)] * 3])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"a state is \(h, c\), each .*\[2, 4, 6, 5\]"):
        ConvLSTM(1, 4)(torch.rand(2, 1, 3, 6, 5), state)


def test_maps_of_another_size_are_refused():
    layer = VariantConvLSTM(1, 4, map_size=(6, 5), deform_steps=(1,))
    wrong = {(2, 1, 3, 6, 6): r"\[6, 5\]", (2, 1, 3, 1, 1): r"\[6, 5\]", (2, 1, 3, 1, 5): r"\[6, 5\]"}
    wrong |= {(2, 2, 3, 6, 5): r"\[B, 1, T, H, W\]", (2, 1, 6, 5): r"\[B, 1, T, H, W\]"}
    for use in (layer, layer.input_maps, layer.offset_fields):
        for shape, expected in wrong.items():
            with pytest.raises(ValueError, match=expected):
                use(torch.rand(shape))


def test_a_state_is_handed_on_under_autocast():
    layer, x = ConvLSTM(1, 4), torch.rand(2, 1, 4, 6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, state = layer(x[:, :, :2])
        hidden, _ = layer(x[:, :, 2:], state)
        whole, _ = layer(x)
    torch.testing.assert_close(hidden, whole[:, :, 2:])


GRAPHS = {
    "mean": ConvLSTM(2, 4, deform_steps=(1, 3)),
    "convolution": VariantConvLSTM(
        2,
        4,
        gates="convolution",
        deform_steps=(1, 2),
        deform_state=True,
        modulated=True,
        learned_steps=True,
        shared_offsets=False,
    ),
    "released": ReleasedConvLSTM(
        2, 4, deform_steps=(1, 2), per_filter=True, defects=("mixed_gates", "released_border"), map_size=(6, 5)
    ),
}


def traced(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """As TensorBoard draws a network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and notes what it takes for constant
        return torch.jit.trace(module, x, check_trace=False)


def check_any_batch(graph: nn.Module, module: nn.Module, x: torch.Tensor) -> None:
    """A graph made from two clips gives the numbers of the module for one, two and three."""
    for batch in (x[:2], x, x[:1]):
        got, expected = (result if torch.is_tensor(result) else result[0] for result in (graph(batch), module(batch)))
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layer", GRAPHS.values(), ids=GRAPHS)
@torch.no_grad()
def test_traced_layers_take_any_batch(layer):
    layer, x = random_offsets(layer).eval(), torch.rand(3, 2, 4, 6, 5)
    check_any_batch(traced(layer, x[:2]), layer, x)


@pytest.mark.slow  # test_export.py exports a single layer
@pytest.mark.parametrize("layer", GRAPHS.values(), ids=GRAPHS)
@torch.no_grad()
def test_exported_layers_take_any_batch(layer):
    layer, x = random_offsets(layer).eval(), torch.rand(3, 2, 4, 6, 5)
    check_any_batch(export(layer, (x[:2],), dynamic_shapes=({0: Dim("batch")},)).module(), layer, x)


WIDTHS = {"narrow": (4, 6, 8), "wide enough for Winograd": (64, 64, 8)}


def network_and_clips(widths: tuple[int, int, int]) -> tuple[VideoNet, torch.Tensor]:
    """A network with moving taps, and clips that have answers of their own."""
    torch.manual_seed(0)
    net = random_offsets(VideoNet(replace(SMALL_NETWORK, conv3d=widths))).eval()
    clips = torch.rand(3, 1, 8, 16, 16)
    assert net(clips).std(0).max() > 0
    return net, clips


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@torch.no_grad()
def test_traced_networks_take_any_batch(widths):
    net, clips = network_and_clips(widths)
    check_any_batch(traced(net, clips[:2]), net, clips)


@pytest.mark.slow
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@torch.no_grad()
def test_exported_networks_take_any_batch(widths):
    net, clips = network_and_clips(widths)
    check_any_batch(export(net, (clips[:2],), dynamic_shapes=({0: Dim("batch")},)).module(), net, clips)

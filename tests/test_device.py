"""The code of a GPU on fake tensors: what stays on the CPU is found, and a step's memory is counted (a machine without
a GPU will do).
"""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark import peak
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

from deformlib import training
from deformlib.augment import AUGMENTATIONS, augment
from deformlib.convlstm import ConvLSTM
from deformlib.corpus import Corpus
from deformlib.dataset import DeviceCorpus, load_batch
from deformlib.network import VideoNet, preset
from deformlib.paper.device import (
    GPU,
    MEMORIES,
    DeviceError,
    FakeAccelerator,
    backward,
    batch_that_fits,
    fake_gpu,
    move_to_fake,
    start_training,
    step_memory,
    untrained,
)
from deformlib.paper.methods import BASELINES
from deformlib.paper.study import METHODS, RECIPES, Experiment, NetworkMethod, make_split, warp
from deformlib.splits import ORIGINAL
from deformlib.training import TrainConfig, train_step

ROOT = Path(__file__).parent.parent
KINDS = (torch.float32, torch.bfloat16, torch.float16)
CASES = [("plain", torch.float32), ("deformable", torch.bfloat16), ("defect_released_border", torch.float16)]
CASES = [("tiny", model, kind) for model, kind in CASES]
ALL = [
    (recipe, model, kind)
    for recipe in ("tiny", "classroom", "paper", "released", "card")
    for model in METHODS
    for kind in KINDS
]


def idle_weights(net: nn.Module, steps: int) -> list[str]:
    """W_x of layers in which every step deforms with a second kernel, one field for each filter: no step uses it."""
    layers = [(name, layer) for name, layer in net.named_modules() if getattr(layer, "deform_conv", None) is not None]
    return [f"{name}.input_conv.weight" for name, layer in layers if len(layer.deform_steps) == steps]


def one_step(recipe: str, net: nn.Module, kind: torch.dtype) -> None:
    """A training step and offsets as in validation; every tensor is on the fake GPU, and no step waits for a number."""
    config, last = RECIPES[recipe].network, [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    seen: dict[str, object] = {}
    idle = idle_weights(net, config.steps)

    def look(module: nn.Module, given: tuple, output: Tensor) -> None:
        seen.setdefault("kind", output.dtype)  # of the last layer, or of a network that takes its weights alone

    def check(optimizer: torch.optim.Optimizer, *words: object) -> None:
        gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.requires_grad}
        assert [name for name, grad in gradients.items() if grad is None or grad.device != GPU] == idle
        seen["steps"] = len(gradients)

    with fake_gpu() as reading:
        optimizer, accelerator = start_training(move_to_fake(net), RECIPES[recipe].training), FakeAccelerator(kind)
        for module in (last, net):
            module.register_forward_hook(look)
        optimizer.register_step_pre_hook(check)
        shape = (2, config.in_channels, config.length, config.size, config.size)
        part, reading.reads = (torch.rand(shape, device=GPU), torch.zeros(2, dtype=torch.int64, device=GPU)), 0
        sums = train_step(net, optimizer, accelerator, [part], RECIPES[recipe].training)
        assert sums.device == GPU and reading.reads == 0 and seen["kind"] == kind and seen["steps"] > 0
        net.eval()
        with torch.inference_mode(), accelerator.autocast():
            fields = net.offset_fields(part[0]) if hasattr(net, "offset_fields") else [net(part[0])]
        assert all(field.device == GPU for field in fields)


@pytest.mark.parametrize(("recipe", "model", "kind"), CASES)
def test_a_training_step_stays_on_the_gpu(recipe: str, model: str, kind: torch.dtype):
    """Without offsets, with them, and with a defect that makes tensors; each precision once. The rest is slow."""
    one_step(recipe, untrained(recipe, model), kind)


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "model", "kind"), [case for case in ALL if case not in CASES])
def test_and_that_of_every_model_in_all_recipes_and_precisions(recipe: str, model: str, kind: torch.dtype):
    """The rest of the list."""
    one_step(recipe, untrained(recipe, model), kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recipe", ["tiny", "paper"])
@pytest.mark.parametrize("model", [name for name, one in BASELINES.items() if isinstance(one, NetworkMethod)])
def test_and_that_of_the_networks_of_table_2(recipe: str, model: str, kind: torch.dtype):
    """Those that are not VideoNets among them: frames alone, both directions of time, torchvision's R(2+1)D."""
    one_step(recipe, BASELINES[model].network(Experiment("none", "by_actor", model, 0, recipe), 17), kind)


def test_clips_of_different_lengths_and_a_state_stay_on_the_gpu():
    """A ConvLSTM that goes on from a state, whose clips end at different steps."""
    layer, lengths = ConvLSTM(2, 4, deform_steps=(1,)), torch.tensor([1, 3])  # lengths are numbers that are read
    with fake_gpu():
        move_to_fake(layer)
        x = torch.rand(2, 2, 3, 8, 8, device=GPU)
        hidden, state = layer(x, lengths=lengths)
        hidden, state = layer(x, state, lengths)
        assert {tensor.device for tensor in (hidden, *state)} == {GPU}


class Stray(nn.Module):
    """A stage of a network that may have a mistake."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, maps: Tensor) -> Tensor:
        if self.where == "forward":
            return maps + maps.mean(0, keepdim=True).cpu()
        if self.where == "constant":
            return maps * torch.linspace(0, 1, maps.shape[-1])
        return maps


@pytest.mark.parametrize("where", ["nowhere", "forward", "constant", "attribute"])
def test_a_planted_cpu_is_seen(where: str):
    """A tensor left on the CPU in one stage of a network is an error; the same stage without it is none."""
    net = untrained("tiny", "deformable")
    net.conv2d.insert(0, Stray(where))
    if where == "attribute":  # neither parameter nor buffer, so that nothing moves it
        net.conv2d[1].register_forward_hook(partial(lambda ones, module, given, output: output * ones, torch.ones(1)))
    with fake_gpu():
        optimizer = start_training(move_to_fake(net), RECIPES["tiny"].training)
        part = torch.rand(2, 1, 8, 32, 32, device=GPU), torch.zeros(2, dtype=torch.int64, device=GPU)
        step = partial(train_step, net, optimizer, FakeAccelerator(), [part], RECIPES["tiny"].training)
        if where == "nowhere":
            step()
        else:
            with pytest.raises(RuntimeError, match="device"):
                step()


class GradientToCpu(torch.autograd.Function):
    """The identity, whose gradient goes to the CPU."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.cpu()


def test_a_gradient_on_the_cpu_is_seen():
    """As PyTorch's engine does, the walk refuses a gradient that lies elsewhere than its tensor."""
    with fake_gpu():
        x = torch.rand(3, device=GPU, requires_grad=True)
        with pytest.raises(DeviceError, match="on cpu"):
            backward(GradientToCpu.apply(x * 2).sum())


def test_readings_are_counted():
    """item, tolist and cpu of a tensor on the GPU give ones, and each is a reading; on the CPU none is."""
    with fake_gpu() as reading:
        x = torch.rand(3, device=GPU)
        assert x.sum().item() == 1.0 and reading.reads == 1
        assert x.tolist() == [1.0] * 3 and reading.reads == 4
        assert x.cpu().numpy().tolist() == [1.0] * 3 and reading.reads == 5
        assert torch.rand(()).item() == 1.0 and reading.reads == 5


def test_the_walk_gives_the_gradients_of_the_engine():
    """On the CPU, where both can go: shared tensors, broadcasts, several outputs, functions of our own."""
    net, clips = untrained("classroom", "modulated"), torch.rand(2, 1, 16, 32, 32)
    found = []
    for differentiate in (Tensor.backward, backward):
        net.zero_grad()
        differentiate(net(clips).square().sum())
        found.append([weight.grad.clone() for weight in net.parameters()])
    for engine, walk in zip(*found, strict=True):
        torch.testing.assert_close(walk, engine, rtol=1e-3, atol=1e-5 * float(engine.abs().max()) + 1e-12)


@pytest.mark.parametrize("stored", [True, False])
def test_batches_and_all_augmentations_are_made_on_the_gpu(corpus: Corpus, stored: bool):
    """All copies of a clip, from frames stored on the GPU or from the files."""
    copies = [ORIGINAL, *range(len(AUGMENTATIONS))]
    pairs = np.array([(number % len(corpus), copy) for number, copy in enumerate(copies)])
    with fake_gpu():
        frames = DeviceCorpus(corpus, GPU) if stored else None
        clips, labels = load_batch(corpus, pairs, 8, device=GPU, stored=frames)
        assert clips.device == labels.device == GPU and clips.shape == (len(pairs), 1, 8, 32, 32)
        with pytest.raises(RuntimeError, match="device"):
            clips + load_batch(corpus, pairs, 8)[0]
    clips = augment(torch.zeros(1, 1, 2, 8, 8), [0])
    assert type(clips) is Tensor and not clips.any()  # nothing fake is kept


def test_an_evaluation_stays_on_the_gpu(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    """Also of warped clips, as in studies of robustness; nothing is read but the answers, once a batch."""
    monkeypatch.setattr(training, "prefetch", map)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))
    net, pairs = untrained("tiny", "deformable", 3), np.array([[0, ORIGINAL], [1, 0], [2, 70], [3, 100]])
    with fake_gpu() as reading:
        answers = training.evaluate(move_to_fake(net), corpus, pairs, batch=2, change=partial(warp, rotate=15.0))
        assert reading.reads == 2
    assert answers.shape == (4, 3) and (answers == 1).all()  # what is read from a fake tensor


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """What belongs to a real GPU or to a thread is replaced: generators, free memory, safetensors, prefetch."""
    save = training.save_file

    def save_real(tensors: dict, path: Path, metadata: dict) -> None:
        with unset_fake_temporarily():
            ones = {
                name: torch.ones(t.shape, dtype=t.dtype) for name, t in tensors.items() if isinstance(t, FakeTensor)
            }
            save(tensors | ones, path, metadata)

    def open_real(path: Path, framework: str) -> nullcontext:
        with unset_fake_temporarily(), safe_open(path, framework) as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        opened = SimpleNamespace(metadata=lambda: metadata, keys=tensors.keys, get_tensor=tensors.__getitem__)
        return nullcontext(opened)

    monkeypatch.setattr(training, "save_file", save_real)
    monkeypatch.setattr(training, "safe_open", open_real)
    monkeypatch.setattr(training, "prefetch", map)
    monkeypatch.setattr(torch, "get_rng_state", lambda: torch.zeros(4, dtype=torch.uint8))
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.zeros(4, dtype=torch.uint8, device=GPU))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 2**30))


@pytest.mark.slow
def test_a_run_trains_stops_goes_on_and_is_evaluated(
    corpus: Corpus, tmp_path: Path, without_driver: None, monkeypatch: pytest.MonkeyPatch
):
    """`fit` itself in bfloat16: corpus on the GPU, steps, validation, checkpoints, a stop, the rest."""
    split = make_split(Experiment("none", "by_actor", "deformable", 0, "tiny"), corpus)
    config = TrainConfig(epochs=2, epoch_steps=1, batch=4, accumulate=2)

    def start(net: nn.Module, config: TrainConfig) -> tuple:
        return FakeAccelerator(torch.bfloat16), net, net, training.make_optimizer(net, config)

    def stop(history: list[dict]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "prepare", start)
    stopped, net = untrained("tiny", "deformable", 3), untrained("tiny", "deformable", 3)
    with fake_gpu():
        with pytest.raises(KeyboardInterrupt):
            training.fit(move_to_fake(stopped), corpus, split, config, tmp_path, on_epoch=stop)
        history = training.fit(move_to_fake(net), corpus, split, config, tmp_path)
        answers = training.evaluate(net, corpus, split.val[:5], batch=4)
    assert [row["epoch"] for row in history] == [1, 2] and len(history[1]["offsets"]) == 3
    assert answers.shape == (5, 3) and (answers == 1).all()  # what is read from a fake tensor
    assert {weight.device for weight in net.parameters()} == {GPU}


@pytest.mark.slow
def test_memory_of_a_step_is_what_a_cpu_hands_out():
    """Counted on fake tensors of the CPU, and measured by PyTorch's profiler in a real step of the classroom recipe."""
    recipe, batch = RECIPES["classroom"], 8
    count = step_memory("classroom", batch, device=torch.device("cpu"))
    net = VideoNet(preset("classroom"))
    optimizer, accelerator = start_training(net, recipe.training), FakeAccelerator(device=torch.device("cpu"))
    accelerator.backward = lambda loss: loss.backward()
    accelerator.autocast = lambda: torch.autocast("cpu", enabled=False)
    clips, labels = torch.rand(batch, 1, 16, 32, 32), torch.zeros(batch, dtype=torch.int64)
    measured = peak(partial(train_step, net, optimizer, accelerator, [(clips, labels)], recipe.training), "cpu")
    counted = count.peak - count.between - clips.nbytes - labels.nbytes
    assert abs(counted / measured - 1) < 0.05
    assert count.between > sum(weight.nbytes for weight in net.parameters()) * 3  # with AdamW's two moments


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["paper", "released", "card"])
def test_memory_of_the_paper_is_what_the_benchmark_measured(recipe: str):
    """The record of `make benchmark`, of a CPU, against the count for a CPU."""
    rows = json.loads((ROOT / "results/benchmarks/training.json").read_text())["recipes"]
    (row,) = (row for row in rows if row["recipe"] == recipe)
    count = step_memory(recipe, row["batch"], device=torch.device("cpu"))
    clips = 4 * row["batch"] * 32 * 112**2
    assert abs((count.peak - count.between - clips) / 2**20 / row["mb"] - 1) < 0.05


@pytest.mark.slow
def test_mixed_precision_holds_less_and_more_clips_hold_more():
    """Autocast keeps most activations in two bytes; either of its types holds the same."""
    whole, half, other = (step_memory("tiny", 4, kind) for kind in KINDS)
    assert half == other and half.between == whole.between and half.peak < 0.85 * whole.peak
    assert step_memory("tiny", 8).peak > 1.7 * whole.peak


def table() -> list[dict]:
    """The rows of results/gpu/memory.json."""
    return json.loads((ROOT / "results/gpu/memory.json").read_text())


def test_the_committed_table_is_the_one_that_is_computed():
    """One entry anew."""
    (row,) = (row for row in table() if row["recipe"] == "classroom" and row["in"] == "bfloat16")
    assert round(step_memory("classroom", row["batch"], torch.bfloat16).peak / 1e9, 4) == row["gb"]


@pytest.mark.slow
def test_the_batch_that_is_said_to_fit_does():
    """By a count of its own; and where nothing fits, none is said to."""
    (paper,) = (row for row in table() if row["recipe"] == "paper" and row["in"] == "float32")
    batch = batch_that_fits(paper, MEMORIES["T4, 15 GB"])
    assert 0.97 * 13.5e9 < step_memory("paper", batch).peak < 13.6e9
    assert batch_that_fits(paper | {"gb_beside": 99.0}, 15) == 0

"""The loop learns, stops anywhere, goes on to the same bits, and refuses what is not its own."""

import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from factories import OtherNet, ToyCorpus, nano_network, weight_difference
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tools.stress import survive
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from deformlib.dataset import loader
from deformlib.files import DeformlibError, LockedError, file_lock
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.splits import ORIGINAL, Split, by_actor, by_copy
from deformlib.training import (
    RELEASED_TRAINING,
    TrainConfig,
    TrainingError,
    evaluate,
    fit,
    fit_simply,
    learning_rate,
    loader_for,
    log_epoch,
    make_optimizer,
    step_pairs,
)

BRIEF = TrainConfig(epochs=2, epoch_steps=3, batch=4)
CLAIMS = Path(__file__).parent.parent / "results" / "example-claims"
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.fixture(scope="module")
def toys() -> ToyCorpus:
    """Thirty clips without files."""
    return ToyCorpus()


@pytest.fixture(scope="module")
def split(toys: ToyCorpus) -> Split:
    """One actor validates."""
    return by_actor(toys)


@pytest.fixture(scope="module")
def straight(toys: ToyCorpus, split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, list[dict]]:
    """Network and history of a run of `BRIEF` that nothing disturbs."""
    net = nano_network()
    return net, fit(net, toys, split, BRIEF, tmp_path_factory.mktemp("straight"))


@pytest.fixture(scope="module")
def other_straight(toys: ToyCorpus, split: Split, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, list]:
    """The same of another network than ours."""
    net = OtherNet()
    return net, fit(net, toys, split, replace(BRIEF, lr=0.01), tmp_path_factory.mktemp("other"))


def untimed(history: list[dict]) -> list[dict]:
    """A history without what a clock says."""
    return [row | {"seconds": 0, "clips_per_second": 0, "data_share": 0} for row in history]


def saved_step(folder: Path) -> int:
    """The step after which the checkpoint in a folder was written, 0 if there is none."""
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["progress"])["step"]


def interrupt(history: list) -> None:
    """What a user does after the first epoch."""
    raise KeyboardInterrupt


def test_released_schedule_halves_every_twenty_epochs():
    """1e-4 until epoch 19, half of it in epoch 20, a quarter in epoch 40."""
    rates = [learning_rate(RELEASED_TRAINING, epoch * 7, 7) for epoch in (0, 19, 20, 39, 40, 49)]
    assert rates == [1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 2.5e-5]
    assert learning_rate(RELEASED_TRAINING, 20 * 7 - 1, 7) == 1e-4


def test_default_schedule_warms_up_and_ends_at_zero():
    """The highest rate comes after a tenth of the steps; the last step has none left."""
    config = TrainConfig(epochs=10, lr=1.0)
    rates = [learning_rate(config, step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] == pytest.approx(1)
    assert all(a > b for a, b in zip(rates[9:], rates[10:], strict=False)) and rates[-1] == pytest.approx(0, abs=1e-12)
    assert rates[54] == pytest.approx(0.5)


def test_rmsprop_moves_a_weight_as_keras_does():
    """v = 0.1 g^2 after one step, so that the step is lr g / (sqrt(0.1) |g| + 1e-7)."""
    layer = nn.Linear(1, 1, bias=False)
    start = layer.weight.item()
    optimizer = make_optimizer(layer, RELEASED_TRAINING)
    (3 * layer.weight).sum().backward()
    optimizer.step()
    assert start - layer.weight.item() == pytest.approx(1e-4 * 3 / (math.sqrt(0.1) * 3 + 1e-7), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("rmsprop", (3.162, 3.161, 3.152, 3.065)), ("rmsprop_keras3", (3.147, 2.236, 0.315, 0.032))],
)
def test_the_place_of_epsilon_decides_over_small_gradients(name, steps):
    """First steps at gradients 1e-2 to 1e-5, in units of lr: Keras up to TensorFlow 2.10, and since."""
    gradients = torch.tensor([[1e-2, 1e-3, 1e-4, 1e-5]])
    layer = nn.Linear(4, 1, bias=False)
    nn.init.zeros_(layer.weight)
    config = replace(RELEASED_TRAINING, optimizer=name)
    optimizer = make_optimizer(layer, config)
    (gradients * layer.weight).sum().backward()
    optimizer.step()
    assert (-layer.weight / config.lr).detach().numpy() == pytest.approx(np.array([steps]), abs=1e-3)
    optimizer.step()  # v = 0.19 g^2 now
    inside, outside = (1e-7, 0) if name == "rmsprop_keras3" else (0, 1e-7)
    steps = [sum(g / (math.sqrt(v * g * g + inside) + outside) for v in (0.1, 0.19)) for g in gradients[0].tolist()]
    assert (-layer.weight / config.lr).detach().numpy() == pytest.approx(np.array([steps]), rel=1e-4)
    assert learning_rate(config, 400, 10) == learning_rate(RELEASED_TRAINING, 400, 10)


def test_the_other_rmsprop_trains_and_resumes(toys: ToyCorpus, split: Split, tmp_path: Path):
    """A parameter without a gradient stays where it is; a stopped run ends with the same bits."""
    config, nets = replace(BRIEF, optimizer="rmsprop_keras3", lr=1e-3), [OtherNet() for _ in range(3)]
    for net in nets:
        net.unused = nn.Parameter(torch.ones(1))
    fit(nets[0], toys, split, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(nets[1], toys, split, config, tmp_path / "halves", on_epoch=interrupt)
    fit(nets[2], toys, split, config, tmp_path / "halves")
    assert weight_difference(nets[0], nets[2]) == 0 < weight_difference(nets[0], nets[1])
    assert nets[2].unused.item() == 1


def test_offset_branches_learn_at_a_tenth():
    """The optimiser keeps two groups, and the small one is the offset branches."""
    net = nano_network()
    fast, slow = make_optimizer(net, TrainConfig(epochs=1, lr=1e-2)).param_groups
    assert (fast["lr"], slow["lr"]) == (1e-2, pytest.approx(1e-3))
    branches = sum(p.numel() for name, p in net.named_parameters() if "offset_branch" in name)
    assert sum(p.numel() for p in slow["params"]) == branches > 0


def test_steps_visit_every_pair_once_a_turn(toys: ToyCorpus):
    """Batches that cover the training set hold each pair once, and the second turn has another order."""
    split = by_actor(toys, held_out=2)
    count = len(split.train)
    config = TrainConfig(epochs=1, batch=count // 8)
    first = np.concatenate([step_pairs(split, config, step) for step in range(8)])
    assert sorted(map(tuple, first)) == sorted(map(tuple, split.train))
    second = np.concatenate([step_pairs(split, config, step) for step in range(8, 16)])
    assert sorted(map(tuple, second)) == sorted(map(tuple, split.train)) and not np.array_equal(first, second)
    across = step_pairs(split, replace(config, batch=count // 8 * 3), 2)  # from the first turn into the second
    np.testing.assert_array_equal(across, np.concatenate([first[count // 4 * 3 :], second[: count // 8]]))
    assert not np.array_equal(step_pairs(split, config, 0), step_pairs(split, replace(config, seed=1), 0))
    assert config.steps(split) == 8 and replace(config, epoch_steps=3).steps(split) == 3


@pytest.mark.parametrize("clip_norm", [10.0, None])
def test_the_simple_loop_and_the_hardened_one_end_with_the_same_bits(toys, split, tmp_path: Path, clip_norm):
    """The same steps, also past the end of an epoch; the history's loss is the mean of those of its steps."""
    config, simple, hardened = replace(BRIEF, lr=0.01, clip_norm=clip_norm), nano_network(), nano_network()
    seen: list[int] = []
    losses = fit_simply(simple, toys, split, config, seen.append)
    assert seen == list(range(len(losses)))
    history = fit(hardened, toys, split, config, tmp_path)
    assert weight_difference(simple, hardened) == 0 < weight_difference(simple, nano_network())
    assert [row["loss"] for row in history] == pytest.approx([np.mean(losses[:3]), np.mean(losses[3:])], rel=1e-6)


def test_evaluation_is_one_clip_at_a_time(toys: ToyCorpus):
    """Probabilities do not depend on the batch, sum to one, and leave the network's mode alone."""
    net, pairs = nano_network(), np.array([[0, ORIGINAL], [3, 40], [7, ORIGINAL], [9, 5], [11, 120]])
    whole, single = evaluate(net, toys, pairs), evaluate(net, toys, pairs, batch=1)
    assert net.training and whole.shape == (5, 3)
    np.testing.assert_allclose(whole, single, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
    many = np.tile(pairs, (2, 1))  # ten batches have a bar
    np.testing.assert_allclose(evaluate(net.eval(), toys, many, batch=1), np.tile(whole, (2, 1)), atol=1e-6)
    assert not net.training


@pytest.mark.slow
def test_training_learns(toys: ToyCorpus, tmp_path: Path):
    """Three motions: the loss starts near ln 3 and ends far below; unseen copies are mostly right."""
    net, split = nano_network(), by_copy(toys)
    history = fit(net, toys, split, TrainConfig(epochs=5, epoch_steps=12, batch=8, lr=6e-3), tmp_path)
    assert abs(history[0]["loss"] - math.log(3)) < 0.4 and history[-1]["loss"] < 0.6 * math.log(3)
    right = evaluate(net, toys, split.val[:60]).argmax(1) == toys.labels[split.val[:60, 0]]
    assert right.mean() > 0.6
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == history and [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert len(rows[-1]["offsets"]) == 3 and min(rows[-1]["offsets"]) > 0


@pytest.mark.parametrize("stop", range(1, 36, 4))
def test_a_stopped_run_ends_with_the_same_bits(toys, split, straight, tmp_path: Path, stop: int):
    """Stopped while one of its 36 clips is read (three batches and an evaluation an epoch), the end is the same."""
    reads = []

    def stumble(clip: int) -> None:
        reads.append(clip)
        if len(reads) == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(nano_network(), ToyCorpus(stumble), split, BRIEF, tmp_path, checkpoint_seconds=0)
    torch.manual_seed(99)  # the process that goes on is another one
    resumed, (wanted, history) = nano_network(), straight
    assert untimed(fit(resumed, toys, split, BRIEF, tmp_path)) == untimed(history)
    assert weight_difference(wanted, resumed) == 0


def test_moments_may_lie_otherwise_in_memory(toys, split, straight, tmp_path: Path):
    """A checkpoint is contiguous, kernels need not be; a fused AdamW on a CPU would take other weights' moments."""
    reads, (resumed, stopped) = [], (nano_network() for _ in range(2))
    for kernel in (each for net in (resumed, stopped) for each in net.parameters() if each.ndim == 4):
        kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)
    assert any(not parameter.is_contiguous() for parameter in resumed.parameters())

    def stumble(clip: int) -> None:
        reads.append(clip)
        if len(reads) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(stopped, ToyCorpus(stumble), split, BRIEF, tmp_path, checkpoint_seconds=0)
    fit(resumed, toys, split, BRIEF, tmp_path)
    assert weight_difference(straight[0], resumed) < 1e-5


@pytest.mark.slow  # as `make stress`
@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_a_killed_process_loses_nothing_whole(tmp_path: Path):
    """kill -9 at random moments leaves a whole checkpoint, and the end is the same; `make stress` kills more often."""
    plan = [replace(c, n_frames=12) for c in plan_corpus() if c.name[3:6] in ("ang", "joy", "sad") and c.actor <= 2]
    steps = survive(2, make_corpus(tmp_path / "videos", plan), tmp_path)
    assert steps == sorted(set(steps)) and steps[0] > 0  # each life went on from further than the one before


def test_every_step_has_the_rate_of_its_schedule(toys: ToyCorpus, split: Split, tmp_path: Path):
    """Both groups follow the schedule at every step, offset branches at a tenth of it."""
    config, seen = replace(BRIEF, lr=1e-3), []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    try:
        fit(nano_network(), toys, split, config, tmp_path)
    finally:
        hook.remove()
    wanted = [learning_rate(config, step, 3) for step in range(6)]
    assert len(set(wanted)) == 6
    np.testing.assert_allclose(seen, [[rate, rate / 10] for rate in wanted], rtol=1e-6)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(toys: ToyCorpus, split: Split, tmp_path: Path):
    """Each sentence names the file and the remedy."""
    config, path = replace(BRIEF, epochs=1), tmp_path / "checkpoint.safetensors"
    fit(OtherNet(), toys, split, config, tmp_path)
    with pytest.raises(TrainingError, match="checkpoint.safetensors.* other settings; delete it"):
        fit(OtherNet(), toys, split, replace(config, seed=1), tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        fit(OtherNet(), toys, by_actor(toys, seed=1), config, tmp_path)  # as many pairs, but others
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(TrainingError, match="checkpoint.safetensors: damaged .* delete it"):
        fit(OtherNet(), toys, split, config, tmp_path)
    path.write_bytes(whole)
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    progress = json.loads(metadata["progress"])
    old = progress | {"waited": 0.0}
    del old["data_wait_s"]
    for wrong in (old, progress | {"step": "1"}, progress | {"sums": [0.0]}):
        save_file(tensors, path, metadata | {"progress": json.dumps(wrong)})
        with pytest.raises(TrainingError, match="checkpoint.safetensors: .*another version.* delete it"):
            fit(OtherNet(), toys, split, config, tmp_path)
    save_file({**tensors, "optimizer.x.step": torch.ones(1)}, path, metadata)
    with pytest.raises(DeformlibError, match="damaged"):
        fit(OtherNet(), toys, split, config, tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(toys: ToyCorpus, split: Split, tmp_path: Path):
    """Training does not go on with broken numbers nor save them, and says by which step it broke."""
    net = OtherNet()
    with torch.no_grad():
        net.linear.bias[0] = torch.inf
    with pytest.raises(TrainingError, match="no longer finite by step 2.* lower lr"):
        fit(net, toys, split, BRIEF, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_mixed_precision_computes_the_same_to_two_digits():
    """The forward pass runs under bfloat16 autocast, deformable layers included, and stays near float32."""
    net = nano_network().eval()
    clips = torch.rand(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = net(clips).softmax(1)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(clips).float().softmax(1)
    assert 0 < (exact - rough).abs().max() < 0.02


def test_any_network_can_be_trained(toys: ToyCorpus, split: Split, other_straight):
    """A network that maps clips to logits and knows its length; without offsets there are none to write down."""
    net, history = other_straight
    assert history[-1]["offsets"] == [] and weight_difference(net, OtherNet()) > 0
    assert evaluate(net, toys, split.val).shape == (len(split.val), 3)
    assert all(row["clips_per_second"] > 0 and 0 < row["data_share"] < 1 for row in history)


def test_a_batch_in_parts_makes_the_same_step(toys: ToyCorpus, split: Split, tmp_path: Path):
    """Gradients of the parts add up to that of the batch; a batch that makes no equal parts is refused."""
    config = TrainConfig(epochs=2, epoch_steps=4, batch=6)
    whole, parts = OtherNet(), OtherNet()
    wanted = fit(whole, toys, split, config, tmp_path / "whole")
    got = fit(parts, toys, split, replace(config, accumulate=3), tmp_path / "parts")
    assert 0 < weight_difference(whole, OtherNet()) > 100 * weight_difference(whole, parts)
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in wanted], rel=1e-5)
    assert [row["accuracy"] for row in got] == [row["accuracy"] for row in wanted]
    with pytest.raises(TrainingError, match="batch of 6 .* multiple of 4"):
        fit(OtherNet(), toys, split, replace(config, accumulate=4), tmp_path / "odd")


JOB = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from accelerate import notebook_launcher
from factories import OtherNet, ToyCorpus
from deformlib.splits import by_actor
from deformlib.training import TrainConfig, distributed_state, evaluate, fit

def job(folder):
    corpus, net = ToyCorpus(), OtherNet()
    split = by_actor(corpus)
    history = fit(net, corpus, split, TrainConfig(epochs=2, epoch_steps=3, batch=4, lr=0.01), folder)
    answers = evaluate(net, corpus, split.val[::-1]).tolist()
    Path(f"{folder}-{distributed_state().process_index}.json").write_text(json.dumps([history, answers]))
    distributed_state().wait_for_everyone()
    distributed_state().destroy_process_group()

if len(sys.argv) == 3:
    job(sys.argv[2])
else:
    notebook_launcher(job, sys.argv[2:3], num_processes=2, use_port=sys.argv[3])
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares two CPU processes with one")
@pytest.mark.slow  # each process imports PyTorch
@pytest.mark.parametrize("launcher", ["notebook_launcher", "torchrun", "accelerate launch"])
def test_two_processes_train_as_one(toys: ToyCorpus, split: Split, other_straight, tmp_path: Path, launcher: str):
    """Two CPU processes, however started: the loss curve, accuracies and answers of one at the same global batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "job.py").write_text(JOB)
    words = ["job.py", str(Path(__file__).parent), str(tmp_path / "two")]
    accelerate = ["accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
    accelerate += [f"--main_process_port={port}", "--mixed_precision=no", "--dynamo_backend=no"]
    command = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words],
        "accelerate launch": ["-m", *accelerate, *words],
        "notebook_launcher": [*words, port],
    }[launcher]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    net, history = other_straight
    answers = evaluate(net, toys, split.val[::-1])
    for process in range(2):
        got, theirs = json.loads((tmp_path / f"two-{process}.json").read_text())
        assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in history], rel=1e-5)
        for name in ("accuracy", "val_accuracy", "epoch"):
            assert [row[name] for row in got] == [row[name] for row in history]
        np.testing.assert_allclose(theirs, answers, atol=1e-5)
    assert len((tmp_path / "two" / "history.jsonl").read_text().splitlines()) == 2


def test_two_runs_cannot_write_one_folder(toys: ToyCorpus, split: Split, tmp_path: Path):
    """The second is refused, and may begin when the first is done."""
    with file_lock(tmp_path / "lock"), pytest.raises(LockedError, match=tmp_path.name):
        fit(OtherNet(), toys, split, BRIEF, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert len(fit(OtherNet(), toys, split, BRIEF, tmp_path)) == 2


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
def test_a_full_disk_loses_nothing(toys: ToyCorpus, split: Split, other_straight, tmp_path: Path, capsys):
    """No file may grow in the second epoch: the checkpoint before stays whole, and the end is the same."""
    import resource  # there is none on Windows

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = replace(BRIEF, lr=0.01)
    try:
        with pytest.raises(TrainingError, match="cannot be written .* make room"):
            fit(
                OtherNet(),
                toys,
                split,
                config,
                tmp_path / "run",
                on_epoch=lambda history: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1])),
                checkpoint_seconds=0,
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert set(left) - {"lock"} == {"checkpoint.safetensors", "history.jsonl"} and saved_step(tmp_path / "run") == 3
    resumed = OtherNet()
    fit(resumed, toys, split, config, tmp_path / "run")
    assert "from step 3 of 6" in capsys.readouterr().out
    assert weight_difference(other_straight[0], resumed) == 0


def test_a_run_out_of_memory_goes_on(toys: ToyCorpus, split: Split, other_straight, tmp_path: Path, capsys):
    """No room in the fourth step: the remedy is named, the same call goes on from there, and the end is the same."""
    calls, config = [], replace(BRIEF, lr=0.01)

    def fails(net: nn.Module, clips: torch.Tensor) -> None:
        calls.append(net.training)
        if sum(calls) == 4:
            raise FULL

    with pytest.raises(TrainingError, match="4 clips .* make room and call again.*more than accumulate 1"):
        fit(OtherNet(fails), toys, split, config, tmp_path / "run", checkpoint_seconds=0)
    resumed = OtherNet()
    fit(resumed, toys, split, config, tmp_path / "run")
    assert "from step 3 of 6" in capsys.readouterr().out
    assert weight_difference(other_straight[0], resumed) == 0

    def breaks(net: nn.Module, clips: torch.Tensor) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fit(OtherNet(breaks), toys, split, config, tmp_path / "other")


@pytest.mark.parametrize(("reading", "computing"), [(0.05, 0.0), (0.0, 0.2)])
def test_the_share_of_waiting_for_data_is_measured(toys, split, tmp_path: Path, reading: float, computing: float):
    """Where four clips take 0.2 s to read, the loop waits most of the time; where a step does, hardly ever."""
    net = OtherNet(lambda net, clips: time.sleep(computing * net.training))
    corpus = ToyCorpus(lambda clip: time.sleep(reading))
    history = fit(net, corpus, split, TrainConfig(epochs=1, epoch_steps=4, batch=4), tmp_path)
    assert (history[0]["data_share"] > 0.5) == (reading > 0)


def test_a_step_and_the_next_load_overlap(split: Split, tmp_path: Path):
    """Each waits here for the other to begin, so that the loop would stand still if it did one after the other."""
    loading, stepping, reads, steps = [Event() for _ in range(4)], [Event() for _ in range(4)], count(), count()

    def read(clip: int) -> None:
        number, first = divmod(next(reads), 4)  # of the batch; later ones are for the validation pairs
        if first == 0 and number < 4:
            loading[number].set()
            assert number == 0 or stepping[number - 1].wait(10), f"batch {number} is wanted before step {number - 1}"

    def compute(net: nn.Module, clips: torch.Tensor) -> None:
        if net.training:
            number = next(steps)
            stepping[number].set()
            assert number == 3 or loading[number + 1].wait(10), f"nothing is loaded during step {number}"

    fit(OtherNet(compute), ToyCorpus(read), split, TrainConfig(epochs=1, epoch_steps=4, batch=4), tmp_path)
    assert all(event.is_set() for event in (*loading, *stepping))


def test_an_epoch_is_added_up():
    """3/8 of the first epoch's 32 s were spent waiting for data, 1/8 of the second's; sums begin again."""
    progress = {"sums": [24.0, 8.0], "seconds": 32.0, "data_wait_s": 12.0, "history": []}
    log_epoch(progress, {"epoch": 1}, clips=16)
    assert progress["history"] == [
        {"epoch": 1, "loss": 1.5, "accuracy": 0.5, "seconds": 32.0, "clips_per_second": 0.5, "data_share": 3 / 8}
    ]
    assert progress["sums"] == [0.0, 0.0] and progress["data_wait_s"] == 0
    progress |= {"sums": [8.0, 16.0], "seconds": 64.0, "data_wait_s": 4.0}
    log_epoch(progress, {"epoch": 2}, clips=16)
    row = progress["history"][1]
    assert (row["loss"], row["accuracy"], row["clips_per_second"], row["data_share"]) == (0.5, 1.0, 0.5, 1 / 8)


def test_committed_runs_hardly_waited_for_data():
    """Plain and deformable, every epoch of every run, the first included: under 5 % (the most is 2.6 %)."""
    runs = [path for model in ("plain", "deformable") for path in CLAIMS.glob(f"classroom-{model}-*.json")]
    shares = [row["data_share"] for path in runs for row in json.loads(path.read_text(encoding="utf-8"))["history"]]
    assert len(runs) >= 30 and len(shares) == 8 * len(runs) and min(shares) > 0 and max(shares) < 0.05


def test_a_checkpoint_is_written_when_its_time_has_come(toys: ToyCorpus, split: Split, tmp_path: Path):
    """Within an epoch after the step in which so many seconds have passed, not before; and at the epoch's end."""
    found, lasts = [], iter((0, 1.2, 0, 0, 1.2, 0, 0, 0))

    def slowly(net: nn.Module, clips: torch.Tensor) -> None:
        if net.training:
            found.append(saved_step(tmp_path))
            time.sleep(next(lasts))

    config = TrainConfig(epochs=1, epoch_steps=8, batch=4)
    fit(OtherNet(slowly), toys, split, config, tmp_path, checkpoint_seconds=1)
    assert found == [0, 0, 2, 2, 2, 5, 5, 5] and saved_step(tmp_path) == 8


def test_a_training_on_a_cpu_keeps_its_memory(toys, split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Told to the C library once, before the first step; a network that lives on a GPU leaves it alone."""
    net, seen = OtherNet(), []
    monkeypatch.setattr("deformlib.training.keep_freed_memory", lambda: seen.append("memory"))
    net.register_forward_pre_hook(lambda *words: seen.append("forward"))
    fit(net, toys, split, replace(BRIEF, epochs=1), tmp_path)
    assert seen[0] == ("forward" if torch.cuda.is_available() else "memory") and "memory" not in seen[1:]


def test_the_network_is_compiled_on_request(toys, split, other_straight, tmp_path: Path, monkeypatch):
    """Traced by torch.compile, then run as it is, which needs no C++ compiler: the weights of an uncompiled run.

    They agree bit for bit, and a compiled run that was stopped goes on to the same bits too. Compiled by inductor the
    numbers are other ones in the last digits; `make slow` compares those.
    """
    traced, config = [], replace(BRIEF, lr=0.01, compile=True)

    def eager(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        traced.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=eager))
    compiled, resumed = OtherNet(), OtherNet()
    history = fit(compiled, toys, split, config, tmp_path / "yes")
    assert traced and weight_difference(other_straight[0], compiled) == 0
    with pytest.raises(KeyboardInterrupt):
        fit(OtherNet(), toys, split, config, tmp_path / "stopped", on_epoch=interrupt)
    again = fit(resumed, toys, split, config, tmp_path / "stopped")
    assert weight_difference(compiled, resumed) == 0 and untimed(again) == untimed(history)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_loop(toys: ToyCorpus, split: Split, tmp_path: Path):
    """The same call on a GPU: finite, there, resumable; training and evaluation share one copy of the corpus."""
    net, before = nano_network(), loader.cache_info().misses
    history = fit(net, toys, split, BRIEF, tmp_path)
    assert next(net.parameters()).is_cuda and len(history) == 2 and math.isfinite(history[-1]["loss"])
    assert loader.cache_info().misses == before + 1
    assert fit(nano_network(), toys, split, BRIEF, tmp_path) == history


def test_what_does_not_fit_is_evaluated_in_halves(toys: ToyCorpus):
    """A memory for two clips gives the answers of a memory for eight; not one clip at a time is an error as it came."""
    net, largest, sizes = OtherNet(), 2, []

    def tight(clips: torch.Tensor) -> torch.Tensor:
        sizes.append(len(clips))
        if len(clips) > largest:
            raise FULL
        return clips

    pairs = by_copy(toys).val[:7]
    expected = evaluate(net, toys, pairs)
    np.testing.assert_allclose(evaluate(net, toys, pairs, change=tight), expected, rtol=1e-5, atol=1e-7)
    assert sizes == [7, 4, 2, 2, 3, 2, 1]
    largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(net, toys, pairs, change=tight)


@pytest.mark.parametrize("name", ["epochs", "epoch_steps", "batch", "accumulate"])
@pytest.mark.parametrize("wrong", [2.5, 0])
def test_no_step_at_all_is_refused(name: str, wrong: float):
    """A count is a whole number of 1 or more."""
    with pytest.raises(TrainingError, match=f"{name} is {wrong}: .* 1 or more"):
        TrainConfig(**{"epochs": 1, name: wrong})


@pytest.mark.parametrize("wrong", [{"optimizer": "sgd"}, {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}])
def test_no_training_at_all_is_refused(wrong: dict):
    """The sentence names the optimisers there are."""
    with pytest.raises(TrainingError, match="'adamw' or 'rmsprop' or 'rmsprop_keras3', and a positive lr"):
        TrainConfig(epochs=1, **wrong)


def test_validation_takes_as_many_clips_as_training(toys: ToyCorpus, split: Split, tmp_path: Path):
    """What fits in training fits at the end of an epoch."""
    sizes = []
    net = OtherNet(lambda net, clips: sizes.append((net.training, len(clips))))
    fit(net, toys, split, replace(BRIEF, accumulate=2), tmp_path)
    assert {size for training, size in sizes if training} == {BRIEF.batch // 2}
    assert max(size for training, size in sizes if not training) == BRIEF.batch // 2


def test_clips_are_loaded_onto_the_device_of_the_network(toys: ToyCorpus):
    """accelerate may say "cuda" where a parameter says "cuda:0"; the parameter counts, so a corpus is there once."""
    clips, labels = loader_for(OtherNet().to("meta"), toys, seed=0)(np.array([[0, ORIGINAL], [4, 9]]))
    assert clips.device.type == labels.device.type == "meta" and clips.shape == (2, 1, 4, 16, 16)

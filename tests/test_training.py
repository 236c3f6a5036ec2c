"""The loop learns, stops anywhere, goes on to the same bits, and refuses what is not its own."""

import errno
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from stress import TINY, survive
from torch import nn

from deformlib import training
from deformlib.corpus import ORIGINAL, Corpus, by_actor, by_copy
from deformlib.network import VideoNet
from deformlib.training import (
    RELEASED_TRAINING,
    InUseError,
    TrainConfig,
    TrainingError,
    ahead,
    evaluate,
    find_batch,
    fit,
    held,
    learning_rate,
    make_optimizer,
    step_pairs,
)

BRIEF = TrainConfig(epochs=2, epoch_steps=3, batch=4)
CLAIMS = Path(__file__).parent.parent / "results" / "example-claims"


def fresh() -> VideoNet:
    """The same untrained network every time."""
    torch.manual_seed(3)
    return VideoNet(TINY)


@dataclass
class Lens:
    """What `fit` needs to know of a network that is none of ours."""

    length: int = 8


class Small(nn.Module):
    """Some other network, without batch norm, so that every clip counts alike however a batch is shared."""

    def __init__(self):
        super().__init__()
        self.config = Lens()
        self.filter, self.linear = nn.Conv3d(1, 4, 5, stride=(1, 2, 2)), nn.Linear(4, 3)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        return self.linear(10 * self.filter(clips).relu().mean((2, 3, 4)))


def small() -> Small:
    """The same one every time."""
    torch.manual_seed(4)
    return Small()


def difference(one: nn.Module, other: nn.Module) -> float:
    """Largest difference between two networks' weights and statistics."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


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
    assert all(a > b for a, b in zip(rates[9:], rates[10:])) and rates[-1] == pytest.approx(0, abs=1e-12)
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


def test_the_other_rmsprop_trains_and_resumes(corpus: Corpus, tmp_path: Path):
    split, config = by_actor(corpus, held_out=2), replace(BRIEF, optimizer="rmsprop_keras3", lr=1e-3)
    whole, halves = fresh(), fresh()
    fit(whole, corpus, split, config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(halves, corpus, split, config, tmp_path / "halves", on_epoch=interrupt)
    again = fresh()
    fit(again, corpus, split, config, tmp_path / "halves")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def interrupt(history: list) -> None:
    """What a user does after the first epoch."""
    raise KeyboardInterrupt


def test_offset_branches_learn_at_a_tenth():
    """The optimiser keeps two groups, and the small one is the offset branches."""
    net = fresh()
    fast, slow = make_optimizer(net, TrainConfig(epochs=1, lr=1e-2)).param_groups
    assert (fast["lr"], slow["lr"]) == (1e-2, pytest.approx(1e-3))
    branches = sum(p.numel() for name, p in net.named_parameters() if "offset_branch" in name)
    assert sum(p.numel() for p in slow["params"]) == branches > 0


def test_steps_visit_every_pair_once_a_turn(corpus: Corpus):
    """Any stretch of batches that covers the training set holds each pair once, and the second turn has another order."""
    split = by_actor(corpus, held_out=2)
    count = len(split.train)
    config = TrainConfig(epochs=1, batch=count // 8)
    first = np.concatenate([step_pairs(split, config, step) for step in range(8)])
    assert sorted(map(tuple, first)) == sorted(map(tuple, split.train))
    second = np.concatenate([step_pairs(split, config, step) for step in range(8, 16)])
    assert sorted(map(tuple, second)) == sorted(map(tuple, split.train)) and not np.array_equal(first, second)
    across = step_pairs(split, replace(config, batch=count // 8 * 3), 2)  # from the first turn into the second
    assert len(across) == count // 8 * 3
    assert not np.array_equal(step_pairs(split, config, 0), step_pairs(split, replace(config, seed=1), 0))


def test_evaluation_is_one_clip_at_a_time(corpus: Corpus):
    """Probabilities do not depend on the batch, sum to one, and leave the network's mode alone."""
    net, pairs = fresh(), np.array([[0, ORIGINAL], [3, 40], [7, ORIGINAL], [9, 5], [11, 120]])
    whole, single = evaluate(net, corpus, pairs), evaluate(net, corpus, pairs, batch=1)
    assert net.training and whole.shape == (5, 3)
    np.testing.assert_allclose(whole, single, atol=1e-6)
    np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)


def test_training_learns(corpus: Corpus, tmp_path: Path):
    """Three emotions, 120 steps: the loss starts near ln 3 and ends far below; unseen copies are mostly right."""
    net, split = fresh(), by_copy(corpus)
    history = fit(net, corpus, split, TrainConfig(epochs=6, epoch_steps=20, batch=8, lr=3e-3), tmp_path)
    assert abs(history[0]["loss"] - math.log(3)) < 0.4 and history[-1]["loss"] < 0.6 * math.log(3)
    right = evaluate(net, corpus, split.val[:60]).argmax(1) == corpus.labels[split.val[:60, 0]]
    assert right.mean() > 0.6
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == history and [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert len(rows[-1]["offsets"]) == 3 and min(rows[-1]["offsets"]) > 0


UNTIMED = {"seconds": 0, "clips_per_second": 0, "data_share": 0}


@pytest.mark.parametrize("stop", range(1, 11))
def test_a_stopped_run_ends_with_the_same_bits(corpus: Corpus, tmp_path: Path, monkeypatch, stop: int):
    """Stopped at any of the ten times a batch is loaded (three steps and two looks an epoch), the end is the same."""
    split, straight, resumed = by_actor(corpus), fresh(), fresh()
    wanted = fit(straight, corpus, split, BRIEF, tmp_path / "straight")
    real, calls = training.loader, []

    def stumbling(*words):
        load = real(*words)

        def stumble(pairs, **named):
            calls.append(pairs)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return load(pairs, **named)

        return stumble

    monkeypatch.setattr(training, "loader", stumbling)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), corpus, split, BRIEF, tmp_path / "stopped", checkpoint_seconds=0)
    monkeypatch.undo()
    torch.manual_seed(99)  # the process that goes on is another one
    got = fit(resumed, corpus, split, BRIEF, tmp_path / "stopped")
    assert difference(straight, resumed) == 0
    assert [row | UNTIMED for row in got] == [row | UNTIMED for row in wanted]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_a_killed_process_loses_nothing_whole(videos: Path, tmp_path: Path):
    """kill -9 at random moments: what lies there is a whole checkpoint, and the end is the same; `make stress` kills more often."""
    steps = survive(3, videos, tmp_path)
    assert steps == sorted(set(steps)) and steps[0] > 0  # each life went on from further than the one before


def test_every_step_has_the_rate_of_its_schedule(corpus: Corpus, tmp_path: Path, monkeypatch):
    """Both groups follow the schedule at every step, offset branches at a tenth of it."""
    config, seen, real = replace(BRIEF, lr=1e-3), [], torch.optim.AdamW.step

    def spy(optimizer, *words):
        seen.append([group["lr"] for group in optimizer.param_groups])
        return real(optimizer, *words)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(fresh(), corpus, by_actor(corpus), config, tmp_path)
    wanted = [learning_rate(config, step, 3) for step in range(6)]
    assert len(set(wanted)) == 6
    np.testing.assert_allclose(seen, [[rate, rate / 10] for rate in wanted], rtol=1e-6)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(corpus: Corpus, tmp_path: Path):
    """One sentence that names the file and the remedy."""
    split = by_actor(corpus)
    fit(fresh(), corpus, split, replace(BRIEF, epochs=1), tmp_path)
    with pytest.raises(TrainingError, match="checkpoint.safetensors: belongs to a run with other settings; delete it"):
        fit(fresh(), corpus, split, replace(BRIEF, epochs=1, seed=1), tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        fit(fresh(), corpus, by_actor(corpus, seed=1), replace(BRIEF, epochs=1), tmp_path)  # as many pairs, but others
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(TrainingError, match="checkpoint.safetensors: damaged .* delete it"):
        fit(fresh(), corpus, split, replace(BRIEF, epochs=1), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run(corpus: Corpus, tmp_path: Path):
    """Training does not go on with broken numbers nor save them, and says by which step it broke."""
    net = fresh()
    with torch.no_grad():
        net.linear.bias[0] = torch.inf
    with pytest.raises(TrainingError, match="no longer finite by step 2; start anew with a lower lr"):
        fit(net, corpus, by_actor(corpus), BRIEF, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_mixed_precision_computes_the_same_to_two_digits(corpus: Corpus):
    """The forward pass runs under bfloat16 autocast, deformable layers included, and stays near float32."""
    net = fresh().eval()
    clips = torch.rand(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    accelerator = Accelerator(mixed_precision="no")
    with torch.inference_mode():
        exact = net(clips).softmax(1)
        with torch.autocast(accelerator.device.type, torch.bfloat16):
            rough = net(clips).float().softmax(1)
    assert (exact - rough).abs().max() < 0.02


def test_any_network_can_be_trained(corpus: Corpus, tmp_path: Path):
    """A network that maps clips to logits and knows its length; without offsets there are none to watch."""
    net, split = small(), by_actor(corpus)
    history = fit(net, corpus, split, replace(BRIEF, lr=0.01), tmp_path)
    assert history[-1]["offsets"] == [] and difference(net, small()) > 0
    assert evaluate(net, corpus, split.val).shape == (len(split.val), 3)
    assert all(row["clips_per_second"] > 0 and 0 < row["data_share"] < 1 for row in history)
    assert "network" in (tmp_path / "checkpoint.safetensors").read_bytes()[:5000].decode(errors="replace")


def test_a_batch_in_parts_makes_the_same_step(corpus: Corpus, tmp_path: Path):
    """Gradients of the parts add up to that of the batch; a batch that makes no equal parts is refused."""
    config, split = TrainConfig(epochs=2, epoch_steps=4, batch=6), by_actor(corpus)
    whole, parts = small(), small()
    wanted = fit(whole, corpus, split, config, tmp_path / "whole")
    got = fit(parts, corpus, split, replace(config, accumulate=3), tmp_path / "parts")
    assert 0 < difference(whole, small()) > 100 * difference(whole, parts)
    assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in wanted], rel=1e-5)
    assert [row["accuracy"] for row in got] == [row["accuracy"] for row in wanted]
    with pytest.raises(TrainingError, match="batch of 6 makes no 4 equal parts: choose a multiple of 4"):
        fit(small(), corpus, split, replace(config, accumulate=4), tmp_path / "odd")


JOB = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from accelerate import notebook_launcher
from test_training import BRIEF, Corpus, by_actor, evaluate, fit, replace, small
from deformlib.training import processes

def job(videos, cache, folder):
    corpus, net = Corpus(videos, size=32, cache=cache), small()
    split = by_actor(corpus)
    history = fit(net, corpus, split, replace(BRIEF, lr=0.01), folder)
    answers = evaluate(net, corpus, split.val[::-1]).tolist()
    Path(f"{folder}-{processes().process_index}.json").write_text(json.dumps([history, answers]))
    processes().wait_for_everyone()
    processes().destroy_process_group()

if len(sys.argv) == 5:
    job(*sys.argv[2:])
else:
    notebook_launcher(job, sys.argv[2:5], num_processes=2, use_port=sys.argv[5])
"""


@pytest.fixture(scope="module")
def alone(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict], np.ndarray]:
    """History and answers of one process."""
    net, split = small(), by_actor(corpus)
    history = fit(net, corpus, split, replace(BRIEF, lr=0.01), tmp_path_factory.mktemp("one"))
    return history, evaluate(net, corpus, split.val[::-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="compares two CPU processes with one")
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate launch", "notebook_launcher"])
def test_two_processes_train_as_one(videos: Path, corpus: Corpus, tmp_path: Path, alone: tuple, launcher: str):
    """Two CPU processes, however started: the loss curve, accuracies and answers of one at the same global batch."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    (tmp_path / "job.py").write_text(JOB)
    words = ["job.py", str(Path(__file__).parent), str(videos), str(corpus.cache), str(tmp_path / "two")]
    command = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words],
        "accelerate launch": ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
        + [f"--main_process_port={port}", "--mixed_precision=no", "--dynamo_backend=no", *words],
        "notebook_launcher": [*words, port],
    }[launcher]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        **{"cwd": tmp_path, "env": one_thread, "capture_output": True, "text": True, "check": False, "timeout": 240},
    )
    assert done.returncode == 0, done.stderr
    history, answers = alone
    for process in range(2):
        got, theirs = json.loads((tmp_path / f"two-{process}.json").read_text())
        assert [row["loss"] for row in got] == pytest.approx([row["loss"] for row in history], rel=1e-5)
        for name in ("accuracy", "watched", "epoch"):
            assert [row[name] for row in got] == [row[name] for row in history]
        np.testing.assert_allclose(theirs, answers, atol=1e-5)
    assert len((tmp_path / "two" / "history.jsonl").read_text().splitlines()) == 2


def test_two_runs_cannot_write_one_folder(corpus: Corpus, tmp_path: Path):
    """The second is refused in one sentence, and may begin when the first is done."""
    with held(tmp_path / "lock"), pytest.raises(InUseError, match="another run writes there; wait for it, or choose"):
        fit(small(), corpus, by_actor(corpus), BRIEF, tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    assert len(fit(small(), corpus, by_actor(corpus), BRIEF, tmp_path)) == 2


def test_a_full_disk_loses_nothing(corpus: Corpus, tmp_path: Path, monkeypatch, capsys):
    """Writing fails in the second epoch: one sentence, the checkpoint before stays whole, and the end is the same."""
    split, straight, resumed = by_actor(corpus), small(), small()
    fit(straight, corpus, split, BRIEF, tmp_path / "straight")
    real, calls = training.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        real(tensors, path, metadata)
        if len(calls) == 5:
            Path(path).write_bytes(Path(path).read_bytes()[:1000])  # half of it got there
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training, "save_file", full)
    with pytest.raises(TrainingError, match="cannot be written .*No space left.* make room; the same call then goes on"):
        fit(small(), corpus, split, BRIEF, tmp_path / "run", checkpoint_seconds=0)
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.safetensors", "history.jsonl", "lock"]
    fit(resumed, corpus, split, BRIEF, tmp_path / "run")
    assert "run: goes on from step 4 of 6" in capsys.readouterr().out
    assert difference(straight, resumed) == 0


def test_a_run_out_of_memory_goes_on(corpus: Corpus, tmp_path: Path, monkeypatch, capsys):
    """No room in the fourth step: the remedy is named, the same call goes on from there, and the end is the same."""
    split, straight, resumed = by_actor(corpus), small(), small()
    fit(straight, corpus, split, BRIEF, tmp_path / "straight")
    real, calls = Small.forward, []

    def fails(text: str, at: int):
        def forward(net: Small, clips: torch.Tensor) -> torch.Tensor:
            calls.append(net.training)
            if sum(calls) == at:
                raise torch.OutOfMemoryError(text)
            return real(net, clips)

        return forward

    monkeypatch.setattr(Small, "forward", fails("CUDA out of memory. Tried to allocate 20.00 GiB.", 4))
    words = "4 clips at a time do not fit into the memory: make room and call again, .*; or start anew with accumulate 2"
    with pytest.raises(TrainingError, match=words):
        fit(small(), corpus, split, BRIEF, tmp_path / "run", checkpoint_seconds=0)
    monkeypatch.undo()
    fit(resumed, corpus, split, BRIEF, tmp_path / "run")
    assert "run: goes on from step 3 of 6" in capsys.readouterr().out
    assert difference(straight, resumed) == 0
    calls.clear()
    monkeypatch.setattr(Small, "forward", fails("something else", 1))
    with pytest.raises(RuntimeError, match="something else"):
        fit(small(), corpus, split, BRIEF, tmp_path / "other")


def test_the_next_batch_is_loaded_while_one_is_used():
    """In order, one ahead, and what goes wrong in loading reaches the loop."""
    loaded = []
    batches = ahead(lambda item: loaded.append(item) or item * item, range(4))
    assert next(batches) == 0
    deadline = time.monotonic() + 10
    while loaded != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert loaded == [0, 1] and list(batches) == [1, 4, 9] and loaded == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0]))


def test_a_step_and_the_next_load_overlap(corpus: Corpus, tmp_path: Path, monkeypatch):
    """Each waits here for the other to begin, so that the loop would stand still if it did one after the other."""
    loading, stepping = ([Event() for _ in range(4)] for _ in range(2))
    loads, steps, load, real = count(), count(), training.loader, training.train_step

    def loader(*words):
        def waits(pairs, **named):
            number = next(loads)
            if number < 4:  # later ones are for the look at validation pairs
                loading[number].set()
                assert number == 0 or stepping[number - 1].wait(10), f"batch {number} is wanted before step {number - 1} begins"
            return load(*words)(pairs, **named)

        return waits

    def step(*words):
        number = next(steps)
        stepping[number].set()
        assert number == 3 or loading[number + 1].wait(10), f"nothing is loaded during step {number}"
        return real(*words)

    monkeypatch.setattr(training, "loader", loader)
    monkeypatch.setattr(training, "train_step", step)
    fit(small(), corpus, by_actor(corpus), TrainConfig(epochs=1, epoch_steps=4, batch=4), tmp_path)
    assert all(event.is_set() for event in (*loading, *stepping))


def test_the_share_of_waiting_for_data_is_measured(corpus: Corpus, tmp_path: Path, monkeypatch):
    """By a clock that is played here: 3 s of waiting beside 5 s of computing are 3/8 of an epoch, in the next 1 and 7 s 1/8."""
    now, real, load, steps = [0.0], training.train_step, training.batches, count()

    def batches(*words):
        for number, parts in enumerate(load(*words)):
            now[0] += 3 if number < 4 else 1
            yield parts

    def step(*words):
        now[0] += 5 if next(steps) < 4 else 7
        return real(*words)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(training, "batches", batches)
    monkeypatch.setattr(training, "train_step", step)
    history = fit(small(), corpus, by_actor(corpus), TrainConfig(epochs=2, epoch_steps=4, batch=4), tmp_path)
    assert [row["data_share"] for row in history] == [3 / 8, 1 / 8]
    assert [row["clips_per_second"] for row in history] == [0.5, 0.5] and history[1]["seconds"] == 64


def test_committed_runs_hardly_waited_for_data():
    """Plain and deformable, every epoch of every run, the first included: under 5 % (the most is 2.6 %)."""
    runs = [path for model in ("plain", "deformable") for path in CLAIMS.glob(f"classroom-{model}-*.json")]
    shares = [row["data_share"] for path in runs for row in json.loads(path.read_text(encoding="utf-8"))["history"]]
    assert len(runs) >= 30 and len(shares) == 8 * len(runs) and 0 < min(shares) and max(shares) < 0.05


def test_a_checkpoint_is_no_older_than_twenty_seconds(corpus: Corpus, tmp_path: Path, monkeypatch):
    """By a clock that is played here: written within an epoch after the step in which 20 s have passed, and not before."""
    now, saved, real, save = [0.0], [], training.train_step, training.save_checkpoint
    lasts = iter((1, 18.75, 0.25, 10, 9.75, 0.25, 5, 5))

    def step(*words):
        now[0] += next(lasts)
        return real(*words)

    def spy(path, net, optimizer, accelerator, progress):
        saved.append((now[0], progress["step"]))
        save(path, net, optimizer, accelerator, progress)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(training, "train_step", step)
    monkeypatch.setattr(training, "save_checkpoint", spy)
    fit(small(), corpus, by_actor(corpus), TrainConfig(epochs=1, epoch_steps=8, batch=4), tmp_path)
    assert saved == [(20, 3), (40, 6), (50, 8)]  # the last one ends the epoch


def test_the_network_is_compiled_on_request(corpus: Corpus, tmp_path: Path, monkeypatch):
    """Traced by torch.compile, then run as it is, which needs no C++ compiler: the weights of an uncompiled run, bit for bit.

    A compiled run that was stopped goes on to the same bits too. Compiled by inductor the numbers are other ones in the
    last digits; `make slow` compares those.
    """
    traced, split, config = [], by_actor(corpus), replace(BRIEF, compile=True)

    def eager(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        traced.append(graph)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=eager))
    plain, compiled, resumed = fresh(), fresh(), fresh()
    fit(plain, corpus, split, BRIEF, tmp_path / "no")
    assert not traced
    history = fit(compiled, corpus, split, config, tmp_path / "yes")
    assert traced and difference(plain, compiled) == 0 < difference(fresh(), compiled)
    real, steps = training.train_step, []

    def stops(*words):
        steps.append(words)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(training, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(fresh(), corpus, split, config, tmp_path / "stopped", checkpoint_seconds=0)
    monkeypatch.setattr(training, "train_step", real)
    again = fit(resumed, corpus, split, config, tmp_path / "stopped")
    assert difference(compiled, resumed) == 0 and [row["loss"] for row in again] == [row["loss"] for row in history]


def test_a_cpu_has_no_largest_batch():
    """find_batch says so."""
    with pytest.raises(TrainingError, match="asks a GPU"):
        find_batch(fresh())


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize(("room", "found"), [(1, 1), (5, 4), (8, 8), (100, 16)])
def test_the_largest_batch_is_found_by_doubling(monkeypatch, room: int, found: int):
    """A card that is played here has room for so many clips: the largest power of two, no more than asked for."""

    class Card(Small):
        def parameters(self, recurse: bool = True):
            return iter([SimpleNamespace(device=torch.device("cuda"))])

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            if len(clips) > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return super().forward(clips)

    real, net = torch.rand, Card()
    net.config = SimpleNamespace(in_channels=1, length=8, size=16)
    monkeypatch.setattr(torch, "rand", lambda *shape, device: real(*shape))
    assert find_batch(net, largest=16) == found
    room = 0
    with pytest.raises(TrainingError, match="Not even one clip fits"):
        find_batch(net)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_says_how_many_clips_fit():
    """A power of two, and the network's own statistics stay as they were."""
    net = fresh().cuda()
    assert find_batch(net, largest=8) == 8 and difference(net, fresh().cuda()) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_loop(corpus: Corpus, tmp_path: Path):
    """The same call on a GPU: finite, on the card, resumable."""
    net = fresh()
    history = fit(net, corpus, by_actor(corpus), BRIEF, tmp_path)
    assert next(net.parameters()).is_cuda and len(history) == 2 and math.isfinite(history[-1]["loss"])
    assert fit(fresh(), corpus, by_actor(corpus), BRIEF, tmp_path) == history


def test_what_does_not_fit_is_judged_in_halves(corpus: Corpus):
    """A memory for two clips gives the answers of a memory for eight; not one clip at a time is an error as it came."""
    net, largest, sizes = fresh(), 2, []

    def tight(clips: torch.Tensor) -> torch.Tensor:
        sizes.append(len(clips))
        if len(clips) > largest:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return clips

    pairs = by_copy(corpus).val[:7]
    expected = evaluate(net, corpus, pairs)
    np.testing.assert_allclose(evaluate(net, corpus, pairs, change=tight), expected, rtol=1e-5, atol=1e-7)
    assert sizes == [7, 4, 2, 2, 3, 2, 1]
    largest = 0
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(net, corpus, pairs, change=tight)


@pytest.mark.parametrize("name", ["epochs", "epoch_steps", "batch", "accumulate"])
def test_no_step_at_all_is_refused(name: str):
    with pytest.raises(TrainingError, match=f"{name} is 2.5: take a whole number"):
        TrainConfig(**{"epochs": 1, name: 2.5})
    with pytest.raises(TrainingError, match=f"{name} is 0: take a whole number, 1 or more"):
        TrainConfig(**{"epochs": 1, name: 0})


@pytest.mark.parametrize("wrong", [{"optimizer": "sgd"}, {"lr": 0.0}, {"lr": -1.0}, {"lr": math.nan}, {"lr": math.inf}], ids=str)
def test_no_training_at_all_is_refused(wrong: dict):
    with pytest.raises(TrainingError, match="take 'adamw' or 'rmsprop' or 'rmsprop_keras3', and a positive lr"):
        TrainConfig(epochs=1, **wrong)


def test_watching_takes_as_many_clips_as_training(corpus: Corpus, tmp_path: Path, monkeypatch):
    """What fits in training fits at the end of an epoch; with parts that cannot be halved the advice is another."""
    sizes, real = [], Small.forward
    monkeypatch.setattr(Small, "forward", lambda net, clips: sizes.append((net.training, len(clips))) or real(net, clips))
    fit(small(), corpus, by_actor(corpus), replace(BRIEF, accumulate=2), tmp_path / "run")
    assert {size for training, size in sizes if training} == {BRIEF.batch // 2}
    assert max(size for training, size in sizes if not training) == BRIEF.batch // 2

    def full(net: Small, clips: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Small, "forward", full)
    with pytest.raises(TrainingError, match="or start anew with fewer or smaller frames"):
        fit(small(), corpus, by_actor(corpus), replace(BRIEF, accumulate=BRIEF.batch), tmp_path / "other")


def test_training_and_judging_share_one_copy_of_the_corpus(corpus: Corpus, monkeypatch):
    """On one card accelerate says "cuda" and a parameter "cuda:0": two keys would put the corpus there twice."""
    asked = []

    def loader(corpus: Corpus, device: torch.device):
        asked.append(device)
        return lambda pairs, length, seed: (torch.zeros(len(pairs), 1, length, 32, 32), torch.zeros(len(pairs), dtype=torch.long))

    monkeypatch.setattr(training, "loader", loader)
    net, split = fresh(), by_copy(corpus)
    process = SimpleNamespace(device=torch.device("cuda"), process_index=0, num_processes=1)
    list(training.batches(net, corpus, split, TrainConfig(epochs=1, epoch_steps=1, batch=2), process, range(1)))
    evaluate(net, corpus, split.val[:2])
    assert asked == [torch.device("cpu")] * 2

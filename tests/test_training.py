"""The loop learns, stops anywhere, goes on to the same bits, and refuses what is not its own."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from deformlib import training
from deformlib.corpus import ORIGINAL, Corpus, by_actor, by_copy
from deformlib.network import NetworkConfig, VideoNet, paper_steps
from deformlib.training import RELEASED_TRAINING, TrainConfig, TrainingError, evaluate, fit, learning_rate, make_optimizer, step_pairs

TINY = NetworkConfig(
    classes=3, length=8, size=32, conv3d=(8, 8, 16), hidden=(8, 8, 8), conv2d=(16, 16, 16), deform_steps=paper_steps(4)
)
BRIEF = TrainConfig(epochs=2, epoch_steps=3, batch=4)


def fresh() -> VideoNet:
    """The same untrained network every time."""
    torch.manual_seed(3)
    return VideoNet(TINY)


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


def test_offset_branches_learn_at_a_tenth():
    """The optimiser keeps two groups, and the small one is the offset branches."""
    net = fresh()
    fast, slow = make_optimizer(net, TrainConfig(epochs=1, lr=1e-2)).param_groups
    assert (fast["lr"], slow["lr"]) == (1e-2, pytest.approx(1e-3))
    branches = sum(p.numel() for name, p in net.named_parameters() if "offset_branch" in name)
    assert sum(p.numel() for p in slow["params"]) == branches > 0
    with pytest.raises(TrainingError, match="adamw or rmsprop"):
        make_optimizer(net, replace(BRIEF, optimizer="adam"))


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


def test_a_killed_process_loses_nothing_whole(videos: Path, tmp_path: Path):
    """kill -9 at an arbitrary moment: what lies there is a whole checkpoint or none, and the next call finishes."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_training import *\n"
        "corpus = Corpus(sys.argv[2], size=32, cache=sys.argv[3] + '/cache')\n"
        "net = fresh()\n"
        "fit(net, corpus, by_actor(corpus), TrainConfig(epochs=3, epoch_steps=4, batch=4), sys.argv[3] + '/run', checkpoint_seconds=0)\n"
        "print(sum(p.double().sum().item() for p in net.parameters()))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(videos), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()
    again = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert again.returncode == 0, again.stderr
    (tmp_path / "run").rename(tmp_path / "interrupted")
    straight = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    said, end = again.stdout.splitlines()
    assert "goes on from step" in said and "of 12" in said
    assert [end] == straight.stdout.splitlines()


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
    """Training does not go on with broken numbers, and says at which step it broke."""
    net = fresh()
    with torch.no_grad():
        net.linear.bias[0] = torch.inf
    with pytest.raises(TrainingError, match="step 0; start anew with a lower lr"):
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_the_same_loop(corpus: Corpus, tmp_path: Path):
    """The same call on a GPU: finite, on the card, resumable."""
    net = fresh()
    history = fit(net, corpus, by_actor(corpus), BRIEF, tmp_path)
    assert next(net.parameters()).is_cuda and len(history) == 2 and math.isfinite(history[-1]["loss"])
    assert fit(fresh(), corpus, by_actor(corpus), BRIEF, tmp_path) == history

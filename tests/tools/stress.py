"""Kill a run with kill -9 at random moments, and compare its weights with an undisturbed run's: `make stress`."""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors import safe_open
from tqdm import tqdm

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.make.films import make_corpus
from deformlib.network import NetworkConfig, VideoNet, paper_steps
from deformlib.splits import by_actor
from deformlib.training import TrainConfig, fit

TINY = NetworkConfig(
    classes=3, length=8, size=32, conv3d=(4, 4, 8), hidden=(4, 4, 4), conv2d=(8, 8, 8), deform_steps=paper_steps(4)
)


def train(videos: Path, cache: Path, folder: Path, epochs: int) -> None:
    """A run of 20 steps an epoch, saved after every step; what is printed goes to a file beside its folder."""
    sys.stdout = open(folder.with_suffix(".txt"), "a", buffering=1)  # noqa: SIM115 (open until the process ends)
    tqdm.set_lock(threading.RLock())  # its own lock, between processes, would be left over after each kill
    torch.set_num_threads(1)
    corpus = Corpus(videos, size=32, cache=cache)
    torch.manual_seed(3)
    config = TrainConfig(epochs=epochs, epoch_steps=20, batch=4)
    fit(VideoNet(TINY), corpus, by_actor(corpus), config, folder, checkpoint_seconds=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Network, statistics and optimiser in a finished run's checkpoint."""
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        names = [name for name in file.keys() if not name.startswith("generator")]  # noqa: SIM118 (it is no dict)
        return {name: file.get_tensor(name) for name in names}


def written(folder: Path) -> int:
    """When the checkpoint there was written, 0 if there is none."""
    path = folder / "checkpoint.safetensors"
    return path.stat().st_mtime_ns if path.exists() else 0


def survive(kills: int, videos: Path, place: Path, seed: int = 0) -> list[int]:
    """Train once undisturbed and once with so many kills, compare bits; the steps from which the killed run went on."""
    chance, epochs = random.Random(seed), max(1, kills // 4)
    os.environ["TQDM_DISABLE"] = "1"
    context = multiprocessing.get_context("forkserver")  # imports torch once
    context.set_forkserver_preload(["deformlib.training", "deformlib.network", "deformlib.make.films"])
    names = ["straight"] + ["killed"] * (kills + 1)
    for number, name in enumerate(names):
        process = context.Process(target=train, args=(videos, place / "cache", place / name, epochs))
        before = written(place / name)
        process.start()
        if 0 < number <= kills:
            while number % 5 and process.is_alive() and written(place / name) == before:
                time.sleep(0.01)  # four of five are killed after their first step, one at any moment from its start
            process.join(chance.uniform(0.0, 0.3))
        else:
            process.join()
        if process.is_alive():
            process.kill()
            process.join()
        elif process.exitcode:
            raise RuntimeError(f"life {number} of the run ended by itself with code {process.exitcode}")
    first, second = weights(place / "straight"), weights(place / "killed")
    if first.keys() != second.keys():
        raise RuntimeError(f"other names of weights after the kills: {first.keys() ^ second.keys()}")
    if other := [name for name in first if not torch.equal(first[name], second[name])]:
        raise RuntimeError(f"other weights after the kills: {', '.join(other)}")
    said = (place / "killed.txt").read_text().splitlines()
    return [int(line.split()[5]) for line in said if "goes on from step" in line]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        plan = [clip for clip in plan_corpus() if clip.name[3:6] in ("ang", "joy", "sad")]
        videos = make_corpus(Path(place) / "videos", plan)
        print(f"{options.kills} kills at random moments, seed {options.seed}")
        steps = survive(options.kills, videos, Path(place), options.seed)
        print(f"went on from steps {steps}; the weights equal those of the undisturbed run, bit for bit")

"""Batches: the right frames of the right clips, the same from files and from a device, one loaded ahead."""

import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from factories import ToyCorpus

from deformlib.augment import AUGMENTATIONS, Augmentation
from deformlib.dataset import DeviceCorpus, frame_numbers, load_batch, loader, prefetch
from deformlib.splits import ORIGINAL
from deformlib.video import choose_frames, sample_indices

UNTURNED = AUGMENTATIONS.index(Augmentation("rotate", 0))  # a copy that changes nothing but the jitter


class Films:
    """What load_batch needs of a corpus, without files: frame t of clip v is filled with 10 v + t."""

    color, size, labels = False, 16, np.array([2, 0, 1])
    videos = tuple(SimpleNamespace(n_frames=n) for n in (20, 50, 100))
    steps: dict[int, np.ndarray] = {}  # clip: how long each frame is shown, where not 40 ms

    def frames(self, clip: int) -> np.ndarray:
        levels = np.arange(self.videos[clip].n_frames, dtype=np.uint8) + 10 * clip
        return np.broadcast_to(levels[:, None, None, None], (len(levels), 3 if self.color else 1, 16, 16))

    def times(self, clip: int) -> np.ndarray:
        return np.append(0, np.cumsum(self.steps.get(clip, np.full(self.videos[clip].n_frames, 0.04))))


def test_load_batch_chooses_the_right_frames():
    pairs = np.array([[2, ORIGINAL], [0, ORIGINAL], [2, UNTURNED]])
    clips, labels = load_batch(Films(), pairs, length=32, seed=5)
    assert clips.shape == (3, 1, 32, 16, 16) and clips.dtype == torch.float32 and labels.tolist() == [1, 2, 1]
    assert labels.dtype == torch.int64
    levels = (clips[:, 0, :, 8, 8] * 255).round().int().numpy()
    assert np.array_equal(levels[0], 20 + sample_indices(100)) and np.array_equal(levels[1], sample_indices(20))
    jitter = np.random.default_rng([5, 2, UNTURNED]).random(32)
    assert np.array_equal(levels[2], 20 + sample_indices(100, 32, jitter))
    assert not np.array_equal(levels[2], levels[0])


def test_uneven_films_are_sampled_by_time_from_files_and_from_a_device():
    """Fifty frames in two seconds, of which the first alone takes one: half of the clip shows it."""
    films, even = Films(), Films()
    films.steps = {1: np.array([1.0] + [1 / 49] * 49)}
    stored = DeviceCorpus(films, "cpu")
    pairs = np.array([[1, ORIGINAL], [1, UNTURNED], [2, ORIGINAL]])
    for load in (partial(load_batch, films), partial(load_batch, films, stored=stored)):
        clips, _ = load(pairs, length=32, seed=5)
        levels = (clips[:, 0, :, 8, 8] * 255).round().int().numpy() - 10 * pairs[:, :1]
        assert (levels[0] == 0).sum() == 16 and (np.diff(levels[0][16:]) > 0).all() and levels[0][-1] >= 45
        jitter = np.random.default_rng([5, 1, UNTURNED]).random(32)
        assert np.array_equal(levels[1], choose_frames(films.times(1), 32, jitter)) and (levels[1] != levels[0]).any()
        assert np.array_equal(levels[2], sample_indices(100))
    assert torch.equal(load_batch(even, pairs)[0][2], clips[2])


def test_a_copy_depends_on_seed_clip_and_copy_only():
    rng = np.random.default_rng(0)
    pairs = np.stack([rng.integers(0, 3, 40), rng.integers(ORIGINAL, 124, 40)], axis=1)
    clips, labels = load_batch(Films(), pairs, length=8)
    for order in (np.arange(40)[::-1], rng.permutation(40)[:7], np.array([13])):
        some, their_labels = load_batch(Films(), pairs[order], length=8)
        assert torch.equal(some, clips[order.copy()]) and torch.equal(their_labels, labels[order.copy()])
    others = load_batch(Films(), [[2, 34], [2, 34], [2, 34]], length=8)[0]
    assert torch.equal(others[0], others[1])
    assert not torch.equal(others, load_batch(Films(), [[2, 34]] * 3, length=8, seed=1)[0])


def test_the_rule_reaches_the_sampling():
    pair = [[1, UNTURNED]]  # 50 frames: one step is one frame
    zhang, released = (load_batch(Films(), pair, rule=rule)[0] for rule in ("zhang", "released"))
    assert torch.equal(zhang, load_batch(Films(), [[1, ORIGINAL]])[0]) and not torch.equal(zhang, released)


@pytest.mark.parametrize("rule", ["zhang", "released"])
def test_the_corpus_on_a_device_gives_the_same_clips(rule: str):
    """Every copy of a clip, the originals of all clips and a mixed batch, equal to those from the files."""
    corpus = ToyCorpus(size=32)
    stored, rng = DeviceCorpus(corpus, "cpu"), np.random.default_rng(1)
    mixed = np.stack([rng.integers(0, len(corpus), 60), rng.integers(ORIGINAL, 124, 60)], axis=1)
    originals = np.stack([np.arange(len(corpus)), np.full(len(corpus), ORIGINAL)], axis=1)
    for pairs in (mixed, originals, np.array([[7, copy] for copy in range(124)])):
        clips, labels = load_batch(corpus, pairs, length=8, seed=3, rule=rule, stored=stored)
        wanted, wanted_labels = load_batch(corpus, pairs, length=8, seed=3, rule=rule)
        assert torch.equal(clips, wanted) and torch.equal(labels, wanted_labels) and labels.dtype == torch.int64
    assert stored.frames.dtype == torch.uint8 and len(stored.frames) == sum(video.n_frames for video in corpus.videos)


def test_on_a_cpu_frames_stay_in_their_files():
    """The loader reads what a batch needs, so a corpus may be larger than memory; and it is made once."""
    reads: list[int] = []
    corpus = ToyCorpus(reads.append)
    load = loader(corpus, torch.device("cpu"))
    assert not reads and loader(corpus, torch.device("cpu")) is load
    pairs = np.array([[0, ORIGINAL], [3, 9]])
    clips, _ = load(pairs, length=8, seed=2)
    assert reads == [0, 3] and torch.equal(clips, load_batch(corpus, pairs, 8, 2)[0])


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("spare", [0, 1])
def test_a_corpus_lies_in_half_of_the_free_memory_or_in_its_files(color: bool, spare: int):
    """Twice the bytes of the frames must be free, and one more."""
    films, pairs = Films(), np.array([[0, ORIGINAL], [2, 9]])
    films.color = color
    needed = 2 * (20 + 50 + 100) * 16 * 16 * (3 if color else 1)
    load = loader(films, torch.device("cpu"), free=needed + spare)
    assert (load.keywords["stored"] is not None) == bool(spare)
    clips, _ = load(pairs, length=8, seed=2)
    assert clips.shape[1] == (3 if color else 1) and torch.equal(clips[:, :1], load_batch(Films(), pairs, 8, 2)[0])


def test_a_gpu_is_asked_how_much_is_free(monkeypatch):
    """What the driver says decides: with ten bytes left, frames stay in their files."""
    asked, device = [], torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (10, 10**15))
    load = loader(Films(), device)
    assert asked == [device] and load.keywords == {"device": device, "stored": None}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_corpus_lies_in_its_memory():
    corpus, device = ToyCorpus(), torch.device("cuda", torch.cuda.current_device())
    load = loader(corpus, device)
    assert load.keywords["stored"].frames.is_cuda
    pairs = np.array([[0, ORIGINAL], [3, 9], [5, 70], [8, 110]])
    assert torch.allclose(load(pairs, length=8)[0].cpu(), load_batch(corpus, pairs, 8)[0], atol=1e-4)


def test_pairs_may_come_in_any_order_of_memory():
    """A reversed array and a list give the same batch as a plain one."""
    pairs = np.array([[2, ORIGINAL], [0, 7]])
    wanted = load_batch(Films(), pairs, length=8)
    for same in (pairs[::-1].copy()[::-1], pairs.tolist(), np.asfortranarray(pairs)):
        assert torch.equal(load_batch(Films(), same, length=8)[0], wanted[0])
    assert torch.equal(load_batch(Films(), pairs[1:][::-1], length=8)[0], wanted[0][1:])
    assert frame_numbers(Films(), pairs, 8, 0).shape == (2, 8)


def test_the_next_batch_is_loaded_while_one_is_used():
    """In order, one ahead, and what goes wrong in loading reaches the loop; no work is no batch."""
    loaded: list[int] = []
    batches = prefetch(lambda item: loaded.append(item) or item * item, range(4))
    assert next(batches) == 0
    deadline = time.monotonic() + 10
    while loaded != [0, 1] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert loaded == [0, 1] and list(batches) == [1, 4, 9] and loaded == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        list(prefetch(lambda item: 1 // item, [1, 0]))
    assert list(prefetch(abs, [])) == []

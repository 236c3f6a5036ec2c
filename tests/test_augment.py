"""Augmentation: directions and amounts on pictures whose answer is known, and copies that depend on nothing else."""

from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from deformlib.augment import MOVES, PLAN, Copy, DeviceCorpus, augment, blur, load_batch, loader, move, warp
from deformlib.corpus import ORIGINAL, Corpus
from deformlib.frames import choose_frames, sample_indices


def number(kind: str, amount: float | tuple[int, int]) -> int:
    return PLAN.index(Copy(kind, amount))


def picture(height: int = 112, width: int = 112, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, 1, height, width, generator=torch.Generator().manual_seed(0))


def smooth(size: int = 112) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).random((size, size)), (0, 0), 2).astype(np.float32)


def test_the_plan_is_the_released_one():
    kinds = [copy.kind for copy in PLAN]
    assert kinds == ["shift"] * 4 + ["rotate"] * 60 + ["blur"] * 10 + ["brightness"] * 50 and len(PLAN) == 124
    assert MOVES == PLAN[:64] and len(set(PLAN)) == 124
    assert {copy.amount for copy in PLAN[:4]} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    assert [copy.amount for copy in PLAN[4:64]] == list(range(-30, 30))
    assert [copy.amount for copy in PLAN[64:74]] == list(range(1, 11))
    assert [copy.amount for copy in PLAN[74:]] == list(range(-50, 50, 2))


def test_the_released_order_of_the_shifts_is_another():
    """(down, right) as the released code writes them; records number ours, so ours stay."""
    released = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    assert [number("shift", corner) for corner in released] == [2, 1, 3, 0]
    assert [copy.amount for copy in PLAN[:4]] == [(-1, -1), (-1, 1), (1, 1), (1, -1)]


@pytest.mark.parametrize("corner", [(-1, -1), (-1, 1), (1, 1), (1, -1)])
def test_a_shift_is_25_of_112_pixels_toward_its_corner(corner):
    frame = picture()
    got = augment(frame, [number("shift", corner)])
    rows, columns = (slice(25, None) if way == 1 else slice(None, -25) for way in corner)
    from_rows, from_columns = (slice(None, -25) if way == 1 else slice(25, None) for way in corner)
    expected = torch.zeros_like(frame)
    expected[..., rows, columns] = frame[..., from_rows, from_columns]
    assert torch.allclose(got, expected, atol=1e-5)


def test_a_shift_is_the_same_share_of_a_small_and_oblong_frame():
    frame = torch.zeros(1, 1, 1, 56, 224)
    frame[..., 20, 100] = 1
    got = augment(frame, [number("shift", (1, -1))])[0, 0, 0]  # 12.5 down, 50 to the left
    assert torch.allclose(got[32:34, 50], torch.tensor([0.5, 0.5]), atol=1e-4) and got.sum() == pytest.approx(
        1, abs=1e-4
    )


def test_positive_rotation_is_counter_clockwise():
    frame = torch.zeros(1, 1, 1, 113, 113)
    frame[..., 55:58, 95:98] = 1  # 40 pixels right of the centre (56, 56)
    got = augment(frame, [number("rotate", 29)])[0, 0, 0]
    row, column = np.unravel_index(got.argmax().item(), got.shape)
    angle = np.radians(29)
    assert abs(row - (56 - 40 * np.sin(angle))) < 1.1 and abs(column - (56 + 40 * np.cos(angle))) < 1.1


@pytest.mark.parametrize("degrees", [-30, -7, 5, 29])
def test_rotation_equals_opencv_inside(degrees):
    image = smooth()
    matrix = cv2.getRotationMatrix2D((55.5, 55.5), degrees, 1)
    expected = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_LINEAR)
    got = augment(torch.from_numpy(image)[None, None, None], [number("rotate", degrees)])[0, 0, 0].numpy()
    inside = np.hypot(*np.mgrid[-55.5:56, -55.5:56]) < 54
    assert np.abs(got - expected)[inside].max() < 0.005  # OpenCV rounds sources to 1/32 pixel
    assert np.abs(got - image)[inside].max() > 0.02 and got[0, 0] == 0  # something moved, black came in


def test_rotation_of_an_oblong_frame_does_not_shear():
    image = cv2.GaussianBlur(np.random.default_rng(0).random((60, 100)), (0, 0), 2).astype(np.float32)
    matrix = cv2.getRotationMatrix2D((49.5, 29.5), 20, 1)
    expected = cv2.warpAffine(image, matrix, (100, 60), flags=cv2.INTER_LINEAR)
    got = augment(torch.from_numpy(image)[None, None, None], [number("rotate", 20)])[0, 0, 0].numpy()
    inside = np.hypot(*np.mgrid[-29.5:30, -49.5:50]) < 28
    assert np.abs(got - expected)[inside].max() < 0.005


@pytest.mark.parametrize("sigma", range(1, 11))
def test_blur_equals_opencv(sigma):
    image = picture(40, 50)
    got = augment(image, [number("blur", sigma)])[0, 0, 0].numpy()
    assert np.abs(got - cv2.GaussianBlur(image[0, 0, 0].numpy(), (5, 5), sigma)).max() < 1e-5


@pytest.mark.parametrize("percent", [-50, -2, 0, 2, 48])
def test_brightness_multiplies_and_saturates(percent):
    image = np.arange(256, dtype=np.uint8).reshape(1, 1, 1, 16, 16)
    got = augment(torch.from_numpy(image), [number("brightness", percent)]).numpy()
    assert np.allclose(got, np.minimum(image / 255 * (1 + percent / 100), 1), atol=1e-6)
    released = (image * (1 + percent / 100)).astype(np.int64)  # cut to whole levels, before they wrap round
    lost = got * 255 - np.minimum(released, 255)
    assert lost.min() > -1e-3 and lost.max() < 1 and (lost.max() > 0.4 or percent == 0)


def test_bytes_and_floats_give_the_same_and_the_input_stays():
    clips = torch.randint(0, 256, (4, 3, 2, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    floats = clips / 255
    kept = floats.clone()
    copies = [2, 10, 70, 120]
    got = augment(floats, copies)
    assert got.dtype == torch.float32 and got.shape == clips.shape and 0 <= got.min() and got.max() <= 1
    assert torch.equal(got, augment(clips, torch.tensor(copies))) and torch.equal(floats, kept)
    assert torch.equal(augment(floats.transpose(-1, -2), [ORIGINAL] * 4), floats.transpose(-1, -2))


def test_frames_and_channels_of_a_clip_change_alike():
    clips = torch.rand(4, 3, 5, 24, 24, generator=torch.Generator().manual_seed(2))
    copies = [1, 60, 65, 80]
    got = augment(clips, copies)
    for channel in range(3):
        for frame in range(5):
            one = clips[:, channel : channel + 1, frame : frame + 1]
            assert torch.equal(augment(one, copies), got[:, channel : channel + 1, frame : frame + 1])


def test_every_copy_alone_equals_the_copy_in_a_batch():
    clip = torch.rand(1, 1, 2, 48, 48, generator=torch.Generator().manual_seed(3))
    copies = [ORIGINAL, *range(124)]
    together = augment(clip.expand(125, -1, -1, -1, -1), copies)
    backwards = augment(clip.expand(125, -1, -1, -1, -1), copies[::-1]).flip(0)
    assert torch.equal(together, backwards)
    for row, copy in enumerate(copies):
        assert torch.equal(augment(clip, [copy])[0], together[row])
    same = [copy for row, copy in enumerate(copies) if torch.equal(together[row], clip[0])]
    assert same == [ORIGINAL, number("rotate", 0), number("brightness", 0)]


def test_copies_that_change_nothing_are_not_worked_on(monkeypatch):
    for name in ("move", "blur", "brighten"):
        monkeypatch.setattr(f"deformlib.augment.{name}", None)
    augment(picture(batch=3), [ORIGINAL, number("rotate", 0), number("brightness", 0)])


@pytest.mark.parametrize("copies", [[0], [0, 124], [-2, 0], [0, 1, 2], [0.5, 1]])
def test_wrong_copies_are_refused(copies):
    with pytest.raises(ValueError, match="from -1 to 123 for each of 2 clips"):
        augment(picture(batch=2), copies)


def test_gradients_pass():
    clips = picture(24, 24, 3).double().float().requires_grad_()
    augment(clips, [1, 20, 66]).sum().backward()
    assert clips.grad.abs().sum() > 0


class Films:
    """What load_batch needs of a corpus, without files: frame t of clip v is filled with 10 v + t."""

    color, size, labels = False, 16, np.array([2, 0, 1])
    videos = tuple(SimpleNamespace(n_frames=n) for n in (20, 50, 100))
    steps = {}  # clip: how long each frame is shown, where not 40 ms

    def frames(self, clip: int) -> np.ndarray:
        levels = np.arange(self.videos[clip].n_frames, dtype=np.uint8) + 10 * clip
        return np.broadcast_to(levels[:, None, None, None], (len(levels), 1, 16, 16))

    def times(self, clip: int) -> np.ndarray:
        return np.append(0, np.cumsum(self.steps.get(clip, np.full(self.videos[clip].n_frames, 0.04))))


def test_load_batch_chooses_the_right_frames():
    pairs = np.array([[2, ORIGINAL], [0, ORIGINAL], [2, number("rotate", 0)]])
    clips, labels = load_batch(Films(), pairs, length=32, seed=5)
    assert clips.shape == (3, 1, 32, 16, 16) and clips.dtype == torch.float32 and labels.tolist() == [1, 2, 1]
    assert labels.dtype == torch.int64
    levels = (clips[:, 0, :, 8, 8] * 255).round().int().numpy()
    assert np.array_equal(levels[0], 20 + sample_indices(100)) and np.array_equal(levels[1], sample_indices(20))
    jitter = np.random.default_rng([5, 2, number("rotate", 0)]).random(32)
    assert np.array_equal(levels[2], 20 + sample_indices(100, 32, jitter))
    assert not np.array_equal(levels[2], levels[0])


def test_uneven_films_are_sampled_by_time_from_files_and_from_a_device():
    """Fifty frames in two seconds, of which the first alone takes one: half of the clip shows it, with and without jitter."""
    films, even = Films(), Films()
    films.steps = {1: np.array([1.0] + [1 / 49] * 49)}
    pairs = np.array([[1, ORIGINAL], [1, number("rotate", 0)], [2, ORIGINAL]])
    for load in (partial(load_batch, films), DeviceCorpus(films, "cpu").load):
        clips, _ = load(pairs, length=32, seed=5)
        levels = (clips[:, 0, :, 8, 8] * 255).round().int().numpy() - 10 * pairs[:, :1]
        assert (levels[0] == 0).sum() == 16 and (np.diff(levels[0][16:]) > 0).all() and levels[0][-1] >= 45
        jitter = np.random.default_rng([5, 1, number("rotate", 0)]).random(32)
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
    pair = [[1, number("rotate", 0)]]  # 50 frames: one step is one frame
    zhang, released = (load_batch(Films(), pair, rule=rule)[0] for rule in ("zhang", "released"))
    assert torch.equal(zhang, load_batch(Films(), [[1, ORIGINAL]])[0]) and not torch.equal(zhang, released)


@pytest.mark.parametrize("rule", ["zhang", "released"])
def test_the_corpus_on_a_device_gives_the_same_clips(corpus: Corpus, rule: str):
    """Every copy of a clip, the originals of all clips and a mixed batch, equal to those from the files, bit for bit."""
    resident, rng = DeviceCorpus(corpus, "cpu"), np.random.default_rng(1)
    mixed = np.stack([rng.integers(0, len(corpus), 60), rng.integers(ORIGINAL, 124, 60)], axis=1)
    originals = np.stack([np.arange(len(corpus)), np.full(len(corpus), ORIGINAL)], axis=1)
    for pairs in (mixed, originals, np.array([[7, copy] for copy in range(124)])):
        clips, labels = resident.load(pairs, length=8, seed=3, rule=rule)
        wanted, wanted_labels = load_batch(corpus, pairs, length=8, seed=3, rule=rule)
        assert torch.equal(clips, wanted) and torch.equal(labels, wanted_labels) and labels.dtype == torch.int64
    assert resident.frames.dtype == torch.uint8 and len(resident.frames) == sum(video.n_frames for video in corpus.videos)


def test_on_a_cpu_frames_stay_in_their_files(corpus: Corpus):
    """The loader reads what a batch needs, so a corpus may be larger than memory; and it is made once."""
    load = loader(corpus, torch.device("cpu"))
    assert load.func is load_batch and loader(corpus, torch.device("cpu")) is load
    pairs = np.array([[0, ORIGINAL], [3, 9]])
    assert torch.equal(load(pairs, length=8, seed=2)[0], load_batch(corpus, pairs, 8, 2)[0])


@pytest.mark.parametrize(("color", "spare", "resident"), [(False, 1, True), (False, 0, False), (True, 1, True), (True, 0, False)])
def test_on_a_card_a_corpus_lies_in_half_of_the_free_memory_or_in_its_files(monkeypatch, color: bool, spare: int, resident: bool):
    """Which of the two, for a card that is played here: twice the bytes of the frames must be free, and one more."""
    films, card, asked, pairs = Films(), torch.device("cuda", 0), [], np.array([[0, ORIGINAL], [2, 9]])
    films.color = color
    needed = 2 * (20 + 50 + 100) * 16 * 16 * (3 if color else 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (needed + spare, 10**15) if device == card else None)
    monkeypatch.setattr("deformlib.augment.DeviceCorpus", lambda films, device: asked.append(device) or DeviceCorpus(films, "cpu"))
    load = loader(films, card)
    if resident:
        assert asked == [card] and isinstance(load.__self__, DeviceCorpus)
        clips = load(pairs, length=8, seed=2)[0]
        assert clips.shape[1] == (3 if color else 1) and torch.equal(clips[:, :1], load_batch(Films(), pairs, 8, 2)[0])
    else:
        assert not asked and load.func is load_batch and load.args == (films,) and load.keywords == {"device": card}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_corpus_lies_in_its_memory(corpus: Corpus):
    device = torch.device("cuda", torch.cuda.current_device())
    load = loader(corpus, device)
    assert isinstance(load.__self__, DeviceCorpus) and load.__self__.frames.is_cuda
    pairs = np.array([[0, ORIGINAL], [3, 9], [5, 70], [8, 110]])
    assert torch.allclose(load(pairs, length=8)[0].cpu(), load_batch(corpus, pairs, 8)[0], atol=1e-4)


@pytest.mark.parametrize("degrees", [-30, 10])
def test_a_warp_by_a_copys_amount_is_that_copy(degrees: int):
    clips = picture(40, 56, 2).expand(-1, -1, 3, -1, -1)
    assert torch.equal(warp(clips, rotate=degrees), augment(clips, [number("rotate", degrees)] * 2))
    shifted = augment(clips, [number("shift", (1, -1))] * 2)
    assert torch.equal(warp(clips, shift=(25 / 112, -25 / 112)), shifted)


@pytest.mark.parametrize("words", [{"rotate": 70.0}, {"scale": 0.6}, {"scale": 1.7}, {"shear": 0.4}, {"shift": (0.1, -0.2)}, {"rotate": 25.0, "scale": 0.8, "shear": -0.3, "shift": (0.1, 0.05)}])
def test_a_warp_is_the_affine_map_that_it_says(words: dict):
    """Against OpenCV, on an oblong picture: shear, then scale, then turn about the centre, then shift."""
    height, width = 60, 100
    image = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)), (0, 0), 3).astype(np.float32)
    angle, (down, right) = np.radians(words.get("rotate", 0.0)), words.get("shift", (0.0, 0.0))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # (x right, y down), counter-clockwise
    forward = turn * words.get("scale", 1.0) @ [[1, words.get("shear", 0.0)], [0, 1]]
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix = np.column_stack([forward, centre + [right * width, down * height] - forward @ centre])
    wanted = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
    got = warp(torch.from_numpy(image)[None, None, None], **words)[0, 0, 0].numpy()
    assert np.abs(got - wanted)[6:-6, 6:-6].max() < 0.02 and np.abs(got - image).max() > 0.1
    assert (np.abs(got - wanted) > 0.02).mean() < 0.02  # the rim, where OpenCV rounds to 1/32 pixel


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_copies():
    clips = torch.rand(124, 1, 2, 48, 48, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(augment(clips.cuda(), range(124)).cpu(), augment(clips, range(124)), atol=1e-4)


def test_move_and_blur_take_several_maps():
    maps = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(5))
    assert move(maps, [0, 63]).shape == blur(maps, torch.tensor([1.0, 2.0])).shape == maps.shape

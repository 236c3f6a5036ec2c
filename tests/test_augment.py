"""Augmentation: directions and amounts on pictures whose answer is known, and copies that depend on nothing else."""

import cv2
import numpy as np
import pytest
import torch

from deformlib.augment import AUGMENTATIONS, GEOMETRIC, Augmentation, augment, blur, shift_or_rotate
from deformlib.paper.study import warp
from deformlib.splits import ORIGINAL


def number(kind: str, amount: float | tuple[int, int]) -> int:
    return AUGMENTATIONS.index(Augmentation(kind, amount))


def picture(height: int = 112, width: int = 112, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, 1, height, width, generator=torch.Generator().manual_seed(0))


def smooth(size: int = 112) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).random((size, size)), (0, 0), 2).astype(np.float32)


def test_the_plan_is_the_released_one():
    kinds = [copy.kind for copy in AUGMENTATIONS]
    assert kinds == ["shift"] * 4 + ["rotate"] * 60 + ["blur"] * 10 + ["brightness"] * 50 and len(AUGMENTATIONS) == 124
    assert AUGMENTATIONS[:64] == GEOMETRIC and len(set(AUGMENTATIONS)) == 124
    assert {copy.amount for copy in AUGMENTATIONS[:4]} == {(-1, -1), (-1, 1), (1, -1), (1, 1)}
    assert [copy.amount for copy in AUGMENTATIONS[4:64]] == list(range(-30, 30))
    assert [copy.amount for copy in AUGMENTATIONS[64:74]] == list(range(1, 11))
    assert [copy.amount for copy in AUGMENTATIONS[74:]] == list(range(-50, 50, 2))


def test_the_released_order_of_the_shifts_is_another():
    """(down, right) as the released code writes them; records number ours, so ours stay."""
    released = ((1, 1), (-1, 1), (1, -1), (-1, -1))
    assert [number("shift", corner) for corner in released] == [2, 1, 3, 0]
    assert [copy.amount for copy in AUGMENTATIONS[:4]] == [(-1, -1), (-1, 1), (1, 1), (1, -1)]


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
    assert got.dtype == torch.float32 and got.shape == clips.shape and got.min() >= 0 and got.max() <= 1
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


def test_copies_that_change_nothing_are_not_worked_on():
    """Brightness would saturate at 1, and moving would spread what is no number; neither happens."""
    clips = picture(batch=3)
    clips[..., 3, 3], clips[..., 5, 5] = 1.5, torch.nan
    got = augment(clips, [ORIGINAL, number("rotate", 0), number("brightness", 0)])
    assert torch.equal(got.nan_to_num(7), clips.nan_to_num(7))


@pytest.mark.parametrize("copies", [[0], [0, 124], [-2, 0], [0, 1, 2], [0.5, 1]])
def test_wrong_copies_are_refused(copies):
    with pytest.raises(ValueError, match="-1 to 123 .* 2 clips"):
        augment(picture(batch=2), copies)


def test_gradients_pass():
    clips = picture(24, 24, 3).double().float().requires_grad_()
    augment(clips, [1, 20, 66]).sum().backward()
    assert clips.grad.abs().sum() > 0


@pytest.mark.parametrize("degrees", [-30, 10])
def test_a_warp_by_a_copys_amount_is_that_copy(degrees: int):
    clips = picture(40, 56, 2).expand(-1, -1, 3, -1, -1)
    assert torch.equal(warp(clips, rotate=degrees), augment(clips, [number("rotate", degrees)] * 2))
    shifted = augment(clips, [number("shift", (1, -1))] * 2)
    assert torch.equal(warp(clips, shift=(25 / 112, -25 / 112)), shifted)


@pytest.mark.parametrize(
    "words",
    [
        {"rotate": 70.0},
        {"scale": 0.6},
        {"scale": 1.7},
        {"shear": 0.4},
        {"shift": (0.1, -0.2)},
        {"rotate": 25.0, "scale": 0.8, "shear": -0.3, "shift": (0.1, 0.05)},
    ],
)
def test_a_warp_is_the_affine_map_that_it_says(words: dict):
    """Against OpenCV, on an oblong picture: shear, then scale, then turn about the centre, then shift."""
    height, width = 60, 100
    image = cv2.GaussianBlur(np.random.default_rng(0).random((height, width)), (0, 0), 3).astype(np.float32)
    angle, (down, right) = np.radians(words.get("rotate", 0.0)), words.get("shift", (0.0, 0.0))
    turn = np.array(
        [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    )  # (x right, y down), counter-clockwise
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
    assert shift_or_rotate(maps, [0, 63]).shape == blur(maps, torch.tensor([1.0, 2.0])).shape == maps.shape

"""What several test modules share."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

from deformlib.corpus import Corpus, Video
from deformlib.deform import DeformConv2d, deform_conv2d
from deformlib.media.cache import FrameCache, fingerprint
from deformlib.network import NetworkConfig, VideoNet, paper_steps
from deformlib.offsets import Field
from deformlib.paper.study import RECIPES, WARPS
from deformlib.video import DecodedVideo, decode_video

# Motion capture

PERSON = {  # name: (parent, offset)
    "Hips": (None, (0, 0, 0)),
    "Spine": ("Hips", (0, 25, 0)),
    "Chest": ("Spine", (0, 20, 0)),
    "Neck": ("Chest", (0, 12, 0)),
    "Head": ("Neck", (0, 10, 2)),
    **{
        f"{side}{part}": (parent if parent in ("Hips", "Chest") else f"{side}{parent}", (sign * x, y, z))
        for side, sign in (("Left", 1), ("Right", -1))
        for part, parent, (x, y, z) in (
            ("Collar", "Chest", (4, 8, 0)),
            ("UpperArm", "Collar", (14, 0, 0)),
            ("LowerArm", "UpperArm", (0, -29, 0)),
            ("Hand", "LowerArm", (0, -25, 3)),
            ("Thigh", "Hips", (10, -4, 0)),
            ("Shin", "Thigh", (0, -42, 1)),
            ("Foot", "Shin", (0, -41, 0)),
        )
    },
}


def bvh_text(
    skeleton: dict,
    rotations: dict,
    *,
    rename=str,
    unit: float = 1.0,
    axes=(0, 1, 2),
    signs=(1, 1, 1),
    fps: float = 30.0,
    order: str = "ZXY",
    moves: tuple = (),
) -> str:
    """A BVH text. `rotations`: name -> the angles, in `order`, of each frame; `axes` and `signs` turn the space."""
    n_frames = len(next(iter(rotations.values())))
    columns: list[list[list[float]]] = []

    def write(name: str) -> str:
        parent, offset = skeleton[name]
        turned = [sign * offset[axis] * unit for axis, sign in zip(axes, signs, strict=True)]
        frames = rotations.get(name, [(0, 0, 0)] * n_frames)
        channels = [f"{axis}rotation" for axis in order]
        if name in moves or parent is None:
            channels = ["Xposition", "Yposition", "Zposition", *channels]
            columns.append([[*turned, *angles] for angles in frames])
        else:
            columns.append([list(angles) for angles in frames])
        inner = "".join(write(child) for child, (above, _) in skeleton.items() if above == name)
        inner = inner or "End Site\n{\nOFFSET 0 0 0\n}\n"
        kind = "ROOT" if parent is None else "JOINT"
        text = " ".join(f"{value:.6f}" for value in turned)
        return (
            f"{kind} {rename(name)}\n{{\n\tOFFSET {text}\n\tCHANNELS {len(channels)} {' '.join(channels)}\n{inner}}}\n"
        )

    header = write(next(iter(skeleton)))
    rows = [" ".join(f"{value:.6f}" for column in columns for value in column[frame]) for frame in range(n_frames)]
    return f"HIERARCHY\n{header}MOTION\nFrames: {n_frames}\nFrame Time: {1 / fps:.8f}\n" + "\n".join(rows) + "\n"


MOVES = {
    "Hips": [(5, 10, -20), (0, 30, 40)],
    "Chest": [(10, -15, 5), (-20, 10, 0)],
    "LeftUpperArm": [(70, 20, -30), (100, -10, 15)],
    "LeftLowerArm": [(-30, 60, 10), (0, 90, 0)],
    "RightThigh": [(0, -40, 10), (5, -80, 0)],
}


GEOMETRIC = MOVES  # its name in some modules


"""What several test modules make: small videos, corpora, records."""


"""What several test modules make: films, records, motion capture."""


# Videos and folders of videos


def flat_video(path: Path, colours: list, height: int = 48, width: int = 64) -> Path:
    """A motion JPEG film of which each frame is one colour: gray levels, or (blue, green, red)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    for colour in colours:
        writer.write(np.full((height, width, 3), colour, np.uint8))
    writer.release()
    return path


def write_film(path: Path, frames: Iterable[np.ndarray], code: str = "MJPG") -> Path:
    """Write uint8 frames [H, W, 3], all of one size, as a film of 25 frames a second; code: as OpenCV names it."""
    frames = list(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def numbered_video(path: Path, number: int, n_frames: int = 4) -> Path:
    """A small film whose contents depend on `number`."""
    return flat_video(path, [(number * 9 + frame * 5) % 256 for frame in range(n_frames)])


def folder_of(folder: Path, *names: str) -> Path:
    """A folder with small videos of these names, all different."""
    for number, name in enumerate(names):
        numbered_video(folder / name, number)
    return folder


def twelve_videos(folder: Path) -> Path:
    """Twelve videos of three classes and four actors, with a manifest in no particular order."""
    lines = []
    for number in range(12):
        name = f"sub é/{number:02d}.avi" if number % 2 else f"{number:02d}.avi"
        numbered_video(folder / name, number, n_frames=4 + number % 3)
        lines.append(f"{name},{('walk', 'joy', 'anger')[number % 3]},p{number // 3}\n")
    (folder / "manifest.csv").write_text("path,label,actor\n" + "".join(lines[::-1]), encoding="utf-8-sig")
    return folder


def pretend_decoded(cache: Path, video: Path, size: int, color: bool = False) -> None:
    """Put two black frames of a file into a cache of decoded videos, whatever the file holds."""
    store = FrameCache(cache, decode_video, size, color)
    cache.mkdir(parents=True, exist_ok=True)
    file = cache / f"{fingerprint(video, f'area-averaged {size} {color}')}-{store.decoder}.npy"
    frames, times = np.zeros((2, 3 if color else 1, size, size), np.uint8), np.array([0, 0.5, 1])
    decoded = DecodedVideo(frames, times, (48, 64), 1.0, "mjpeg", "yuvj420p", interlaced=False, damaged=0)
    np.save(file, frames)
    file.with_suffix(".json").write_text(decoded.to_json())


def touch(folder: Path, *names: str) -> Path:
    """A folder with empty files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


"""Helpers that several test modules share."""


# ---- fields of offsets (test_offsets, test_views, test_measures)

TAPS = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).double()  # nine taps (y, x)


def constant_field(taps: torch.Tensor, size: int = 12) -> Field:
    """A field with the same nine offsets [9, 2] everywhere."""
    return Field(taps.double().reshape(18, 1, 1).expand(18, size, size))


REGULAR = constant_field(torch.zeros(9, 2))  # zero offsets: the regular grid


def turn(degrees: float, scale: float = 1.0) -> torch.Tensor:
    """The matrix [2, 2] that turns (y, x) counter-clockwise as one sees it, and scales."""
    angle = math.radians(degrees)
    return scale * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()


"""What several test modules share: small corpora, networks and records, made in one place."""

# Copies, batches, training


NANO = NetworkConfig(
    classes=3, length=4, size=16, conv3d=(4, 4, 8), hidden=(4, 4, 4), conv2d=(8, 8, 8), deform_steps=paper_steps(2)
)


def nano_network() -> VideoNet:
    """The same untrained network of `NANO` every time."""
    torch.manual_seed(3)
    return VideoNet(NANO)


class ToyCorpus:
    """A corpus without files: 30 clips of 16 frames by ten actors, in which a bar moves right, moves down or blinks.

    on_read: called with the number of each clip that is read, before its frames are given; it may raise or wait.
    """

    name, key, color, classes = "toy", "toy", False, ("right", "down", "blink")

    def __init__(self, on_read: Callable[[int], object] = lambda clip: None, size: int = 16):
        self.on_read, self.size = on_read, size
        self.labels = np.arange(30) % 3
        names = [(f"{clip:02d}.avi", f"actor {clip // 3}") for clip in range(30)]
        self.videos = tuple(Video(Path(name), clip % 3, actor, 16) for clip, (name, actor) in enumerate(names))

    def __len__(self) -> int:
        return len(self.videos)

    def frames(self, clip: int) -> np.ndarray:
        """Noise of the clip's own, uint8 [16, 1, size, size], with a bright bar of a quarter of the side."""
        self.on_read(clip)
        frames = np.random.default_rng(clip).integers(0, 40, (16, 1, self.size, self.size), dtype=np.uint8)
        for time in range(16):
            first = self.size * (time if clip % 3 < 2 else 6) // 20
            bar = frames[time, 0] if clip % 3 else frames[time, 0].T
            bar[first : first + self.size // 4] += np.uint8(200 * (clip % 3 < 2 or time % 2))
        return frames

    def times(self, clip: int) -> np.ndarray:
        """25 frames a second."""
        return np.arange(17) / 25


@dataclass
class ClipLength:
    """All that `fit` needs to know of a network that is none of ours."""

    length: int = 4


class OtherNet(nn.Module):
    """Some other network, without batch norm, so that every clip counts alike however a batch is shared.

    on_call: called with the clips of each forward pass; it may raise or wait.
    """

    def __init__(self, on_call: Callable[[nn.Module, torch.Tensor], object] = lambda net, clips: None):
        super().__init__()
        self.config, self.on_call = ClipLength(), on_call
        torch.manual_seed(4)  # the same one every time
        self.filter, self.linear = nn.Conv3d(1, 4, (3, 5, 5), stride=(1, 2, 2)), nn.Linear(4, 3)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Logits [B, 3]."""
        self.on_call(self, clips)
        return self.linear(10 * self.filter(clips).relu().mean((2, 3, 4)))


def weight_difference(one: nn.Module, other: nn.Module) -> float:
    """Largest difference between two networks' weights and statistics."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return max((a.double() - b.double()).abs().max().item() for a, b in pairs)


# Convolutions


ORDERS = {  # groups, offset groups, filters of 4 channels, per filter
    "project first": (1, 1, 2, False),
    "project first, offset groups": (1, 2, 1, False),
    "sample first": (1, 1, 4, False),
    "sample first, groups": (2, 4, 4, False),
    "per filter": (1, 3, 3, True),
}
LAYERS = {
    "project first": {"out_channels": 2, "modulated": True},
    "sample first": {"out_channels": 8, "groups": 2, "offset_groups": 4, "stride": 2},
    "per filter": {"out_channels": 3, "per_filter": True},
}


def deform_arguments(
    order: tuple[int, int, int, bool],
    size: tuple[int, int] = (4, 3),
    seed: int = 3,
    dtype: torch.dtype = torch.float64,
    batch: int = 2,
) -> tuple[list[Tensor], dict]:
    """Small arguments for one of ORDERS, with a mask, away from the kinks, and the options that go with them."""
    groups, fields, filters, per_filter = order
    rng = torch.Generator().manual_seed(seed)
    shapes = (
        (batch, 4, *size),
        (batch, 8 * fields, *size),
        (filters, 4 // groups, 2, 2),
        (filters,),
        (batch, 4 * fields, *size),
    )
    drawn = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]
    drawn[1] = (drawn[1] * 1.5).floor() + 0.2 + 0.6 * torch.rand(shapes[1], generator=rng, dtype=torch.float64)
    options = {"padding": (1, 1), "dilation": (2, 2), "per_filter": per_filter}
    return [tensor.to(dtype).requires_grad_() for tensor in drawn], options


def outputs_and_gradients(functions: Sequence[Callable], tensors: Sequence[Tensor | None]) -> list[list[Tensor]]:
    """For each of several functions of the same tensors: its output and the gradients of all tensors."""
    leaves = [tensor for tensor in tensors if tensor is not None]
    results = []
    for function in functions:
        output = function(tensors)
        direction = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
        results.append([output, *torch.autograd.grad(output, leaves, direction)])
    return results


def deform_operators(geometry: dict) -> list[Callable]:
    """Ours and torchvision's operator as functions of the same list: input, offset, weight, bias, mask."""
    return [
        lambda t, operator=operator: operator(t[0], t[1], t[2], t[3], mask=t[4], **geometry)
        for operator in (deform_conv2d, torchvision_deform_conv2d)
    ]


def moving_layer(options: dict) -> DeformConv2d:
    """A layer of 4 channels that moves its taps."""
    torch.manual_seed(0)
    layer = DeformConv2d(4, kernel_size=3, padding=1, **options).eval()
    nn.init.normal_(layer.offset_branch.weight, std=0.2)
    return layer


# Records and a corpus whose features are known


def make_record(model: str, split: str, seed: int, right: int, of: int = 10, **changes: object) -> dict:
    """A whole record of a run with so many right predictions; the wrong ones say class 1 for class 0."""
    return {
        "name": f"tiny-{model}-{split}-{seed}",
        "experiment": {"corpus": "toy", "split": split, "model": model, "seed": seed, "recipe": "tiny"},
        "corpus": {
            "name": "toy",
            "source": "made up",
            "key": "k",
            "videos": 50,
            "classes": ["calm", "glad"],
            "actors": 5,
            "size": 32,
        },
        "split": {
            "name": split,
            "seed": seed,
            "train": 400,
            "val": of,
            "held_out": [f"a{seed}"] if split == "by_actor" else None,
            "copies_in_training": [81, 99] if split == "by_copy" else [0, 0],
        },
        "parameters": 123,
        "multiply_adds": 2_500_000,
        "settings": {"network": {"length": 8, "size": 32}, "training": {"epochs": 1}, "pairs": "0"},
        "accuracy": right / of,
        "validation": {
            "clip": [f"{clip}.avi" for clip in range(of)],
            "frames": [50] * of,
            "copy": [0 if split == "by_copy" else -1] * of,
            "label": [0] * of,
            "predicted": [0] * right + [1] * (of - right),
        },
        "history": [{"epoch": 1, "loss": 0.7, "val_accuracy": right / of, "offsets": [0.5, 0.1]}],
        "seconds": 1.5,
        "device": "CPU",
        "python": "3.12.1",
        "versions": {"torch": "2.9.0", "av": None},
        "commit": "0123456789",
    } | changes


def make_large(model: str, seed: int, right: int, split: str = "by_actor", **changes: object) -> dict:
    """A record as the study `large` leaves it: so many of 1,360 clips right, 80 of 400 actors held out."""
    record = make_record(model, split, seed, right, 1360)
    held_out = [f"a{actor:03d}" for actor in range(80 * (seed % 5), 80 * (seed % 5) + 80)]
    offsets = [[0.5, 0.25, 0.125] if model != "plain" else []] * 2
    return (
        record
        | {
            "name": f"large-{model}-{split}-{seed}",
            "experiment": record["experiment"] | {"corpus": "large", "recipe": "large"},
            "corpus": record["corpus"] | {"name": "large", "videos": 6800, "actors": 400, "key": "large"},
            "split": record["split"] | {"held_out": held_out if split == "by_actor" else None},
            "settings": {
                "network": {"length": 16, "size": 32},
                "training": asdict(RECIPES["large"].training) | {"seed": seed},
            },
            "history": [{"epoch": n + 1, "loss": 2.0 - n, "offsets": offsets[n]} for n in range(2)],
            "seconds": 450.0,
        }
        | changes
    )


def warped_record(model: str, split: str, seed: int, right: int, of: int = 20, corpus: str = "toy") -> dict:
    """A whole record of a run with so many right predictions; on warped clips it gets half of them."""
    label = [clip % 2 for clip in range(of)]
    said = [kind if clip < right else 1 - kind for clip, kind in enumerate(label)]
    warped = {
        kind: [[amount, right / of / (1 if amount == (kind == "scale") else 2)] for amount in amounts]
        for kind, amounts in WARPS.items()
    }
    training = {"optimizer": "adamw", "lr": 0.0015, "weight_decay": 0.05, "batch": 8, "epochs": 8, "epoch_steps": 100}
    toy = make_record(model, split, seed, right, of)
    clips = {"clip": [f"{seed}_{clip}.avi" for clip in range(of)], "copy": [-1] * of, "label": label, "predicted": said}
    return toy | {
        "name": f"classroom-{model}-{split}-{seed}",
        "experiment": toy["experiment"] | {"corpus": corpus, "recipe": "classroom"},
        "corpus": toy["corpus"] | {"name": corpus, "source": "made up, not GEMEP", "key": corpus},
        "parameters": 1234,
        "multiply_adds": 5_000_000,
        "settings": {"network": {"length": 16, "size": 32}, "training": training},
        "validation": toy["validation"] | clips,
        "robustness": warped,
        "seconds": 36.0,
        "device": "CPU, toy",
    }


def write_records(folder: Path, records: list[dict]) -> None:
    """Write records as `run` does, a file each, without a check."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in records:
        (folder / f"{each['name']}.json").write_text(json.dumps(each))


def small_study(gains: tuple[int, ...], corpus: str = "toy") -> list[dict]:
    """Plain and deformable under three splits, a seed for each of `gains`: how many clips of 20 deformable has more
    right.
    """
    rights = {"by_actor": 4, "by_clip": 5, "by_copy": 12}
    return [
        warped_record(
            model, split, seed, right + (seed + split.count("o")) % 3 + gain * (model == "deformable"), corpus=corpus
        )
        for seed, gain in enumerate(gains)
        for split, right in rights.items()
        for model in ("plain", "deformable")
    ]


def moving_squares(folder: Path) -> Corpus:
    """Twelve clips of four actors, at 32 pixels: a square that goes right (class "x"), down ("y") or stays ("z").

    Each clip has its square at a place of its own, which tells the clip but not the class.
    """
    rng, rows = np.random.default_rng(0), ["path,label,actor"]
    (folder / "videos").mkdir(parents=True)
    for number, (actor, label) in enumerate(product("abcd", "xyz")):
        frames = np.full((80, 64, 64, 3), 60, dtype=np.uint8)
        top, left = rng.integers(0, 20, 2)
        for time, frame in enumerate(frames):
            y, x = top + min(time // 2, 30) * (label == "y"), left + min(time // 2, 30) * (label == "x")
            frame[y : y + 12, x : x + 12] = 200
        write_film(folder / "videos" / f"{number:02d}.avi", frames)
        rows.append(f"{number:02d}.avi,{label},{actor}")
    (folder / "videos" / "manifest.csv").write_text("\n".join(rows), encoding="utf-8")
    return Corpus(folder / "videos", size=32, cache=folder / "cache", quiet=True)


"""What several test modules make: small networks, corpora and records."""

# models: convlstm, network, released


SMALL_NETWORK = NetworkConfig(
    length=8, size=16, conv3d=(2, 3, 4), hidden=(3, 3, 3), conv2d=(4, 5, 6), classes=4, deform_steps=paper_steps(4)
)


def random_offsets(module: nn.Module, std: float = 0.1) -> nn.Module:
    """The module with random numbers in its offset branches, as after training."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "offset_branch" in name:
                parameter.normal_(std=std)
    return module


def lively_network(net: VideoNet) -> tuple[VideoNet, torch.Tensor]:
    """A network in float64 with large random kernels, set to predict, and three clips whose logits differ."""
    torch.manual_seed(0)
    config, net = net.config, net.double().eval()
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter)
    for norm in net.norms:
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.1, 1)
    clips = torch.rand(3, config.in_channels, config.length, config.size, config.size, dtype=torch.float64)
    clips[1:] *= torch.tensor([0.5, 0.1]).view(2, 1, 1, 1, 1)
    return net, clips


# Pages


@contextmanager
def opened(browser, explorer, folder: Path, width: int = 1100, height: int = 800) -> Iterator:
    """An explorer's exported file, opened; afterwards: no error was raised, and nothing but the file was asked for."""
    path = explorer.export_html(folder / "explorer.html")
    page = browser.new_page(viewport={"width": width, "height": height})
    errors, asked = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("canvas")
    yield page
    page.close()
    assert not errors and asked == [path.as_uri()]


def pixels(page) -> list[str]:
    """What the canvases of a page look like."""
    return page.locator("canvas").evaluate_all("all => all.map(canvas => canvas.toDataURL())")

"""Give the library broken files; each ends in its own error, in a reported skip or in success: `make fuzz`.

Input N of a seed is the same on every machine with the same OpenCV and FFmpeg: `python tests/tools/fuzz.py --seed S
--first N --inputs 1` does it again and shows where it broke. Each input is worked on by another process, which has two
minutes and 2 GiB, so that a hang, a crash of the interpreter and a flood of memory are seen as such. Linux only: the
limits are the kernel's.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import wave
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, replace
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from types import SimpleNamespace

if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"  # bars in a log file would meet the limit on the size of files

sys.path.insert(0, str(Path(__file__).parent.parent))  # tests, where the factories are

import cv2
import media_matrix as media
import numpy as np
import torch
from factories import MOVES, PERSON, bvh_text
from PIL import Image
from safetensors.torch import load_file, save_file

from deformlib.corpus import Corpus
from deformlib.explorer import Explorer, trace_clip
from deformlib.files import DeformlibError
from deformlib.make.figures import BodyError, draw_actor, plan_corpus, render
from deformlib.make.films import make_corpus
from deformlib.make.mocap import as_figure, motion_corpus, read_bvh
from deformlib.media.folders import read_manifest
from deformlib.network import VideoNet, load_network, save_network
from deformlib.paper.report import info_sheet, report
from deformlib.paper.small_studies import MAIN, small_page
from deformlib.paper.study import RECIPES
from deformlib.paper.table2 import caption, confusion, recall, table1, table2, write_tables
from deformlib.records import load_records
from deformlib.splits import by_copy
from deformlib.tables import paired_tests, runs_table
from deformlib.training import TrainConfig, load_checkpoint, make_optimizer, save_checkpoint
from deformlib.video import VIDEO_SUFFIXES, VideoError, read_clip, read_video

RESULTS = Path(__file__).parents[2] / "results"
TINY = replace(RECIPES["tiny"].network, classes=3)
SECONDS, BYTES = 120, 2 << 30
NUMBERS = (0, 1, 2, 3, 255, 256, 65535, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
WORDS = (
    "",
    "0",
    "-1",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-308",
    "9" * 30,
    "é",
    "\0",
    "\ufeff",
    "{",
    "}",
    '"',
    ",",
    "../x",
    "x" * 5000,
)
VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1.5,
    1e308,
    float("nan"),
    float("inf"),
    10**9,
    10**30,
    "",
    "x",
    "é\n<b>",
    [],
    [0],
    [[]],
    {},
    {"x": 1},
)
NAMES = ("a", "né à Genève", "体 验", "a 'b' \"c\"", "-rf", "100%d", "10:30", "#?&=", "a;b|c", "x" * 200, ".b")


# Ways of breaking


def pick(rng: random.Random, data: bytes | bytearray) -> int:
    """A place in a file, half of the time among its first bytes, where headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 512, len(data), len(data)))) or 1)


def break_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut off, flip bits, zero a stretch, repeat or remove one, write extreme numbers or noise over some."""
    data, how = (
        bytearray(data),
        rng.choice(("cut", "flip", "flip", "zero", "repeat", "remove", "number", "number", "noise")),
    )
    start, length = pick(rng, data), int(2 ** rng.uniform(0, 12))
    if how == "cut":
        del data[start if rng.random() < 0.3 else rng.randrange(len(data)) :]
    elif how == "flip":
        for _ in range(int(2 ** rng.uniform(0, 9))):
            data[pick(rng, data)] ^= 1 << rng.randrange(8)
    elif how == "number":
        for _ in range(rng.randint(1, 4)):
            place, form = 4 * (pick(rng, data) // 4), rng.choice(("<I", ">I"))
            data[place : place + 4] = struct.pack(form, rng.choice(NUMBERS))
    else:
        piece = bytes(data[start : start + length])
        new = {"zero": bytes(len(piece)), "repeat": 2 * piece, "remove": b"", "noise": rng.randbytes(len(piece))}
        data[start : start + length] = new[how]
    return bytes(data)


def break_text(rng: random.Random, text: str) -> bytes:
    """Odd words, lines lost, repeated or swapped, another encoding, broken bytes."""
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randint(1, 2)):
        number, how = (
            rng.randrange(1, len(lines)) if len(lines) > 1 and rng.random() < 0.8 else 0,
            rng.choice(("word", "word", "word", "drop", "repeat", "swap")),
        )
        if how == "word":
            words = lines[number].replace(",", " , ").split(" ") if rng.random() < 0.5 else lines[number].split(" ")
            words[rng.randrange(len(words))] = rng.choice(WORDS)
            lines[number] = " ".join(words)
        elif how == "swap":
            lines[number], lines[0] = lines[0], lines[number]
        else:
            lines[number : number + 1] = [lines[number]] * (
                0 if how == "drop" and len(lines) > 1 else rng.choice((2, 50))
            )
    data = "".join(lines).encode(rng.choice(("utf-8",) * 6 + ("utf-8-sig", "utf-16")))
    return break_bytes(rng, data) if rng.random() < 0.3 else data


def break_json(rng: random.Random, value: object) -> object:
    """Replace, remove, rename or add one value somewhere in nested lists and dicts, which are changed in place."""
    inner = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not inner or rng.random() < 0.25:
        return rng.choice(VALUES)
    key, how = rng.choice(inner), rng.choice(("deeper", "deeper", "deeper", "remove", "add"))
    if how == "deeper":
        value[key] = break_json(rng, value[key])
    elif how == "remove":
        del value[key]
    elif isinstance(value, dict):
        value[rng.choice(("x", "", key + " "))] = value[key]
    else:
        value.insert(key, rng.choice(VALUES))
    return value


# Whole files to break, made once a process


def film(path: Path, code: str, n_frames: int = 12, width: int = 64, height: int = 48, level: int = 0) -> bytes:
    """A video of a moving square."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it complains of odd sizes
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 25, (width, height))
    for t in range(n_frames):
        frame = np.full((height, width, 3), level, np.uint8)
        frame[4:20, (3 * t) % 40 : (3 * t) % 40 + 16] = (200, 90, 30)
        writer.write(frame)
    writer.release()
    return path.read_bytes()


@cache
def videos() -> dict[str, bytes]:
    """A whole video in each container that OpenCV writes, and in some of cameras and browsers: ending -> contents."""
    codes = {".avi": "MJPG", ".mp4": "mp4v", ".mov": "mp4v", ".mkv": "XVID", ".flv": "\2\0\0\0", ".wmv": "WMV2"}
    with tempfile.TemporaryDirectory() as place:
        made = {suffix: film(Path(place, f"a{suffix}"), code) for suffix, code in codes.items()}
        made[".m4v"] = film(Path(place, "x.avi"), "XVID")  # a wrong ending that works
        fields = ["-vf", media.FIELDS["tff"], "-flags", "+ildct+ilme"]
        forms = {
            ".mpg": ("mpeg2video", *fields),
            ".mts": ("libx264", *fields),
            ".mxf": ("mpeg2video", *fields),
            ".webm": ("libvpx",),
            ".3gp": ("mpeg4",),
        }
        for suffix, (codec, *words) in forms.items():
            assert (
                media.encoded(Path(place, f"b{suffix}"), codec, *words, rate="50" if words else "25", size="64x48")
                == ""
            )
            made[suffix] = Path(place, f"b{suffix}").read_bytes()
    pictures = [Image.new("P", (40, 30), level) for level in range(0, 200, 20)]
    pictures[0].save(gif := io.BytesIO(), "GIF", save_all=True, append_images=pictures[1:], duration=40)
    return {suffix: data for suffix, data in made.items() if data} | {".gif": gif.getvalue()}


@cache
def network() -> VideoNet:
    """A tiny network of three classes."""
    return VideoNet(TINY).eval()


@cache
def weights() -> bytes:
    """Its file."""
    with tempfile.TemporaryDirectory() as place:
        save_network(network(), Path(place, "net.safetensors"), ("a", "b", "c"))
        return Path(place, "net.safetensors").read_bytes()


@cache
def motion() -> str:
    """A BVH file of two frames."""
    return bvh_text(PERSON, MOVES)


@cache
def trainer() -> tuple[VideoNet, torch.optim.Optimizer, SimpleNamespace, dict]:
    """A network after one step of training, and what a checkpoint holds beside it."""
    net = VideoNet(TINY)
    optimizer = make_optimizer(net, TrainConfig(epochs=1))
    net(torch.rand(2, 1, TINY.length, TINY.size, TINY.size)).sum().backward()
    optimizer.step()
    row = {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
    return (
        net,
        optimizer,
        SimpleNamespace(device=torch.device("cpu"), scaler=None),
        {"run": {"x": 1}, "step": 1, "sums": [0.0, 0.0], "seconds": 1.0, "data_wait_s": 0.0, "history": [row]},
    )


# Kinds of input: each writes something broken below `place`; returns the file that an error must name and what to do

Use = Callable[[], object]


def video(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A video cut, flipped, patched, with another one's ending, or no video at all."""
    suffix, data = rng.choice(list(videos().items()))
    name = rng.choice(NAMES[:4]) + (rng.choice(VIDEO_SUFFIXES) if rng.random() < 0.2 else suffix)
    if rng.random() < 0.15:
        data = rng.choice(
            (
                b"",
                b"\0" * 3000,
                rng.randbytes(3000),
                data[:64] + rng.randbytes(5000),
                b"<html>" * 500,
                weights(),
                motion().encode(),
            )
        )
    else:
        data = break_bytes(rng, data)
    return read(rng, place / name, data)


def read(rng: random.Random, path: Path, data: bytes | None) -> tuple[Path, Use]:
    """Write a video and read it in one of the ways in which the library does."""
    if data is not None:
        path.write_bytes(data)
    color, size, length = rng.random() < 0.5, rng.choice((None, 1, 32, 112)), rng.choice((1, 8, 32))

    def use() -> None:
        frames = read_video(path, color, size)
        assert frames.ndim == 4 and frames.dtype == np.uint8 and frames.shape[1] == (3 if color else 1) and frames.size
        clip = read_clip(path, length, size or 16, color)
        assert clip.shape == (3 if color else 1, length, size or 16, size or 16)

    return path, use


def odd_video(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A whole video of an odd shape or length, without pictures, or whose frames change their size."""
    path = place / f"{rng.choice(NAMES[:4])}.avi"
    shapes = {
        "1x1": (3, 1, 1),
        "one row": (3, 3000, 1),
        "one column": (3, 1, 3000),
        "8K": (2, 7680, 4320),
        "one": (1, 64, 48),
        "long": (10_000, 32, 24),
    }
    how = rng.choice((*shapes, "no size", "huge", "sound", "wave", "changing", "gif"))
    data = videos()[".avi"]
    if how in shapes:
        data = film(path, "MJPG", *shapes[how])
    elif how in ("no size", "huge"):  # in the AVI header and in that of the stream
        sides = (
            rng.choice(((0, 0), (0, 48), (64, 0)))
            if how == "no size"
            else rng.choice(((30000, 30000), (1 << 30, 1), (65535, 65535)))
        )
        data = data.replace(struct.pack("<II", 64, 48), struct.pack("<II", *sides))
    elif how == "sound":
        suffix, old, new = rng.choice(
            ((".avi", b"vids", b"auds"), (".mp4", b"vide", b"soun"), (".mov", b"vide", b"soun"))
        )
        path, data = path.with_suffix(suffix), videos()[suffix].replace(old, new)
    elif how == "wave":
        with wave.open(sound := io.BytesIO(), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(rng.randbytes(8000))
        data = sound.getvalue()
    elif how == "changing":  # one JPEG in the middle has another size
        start = data.index(b"00dc", data.index(b"00dc") + 8)
        length = struct.unpack("<I", data[start + 4 : start + 8])[0]
        sides = rng.choice(((16, 16), (8, 200), (32, 24)))
        other = cv2.imencode(".jpg", np.zeros((*sides, 3), np.uint8))[1].tobytes()[:length]
        data = data[: start + 8] + other.ljust(length, b"\0") + data[start + 8 + length :]
    else:
        Image.new("P", (1, 1)).save(gif := io.BytesIO(), "GIF")
        path, data = path.with_suffix(".gif"), gif.getvalue()
    return read(rng, path, data)


def playlist(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A text that makes FFmpeg open other files, or itself, under the name of a video: it must be refused."""
    path, other = place / f"list{rng.choice(VIDEO_SUFFIXES)}", place / "secret.avi"
    other.write_bytes(videos()[".avi"])
    target = rng.choice((path.name, other.name, str(other), "http://127.0.0.1:9/x.avi"))
    path.write_text(
        rng.choice(
            (
                f"ffconcat version 1.0\nfile '{target}'\n",
                f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
                f"[Reference]\nRef1={target}\n",
            )
        )
    )

    def use() -> None:
        read_video(path)
        raise AssertionError("a playlist was followed")

    return path, use


def names(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A folder with one good video beside what is none: a pipe, a folder, a broken link, a name in another encoding."""
    folder = place / rng.choice(NAMES) / "joy"
    folder.mkdir(parents=True)
    name = rng.choice(NAMES[:-1])
    (folder / f"{name}.avi").write_bytes(videos()[".avi"])
    odd, how = folder / "odd.avi", rng.choice(("pipe", "folder", "link", "loop", "bytes", "long", "out"))
    if how == "pipe":
        os.mkfifo(odd)
    elif how == "folder":
        odd.mkdir()
    elif how in ("link", "loop"):
        odd.symlink_to("nowhere.avi" if how == "link" else odd.name)
    elif how == "bytes":
        odd = folder / os.fsdecode(b"\xff\xfe.avi")
        odd.write_bytes(videos()[".avi"])
    elif how == "long":
        odd = folder / f"{'n' * 251}.avi"
        odd.write_bytes(break_bytes(rng, videos()[".avi"]) + b"0")  # never the same contents
    else:
        (place / "out.avi").write_bytes(videos()[".mov"])
        odd.symlink_to(place / "out.avi")

    def use() -> str:
        os.chdir(folder.parent)  # so that names stand at the beginning of a path
        corpus = Corpus(rng.choice((folder.parent, ".")), 16, cache=place / "cache")
        assert f"{name}.avi" in [video.path.name for video in corpus.videos]
        with suppress(VideoError):
            read_video(odd, size=8)
        read_video(f"joy/{name}.avi")
        os.chdir(folder)
        assert read_video(f"{name}.avi").shape == (12, 1, 48, 64)
        return "left out" if corpus.rejected else "read"

    return folder.parent, use


def corpus(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """Five videos in a manifest, class folders or under GEMEP's names, some broken; and then a cache with damage."""
    folder, lines = place / "ein Körper", ["path,label,actor"]
    style = rng.choice(("manifest", "folders", "names"))
    for number in range(5):
        label, actor = ("joy", "anger")[number % 2], f"p{number % 3}"
        inner = {"manifest": f"{number}", "folders": f"{label}/{number}", "names": f"00{number}{label[:3]}_x"}[style]
        suffix, data = rng.choice(list(videos().items()))
        path = folder / f"{inner}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(break_bytes(rng, data) if rng.random() < 0.5 else data)
        lines.append(f"{inner}{suffix},{label},{actor}")
    if style == "manifest":
        (folder / "manifest.csv").write_text("\n".join(lines))

    def use() -> str:
        first = Corpus(folder, 16, cache=place / "cache")
        assert len(first) + len(first.rejected) == 5
        for file in (place / "cache").iterdir():
            damage = break_bytes(rng, file.read_bytes()[: rng.choice((130, 10**9))])
            file.write_bytes(damage if rng.random() < 0.7 else break_bytes(rng, weights()))
        again = Corpus(folder, 16, cache=place / "cache")
        assert again.key == first.key and again.videos == first.videos
        for clip, video in enumerate(again.videos):
            assert again.frames(clip).shape == (video.n_frames, 1, 16, 16)
        by_copy(again, copies=2) if len(again) > 2 else None
        return "left out" if first.rejected else "read"

    return folder, use


def manifest(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A table with odd words, lines and bytes; nothing that it names may lie outside its folder."""
    folder = place / "体 验"
    (folder / "in").mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.avi").write_bytes(videos()[rng.choice((".avi", ".mkv", ".flv"))])
    (place / "out.avi").write_bytes(videos()[".mov"])
    (folder / "link.avi").symlink_to(place / "out.avi")
    (folder / "in" / "up").symlink_to(place, target_is_directory=True)
    rows = [
        "0.avi,joy,Ann",
        "1.avi,anger,Bob",
        "2.avi,joy,Cid",
        "link.avi,joy,Ann",
        "in/up/out.avi,joy,Ann",
        "../out.avi,joy,Bob",
        f"{place}/out.avi,joy,Bob",
        "in,joy,Ann",
        "in/../1.avi,joy,Ann",
        "/dev/stdin,joy,Ann",
        f"{'y' * 3000}.avi,joy,Ann",
    ]
    text = "\n".join(["path,label,actor", *rng.sample(rows, rng.randint(1, len(rows)))]) + "\n"
    path = folder / "manifest.csv"
    text = text.replace(",", rng.choice((",", ";", "\t", " | "))).replace(
        "\n", rng.choice(("\n", "\r\n", "\r", "\n\n"))
    )
    text = rng.choice(("", "", "\n", "sep=;\n", 'sep="\n', "\ufeff", ";;;\n")) + text
    text = text.replace("label", rng.choice(("label", "Emotion ", "class", "mood"))).replace(
        "actor", rng.choice(("actor", "Subject", "person,who", ""))
    )
    path.write_bytes(
        break_text(rng, text) if rng.random() < 0.6 else text.encode(rng.choice(("utf-8", "utf-16", "utf-16-le")))
    )

    def use() -> str:
        for name in read_manifest(folder).labels:
            assert (folder / name).resolve().is_relative_to(folder.resolve()), f"{name} was let out"
        return "left out" if Corpus(folder, 16, cache=place / "cache").rejected else "read"

    return path, use


def bvh(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """Motion capture with odd words, lines, sizes and trees."""
    text = motion()
    if rng.random() < 0.15:  # a chain or a comb of very many joints
        chain = {"a": (None, (0, 0, 0))} | {
            f"a{n}": (f"a{n - 1}" if n and rng.random() < 0.9 else "a", (0, 1, 0))
            for n in range(rng.choice((5, 200, 900)))
        }
        text = bvh_text(chain, {"a": [(0, 0, 0)]})
    elif rng.random() < 0.3:
        old, new = rng.choice(
            (
                ("Frames: 2", "Frames: 100000000000"),
                ("CHANNELS 3", "CHANNELS 1000000000"),
                ("OFFSET", "OFFSET 1e300"),
                ("Frame Time: 0.03", f"Frame Time: {rng.choice(WORDS[1:12])}"),
                ("Frame Time: 0.03", "Frame Time: 100000"),
                ("rotation", "position"),
                (".000000", ".000000e30"),
                ("25.000000", "nan"),
                (" 0.000000", " inf"),
                ("000", "0"),
            )
        )
        text = text.replace(old, new, rng.choice((1, 3, -1)))
        if rng.random() < 0.3:  # frames without channels
            text = "\n".join(
                line
                for line in text.splitlines()[: text[: text.index("MOTION")].count("\n") + 3]
                if "CHANNELS" not in line
            )
    if rng.random() < 0.3:  # what other programs write
        ball, floor = "ROOT Ball\n{\nOFFSET 0 0 0\nCHANNELS 0\n}\n", "ROOT Floor\n{\nOFFSET 0 0 0\nCHANNELS 0\nJOINT"
        text = rng.choice(
            (
                "\ufeff" + text,
                "# made\n\n" + text,
                text.replace("\n", "\n\n"),
                text.replace("\n", "\r"),
                text.lower(),
                text + text.splitlines()[-1],
                text.replace("ROOT", ball + "ROOT"),
                text.replace("ROOT", floor).replace("MOTION", "}\nMOTION"),
                text.replace("JOINT Spine", "JOINT ik_hand_l\n{\n}\nJOINT Spine"),
                text.replace(".", ","),
            )
        )
    folder = place / "bvh é"
    folder.mkdir()
    path = folder / rng.choice(("walk é.bvh", f"{'w' * 245}.bvh", "a.BVH"))
    path.write_bytes(
        rng.choice((b"", b"HIERARCHY\nMOTION\n", rng.randbytes(500)))
        if rng.random() < 0.05
        else break_text(rng, text)
        if rng.random() < 0.7
        else text.encode()
    )
    (folder / "good.bvh").write_text(motion() + "\n")  # never the same bytes as the other
    (folder / "manifest.csv").write_text(f"path,label,actor\n{path.name},joy,Ann\ngood.bvh,joy,Ann\n")

    def use() -> str:
        if rng.random() < 0.3:
            said = io.StringIO()
            with redirect_stdout(said):
                made = motion_corpus(folder, place / "made")
            assert len(list(made.glob("good_*.avi"))) == 1
            left = len(list(made.glob("*.avi"))) == 1
            assert left == (f"{path.name} left out: " in said.getvalue()), said.getvalue()
            return "left out" if left else "read"
        motion = read_bvh(path)
        try:
            figure = as_figure(motion)
        except BodyError as error:  # knows the motion alone; motion_corpus adds the file
            raise BodyError(f"{path}: {error}") from error
        generator = np.random.default_rng(0)
        for _, frame in zip(range(3), render(figure, draw_actor(generator), generator), strict=False):
            assert frame.shape == (576, 720, 3)
        return "read"

    return path, use


def net(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """Weights with broken bytes, another header, or other tensors."""
    path = place / "né.safetensors"
    path.write_bytes(weights())
    if rng.random() < 0.4:
        path.write_bytes(break_bytes(rng, weights()))
    else:
        config, classes, tensors = asdict(TINY), ["a", "b", "c"], load_file(path)
        if rng.random() < 0.7:
            config = break_json(rng, json.loads(json.dumps(config)))
        elif rng.random() < 0.5:
            classes = break_json(rng, classes)
        else:
            name = rng.choice(list(tensors))
            tensors[name] = rng.choice(
                (
                    torch.zeros(()),
                    torch.zeros(0, 3),
                    tensors[name].half(),
                    tensors[name].long(),
                    tensors[name][None].contiguous(),
                )
            )
        header = {"deformlib": "VideoNet", "config": json.dumps(config), "classes": json.dumps(classes)}
        if rng.random() < 0.7:  # one entry, as written today
            header = {"deformlib": json.dumps({"config": config, "classes": classes})}
        if rng.random() < 0.2:
            header[rng.choice(list(header))] = rng.choice(("", "[" * 50_000, "{", "null", "\ud7ff", "1e400"))
        save_file(tensors, path, header)

    def use() -> None:
        found, labels = load_network(path)
        assert len(labels) == found.config.classes and all(isinstance(label, str) for label in labels)
        assert found.config.length * found.config.size**2 < 1 << 29
        if found.config.length * found.config.size**2 < 1 << 20:
            with torch.inference_mode():
                clip = torch.zeros(
                    1, found.config.in_channels, found.config.length, found.config.size, found.config.size
                )
                assert found(clip).shape == (1, len(labels))

    return path, use


def checkpoint(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A checkpoint with broken bytes or other progress."""
    net, optimizer, accelerator, progress = trainer()
    path, progress = place / "checkpoint.safetensors", json.loads(json.dumps(progress))
    save_checkpoint(path, net, optimizer, accelerator, progress)
    if rng.random() < 0.5:
        path.write_bytes(break_bytes(rng, path.read_bytes()))
    else:
        tensors, broken = (
            load_file(path),
            break_json(rng, {"progress": progress, "groups": optimizer.state_dict()["param_groups"], "scaler": None}),
        )
        if rng.random() < 0.3:
            del tensors[rng.choice(list(tensors))]
        header = {str(name): json.dumps(value) for name, value in broken.items()} if isinstance(broken, dict) else None
        save_file(tensors, path, header)
    return path, lambda: load_checkpoint(path, net, optimizer, accelerator, {"x": 1})


@cache
def stored(folder: str, *models: str) -> dict[str, str]:
    """Records of the course of two seeds, of some models or all: name of the file -> text."""
    paths = sorted(RESULTS.glob(f"{folder}/*-[01].json"))
    return {path.name: path.read_text() for path in paths if not models or path.name.split("-")[1] in models}


def result(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """Run records of which one is broken as text or as data."""
    folder = place / "results é"
    folder.mkdir()
    for name, whole in stored("example-table2", "plain", "deformable", "fdcnn").items():
        if "-by_copy-" in name:
            (folder / name).write_text(whole)
    path = rng.choice(sorted(folder.iterdir()))
    whole = path.read_text()
    how = rng.random()
    if how < 0.3:
        path.write_bytes(break_bytes(rng, whole.encode()))
    elif how < 0.9:
        path.write_text(json.dumps(break_json(rng, json.loads(whole))))
    elif how < 0.95:
        path.write_text(rng.choice(("", "[" * 100_000, "null", "[]", '{"experiment": 1}')))
    else:
        (folder / f"{path.stem} (1).json").write_text(whole)  # a copy
        path = folder

    def use() -> None:
        records = load_records(folder)
        runs = runs_table(records)
        for text in (
            table1(runs).to_csv(),
            table2(runs).to_csv(),
            caption(records),
            paired_tests(records, "plain").to_csv(),
        ):
            assert text.isprintable() or "\n" in text
        for model in ("plain", "deformable", "fdcnn"):
            recall(confusion(records, model, "by_copy"), records[0]["corpus"]["classes"])
        if rng.random() < 0.1:
            write_tables(folder)

    return path, use


def pages(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """What a report is written from, records and the file on offsets, of which one is broken as data."""
    folder = place / "results é" / MAIN
    (folder / "offsets").mkdir(parents=True)
    for name, whole in stored(MAIN).items():
        (folder / name).write_text(whole)
    (offsets,) = RESULTS.glob(f"{MAIN}/offsets/*.json")
    shutil.copy(offsets, folder / "offsets")
    path = folder / "offsets" / offsets.name
    path = path if rng.random() < 0.3 else rng.choice(sorted(folder.glob("*.json")))
    path.write_text(json.dumps(break_json(rng, json.loads(path.read_text()))))

    def use() -> None:
        assert all(page(folder.parent).startswith("# ") for page in (report, small_page, info_sheet))

    return path, use


def full(rng: random.Random, place: Path) -> tuple[Path, Use]:
    """A disk that is full at some moment of writing: what was there stays, and no half of anything lies about."""
    folder = place / "out é"
    folder.mkdir()
    plan = sorted(plan_corpus(), key=lambda clip: clip.n_frames)[:1]
    (place / "in" / "joy").mkdir(parents=True)
    (place / "in" / "joy" / "a.avi").write_bytes(videos()[".avi"])
    net, optimizer, accelerator, progress = trainer()

    writers = {
        "film": lambda: make_corpus(folder, plan),
        "cache": lambda: Corpus(place / "in", 32, cache=folder),
        "weights": lambda: save_network(net, folder / "net.safetensors", ("a", "b", "c")),
        "checkpoint": lambda: save_checkpoint(folder / "checkpoint.safetensors", net, optimizer, accelerator, progress),
        "page": lambda: Explorer(
            {"one": trace_clip(net.eval(), torch.rand(1, 8, 32, 32, generator=torch.Generator().manual_seed(0)))}
        ).export_html(folder / "page.html"),
    }
    writer = writers[rng.choice(list(writers))]

    def use() -> str:
        writer()
        whole = {path.name: path.read_bytes() for path in folder.iterdir()}
        kept = rng.random() < 0.5
        for path in folder.iterdir():
            if not kept:
                path.unlink()
        if kept and writer is writers["film"]:
            next(folder.glob("*.avi")).write_bytes(b"half of it")  # or it would not be written again
            whole["half"] = b"half of it"
        if kept and writer is writers["cache"]:
            next(folder.iterdir()).write_bytes(b"half of it")
            whole["half"] = b"half of it"
        room = int(rng.uniform(0, 1.2) * max(map(len, whole.values())))
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, old[1]))
        try:
            writer()
            return "read"
        except (DeformlibError, OSError) as error:
            assert "out é" in str(error) and "\n" not in str(error), f"the error does not name the file: {error}"
            return "refused"
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
            for path in folder.iterdir():
                if path.suffix == ".safetensors":  # its header comes in any order
                    assert load_file(path), path
                else:
                    assert path.read_bytes() in whole.values(), f"{path.name} is half written"

    return folder, use


KINDS = {
    "video": (video, 8),
    "odd video": (odd_video, 3),
    "playlist": (playlist, 1),
    "names": (names, 2),
    "corpus": (corpus, 2),
    "manifest": (manifest, 4),
    "bvh": (bvh, 6),
    "weights": (net, 5),
    "checkpoint": (checkpoint, 3),
    "records": (result, 4),
    "report": (pages, 3),
    "full disk": (full, 2),
}
TURN = [kind for kind, (_, share) in KINDS.items() for _ in range(share)]


# One input, and many


def attempt(kind: str, seed: int, number: int) -> str:
    """How an input ends: "refused", "left out" or "read"; whatever else happens comes out as an exception."""
    rng, here = random.Random(f"{kind} {seed} {number}"), Path.cwd()
    with tempfile.TemporaryDirectory(prefix="né à Genève ") as place:
        try:
            with redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):  # strict, as a terminal's
                path, use = KINDS[kind][0](rng, Path(place))
                before = set(Path(place).rglob(".*"))
                ended = use()
                ended = ended if isinstance(ended, str) else "read"
        except DeformlibError as error:
            said = str(error)
            assert (path.name in said or str(path.parent) in said) and "\n" not in said, (
                f"not one sentence with the file: {said[:500]}"
            )
            ended = "refused"
        finally:
            os.chdir(here)
        left = set(Path(place).rglob(".*")) - before
        assert not left, f"left behind: {left}"
    return ended


def work(orders: multiprocessing.connection.Connection) -> None:
    """What a process does: the inputs it is told, under its limit of memory."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, resource.RLIM_INFINITY))
    while True:
        try:
            ended = attempt(*orders.recv())
        except EOFError:
            return
        except BaseException as error:  # whatever it is, it is a find
            ended = "".join(traceback.format_exception(error)[-3:])
        orders.send((ended, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


class Worker:
    """A process, and the input that it is at."""

    def __init__(self, context: multiprocessing.context.BaseContext):
        self.pipe, far = context.Pipe()
        self.process = context.Process(target=work, args=(far,), daemon=True)
        self.process.start()
        far.close()

    def give(self, kind: str, seed: int, number: int) -> None:
        self.kind, self.number, self.since = kind, number, time.monotonic()
        self.pipe.send((kind, seed, number))

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def fuzz(seed: int, numbers: range, jobs: int, only: str | None = None) -> tuple[Counter, dict[int, str], int]:
    """Do the inputs: how often each (kind, end) came, the faults by number, the most resident memory in bytes."""
    context = multiprocessing.get_context("fork")  # all is imported already
    counts, faults, most, waiting = Counter(), {}, 0, iter(numbers)
    workers = [Worker(context) for _ in range(jobs)]

    def feed(worker: Worker) -> bool:
        number = next(waiting, None)
        if number is None:
            worker.end()
            return False
        worker.give(only or TURN[number % len(TURN)], seed, number)
        return True

    workers = [worker for worker in workers if feed(worker)]
    while workers:
        ready = wait([worker.pipe for worker in workers], timeout=1)
        for worker in list(workers):
            late = time.monotonic() - worker.since > SECONDS
            if worker.pipe not in ready and not late:
                continue
            try:
                ended, memory = worker.pipe.recv() if worker.pipe in ready else (f"hung: over {SECONDS} s", 0)
            except (EOFError, ConnectionResetError):
                worker.process.join()
                ended, memory = f"the interpreter crashed: exit code {worker.process.exitcode}", 0
            most = max(most, 1024 * memory)
            fine = ended in ("refused", "left out", "read")
            counts[worker.kind, ended if fine else "FAULT"] += 1
            workers.remove(worker)
            if not fine:
                faults[worker.number] = ended
                print(f"input {worker.number} ({worker.kind}): {ended}", flush=True)
                worker.end()
                worker = Worker(context)
            if feed(worker):
                workers.append(worker)
    return counts, faults, most


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20))
    parser.add_argument("--first", type=int, default=0, help="the number to begin with (%(default)s)")
    parser.add_argument("--inputs", type=int, default=1000, help="how many (%(default)s)")
    parser.add_argument("--only", choices=KINDS, help="this kind alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    options = parser.parse_args()
    print(f"{options.inputs} broken inputs from {options.first} on, seed {options.seed}", flush=True)
    started = time.monotonic()
    counts, faults, most = fuzz(
        options.seed, range(options.first, options.first + options.inputs), options.jobs, options.only
    )
    for kind in KINDS:
        found = {end: counts[kind, end] for end in ("refused", "left out", "read", "FAULT") if counts[kind, end]}
        if found:
            print(f"{kind:12} {sum(found.values()):5}: " + ", ".join(f"{count} {end}" for end, count in found.items()))
    print(
        f"{time.monotonic() - started:.0f} s, at most {most / 1e6:.0f} MB resident in one process, {len(faults)} faults"
    )
    sys.exit(bool(faults))

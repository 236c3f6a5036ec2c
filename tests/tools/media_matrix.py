"""Every codec in every container, and the hard cases, by `decode_video` and by FFmpeg's own program: `make media`.

The program that imageio-ffmpeg brings makes each file and decodes it to blue, green, red; interlaced frames go through
the same deinterlacer. Every frame is compared. Writes media.json and media.md: what was made, what is read, how many
frames, the largest and the mean difference, whether the times agree. `--only turned` does those whose name holds it.
"""

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np

from deformlib.progress import show_progress
from deformlib.video import DECODER, VideoError, decode_video

sys.path.append(str(Path(__file__).parents[1]))
RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SIZE = "176x144"  # H.263 takes no other so small

CODECS = {  # our word: the encoder and its settings
    "MPEG-1": "mpeg1video",
    "MPEG-2": "mpeg2video",
    "MPEG-4 ASP": "mpeg4 -bf 2",
    "Xvid": "libxvid",
    "MS MPEG-4 v3": "msmpeg4",
    "H.263": "h263",
    "Sorenson": "flv",
    "WMV 8": "wmv2",
    "H.264": "libx264 -bf 3",
    "H.265": "libx265 -x265-params log-level=none",
    "VP8": "libvpx",
    "VP9": "libvpx-vp9 -cpu-used 8",
    "AV1": "libsvtav1 -preset 12 -svtav1-params lp=1",
    "Theora": "libtheora",
    "Motion JPEG": "mjpeg",
    "DV": "dvvideo -s 720x576 -pix_fmt yuv420p",
    "ProRes": "prores_ks",
    "DNxHR": "dnxhd -profile:v dnxhr_lb -s 256x144 -pix_fmt yuv422p",
    "FFV1": "ffv1",
    "HuffYUV": "huffyuv",
    "Ut Video": "utvideo",
    "Animation": "qtrle",
    "Cinepak": "cinepak",
    "raw": "rawvideo -pix_fmt yuv420p",
    "GIF": "gif",
}
CONTAINERS = (
    ".avi", ".mp4", ".mov", ".mkv", ".webm", ".mpg", ".ts", ".vob", ".flv", ".wmv", ".ogv", ".mxf", ".3gp", ".gif",
    ".dv",
)  # fmt: skip
FIELDS = {
    "tff": "tinterlace=interleave_top,setfield=tff",
    "bff": "tinterlace=interleave_bottom,setfield=bff",
}
INTERLACED = {  # encoders that mark interlaced frames, and where such films are found
    "MPEG-2": ("mpeg2video -flags +ildct+ilme -b:v 4M", ".mpg .vob .ts .mts .m2ts .mp4 .mov .avi .mkv .mxf"),
    "MPEG-4 ASP": ("mpeg4 -flags +ildct+ilme -b:v 4M", ".avi .mp4 .mov .mkv .mpg"),
    "H.264 MBAFF": ("libx264 -flags +ildct+ilme -b:v 4M", ".mts .m2ts .ts .mp4 .mov .avi .mkv .flv .mxf"),
    "MPEG-2 4:2:2": ("mpeg2video -pix_fmt yuv422p -flags +ildct+ilme -b:v 8M", ".mxf .mov .ts"),
    "H.264 10 bit 4:2:2": ("libx264 -pix_fmt yuv422p10le -flags +ildct+ilme", ".mxf .mov .mts"),
    "H.264 1080i": ("libx264 -preset ultrafast -x264-params tff=1", ".mts .mp4"),
    "DV": ("dvvideo -s 720x576 -pix_fmt yuv420p", ".avi .mov .mkv .dv .mxf"),
    "DV 4:1:1": ("dvvideo -s 720x480 -r 30000/1001 -pix_fmt yuv411p", ".avi .mov .dv"),
    "ProRes": ("prores_ks -flags +ildct", ".mov .mkv .mxf"),
    "FFV1": ("ffv1", ".mkv .avi"),
}
DEINTERLACE = "yadif=mode=send_frame:parity=auto:deint=interlaced"


def ffmpeg(*words: str | Path, cwd: Path | None = None) -> str:
    """Run FFmpeg's program; what it says if it fails, else nothing."""
    command = [FFMPEG, "-v", "error", "-nostdin", "-y", "-threads", "1", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=cwd)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[0]


def source(seconds: float = 0.48, rate: str = "25", size: str = SIZE) -> list[str]:
    """A test film with motion everywhere and a clock."""
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def encoded(path: Path, codec: str, *words: str, seconds: float = 0.48, rate: str = "25", size: str = SIZE) -> str:
    """Make a film; why it could not be made, else nothing."""
    return ffmpeg(*source(seconds, rate, size), "-c:v", *codec.split(), *words, path)


def copied(
    path: Path, before: str, after: str = "-c copy", codec: str = "libx264 -bf 2 -g 6", ending: str = ".mp4"
) -> str:
    """Make a film and put its packets into another file, with options before and after the input."""
    first = path.with_name(f"{path.stem}_first{ending}")
    return encoded(first, codec, seconds=0.96) or ffmpeg(*before.split(), "-i", first, *after.split(), path)


def cut(path: Path, codec: str, share: float) -> str:
    """Make a film and lose the end of its file."""
    said = encoded(path, codec, seconds=0.96)
    if not said:
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return said


def patched(path: Path, codec: str, place: float, length: int) -> str:
    """Make a film and set a stretch of its file to zero."""
    said = encoded(path, codec, seconds=0.96)
    if not said:
        data = bytearray(path.read_bytes())
        start = int(place * len(data))
        data[start : start + length] = bytes(length)
        path.write_bytes(data)
    return said


def joined(path: Path, *parts: tuple[str, str, str]) -> str:
    """Films of several (encoder, filters, size), one after the other in one file, byte by byte."""
    said, data = "", b""
    for number, (codec, filters, size) in enumerate(parts):
        part = path.with_name(f"{path.stem}_{number}{path.suffix}")
        said = said or encoded(part, codec, "-vf", filters, size=size, rate="50" if "tinterlace" in filters else "25")
        data += b"" if said else part.read_bytes()
    path.write_bytes(data)
    return said


def uneven(path: Path, codec: str) -> str:
    """A film that stands still for 160 ms after every fourth frame."""
    return encoded(path, codec, "-vf", "setpts=(N+floor(N/4)*4)/25/TB", "-fps_mode", "passthrough")


def sounding(path: Path, *words: str) -> str:
    """A film beside a sound, which comes first."""
    return ffmpeg("-f", "lavfi", "-i", "sine=duration=0.5", *source(), *words, path)


def covered(path: Path, film: bool) -> str:
    """A cover picture, larger than the film, a sound, and the film, if any."""
    cover = path.with_name(f"{path.stem}_cover.png")
    said = ffmpeg(*source(0.04, size="640x480"), "-frames:v", "1", cover)
    words = ["-i", cover, "-f", "lavfi", "-i", "sine=duration=0.5", *(source() if film else [])]
    words += [word for number in range(2 + film) for word in ("-map", str(number))]
    return said or ffmpeg(*words, "-c:v:1", "libx264", "-c:v:0", "copy", "-disposition:v:0", "attached_pic", path)


Cases = dict[str, tuple[str, Callable[[Path], str]]]  # name: the file's ending and what makes it, both


def grid() -> Cases:
    """Every codec in every container."""
    pairs = itertools.product(CODECS.items(), CONTAINERS)
    return {f"{name} in {ending}": (ending, partial(encoded, codec=codec)) for (name, codec), ending in pairs}


def interlaced() -> Cases:
    """Real motion between the two fields of a frame, either first; DV has the lower one first."""
    cases = {}
    for name, (codec, endings) in INTERLACED.items():
        orders = {"DV": ["bff"], "DV 4:1:1": ["bff"], "H.264 1080i": ["tff"]}.get(name, FIELDS)
        for ending, order in itertools.product(endings.split(), orders):
            rate = "60000/1001" if "411" in codec else "50"
            size = {"DV": "720x576", "DV 4:1:1": "720x480", "H.264 1080i": "1920x1080"}.get(name, "360x288")
            make = partial(encoded, codec=f"{codec} -vf {FIELDS[order]}", rate=rate, size=size)
            cases[f"interlaced {name} {order} in {ending}"] = ending, make
    progressive = ("mpeg2video", "null", "360x288")
    fields = ("mpeg2video -flags +ildct+ilme", FIELDS["tff"], "360x288")
    cases["interlaced from the middle on in .mpg"] = ".mpg", lambda path: joined(path, progressive, fields)
    cases["interlaced until the middle in .mpg"] = ".mpg", lambda path: joined(path, fields, progressive)
    return cases


def hard() -> Cases:
    """Films as phones, cameras and accidents leave them."""
    cases: Cases = {}

    def add(name: str, ending: str, make: Callable, *words: object, **named: object) -> None:
        cases[f"{name} in {ending}"] = ending, lambda path: make(path, *words, **named)

    for angle, flip in itertools.product((0, 90, 180, 270), ("", " -display_hflip", " -display_vflip")):
        add(f"turned by {angle}{flip.replace(' -display_', ' ')}", ".mp4", copied, f"-display_rotation {angle}{flip}")
    add("turned by 90", ".mov", copied, "-display_rotation 90")
    add("turned by 90", ".mkv", copied, "-display_rotation 90")
    forms = {
        "10 bit": "yuv420p10le",
        "4:2:2": "yuv422p",
        "4:2:2 10 bit": "yuv422p10le",
        "4:4:4": "yuv444p",
        "gray": "gray",
    }
    for name, form in forms.items():
        add(f"{name} H.264", ".mp4", encoded, f"libx264 -pix_fmt {form}")
        add(f"{name} FFV1", ".mkv", encoded, f"ffv1 -pix_fmt {form}")
    add("10 bit H.265", ".mkv", encoded, "libx265 -pix_fmt yuv420p10le -x265-params log-level=none")
    add("10 bit VP9", ".webm", encoded, "libvpx-vp9 -cpu-used 8 -pix_fmt yuv420p10le")
    add("RGB H.264", ".mp4", encoded, "libx264rgb")
    add("full range, marked by its format", ".mp4", encoded, "libx264 -pix_fmt yuvj420p")
    full = "libx264 -vf scale=out_range=full -pix_fmt yuv420p -color_range pc"
    add("full range, marked apart", ".mkv", encoded, full)
    add("full range, marked apart", ".mov", encoded, full)
    colors = "-color_primaries {0} -color_trc {0} -colorspace {0}"
    add("colours of HD", ".mp4", encoded, "libx264 " + colors.format("bt709"))
    add("colours of UHD", ".mp4", encoded, "libx264 -color_primaries bt2020 -color_trc bt709 -colorspace bt2020nc")
    add("alpha Animation", ".mov", encoded, "qtrle -vf format=argb,colorchannelmixer=aa=0.5")
    add("alpha VP9", ".webm", encoded, "libvpx-vp9 -cpu-used 8 -vf format=yuva420p,geq=lum=lum(X\\,Y):a=128")
    add("alpha ProRes", ".mov", encoded, "prores_ks -profile:v 4444 -pix_fmt yuva444p10le")
    add("alpha FFV1", ".mkv", encoded, "ffv1 -vf format=bgra,colorchannelmixer=aa=0.5")
    add("palette", ".gif", encoded, "gif -vf split[a][b];[a]palettegen=max_colors=16[p];[b][p]paletteuse")
    for size in ("175x143", "33x31", "2x2"):
        add(f"odd size {size}", ".mkv", encoded, "ffv1", size=size)
        add(f"odd size {size}", ".avi", encoded, "mjpeg", size=size)
        add(f"odd size {size}", ".mp4", encoded, "libx264 -pix_fmt yuv444p", size=size)
    add("pixels that are not square", ".mp4", encoded, "libx264 -vf setsar=16/11")
    for ending, codec in (
        (".mkv", "libx264"),
        (".mp4", "libx264"),
        (".webm", "libvpx"),
        (".gif", "gif"),
        (".mov", "mjpeg"),
        (".ts", "libx264"),
        (".avi", "mpeg4"),
        (".wmv", "wmv2"),
        (".flv", "flv"),
    ):
        add("variable rate", ending, uneven, codec)
    for begin in ("0.2", "0.36"):
        add(f"edit list from {begin} s", ".mp4", copied, f"-ss {begin}")
        add(f"edit list from {begin} s", ".mov", copied, f"-ss {begin}")
    add("edit list, B-frames at the start", ".mp4", copied, "-ss 0.1", codec="libx264 -bf 3 -g 24 -sc_threshold 0")
    add("delayed by an edit list", ".mp4", copied, "-itsoffset 0.5")
    add("fragmented", ".mp4", encoded, "libx264 -movflags +frag_keyframe+empty_moov")
    add("open GOPs, B-frames", ".ts", encoded, "mpeg2video -bf 2 -g 6")
    add("open GOPs, B-pyramid", ".mkv", encoded, "libx264 -bf 4 -b-pyramid normal -g 8 -x264-params open-gop=1")
    add("B-frames", ".avi", encoded, "libx264 -bf 3")
    add("packed B-frames", ".avi", encoded, "libxvid -bf 2")
    for ending, codec in (
        (".mkv", "libx264"),
        (".ts", "libx264"),
        (".avi", "mpeg4"),
        (".mpg", "mpeg2video"),
        (".webm", "libvpx"),
        (".flv", "flv"),
        (".mov", "mjpeg -movflags +faststart"),
        (".ogv", "libtheora"),
        (".gif", "gif"),
    ):
        add("cut off at 0.6", ending, cut, codec, 0.6)
    for ending, codec in (
        (".avi", "mjpeg"),
        (".avi", "mpeg4"),
        (".mkv", "libx264"),
        (".ts", "libx264"),
        (".mpg", "mpeg2video"),
        (".mov", "prores_ks"),
        (".mp4", "libx265 -x265-params log-level=none"),
        (".mkv", "ffv1 -slicecrc 1 -level 3"),
    ):
        add(f"damaged {codec.split()[0]}", ending, patched, codec, 0.5, 400)
    small, large = ("libx264", "null", SIZE), ("libx264", "null", "320x240")
    add("size that changes", ".ts", joined, small, large)
    add("size that shrinks", ".ts", joined, large, small)
    add("size that changes", ".mpg", joined, ("mpeg2video", "null", SIZE), ("mpeg2video", "null", "320x240"))
    add(
        "pixel format that changes",
        ".ts",
        joined,
        ("libx264", "format=yuv420p", SIZE),
        ("libx264", "format=yuv422p10le", SIZE),
    )
    add("two recordings in one", ".ts", joined, small, small)
    add("sound first", ".mp4", sounding, "-c:v", "libx264")
    add("sound first", ".mkv", sounding, "-c:v", "libx264")
    add("sound first", ".ts", sounding, "-c:v", "mpeg2video")
    add("cover and film", ".mp4", covered, True)
    two = ["-map", "1:v", "-map", "1:v", "-map", "0:a", "-s:v:0", "96x80", "-c:v", "libx264"]
    add("two films, the larger second", ".mkv", sounding, *two, "-disposition:v", "0")
    add("two films, the larger second", ".ts", sounding, *two)
    return cases


def refused() -> Cases:
    """What holds no film, and what nothing can show."""
    cases: Cases = {
        "sound alone in .mp4": (".mp4", lambda path: ffmpeg("-f", "lavfi", "-i", "sine=duration=0.5", path))
    }
    cases["cover without a film in .mp4"] = ".mp4", partial(covered, film=False)
    cases["cut off before its index in .mp4"] = ".mp4", partial(cut, codec="libx264", share=0.6)
    cases["an angle of 45 in .mp4"] = ".mp4", partial(copied, before="-display_rotation 45")
    return cases


KINDS = {"grid": grid, "interlaced": interlaced, "hard": hard, "refused": refused}


def program(path: Path, shape: tuple[int, ...], deinterlace: bool) -> tuple[np.ndarray, list[float]]:
    """What FFmpeg's own program decodes, uint8 `[T, H, W, 3]` blue, green, red, and each frame's time, nan for none."""
    words = ["-hide_banner", "-nostdin", "-threads", "1", "-i", path, "-an", "-sn"]
    words += ["-vf", f"{DEINTERLACE},showinfo=checksum=0" if deinterlace else "showinfo=checksum=0"]
    words += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]
    done = subprocess.run([FFMPEG, *map(str, words)], capture_output=True)
    times = [float(time.replace(b"NOPTS", b"nan")) for time in re.findall(rb" pts_time:(\S+)", done.stderr)]
    frames, size = np.frombuffer(done.stdout, np.uint8), int(np.prod(shape))
    return frames[: len(frames) // size * size].reshape(-1, *shape), times


def compare(name: str, ending: str, make: Callable[[Path], str], folder: Path) -> dict:
    """Make one file and read it in both ways: a row of the table.

    refused: what FFmpeg said if it does not make such a file. read: "equal" if every frame is that of FFmpeg's program
    and none is missing, "differs", or the sentence with which it is refused. late: seconds by which times differ.
    """
    path = folder / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name.rsplit(' in ', 1)[0])}{ending}"
    row = {
        "name": name,
        "refused": re.sub(r" @ 0x[0-9a-f]+", "", make(path)).replace(str(folder), "")[:120],
        "codec": "",
        "frames": 0,
        "program": 0,
    }
    row |= {"damaged": 0, "largest": 0, "mean": 0.0, "late": 0.0, "read": ""}
    if row["refused"]:
        return row
    try:
        video = decode_video(path, color=True)
    except VideoError as error:
        return row | {"read": str(error).removeprefix(f"{path} "), "program": len(program(path, (1, 1, 3), False)[1])}
    ours = video.frames.transpose(0, 2, 3, 1)[..., ::-1]
    theirs, times = program(path, ours.shape[1:], deinterlace=name.startswith(("interlaced", "DV")))
    both = min(len(ours), len(theirs))
    apart = np.abs(ours[:both].astype(np.int16) - theirs[:both])
    if len(times) == len(ours) and not np.isnan(times).any():
        row["late"] = round(float(np.abs(video.times[:-1] - times + times[0]).max()), 4)
    same = len(ours) == len(theirs) and not apart.any()
    row |= {"codec": video.codec, "frames": len(ours), "program": len(theirs), "damaged": video.damaged}
    row |= {"largest": int(apart.max(initial=0)), "mean": round(float(apart.sum() / max(apart.size, 1)), 4)}
    return row | {"read": "equal" if same else "differs"}


def mark(row: dict) -> str:
    """A cell of the grid: see `table`."""
    if row["refused"]:
        return "-"
    if row["read"] == "equal":
        return "="
    return "x" if row["codec"] == "" and row["program"] == 0 else "!"


def table(rows: list[dict]) -> str:
    """Codecs down, containers across, a mark for each."""
    marks = {row["name"]: mark(row) for row in rows}
    lines = [["", *CONTAINERS], ["---"] * (1 + len(CONTAINERS))]
    lines += [[codec, *(marks[f"{codec} in {ending}"] for ending in CONTAINERS)] for codec in CODECS]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main() -> None:
    from benchmark import markdown, store  # it brings torchvision, which the tests of a few files need not

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this word, printed and not stored")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    todo = [
        (kind, name, *case) for kind, cases in KINDS.items() for name, case in cases().items() if options.only in name
    ]
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for kind, name, ending, make in show_progress(todo, desc="media"):
        with tempfile.TemporaryDirectory() as folder:
            row = compare(name, ending, make, Path(folder))
        found[kind].append(row)
        if options.only:
            print(row)
    if options.only:
        return
    columns = {"name": "film", "frames": "frames", "program": "FFmpeg's program", "damaged": "left out"}
    columns |= {"largest": "largest difference", "mean": "mean", "late": "times differ by, s", "read": "read"}
    made = [row for kind in ("grid", "interlaced", "hard") for row in found[kind] if mark(row) not in "-x"]
    equal = sum(row["read"] == "equal" for row in made)
    program_name = f"FFmpeg's program ({imageio_ffmpeg.get_ffmpeg_version()})"
    title = f"Of {len(made)} films that {program_name} makes and reads, {DECODER} reads {equal} to the last bit alike"
    marks = (
        "= every frame equal, - FFmpeg makes no such file, x it makes one that it cannot read itself, ! another answer"
    )
    others = [row for row in found["grid"] if mark(row) == "!"]
    fields = [row for row in found["interlaced"] if not row["refused"]]
    damaged = "Damaged frames, and what builds on them, are left out, which FFmpeg's program does not do"
    texts = [
        f"Every codec in every container: {marks}.\n\n{table(found['grid'])}",
        *([f"Other answers.\n\n{markdown(columns, others)}"] if others else []),
        f"Interlaced, through {DEINTERLACE}.\n\n{markdown(columns, fields)}",
        f"Hard cases. {damaged}.\n\n{markdown(columns, found['hard'])}",
        f"To be refused.\n\n{markdown({'name': 'film', 'read': 'sentence'}, found['refused'])}",
    ]
    libraries = {name: ".".join(map(str, each)) for name, each in av.library_versions.items()}
    decoders = {"decoder": DECODER, "libraries": libraries, "program": imageio_ffmpeg.get_ffmpeg_version()}
    print(store(options.folder, "media", title, decoders | found, texts))


if __name__ == "__main__":
    main()

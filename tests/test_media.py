"""Films of many codecs, interlaced, turned, uneven, damaged: each frame against those of FFmpeg's own program."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tools import media_matrix as media

from deformlib.corpus import Corpus
from deformlib.dataset import load_batch
from deformlib.media.decode import Decoder, decode
from deformlib.splits import ORIGINAL
from deformlib.video import VIDEO_SUFFIXES, VideoError, decode_video, read_video, resize, sample_indices

ALL = {name: case for cases in media.KINDS.values() for name, case in cases().items()}
EQUAL = """interlaced MPEG-2 tff in .mpg|interlaced MPEG-4 ASP bff in .mp4|interlaced H.264 MBAFF tff in .mts
interlaced DV 4:1:1 bff in .dv|interlaced from the middle on in .mpg|interlaced until the middle in .mpg
turned by 90 in .mp4|turned by 270 vflip in .mp4|4:2:2 10 bit H.264 in .mp4|full range, marked apart in .mkv
alpha Animation in .mov|palette in .gif|odd size 175x143 in .avi|variable rate in .mkv|edit list from 0.36 s in .mp4
packed B-frames in .avi|open GOPs, B-pyramid in .mkv|size that changes in .ts|pixel format that changes in .ts
sound first in .ts|cover and film in .mp4|two films, the larger second in .mkv|cut off at 0.6 in .ogv"""
EQUAL_TOO = """interlaced MPEG-2 bff in .mxf|interlaced MPEG-2 tff in .m2ts|interlaced MPEG-4 ASP tff in .avi
interlaced H.264 MBAFF bff in .mp4|interlaced DV bff in .avi|interlaced ProRes tff in .mov|turned by 180 hflip in .mp4
10 bit VP9 in .webm|RGB H.264 in .mp4|colours of HD in .mp4|alpha ProRes in .mov|variable rate in .webm
edit list, B-frames at the start in .mp4|B-frames in .avi|fragmented in .mp4|H.263 in .3gp|Theora in .ogv|AV1 in .webm
Cinepak in .avi|WMV 8 in .wmv"""  # other codecs on the same ways through the reader


def listed(text: str) -> list[str]:
    """The names in a table of names."""
    return [name for line in text.splitlines() for name in line.split("|")]


@cache
def film(ending: str, codec: str, *words: str, seconds: float = 0.96) -> bytes:
    """A small film, made once."""
    with TemporaryDirectory() as folder:
        path = Path(folder, f"a{ending}")
        assert media.encoded(path, codec, *words, seconds=seconds) == ""
        return path.read_bytes()


@pytest.mark.parametrize(
    "name", [*listed(EQUAL), *(pytest.param(name, marks=pytest.mark.slow) for name in listed(EQUAL_TOO))]
)
def test_every_frame_is_that_of_ffmpegs_program(name: str, tmp_path: Path):
    ending, make = ALL[name]
    row = media.compare(name, ending, make, tmp_path)
    assert row["refused"] == "" and row["read"] == "equal" and row["frames"] > 0 == row["damaged"], row
    assert row["late"] < 0.002, row


MOMENTS = [("MPEG-2", "tff"), ("H.264 MBAFF", "bff")]
MOMENTS_TOO = [("MPEG-2", "bff"), ("MPEG-4 ASP", "tff"), ("MPEG-4 ASP", "bff"), ("H.264 MBAFF", "tff"), ("DV", "bff")]
MOMENTS_TOO += [("ProRes", "tff"), ("ProRes", "bff")]


@pytest.mark.parametrize(
    ("name", "order"), [*MOMENTS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MOMENTS_TOO)]
)
def test_an_interlaced_film_shows_the_moment_of_its_first_field(name: str, order: str, tmp_path: Path):
    """Against the progressive film of which the fields were made, without a decoder: no comb, no repeated frame."""
    codec, size = media.INTERLACED[name][0], "720x576" if name == "DV" else "360x288"
    path, moments = tmp_path / f"a{'.mov' if name == 'ProRes' else '.avi'}", tmp_path / "moments.mkv"
    words = ["-pix_fmt", "yuv420p"] if name != "ProRes" else []
    assert media.encoded(path, codec, *words, "-vf", media.FIELDS[order], rate="50", size=size) == ""
    assert media.encoded(moments, "ffv1", "-pix_fmt", "yuv420p", rate="50", size=size) == ""
    video, truth = decode_video(path), read_video(moments)
    assert video.interlaced and len(video.frames) == 12 and len(truth) == 24 and video.damaged == 0
    first, second = truth[::2].astype(int), truth[1::2].astype(int)
    upper = np.arange(video.size[0]) % 2 == (0 if order == "tff" else 1)
    woven = np.where(upper[:, None], first, second)
    moves = np.abs(second - first) > 20
    away, combed = (np.abs(each - first)[moves].mean() for each in (video.frames, woven))
    assert away < 0.6 * combed, (away, combed)
    assert all((one != two).any() for one, two in zip(video.frames, video.frames[1:], strict=False))


DAMAGED = [("mpeg4", ".avi"), ("mjpeg", ".avi"), ("libx264", ".ts"), ("mpeg2video", ".mpg"), ("prores_ks", ".mov")]


@pytest.mark.parametrize(("codec", "ending"), DAMAGED)
def test_frames_that_are_not_whole_are_left_out_and_counted(codec: str, ending: str, tmp_path: Path):
    """Each frame handed on is one of the undamaged film, to the last bit, also if it builds on others, at its time."""
    data, path = film(ending, codec), tmp_path / f"a{ending}"
    path.write_bytes(data)
    whole, middle = decode_video(path), len(data) // 2
    damages = {"a stretch of zeros": data[:middle] + bytes(400) + data[middle + 400 :]}
    if codec != "prores_ks":  # its index lies behind the film
        damages["cut off"] = data[: int(0.6 * len(data))]
    for how, damaged in damages.items():
        path.write_bytes(damaged)
        video = decode_video(path)
        assert 0 < len(video.frames) < len(whole.frames) == 24 and len(video.times) == len(video.frames) + 1, how
        assert video.damaged > 0 or codec == "libx264"  # what was cut off between two of its packets leaves no trace
        for frame, time in zip(video.frames, video.times, strict=False):
            (number,) = np.flatnonzero((whole.frames == frame).all(axis=(1, 2, 3)))
            assert abs(whole.times[number] - time) < 0.021, how


@pytest.mark.parametrize("name", media.refused())
def test_what_holds_no_film_is_refused_in_one_sentence(name: str, tmp_path: Path):
    ending, make = ALL[name]
    assert make(path := tmp_path / f"a film{ending}") == ""
    with pytest.raises(VideoError) as error:
        decode_video(path)
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said and ": " in said
    assert ("ffmpeg -i 'a film.mp4' -vf yadif=deint=interlaced 'a film_converted.mp4'" in said) == ("sound" not in said)


FORMS = {  # container as FFmpeg's program calls it, encoder: the endings under which cameras and programs write it
    ("3g2", "libx264"): ".3g2",
    ("3gp", "libx264"): ".3gp",
    ("asf", "wmv2"): ".asf .wmv",
    ("avi", "libx264"): ".avi .divx",
    ("dv", "dvvideo -s 720x576 -pix_fmt yuv420p"): ".dv",
    ("flv", "libx264"): ".f4v .flv",
    ("gif", "gif"): ".gif",
    ("mpeg1video", "mpeg1video"): ".m1v",
    ("mpegts", "libx264"): ".m2t .m2ts .mts .tod .ts",
    ("mpeg2video", "mpeg2video"): ".m2v .mpv",
    ("m4v", "mpeg4"): ".m4v",
    ("matroska", "libx264"): ".mkv",
    ("mpeg", "mpeg2video"): ".mod .mpe .mpeg .mpg",
    ("vob", "mpeg2video"): ".vob",
    ("mov", "libx264"): ".mov .qt",
    ("mp4", "libx264"): ".mp4",
    ("mxf", "mpeg2video"): ".mxf",
    ("ogg", "libtheora"): ".ogg .ogm .ogv",
    ("webm", "libvpx"): ".webm",
}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[0])
def test_every_ending_is_read(form: tuple[str, str], tmp_path: Path):
    """In small letters and in capitals."""
    endings = FORMS[form].split()
    data = film(endings[0], form[1], "-f", form[0], seconds=0.48)
    for ending in (*endings, endings[0].upper()):
        path = tmp_path / f"a{ending}"
        path.write_bytes(data)
        assert len(read_video(path, size=16)) == 12, ending


def test_no_ending_is_forgotten():
    assert sorted(" ".join(FORMS.values()).split()) == sorted(VIDEO_SUFFIXES)


def stale(begin: int) -> type[Decoder]:
    """A decoder as OpenCV's: it says that all is well and hands out one picture again and again, after good ones."""

    class Stale(Decoder):
        def frames(self):
            first = None
            for number, frame in enumerate(super().frames()):
                first = first if number > begin and first else frame
                yield first

    return Stale


def test_a_decoder_that_hands_out_one_picture_is_found_out(tmp_path: Path):
    """In codecs with key frames, with packets of one size, and interlaced; a film that stands still is none of it."""
    films = {"a.avi": "mjpeg", "b.mpg": "mpeg2video -flags +ildct+ilme", "d.mkv": "mpeg4 -g 1"}
    films["c.avi"] = "dvvideo -s 720x576 -pix_fmt yuv420p"
    still = ["-vf", "select=eq(n\\,0),loop=11:1,setpts=N/25/TB"]
    for name, codec in films.items():
        assert media.encoded(tmp_path / name, codec) == media.encoded(tmp_path / f"still_{name}", codec, *still) == ""
    for size in ("48x32", "176x144"):
        assert media.encoded(tmp_path / f"screen.{size}.mp4", "libx264", *still, size=size) == ""
    assert media.encoded(tmp_path / "learning.mkv", "ffv1", *still) == ""
    assert media.encoded(tmp_path / "shifted.mp4", "libx264 -profile:v baseline -g 1 -qp 20", *still) == ""
    for path in sorted(tmp_path.iterdir()):
        assert len(read_video(path)) == 12
    for name in films:
        for begin in (0, 2):
            with pytest.raises(VideoError, match=rf"{name} decodes to one and the same picture .*: .*ffmpeg -i {name}"):
                decode(tmp_path / name, decoder=stale(begin))


def test_the_committed_table_holds():
    """Every codec is read in every container in which FFmpeg's program reads it, interlaced films to the last bit."""
    record = json.loads(media.RESULTS.joinpath("media.json").read_text())
    text = media.RESULTS.joinpath("media.md").read_text()
    assert {row["name"] for kind in media.KINDS for row in record[kind]} == set(ALL)
    assert media.table(record["grid"]) in text
    marks = [media.mark(row) for row in record["grid"]]
    assert "!" not in marks and marks.count("=") > 130 and len(media.CODECS) >= 15 and len(media.CONTAINERS) >= 11
    assert {row["read"] for row in record["interlaced"] if not row["refused"]} == {"equal"}
    assert all(row["read"] == "equal" or row["damaged"] or "cut off" in row["name"] for row in record["hard"])
    assert record["decoder"].startswith("PyAV ") and "0x" not in json.dumps(record) and "/tmp" not in text


# GEMEP's way in


GEMEP = {  # file name: codec, class
    "001ang_a01_s1.avi": ("mpeg4 -flags +ildct+ilme -b:v 8M", "anger"),
    "002joy_a01_s1.avi": ("dvvideo -pix_fmt yuv420p", "joy"),
    "003des_a02_s1.avi": ("mpeg2video -flags +ildct+ilme -b:v 8M", "despair"),
    "004irr_a02_s1.avi": ("libx264 -flags +ildct+ilme", "irritation"),
}


@pytest.mark.parametrize("names", [list(GEMEP)[:2], pytest.param(list(GEMEP)[2:], marks=pytest.mark.slow)])
def test_gemeps_films_go_from_file_to_batch(tmp_path: Path, names: list[str]):
    """720 x 576, interlaced, .avi, GEMEP's names: labels and frames are those of FFmpeg's own deinterlaced frames."""
    folder = tmp_path / "GEMEP"
    folder.mkdir()
    for name in names:
        fields = f"hue=h={name[2]}0,{media.FIELDS['bff' if 'joy' in name else 'tff']}"
        words = {"seconds": 0.8, "rate": "50", "size": "720x576"}
        assert media.encoded(folder / name, GEMEP[name][0], "-vf", fields, **words) == ""
    corpus = Corpus(folder, 32, cache=tmp_path / "cache")
    assert [video.path.name for video in corpus.videos] == names and corpus.rejected == ()
    assert len(corpus.classes) == 17 and [corpus.classes[label] for label in corpus.labels] == [
        GEMEP[n][1] for n in names
    ]
    clips, labels = load_batch(corpus, np.array([[clip, ORIGINAL] for clip in range(len(names))]), length=16)
    assert clips.shape == (len(names), 1, 16, 32, 32) and labels.tolist() == corpus.labels.tolist()
    assert clips.diff(dim=2).abs().amax(dim=(1, 3, 4)).min() > 0
    for clip, name in zip(clips, names, strict=True):
        pictures, times = media.program(folder / name, (576, 720, 3), deinterlace=True)
        assert len(pictures) == 20 and np.allclose(np.diff(times), 0.04, atol=1e-3)
        small = [resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), 32) for picture in pictures]
        wanted = torch.from_numpy(np.stack(small)[sample_indices(20, 16)])
        assert torch.equal(clip[0], wanted.float() / 255)


def test_recordings_whose_clocks_differ_are_joined(tmp_path: Path):
    """A transport stream joined to one of an hour later, and to one of earlier: no frame lasts an hour."""
    data = b""
    for offset in ("3600", "7200", "0"):
        assert media.encoded(tmp_path / "part.ts", "mpeg2video", "-output_ts_offset", offset) == ""
        data += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "all.ts").write_bytes(data)
    video = decode_video(tmp_path / "all.ts", size=16)
    assert len(video.frames) == 36 and np.allclose(video.times, np.arange(37) / 25) and video.damaged == 0


def test_a_camera_that_writes_exif_into_each_frame(tmp_path: Path):
    """FFmpeg hands EXIF on as side data that PyAV may not know, and then it names none; the film stands upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=exif)
    for name in ("a.mov", "a.avi"):
        assert media.ffmpeg("-framerate", "25", "-i", tmp_path / "%d.jpg", "-c", "copy", tmp_path / name) == ""
        video = decode_video(tmp_path / name, color=True)
        theirs, _ = media.program(tmp_path / name, (64, 48, 3), deinterlace=False)
        assert video.size == (64, 48) and np.array_equal(video.frames.transpose(0, 2, 3, 1)[..., ::-1], theirs)


HEVC = "libx265 -x265-params log-level=none"
LOST = [(HEVC, 1), ("libx264", 1), ("mpeg2video", 5)]
LOST_TOO = [(HEVC, 5), ("libx264", 5), ("mpeg2video", 1)]


@pytest.mark.parametrize(
    ("codec", "lost"), [*LOST, *(pytest.param(*case, marks=pytest.mark.slow) for case in LOST_TOO)]
)
def test_frames_behind_lost_parts_of_a_stream_are_left_out(codec: str, lost: int, tmp_path: Path):
    """Packets that a receiver missed: what builds on them would be made of other pictures, and decoders do not tell."""
    path, packet = tmp_path / "a.ts", 188
    data = film(".ts", codec, "-g", "16", "-pix_fmt", "yuv420p", seconds=1.6)
    path.write_bytes(data)
    whole = read_video(path).astype(int)
    damaged = []
    for place in (0.2, 0.4, 0.6):
        start = int(place * len(data)) // packet * packet
        path.write_bytes(data[:start] + data[start + lost * packet :])
        video = decode_video(path)
        damaged.append(len(whole) - len(video.frames))
        away = [np.abs(whole - frame).mean(axis=(1, 2, 3)).min() for frame in video.frames]
        assert max(away) < 0.5 and len(video.frames) > 8, (place, away)
    assert max(damaged) > 2

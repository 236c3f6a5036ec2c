"""Films of many codecs and containers, interlaced, turned, uneven, damaged: each frame against those of FFmpeg's own program."""

import itertools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tools import media_matrix as media

from deformlib import frames
from deformlib.augment import load_batch
from deformlib.corpus import ORIGINAL, Corpus
from deformlib.frames import VIDEO_SUFFIXES, VideoError, decode_video, read_video, resize, sample_indices
from deformlib.network import NetworkConfig, VideoNet

ALL = {name: case for cases in media.KINDS.values() for name, case in cases().items()}
EQUAL = """interlaced MPEG-2 tff in .mpg|interlaced MPEG-2 bff in .mxf|interlaced MPEG-2 tff in .m2ts|interlaced MPEG-4 ASP tff in .avi
interlaced MPEG-4 ASP bff in .mp4|interlaced H.264 MBAFF tff in .mts|interlaced H.264 MBAFF bff in .mp4|interlaced DV bff in .avi
interlaced DV 4:1:1 bff in .dv|interlaced ProRes tff in .mov|interlaced from the middle on in .mpg|interlaced until the middle in .mpg
turned by 90 in .mp4|turned by 270 vflip in .mp4|turned by 180 hflip in .mp4|4:2:2 10 bit H.264 in .mp4|10 bit VP9 in .webm|RGB H.264 in .mp4
full range, marked apart in .mkv|colours of HD in .mp4|alpha Animation in .mov|alpha ProRes in .mov|palette in .gif|odd size 175x143 in .avi
variable rate in .webm|edit list from 0.36 s in .mp4|edit list, B-frames at the start in .mp4|B-frames in .avi|packed B-frames in .avi
open GOPs, B-pyramid in .mkv|fragmented in .mp4|size that changes in .ts|pixel format that changes in .ts|sound first in .ts|cover and film in .mp4
two films, the larger second in .mkv|cut off at 0.6 in .ogv|H.263 in .3gp|Theora in .ogv|AV1 in .webm|Cinepak in .avi|WMV 8 in .wmv"""
EQUAL = [name for line in EQUAL.splitlines() for name in line.split("|")]


@pytest.mark.parametrize("name", EQUAL)
def test_every_frame_is_that_of_ffmpegs_program(name: str, tmp_path: Path):
    ending, make = ALL[name]
    row = media.compare(name, ending, make, tmp_path)
    assert row["refused"] == "" and row["read"] == "equal" and row["frames"] > 0 == row["damaged"], row
    assert row["late"] < 0.002, row


@pytest.mark.parametrize("name", ["MPEG-2", "MPEG-4 ASP", "H.264 MBAFF", "DV", "ProRes"])
@pytest.mark.parametrize("order", media.FIELDS)
def test_an_interlaced_film_shows_the_moment_of_its_first_field(name: str, order: str, tmp_path: Path):
    """Against the progressive film from which the fields were taken, which no decoder has touched: no comb, no repeated frame."""
    if name == "DV" and order == "tff":
        pytest.skip("DV has the lower field first")
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
    assert all((one != two).any() for one, two in zip(video.frames, video.frames[1:]))


DAMAGED = [("mpeg4", ".avi"), ("mjpeg", ".avi"), ("libx264", ".ts"), ("mpeg2video", ".mpg"), ("prores_ks", ".mov")]


@pytest.mark.parametrize("how", ["cut", "patched"])
@pytest.mark.parametrize(("codec", "ending"), DAMAGED)
def test_frames_that_are_not_whole_are_left_out_and_counted(codec: str, ending: str, how: str, tmp_path: Path):
    """Each frame handed on is one of the undamaged film, to the last bit, also those that build on others; its time stays its own."""
    damaged, clean = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    if (codec, how) == ("prores_ks", "cut"):
        pytest.skip("its index lies behind the film")
    made = media.cut(damaged, codec, 0.6) if how == "cut" else media.patched(damaged, codec, 0.5, 400)
    assert made == media.encoded(clean, codec, seconds=0.96) == ""
    video, whole = decode_video(damaged), decode_video(clean)
    assert 0 < len(video.frames) < len(whole.frames) == 24 and len(video.times) == len(video.frames) + 1
    assert video.damaged > 0 or codec == "libx264"  # what was cut off between two of its packets leaves no trace
    for frame, time in zip(video.frames, video.times):
        (number,) = np.flatnonzero((whole.frames == frame).all(axis=(1, 2, 3)))
        assert abs(whole.times[number] - time) < 0.021


@pytest.mark.parametrize("name", media.refused())
def test_what_holds_no_film_is_refused_in_one_sentence(name: str, tmp_path: Path):
    ending, make = ALL[name]
    assert make(path := tmp_path / f"a film{ending}") == ""
    with pytest.raises(VideoError) as error:
        decode_video(path)
    said = str(error.value)
    assert said.startswith(str(path)) and "\n" not in said and ": " in said
    assert ("ffmpeg -i 'a film.mp4' -vf yadif=deint=interlaced 'a film_converted.mp4'" in said) == ("sound" not in said)


@pytest.mark.parametrize("ending", VIDEO_SUFFIXES)
def test_every_ending_is_read(ending: str, tmp_path: Path):
    """In the container that FFmpeg's program chooses for it, or in the one that cameras give that ending."""
    forms = {".divx": "avi", ".mod": "mpeg", ".tod": "mpegts", ".mpe": "mpeg", ".mpv": "mpeg2video", ".m2t": "mpegts", ".ogm": "ogg", ".qt": "mov", ".f4v": "flv"}
    codecs = {".ogg": "libtheora", ".ogv": "libtheora", ".ogm": "libtheora", ".webm": "libvpx", ".wmv": "wmv2", ".asf": "wmv2", ".gif": "gif", ".dv": "dvvideo -s 720x576 -pix_fmt yuv420p", ".m4v": "mpeg4", ".m1v": "mpeg1video", ".flv": "flv"}
    path, form = tmp_path / f"a{ending}", ["-f", forms[ending]] if ending in forms else []
    mpeg = ending in (".mpg", ".mpeg", ".mpe", ".mpv", ".m2v", ".vob", ".mod", ".mxf")
    said = media.encoded(path, codecs.get(ending, "mpeg2video" if mpeg else "libx264"), *form)
    assert said == "" and len(read_video(path)) == 12
    shouting = path.with_name(f"B{ending.upper()}")
    path.rename(shouting)
    assert len(read_video(shouting, size=16)) == 12


def stale(reader: type, begin: int) -> type:
    """A decoder as OpenCV's: it says that all is well and hands out one picture again and again, after some good ones."""

    class Stale(reader):
        def frames(self):
            first = None
            for number, frame in enumerate(super().frames()):
                first = first if number > begin and first else frame
                yield first

    return Stale


def test_a_decoder_that_hands_out_one_picture_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In codecs with key frames, with packets of one size, and interlaced; a film that stands still is none of it."""
    films = {"a.avi": "mjpeg", "b.mpg": "mpeg2video -flags +ildct+ilme", "c.avi": "dvvideo -s 720x576 -pix_fmt yuv420p", "d.mkv": "mpeg4 -g 1"}
    still = ["-vf", "select=eq(n\\,0),loop=11:1,setpts=N/25/TB"]
    for name, codec in films.items():
        assert media.encoded(tmp_path / name, codec) == media.encoded(tmp_path / f"still_{name}", codec, *still) == ""
    for size in ("48x32", "176x144"):
        assert media.encoded(tmp_path / f"screen.{size}.mp4", "libx264", *still, size=size) == ""
    assert media.encoded(tmp_path / "learning.mkv", "ffv1", *still) == ""
    assert media.encoded(tmp_path / "shifted.mp4", "libx264 -profile:v baseline -g 1 -qp 20", *still) == ""
    for path in sorted(tmp_path.iterdir()):
        assert len(read_video(path)) == 12
    honest = frames._Decoder
    for name, begin in itertools.product(films, (0, 2)):
        monkeypatch.setattr(frames, "_Decoder", stale(honest, begin))
        with pytest.raises(VideoError, match=rf"{name} decodes to one and the same picture .* packets of \w+ differ: .*ffmpeg -i {name}"):
            read_video(tmp_path / name)


def test_the_committed_table_holds():
    """Every codec is read in every container in which FFmpeg's program reads it, and each interlaced film to the last bit."""
    record, text = (json.loads(media.RESULTS.joinpath("media.json").read_text()), media.RESULTS.joinpath("media.md").read_text())
    assert {row["name"] for kind in media.KINDS for row in record[kind]} == set(ALL) and media.table(record["grid"]) in text
    marks = [media.mark(row) for row in record["grid"]]
    assert "!" not in marks and marks.count("=") > 130 and len(media.CODECS) >= 15 and len(media.CONTAINERS) >= 11
    assert {row["read"] for row in record["interlaced"] if not row["refused"]} == {"equal"}
    assert all(row["read"] == "equal" or row["damaged"] or "cut off" in row["name"] for row in record["hard"])
    assert record["decoder"].startswith("PyAV ") and "0x" not in json.dumps(record) and "/tmp" not in text


# GEMEP's way in


def test_gemeps_films_go_from_file_to_prediction(tmp_path: Path):
    """720 x 576, interlaced, .avi, GEMEP's names: labels, frames and a network's answer are those of FFmpeg's own deinterlaced frames."""
    folder, codecs = tmp_path / "GEMEP", ("mpeg4 -flags +ildct+ilme -b:v 8M", "dvvideo -pix_fmt yuv420p", "mpeg2video -flags +ildct+ilme -b:v 8M", "libx264 -flags +ildct+ilme")
    folder.mkdir()
    names = ("001ang_a01_s1.avi", "002joy_a01_s1.avi", "003des_a02_s1.avi", "004irr_a02_s1.avi")
    for name, codec in zip(names, codecs, strict=True):
        order = media.FIELDS["bff" if "dv" in codec else "tff"]
        assert media.encoded(folder / name, codec, "-vf", f"hue=h={name[2]}0,{order}", seconds=1.6, rate="50", size="720x576") == ""
    corpus = Corpus(folder, 32, cache=tmp_path / "cache")
    assert [video.path.name for video in corpus.videos] == list(names) and corpus.rejected == () and len(corpus.classes) == 17
    assert [corpus.classes[label] for label in corpus.labels] == ["anger", "joy", "despair", "irritation"]
    pairs = np.array([[clip, ORIGINAL] for clip in range(4)])
    clips, labels = load_batch(corpus, pairs, length=16)
    assert clips.shape == (4, 1, 16, 32, 32) and labels.tolist() == corpus.labels.tolist()
    theirs = []
    for name in names:
        pictures, times = media.program(folder / name, (576, 720, 3), deinterlace=True)
        assert len(pictures) == 40 and np.allclose(np.diff(times), 0.04, atol=1e-3)
        small = [resize(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), 32) for picture in pictures]
        theirs.append(np.stack(small)[sample_indices(40, 16)])
    wanted = torch.from_numpy(np.stack(theirs))[:, None].float() / 255
    assert torch.equal(clips, wanted) and clips.diff(dim=2).abs().amax(dim=(1, 3, 4)).min() > 0
    torch.manual_seed(0)
    net = VideoNet(NetworkConfig(length=16, size=32, classes=17, conv3d=(4, 4, 8), hidden=(4, 4, 4), conv2d=(8, 8, 8), deform_steps=((0,), (1,), ()))).eval()
    with torch.inference_mode():
        answers, expected = net(clips), net(wanted)
    assert torch.equal(answers, expected) and answers.shape == (4, 17) and torch.isfinite(answers).all()


def test_recordings_whose_clocks_differ_are_joined(tmp_path: Path):
    """A transport stream joined to one that says it is an hour later, and to one that says it is earlier: no frame lasts an hour."""
    data = b""
    for offset in ("3600", "7200", "0"):
        assert media.encoded(tmp_path / "part.ts", "mpeg2video", "-output_ts_offset", offset) == ""
        data += (tmp_path / "part.ts").read_bytes()
    (tmp_path / "all.ts").write_bytes(data)
    video = decode_video(tmp_path / "all.ts", size=16)
    assert len(video.frames) == 36 and np.allclose(video.times, np.arange(37) / 25) and video.damaged == 0


def test_a_camera_that_writes_exif_into_each_frame(tmp_path: Path):
    """FFmpeg hands EXIF on as side data that PyAV may not know, and then it names none; the film stands upright all the same."""
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


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video", "libx265 -x265-params log-level=none"])
@pytest.mark.parametrize("lost", [1, 5])
def test_frames_behind_lost_parts_of_a_stream_are_left_out(codec: str, lost: int, tmp_path: Path):
    """Packets that a receiver missed: what builds on them would be made of other pictures, and decoders do not tell."""
    path, packet = tmp_path / "a.ts", 188
    assert media.encoded(path, codec, "-g", "16", "-pix_fmt", "yuv420p", seconds=1.6) == ""
    whole, data = read_video(path).astype(int), path.read_bytes()
    damaged = []
    for place in (0.2, 0.4, 0.6):
        start = int(place * len(data)) // packet * packet
        path.write_bytes(data[:start] + data[start + lost * packet :])
        video = decode_video(path)
        damaged.append(len(whole) - len(video.frames))
        away = [np.abs(whole - frame).mean(axis=(1, 2, 3)).min() for frame in video.frames]
        assert max(away) < 0.5 and len(video.frames) > 8, (place, away)
    assert max(damaged) > 2

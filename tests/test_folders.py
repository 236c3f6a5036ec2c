"""Folders as people have them: tables, names, class folders, and what is said of all the rest."""

from pathlib import Path

import pytest
from factories import folder_of, numbered_video, touch, twelve_videos

from deformlib.corpus import Corpus
from deformlib.media.folders import (
    EMOTIONS,
    CorpusError,
    LabelledFolder,
    find_labels,
    left_out_lines,
    read_manifest,
    read_source,
    remarks_on,
)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder for decoded frames, which is not there yet."""
    return tmp_path / "a cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve videos of three classes and four actors."""
    return twelve_videos(tmp_path / "videos")


# Tables


def test_read_manifest_gives_labels_and_reasons(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    for name in ("a.bvh", "deep/b.bvh"):
        (tmp_path / name).touch()
    rows = "file,emotion,actor\n ./a.bvh , joy , Ann \ndeep/b.bvh,fear\na.bvh,fear,Bob\nc.bvh,joy,Ann\n/etc/x,joy,Ann\n"
    (tmp_path / "manifest.csv").write_text(rows, encoding="utf-8-sig")
    labels, left_out, unused = read_manifest(tmp_path)
    assert labels == {"a.bvh": ("joy", "Ann"), str(Path("deep/b.bvh")): ("fear", None)} and unused == []
    assert [path for path, _ in left_out] == ["a.bvh", "c.bvh", "/etc/x"]
    assert not any(reason.endswith(".") for _, reason in left_out)


TABLES = {  # the same table, as people and spreadsheets write it
    "blanks": "path,label, actor\na.avi, joy, Ann\ndeep/b.avi, fear, Bob\n",
    "capitals": "Path,LABEL,Actor\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "other words": "file name,Emotion,Subject ID\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "semicolons": "path;label;actor\na.avi;joy;Ann\ndeep/b.avi;fear;Bob\n",
    "tabs": "path\tlabel\tactor\na.avi\tjoy\tAnn\ndeep/b.avi\tfear\tBob\n",
    "bars": "path | label | person\na.avi | joy | Ann\ndeep/b.avi | fear | Bob\n",
    "sep": "sep=;\r\npath;label;actor\r\na.avi;joy;Ann\r\ndeep/b.avi;fear;Bob\r\n",
    "sep of another kind": '"sep=^"\npath^label^actor\na.avi^joy^Ann\ndeep/b.avi^fear^Bob\n',
    "empty lines": "\n  \n,,\npath,label,actor\n\n,,\na.avi,joy,Ann\n ,,\ndeep/b.avi,fear,Bob\n,,\n\n",
    "a mark": "\ufeffpath,label,actor\na.avi,joy,Ann\ndeep/b.avi,fear,Bob\n",
    "two marks": "\ufeff\ufeffactor,path,label\nAnn,a.avi,joy\nBob,deep/b.avi,fear\n",
    "quotes": '"path",\'label\',"actor"\n"a.avi" , "joy","Ann"\n"deep/b.avi","fear","Bob"\n',
    "Windows": "path,label,actor\n.\\a.avi,joy,Ann\ndeep\\b.avi,fear,Bob\n",
    "old line ends": "path,label,actor\ra.avi,joy,Ann\rdeep/b.avi,fear,Bob\r",
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_manifest_is_read_as_people_write_it(tmp_path: Path, kind: str, encoding: str):
    (tmp_path / "deep").mkdir()
    for name in ("a.avi", "deep/b.avi"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_bytes(TABLES[kind].encode(encoding))
    wanted = {"a.avi": ("joy", "Ann"), str(Path("deep/b.avi")): ("fear", "Bob")}
    assert read_manifest(tmp_path) == (wanted, [], [])


REFUSED = {  # what the sentence says was met
    "": "is empty",
    "\n;;\n": "needs a first line path,label,actor.*';;'",
    "path;label;actor\n": "has columns, but no line",
    "a.avi;joy;Ann\n": "needs a first line path,label,actor.*its columns are 'a.avi', 'joy', 'Ann'",
    "path label actor\na.avi joy Ann\n": "its columns are 'path label actor'",
    "path,mood\na.avi,joy\n": "no label.*its columns are 'path', 'mood'",
    "path,File,label\na.avi,b.avi,joy\n": "several columns for the path .'path', 'File'.",
    "path,label,Class\na.avi,joy,1\n": "several columns for the label",
    "path,label,actor,person\na.avi,joy,Ann,1\n": "several columns for the actor .'actor', 'person'.",
    "path,label,label\na.avi,joy,fear\n": "several columns for the label",
    'path,label\na.avi,"joy\nb.avi,fear\n': "line 3: a cell of several lines ends here",
    'path,label,notes\na.avi,joy,"tall\nb.avi,fear,\n': "line 3: a cell of several lines ends here",
    "path,label\na.avi,joy\nmove.bvh,joy\n": "names motion capture .move.bvh. and other files .a.avi.",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_manifest_that_cannot_be_used_is_told_what_was_met(tmp_path: Path, text: str):
    for name in ("a.avi", "b.avi", "move.bvh"):
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(CorpusError, match=rf"manifest\.csv.*{REFUSED[text]}") as caught:
        read_manifest(tmp_path)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_row_is_left_out_for_a_reason_and_unread_columns_are_named(tmp_path: Path):
    """Nothing slips by a column, and no row of empty cells is a file."""
    (tmp_path / "a.avi").touch()
    rows = [
        "path,label,actor,take,",
        "a.avi,joy,Ann,1,",
        ",joy,Ann,2,",
        "b.avi,joy, happy,Ann,3,4",
        r"..\c.avi,joy,Ann,4",
        "a.avi,,Ann",
    ]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    labels, left_out, unused = read_manifest(tmp_path)
    assert labels == {"a.avi": ("joy", "Ann")} and unused == ["take"]
    reasons = dict(left_out)
    assert "no file in it" in reasons.pop("line 3") and "more cells than columns" in reasons.pop("b.avi")
    assert (
        "leaves the corpus folder" in reasons.pop(str(Path("../c.avi")))
        and "second line" in reasons.pop("a.avi")
        and not reasons
    )


def test_accents_may_be_one_sign_or_two(tmp_path: Path):
    """A folder from one system, a table from another: the names look alike."""
    for name, form in (("\u00e9.avi", "e\u0301.avi"), ("o\u0308.avi", "\u00f6.avi")):
        (tmp_path / form).touch()
        (tmp_path / "manifest.csv").write_text(f"path,label\n{name},joy\n", encoding="utf-8")
        assert read_manifest(tmp_path)[:2] == ({form: ("joy", None)}, [])


def test_a_missing_actor_or_label_is_no_name(tmp_path: Path):
    """As pandas and people write what is missing."""
    (tmp_path / "a.avi").touch()
    for word in ("NaN", "nan", "None", "N/A", "<NA>", "unknown", "-", " ? "):
        (tmp_path / "manifest.csv").write_text(f"path,label,actor\na.avi,none,{word}\n")
        assert read_manifest(tmp_path)[0] == {"a.avi": ("none", None)}
    (tmp_path / "manifest.csv").write_text("path,label,actor\na.avi,NaN,Ann\n")
    assert read_manifest(tmp_path)[:2] == ({}, [("a.avi", "manifest.csv has no label for it: fill it in")])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("path,label\na.avi,joy\n".encode("utf-16-le"), "zero bytes.*save it again as CSV UTF-8"),
        ("path,label\na.avi,joy\n".encode("utf-32"), "zero bytes"),
        (b'path,label\na.avi,"joy\n' + 30000 * b"b.avi,fear\n", "cannot be taken apart.*close a quotation mark"),
    ],
)
def test_a_table_that_is_none_is_told_what_is_wrong(tmp_path: Path, data: bytes, said: str):
    (tmp_path / "manifest.csv").write_bytes(data)
    with pytest.raises(CorpusError, match=said):
        read_manifest(tmp_path)


def test_a_whole_path_into_the_folder_is_taken(tmp_path: Path):
    (tmp_path / "a.avi").touch()
    (tmp_path / "manifest.csv").write_text(f"path,label\n{tmp_path / 'a.avi'},joy\n")
    assert read_manifest(tmp_path)[0] == {"a.avi": ("joy", None)}


def test_a_manifest_cannot_reach_out_of_its_folder(tmp_path: Path):
    """Neither upwards, nor by a whole path, nor through a link; a link that stays inside is fine."""
    folder = touch(tmp_path / "corpus", "a.avi", "../out.avi")
    (folder / "link.avi").symlink_to("../out.avi")
    (folder / "up").symlink_to("..")
    (folder / "inside.avi").symlink_to("a.avi")
    out = str(tmp_path / "out.avi")
    names = ("../out.avi", out, "up/../../out.avi", "link.avi", "up/out.avi", "a.avi", "inside.avi")
    (folder / "manifest.csv").write_text("path,label\n" + "".join(f"{name},joy\n" for name in names))
    (tmp_path / "door").symlink_to(folder)
    for place in (folder, tmp_path / "door"):
        labels, left_out, _ = read_manifest(place)
        assert list(labels) == ["a.avi", "inside.avi"] and len(left_out) == 5
        assert all("leaves the corpus folder" in reason or "second line" in reason for _, reason in left_out)


def test_a_manifest_that_cannot_be_opened_is_told_so(tmp_path: Path):
    with pytest.raises(CorpusError, match=r"manifest\.csv does not exist: write one"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.csv").mkdir()
    with pytest.raises(CorpusError, match=r"manifest\.csv cannot be read \(Is a directory\)"):
        read_manifest(tmp_path)
    with pytest.raises(CorpusError, match=r"manifest\.csv cannot be read"):
        Corpus(tmp_path, cache=tmp_path / "cache")


# Names and class folders


def said_of(found: LabelledFolder) -> str:
    """All remarks on a folder of which every video is used."""
    return "\n".join(remarks_on(found, dict.fromkeys(found.labels, 0)))


def test_gemep_names(tmp_path: Path):
    names = ("00xang_Gemep.AVI", "01xjoy_Gemep.AVI", "02xsad_Gemep.AVI", "holiday.avi")
    found = find_labels(touch(tmp_path / "g", *names, ".01xang_half.avi"))  # hidden: somebody is still writing it
    assert found.classes == tuple(EMOTIONS.values()) and len(found.classes) == 17
    assert list(found.labels.values()) == [("anger", None), ("joy", None), ("sadness", None)]
    reasons = dict(found.left_out)
    assert reasons.keys() == {".01xang_half.avi", "holiday.avi"} and "hidden" in reasons[".01xang_half.avi"]


def test_gemeps_names_count_before_folders_and_it_is_said(tmp_path: Path):
    names = ("calm/001ang_a.avi", "calm/002joy_b.avi", "lively/003ang_c.avi", "lively/other.avi")
    found = find_labels(touch(tmp_path / "c", *names))
    assert len(found.classes) == 17 and [path for path, _ in found.left_out] == [str(Path("lively/other.avi"))]
    assert "labels from file names as GEMEP's, not from the folders: " in said_of(found)
    assert "15 classes without a clip" in said_of(found)


def test_class_folders(tmp_path: Path):
    found = find_labels(
        touch(tmp_path / "c", "wave/a.avi", "bow/deep/b.avi", "wave/c.avi", "loose.avi", ".Trash/d.avi")
    )
    assert found.classes == ("bow", "wave") and [label.name for label in found.labels.values()] == [
        "bow",
        "wave",
        "wave",
    ]
    assert ("loose.avi", "has no label and lies in no class folder") in found.left_out and len(found.left_out) == 2


LAYOUTS = {  # files -> classes in the order of the sorted files, and a part of what is said
    ("train/joy/a.avi", "train/anger/b.avi", "val/joy/c.avi", "test/anger/d.avi"): (
        "anger joy",
        "in test, train, val, all taken together",
    ),
    ("Training/joy/a.avi", "VALIDATION/anger/b.avi", "Dev/joy/c.avi"): ("anger joy", "in Dev, Training, VALIDATION"),
    ("train_videos/joy/a.avi", "test-set/joy/b.avi", "valid/anger/c.avi"): ("anger joy", "class folders in"),
    ("fold1/joy/a.avi", "fold 2/joy/b.avi", "Fold_10/anger/c.avi"): ("anger joy", "class folders in"),
    ("split1/train/joy/a.avi", "split1/test/anger/b.avi", "split2/train/anger/c.avi"): (
        "anger joy",
        "class folders in",
    ),
    ("UCF/joy/a.avi", "UCF/anger/b.avi"): ("anger joy", "class folders in UCF"),
    ("data/UCF/train/joy/a.avi", "data/UCF/test/anger/b.avi"): ("anger joy", "class folders in"),
    ("joy/train/a.avi", "joy/test/b.avi", "anger/train/c.avi"): (
        "anger joy",
        "labels from class folders: anger 1, joy 2",
    ),
    ("copying/a.avi", "readme/b.avi", "license/c.avi"): ("copying license readme", "labels from class folders"),
    ("wave/a.avi", "bow/deep/b.avi"): ("bow wave", "labels from class folders: bow 1, wave 1"),
    ("joy/takes/a.avi", "anger/takes/b.avi"): ("anger joy", "labels from class folders: anger 1, joy 1"),
    ("train/a.avi", "bus/b.avi", "test/c.avi"): (
        "bus test train",
        "labels from class folders: bus 1",
    ),  # no folder in train: a class
    ("ang/s1_ang_01.avi", "joy/s1_joy_01.avi", "ang/s2_ang_02.avi"): ("ang joy", "labels from class folders"),
    ("ang/s1_ang_01.avi", "joy/s1_hap_01.avi", "happy/s1_joy_02.avi"): ("ang happy joy", "labels from class folders"),
    ("a/001ang_x.avi", "b/clip.avi", "b/clap.avi"): ("a b", "1 file names look like GEMEP's; the folders count"),
}


@pytest.mark.parametrize("names", LAYOUTS, ids=lambda names: names[0])
def test_the_class_folder_is_found_and_said(tmp_path: Path, names: tuple[str, ...]):
    classes, part = LAYOUTS[names]
    found = find_labels(touch(tmp_path / "c", *names))
    assert found.classes == tuple(classes.split()) and found.left_out == [] and len(found.labels) == len(names)
    for path, label in found.labels.items():
        assert label.name in Path(path).parts
    assert part in said_of(found) and "no video has an actor" in said_of(found)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        (("train/joy/a.avi", "joy/b.avi"), "parts of a split .train. lie beside others .joy."),
        (("train/a.avi", "test/b.avi"), "parts of a split .test, train. have no class folders"),
        (
            ("Ann/joy/a.avi", "Ann/anger/b.avi", "Bob/joy/c.avi"),
            "the same folders .joy. lie in several others .Ann, Bob.",
        ),
        (
            ("train/joy/Ann/a.avi", "train/joy/Bob/b.avi", "test/anger/Ann/c.avi"),
            "the same folders .Ann. lie in several",
        ),
    ],
)
def test_a_layout_that_could_mean_two_things_is_refused(tmp_path: Path, names: tuple[str, ...], part: str):
    with pytest.raises(CorpusError, match=f"{part}.*say which with a manifest.csv"):
        find_labels(touch(tmp_path / "c", *names))


# What is left out, and what is said


def test_every_file_is_a_clip_or_has_a_reason(tmp_path: Path):
    others = {
        "joy/a.txt": "no video by its ending .txt",
        "joy/cover.JPG": "no video by its ending .jpg",
        "joy/clip": r"no video by its ending (none)",
        "anger/walk.bvh": "motion capture",
        "more.zip": "an archive",
        "labels.csv": "must be called manifest.csv",
        "joy/manifest.csv": "lie on top",
        "Manifest.CSV": "must be called manifest.csv",
        "deep/er/y.xyz": "no video by its ending .xyz",
        ".half.avi": "hidden",
    }
    beside = ("README.md", "LICENSE", "source.txt", "joy/.DS_Store", "joy/._a.avi", "joy/source.txt", "Thumbs.db")
    folder = touch(tmp_path / "c", "joy/a.avi", "anger/b.avi", "loose.avi", *others, *beside)
    (folder / "sad").mkdir()
    found = find_labels(folder)
    assert found.classes == ("anger", "joy") and len(found.labels) == 2
    reasons = {Path(name).as_posix(): reason for name, reason in found.left_out}
    for name, part in (others | {"loose.avi": "no class folder", "sad": "an empty folder"}).items():
        assert part in reasons.pop(name), name
    assert not reasons


def test_what_a_manifest_does_not_name_is_named(tmp_path: Path):
    folder = touch(tmp_path, "a.avi", "extra.avi", "sub é/notes.txt", "walk.bvh")
    (folder / "manifest.csv").write_text("path,label\na.avi,joy\n")
    found = find_labels(folder)
    reasons = {Path(name).as_posix(): reason for name, reason in found.left_out}
    assert list(found.labels) == ["a.avi"] and reasons.keys() == {"extra.avi", "sub é/notes.txt", "walk.bvh"}
    assert "not in manifest.csv" in reasons["extra.avi"] and "motion capture" in reasons["walk.bvh"]


def test_links_are_followed_inside_the_folder_and_else_named(tmp_path: Path, cache: Path):
    """The rule of manifests; a ring of links ends, and what is read twice is named."""
    folder = folder_of(tmp_path / "c", "joy/a.avi", ".store/b.avi", "anger/c.avi")
    numbered_video(tmp_path / "outside" / "d.avi", 9)
    (folder / "sad").symlink_to(tmp_path / "outside")
    (folder / "fear").symlink_to(".store")
    (folder / "joy" / "ring").symlink_to("..")
    (folder / "joy" / "e.avi").symlink_to(tmp_path / "outside" / "d.avi")
    (folder / "joy" / "c2.avi").symlink_to("../anger/c.avi")
    (folder / "joy" / "lost.avi").symlink_to("nowhere.avi")
    corpus = Corpus(folder, size=16, cache=cache)
    paths = [video.path.relative_to(folder).as_posix() for video in corpus.videos]
    assert paths == ["anger/c.avi", "fear/b.avi", "joy/a.avi"]
    reasons = {Path(name).as_posix(): reason for name, reason in corpus.rejected}
    for name in ("sad", "joy/e.avi"):
        assert "a link that leaves the corpus folder" in reasons.pop(name)
    assert "read already" in reasons.pop("joy/ring") and "same contents" in reasons.pop("joy/c2.avi")
    assert "is no file" in reasons.pop("joy/lost.avi") and "hidden" in reasons.pop(".store") and not reasons


def test_many_left_out_do_not_flood_the_console(tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture):
    folder = folder_of(tmp_path / "c", "joy/a.avi", "anger/b.avi")
    touch(folder, *(f"joy/{number:03d}.txt" for number in range(500)))
    touch(folder, *(f"joy/x.{number:03d}" for number in range(30)))
    touch(folder, *(f"joy/{number:03d}.mp4" for number in range(30)))  # the remedy in each reason names the file
    corpus = Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out.splitlines()
    assert len(corpus.rejected) == 560 and len(said) < 15
    assert any("000.mp4, 001.mp4" in line.replace("joy/", "") for line in said)
    assert any("000.txt" in line and " and 497 more: no video by its ending .txt" in line for line in said)
    assert any("more; `python -m deformlib inspect` names them" in line for line in said)
    every = "\n".join(left_out_lines(corpus.rejected, limit=1000))
    assert all(f"joy/x.{number:03d}" in every for number in range(30)) and "inspect` names" not in every
    Corpus(folder, size=16, cache=cache, quiet=True)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("header", ["path,label", "path,label, actor", "path,label,Subject", "path,label,who"])
def test_actors_are_found_or_missed_aloud(tmp_path: Path, header: str):
    folder = touch(tmp_path, "a.avi", "b.avi")
    rows = [header, "a.avi,joy,Ann", "b.avi,anger,Bob"]
    (folder / "manifest.csv").write_text("\n".join(",".join(row.split(",")[: 1 + header.count(",")]) for row in rows))
    found = find_labels(folder)
    known = header.endswith(("actor", "Subject"))
    assert [label.actor for label in found.labels.values()] == (["Ann", "Bob"] if known else [None, None])
    assert ("no video has an actor, so no split by actor is possible" in said_of(found)) != known
    assert ("columns of manifest.csv that nothing reads: who" in said_of(found)) == header.endswith("who")


def test_what_is_guessed_or_missing_is_printed(folder: Path, cache: Path, capsys: pytest.CaptureFixture):
    """Actors that are not known, names that differ by capitals; where the labels are from is no news with a table."""
    manifest = folder / "manifest.csv"
    text = manifest.read_text(encoding="utf-8-sig").replace("joy,p0", "Joy,").replace("anger,p0", "anger,P1")
    manifest.write_text(text, encoding="utf-8")
    Corpus(folder, size=16, cache=cache)
    said = capsys.readouterr().out
    assert "videos: 1 of 12 videos have no actor" in said and "labels from" not in said
    assert "blanks or signs: Joy, joy" in said and "signs: P1, p1" in said
    Corpus(folder_of(folder.parent / "c", "joy/a.avi", "anger/b.avi"), size=16, cache=cache)
    assert "c: labels from class folders: anger 1, joy 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "names", [("e\u0301", "\u00e9"), ("joy ", "joy"), ("hand_wave", "hand wave"), ("joy\u200b", "joy")]
)
def test_classes_that_look_alike_are_named(tmp_path: Path, names: tuple[str, str]):
    found = find_labels(touch(tmp_path / "c", *(f"{name}/a.avi" for name in names)))
    assert len(found.classes) == 2 and "different names, if only by" in said_of(found)


def test_damaged_frames_and_empty_classes_are_told(tmp_path: Path):
    found = find_labels(touch(tmp_path / "c", "joy/a.avi", "joy/b.avi", "anger/c.avi"))
    said = "\n".join(remarks_on(found, {"joy/a.avi": 0, "joy/b.avi": 3}))  # c.avi did not decode
    assert "frames that are damaged and left out: joy/b.avi 3" in said
    assert "1 classes without a clip: anger" in said and "all clips are of one class" in said


def test_a_table_under_another_name_and_wrong_paths_are_told(tmp_path: Path, cache: Path):
    """Whoever has films and a table, and neither in the wanted form, hears of both."""
    touch(tmp_path, "a.avi")
    (tmp_path / "Labels.csv").write_text("path,label\na.avi,joy\n")
    with pytest.raises(CorpusError, match=r"Left out: Labels\.csv: .*be called manifest\.csv.*; a\.avi: has no label"):
        Corpus(tmp_path, cache=cache)
    (tmp_path / "manifest.csv").write_text("path,label\na,joy\n")
    with pytest.raises(CorpusError, match=r"a: in manifest\.csv, but not in the folder"):
        Corpus(tmp_path, cache=cache)


def test_motion_capture_is_no_corpus_and_the_sentence_says_what_to_do(tmp_path: Path, cache: Path):
    mixed = touch(tmp_path / "m", "a.bvh", "b.avi")
    (mixed / "manifest.csv").write_text("path,label,actor\na.bvh,joy,Ann\n")
    with pytest.raises(CorpusError, match="names motion capture; film it with `python -m deformlib corpus --motion"):
        find_labels(mixed)
    (mixed / "manifest.csv").write_text("path,label,actor\na.bvh,joy,Ann\nb.avi,joy,Ann\n")
    with pytest.raises(CorpusError, match="names motion capture .a.bvh. and other files .b.avi."):
        find_labels(mixed)
    with pytest.raises(CorpusError, match="Left out: joy.a.bvh: motion capture: film it .* needs a manifest.csv"):
        Corpus(touch(tmp_path / "n", "joy/a.bvh"), cache=cache)


# What the videos are


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (b"my phone\nand more\n", "my phone"),
        (b" \n", "videos as their owner labelled them"),
        (b"\xff" * 5000, "\ufffd" * 200),
        (None, "videos as their owner labelled them"),
    ],
)
def test_the_source_is_one_line_of_any_file(tmp_path: Path, data: bytes | None, source: str):
    if data is None:
        (tmp_path / "source.txt").mkdir()
    else:
        (tmp_path / "source.txt").write_bytes(data)
    assert read_source(tmp_path) == source

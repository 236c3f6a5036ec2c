"""The command line, called with words in this process: what each verb says and leaves, what it refuses in one
sentence.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from factories import MOVES, PERSON, bvh_text, flat_video

from deformlib.corpus import Corpus
from deformlib.make.figures import plan_corpus
from deformlib.network import VideoNet, save_network
from deformlib.paper.commands import app, cost, main, tables
from deformlib.paper.methods import TABLE2
from deformlib.paper.pretraining import MOTION
from deformlib.paper.study import RECIPES, STUDIES
from deformlib.records import load_records

VERBS = (
    "corpus",
    "inspect",
    "study",
    "reproduce",
    "table",
    "report",
    "align",
    "migrate",
    "gpu-check",
    "predict",
    "colab",
)


def said_by(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in words])
    except SystemExit as end:  # words that are no command
        code = end.code
    return code, *capsys.readouterr()


def refused(capsys: pytest.CaptureFixture, *words: object) -> str:
    """The one sentence with which a command is refused."""
    code, _, said = said_by(capsys, *words)
    assert code == 1 and said.startswith("error: ") and said.count("\n") == 1, said
    return said


def test_help_is_quick_and_names_the_verbs():
    """It imports nothing heavy, in a process of its own; each verb has a line, and old ones have none."""
    heavy = {"torch", "numpy", "pandas", "matplotlib", "cv2"}
    code = f"import sys, deformlib.__main__ as m\nm.main(['--help'])\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    listed = re.findall(r"^  ([\w-]+)  +[A-Z]", done.stdout[done.stdout.index("Commands") :], re.M)
    assert sorted(listed) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys):
    """With its options; a study is called by its name, and the names in the help are those that there are."""
    code, said, _ = said_by(capsys, verb, "--help")
    assert code == 0 and "Usage: python -m deformlib" in said
    if verb == "study":
        names = re.search(r"name <str>\s+(.*?)\[required\]", said, re.S)[1] if "name <str>" in said else said
        assert all(re.search(rf"\b{name}\b", names) for name in (*STUDIES, *MOTION, "table2")) and "real" not in names
        assert all(recipe in said for recipe in RECIPES)


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("reproduce", "--seeds", "0"),
        ("reproduce", "--workers", "x"),
        ("corpus", "--tasks", "--motion", "x"),
        ("study",),
    ],
)
def test_words_that_are_no_command_are_refused(words, capsys):
    """With exit code 2 and what was wrong."""
    code, _, said = said_by(capsys, *words)
    assert code == 2 and "Usage" in said


def test_ctrl_c_says_that_the_same_command_goes_on(capsys, monkeypatch, tmp_path: Path):
    """Exit code 130 and no traceback, whichever verb is at work."""
    monkeypatch.chdir(tmp_path)

    @app.command("wait", hidden=True)
    def wait() -> None:
        raise KeyboardInterrupt

    try:
        code, _, said = said_by(capsys, "wait")
    finally:
        app.registered_commands.pop()
    assert code == 130 and "the same command goes on" in said and "Traceback" not in said


def test_a_corpus_may_have_a_larger_cast(tmp_path: Path, monkeypatch, capsys):
    """Seed and number of actors go into the plan that is filmed."""
    asked = []
    monkeypatch.setattr("deformlib.make.films.make_corpus", lambda folder, plan: asked.append(plan) or folder)
    code, said, _ = said_by(capsys, "corpus", tmp_path / "many", "--cast", "14", "--seed", "3")
    assert code == 0 and "many" in said and asked == [plan_corpus(3, 14)]


def test_reproduce_says_what_it_does_and_leaves_the_tables(reproduced: Path, videos: Path):
    """First the corpus, then the question, then the cost; tables, figures and records in the folder."""
    said = (reproduced / "said.txt").read_text(encoding="utf-8")
    assert said.startswith(f"{videos.name}: 30 clips of 3 classes") and "anger 10, joy 10, sadness 10" in said
    first, needs, amount = said[said.index("classroom: ") :].splitlines()[:3]
    assert (
        first == f"classroom: {STUDIES['classroom'].question}"
        and needs == "A run of tiny needs any computer, a second."
    )
    assert amount.startswith("4 runs to do, 0 done")
    assert "not GEMEP" in said and "deformable ConvLSTM" in said
    for name in ("table1.md", "table1.csv", "recall.csv", "table1.png", "confusion.png"):
        assert (reproduced / name).stat().st_size > 50
    assert len(load_records(reproduced)) == 4


def test_a_table_is_made_anew(reproduced: Path, capsys):
    """From the records alone."""
    stored = (reproduced / "table1.md").read_bytes()
    (reproduced / "table1.md").unlink()
    code, said, _ = said_by(capsys, "table", reproduced)
    assert code == 0 and (reproduced / "table1.md").read_bytes() == stored and tables(reproduced).strip() in said


def test_predict_takes_the_newest_network_else_the_courses_own(reproduced: Path, videos: Path, capsys, monkeypatch):
    """Likeliest class first; an unusable video or a missing file is one sentence."""
    monkeypatch.chdir(reproduced.parents[1])
    video = min(videos.glob("*.avi"))
    code, said, _ = said_by(capsys, "predict", video)
    assert code == 0 and "results/try" in said and all(label in said for label in ("anger", "joy", "sadness"))
    shares = [float(share) for share in re.findall(r"^ +([\d.]+) %", said, re.M)]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    monkeypatch.chdir(videos.parent)  # where no results are
    code, said, _ = said_by(capsys, "predict", video)
    assert code == 0 and "example-classroom/classroom-deformable-by_actor-0.safetensors" in said.replace(os.sep, "/")
    (reproduced / "note.avi").write_text("no video")
    assert "note.avi" in refused(capsys, "predict", reproduced / "note.avi")
    assert "gone.safetensors" in refused(capsys, "predict", video, "--weights", "gone.safetensors")


def test_what_a_study_cannot_do_is_refused_before_anything_is_trained(
    reproduced: Path, videos: Path, corpus: Corpus, tmp_path: Path, capsys, monkeypatch
):
    """Other records in the folder, unknown names, films of another kind: each named in one sentence."""
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in reproduced.iterdir()}
    words = ["study", "classroom", "--results", reproduced, "--seeds", "1", "--cache", corpus.cache, "--corpus"]
    said = refused(capsys, *words, videos, "--recipe", "classroom")
    assert f"{reproduced} holds records of {videos.name}, recipe tiny" in said and "--results" in said
    fewer = shutil.copytree(videos, tmp_path / "fewer")
    next(fewer.glob("*joy*.avi")).unlink()
    assert "holds records of" in refused(capsys, *words, fewer, "--recipe", "tiny")
    assert before == {path: path.stat().st_mtime_ns for path in reproduced.iterdir()}
    for name, wanted in (
        ("tasks", "corpus data/tasks --tasks"),
        ("nonsense", "take one of classroom"),
        ("large_motion", "BVH files with --corpus"),
    ):
        assert wanted in refused(capsys, "study", name)
    assert "no small version of classroom" in refused(capsys, "study", "classroom", "--small")
    assert "has no model 'nonsense'" in refused(capsys, "study", "table2", "--models", "mean_frame", "nonsense")
    assert "no recipe 'nonsense'" in refused(capsys, "study", "classroom", "--recipe", "nonsense")
    assert "nowhere" in refused(capsys, "reproduce", "--corpus", tmp_path / "nowhere")
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_study_can_be_asked_for_some_of_its_models(videos: Path, corpus: Corpus, tmp_path: Path, capsys, monkeypatch):
    """Those rows alone, behind the study's name or, as before, behind --models; another call adds rows."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(videos, "data/procedural")  # of another seed than the course's: it is used as it is
    manifest = Path("data/procedural/manifest.csv").read_bytes()
    options = ["--recipe", "tiny", "--seeds", "1", "--workers", "1", "--cache", corpus.cache]
    code, said, _ = said_by(capsys, "study", "table2", "majority_class", *options)
    assert code == 0 and "2 runs to do, 0 done" in said and "not GEMEP" in said and "records" in said
    folder = Path("results/table2-tiny")  # of another recipe than the study's own
    assert {run["experiment"]["model"] for run in load_records(folder)} == {"majority_class"}
    assert said_by(capsys, "study", "table2", *options, "--models", "plain", "majority_class")[0] == 0
    assert len(load_records(folder)) == 4 and (folder / "table2.md").exists()
    assert Path("data/procedural/manifest.csv").read_bytes() == manifest


def test_the_cost_is_said_from_earlier_runs(reproduced: Path, corpus: Corpus, tmp_path: Path):
    """Earlier runs on this kind of device count, by model; without any, nobody knows."""
    experiments = STUDIES["classroom"].experiments(corpus, seeds=range(5), recipe="tiny")
    assert re.match("20 runs to do, 0 done; no run of this recipe", cost(experiments, tmp_path / "new"))
    (tmp_path / "old").mkdir()
    for path in reproduced.glob("*.json"):
        record = json.loads(path.read_text()) | {"seconds": 120 if "plain" in path.name else 240}
        (tmp_path / "old" / path.name).write_text(json.dumps(record))
    (tmp_path / "old" / "tiny-broken.json").write_text("{")
    assert cost(experiments, tmp_path / "new").startswith(
        "20 runs to do, 0 done: about 60 min, going by 4 earlier runs"
    )
    assert cost(experiments, tmp_path / "old", workers=2).startswith("16 runs to do, 4 done: about 24 min")
    assert cost(experiments[:4], tmp_path / "old") == "0 runs to do, 4 done"
    other = TABLE2.experiments(corpus, (0,), "tiny")[:1]  # a model without a record: by the others
    assert "about" in cost([replace(other[0], model="other")], tmp_path / "new")


def test_every_kind_of_corpus_has_its_place(tmp_path: Path, capsys, monkeypatch):
    """data/procedural, data/tasks, data/NAME-videos: named here as a file stands in their way."""
    monkeypatch.chdir(tmp_path)
    Path("data").touch()
    Path("walks").mkdir()
    Path("walks/walk.bvh").write_text(bvh_text(PERSON, MOVES))
    Path("walks/manifest.csv").write_text("path,label,actor\nwalk.bvh,joy,Ann\n")
    assert "data" in refused(capsys, "corpus") and "data" in refused(capsys, "corpus", "--tasks")
    assert "data" in refused(capsys, "corpus", "--motion", "walks")
    Path("data").unlink()
    code, said, _ = said_by(capsys, "corpus", "--motion", "walks")
    assert code == 0 and "data/walks-videos" in said and list(Path("data/walks-videos").glob("*.avi"))


def test_inspect_says_what_is_there_and_draws_it(videos: Path, corpus: Corpus, tmp_path: Path, capsys, monkeypatch):
    """Description, picture, a film that shows nobody; the folder is only read, the cache is where it was asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = tmp_path / "films"
    folder.mkdir()
    for path in sorted(videos.glob("*.avi"))[::10]:
        shutil.copy(path, folder)
    kept = [
        line for line in (videos / "manifest.csv").read_text().splitlines() if (folder / line.split(",")[0]).is_file()
    ]
    (folder / "manifest.csv").write_text("\n".join(["path,label,actor", *kept, "wall.avi,joy,a01", ""]))
    flat_video(folder / "wall.avi", [90] * 4, 576, 720)
    (folder / "note.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    words = ["inspect", folder, "--cache", tmp_path / "cache"]
    code, said, _ = said_by(capsys, *words)
    assert code == 0 and said.startswith("films: 4 clips of 3 classes, labels from manifest.csv")
    assert "possible splits: " in said and "left out note.txt: no video" in said
    assert "wall.avi, which seems to show nobody" in said and "4 of 4 frames" in said
    assert "films-sheet.png" in said and Path("films-sheet.png").stat().st_size > 1000
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4
    assert said_by(capsys, *words, "--sheet", "other.png")[0] == 0 and Path("other.png").stat().st_size > 1000
    for other in ("other.jpg", "no/such.png", folder):
        assert "name a file that ends in .png" in refused(capsys, *words, "--sheet", other)
    said = refused(capsys, "inspect", folder)  # no home: the sentence names what helps
    assert re.search(r"/proc/none\S* cannot hold .*--cache.*XDG_CACHE_HOME", said)


def test_what_a_manifest_names_decides_what_a_folder_is(tmp_path: Path, capsys, monkeypatch):
    """A stray BVH file among videos changes nothing; motion capture is rendered and shown; both kinds are refused."""
    monkeypatch.chdir(tmp_path)
    folder, cache = tmp_path / "films", ("--cache", tmp_path / "cache")
    folder.mkdir()
    for number, level in enumerate((40, 90)):
        flat_video(folder / f"{number}.avi", [level] * 4)
    (folder / "manifest.csv").write_text("path,label,actor\n0.avi,joy,a\n1.avi,fear,b\n")
    (folder / "walk.bvh").write_text(bvh_text(PERSON, MOVES))
    code, said, _ = said_by(capsys, "inspect", folder, *cache)
    assert code == 0 and "films: 2 clips" in said and "left out walk.bvh: motion capture" in said
    with (folder / "manifest.csv").open("a") as file:
        file.write("walk.bvh,joy,a\n")
    assert "walk.bvh" in refused(capsys, "inspect", folder, *cache)
    (tmp_path / "moves").mkdir()
    shutil.move(folder / "walk.bvh", tmp_path / "moves")
    (tmp_path / "moves" / "manifest.csv").write_text("bvh_file;emotion;subject\nwalk.bvh;joy;Ann\n")
    code, said, _ = said_by(capsys, "inspect", "moves", *cache)
    assert code == 0 and "moves-videos: 1 clips of 1 classes" in said and Path("moves-videos-sheet.png").is_file()


def test_a_console_that_cannot_show_a_name_shows_the_rest(tmp_path: Path, monkeypatch):
    """Names of classes and files in another script, on a console of ASCII: no traceback, in predict as in inspect."""
    monkeypatch.chdir(tmp_path)
    classes = ("Angst", "喜び", "ярость")
    save_network(VideoNet(replace(RECIPES["tiny"].network, classes=3)), tmp_path / "net.safetensors", classes)
    film = tmp_path / "Körper 喜.avi"
    flat_video(film, [0, 90, 200])
    for words in (
        ["predict", str(film), "--weights", "net.safetensors"],
        ["inspect", str(tmp_path), "--cache", "cache"],
    ):
        console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", console)
        code = main(words)
        console.flush()
        said = console.buffer.getvalue().decode()
        assert code == (0 if words[0] == "predict" else 1)
        assert words[0] == "inspect" or "\\u559c\\u3073" in said and "K\\xf6rper" in said and "Angst" in said


def test_old_words_still_work_and_say_the_new_one(tmp_path: Path, capsys):
    """`follow` is `align`; both refuse a folder without weights."""
    assert str(tmp_path) in refused(capsys, "align", tmp_path)
    code, _, said = said_by(capsys, "follow", tmp_path)
    first, second, _ = said.split("\n")
    assert code == 1 and "align" in first and second.startswith(f"error: {tmp_path}")


def test_report_needs_records(tmp_path: Path, capsys):
    """One sentence where there are none."""
    assert "nothing" in refused(capsys, "report", tmp_path / "nothing")

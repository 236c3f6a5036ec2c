"""The whole chain on a tiny corpus: videos, cache, two epochs, resume, predict, table; and what a study must refuse."""

import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_mocap import MOVES, PERSON, bvh_text

from deformlib import __main__, study
from deformlib.baselines import BASELINES, TABLE2
from deformlib.bodies import write_video
from deformlib.corpus import Corpus, Split
from deformlib.network import VideoNet, save_network
from deformlib.results import load_records, runs_table
from deformlib.study import (
    FITTERS,
    STUDIES,
    WARPS,
    Experiment,
    NetworkFitter,
    Outcome,
    StudyError,
    make_split,
    robustness,
    run,
)
from deformlib.training import TrainingError

CLASSROOM = STUDIES["classroom"]


def make_network(model: str, seed: int) -> VideoNet:
    """The untrained network of a tiny run with three classes."""
    return FITTERS[model].network(Experiment("", "by_actor", model, seed, "tiny"), 3)


@pytest.fixture(scope="module")
def finished(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a whole tiny study of two seeds."""
    folder = tmp_path_factory.mktemp("results")
    run(CLASSROOM.experiments(corpus, seeds=(0, 1), recipe="tiny"), folder, corpus.cache)
    return folder


def test_the_list_holds_every_comparison_whole(corpus: Corpus):
    """Two models, two splits, each seed; all names differ; a seed is complete before the next begins."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0, 1, 2))
    assert len(experiments) == len({experiment.name for experiment in experiments}) == 12
    assert [experiment.seed for experiment in experiments] == [0] * 4 + [1] * 4 + [2] * 4
    assert {(e.model, e.split) for e in experiments[:4]} == {(m, s) for m in ("plain", "deformable") for s in ("by_actor", "by_copy")}


def test_without_actors_the_clean_split_is_by_clip(videos: Path, corpus: Corpus, tmp_path: Path):
    """GEMEP's own names do not say who acts; the study then splits by clip."""
    folder = tmp_path / "named as GEMEP names"
    folder.mkdir()
    for path in videos.glob("*.avi"):
        shutil.copy(path, folder)
    nameless = Corpus(folder, size=32, cache=corpus.cache)
    assert {e.split for e in CLASSROOM.experiments(nameless, seeds=(0,))} == {"by_clip", "by_copy"}
    leakage = study.STUDIES["leakage"]
    assert [e.split for e in leakage.experiments(nameless, (0,)) if e.model == "plain"] == ["by_copy", "by_clip"]
    assert [e.split for e in leakage.experiments(corpus, (0,)) if e.model == "plain"] == ["by_copy", "by_clip", "by_actor"]
    assert len(nameless.classes) == 17 and set(nameless.labels) == {3, 10, 16}


@pytest.mark.parametrize(("actors", "met"), [("x", "all clips have one actor"), ("", "30 of 30 clips have no actor"), (None, None)])
def test_a_study_that_must_leave_by_actor_says_so_first(videos: Path, corpus: Corpus, tmp_path: Path, capsys, actors: str | None, met: str | None):
    """With the number of clips and the remedy; not where every clip has its actor, nor where nobody asked for one."""
    folder = shutil.copytree(videos, tmp_path / "films")
    table = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(table if actors is None else re.sub(r",a\d\d\n", f",{actors}\n", table))
    films = Corpus(folder, size=32, cache=corpus.cache, quiet=True)
    assert capsys.readouterr().out == ""
    CLASSROOM.experiments(films, seeds=(0,))
    said = capsys.readouterr().out
    if met is None:
        assert said == ""
    else:
        assert said.startswith(f"WARNING: films: {met}, so this study is split by clip, not by actor") and "fill the actor column" in said
        assert said.count("\n") == 1
    replace(CLASSROOM, splits=("by_copy",)).experiments(films, seeds=(0,))
    assert capsys.readouterr().out == ""


def test_models_of_a_seed_start_alike(corpus: Corpus):
    """Plain and deformable differ in their offset branches alone, which start at zero; another seed differs in everything."""
    plain, deformable = (make_network(model, 4) for model in ("plain", "deformable"))
    weights, more = plain.state_dict(), deformable.state_dict()
    assert {name for name in more if name not in weights} == {name for name in more if "offset_branch" in name} != set()
    assert all(not value.any() for name, value in more.items() if "offset_branch" in name)
    clips = torch.rand(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain.eval()(clips), deformable.eval()(clips), atol=1e-6)
    other = make_network("plain", 5)
    assert not torch.allclose(other.eval()(clips), plain(clips), atol=1e-3)


def test_splits_hold_out_a_fifth(corpus: Corpus):
    """Two of ten actors, others for the next seed; of the copies, twice as many as there are clips are judged."""
    seeds = [make_split(Experiment("", "by_actor", "plain", seed, "tiny"), corpus) for seed in range(5)]
    held_out = [{corpus.videos[clip].actor for clip in split.val[:, 0]} for split in seeds]
    assert all(len(actors) == 2 for actors in held_out) and len(set.union(*held_out)) == 10
    assert len(make_split(Experiment("", "by_copy", "plain", 0, "tiny"), corpus).val) == 2 * len(corpus)


def test_records_say_where_every_number_is_from(finished: Path, corpus: Corpus):
    """Data, split, seed, versions, device, seconds, commit; accuracy is that of the stored predictions."""
    records = load_records(finished)
    assert len(records) == 8
    for record in records:
        judged = record["validation"]
        assert record["accuracy"] == np.mean(np.array(judged["label"]) == np.array(judged["predicted"]))
        assert record["corpus"]["source"] == "procedural body videos, not GEMEP"
        assert len(judged["clip"]) == len(judged["frames"]) == len(judged["copy"]) == record["split"]["val"]
        assert record["corpus"]["key"] == corpus.key and record["settings"]["training"]["seed"] == record["experiment"]["seed"]
        assert record["seconds"] > 0 and record["device"] and record["versions"]["torch"] and "commit" in record
        assert record["versions"]["av"] and record["corpus"]["sampled"] == {"by number": 30, "by time": 0}
        if record["split"]["name"] == "by_actor":
            assert record["split"]["siblings"] == [0, 0] and len(record["split"]["held_out"]) == 2
        else:
            assert record["split"]["siblings"][0] > 60
    assert not any(path.is_dir() for path in finished.iterdir())


def test_done_runs_are_not_done_again(finished: Path, corpus: Corpus, monkeypatch):
    """The second call trains nothing; a missing record is made again, equal but for its times."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0, 1), recipe="tiny")
    name = f"{experiments[3].name}.json"
    before = {path.name: path.stat().st_mtime_ns for path in finished.glob("*.json")}
    wanted = json.loads((finished / name).read_text())
    (finished / name).unlink()
    trained = []
    real = study.fit
    monkeypatch.setattr(study, "fit", lambda *words: trained.append(words[-1].name) or real(*words))
    run(experiments, finished, corpus.cache)
    assert trained == [experiments[3].name]
    got = json.loads((finished / name).read_text())
    assert got["validation"] == wanted["validation"] and got["history"][-1]["loss"] == wanted["history"][-1]["loss"]
    for path in finished.glob("*.json"):
        assert path.name == name or path.stat().st_mtime_ns == before[path.name]


def test_a_run_broken_off_goes_on(corpus: Corpus, tmp_path: Path, monkeypatch):
    """Stopped within a run, the study takes up that run from its checkpoint and gives the undisturbed result."""
    experiment = Experiment(str(corpus.folder), "by_actor", "deformable", 0, "tiny")
    (wanted,) = run([experiment], tmp_path / "straight", corpus.cache)
    real = study.fit

    def stop(*words):
        def interrupt(history: list[dict]) -> None:
            raise KeyboardInterrupt

        return real(*words, on_epoch=interrupt)

    monkeypatch.setattr(study, "fit", stop)
    with pytest.raises(KeyboardInterrupt):
        run([experiment], tmp_path / "stopped", corpus.cache)
    monkeypatch.undo()
    assert (tmp_path / "stopped" / experiment.name / "checkpoint.safetensors").exists()
    (got,) = run([experiment], tmp_path / "stopped", corpus.cache)
    assert got["validation"] == wanted["validation"] and got["accuracy"] == wanted["accuracy"]
    first, second = (load_file(tmp_path / folder / f"{experiment.name}.safetensors") for folder in ("straight", "stopped"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_workers_share_the_list_and_change_no_number(finished: Path, corpus: Corpus, tmp_path: Path, monkeypatch):
    """Two processes with one thread each give the records that one gives, in the order of the list."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")
    monkeypatch.setattr(study, "fit", None)  # this process does none of it
    shared = run(experiments, tmp_path, corpus.cache, workers=2)
    assert [record["name"] for record in shared] == [experiment.name for experiment in experiments]
    for record in shared:
        alone = json.loads((finished / f"{record['name']}.json").read_text())
        assert record["validation"] == alone["validation"] and "threads a run: 1" in record["device"]
    assert "TQDM_POSITION" not in os.environ


def test_every_model_is_one_change(corpus: Corpus):
    """All networks of the studies can be made; controls start from the weights of the plain network where shapes agree."""
    plain = make_network("plain", 4).state_dict()
    for model in FITTERS:
        weights = make_network(model, 4).state_dict()
        common = [name for name in plain if name in weights and weights[name].shape == plain[name].shape]
        assert len(common) > 20 and all(torch.equal(weights[name], plain[name]) for name in common), model
    assert make_network("steps_released", 4).config.deform_steps == ((0,), (1,), (2,))
    assert make_network("defect_mixed_gates", 4).config.defects == ("mixed_gates",)
    for study_ in STUDIES.values():
        assert set(study_.models) <= set(FITTERS) and study_.seeds >= (3 if study_ is CLASSROOM else 5) and study_.question


def test_the_matched_network_is_as_large():
    """A plain network with as many parameters as the deformable one, to half of what one more channel adds."""
    plain, matched, wanted = (sum(p.numel() for p in make_network(name, 0).parameters()) for name in ("plain", "matched_plain", "deformable"))
    one_more = sum(p.numel() for p in NetworkFitter("none", {"hidden": (9, 9, 9)}).network(Experiment("", "by_actor", "", 0, "tiny"), 3).parameters()) - plain
    assert abs(matched - wanted) <= 0.6 * one_more < abs(plain - wanted)
    assert make_network("matched_plain", 0).config.deform_steps == ((), (), ())


def test_frozen_and_removed_offsets(corpus: Corpus, tmp_path: Path):
    """Frozen ones are about a pixel off and do not learn; removed ones learn, and are gone when the network is judged."""
    frozen = make_network("frozen_offsets", 0)
    kept = {name: value.clone() for name, value in frozen.state_dict().items() if "offset_branch" in name}
    experiments = [Experiment(str(corpus.folder), "by_actor", model, 0, "tiny") for model in ("frozen_offsets", "removed_offsets")]
    records = run(experiments, tmp_path, corpus.cache)
    frozen, removed = (load_file(tmp_path / f"{experiment.name}.safetensors") for experiment in experiments)
    for name, value in kept.items():
        assert torch.equal(frozen[name], value) and value.any() == name.endswith("bias") and not removed[name].any()
    assert [record["settings"]["offsets"] for record in records] == ["frozen", "removed"]
    assert min(records[0]["history"][-1]["offsets"]) > 0.5 and min(records[1]["history"][-1]["offsets"]) > 0


class Constant:
    """A fitter of another kind: it always says the same class."""

    def __init__(self, says: int):
        self.says = says

    def settings(self, experiment: Experiment, corpus: Corpus, split: Split) -> dict:
        return {"says": corpus.classes[self.says]}

    def __call__(self, experiment: Experiment, corpus: Corpus, split: Split, folder: Path) -> Outcome:
        probabilities = np.eye(len(corpus.classes), dtype=np.float32)[np.full(len(split.val), self.says)]
        return Outcome(probabilities, 0, [], 0.25, judge=lambda change: probabilities)


def test_other_models_are_run_alike(corpus: Corpus, tmp_path: Path):
    """A fitter is anything that says its settings and gives an Outcome; its record is a record, with nothing to save."""
    experiment = Experiment(str(corpus.folder), "by_actor", "constant", 1, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, fitters={"constant": Constant(0)}, warped=True)
    assert record["accuracy"] == 1 / 3 and record["history"] == [] and record["multiply_adds"] is None
    assert record["settings"] == {"says": "anger"} and record["seconds"] == 0.2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-constant-by_actor-1.json"]
    assert run([experiment], tmp_path, corpus.cache, fitters={"constant": Constant(0)}) == [record]
    with pytest.raises(StudyError, match="a record of the same name with other settings"):
        run([experiment], tmp_path, corpus.cache, fitters={"constant": Constant(1)})


def test_robustness_asks_the_trained_network(corpus: Corpus, tmp_path: Path):
    """Each kind of change is judged at each amount, on clips that are really changed; no change gives the plain accuracy."""
    light = []

    def judge(change):
        clips = change(torch.ones(1, 1, 2, 32, 32))
        light.append(clips.mean().item())
        return np.array([[0.0, 1.0], [1.0, 0.0]]) if light[-1] > 0.99 else np.array([[1.0, 0.0], [1.0, 0.0]])

    curves = robustness(judge, np.array([1, 0]))
    assert {kind: [amount for amount, _ in curve] for kind, curve in curves.items()} == {kind: list(amounts) for kind, amounts in WARPS.items()}
    accuracy = {kind: dict(map(tuple, curve)) for kind, curve in curves.items()}
    assert accuracy["rotate"][0] == accuracy["scale"][1] == accuracy["scale"][2] == accuracy["shift"][0] == accuracy["shear"][0] == 1
    assert accuracy["rotate"][45] == accuracy["scale"][0.5] == accuracy["shift"][0.2] == accuracy["shear"][0.5] == 0.5
    experiment = Experiment(str(corpus.folder), "by_actor", "plain", 0, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, warped=True)
    assert record["robustness"]["rotate"][0] == [0, record["accuracy"]]
    run([replace(experiment, seed=1)], tmp_path, corpus.cache)
    with pytest.raises(StudyError, match=r"plain-by_actor-1\.json: a record without the accuracy on warped clips"):
        run([replace(experiment, seed=1)], tmp_path, corpus.cache, warped=True)


def test_a_run_in_other_hands_is_left_to_them(corpus: Corpus, tmp_path: Path, capsys):
    """While another process is at a run, the next is taken; when that process ends without a record, the run is taken over."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:2]
    code = "import sys, time; from pathlib import Path; from deformlib.training import held\nwith held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / f".{experiments[0].name}.lock")], stdout=subprocess.PIPE)
    other.stdout.readline()
    threading.Timer(3, other.kill).start()  # a lock ends with its process
    records = run(experiments, tmp_path, corpus.cache)
    other.wait()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{experiments[0].name}: another process is at it; on to the next"
    assert said[1].startswith(f"{experiments[1].name}: ") and said[2].startswith(f"{experiments[0].name}: ")
    assert [record["name"] for record in records] == [experiment.name for experiment in experiments]
    assert not list(tmp_path.glob(".*"))


def test_the_cost_is_said_from_earlier_runs_else_from_arithmetic(finished: Path, corpus: Corpus, tmp_path: Path):
    """Earlier runs on this kind of device count, by model; without any, the arithmetic is a floor."""
    experiments = CLASSROOM.experiments(corpus, seeds=range(5), recipe="tiny")
    said = __main__.cost(experiments, tmp_path / "new", corpus, FITTERS)
    assert said.startswith("20 runs to do, 0 done: 1 min for the bare arithmetic; no run")
    (tmp_path / "old").mkdir()
    for path in finished.glob("*.json"):
        record = json.loads(path.read_text()) | {"seconds": 120 if "plain" in path.name else 240}
        (tmp_path / "old" / path.name).write_text(json.dumps(record))
    assert __main__.cost(experiments, tmp_path / "new", corpus, FITTERS) == "20 runs to do, 0 done: about 60 min, going by 8 earlier runs of this recipe"
    assert __main__.cost(experiments, tmp_path / "old", corpus, FITTERS, workers=2).startswith("12 runs to do, 8 done: about 18 min")
    assert __main__.cost(experiments[:8], tmp_path / "old", corpus, FITTERS) == "0 runs to do, 8 done"
    seconds = [__main__.arithmetic_seconds(experiments[:n], corpus, FITTERS) for n in (4, 20)]
    assert 0 < seconds[0] < seconds[1] < 10
    classic = TABLE2.experiments(corpus, range(5), "tiny")
    classic = [experiment for experiment in classic if experiment.model in ("mbmic", "chance")]
    assert "none trains a network" in __main__.cost(classic, tmp_path / "new" / "x", corpus, FITTERS | BASELINES)


def test_a_failing_worker_is_an_error(corpus: Corpus, tmp_path: Path):
    """What a worker cannot do is not done quietly by the parent."""
    experiment = Experiment(str(corpus.folder), "by_actor", "broken", 0, "tiny")
    with pytest.raises(StudyError, match="A worker ended before its runs were done"):
        run([experiment], tmp_path / "results", corpus.cache, workers=2, fitters={"broken": None})


def test_what_workers_refuse_is_one_sentence(corpus: Corpus, tmp_path: Path, capfd):
    """A refusal comes back as the error that it is, without a traceback from each worker."""
    experiment = Experiment(str(tmp_path / "gone"), "by_actor", "plain", 0, "tiny")
    with pytest.raises(StudyError, match="gone"):
        run([experiment], tmp_path / "results", corpus.cache, workers=2)
    assert "Traceback" not in capfd.readouterr().err


def test_records_of_other_settings_are_not_taken(finished: Path, corpus: Corpus, monkeypatch):
    """A recipe that has changed since makes the old record an error, not a result."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")
    recipe = study.RECIPES["tiny"]
    changed = {"training": replace(recipe.training, lr=1e-4), "network": replace(recipe.network, hidden=(8, 8, 4))}
    for name, value in changed.items():
        monkeypatch.setitem(study.RECIPES, "tiny", replace(recipe, **{name: value}))
        with pytest.raises(StudyError, match=r"tiny-plain-by_actor-0\.json: a record of the same name with other settings"):
            run(experiments, finished, corpus.cache)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"corpus": 1}', '{"corpus": {"key": "k"}, "settings": []}'])
def test_a_record_that_is_not_whole_is_named(finished: Path, corpus: Corpus, tmp_path: Path, text: str):
    """Half a file, or another thing of the same name, is no result and no traceback."""
    folder = shutil.copytree(finished, tmp_path / "damaged")
    (folder / "tiny-plain-by_actor-0.json").write_text(text)
    with pytest.raises(StudyError, match=r"tiny-plain-by_actor-0\.json: no whole record"):
        run(CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny"), folder, corpus.cache)


def test_older_records_count_with_the_defaults_of_options_they_do_not_name(
    finished: Path, corpus: Corpus, tmp_path: Path, monkeypatch
):
    """A record from before an option existed was made with its default: taken as long as that is what is asked for."""
    folder = shutil.copytree(finished, tmp_path / "older")
    for path in folder.glob("*.json"):
        old = json.loads(path.read_text())
        del old["settings"]["network"]["gates"], old["settings"]["training"]["accumulate"]
        path.write_text(json.dumps(old))
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")
    assert all("gates" not in record["settings"]["network"] for record in run(experiments, folder, corpus.cache))
    recipe = study.RECIPES["tiny"]
    changed = {"training": replace(recipe.training, accumulate=2), "network": replace(recipe.network, gates="convolution")}
    for name, value in changed.items():
        monkeypatch.setitem(study.RECIPES, "tiny", replace(recipe, **{name: value}))
        with pytest.raises(StudyError, match="with other settings"):
            run(experiments, folder, corpus.cache)


def test_records_of_other_data_are_not_mixed_in(finished: Path, corpus: Corpus, videos: Path, tmp_path: Path):
    """The same names from another corpus: an error that names the file."""
    fewer = tmp_path / videos.name
    shutil.copytree(videos, fewer)
    next(fewer.glob("*joy*.avi")).unlink()
    other = Corpus(fewer, size=32, cache=corpus.cache)
    with pytest.raises(StudyError, match=r"tiny-plain-by_actor-0\.json: a record from another corpus"):
        run(CLASSROOM.experiments(other, seeds=(0,), recipe="tiny"), finished, corpus.cache)


@pytest.mark.parametrize("word", ["split", "model", "recipe"])
def test_unknown_words_are_refused(word: str, tmp_path: Path):
    """A misspelt experiment is refused before anything is trained, with the known words."""
    good = {"corpus": "x", "split": "by_actor", "model": "plain", "seed": 0, "recipe": "tiny"}
    with pytest.raises(StudyError, match="no 'nonsense' in .*take one of these"):
        run([Experiment(**good | {word: "nonsense"})], tmp_path)


def test_a_study_can_be_asked_for_some_of_its_models(videos: Path, tmp_path: Path, capsys, monkeypatch):
    """--models does those rows alone, and a table of them; another call adds rows; a row that the study lacks is named."""
    monkeypatch.chdir(tmp_path)
    words = ["study", "table2", "--corpus", str(videos), "--recipe", "tiny", "--seeds", "1", "--results", "some", "--models"]
    assert __main__.main([*words, "mean_frame", "chance"]) == 0
    assert {run["experiment"]["model"] for run in load_records(tmp_path / "some")} == {"mean_frame", "chance"}
    assert "4 runs to do, 0 done" in (said := capsys.readouterr().out) and "mean frame" in said and "not GEMEP" in said
    assert __main__.main([*words, "plain"]) == 0 and len(load_records(tmp_path / "some")) == 6
    assert __main__.main([*words, "mean_frame", "nonsense"]) == 1
    assert "table2 has no model 'nonsense': take from deformable, plain, " in capsys.readouterr().err


def test_other_records_are_refused_before_anything_is_trained(finished: Path, videos: Path, tmp_path: Path, capsys, monkeypatch):
    """A folder with records of another recipe or corpus: named at once, not when it comes to the table."""
    monkeypatch.setattr(study, "run", lambda *words, **more: pytest.fail("trained"))
    words = ["study", "classroom", "--results", str(finished), "--seeds", "1", "--corpus"]
    assert __main__.main([*words, str(videos), "--recipe", "classroom"]) == 1
    assert f"{finished} holds records of {videos.name}, recipe tiny: name another folder" in capsys.readouterr().err
    fewer = shutil.copytree(videos, tmp_path / "fewer")
    next(fewer.glob("*joy*.avi")).unlink()
    assert __main__.main([*words, str(fewer), "--recipe", "tiny"]) == 1
    assert "holds records of" in capsys.readouterr().err


def test_a_corpus_of_another_seed_stays(videos: Path, tmp_path: Path, monkeypatch):
    """What lies in data/procedural is used as it is; tasks and motion capture go elsewhere by themselves."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(videos, "data/procedural")
    manifest = Path("data/procedural/manifest.csv").read_bytes()
    assert __main__.main(["study", "table2", "--recipe", "tiny", "--seeds", "1", "--models", "chance", "--results", "some"]) == 0
    assert Path("data/procedural/manifest.csv").read_bytes() == manifest
    asked = []
    monkeypatch.setattr("deformlib.claims.film_tasks", lambda folder, seed: asked.append(folder))
    monkeypatch.setattr("deformlib.mocap.motion_corpus", lambda motion, folder: asked.append(folder) or folder)
    assert __main__.main(["corpus", "--tasks"]) == __main__.main(["corpus", "--motion", "walks"]) == 0
    assert asked == [Path("data/tasks"), Path("data/walks-videos")]


def test_the_command_line_does_the_whole_chain(videos: Path, tmp_path: Path, capsys, monkeypatch):
    """reproduce, table and predict, as a user without make calls them; an unusable video is one line."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    results = tmp_path / "results" / "try"
    words = ["reproduce", "--corpus", str(videos), "--recipe", "tiny", "--seeds", "2", "--results", str(results)]
    assert __main__.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{videos.name}: 30 clips of 3 classes, labels from manifest.csv: anger 10, joy 10, sadness 10\n")
    first, needs, cost = said[said.index("classroom: ") :].splitlines()[:3]
    assert first == "classroom: Table 1, small enough for a laptop" and needs == "A run of tiny needs any computer, a second."
    assert cost.startswith("8 runs to do, 0 done: 1 min for the bare arithmetic")
    assert "not GEMEP" in said and "deformable ConvLSTM" in said
    for name in ("table1.md", "table1.csv", "recall.csv", "table1.png", "confusion.png"):
        assert (results / name).stat().st_size > 50
    assert len(runs_table(load_records(results))) == 8

    stored = (results / "table1.md").read_bytes()
    (results / "table1.md").unlink()
    assert __main__.main(["table", str(results)]) == 0 and (results / "table1.md").read_bytes() == stored

    capsys.readouterr()
    assert __main__.main(["predict", str(next(videos.glob("*.avi")))]) == 0
    said = capsys.readouterr().out
    assert all(label in said for label in ("anger", "joy", "sadness"))

    monkeypatch.chdir(videos.parent)  # where no results are: the course's own deformable network
    assert __main__.main(["predict", str(next(videos.glob("*.avi")))]) == 0
    assert "classroom-deformable-by_actor-0.safetensors" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)

    (tmp_path / "note.avi").write_text("no video")
    assert __main__.main(["predict", str(tmp_path / "note.avi")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "note.avi" in error and error.count("\n") == 1
    assert __main__.main(["reproduce", "--corpus", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    assert __main__.main(["corpus", str(tmp_path / "note.avi" / "inside")]) == 1
    assert "note.avi" in capsys.readouterr().err
    for name, wanted in (("real", "a folder of BVH files"), ("tasks", "corpus data/tasks --tasks")):  # no study of emotions on films of others
        assert __main__.main(["study", name]) == 1
        assert wanted in capsys.readouterr().err
    for option in ("--seeds", "--workers"):
        with pytest.raises(SystemExit):
            __main__.main(["reproduce", option, "0"])
        assert "0 is no number from 1 up" in capsys.readouterr().err


def test_older_records_without_the_new_fields_still_count(finished: Path, corpus: Corpus, tmp_path: Path):
    """Sampling and the decoder's version are facts beside the result; a record without them is done, and comes into the table."""
    folder = shutil.copytree(finished, tmp_path / "older")
    for path in folder.glob("*.json"):
        old = json.loads(path.read_text())
        del old["corpus"]["sampled"], old["versions"]["av"]
        path.write_text(json.dumps(old))
    records = run(CLASSROOM.experiments(corpus, seeds=(0, 1), recipe="tiny"), folder, corpus.cache)
    assert not any("sampled" in record["corpus"] for record in records) and len(runs_table(load_records(folder))) == 8


def refuse_locks(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the drive have no file locks."""

    def none(*words) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    monkeypatch.setattr("deformlib.training._WITHOUT_LOCKS", set())


@pytest.mark.skipif(os.name == "nt", reason="flock is of Unix")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_drive_without_locks(corpus: Corpus, tmp_path: Path, capsys, monkeypatch, number: int):
    """One process goes on with one warning, which names the folder and what to do; one that was started to share refuses."""
    refuse_locks(monkeypatch, number)
    runs = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:2]
    assert len(run(runs, tmp_path, corpus.cache)) == 2 and len(load_records(tmp_path)) == 2
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and f"{tmp_path}: this drive has no file locks ({os.strerror(number)})" in said
    assert "start no second run there, or choose a results folder on another drive" in said
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object())
    with pytest.raises(TrainingError, match=r"no file locks .*take one worker, or a results folder on another drive\.$"):
        run(runs, tmp_path / "shared", corpus.cache)
    refuse_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        run(runs, tmp_path / "broken", corpus.cache)


def test_inspect_says_what_is_there_and_draws_it(videos: Path, tmp_path: Path, capsys, monkeypatch):
    """The description, the picture in the named place, a film that shows nobody; the folder is only read, the cache is where it was asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = shutil.copytree(videos, tmp_path / "films")
    write_video([np.full((576, 720, 3), 90, np.uint8)] * 4, folder / "wall.avi")
    with (folder / "manifest.csv").open("a") as file:
        file.write("wall.avi,joy,a01\n")
    (folder / "note.txt").touch()
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    words = ["inspect", str(folder), "--cache", str(tmp_path / "cache")]
    assert __main__.main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("films: 31 clips of 3 classes, labels from manifest.csv: anger 10, joy 11, sadness 10\n")
    assert "possible splits: by_actor, by_clip, by_copy" in said and "left out note.txt: no video" in said
    assert "wall.avi, which seems to show nobody: the picture is all one colour in 4 of 4 frames" in said
    sheet = cv2.imread("films-sheet.png")
    assert "films-sheet.png" in said and sheet.shape[1] == 12 * 120 and (sheet == (0, 0, 220)).all(-1).sum() > 300  # a red frame
    assert before == {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 31
    assert __main__.main([*words, "--sheet", "other.png"]) == 0 and (tmp_path / "other.png").stat().st_size > 1000
    for other in ("other.jpg", "no/such.png", str(folder)):
        assert __main__.main([*words, "--sheet", other]) == 1 and "cannot be written: name a file that ends in .png" in capsys.readouterr().err
    assert __main__.main(["inspect", str(folder)]) == 1  # no home: the sentence names what helps
    assert re.search(r"/proc/none\S* cannot hold .*--cache.*XDG_CACHE_HOME", capsys.readouterr().err)


def test_what_a_manifest_names_decides_what_a_folder_is(videos: Path, tmp_path: Path, capsys, monkeypatch):
    """A stray BVH file among videos changes nothing; motion capture is rendered and then shown; both kinds are refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(videos, tmp_path / "films")
    (folder / "walk.bvh").write_text(bvh_text(PERSON, MOVES))
    assert __main__.main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "films: 30 clips" in said and "left out walk.bvh: motion capture" in said
    rows = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(f"{rows}walk.bvh,joy,a01\n")
    assert __main__.main(["inspect", str(folder)]) == 1
    assert "names motion capture (walk.bvh) and other files" in capsys.readouterr().err
    (tmp_path / "moves").mkdir()
    shutil.move(folder / "walk.bvh", tmp_path / "moves")
    (tmp_path / "moves" / "manifest.csv").write_text("bvh_file;emotion;subject\nwalk.bvh;joy;Ann\n")
    assert __main__.main(["inspect", "moves"]) == 0
    said = capsys.readouterr().out
    assert "moves-videos: 1 clips of 1 classes" in said and (tmp_path / "moves-videos-sheet.png").is_file()


def test_a_console_that_cannot_show_a_name_shows_the_rest(videos: Path, tmp_path: Path, monkeypatch):
    """Names of classes and files in another script, on a console of ASCII: no traceback, in predict as in inspect."""
    monkeypatch.chdir(tmp_path)
    classes = ("Angst", "喜び", "ярость")
    save_network(VideoNet(replace(study.RECIPES["tiny"].network, classes=3)), tmp_path / "net.safetensors", classes)
    film = shutil.copy(next(videos.glob("*.avi")), tmp_path / "Körper 喜.avi")
    for words in (["predict", str(film), "--weights", "net.safetensors"], ["inspect", str(tmp_path), "--cache", "cache"]):
        console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        monkeypatch.setattr("sys.stdout", console)
        code = __main__.main(words)
        console.flush()
        said = console.buffer.getvalue().decode()
        assert code == (0 if words[0] == "predict" else 1)
        assert words[0] == "inspect" or "\\u559c\\u3073" in said and "K\\xf6rper" in said and "Angst" in said

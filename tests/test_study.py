"""A study: lists of runs, methods, records, what is done again and what is refused; processes that share a list."""

import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tqdm.std
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from deformlib import progress
from deformlib.corpus import Corpus
from deformlib.files import DeformlibError, file_lock
from deformlib.network import VideoNet, load_network
from deformlib.paper.study import (
    METHODS,
    RECIPES,
    STUDIES,
    WARPS,
    Experiment,
    FitResult,
    NetworkMethod,
    StudyError,
    accuracy_without_offsets,
    count_parameters,
    fill_defaults,
    make_record,
    make_split,
    robustness,
    run,
    undone,
)
from deformlib.records import load_records, read_record, write_record
from deformlib.splits import Split
from deformlib.training import evaluate, fit, run_config

CLASSROOM = STUDIES["classroom"]


def make_network(model: str, seed: int) -> VideoNet:
    """The untrained network of a tiny run with three classes."""
    return METHODS[model].network(Experiment("", "by_actor", model, seed, "tiny"), 3)


def edit(path: Path, change) -> None:
    """Change a record in its file, without asking the schema."""
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


class Constant:
    """A method of another kind: it always says the same class, and who was asked."""

    def __init__(self, says: int):
        self.says = says

    def run_config(self, experiment: Experiment, corpus: Corpus, split: Split) -> dict:
        return {"says": corpus.classes[self.says]}

    def __call__(self, experiment: Experiment, corpus: Corpus, split: Split, folder: Path) -> FitResult:
        probabilities = np.eye(len(corpus.classes), dtype=np.float32)[np.full(len(split.val), self.says)]
        return FitResult(probabilities, 0, [{"pid": os.getpid()}], 0.25, predict_proba=lambda change: probabilities)


class Refusing(Constant):
    """A method that cannot."""

    def __call__(self, *words) -> FitResult:
        raise StudyError("this one cannot be done: choose another")


class Dying(Constant):
    """A method whose process the system kills."""

    def __call__(self, *words) -> FitResult:
        os._exit(9)


class Waiting(Constant):
    """A method that says in its folder that it is at work, and goes on for long."""

    def __call__(self, experiment: Experiment, corpus: Corpus, split: Split, folder: Path) -> FitResult:
        folder.mkdir()
        (folder / str(os.getpid())).touch()
        time.sleep(600)
        raise AssertionError("nobody stopped it")


class Trained(NetworkMethod):
    """A method of networks that notes the names of the runs which it trains."""

    names: list[str] = []

    def __call__(self, experiment: Experiment, *words) -> FitResult:
        self.names.append(experiment.name)
        return super().__call__(experiment, *words)


class Shown(tqdm.std.tqdm):
    """A bar that is shown, whatever the environment of the tests says."""

    def __init__(self, *words, **options):
        super().__init__(*words, **(options | {"disable": False}))


class Interrupted(NetworkMethod):
    """A method of networks during whose first epoch somebody presses Ctrl-C."""

    def __call__(self, experiment: Experiment, corpus: Corpus, split: Split, folder: Path) -> FitResult:
        def interrupt(history: list[dict]) -> None:
            raise KeyboardInterrupt

        training = replace(RECIPES[experiment.recipe].training, seed=experiment.seed)
        fit(self.network(experiment, len(corpus.classes)), corpus, split, training, folder, on_epoch=interrupt)
        raise AssertionError("it was not interrupted")


class NoTensors(TorchDispatchMode):
    """Within it nobody may make a tensor or compute with one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called")


@pytest.fixture(scope="module")
def finished(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a whole tiny study of one seed: four runs."""
    folder = tmp_path_factory.mktemp("results")
    for path in reproduced.glob("tiny-*"):
        shutil.copy(path, folder)
    return folder


def test_the_list_holds_every_comparison_whole(corpus: Corpus):
    """Two models, two splits, each seed; all names differ; a seed is complete before the next begins."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0, 1, 2))
    assert len(experiments) == len({experiment.name for experiment in experiments}) == 12
    assert [experiment.seed for experiment in experiments] == [0] * 4 + [1] * 4 + [2] * 4
    models, splits = ("plain", "deformable"), ("by_actor", "by_copy")
    assert {(e.model, e.split) for e in experiments[:4]} == {(m, s) for m in models for s in splits}
    leakage = STUDIES["leakage"].experiments(corpus, (0,))
    assert [e.split for e in leakage if e.model == "plain"] == ["by_copy", "by_clip", "by_actor"]
    with pytest.raises(StudyError, match="seed"):
        CLASSROOM.experiments(corpus, seeds=())


class People:
    """As much of a corpus as a study asks to make its list."""

    name, folder = "films", Path("films")

    def __init__(self, *actors: str | None):
        self.videos = [type("Video", (), {"actor": actor}) for actor in actors]


@pytest.mark.parametrize(
    ("actors", "found"), [("xx", "all clips have one actor"), ((None, "a", "b"), "1 of 3 clips have no actor")]
)
def test_a_study_that_must_leave_by_actor_says_so_first(actors, found: str, capsys):
    """With the number of clips and the remedy; each split comes once; not if nobody asked for one by actor."""
    nameless = People(*actors)
    assert {e.split for e in CLASSROOM.experiments(nameless, seeds=(0,))} == {"by_clip", "by_copy"}
    said = capsys.readouterr().out
    assert said.startswith(f"WARNING: films: {found}") and "actor column" in said and said.count("\n") == 1
    leakage = STUDIES["leakage"].experiments(nameless, (0,))
    assert [e.split for e in leakage if e.model == "plain"] == ["by_copy", "by_clip"]
    capsys.readouterr()
    replace(CLASSROOM, splits=("by_copy",)).experiments(nameless, seeds=(0,))
    CLASSROOM.experiments(People("a", "b"), seeds=(0,))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("word", ["split", "model", "recipe"])
def test_unknown_words_are_refused(word: str, tmp_path: Path):
    """A misspelt experiment is refused before anything is trained, with the known words."""
    good = {"corpus": "x", "split": "by_actor", "model": "plain", "seed": 0, "recipe": "tiny"}
    with pytest.raises(StudyError, match="no 'nonsense' in .*take one of these"):
        run([Experiment(**good | {word: "nonsense"})], tmp_path)


def test_splits_hold_out_a_fifth(corpus: Corpus):
    """Two of ten actors, others for the next seed; of the copies, twice as many as there are clips."""
    seeds = [make_split(Experiment("", "by_actor", "plain", seed, "tiny"), corpus) for seed in range(5)]
    held_out = [{corpus.videos[clip].actor for clip in split.val[:, 0]} for split in seeds]
    assert all(len(actors) == 2 for actors in held_out) and len(set.union(*held_out)) == 10
    assert len(make_split(Experiment("", "by_copy", "plain", 0, "tiny"), corpus).val) == 2 * len(corpus)


def test_every_model_is_one_change(corpus: Corpus):
    """All models start from the plain network's weights where shapes agree; settings say the network that is built."""
    plain = make_network("plain", 4).state_dict()
    split = make_split(Experiment("", "by_actor", "plain", 4, "tiny"), corpus)
    for model, method in METHODS.items():
        net, experiment = make_network(model, 4), Experiment("", "by_actor", model, 4, "tiny")
        weights = net.state_dict()
        common = [name for name in plain if name in weights and weights[name].shape == plain[name].shape]
        assert len(common) > (20 if net.config.hidden else 15) and all(
            torch.equal(weights[name], plain[name]) for name in common
        ), model
        settings = method.run_config(experiment, corpus, split)
        if not method.defects:
            training = replace(RECIPES["tiny"].training, seed=4)
            assert settings | run_config(net, split, training) == settings, model
        own = {name: settings.get(name) for name in ("offsets", "defects")}
        assert own == {
            "offsets": None if method.offsets == "learned" else method.offsets,
            "defects": list(method.defects) or None,
        }
    assert make_network("steps_released", 4).config.deform_steps == ((0,), (1,), (2,))
    assert METHODS["defect_mixed_gates"].defects == ("mixed_gates",)
    for study in STUDIES.values():
        assert set(study.models) <= set(METHODS) and study.seeds >= (3 if study is CLASSROOM else 5) and study.question


def test_plain_and_deformable_start_as_one_network():
    """Their offset branches, which start at zero, are the only difference; another seed differs in everything."""
    plain, deformable = (make_network(model, 4) for model in ("plain", "deformable"))
    weights, more = plain.state_dict(), deformable.state_dict()
    added = {name for name in more if name not in weights}
    assert added == {name for name in more if "offset_branch" in name} != set()
    assert all(not more[name].any() for name in added)
    clips = torch.rand(2, 1, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(plain.eval()(clips), deformable.eval()(clips), atol=1e-6)
    assert not torch.allclose(make_network("plain", 5).eval()(clips), plain(clips), atol=1e-3)


def test_the_matched_network_is_as_large():
    """A plain network with as many parameters as the deformable one, to half of what one more channel adds."""
    names = ("plain", "matched_plain", "deformable")
    plain, matched, wanted = (count_parameters(make_network(name, 0)) for name in names)
    wider = NetworkMethod("none", {"hidden": (9, 9, 9)}).network(Experiment("", "by_actor", "", 0, "tiny"), 3)
    assert abs(matched - wanted) <= 0.6 * (count_parameters(wider) - plain) < abs(plain - wanted)
    assert make_network("matched_plain", 0).config.deform_steps == ((), (), ())
    alone = make_network("matched_conv3d", 0)
    wider = replace(alone.config, conv2d=tuple(width + 1 for width in alone.config.conv2d))
    assert not alone.config.hidden and alone.config.conv2d[0] > 16
    assert abs(count_parameters(alone) - wanted) <= 0.6 * (count_parameters(VideoNet(wider)) - count_parameters(alone))


def test_a_deformable_run_says_what_it_has_right_without_offsets(finished: Path, corpus: Corpus):
    """A plain network with its weights has as many; all offsets of the copy are zero, and the network keeps its own."""
    experiment = Experiment(str(corpus.folder), "by_actor", "deformable", 0, "tiny")
    split, plain = make_split(experiment, corpus), make_network("plain", 0)
    net, _ = load_network(finished / f"{experiment.name}.safetensors")
    told = read_record(finished / f"{experiment.name}.json")["history"][-1]["accuracy_without_offsets"]
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if "offset_branch" not in name})
    right = evaluate(plain, corpus, split.val, 0).argmax(1) == corpus.labels[split.val[:, 0]]
    assert told == right.mean()
    offsets: list[float] = []
    for name, module in net.named_modules():
        if name.endswith("offset_branch"):
            nn.init.constant_(module.bias, 4.0)
            module.register_forward_hook(lambda _, given, field: offsets.append(field.abs().max().item()))
    evaluate(net, corpus, split.val[:1], 0)
    assert len(offsets) == 3 and min(offsets) > 3
    assert accuracy_without_offsets(net, corpus, split.val[:1], 0) in (0, 1) and offsets[3:] == [0, 0, 0]
    evaluate(net, corpus, split.val[:1], 0)
    assert offsets[6:] == offsets[:3]


@pytest.mark.slow
def test_frozen_offsets_and_offsets_zeroed_at_the_test(corpus: Corpus, tmp_path: Path):
    """Frozen ones are about a pixel off and do not learn; the others learn, and are gone at the evaluation."""
    models = ("frozen_offsets", "offsets_zeroed_at_test")
    frozen = make_network("frozen_offsets", 0)
    start = {name: value.clone() for name, value in frozen.state_dict().items() if "offset_branch" in name}
    experiments = [Experiment(str(corpus.folder), "by_actor", model, 0, "tiny") for model in models]
    records = run(experiments, tmp_path, corpus.cache)
    frozen, zeroed = (load_file(tmp_path / f"{experiment.name}.safetensors") for experiment in experiments)
    for name, value in start.items():
        assert torch.equal(frozen[name], value) and value.any() == name.endswith("bias") and not zeroed[name].any()
    assert [record["settings"]["offsets"] for record in records] == ["frozen", "zeroed_at_test"]
    assert min(records[0]["history"][-1]["offsets"]) > 0.5 and min(records[1]["history"][-1]["offsets"]) > 0


@pytest.mark.slow
def test_a_network_with_a_defect_leaves_no_weights_that_would_not_say_so(corpus: Corpus, tmp_path: Path):
    """Its record names the defect; a file of weights would be read as a network without."""
    (record,) = run(
        [Experiment(str(corpus.folder), "by_actor", "defect_pool_2_2_1", 0, "tiny")], tmp_path, corpus.cache
    )
    assert record["settings"]["defects"] == ["pool_2_2_1"] and not list(tmp_path.glob("*.safetensors"))


def test_records_say_where_every_number_is_from(finished: Path, corpus: Corpus):
    """Data, split, seed, versions, device, seconds, commit; accuracy is that of the stored predictions."""
    records = load_records(finished)
    assert len(records) == 4
    for record in records:
        shown, split = record["validation"], record["split"]
        assert record["accuracy"] == np.mean(np.array(shown["label"]) == np.array(shown["predicted"]))
        assert len(shown["clip"]) == len(shown["frames"]) == len(shown["copy"]) == split["val"]
        assert record["corpus"]["key"] == corpus.key and record["corpus"]["source"] == corpus.source
        assert record["settings"]["training"]["seed"] == record["experiment"]["seed"]
        assert record["seconds"] > 0 and record["device"] and record["versions"]["torch"] and "commit" in record
        assert record["versions"]["av"] and record["corpus"]["sampled"] == {"by number": 30, "by time": 0}
        by_actor = split["name"] == "by_actor"
        assert split["copies_in_training"] == [0, 0] if by_actor else split["copies_in_training"][0] > 60
        assert len(split["held_out"]) == 2 if by_actor else split["held_out"] is None
    assert not any(path.is_dir() for path in finished.iterdir())


def test_done_runs_are_not_done_again(finished: Path, corpus: Corpus, tmp_path: Path):
    """The second call trains nothing; a missing record is made again, equal but for its times."""
    folder, method = shutil.copytree(finished, tmp_path / "results"), Trained()
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")
    missing = experiments[1]
    wanted = read_record(folder / f"{missing.name}.json")
    (folder / f"{missing.name}.json").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    records = run(experiments, folder, corpus.cache, methods=METHODS | {"deformable": method})
    assert method.names == [missing.name] and [record["name"] for record in records] == [e.name for e in experiments]
    assert records[1]["validation"] == wanted["validation"]
    assert records[1]["history"][-1]["loss"] == wanted["history"][-1]["loss"]
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}.items()


def test_to_find_runs_done_builds_no_network(corpus: Corpus, tmp_path: Path):
    """Settings come from configurations alone: no tensor is made, no random number drawn, nothing seeded."""
    models = ("plain", "deformable", "matched_plain", "defect_mixed_gates")
    experiments = [Experiment(str(corpus.folder), "by_actor", m, seed, "tiny") for seed in range(5) for m in models]
    state = torch.get_rng_state()
    for experiment in experiments:
        split, method = make_split(experiment, corpus), METHODS[experiment.model]
        result = FitResult(np.eye(3, dtype=np.float32)[corpus.labels[split.val[:, 0]]], 1, [], 1.0)
        record = make_record(experiment, corpus, split, method.run_config(experiment, corpus, split), result)
        write_record(tmp_path / f"{experiment.name}.json", record | {"commit": None})
    with NoTensors():
        assert len(run(experiments, tmp_path, corpus.cache)) == 20
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(AssertionError, match="was called"), NoTensors():
        make_network("plain", 0)


def test_a_run_broken_off_goes_on(finished: Path, corpus: Corpus, tmp_path: Path):
    """Stopped within a run, the study takes up that run from its checkpoint and gives the undisturbed result."""
    experiment = Experiment(str(corpus.folder), "by_actor", "deformable", 0, "tiny")
    with pytest.raises(KeyboardInterrupt):
        run([experiment], tmp_path, corpus.cache, methods={"deformable": Interrupted()})
    assert (tmp_path / experiment.name / "checkpoint.safetensors").exists()
    (got,) = run([experiment], tmp_path, corpus.cache)
    wanted = read_record(finished / f"{experiment.name}.json")
    assert got["validation"] == wanted["validation"] and got["accuracy"] == wanted["accuracy"]
    first, second = (load_file(folder / f"{experiment.name}.safetensors") for folder in (finished, tmp_path))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_other_models_are_run_alike(corpus: Corpus, tmp_path: Path):
    """A method is anything that says its settings and gives a FitResult; its record is a record, nothing is saved."""
    experiment = Experiment(str(corpus.folder), "by_actor", "constant", 1, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, methods={"constant": Constant(0)}, warped=True)
    assert record["accuracy"] == 1 / 3 and record["history"][0]["pid"] == os.getpid()
    assert record["settings"] == {"says": "anger"} and record["seconds"] == 0.2 and record["multiply_adds"] is None
    assert set(record["robustness"]) == set(WARPS) and [0, 1 / 3] in record["robustness"]["rotate"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-constant-by_actor-1.json"]
    assert run([experiment], tmp_path, corpus.cache, methods={"constant": Constant(0)}) == [record]
    with pytest.raises(StudyError, match="other settings"):
        run([experiment], tmp_path, corpus.cache, methods={"constant": Constant(1)})


def test_robustness_asks_the_trained_network(finished: Path, corpus: Corpus, tmp_path: Path):
    """Each kind of change at each amount, on clips that are really changed; no change gives the plain accuracy."""
    light = []

    def predict_proba(change):
        clips = change(torch.ones(1, 1, 2, 32, 32))
        light.append(clips.mean().item())
        return np.array([[0.0, 1.0], [1.0, 0.0]]) if light[-1] > 0.99 else np.array([[1.0, 0.0], [1.0, 0.0]])

    curves = robustness(predict_proba, np.array([1, 0]))
    asked = {kind: [amount for amount, _ in curve] for kind, curve in curves.items()}
    assert asked == {kind: list(amounts) for kind, amounts in WARPS.items()}
    accuracy = {kind: dict(map(tuple, curve)) for kind, curve in curves.items()}
    same = [("rotate", 0), ("scale", 1), ("scale", 2), ("shift", 0), ("shear", 0)]
    assert all(accuracy[kind][amount] == 1 for kind, amount in same)
    assert all(accuracy[kind][amount] == 0.5 for kind, amount in [("rotate", 45), ("shift", 0.2), ("shear", 0.5)])
    experiment = Experiment(str(corpus.folder), "by_actor", "plain", 0, "tiny")
    (record,) = run([experiment], tmp_path, corpus.cache, warped=True)
    assert record["robustness"]["rotate"][0] == [0, record["accuracy"]]


def test_a_finished_run_is_warped_from_its_weights(finished: Path, corpus: Corpus, tmp_path: Path, capsys):
    """Nothing is trained, and the rest of the record stays; other weights than its own, or none, are refused."""
    experiment, method = Experiment(str(corpus.folder), "by_actor", "deformable", 0, "tiny"), Trained()
    known = list(method.names)
    path = Path(shutil.copy(finished / f"{experiment.name}.json", tmp_path))
    with pytest.raises(StudyError, match=rf"{path.name}: .*warped clips.*weights"):
        run([experiment], tmp_path, corpus.cache, warped=True)
    weights = Path(shutil.copy(finished / f"{experiment.name}.safetensors", tmp_path))
    before = read_record(path)
    assert undone([experiment], tmp_path) == [] and undone([experiment], tmp_path, warped=True) == [experiment]
    edit(path, lambda record: record.update(accuracy=record["accuracy"] + 0.2))
    with pytest.raises(StudyError, match=rf"{weights.name}: not the weights"):
        run([experiment], tmp_path, corpus.cache, warped=True)
    edit(path, lambda record: record.update(accuracy=before["accuracy"]))
    (record,) = run([experiment], tmp_path, corpus.cache, methods={"deformable": method}, warped=True)
    assert method.names == known and {name: record[name] for name in before} == before
    assert set(record["robustness"]) == set(WARPS) and read_record(path) == record
    assert record["robustness"]["rotate"][0] == [0, record["accuracy"]]
    assert undone([experiment], tmp_path, warped=True) == [] and "evaluated on warped" in capsys.readouterr().out
    seen = path.stat().st_mtime_ns
    run([experiment], tmp_path, corpus.cache, warped=True)
    assert path.stat().st_mtime_ns == seen and not list(tmp_path.glob(".*"))


def test_a_run_in_other_hands_is_left_to_them(finished: Path, corpus: Corpus, tmp_path: Path, capsys):
    """While another process is at a run, the next is taken; if that leaves without a record, the run is taken over."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:2]
    shutil.copy(finished / f"{experiments[1].name}.json", tmp_path)
    held, enough = threading.Event(), threading.Event()

    def other() -> None:
        with file_lock(tmp_path / f".{experiments[0].name}.lock"):
            held.set()
            enough.wait(0.5)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(60)
    records = run(experiments, tmp_path, corpus.cache, methods={"plain": Trained("none"), "deformable": Trained()})
    thread.join()
    said = capsys.readouterr().out.splitlines()
    assert "another process" in said[0] and all(line.startswith(f"{experiments[0].name}: ") for line in said)
    assert said[1].endswith(": starts") and said[2].endswith(" s; all 2 runs are done") and len(said) == 3
    assert [record["name"] for record in records] == [experiment.name for experiment in experiments]
    assert not list(tmp_path.glob(".*"))


def test_a_log_tells_how_a_study_goes(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A line when a run starts, lines within, one at its end with accuracy, runs and time left; each look at the clock
    is half a minute later. No bar, and nothing that waits for a buffer to be full.
    """
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:2]
    methods = {"plain": Trained("none"), "deformable": Trained()}
    monkeypatch.setattr(progress, "tqdm", Shown)
    monkeypatch.setattr(tqdm.std, "time", itertools.count(0, 30).__next__)
    with redirect_stdout(io.StringIO()) as log, redirect_stderr(log):
        records = run(experiments, tmp_path, corpus.cache, methods=methods)
    lines = [line for line in log.getvalue().splitlines() if not line.startswith("reading")]
    assert "\r" not in log.getvalue()
    for experiment, record, left in zip(experiments, records, ("1 of 2 runs are left, about 0 min", ""), strict=True):
        own = [line.removeprefix(f"{experiment.name}: ") for line in lines if line.startswith(experiment.name)]
        steps = RECIPES["tiny"].training.epochs * RECIPES["tiny"].training.steps(make_split(experiment, corpus))
        assert own[0] == "starts" and own[-2].startswith(f"{steps} of {steps}, ") and len(own) >= 4
        right = f"{100 * record['accuracy']:.1f} % of {record['split']['val']} right, "
        assert own[-1].startswith(right) and own[-1].endswith(f" s; {left or 'all 2 runs are done'}")
    assert len(lines) == sum(line.startswith(experiment.name) for line in lines for experiment in experiments)


def other_network(record: dict) -> None:
    record["settings"]["network"]["hidden"] = [8, 8, 4]


def other_training(record: dict) -> None:
    record["settings"]["training"]["lr"] = 1e-4


def other_option(record: dict) -> None:
    record["settings"]["offsets"] = "frozen"


def other_data(record: dict) -> None:
    record["corpus"]["key"] = "0" * 32


@pytest.mark.parametrize("change", [other_network, other_training, other_option, other_data])
def test_records_of_other_settings_or_data_are_not_taken(finished: Path, corpus: Corpus, tmp_path: Path, change):
    """A recipe or a corpus that has changed since makes the old record an error, not a result."""
    path = Path(shutil.copy(finished / "tiny-plain-by_actor-0.json", tmp_path))
    edit(path, change)
    with pytest.raises(StudyError, match=rf"{path.name}: .*{'corpus' if change is other_data else 'settings'}.*delete"):
        run(CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:1], tmp_path, corpus.cache)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"corpus": 1}', '{"corpus": {"key": "k"}, "settings": []}'])
def test_a_record_that_is_not_whole_is_named(corpus: Corpus, tmp_path: Path, text: str):
    """Half a file, or another thing of the same name, is no result and no traceback."""
    (tmp_path / "tiny-plain-by_actor-0.json").write_text(text)
    with pytest.raises(DeformlibError, match=r"tiny-plain-by_actor-0\.json: .*delete it"):
        run(CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:1], tmp_path, corpus.cache)


def test_older_records_count_with_the_defaults_of_options_they_do_not_name(
    finished: Path, corpus: Corpus, tmp_path: Path
):
    """A record from before an option existed was made with its default: taken as long as that is what is asked for."""
    path = Path(shutil.copy(finished / "tiny-plain-by_actor-0.json", tmp_path))

    def older(record: dict) -> None:
        del record["settings"]["network"]["gates"], record["settings"]["training"]["accumulate"]
        del record["corpus"]["sampled"], record["versions"]["av"]

    edit(path, older)
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:1]
    (record,) = run(experiments, tmp_path, corpus.cache)
    assert "gates" not in record["settings"]["network"] and "sampled" not in record["corpus"]
    for other in (NetworkMethod("none", {"gates": "convolution"}), NetworkMethod("none", defects=("mixed_gates",))):
        with pytest.raises(StudyError, match="other settings"):
            run(experiments, tmp_path, corpus.cache, methods={"plain": other})
    now = {"feature": "hog", "code": "1"}  # of a method that is no network, an option that came later is as it is now
    assert fill_defaults({"feature": "hog"}, now) == now and fill_defaults({"feature": "klt"}, now) != now


@pytest.mark.slow  # each worker imports PyTorch
def test_workers_share_the_list_and_change_no_number(finished: Path, corpus: Corpus, tmp_path: Path):
    """Processes with one thread each give the records that one gives, in the order of the list."""
    experiments = CLASSROOM.experiments(corpus, seeds=(0,), recipe="tiny")[:1]
    experiments += [Experiment(str(corpus.folder), "by_actor", "constant", seed, "tiny") for seed in range(2)]
    variables = dict(os.environ)
    records = run(experiments, tmp_path, corpus.cache, 2, METHODS | {"constant": Constant(0)})
    assert [record["name"] for record in records] == [experiment.name for experiment in experiments]
    assert records[0]["validation"] == read_record(finished / f"{experiments[0].name}.json")["validation"]
    assert all("threads a run: 1" in record["device"] for record in records)
    assert all(record["history"][0]["pid"] != os.getpid() for record in records[1:])
    assert os.environ == variables and not multiprocessing.active_children()


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error(corpus: Corpus, tmp_path: Path):
    """What a worker cannot do is not done quietly by the parent."""
    experiment = Experiment(str(corpus.folder), "by_actor", "dying", 0, "tiny")
    with pytest.raises(StudyError, match="worker ended .* fewer than 2 workers"):
        run([experiment], tmp_path / "results", corpus.cache, 2, {"dying": Dying(0)})


@pytest.mark.slow
def test_what_workers_refuse_is_one_sentence(corpus: Corpus, tmp_path: Path, capfd):
    """A refusal comes back as the error that it is, without a traceback from each worker; what others did is kept."""
    models = {"constant": Constant(0), "refusing": Refusing(0)}
    experiments = [Experiment(str(corpus.folder), "by_actor", model, 0, "tiny") for model in models]
    with pytest.raises(StudyError, match=r"^this one cannot be done: choose another$"):
        run(experiments, tmp_path, corpus.cache, 2, models)
    assert "Traceback" not in capfd.readouterr().err and len(load_records(tmp_path)) == 1


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are of Unix")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(corpus: Corpus, tmp_path: Path, how: signal.Signals):
    """Stopped or killed, a study leaves nobody at work."""
    code = f"""
import test_study as t
experiments = [t.Experiment({str(corpus.folder)!r}, "by_actor", "waiting", seed, "tiny") for seed in range(2)]
if __name__ == "__main__":
    t.run(experiments, {str(tmp_path / "results")!r}, {str(corpus.cache)!r}, 2, {{"waiting": t.Waiting(0)}})
"""
    (tmp_path / "script.py").write_text(code)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=env, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while len(busy := list(tmp_path.glob("results/*/*"))) < 2:
        assert time.monotonic() < until and parent.poll() is None, "the workers did not begin"
        time.sleep(0.1)
    parent.send_signal(how)
    said = parent.communicate(timeout=60)[1]
    assert parent.returncode not in (None, 0) and (how == signal.SIGKILL or "KeyboardInterrupt" in said)
    while any(Path("/proc", path.name).exists() for path in busy):
        assert time.monotonic() < until, "a worker goes on"
        time.sleep(0.1)

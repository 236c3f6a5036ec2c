"""Runs of the align pages: made once, the committed records count as done, and their bytes are those written today."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from deformlib.align import controls, follow, runs
from deformlib.align.only_offsets import run_only_offsets
from deformlib.align.shapes import ARMS, run_next
from deformlib.align.states import run_states
from deformlib.make.figures import plan_corpus
from deformlib.make.pairs import film_pairs
from deformlib.paper.study import machine
from deformlib.records import ResultsError

RESULTS = Path(__file__).parent.parent / "results" / "align"
RECORDS = sorted(RESULTS.glob("*.json"))


@pytest.fixture(autouse=True)
def one_thread():
    """Settings name the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_committed_record_is_written_byte_by_byte(tmp_path: Path):
    """Every record of results/align, read and written again under its name."""
    assert len(RECORDS) >= 80
    for path in RECORDS:
        record = runs.read_run(path)
        runs.write_run(tmp_path / path.name, {key: value for key, value in record.items() if key != "name"})
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_committed_records_count_as_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The five pages read theirs; whoever would train or write says so."""
    for page in ("follow", "controls", "shapes", "only_offsets", "states"):
        monkeypatch.setattr(f"deformlib.align.{page}.write_run", None)
    for work in ("follow.plan_corpus", "controls.plan_corpus", "shapes.draw_shapes", "only_offsets.train_arms"):
        monkeypatch.setattr(f"deformlib.align.{work}", None)
    monkeypatch.setattr("deformlib.align.states.make_predictor", None)
    monkeypatch.setattr("deformlib.align.states.measure", lambda net, clips: None)  # of the copy, every time
    monkeypatch.setattr("deformlib.align.states.task_clips", lambda *given, **options: None)
    seeds = range(5)
    found = [*follow.run_align(RESULTS, seeds, {}), *follow.run_align(RESULTS, range(3), {}, checks=False)]
    for arm in ("taps", "plain", "first"):
        found += controls.run_coarse(RESULTS, arm, seeds, {})
    found += controls.run_coarse(RESULTS, "plain", [100], {}, lr=1e-2, steps=150, skip="a", people="validation")
    found += [run_next(RESULTS, arm, seed, {}) for arm in ARMS for seed in seeds]
    found.append(run_next(RESULTS, "taps", 100, {}, "validation", lr=1e-3))
    found += run_only_offsets(RESULTS, seeds, {})
    for task in ("digits", "fast", "bodies"):
        kept = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"states-{task}-seed-*.json"))]
        found += run_states(RESULTS, task, seeds, {}, set.intersection(*(set(record["arms"]) for record in kept)))
    names = [record["name"] for record in found]
    assert len(set(names)) == len(names) == 5 + 3 + 15 + 1 + 20 + 1 + 5 + 15
    assert set(names) <= {path.stem for path in RECORDS}
    with pytest.raises(TypeError):  # other settings: it would train
        run_only_offsets(RESULTS, [0], {}, steps=60)


def form(value: object) -> object:
    """The keys of a record, in their order, through all its levels."""
    return [(key, form(each)) for key, each in value.items()] if isinstance(value, dict) else None


@pytest.mark.filterwarnings("ignore:invalid value")  # nothing to correlate in so little
def test_a_new_record_has_the_form_of_those_committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Two steps on one short film, each page that the tests of its own do not train; weights and a reading of them."""
    clip = next(clip for clip in plan_corpus(0)[80:] if clip.actor in follow.TRAIN_ACTORS)
    film = film_pairs(clip, most=8)
    for page in (follow, controls):
        monkeypatch.setattr(page, "plan_corpus", lambda number: [clip])
        monkeypatch.setattr(page, "film_pairs", lambda clip, checks=True: film)
    made = follow.run_align(tmp_path, [0], machine(), steps=2)
    made += [controls.run_coarse(tmp_path, arm, [0], machine(), steps=2)[0] for arm in ("taps", "plain")]
    for record in made:
        kept = runs.read_run(RESULTS / f"{record['name']}.json")
        assert form(record) == form(kept) and record["parameters"] == kept["parameters"], record["name"]
        assert record["settings"] == kept["settings"] | {"steps": 2} and record["data"]["train"]["clips"] == 1
        assert runs.is_done(tmp_path / f"{record['name']}.json", record["settings"])
    follow.AlignNet().load_state_dict(load_file(tmp_path / "align-checks-seed-0.safetensors"))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_run_is_done_under_its_settings_alone(tmp_path: Path):
    """A record is there with its weights, under its own name; not under other settings; nothing else is left."""
    path, net = tmp_path / "new" / "name-seed-0.json", nn.Linear(2, 3)
    assert not runs.is_done(path, {"lr": 0.1})
    runs.write_run(path, {"seed": 0, "settings": {"lr": 0.1, "steps": [1, 2]}} | machine(), net)
    assert runs.is_done(path, {"lr": 0.1, "steps": [1, 2]}) and not runs.is_done(path, {"lr": 0.1})
    record = runs.read_run(path)
    assert list(record)[:3] == ["name", "seed", "settings"] and record["name"] == "name-seed-0"
    assert record["device"] and "commit" in record
    assert torch.equal(load_file(path.with_suffix(".safetensors"))["weight"], net.weight)
    runs.write_run(path.with_name("name-seed-1.json"), {"settings": {}})
    assert [each["name"] for each in runs.read_runs(path.parent, "name")] == ["name-seed-0", "name-seed-1"]
    assert len(list(path.parent.iterdir())) == 3


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '"settings"'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"broken\.json: .*delete it"):
        runs.is_done(path, {})


def test_what_all_records_say():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    assert runs.count_parameters(net) == 11 and runs.count_parameters(net, learning=True) == 3
    assert runs.loss_ends([1.0] * 50 + [9.0] * 20 + [3.0] * 50) == {"first_50": 1, "last_50": 3}
    value, seconds = runs.timed(lambda: sum(range(10**6)))
    assert value == 499999500000 and 0 <= seconds < 60

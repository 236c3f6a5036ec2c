"""Networks that start from a finished run, and whether a level over people is above chance."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from deformlib.corpus import Corpus
from deformlib.paper import pretraining
from deformlib.paper.pretraining import MOTION, PRETRAINED, PretrainedMethod, above_chance, motion_answer, permutation_p
from deformlib.paper.study import Experiment, StudyError, make_split, run

BRIEF = {"epochs": 1, "epoch_steps": 2}
TINY = {
    "all": PretrainedMethod("none", training=BRIEF, weights="plain-by_actor", starts=1),
    "probe": PretrainedMethod("none", training=BRIEF, weights="plain-by_actor", starts=1, only_classifier=True),
    "other": PretrainedMethod(changes={"hidden": (8, 8, 4)}, training=BRIEF, weights="plain-by_actor", starts=1),
}


def test_a_run_goes_on_from_another(corpus: Corpus, tmp_path: Path):
    """All weights but the classifier's; one person is held out; the record names the start, and counts as done."""
    experiments = [Experiment(str(corpus.folder), "by_person", model, 1, "tiny") for model in ("all", "probe")]
    with pytest.raises(
        StudyError, match=r"tiny-plain-by_actor-0\.safetensors is not there.*`.*study large_warps` first"
    ):
        run(experiments, tmp_path / "large_motion", corpus.cache, methods=TINY)
    run([Experiment(str(corpus.folder), "by_actor", "plain", 0, "tiny")], tmp_path / "large_warps", corpus.cache)
    known = load_file(tmp_path / "large_warps" / "tiny-plain-by_actor-0.safetensors")
    first = TINY["all"].first(experiments[0], 5, tmp_path / "large_motion" / "run").state_dict()
    assert first["linear.weight"].shape[0] == 5  # another corpus may have other classes
    assert all(torch.equal(first[name], known[name]) for name in known if not name.startswith("linear."))
    records = run(experiments, tmp_path / "large_motion", corpus.cache, methods=TINY)
    assert all(len(record["split"]["held_out"]) == 1 and record["split"]["val"] == 3 for record in records)
    assert [record["settings"]["start"] for record in records] == ["tiny-plain-by_actor-0"] * 2
    assert [record["settings"]["training"]["epoch_steps"] for record in records] == [2, 2]
    moved = {}
    for record in records:
        now = load_file(tmp_path / "large_motion" / f"{record['name']}.safetensors")
        same = {name for name in now if torch.equal(now[name], known[name])}
        moved[record["experiment"]["model"]] = {
            name for name in now if "running" not in name and "num_" not in name
        } - same
    assert moved["probe"] == {"linear.weight", "linear.bias"} and len(moved["all"]) > 20
    assert run(experiments, tmp_path / "large_motion", corpus.cache, methods=TINY) == records
    with pytest.raises(StudyError, match="the weights of another network"):
        TINY["other"].first(experiments[0], 3, tmp_path / "large_motion" / "run")


def test_every_start_is_a_run_of_its_study():
    """Seeds in turn, as many as there are; a small run starts from a small one; the way back from the way there."""
    for recipe in ("large", "small"):
        names = [PRETRAINED["probe_deformable"].start(Experiment("", "by_person", "", s, recipe)) for s in range(16)]
        assert names[:3] == [f"{recipe}-deformable-by_actor-{s}" for s in range(3)] and len(set(names)) == 5
    back = PRETRAINED["from_motion_plain"]
    assert back.start(Experiment("", "by_actor", "", 4, "large")) == "large-scratch_plain-by_person-4"
    assert back.study == "large_motion" and set(PRETRAINED) == {m for study in MOTION.values() for m in study.models}
    assert MOTION["large_motion"].splits == ("by_person",) and MOTION["large_motion"].seeds == 16
    scratch, ours = (PRETRAINED[name] for name in ("scratch_plain", "pretrained_plain"))
    one = Experiment("", "by_person", "", 0, "large")
    configs = [method.train_config(one) for method in (scratch, ours)]
    assert [config.epochs * config.epoch_steps for config in configs] == [750, 750]


def test_settings_need_no_weights(corpus: Corpus):
    """So that records count as done where the weights are not kept."""
    experiment = Experiment(str(corpus.folder), "by_person", "pretrained_plain", 12, "large")
    settings = PRETRAINED["pretrained_plain"].run_config(experiment, corpus, make_split(experiment, corpus))
    assert settings["start"] == "large-plain-by_actor-2" and settings["training"]["lr"] == 5e-4


def answers(person: str, seed: int, label: list[int], predicted: list[int], classes: int) -> dict:
    """As much of a record as a level over people asks."""
    return {
        "experiment": {"model": "m", "seed": seed},
        "corpus": {"classes": list("abcdefghij"[:classes])},
        "split": {"name": "by_person", "held_out": [person]},
        "validation": {"label": label, "predicted": predicted},
    }


def test_a_permutation_by_hand():
    """Two people with two clips each: all four right in one exchange of four. Always one class: p is 1."""
    right = {person: (np.array([0, 1]), np.eye(2)) for person in "ab"}
    assert permutation_p(right) == pytest.approx(0.25, abs=0.02)
    always = {person: (np.array([0, 1]), np.eye(2)[[0, 0]]) for person in "ab"}
    assert permutation_p(always) == 1


def test_above_chance_or_not():
    """Levels of people by hand, over their runs; an interval over people; who guesses is not above chance."""
    label = list(range(10)) * 2
    wrong = [(each + 1) % 10 for each in label]
    half = label[:10] + wrong[10:]
    records = [answers(person, seed, label, said, 10) for person in "abcd" for seed, said in ((0, half), (1, label))]
    records.append(answers("d", 2, label, wrong, 10))
    (row,) = above_chance(records).itertuples(index=False)
    assert row.accuracy == pytest.approx((3 * 75 + 50) / 4) and row.people == 4 and row.above and row.p < 0.001
    assert row.high - row.accuracy == pytest.approx(3.182 * 12.5 / 2, abs=0.01)  # t of 3 degrees; deviation 12.5
    rng = np.random.default_rng(0)
    guessed = [answers(person, 0, label, rng.integers(10, size=20).tolist(), 10) for person in "abcdefgh"]
    (row,) = above_chance(guessed).itertuples(index=False)
    assert not row.above and row.p > 0.05 and 0 < row.accuracy < 20
    assert not len(above_chance(guessed[:1])) and not len(above_chance([]))
    base = [one | {"experiment": {"model": "base", "seed": 0}} for one in guessed[:4]]
    (row,) = above_chance(records + base, "base").itertuples(index=False)
    each = [75, 75, 75, 50] - np.array(
        [100 * np.mean(np.equal(*(b["validation"][k] for k in ("label", "predicted")))) for b in base]
    )
    assert row.model == "m" and row.accuracy == pytest.approx(each.mean()) and row.low < row.accuracy < row.high


def test_the_rules_of_the_plan_are_told_by_a_function(monkeypatch: pytest.MonkeyPatch):
    """Above chance or not, the aim, the reason, the difference: by the plan's rules; nothing before all were tested."""
    monkeypatch.setattr(pretraining, "permutation_p", partial(permutation_p, draws=500))
    label = list(range(10)) * 10
    wrong = [(each + 1) % 10 for each in label]

    def told(**right: int) -> list[str]:
        records = []
        for model in MOTION["large_motion"].models:
            for place, person in enumerate("abcdefgh"):
                count = right.get(model, 0) + place % 2
                record = answers(person, place, label, label[:count] + wrong[count:], 10)
                record["corpus"]["actors"] = 8
                records.append(record | {"experiment": {"model": model, "seed": place}})
        assert motion_answer(records[:-1]) == []
        return motion_answer(records)

    level, others, reason, deformation, beside = told(pretrained_plain=17, probe_plain=25, scratch_plain=7)
    assert "pretrained_plain: 17.5 % right" in level and "interval over 8 people 17.1 to 17.9" in level
    assert "above chance, 10 %, and the aim of 16 % is reached" in level
    assert others.endswith("by p below 0.0125: probe_plain.") and "+10.0 points" in reason and "is shown" in reason
    assert "-17.0 points (-17.0 to -17.0): a difference" in deformation
    assert "worded when the levels were known" in beside and "from scratch, scratch_plain 7.5 % (7.1 to 7.9)" in beside
    assert "by p below 0.05 / 6: pretrained_plain, probe_plain; scratch_deformable less scratch_plain -7.0" in beside
    level, others, reason, deformation, beside = told(pretrained_plain=9, pretrained_deformable=9, scratch_plain=9)
    assert "not shown to be above chance, 10 %" in level and "aim" not in level and others.endswith("none.")
    assert "is not shown" in reason and "no difference shown" in deformation
    level, *_ = told(pretrained_plain=13)
    assert "13.5 %" in level and "and the aim of 16 % is not reached" in level
    assert motion_answer([]) == []

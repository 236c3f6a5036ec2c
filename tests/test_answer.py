"""The answer of the large study: whatever records there are, the sentence keeps to the plan."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from factories import make_large
from matplotlib.figure import Figure
from scipy import stats

from deformlib.paper import answer as paper
from deformlib.paper.answer import Answer, all_large, answer_sentence, cause_sentence, find_large, read_answer
from deformlib.paper.powered import MARGIN, tost
from deformlib.records import write_record

MANY = {  # clips of 1,360 that deformable has more right, a seed each
    "better": (40, 50, 45, 60, 44, 52, 41, 48, 47, 55),
    "worse": (-40, -50, -45, -60, -44, -52, -41, -48, -47, -55),
    "equivalent": (3, -5, 8, 2, -7, 4, -2, 1, 6, -3),
    "undecided": (0, 40, 2, 38, 1, 39, 3, 37, 20, 20),
}


def runs(gains: tuple[int, ...], first: int = 0) -> list[dict]:
    """Plain and deformable of as many seeds; plain has 950 to 970 clips right."""
    return [
        make_large(model, seed, 950 + 10 * (seed % 3) + gain * (model == "deformable"))
        for seed, gain in enumerate(gains, start=first)
        for model in ("plain", "deformable")
    ]


def controls(**rights: int) -> list[dict]:
    """Controls of seeds 0 to 4, with so many more clips right than plain."""
    return [make_large(model, n, 950 + 10 * (n % 3) + more) for model, more in rights.items() for n in range(5)]


def twice(*changes: int) -> list[dict]:
    """Deformable runs that have so many more clips right without their offsets, a seed each."""
    records = [make_large("deformable", seed, 950) for seed in range(len(changes))]
    for record, change in zip(records, changes, strict=True):
        record["history"][-1]["accuracy_without_offsets"] = (950 + change) / 1360
    return records


@pytest.mark.parametrize("verdict", ["better", "worse", "equivalent"])
def test_all_runs_decide(verdict: str):
    answer = read_answer(runs(MANY[verdict]))
    assert answer.decided and answer.seeds == 10 and answer.found.verdict == verdict
    sentence = answer_sentence(answer, {"large_warps": twice(-200, -210, -190, -200, -205)})
    assert sentence.startswith(f"{verdict.capitalize()}: on people that neither network has met (by_actor), the deform")
    assert "over 10 seeds" in sentence
    assert answer.pairs.tolist() == pytest.approx([100 * gain / 1360 for gain in MANY[verdict]])


@pytest.mark.parametrize("verdict", ["better", "worse", "equivalent"])
def test_equivalent_is_never_said_without_its_control(verdict: str):
    """Not run, run in part, not passed, passed; the other verdicts need none."""
    answer, doubts = read_answer(runs(MANY[verdict])), {(): "run", (-200,) * 4: "run", (-9, -10, -8, -9, -10): "passed"}
    for changes, word in doubts.items():
        sentence = answer_sentence(answer, {"large_warps": twice(*changes)})
        assert (
            f"Equivalent by the interval, while the control that PLAN-3 asks for is not {word}: on" in sentence
        ) == (verdict == "equivalent")
    assert "control" not in answer_sentence(answer, {"large_warps": twice(*[-200, -210, -190, -200, -205])})


@pytest.mark.parametrize("verdict", ["undecided", "equivalent"])
def test_without_a_difference_is_said_what_would_have_been_found(verdict: str):
    """Ten seeds with half an interval of under two points are all that the plan asks for."""
    answer = read_answer(runs(MANY[verdict]))
    assert answer.decided and answer.found.verdict == verdict and answer.found.half95 < 2
    assert f"{paper.detectable(answer.found):.1f} points would have been found" in paper.margin_sentence(answer)


def test_how_far_taps_moved_is_said():
    """Means over seeds, layer by layer; plain networks have none."""
    records = runs(MANY["equivalent"])
    records[1]["history"][-1]["offsets"] = [1.5, 0.25, 0.125]  # deformable, seed 0: 0.1 more on average
    said = paper.dose_sentence(read_answer(records), records)
    assert "by 0.60, 0.25 and 0.12 cells of a map of 8x8" in said
    plain = [record for record in records if record["experiment"]["model"] == "plain"]
    assert paper.dose_sentence(read_answer(records), plain) == ""


def test_what_would_be_found_is_found_four_times_in_five():
    found = tost(np.array(MANY["undecided"]) / 13.6)
    rng, true = np.random.default_rng(0), paper.detectable(found)
    shared = rng.normal(0, np.sqrt(0.2), (4000, 1))  # correlation 0.2: what the correction assumes
    draws = shared + rng.normal(0, np.sqrt(0.8), (4000, 10))
    scale = found.error / np.sqrt(0.35) / np.sqrt(0.8)  # so that s is that of `found`
    means, spreads = true + scale * draws.mean(1), scale * draws.std(1, ddof=1)
    share = np.mean(means > stats.t.ppf(0.975, 9) * spreads * np.sqrt(0.35))
    assert share == pytest.approx(0.8, abs=0.03)


def test_some_runs_decide_nothing_and_name_what_is_missing():
    """Nine seeds and a plain one: the sentence begins with that, and margins and causes wait."""
    records = [record for record in runs(MANY["better"]) if record["name"] != "large-deformable-by_actor-9"]
    answer = read_answer(records)
    assert not answer.decided and answer.missing == (("deformable", 9),) and len(answer.pairs) == 9
    sentence = answer_sentence(answer, {})
    assert sentence.startswith("Not decided yet: 9 of 10 pairs") and "missing seeds: deformable 9)" in sentence
    assert "deciding nothing: better: on people that neither" in sentence and "over 9 seeds" in sentence
    assert paper.margin_sentence(answer) == "" and "nothing is said" in cause_sentence(answer, {"large": records})


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_runs_have_no_interval(count: int):
    """No run, one run, one pair."""
    records = runs((5,))[:count]
    answer = read_answer(records)
    assert answer.row is None and answer_sentence(answer, {}).startswith(f"Not run yet: {count // 2} of 10 pairs")
    assert len(answer.missing) == 20 - count and paper.margin_table(answer).empty
    assert len(paper.network_table(answer, records)) == (2 if count == 2 else 0)
    paper.draw_answer(answer, Figure().subplots(1, 2))


def test_seeds_are_told_as_ranges():
    missing = [("deformable", 2), ("plain", 3), ("plain", 0), ("plain", 4), ("plain", 5)]
    assert paper.missing_text(missing) == "plain 0, 3 to 5; deformable 2" and paper.missing_text([]) == "none"


def test_a_wide_interval_asks_for_ten_more_seeds_and_a_narrow_one_for_none():
    wide = tuple(5 * gain for gain in MANY["equivalent"])
    assert tost(np.array(wide) / 13.6).half95 > 2
    answer = read_answer(runs(wide))
    assert answer.seeds == 20 and not answer.decided and "wider than the plan allows" in answer_sentence(answer, {})
    assert paper.missing_text(answer.missing) == "plain 10 to 19; deformable 10 to 19"
    second = read_answer(runs(wide + wide))
    assert second.decided and second.found.seeds == 20  # no third look, however wide
    narrow = runs(MANY["better"] + MANY["worse"])
    answer = read_answer(narrow)
    assert answer.decided and answer.found.seeds == 10 and answer.found.verdict == "better"
    assert paper.network_table(answer, narrow)["seeds"].tolist() == [10, 10]


def test_a_gain_is_not_put_down_to_deformation_before_the_controls():
    records = runs(MANY["better"])
    answer = read_answer(records)
    assert "not run yet" in cause_sentence(answer, {"large": records})
    records += controls(frozen_offsets=2)
    assert "not run yet" in cause_sentence(answer, {"large": records})  # both are asked for
    gained, as_much = ({"large": records + controls(matched_plain=more)} for more in (3, 48))
    assert cause_sentence(answer, gained).startswith("The controls do not gain as much")
    assert "not put down to deformation" in cause_sentence(answer, as_much)


@pytest.mark.parametrize("verdict", ["equivalent", "worse"])
def test_without_a_gain_the_study_must_show_that_it_can_see(verdict: str):
    """By one network with its offsets and without; another training, however bad, shows nothing."""
    records = runs(MANY[verdict])
    answer = read_answer(records)
    anew = {"large": records + controls(offsets_zeroed_at_test=-200)}
    assert "whether the study can see" in cause_sentence(answer, anew)
    told = {many: cause_sentence(answer, anew | {"large_warps": twice(*many)}) for many in SEEN}
    assert {many: said.partition(":")[0] for many, said in told.items()} == SEEN
    assert (
        "is not shown: the mean is" in told[-35, -45, -25, -35, -40] and "is not shown." in told[-9, -10, -8, -9, -10]
    )
    assert (
        "not surely more than 2.42 lost" in told[-20, 20, 0, -10, 10] and "4 of 5 seeds" in told[-200, -210, -190, -200]
    )


SEEN = {  # clips of 1,360 more right without offsets, a seed each -> how the sentence begins
    (-200, -210, -190, -200, -205): "The study can see an effect of offsets",
    (-35, -45, -25, -35, -40): "The trained networks use their offsets",
    (-9, -10, -8, -9, -10): "The trained networks use their offsets",
    (-20, 20, 0, -10, 10): "That the study can see an effect of offsets is not shown",
    (-200, -210, -190, -200): "Whether the study can see an effect of offsets at all is open",
}


def test_what_offsets_are_worth_is_asked_of_one_network():
    """Runs that end without the number, and plain ones, are left out; a fifth of the clips tests."""
    lost = paper.without_offsets([*twice(-27, -54, -41), make_large("deformable", 9, 900), make_large("plain", 0, 950)])
    assert lost.seeds == 3 and lost.mean == pytest.approx(-100 * 122 / 3 / 1360)
    assert lost.error == pytest.approx(100 / 1360 * np.std([-27, -54, -41], ddof=1) * np.sqrt(1 / 3 + 1 / 4))
    assert paper.without_offsets(twice(-27)) is None and paper.without_offsets([]) is None


def test_a_run_is_compared_with_its_repetition():
    """By name; a run that was made once tells nothing."""
    again = [make_large("plain", 0, 964), make_large("deformable", 0, 950), make_large("plain", 12, 950)]
    found = paper.repeats({"large": runs((0,)), "large_warps": again})
    assert found.to_dict() == pytest.approx(
        {"large-plain-by_actor-0": 100 * 14 / 1360, "large-deformable-by_actor-0": 0}
    )
    assert paper.repeats({"large": again}).empty and paper.repeats({}).empty


@pytest.mark.parametrize("verdict", MANY)
def test_how_the_choice_of_the_recipe_leans_is_said_with_every_verdict(verdict: str):
    told = paper.choice_sentence(read_answer(runs(MANY[verdict])))
    assert told.startswith("The recipe was chosen with plain networks only")
    assert ("equivalent easier" in told) == (verdict == "equivalent")
    assert paper.choice_sentence(read_answer(runs(MANY[verdict][:9]))) == ""


def test_commits_are_counted():
    records = runs(MANY["equivalent"])
    records[0]["commit"] = "a" * 40
    (told,) = paper.deviations(records, "nowhere")
    assert told.startswith("runs of different commits: ") and "aaaaaaaa (1)" in told and "(19)" in told


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ((3.6, 3.7, 3.5, 3.6), "gain is larger than the paper's 2.42"),
        ((0.6, 0.7, 0.5, 0.6), "gain is smaller than the paper's 2.42"),
        ((2.4, 2.3, 2.6, 2.4), "gain may or may not reach the paper's 2.42"),
        ((-3.6, -3.7, -3.5, -3.6), "loss is larger than the paper's 2.42"),
        ((0.1, -0.1, 0.0, 0.0), "is rejected at 5 %"),
    ],
)
def test_the_margin_is_the_papers(pairs: tuple[float, ...], words: str):
    """Against points, and against the share of errors: 0.669 of 10 % are 6.7 points."""
    found = tost(pairs)
    row = pd.Series({"share margin": 6.69})
    said = paper.margin_sentence(Answer(4, pd.Series(pairs), (), row, found))
    assert words in said and "6.7 points here; a difference of that size or more is rejected at 5 %" in said
    row["share margin"] = max(pairs)
    assert (
        "not rejected at 5 %" in paper.margin_sentence(Answer(4, pd.Series(pairs), (), row, found)) or max(pairs) == 0.1
    )


def test_both_one_sided_tests_stand_in_the_table():
    """The larger p is that of equivalence; both margins have a line."""
    answer = read_answer(runs(MANY["equivalent"]))
    table = paper.margin_table(answer)
    assert table[["p (-margin or less)", "p (margin or more)"]].max(axis=1)[0] == pytest.approx(
        answer.found.p_equivalence
    )
    low, high = paper.one_sided(tost([1, 2, 3]), 4.0)
    assert low < high == pytest.approx(tost([1, 2, 3], 4.0).p_equivalence)
    assert table["margin, points"].tolist() == [f"{MARGIN:.2f}", f"{answer.row['share margin']:.2f}"]
    network = paper.network_table(answer, runs(MANY["equivalent"]))
    assert network["test clips a seed"].tolist() == ["1360", "1360"]


def test_controls_are_compared_with_both_in_pairs():
    """The same seeds of both; 14 of 1,360 clips are 1.03 points."""
    records = runs(MANY["equivalent"]) + controls(matched_plain=14)
    table = paper.comparison_table(records, ("plain", "deformable", "matched_plain", "modulated")).set_index("network")
    assert len(table) == 3 and table.loc["plain, as many parameters", "seeds"] == 5
    assert table.loc["plain, as many parameters", "minus plain, points"].startswith("+1.03 (")
    mean = np.mean([14 - gain for gain in MANY["equivalent"][:5]]) / 13.6
    assert table.loc["plain, as many parameters", "minus deformable, points"].startswith(f"{mean:+.2f} (")
    splits = [make_large(model, seed, 1200, "by_copy") for model in ("plain", "deformable") for seed in range(2)]
    rows = paper.split_rows(records + splits, ("by_clip", "by_copy", "by_actor"))
    assert rows["split"].tolist() == ["by_copy", "by_actor"] and rows["verdict"].tolist() == ["equivalent"] * 2


DAMAGE = {
    "another corpus": {"corpus": {"videos": 6799}},
    "training settings": {"settings": {"training": {"lr": 0.1}}},
    "other than 80 actors": {"split": {"held_out": ["a001"]}},
    "copies of test clips": {"split": {"copies_in_training": [0, 3]}},
    "not finite": {"history": [{"epoch": 1, "loss": float("inf")}]},
    "changed, uncommitted": {"commit": "0123+changes"},
    "not tested on the same clips": {"validation": {"clip": ["other.avi"] * 1360}},
}


@pytest.mark.parametrize("words", DAMAGE)
def test_a_deviation_from_the_plan_is_named(words: str, tmp_path: Path):
    records = runs(MANY["equivalent"])
    assert paper.deviations(records, tmp_path) == []
    for name, value in DAMAGE[words].items():
        records[3][name] = {**records[3][name], **value} if isinstance(value, dict) else value
    (said,) = paper.deviations(records, tmp_path)
    assert words in said


def test_other_seeds_and_words_by_hand_are_deviations_too(tmp_path: Path):
    records = runs(MANY["better"] + MANY["worse"][:1]) + [make_large("modulated", 5, 950)]
    assert paper.deviations(records, tmp_path)[0].startswith("2 runs of seeds that the plan does not ask for")
    assert paper.deviations(records, tmp_path)[1].startswith("1 runs of controls beyond")
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "DEVIATIONS.md").write_text("# What differs\n\n- seed 3 was run twice\n")
    assert paper.deviations(records, tmp_path)[2] == "*By hand:* seed 3 was run twice"


def test_records_are_those_of_the_recipe_and_the_corpus(tmp_path: Path):
    """Of the study's folder and those beside it, each run once; a folder of another corpus is left out."""
    assert all_large(find_large(tmp_path)) == []
    other = make_large("plain", 0, 900)
    strange = make_large("plain", 0, 9, "by_clip")
    strange["corpus"]["key"] = "motion"
    places = {"large": runs((5,)), "large_splits": [make_large("plain", 0, 9, "by_copy")], "large_warps": [other]}
    for name, records in (places | {"large_motion": [strange]}).items():
        (tmp_path / name).mkdir()
        for record in records:
            write_record(tmp_path / name / f"{record['name']}.json", record)
    found = find_large(tmp_path)
    assert set(found) == {"large", "large_splits", "large_warps", "large_motion"}
    names = [record["name"] for record in all_large(found)]
    assert len(names) == 3 and names.count("large-plain-by_actor-0") == 1
    assert all_large(found)[1]["accuracy"] == 950 / 1360  # the study's own, not that of large_warps


def test_the_picture_shows_the_pairs_and_both_margins():
    answer = read_answer(runs(MANY["better"]))
    left, right = Figure().subplots(1, 2)
    paper.draw_answer(answer, (left, right))
    assert left.lines[1].get_xdata().tolist() == pytest.approx(answer.pairs.tolist())
    assert [patch.get_width() / 2 for patch in right.patches] == pytest.approx([answer.row["share margin"], MARGIN])
    said = paper.describe_figure(answer)
    assert "0: +2.94" in said and f"{answer.found.mean:+.2f}" in said and "none" not in said

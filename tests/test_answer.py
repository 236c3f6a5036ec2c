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


@pytest.mark.parametrize("verdict", ["better", "worse", "equivalent"])
def test_all_runs_decide(verdict: str):
    answer = read_answer(runs(MANY[verdict]))
    assert answer.decided and answer.seeds == 10 and answer.found.verdict == verdict
    sentence = answer_sentence(answer)
    assert sentence.startswith(f"{verdict.capitalize()}: on people that neither network has met (by_actor), the deform")
    assert "over 10 seeds" in sentence
    assert answer.pairs.tolist() == pytest.approx([100 * gain / 1360 for gain in MANY[verdict]])


def test_an_undecided_answer_says_what_would_have_been_found():
    """Ten seeds with half an interval of under two points are all that the plan asks for."""
    answer = read_answer(runs(MANY["undecided"]))
    assert answer.decided and answer.found.verdict == "undecided" and 1.2 < answer.found.half95 < 2
    assert f"{paper.detectable(answer.found):.1f} points would have been found" in paper.margin_sentence(answer)


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
    sentence = answer_sentence(answer)
    assert sentence.startswith("Not decided yet: 9 of 10 pairs") and "missing seeds: deformable 9)" in sentence
    assert "deciding nothing: better: on people that neither" in sentence and "over 9 seeds" in sentence
    assert paper.margin_sentence(answer) == "" and "nothing is said" in cause_sentence(answer, records)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_runs_have_no_interval(count: int):
    """No run, one run, one pair."""
    records = runs((5,))[:count]
    answer = read_answer(records)
    assert answer.row is None and answer_sentence(answer).startswith(f"Not run yet: {count // 2} of 10 pairs")
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
    assert answer.seeds == 20 and not answer.decided and "wider than the plan allows" in answer_sentence(answer)
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
    assert "not run yet" in cause_sentence(answer, records)
    records += controls(frozen_offsets=2)
    assert "not run yet" in cause_sentence(answer, records)  # both are asked for
    assert cause_sentence(answer, records + controls(matched_plain=3)).startswith("The controls do not gain as much")
    assert "not put down to deformation" in cause_sentence(answer, records + controls(matched_plain=48))


@pytest.mark.parametrize("verdict", ["equivalent", "worse"])
def test_without_a_gain_the_study_must_show_that_it_can_see(verdict: str):
    records = runs(MANY[verdict])
    answer = read_answer(records)
    assert "whether the study can see" in cause_sentence(answer, records)
    seen = cause_sentence(answer, records + controls(offsets_zeroed_at_test=-200))
    blind = cause_sentence(answer, records + controls(offsets_zeroed_at_test=MANY[verdict][0] - 20))
    assert seen.startswith("The study can see an effect of offsets") and "is not shown" in blind
    some = cause_sentence(answer, records + controls(offsets_zeroed_at_test=-200)[:4])
    assert "is open: 4 of 5 seeds" in some and "deciding nothing" in some


def test_a_loss_that_may_be_small_is_told_as_a_loss():
    """Zeroed at a cost of 2 to 3 points: 0 is left out, 2.42 is not; a cost of about nothing is no loss."""
    records = runs(MANY["equivalent"])
    answer = read_answer(records)
    lost = [make_large("offsets_zeroed_at_test", n, 950 + 10 * (n % 3) - 35) for n in range(5)]
    told = cause_sentence(answer, records + lost)
    assert told.startswith("The trained networks use their offsets: ") and "is not shown: the mean is" in told
    none = cause_sentence(answer, records + controls(offsets_zeroed_at_test=0))
    assert "not surely more than 2.42 lost" in none and "trained anew" not in none


def test_networks_that_were_trained_anew_are_told():
    """The last loss of one zeroed network differs from that of its deformable one by little."""
    records = runs(MANY["equivalent"]) + controls(offsets_zeroed_at_test=0)
    assert not paper.trained_anew(records, "offsets_zeroed_at_test", "deformable")
    last = records[-1]["history"][-1]
    records[-1]["history"] = [last | {"loss": last.get("loss", 0.0) + 1e-9}]
    assert paper.trained_anew(records, "offsets_zeroed_at_test", "deformable")
    assert "trained anew" in cause_sentence(read_answer(records), records)


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
